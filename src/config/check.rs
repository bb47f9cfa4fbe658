//! What each key takes, and the ranges that the types can't say.

use std::error::Error;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

use super::Config;
use crate::http::is_base_url;
use crate::http::options::TlsChoice;
use crate::model::limits::BLOCK_BYTES_MAX;
use crate::net::address;
use crate::routing::is_endpoint;
use crate::telemetry;

/// Keys whose values are never shown.
pub(super) const SECRET_KEYS: &[&str] = &["auth.admin_password"];

/// A buffer below this can't hold a largest block while the next one comes.
const BUFFER_BYTES_MIN: u64 = 2 * BLOCK_BYTES_MAX as u64;

/// redb needs some pages in memory at least.
const CACHE_BYTES_MIN: u64 = 1024 * 1024;

/// A verification that reads less in a second would not end in any useful time.
const RATE_BYTES_MIN: u64 = 64 * 1024;

/// Below this the process would never take anybody.
const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// The longest duration: far beyond any use, and far from where adding it to a time could overflow.
const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// The longest life of a token, in days: a hundred years.
const TOKEN_DAYS_MAX: u32 = 36_500;

/// Pins that can be fetched at once; each holds a walk and a session.
const ACTIVE_MAX: usize = 4096;

/// Entries of `http.trusted_proxies`, each of which is compared with the address of each connection and request.
const PROXIES_MAX: usize = 64;

/// Entries of `http.acme_domains`: authorities take more in one certificate, but prove each at a time.
const DOMAINS_MAX: usize = 20;

/// Entries of `network.listen` and of `network.external`.
const ADDRESSES_MAX: usize = 20;

/// Entries of `network.peering`.
const PEERING_MAX: usize = 100;

/// Entries of `denylist.files`, each of which is looked at every few seconds.
const DENYLISTS_MAX: usize = 64;

/// The most routers.
const ROUTERS_MAX: usize = 16;

/// The intervals in which everything can be provided: servers keep records for 48 h.
const PROVIDE_INTERVALS: RangeInclusive<Duration> = Duration::from_mins(10)..=Duration::from_hours(40);

const DURATION: &str = "a duration of more than 0 and at most ten years, such as \"90s\", \"30m\" or \"24h\"";
const CACHE: &str = "a size of at least 1MiB, such as \"64MiB\"";
const BUFFER: &str = "a size of at least 4MiB, such as \"64MiB\"";
const BANDWIDTH: &str = "a size of at least 64KiB, such as \"4MiB\" for so much a second, or \"0B\" for no bound";
const DAYS: &str = "a whole number of days from 1 to 36500";
const TEXT: &str = "text in quotes";

