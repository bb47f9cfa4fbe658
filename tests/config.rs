//! The configuration from outside: each layer, which one wins, and what is said when a key or a value is wrong.

// Clippy allows these in test functions only, not in what they share.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use pinnace::auth::Registration;
use pinnace::config::{Config, ConfigError, DEFAULTS, Flags, Sources};
use pinnace::http::options::TlsChoice;
use pinnace::net::options::ProfileChoice;
use pinnace::telemetry::Format;

/// A configuration file that lives as long as the test.
struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pinnace.toml");
    std::fs::write(&path, text).unwrap();
    File { _directory: directory, path }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn load(file: Option<&Path>, variables: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    Config::load(&Sources { file: file.map(Path::to_owned), environment: environment(variables), flags })
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    load(Some(&file(text).path), &[], Flags::default())
}

fn from_variables(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(None, variables, Flags::default())
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_complete() {
    let config = from_variables(&[]).unwrap();
    assert_eq!(config.data, None);
    assert_eq!(config.http.listen, "127.0.0.1:4080".parse().unwrap());
    assert!(config.http.gateway);
    assert!(config.http.websocket);
    assert!(config.http.trusted_proxies.is_empty());
    assert_eq!(config.http.tls, TlsChoice::Off);
    assert_eq!(config.http.acme_directory, "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(
        texts(&config.network.listen),
        ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1"]
    );
    assert!(config.network.external.is_empty());
    assert_eq!(config.network.profile, ProfileChoice::Auto);
    assert_eq!(config.network.connections_max, 1024);
    assert_eq!(config.network.quiet_connections_max, 32);
    assert_eq!(config.store.blocks_cache, ByteSize::mib(64));
    assert_eq!(config.store.records_cache, ByteSize::mib(16));
    assert_eq!(config.store.write_buffer, ByteSize::mib(32));
    assert_eq!(config.store.verify_interval, Duration::from_hours(720));
    assert_eq!(config.store.verify_rate, ByteSize::mib(16));
    assert_eq!(config.pins.active_max, 16);
    assert_eq!(config.pins.stall_timeout, Duration::from_mins(1));
    assert_eq!(config.pins.retry_min, Duration::from_secs(10));
    assert_eq!(config.pins.retry_max, Duration::from_mins(30));
    assert_eq!(config.pins.give_up_after, Duration::from_hours(24));
    assert_eq!(config.pins.blocks_max, 100_000_000);
    assert_eq!(config.fetch.bytes_in_flight_max, ByteSize::mib(64));
    assert!(config.fetch.gateways);
    assert_eq!(config.auth.admin_email, "");
    assert_eq!(config.auth.admin_password, "");
    assert_eq!(config.auth.admin_file, Path::new(""));
    assert_eq!(config.auth.access_token_days, 365);
    assert_eq!(config.auth.refresh_token_days, 730);
    assert_eq!(config.auth.registration, Registration::Closed);
    assert_eq!((config.auth.quota_bytes, config.auth.quota_pins), (ByteSize::b(0), 0));
    assert_eq!(config.auth.requests_per_second, 2500);
    assert_eq!(config.log.filter, "info,libp2p_swarm=warn");
    assert_eq!(config.log.format, Format::Text);
}

#[test]
fn every_key_of_the_defaults_is_explained() {
    let lines = DEFAULTS.lines().collect::<Vec<_>>();
    let mut keys = 0;
    for (number, line) in lines.iter().enumerate() {
        let is_key = line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|character| character.is_ascii_lowercase() || character == '_')
        });
        if !is_key {
            continue;
        }
        keys += 1;
        let comment = lines[..number].iter().rev().take_while(|above| above.starts_with("# ")).count();
        assert!(comment > 0, "line {}: {line} has no comment above it", number + 1);
    }
    let shown = from_file("").unwrap().shown();
    assert_eq!(keys, shown.as_array().unwrap().len(), "a key is written in a way that this test doesn't see");
}

