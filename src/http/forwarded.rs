//! Where a request comes from that went through a reverse proxy. Pure.
//!
//! Only proxies that the operator trusts are believed: whatever anyone else writes into these headers is ignored.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses from the right of a header that are looked at: more than any chain of proxies has.
const HOPS_MAX: usize = 64;

/// An IP network, such as `10.0.0.0/8`; an address alone is the network of this one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    fn has(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| format!("{text:?} is no IP network"))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Whether one of the networks has the address.
pub(super) fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.has(address))
}

/// The address of the client whose request came over a connection from `peer`.
///
/// From a trusted proxy, that is the right-most address of `Forwarded` (RFC 7239) or `X-Forwarded-For` that isn't a
/// trusted proxy's itself: what is left of it was written by somebody whom nobody vouches for. Proxies set one of the two
/// headers and pass the other on as the client wrote it; so where both are there and don't agree, neither is believed,
/// and the proxy's own address counts.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(trusted, peer) {
        return peer;
    }
    let told = |name: &HeaderName, hops: fn(&str) -> Vec<&str>| {
        headers.contains_key(name).then(|| rightmost(peer, headers, name, hops, trusted))
    };
    match (told(&FORWARDED, forwarded_hops), told(&X_FORWARDED_FOR, listed_hops)) {
        (Some(forwarded), Some(listed)) if forwarded != listed => peer,
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => peer,
    }
}

/// Walks from the right to the first address that is no proxy's. A hop that tells no address ends the walk at the proxy
/// that wrote it.
fn rightmost(
    peer: IpAddr,
    headers: &HeaderMap,
    name: &HeaderName,
    hops: fn(&str) -> Vec<&str>,
    trusted: &[Network],
) -> IpAddr {
    let mut nearest = peer;
    let mut hops_left = HOPS_MAX;
    // Several headers of one name are one list, in their order (RFC 9110, section 5.3).
    let values = headers.get_all(name).iter().collect::<Vec<_>>();
    for value in values.into_iter().rev() {
        let Ok(value) = value.to_str() else { return nearest };
        for hop in hops(value).into_iter().rev() {
            let Some(address) = address(hop) else { return nearest };
            nearest = address;
            hops_left -= 1;
            if hops_left == 0 || !is_trusted(trusted, address) {
                return nearest;
            }
        }
    }
    nearest
}

/// The hops of `X-Forwarded-For`.
fn listed_hops(value: &str) -> Vec<&str> {
    value.split(',').map(str::trim).collect()
}

/// The `for` of each element of `Forwarded`; empty for one without.
fn forwarded_hops(value: &str) -> Vec<&str> {
    let of_element = |element| {
        let mut pairs = split_unquoted(element, b';').into_iter().filter_map(|pair| pair.split_once('='));
        let named = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
        named.map_or("", |(_, value)| value.trim().trim_matches('"'))
    };
    split_unquoted(value, b',').into_iter().map(of_element).collect()
}

/// Splits at a separator outside of quoted strings (RFC 9110, section 5.6.4).
fn split_unquoted(text: &str, separator: u8) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                // The separators are ASCII, so this is at a character's border.
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// The address of a hop, which may have a port, and brackets if it is of IPv6.
fn address(hop: &str) -> Option<IpAddr> {
    let unbracketed = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = unbracketed.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|both| both.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const PROXY: &str = "10.0.0.1";

    fn networks() -> Vec<Network> {
        ["10.0.0.0/8", "fd00::/8", "192.0.2.1"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        client_address(peer.parse().unwrap(), &map, &networks()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(client("203.0.113.9", &spoofed), "203.0.113.9");
        assert_eq!(client("192.0.2.2", &spoofed), "192.0.2.2");
        for proxy in [PROXY, "192.0.2.1", "::ffff:10.9.9.9", "fd00::1"] {
            assert_eq!(client(proxy, &spoofed), "1.2.3.4", "{proxy}");
        }
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_clients() {
        for (value, expected) in [
            ("1.2.3.4", "1.2.3.4"),
            ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("6.6.6.6,1.2.3.4 ,10.1.1.1,  fd00::2", "1.2.3.4"),
            ("1.2.3.4:5678", "1.2.3.4"),
            ("[2001:db8::1]:5678", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            // All are proxies: the first of them is where it began.
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            // Nobody knows who it was, but for the proxy that wrote this.
            ("6.6.6.6, unknown", PROXY),
            ("6.6.6.6, , 10.2.2.2", "10.2.2.2"),
            ("", PROXY),
            ("ä", PROXY),
        ] {
            assert_eq!(client(PROXY, &[("x-forwarded-for", value)]), expected, "{value}");
        }
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.2.2.2")];
        assert_eq!(client(PROXY, &lines), "1.2.3.4");
        assert_eq!(client(PROXY, &[]), PROXY);
    }

    #[test]
    fn the_standard_header_is_understood() {
        for (value, expected) in [
            ("for=1.2.3.4", "1.2.3.4"),
            ("For=\"1.2.3.4:80\";proto=https;by=10.0.0.1", "1.2.3.4"),
            ("for=6.6.6.6, proto=https; FOR=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=6.6.6.6;host=\"a,for=7.7.7.7\", for=1.2.3.4;host=\"b\\\",for=8.8.8.8\"", "1.2.3.4"),
            ("for=6.6.6.6, for=1.2.3.4, for=10.2.2.2", "1.2.3.4"),
            ("for=6.6.6.6, for=_hidden", PROXY),
            ("for=6.6.6.6, proto=https", PROXY),
            ("for=\"", PROXY),
        ] {
            assert_eq!(client(PROXY, &[("forwarded", value)]), expected, "{value}");
        }
    }

    #[test]
    fn headers_that_disagree_are_not_believed() {
        let of = |forwarded, listed| client(PROXY, &[("forwarded", forwarded), ("x-forwarded-for", listed)]);
        assert_eq!(of("for=1.2.3.4", "6.6.6.6, 1.2.3.4"), "1.2.3.4");
        assert_eq!(of("for=6.6.6.6", "1.2.3.4"), PROXY);
    }

    #[test]
    fn a_long_list_of_proxies_has_an_end() {
        let list = format!("1.2.3.4{}", ", 10.2.2.2".repeat(HOPS_MAX));
        assert_eq!(client(PROXY, &[("x-forwarded-for", &list)]), "10.2.2.2");
    }

    #[test]
    fn networks_are_read_as_they_are_written() {
        for (text, shown) in [("192.0.2.1", "192.0.2.1/32"), ("fd00::/8", "fd00::/8"), ("::1", "::1/128")] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0.0/-1", "10/8"] {
            text.parse::<Network>().unwrap_err();
        }
    }
}