/// Every key with what it takes.
pub(super) const EXPECTATIONS: &[(&str, &str)] = &[
    ("data", "a path in quotes"),
    ("http.listen", "an IP address and a port, such as \"127.0.0.1:4080\""),
    ("http.gateway", "true or false"),
    ("http.websocket", "true or false"),
    ("http.trusted_proxies", "at most 64 IP addresses or networks, such as \"127.0.0.1\" or \"10.0.0.0/8\""),
    ("http.public_url", "a URL such as \"https://pins.example.org\", or \"\" for none"),
    ("http.tls", "\"off\", \"files\" or \"acme\""),
    ("http.tls_certificate", "a path in quotes, which http.tls = \"files\" needs and nothing else takes"),
    ("http.tls_key", "a path in quotes, which http.tls = \"files\" needs and nothing else takes"),
    (
        "http.acme_domains",
        "1 to 20 domains such as \"pins.example.org\", which http.tls = \"acme\" needs and nothing else takes",
    ),
    ("http.acme_contact", "an e-mail address in quotes, or \"\" for none"),
    ("http.acme_directory", "a URL that begins with https://"),
    ("metrics.listen", "an IP address and a port, such as \"127.0.0.1:9419\", or \"\" for none"),
    (
        "network.listen",
        "1 to 20 multiaddrs of the form \"/ip4/ADDRESS/tcp/PORT\" or \"/ip4/ADDRESS/udp/PORT/quic-v1\", or with /ip6",
    ),
    (
        "network.external",
        "at most 20 multiaddrs that others can dial, such as \"/ip4/ADDRESS/tcp/4001\" or \"/dns4/NAME/udp/4001/quic-v1\"",
    ),
    ("network.profile", "\"auto\", \"public\" or \"lan\""),
    ("network.dht", "\"auto\", \"on\" or \"off\""),
    (
        "network.bootstrap",
        "at most 20 multiaddrs that end in a peer's id, such as \"/dnsaddr/bootstrap.libp2p.io/p2p/PEER-ID\"",
    ),
    (
        "network.peering",
        "at most 100 multiaddrs that end in a peer's id, such as \"/dns4/peer.example.org/tcp/4001/p2p/PEER-ID\"",
    ),
    ("network.upnp", "true or false"),
    ("network.relays", "true or false"),
    ("network.upload_max", BANDWIDTH),
    ("network.download_max", BANDWIDTH),
    ("network.memory_max", "a size of at least 16MiB, such as \"1GiB\", or \"0B\" for no bound"),
    ("network.connections_max", "a whole number from 1 to 4294967295"),
    ("network.quiet_connections_max", "a whole number from 0 to 4294967295"),
    ("store.blocks_cache", CACHE),
    ("store.records_cache", CACHE),
    ("store.write_buffer", BUFFER),
    ("store.max_bytes", "a size such as \"200GiB\", or \"0B\" for no bound"),
    ("store.min_free_bytes", "a size such as \"512MiB\", or \"0B\" for none"),
    ("store.gc_interval", "a duration such as \"24h\", or \"0s\" for never"),
    ("store.verify_interval", "a duration of at most ten years such as \"720h\", or \"0s\" for never"),
    ("store.verify_rate", "a size of at least 64KiB, such as \"16MiB\""),
    ("pins.active_max", "a whole number from 1 to 4096"),
    ("pins.stall_timeout", DURATION),
    ("pins.retry_min", DURATION),
    ("pins.retry_max", DURATION),
    ("pins.give_up_after", DURATION),
    ("pins.turn", DURATION),
    ("pins.lifetime", "a duration of at most ten years such as \"720h\", or \"0s\" for ever"),
    ("pins.blocks_max", "a whole number of at least 1"),
    ("pins.bytes_max", "a size such as \"1TiB\", or \"0B\" for no bound"),
    ("pins.depth_max", "a whole number from 1 to 4294967295"),
    ("fetch.bytes_in_flight_max", BUFFER),
    ("fetch.gateways", "true or false"),
    (
        "routing.endpoints",
        "a list of at most 16 URLs of routers, each the part before /routing/v1, such as [\"https://delegated-ipfs.dev\"], or \"auto\"",
    ),
    ("provide.strategy", "\"all\", \"entities\", \"roots\" or \"off\""),
    ("provide.interval", "a duration from \"10m\" to \"40h\", such as \"22h\""),
    ("denylist.files", "at most 64 paths in quotes, such as [\"/etc/pinnace/badbits.deny\"]"),
    ("auth.admin_email", TEXT),
    ("auth.admin_password", TEXT),
    ("auth.admin_file", "a path in quotes"),
    ("auth.access_token_days", DAYS),
    ("auth.refresh_token_days", DAYS),
    ("auth.registration", "\"closed\" or \"open\""),
    ("auth.quota_bytes", "a size such as \"100GiB\", or \"0B\" for no bound"),
    ("auth.quota_pins", "a whole number, or 0 for no bound"),
    ("auth.requests_per_second", "a whole number, or 0 for no bound"),
    ("log.filter", "a level (error, warn, info, debug, trace) or levels for modules, such as \"pinnace=debug,warn\""),
    ("log.format", "\"text\" or \"json\""),
];

/// What a key takes.
pub(super) fn expectation(key: &str) -> Option<&'static str> {
    EXPECTATIONS.iter().find(|(known, _)| *known == key).map(|(_, expected)| *expected)
}

/// A value that the types allow and the service can't use.
pub(super) struct Problem {
    /// Its key.
    pub(super) key: &'static str,
    /// What the key takes.
    pub(super) expected: String,
}