#[test]
fn tls_needs_its_certificate_or_its_domains() {
    for (text, expected) in [
        (
            "tls = \"files\"\ntls_key = \"k\"",
            "http.tls_certificate: found \"\", expected a path in quotes, which http.tls = \"files\" needs",
        ),
        (
            "tls = \"files\"\ntls_certificate = \"c\"",
            "http.tls_key: found \"\", expected a path in quotes, which http.tls = \"files\" needs",
        ),
        ("tls = \"acme\"", "http.acme_domains: found [], expected 1 to 20 domains"),
    ] {
        let error = from_file(&format!("[http]\n{text}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    from_file("[http]\ntls = \"files\"\ntls_certificate = \"c\"\ntls_key = \"k\"").unwrap();
    from_file("[http]\ntls = \"acme\"\nacme_domains = [\"pins.example.org\", \"xn--bcher-kva.example\"]").unwrap();
}

#[test]
fn the_defaults_are_a_valid_file() {
    assert!(from_file(DEFAULTS).is_ok());
}

#[test]
fn each_layer_overrides_the_one_below() {
    let file = file(
        "data = \"/from/file\"\n[http]\nlisten = \"127.0.0.1:1\"\n[log]\nfilter = \"warn\"\n[pins]\nactive_max = 3\n",
    );
    let variables = [("PINNACE_HTTP__LISTEN", "127.0.0.1:2"), ("PINNACE_DATA", "/from/variable"), ("HOME", "/home/x")];
    let flags = Flags { http: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
    let config = load(Some(&file.path), &variables, flags).unwrap();
    assert_eq!(config.http.listen.port(), 3, "the flag wins");
    assert_eq!(config.data.as_deref(), Some(Path::new("/from/variable")), "the variable beats the file");
    assert_eq!(config.log.filter, "warn", "the file beats the defaults");
    assert_eq!(config.pins.active_max, 3);
    assert_eq!(config.pins.retry_min, Duration::from_secs(10), "the rest of a section stays");
}

#[test]
fn a_variable_may_name_the_file_and_the_flag_beats_it() {
    let from_variable = file("pins.active_max = 3");
    let from_flag = file("pins.active_max = 4");
    let variables = [("PINNACE_CONFIG", from_variable.path.to_str().unwrap())];
    assert_eq!(from_variables(&variables).unwrap().pins.active_max, 3);
    assert_eq!(load(Some(&from_flag.path), &variables, Flags::default()).unwrap().pins.active_max, 4);
}

#[test]
fn the_gateway_and_websocket_can_be_turned_off() {
    assert!(!from_file("http.gateway = false").unwrap().http.gateway);
    assert!(!from_file("http.websocket = false").unwrap().http.websocket);
    assert!(!from_variables(&[("PINNACE_HTTP__GATEWAY", "false")]).unwrap().http.gateway);
    let error = from_variables(&[("PINNACE_HTTP__GATEWAY", "off")]).unwrap_err().to_string();
    assert!(error.starts_with("variable PINNACE_HTTP__GATEWAY: http.gateway: found \"off\", expected true"), "{error}");
}

#[test]
fn an_empty_variable_names_no_file() {
    assert_eq!(from_variables(&[("PINNACE_CONFIG", "")]).unwrap().pins.active_max, 16);
}

#[test]
fn flags_set_their_keys() {
    let flags = Flags {
        data: Some("/data".into()),
        http: Some("[::1]:0".to_owned()),
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned(), "/ip6/::1/udp/0/quic-v1".to_owned()],
        external: vec!["/dns4/pins.example.org/tcp/4001".to_owned()],
        lan: true,
        log_format: Some("json".to_owned()),
    };
    let config = load(None, &[("PINNACE_NETWORK__PROFILE", "public")], flags).unwrap();
    assert_eq!(config.data_directory().unwrap(), Path::new("/data"));
    assert_eq!(config.http.listen, "[::1]:0".parse().unwrap());
    assert_eq!(texts(&config.network.listen), ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/udp/0/quic-v1"]);
    assert_eq!(texts(&config.network.external), ["/dns4/pins.example.org/tcp/4001"]);
    assert_eq!(config.network.profile, ProfileChoice::Lan);
}

#[test]
fn variables_take_lists_in_both_forms() {
    for listen in [
        "/ip4/127.0.0.1/tcp/1,/ip6/::1/udp/2/quic-v1",
        " /ip4/127.0.0.1/tcp/1 , /ip6/::1/udp/2/quic-v1 , ",
        "[/ip4/127.0.0.1/tcp/1,/ip6/::1/udp/2/quic-v1]",
        "[\"/ip4/127.0.0.1/tcp/1\", \"/ip6/::1/udp/2/quic-v1\"]",
    ] {
        let config = from_variables(&[("PINNACE_NETWORK__LISTEN", listen)]).unwrap();
        assert_eq!(texts(&config.network.listen), ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/udp/2/quic-v1"], "{listen}");
    }
    let config = from_variables(&[("PINNACE_NETWORK__EXTERNAL", "")]).unwrap();
    assert!(config.network.external.is_empty());
}

#[test]
fn variables_keep_text_as_text() {
    let config = from_variables(&[
        ("PINNACE_AUTH__ADMIN_PASSWORD", "12345"),
        ("PINNACE_AUTH__ADMIN_EMAIL", "true"),
        ("PINNACE_DATA", "7"),
        ("PINNACE_STORE__BLOCKS_CACHE", "2MiB"),
        ("PINNACE_PINS__STALL_TIMEOUT", "1m 30s"),
        ("PINNACE_PINS__BLOCKS_MAX", "9"),
    ])
    .unwrap();
    assert_eq!(config.auth.admin_password, "12345");
    assert_eq!(config.auth.admin_email, "true");
    assert_eq!(config.data.as_deref(), Some(Path::new("7")));
    assert_eq!(config.store.blocks_cache, ByteSize::mib(2));
    assert_eq!(config.pins.stall_timeout, Duration::from_secs(90));
    assert_eq!(config.pins.blocks_max, 9);
}

#[test]
fn an_unknown_key_in_a_file_is_named_with_the_nearest() {
    for (text, key, nearest) in [
        ("[http]\nlisen = \"127.0.0.1:1\"", "http.lisen", "; did you mean http.listen?"),
        ("[pins]\nactive-max = 1", "pins.active-max", "; did you mean pins.active_max?"),
        ("filter = \"info\"", "filter", "; did you mean log.filter?"),
        ("[blockstore]\nsize = 1", "blockstore", ""),
        ("[http]\nlisten = { port = 1 }\nextra_thing = 1", "http.extra_thing", ""),
    ] {
        let file = file(text);
        let error = load(Some(&file.path), &[], Flags::default()).unwrap_err();
        let expected = format!("file {}: unknown key {key}{nearest}", file.path.display());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest() {
    for (name, expected) in [
        ("PINNACE_HTTP_LISTEN", "unknown key http_listen; did you mean PINNACE_HTTP__LISTEN?"),
        ("PINNACE_HTTP__LISTE", "unknown key http.liste; did you mean PINNACE_HTTP__LISTEN?"),
        ("PINNACE_COLOUR_OF_THE_SEA", "unknown key colour_of_the_sea"),
        ("PINNACE_HTTP", "unknown key http"),
    ] {
        let error = from_variables(&[(name, "1")]).unwrap_err();
        assert_eq!(error.to_string(), format!("variable {name}: {expected}"));
    }
}

#[test]
fn a_bad_value_in_a_file_says_what_was_expected() {
    for (text, key, found, expected) in [
        ("[http]\nlisten = \"here\"", "http.listen", "\"here\"", "an IP address and a port"),
        ("[http]\nlisten = 4080", "http.listen", "4080", "an IP address and a port"),
        ("http = 1", "http", "1", "a section [http]"),
        ("[http]\ngateway = \"yes\"", "http.gateway", "\"yes\"", "true or false"),
        ("[http]\ngateway = 0", "http.gateway", "0", "true or false"),
        ("[http]\ntrusted_proxies = [\"proxy\"]", "http.trusted_proxies", "[\"proxy\"]", "IP addresses or networks"),
        ("[http]\npublic_url = \"pins.example.org\"", "http.public_url", "\"pins.example.org\"", "a URL"),
        ("[http]\ntls = \"on\"", "http.tls", "\"on\"", "\"off\", \"files\" or \"acme\""),
        // Who names a certificate wants TLS.
        ("[http]\ntls_certificate = \"c\"", "http.tls_certificate", "\"c\"", "nothing else takes"),
        ("[http]\nacme_domains = [\"example.org\"]", "http.acme_domains", "[\"example.org\"]", "nothing else takes"),
        (
            "[http]\ntls = \"acme\"\nacme_domains = [\"*.a.org\"]",
            "http.acme_domains",
            "[\"*.a.org\"]",
            "1 to 20 domains",
        ),
        ("[http]\ntls = \"acme\"\nacme_domains = [\"192.0.2.1\"]", "http.acme_domains", "[\"192.0.2.1\"]", "domains"),
        ("[http]\nacme_contact = \"you\"", "http.acme_contact", "\"you\"", "an e-mail address"),
        ("[http]\nacme_directory = \"http://a\"", "http.acme_directory", "\"http://a\"", "https://"),
        ("[http]\nlisten = { }", "http.listen", "a section", "an IP address and a port"),
        ("data = 5", "data", "5", "a path"),
        ("[network]\nprofile = \"wan\"", "network.profile", "\"wan\"", "\"auto\", \"public\" or \"lan\""),
        ("[network]\nlisten = [\"x\"]", "network.listen", "[\"x\"]", "\"x\" is not a multiaddr"),
        ("[network]\nlisten = [5]", "network.listen", "[5]", "1 to 20 multiaddrs"),
        (
            "[network]\nlisten = \"/ip4/127.0.0.1/tcp/1\"",
            "network.listen",
            "\"/ip4/127.0.0.1/tcp/1\"",
            "1 to 20 multiaddrs",
        ),
        ("[network]\nlisten = []", "network.listen", "[]", "1 to 20 multiaddrs"),
        (
            "[network]\nlisten = [\"/dns4/a.org/tcp/1\"]",
            "network.listen",
            "[\"/dns4/a.org/tcp/1\"]",
            "1 to 20 multiaddrs",
        ),
        (
            "[network]\nexternal = [\"/ip4/0.0.0.0/tcp/1\"]",
            "network.external",
            "[\"/ip4/0.0.0.0/tcp/1\"]",
            "others can dial",
        ),
        ("[network]\nconnections_max = 0", "network.connections_max", "0", "from 1 to 4294967295"),
        ("[network]\nconnections_max = -1", "network.connections_max", "-1", "from 1 to 4294967295"),
        ("[network]\nquiet_connections_max = -1", "network.quiet_connections_max", "-1", "from 0 to 4294967295"),
        ("[store]\nblocks_cache = \"lots\"", "store.blocks_cache", "\"lots\"", "a size of at least 1MiB"),
        ("[store]\nrecords_cache = \"5KiB\"", "store.records_cache", "\"5KiB\"", "a size of at least 1MiB"),
        ("[store]\nwrite_buffer = \"4194303\"", "store.write_buffer", "\"4194303\"", "a size of at least 4MiB"),
        ("[store]\nverify_rate = \"1KiB\"", "store.verify_rate", "\"1KiB\"", "a size of at least 64KiB"),
        ("[store]\nverify_interval = \"87601h\"", "store.verify_interval", "\"87601h\"", "at most ten years"),
        ("[pins]\nactive_max = 0", "pins.active_max", "0", "from 1 to 4096"),
        ("[pins]\nactive_max = 4097", "pins.active_max", "4097", "from 1 to 4096"),
        ("[pins]\nactive_max = 1.5", "pins.active_max", "1.5", "from 1 to 4096"),
        ("[pins]\nactive_max = true", "pins.active_max", "true", "from 1 to 4096"),
        ("[pins]\nstall_timeout = \"0s\"", "pins.stall_timeout", "\"0s\"", "a duration of more than 0"),
        ("[pins]\nstall_timeout = \"soon\"", "pins.stall_timeout", "\"soon\"", "a duration of more than 0"),
        ("[pins]\nstall_timeout = 60", "pins.stall_timeout", "60", "a duration of more than 0"),
        ("[pins]\ngive_up_after = \"87601h\"", "pins.give_up_after", "\"87601h\"", "at most ten years"),
        ("[pins]\nturn = \"0s\"", "pins.turn", "\"0s\"", "a duration of more than 0"),
        ("[pins]\nlifetime = \"87601h\"", "pins.lifetime", "\"87601h\"", "at most ten years"),
        ("[pins]\nbytes_max = \"much\"", "pins.bytes_max", "\"much\"", "a size such as"),
        ("[pins]\ndepth_max = 0", "pins.depth_max", "0", "a whole number from 1"),
        ("[pins]\nretry_min = \"1h\"", "pins.retry_min", "\"1h\"", "no longer than pins.retry_max, which is \"1800s\""),
        ("[pins]\nretry_max = \"1s\"", "pins.retry_min", "\"10s\"", "no longer than pins.retry_max, which is \"1s\""),
        ("[pins]\nblocks_max = 0", "pins.blocks_max", "0", "at least 1"),
        ("[fetch]\nbytes_in_flight_max = \"1B\"", "fetch.bytes_in_flight_max", "\"1B\"", "at least 4MiB"),
        ("[auth]\naccess_token_days = 0", "auth.access_token_days", "0", "from 1 to 36500"),
        ("[auth]\nrefresh_token_days = 36501", "auth.refresh_token_days", "36501", "from 1 to 36500"),
        ("[log]\nfilter = \"pinnace=loud\"", "log.filter", "\"pinnace=loud\"", "a level"),
        ("[log]\nformat = \"xml\"", "log.format", "\"xml\"", "\"text\" or \"json\""),
    ] {
        let file = file(text);
        let error = load(Some(&file.path), &[], Flags::default()).unwrap_err().to_string();
        // The value that breaks a rule between two keys may be the default.
        let is_default = key == "pins.retry_min" && !text.contains("retry_min");
        let origin = if is_default { "the defaults".to_owned() } else { format!("file {}", file.path.display()) };
        assert!(error.starts_with(&format!("{origin}: {key}: found {found}, expected ")), "{text:?} gave: {error}");
        assert!(error.contains(expected), "{text:?} gave: {error}");
        assert!(!error.contains('\n'), "{text:?} gave: {error}");
    }
}

#[test]
fn bad_values_name_their_variable_or_flag() {
    let error = from_variables(&[("PINNACE_PINS__ACTIVE_MAX", "many")]).unwrap_err().to_string();
    assert!(
        error.starts_with("variable PINNACE_PINS__ACTIVE_MAX: pins.active_max: found \"many\", expected a whole"),
        "{error}"
    );
    let error = from_variables(&[("PINNACE_NETWORK__LISTEN", "/ip4/1.2.3.4/tcp/1,nowhere")]).unwrap_err().to_string();
    assert!(error.starts_with("variable PINNACE_NETWORK__LISTEN: network.listen: found ["), "{error}");
    assert!(error.contains("\"nowhere\" is not a multiaddr"), "{error}");

    let error = load(None, &[], Flags { http: Some("80".to_owned()), ..Flags::default() }).unwrap_err().to_string();
    assert!(error.starts_with("flag --http: http.listen: found \"80\", expected an IP address and a port"), "{error}");
    let error = load(None, &[], Flags { listen: vec!["tcp".to_owned()], ..Flags::default() }).unwrap_err().to_string();
    assert!(error.starts_with("flag --listen: network.listen: found [\"tcp\"], expected 1 to 20"), "{error}");
    let flags = Flags { external: vec!["/ip4/1.2.3.4/tcp/0".to_owned()], ..Flags::default() };
    let error = load(None, &[], flags).unwrap_err().to_string();
    assert!(
        error.starts_with("flag --external: network.external: found [\"/ip4/1.2.3.4/tcp/0\"], expected"),
        "{error}"
    );
}

#[test]
fn passwords_are_never_shown() {
    let error = from_file("[auth]\nadmin_password = 31415").unwrap_err().to_string();
    assert!(error.contains("auth.admin_password"), "{error}");
    assert!(!error.contains("31415"), "{error}");
    let config = from_file("[auth]\nadmin_password = \"31415\"").unwrap();
    assert!(!format!("{config:?}").contains("31415"));
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_place() {
    let file = file("[http]\nlisten = = 1\n");
    let error = load(Some(&file.path), &[], Flags::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 2, column: 10, .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.starts_with(&format!("file {}, line 2, column 10: ", file.path.display())), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/nonexistent/pinnace.toml");
    let error = load(Some(path), &[], Flags::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
    assert_eq!(error.to_string(), "cannot read the configuration file /nonexistent/pinnace.toml");
}

#[cfg(unix)]
#[test]
fn values_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(vec![0xff, 0xfe]);
    let sources = Sources { environment: vec![("PINNACE_DATA".into(), bytes.clone())], ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(error, "variable PINNACE_DATA: data: found other bytes, expected UTF-8 text");
    let sources = Sources { flags: Flags { data: Some(bytes.into()), ..Flags::default() }, ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.starts_with("flag --data: data: found "), "{error}");
}

#[test]
fn without_a_data_directory_the_platform_has_one() {
    let directory = from_variables(&[]).unwrap().data_directory().unwrap();
    assert!(directory.is_absolute() && directory.ends_with("pinnace"), "{directory:?}");
}
