//! Where a trustless gateway is, as the multiaddr of an origin says it: `/dns/example.org/https`,
//! `/ip4/203.0.113.5/tcp/443/tls/sni/example.org/http`, with or without `/http-path/…` and `/p2p/…`.
//!
//! Pure. Whether it may be asked is for `net::profile` to say.

use std::fmt;
use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The longest name of a host, from RFC 1035.
const NAME_BYTES_MAX: usize = 253;

/// What precedes the path in the text of a multiaddr. The multiaddr library has no such protocol.
const HTTP_PATH: &str = "/http-path/";

/// A trustless gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Over TLS.
    pub secure: bool,
    /// The machine.
    pub host: GatewayHost,
    /// The TCP port.
    pub port: u16,
    /// The name in the certificate and the requests, where it isn't the host's.
    pub server_name: Option<String>,
    /// What precedes `/ipfs/`: empty, or with a slash at the beginning and none at the end.
    pub path: String,
}

/// The machine of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GatewayHost {
    /// By its address.
    Ip(IpAddr),
    /// By a name that has to be resolved.
    Name(String, Family),
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// All.
    Any,
    /// IPv4 only, as `/dns4` says.
    Ip4,
    /// IPv6 only, as `/dns6` says.
    Ip6,
}

impl Family {
    /// Whether an address is one of this family.
    pub fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ip4 => ip.is_ipv4(),
            Self::Ip6 => ip.is_ipv6(),
        }
    }
}

/// Why the address of a gateway can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GatewayAddressError {
    /// It has parts that aren't known, or in another order.
    #[error(
        "as the address of an HTTP gateway only /HOST/https, /HOST/tcp/PORT/https, /HOST/tcp/PORT/tls/http and \
         /HOST/tcp/PORT/tls/sni/NAME/http are supported, with /http-path/PATH and /p2p/PEER-ID behind them"
    )]
    Form,
    /// A name in it is none that a URL can have.
    #[error("a name in it is not the name of a host")]
    Name,
    /// The port is 0.
    #[error("it names no port that can be dialled")]
    Port,
}

impl GatewayAddress {
    /// Reads the text of a multiaddr: the gateway and the peer at its end. `None` when it names no HTTP server at all.
    pub fn parse(text: &str) -> Option<Result<(Self, Option<PeerId>), GatewayAddressError>> {
        let (bare, path) = take_path(text);
        let address: Multiaddr = bare.parse().ok()?;
        let is_http = address.iter().any(|part| matches!(part, Protocol::Http | Protocol::Https));
        is_http.then(|| read(&address, path))
    }

    /// The host in URLs and certificates.
    pub fn host_text(&self) -> String {
        match (&self.server_name, &self.host) {
            (Some(name), _) | (None, GatewayHost::Name(name, _)) => name.clone(),
            (None, GatewayHost::Ip(IpAddr::V4(ip))) => ip.to_string(),
            (None, GatewayHost::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
        }
    }
}

/// As a URL.
impl fmt::Display for GatewayAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual_port) = if self.secure { ("https", 443) } else { ("http", 80) };
        write!(formatter, "{scheme}://{}", self.host_text())?;
        if self.port != usual_port {
            write!(formatter, ":{}", self.port)?;
        }
        formatter.write_str(&self.path)
    }
}

/// Takes the path out of the text; its slashes are written as `%2F` there.
fn take_path(text: &str) -> (String, String) {
    let Some((before, rest)) = text.split_once(HTTP_PATH) else { return (text.to_owned(), String::new()) };
    let (path, after) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
    let path = path.replace("%2F", "/").replace("%2f", "/");
    let path = path.trim_matches('/');
    (format!("{before}{after}"), if path.is_empty() { String::new() } else { format!("/{path}") })
}

fn read(address: &Multiaddr, path: String) -> Result<(GatewayAddress, Option<PeerId>), GatewayAddressError> {
    let mut parts = address.iter().peekable();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => GatewayHost::Ip(ip.into()),
        Some(Protocol::Ip6(ip)) => GatewayHost::Ip(ip.into()),
        Some(Protocol::Dns(name)) => host_of_name(&name, Family::Any)?,
        Some(Protocol::Dns4(name)) => host_of_name(&name, Family::Ip4)?,
        Some(Protocol::Dns6(name)) => host_of_name(&name, Family::Ip6)?,
        _ => return Err(GatewayAddressError::Form),
    };
    let mut port = None;
    if let Some(Protocol::Tcp(given)) = parts.peek() {
        port = Some(*given);
        parts.next();
    }
    let mut secure = false;
    if matches!(parts.peek(), Some(Protocol::Tls)) {
        secure = true;
        parts.next();
    }
    let mut server_name = None;
    if let Some(Protocol::Sni(name)) = parts.peek() {
        // One by address can't be told to a server.
        server_name = Some(checked_name(name)?);
        secure = true;
        parts.next();
    }
    match parts.next() {
        Some(Protocol::Https) => secure = true,
        Some(Protocol::Http) => {}
        _ => return Err(GatewayAddressError::Form),
    }
    let peer = match (parts.next(), parts.next()) {
        (None, _) => None,
        (Some(Protocol::P2p(peer)), None) => Some(peer),
        _ => return Err(GatewayAddressError::Form),
    };
    let port = port.unwrap_or(if secure { 443 } else { 80 });
    if port == 0 {
        return Err(GatewayAddressError::Port);
    }
    Ok((GatewayAddress { secure, host, port, server_name, path }, peer))
}