/// The first value that can't be used.
pub(super) fn problem(config: &Config) -> Option<Problem> {
    let Config { http, network, store, pins, fetch, routing, provide, denylist, auth, log, .. } = config;
    let size = |size: ByteSize, min: u64| size.as_u64() >= min && usize::try_from(size.as_u64()).is_ok();
    let bandwidth = |rate: ByteSize| rate.as_u64() == 0 || rate.as_u64() >= RATE_BYTES_MIN;
    let duration = |duration: Duration| !duration.is_zero() && duration <= DURATION_MAX;
    let days = |days: u32| (1..=TOKEN_DAYS_MAX).contains(&days);
    let checks = [
        ("http.public_url", http.public_url.is_empty() || is_base_url(&http.public_url)),
        ("http.tls_certificate", http.tls_certificate.as_os_str().is_empty() != (http.tls == TlsChoice::Files)),
        ("http.tls_key", http.tls_key.as_os_str().is_empty() != (http.tls == TlsChoice::Files)),
        (
            "http.acme_domains",
            http.acme_domains.is_empty() != (http.tls == TlsChoice::Acme)
                && http.acme_domains.len() <= DOMAINS_MAX
                && http.acme_domains.iter().all(|domain| is_domain(domain)),
        ),
        ("http.acme_contact", http.acme_contact.is_empty() || http.acme_contact.contains('@')),
        ("http.acme_directory", http.acme_directory.starts_with("https://") && is_base_url(&http.acme_directory)),
        ("http.trusted_proxies", http.trusted_proxies.len() <= PROXIES_MAX),
        (
            "network.listen",
            (1..=ADDRESSES_MAX).contains(&network.listen.len()) && network.listen.iter().all(address::can_listen),
        ),
        (
            "network.external",
            network.external.len() <= ADDRESSES_MAX && network.external.iter().all(address::names_a_host),
        ),
        (
            "network.bootstrap",
            network.bootstrap.len() <= ADDRESSES_MAX
                && network.bootstrap.iter().all(|address| address::peer(address).is_some()),
        ),
        (
            "network.peering",
            network.peering.len() <= PEERING_MAX
                && network.peering.iter().all(|address| address::peer(address).is_some()),
        ),
        ("network.upload_max", bandwidth(network.upload_max)),
        ("network.download_max", bandwidth(network.download_max)),
        ("network.memory_max", network.memory_max.as_u64() == 0 || network.memory_max.as_u64() >= MEMORY_BYTES_MIN),
        ("network.connections_max", network.connections_max >= 1),
        ("store.blocks_cache", size(store.blocks_cache, CACHE_BYTES_MIN)),
        ("store.records_cache", size(store.records_cache, CACHE_BYTES_MIN)),
        ("store.write_buffer", size(store.write_buffer, BUFFER_BYTES_MIN)),
        ("store.verify_interval", store.verify_interval <= DURATION_MAX),
        ("store.verify_rate", store.verify_rate.as_u64() >= RATE_BYTES_MIN),
        ("pins.active_max", (1..=ACTIVE_MAX).contains(&pins.active_max)),
        ("pins.stall_timeout", duration(pins.stall_timeout)),
        ("pins.retry_min", duration(pins.retry_min)),
        ("pins.retry_max", duration(pins.retry_max)),
        ("pins.give_up_after", duration(pins.give_up_after)),
        ("pins.turn", duration(pins.turn)),
        ("pins.lifetime", pins.lifetime <= DURATION_MAX),
        ("pins.blocks_max", pins.blocks_max >= 1),
        ("pins.depth_max", pins.depth_max >= 1),
        ("fetch.bytes_in_flight_max", size(fetch.bytes_in_flight_max, BUFFER_BYTES_MIN)),
        (
            "routing.endpoints",
            routing.endpoints.len() <= ROUTERS_MAX && routing.endpoints.iter().all(|url| is_endpoint(url)),
        ),
        ("provide.interval", PROVIDE_INTERVALS.contains(&provide.interval)),
        ("denylist.files", denylist.files.len() <= DENYLISTS_MAX),
        ("auth.access_token_days", days(auth.access_token_days)),
        ("auth.refresh_token_days", days(auth.refresh_token_days)),
    ];
    if let Some((key, _)) = checks.into_iter().find(|(_, usable)| !usable) {
        return Some(Problem { key, expected: expectation(key).unwrap_or_default().to_owned() });
    }
    if pins.retry_min > pins.retry_max {
        let expected = format!("a duration no longer than pins.retry_max, which is {}", seconds(pins.retry_max));
        return Some(Problem { key: "pins.retry_min", expected });
    }
    let error = telemetry::check_filter(&log.filter).err()?;
    let reason = error.source().map(|reason| format!(" ({reason})")).unwrap_or_default();
    Some(Problem { key: "log.filter", expected: format!("{}{reason}", expectation("log.filter").unwrap_or_default()) })
}

/// Whether this is a name that a certificate from an authority can be for: wildcards need another proof than we give.
fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<std::net::IpAddr>().is_err()
}

fn seconds(duration: Duration) -> String {
    format!("\"{}s\"", duration.as_secs_f64())
}