/// A name that is written as an IP address is one.
fn host_of_name(name: &str, family: Family) -> Result<GatewayHost, GatewayAddressError> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(ip) => Ok(GatewayHost::Ip(ip)),
        Err(_) => Ok(GatewayHost::Name(checked_name(name)?, family)),
    }
}

/// A name as a URL can have it. In URLs, names that end in a number are other ways to write an IPv4 address (`127.1`,
/// `0x7f000001`), which would pass by whoever checks what a name resolves to.
fn checked_name(name: &str) -> Result<String, GatewayAddressError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let last = bare.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let is_plain = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if bare.len() > NAME_BYTES_MAX || is_number || !bare.split('.').all(is_plain) {
        return Err(GatewayAddressError::Name);
    }
    Ok(bare.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubo_and_the_specification_write_is_read() {
        let peer = PeerId::random();
        for (text, url) in [
            ("/dns/example.org/https", "https://example.org"),
            ("/dns4/example.org/tcp/443/https", "https://example.org"),
            ("/dns6/Example.ORG./tcp/8443/https", "https://example.org:8443"),
            ("/dns4/example.org/tcp/443/tls/http", "https://example.org"),
            ("/dns/example.org/tls/http", "https://example.org"),
            ("/dns/example.org/tls/https", "https://example.org"),
            ("/dns/example.org/tcp/80/https", "https://example.org:80"),
            ("/ip4/203.0.113.5/tcp/443/tls/sni/example.org/http", "https://example.org"),
            ("/ip4/203.0.113.5/tcp/443/sni/example.org/http", "https://example.org"),
            ("/ip4/127.0.0.1/tcp/8080/http", "http://127.0.0.1:8080"),
            ("/ip4/127.0.0.1/http", "http://127.0.0.1"),
            ("/ip4/127.0.0.1/tcp/443/http", "http://127.0.0.1:443"),
            ("/ip6/::1/tcp/8080/http", "http://[::1]:8080"),
            ("/dns4/127.0.0.1/tcp/80/http", "http://127.0.0.1"),
            ("/dns/example.org/https/http-path/deep%2Fdown", "https://example.org/deep/down"),
            ("/dns/example.org/tcp/443/tls/http/http-path/%2Fa%20b%2f", "https://example.org/a%20b"),
            ("/dns/example.org/https/http-path/", "https://example.org"),
        ] {
            let (address, named) = GatewayAddress::parse(text).unwrap().unwrap();
            assert_eq!((address.to_string().as_str(), named), (url, None), "{text}");
            let with_peer = format!("{}/p2p/{peer}", text.trim_end_matches('/'));
            if !text.ends_with('/') {
                assert_eq!(GatewayAddress::parse(&with_peer), Some(Ok((address, Some(peer)))), "{with_peer}");
            }
        }
        let (address, _) = GatewayAddress::parse("/ip4/203.0.113.5/tcp/443/tls/sni/example.org/http").unwrap().unwrap();
        assert_eq!(address.host, GatewayHost::Ip("203.0.113.5".parse().unwrap()));
        let (address, _) =
            GatewayAddress::parse("/dns4/a.example.org/tcp/443/tls/sni/b.example.org/http").unwrap().unwrap();
        assert_eq!(address.host, GatewayHost::Name("a.example.org".to_owned(), Family::Ip4));
        assert_eq!(address.host_text(), "b.example.org");
    }

    #[test]
    fn what_is_no_gateway_says_why() {
        let peer = PeerId::random();
        for text in ["", "hello", "/ip4/1.2.3.4/tcp/4001", "/dns4/example.org/tcp/443/wss", "/dns4/e.org/tcp/x/http"] {
            assert_eq!(GatewayAddress::parse(text), None, "{text}");
        }
        for (text, expected) in [
            ("/ip4/1.2.3.4/udp/443/quic-v1/http", GatewayAddressError::Form),
            ("/dnsaddr/example.org/https", GatewayAddressError::Form),
            ("/dns/example.org/tcp/443/tls/ws/http", GatewayAddressError::Form),
            ("/dns/example.org/https/tcp/443", GatewayAddressError::Form),
            (&format!("/dns/example.org/https/p2p/{peer}/p2p/{peer}"), GatewayAddressError::Form),
            (&format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}/p2p-circuit/http"), GatewayAddressError::Form),
            ("/dns/example.org/tcp/0/https", GatewayAddressError::Port),
            ("/dns/user@example.org/https", GatewayAddressError::Name),
            ("/dns/example.org:22/https", GatewayAddressError::Name),
            ("/dns/example..org/https", GatewayAddressError::Name),
            ("/dns/2130706433/https", GatewayAddressError::Name),
            ("/dns/127.1/https", GatewayAddressError::Name),
            ("/dns/0x7f000001/https", GatewayAddressError::Name),
            ("/dns/a.0X/https", GatewayAddressError::Name),
            ("/ip4/1.2.3.4/tcp/443/tls/sni/127.0.0.1/http", GatewayAddressError::Name),
            ("/ip4/1.2.3.4/tcp/443/tls/sni/017700000001/http", GatewayAddressError::Name),
        ] {
            assert_eq!(GatewayAddress::parse(text), Some(Err(expected)), "{text}");
        }
        let long = format!("/dns/{}/https", "a.".repeat(200));
        assert_eq!(GatewayAddress::parse(&long), Some(Err(GatewayAddressError::Name)));
    }
}
