//! What an address is: how far an IP address reaches, and the parts of a multiaddr that this node can use.
//!
//! Pure. Whether an address may be dialled or announced is for `net::profile` to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// How far an IP address reaches, by the IANA special-purpose address registries (RFC 6890 and its updates).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Globally routable unicast.
    Global,
    /// This machine: 127.0.0.0/8, `::1`.
    Loopback,
    /// Private networks (RFC 1918), carriers' shared space (RFC 6598) and unique local addresses (RFC 4193).
    Private,
    /// One link: 169.254.0.0/16, `fe80::/10`.
    LinkLocal,
    /// No particular machine: 0.0.0.0, `::`.
    Unspecified,
    /// Many machines: multicast and broadcast.
    Multicast,
    /// Other unicast that the registries keep from the Internet (documentation, benchmarks, translation, unallocated).
    Reserved,
}

/// How far an address reaches. An IPv4 address that is mapped into IPv6 is judged as what it is; one that is embedded
/// for translation (NAT64) counts as global only if both forms are, and 6to4 and Teredo never do: they are tunnels to
/// wherever the sender wants.
pub fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => reach_v4(mapped),
            None => reach_v6(ip),
        },
    }
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [0, 0, 0, 0] => Reach::Unspecified,
        [127, ..] => Reach::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        [169, 254, ..] => Reach::LinkLocal,
        [224..=239, ..] | [255, 255, 255, 255] => Reach::Multicast,
        // Port Control Protocol anycast and TURN anycast, the two global addresses among the protocol assignments.
        [192, 0, 0, 9 | 10] => Reach::Global,
        // "This network", protocol assignments, documentation, the old 6to4 relays, benchmarks, the former class E.
        [0 | 240..=255, ..]
        | [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..] => Reach::Reserved,
        _ => Reach::Global,
    }
}

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>
fn reach_v6(ip: Ipv6Addr) -> Reach {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        [0xff00..=0xffff, ..] => Reach::Multicast,
        [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // The well-known NAT64 prefix (RFC 6052), which must not carry private addresses.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            match reach_v4(Ipv4Addr::new(a, b, c, d)) {
                Reach::Global => Reach::Global,
                _ => Reach::Reserved,
            }
        }
        // Protocol assignments: anycast, AMT, AS112, ORCHIDv2 and drone ids are global, the rest (Teredo too) isn't.
        [0x2001, 1, 0, 0, 0, 0, 0, 1..=3] | [0x2001, 3 | 0x20..=0x3f, ..] | [0x2001, 4, 0x112, ..] => Reach::Global,
        // Other protocol assignments, documentation and 6to4.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] | [0x2002, ..] => Reach::Reserved,
        // The only block that IANA gives out as global unicast (RFC 4291, section 2.4).
        [0x2000..=0x3fff, ..] => Reach::Global,
        _ => Reach::Reserved,
    }
}

/// An address with the length of its network's prefix, as an interface has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The interface's own address.
    pub address: IpAddr,
    /// Leading bits that all addresses of the network share.
    pub prefix_bits: u8,
}

impl Subnet {
    /// Whether an address is in this network. A mapped IPv4 address counts as what it is.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                same_prefix(own.to_bits().into(), ip.to_bits().into(), self.prefix_bits, 32)
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => same_prefix(own.to_bits(), ip.to_bits(), self.prefix_bits, 128),
            _ => false,
        }
    }
}

fn same_prefix(left: u128, right: u128, prefix_bits: u8, width: u8) -> bool {
    let host_bits = u32::from(width.saturating_sub(prefix_bits));
    (left ^ right).checked_shr(host_bits).unwrap_or(0) == 0
}

/// A network that one owner tends to have whole: 16 bits of IPv4, 32 of IPv6, as the DHT of Kubo counts. Whoever has many addresses in
/// it still has one voice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The upper 16 bits.
    V4(u16),
    /// The upper 32 bits.
    V6(u32),
}

/// The network of an address. A mapped IPv4 address counts as what it is.
pub fn network(ip: IpAddr) -> Network {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Network::V4((ip.to_bits() >> 16) as u16),
        IpAddr::V6(ip) => Network::V6((ip.to_bits() >> 96) as u32),
    }
}

/// The machine that a multiaddr names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// By its address.
    Ip(IpAddr),
    /// By a name that has to be resolved.
    Name(String),
}

/// How a multiaddr is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP to this port.
    Tcp(u16),
    /// QUIC version 1 to this UDP port.
    Quic(u16),
    /// WebSocket to this TCP port.
    WebSocket {
        /// The port.
        port: u16,
        /// Whether it is below TLS with a certificate.
        secure: bool,
    },
    /// Whatever the TXT records of a `/dnsaddr` name say.
    FromName,
}

impl Transport {
    /// The port; `None` where the name says it.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Tcp(port) | Self::Quic(port) | Self::WebSocket { port, .. } => Some(port),
            Self::FromName => None,
        }
    }
}

/// The parts of a multiaddr that this node can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The machine.
    pub host: Host,
    /// How it is reached.
    pub transport: Transport,
    /// The peer expected there.
    pub peer: Option<PeerId>,
}

/// Why a multiaddr can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It goes through another peer.
    #[error("it goes through a relay (/p2p-circuit)")]
    Relayed,
    /// It names a peer but no place.
    #[error("it has no address to dial, only a peer id")]
    NoHost,
    /// It is none of TCP, QUIC version 1 and WebSocket.
    #[error(
        "its transport is not supported (only /tcp/PORT, /udp/PORT/quic-v1, /tcp/PORT/ws and /tcp/PORT/tls/ws are)"
    )]
    Transport,
}

/// Takes a multiaddr apart: a host, TCP, QUIC or WebSocket, and perhaps `/p2p/PEER-ID`.
pub fn parts(address: &Multiaddr) -> Result<Parts, Unusable> {
    if address.iter().any(|part| matches!(part, Protocol::P2pCircuit)) {
        return Err(Unusable::Relayed);
    }
    let mut rest = address.iter().peekable();
    let (host, is_dnsaddr) = match rest.next() {
        Some(Protocol::Ip4(ip)) => (Host::Ip(ip.into()), false),
        Some(Protocol::Ip6(ip)) => (Host::Ip(ip.into()), false),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => (host_of_name(&name), false),
        Some(Protocol::Dnsaddr(name)) => (host_of_name(&name), true),
        Some(Protocol::P2p(_)) | None => return Err(Unusable::NoHost),
        Some(_) => return Err(Unusable::Transport),
    };
    let transport = if is_dnsaddr {
        Transport::FromName
    } else {
        match (rest.next(), rest.peek()) {
            (Some(Protocol::Tcp(port)), Some(Protocol::P2p(_)) | None) => Transport::Tcp(port),
            (Some(Protocol::Tcp(port)), Some(_)) => Transport::WebSocket { port, secure: web_socket(&mut rest)? },
            (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => {
                rest.next();
                Transport::Quic(port)
            }
            _ => return Err(Unusable::Transport),
        }
    };
    let peer = match rest.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return Err(Unusable::Transport),
    };
    if rest.next().is_some() {
        return Err(Unusable::Transport);
    }
    Ok(Parts { host, transport, peer })
}

/// Takes what follows the port of a WebSocket: `/ws`, `/wss`, `/tls/ws` or `/tls/sni/NAME/ws`. Says whether it is below TLS.
fn web_socket<'a>(rest: &mut impl Iterator<Item = Protocol<'a>>) -> Result<bool, Unusable> {
    match rest.next() {
        Some(Protocol::Ws(_)) => return Ok(false),
        Some(Protocol::Wss(_)) => return Ok(true),
        Some(Protocol::Tls) => {}
        _ => return Err(Unusable::Transport),
    }
    match rest.next() {
        Some(Protocol::Ws(_)) => Ok(true),
        Some(Protocol::Sni(_)) if matches!(rest.next(), Some(Protocol::Ws(_))) => Ok(true),
        _ => Err(Unusable::Transport),
    }
}

/// A name that is written as an IP address resolves to it, so it is judged as one.
fn host_of_name(name: &str) -> Host {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_or_else(|_| Host::Name(name.to_owned()), Host::Ip)
}

/// Whether a name can only mean this machine or this network (RFC 6761, RFC 6762, RFC 8375, and ICANN's `internal`).
pub fn is_local_name(name: &str) -> bool {
    is_localhost(name) || ["local", "internal", "home.arpa"].iter().any(|local| is_below(name, local))
}

/// Whether a name can only mean this machine (RFC 6761).
pub fn is_localhost(name: &str) -> bool {
    is_below(name, "localhost")
}

/// Whether a name is `domain` or one below it.
fn is_below(name: &str, domain: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether the node can listen there: an IP address with TCP or QUIC.
pub fn can_listen(address: &Multiaddr) -> bool {
    matches!(
        (parts(address), first_is_ip(address)),
        (Ok(Parts { host: Host::Ip(ip), transport: Transport::Tcp(_) | Transport::Quic(_), peer: None }), true)
            if reach(ip) != Reach::Multicast
    )
}

/// Whether others can dial an address in principle: it names one machine, and a port that isn't 0.
pub fn names_a_host(address: &Multiaddr) -> bool {
    parts(address).is_ok_and(|parts| {
        let one_machine = match &parts.host {
            Host::Ip(ip) => !matches!(reach(*ip), Reach::Unspecified | Reach::Multicast),
            Host::Name(name) => !name.is_empty(),
        };
        one_machine && parts.transport.port() != Some(0)
    })
}

fn first_is_ip(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)))
}

/// The peer that an address ends in, as `/p2p/PEER-ID`.
pub fn peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The same address of another machine of the same kind of IP; nothing, if this one has another kind or a name.
pub fn with_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let first = match (address.iter().next()?, ip) {
        (Protocol::Ip4(_), IpAddr::V4(ip)) => Protocol::Ip4(ip),
        (Protocol::Ip6(_), IpAddr::V6(ip)) => Protocol::Ip6(ip),
        _ => return None,
    };
    Some(std::iter::once(first).chain(address.iter().skip(1)).collect())
}

/// Of an address that goes through a relay, the part that names the relay.
pub fn relay(address: &Multiaddr) -> Option<Multiaddr> {
    let length = address.iter().position(|part| matches!(part, Protocol::P2pCircuit))?;
    Some(address.iter().take(length).collect())
}

/// The address without the peer at its end.
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

/// A free TCP port of the loopback interface, to listen on.
pub fn loopback_tcp() -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(Ipv4Addr::LOCALHOST)).with(Protocol::Tcp(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_follows_the_registries() {
        use Reach::{Global, LinkLocal, Loopback, Multicast, Private, Reserved, Unspecified};
        for (ip, expected) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Reserved),
            ("1.1.1.1", Global),
            ("9.255.255.255", Global),
            ("10.0.0.1", Private),
            ("11.0.0.0", Global),
            ("100.63.255.255", Global),
            ("100.64.0.1", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Global),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("169.254.169.254", LinkLocal),
            ("172.15.0.1", Global),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Global),
            ("192.0.0.1", Reserved),
            ("192.0.0.9", Global),
            ("192.0.0.10", Global),
            ("192.0.0.11", Reserved),
            ("192.0.1.1", Global),
            ("192.0.2.1", Reserved),
            ("192.31.196.1", Global),
            ("192.52.193.1", Global),
            ("192.88.99.1", Reserved),
            ("192.168.1.1", Private),
            ("192.175.48.1", Global),
            ("198.17.255.255", Global),
            ("198.18.0.1", Reserved),
            ("198.19.255.255", Reserved),
            ("198.51.100.7", Reserved),
            ("203.0.113.7", Reserved),
            ("223.255.255.255", Global),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.254", Reserved),
            ("255.255.255.255", Multicast),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::2", Reserved),
            ("::7f00:1", Reserved),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:10.1.2.3", Private),
            ("::ffff:8.8.8.8", Global),
            ("::ffff:0.0.0.0", Unspecified),
            ("64:ff9b::8.8.8.8", Global),
            ("64:ff9b::10.0.0.1", Reserved),
            ("64:ff9b::127.0.0.1", Reserved),
            ("64:ff9b:1::8.8.8.8", Reserved),
            ("100::1", Reserved),
            ("2001::1", Reserved),
            ("2001:1::1", Global),
            ("2001:1::4", Reserved),
            ("2001:3::1", Global),
            ("2001:4:112::1", Global),
            ("2001:10::1", Reserved),
            ("2001:20::1", Global),
            ("2001:3f::1", Global),
            ("2001:1ff::1", Reserved),
            ("2001:200::1", Global),
            ("2001:4860:4860::8888", Global),
            ("2001:db8::1", Reserved),
            ("2002:808:808::1", Reserved),
            ("2002:a00:1::1", Reserved),
            ("2606:4700::1111", Global),
            ("2620:4f:8000::1", Global),
            ("3fff::1", Reserved),
            ("3fff:fff::1", Reserved),
            ("3fff:1000::1", Global),
            ("4000::1", Reserved),
            ("5f00::1", Reserved),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Reserved),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(reach(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn subnets_contain_what_shares_their_prefix() {
        for (own, prefix_bits, ip, expected) in [
            ("192.168.1.7", 24, "192.168.1.200", true),
            ("192.168.1.7", 24, "192.168.2.1", false),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("10.0.0.1", 0, "8.8.8.8", true),
            ("127.0.0.1", 8, "127.9.9.9", true),
            ("192.168.1.7", 24, "::ffff:192.168.1.8", true),
            ("192.168.1.7", 24, "fd00::1", false),
            ("fd00::1", 64, "fd00::ffff:1", true),
            ("fd00::1", 64, "fd00:0:0:1::1", false),
            ("fd00::1", 128, "fd00::1", true),
            ("fd00::1", 0, "::2", true),
        ] {
            let subnet = Subnet { address: own.parse().unwrap(), prefix_bits };
            assert_eq!(subnet.contains(ip.parse().unwrap()), expected, "{own}/{prefix_bits} {ip}");
        }
    }

    #[test]
    fn multiaddrs_are_taken_apart() {
        let peer = PeerId::random();
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        let name = |text: &str| Host::Name(text.to_owned());
        for (text, host, transport) in [
            ("/ip4/1.2.3.4/tcp/4001", ip("1.2.3.4"), Transport::Tcp(4001)),
            ("/ip6/::1/udp/4001/quic-v1", ip("::1"), Transport::Quic(4001)),
            ("/dns/example.org/tcp/1", name("example.org"), Transport::Tcp(1)),
            ("/dns4/example.org/udp/1/quic-v1", name("example.org"), Transport::Quic(1)),
            ("/dnsaddr/bootstrap.example.org", name("bootstrap.example.org"), Transport::FromName),
            ("/dns4/127.0.0.1/tcp/1", ip("127.0.0.1"), Transport::Tcp(1)),
            ("/ip4/1.2.3.4/tcp/1/ws", ip("1.2.3.4"), Transport::WebSocket { port: 1, secure: false }),
            ("/dns4/example.org/tcp/1/wss", name("example.org"), Transport::WebSocket { port: 1, secure: true }),
            ("/dns/example.org/tcp/1/tls/ws", name("example.org"), Transport::WebSocket { port: 1, secure: true }),
            ("/ip6/::1/tcp/1/tls/sni/a.org/ws", ip("::1"), Transport::WebSocket { port: 1, secure: true }),
        ] {
            let address: Multiaddr = text.parse().unwrap();
            assert_eq!(parts(&address), Ok(Parts { host: host.clone(), transport, peer: None }), "{text}");
            let with_peer = address.clone().with(Protocol::P2p(peer));
            assert_eq!(parts(&with_peer), Ok(Parts { host, transport, peer: Some(peer) }), "{text}");
            assert_eq!(without_peer(&with_peer), address);
            assert_eq!(without_peer(&address), address);
        }
        let peer_text = format!("/p2p/{peer}");
        for (text, expected) in [
            (peer_text.as_str(), Unusable::NoHost),
            ("/ip4/1.2.3.4", Unusable::Transport),
            ("/ip4/1.2.3.4/udp/1", Unusable::Transport),
            ("/ip4/1.2.3.4/udp/1/quic", Unusable::Transport),
            ("/ip4/1.2.3.4/tcp/1/tls", Unusable::Transport),
            ("/ip4/1.2.3.4/tcp/1/tls/sni/a.org", Unusable::Transport),
            ("/ip4/1.2.3.4/tcp/1/ws/ws", Unusable::Transport),
            ("/ip4/1.2.3.4/udp/1/ws", Unusable::Transport),
            ("/ip4/1.2.3.4/tcp/1/http", Unusable::Transport),
            ("/ip4/1.2.3.4/udp/1/quic-v1/webtransport", Unusable::Transport),
            ("/ip4/1.2.3.4/udp/1/webrtc-direct", Unusable::Transport),
            ("/memory/1", Unusable::Transport),
            ("/unix/tmp", Unusable::Transport),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", Unusable::Transport),
            (&format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}/p2p-circuit"), Unusable::Relayed),
            (&format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"), Unusable::Relayed),
            (&format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}/p2p/{peer}"), Unusable::Transport),
        ] {
            assert_eq!(parts(&text.parse().unwrap()), Err(expected), "{text}");
        }
    }

    #[test]
    fn local_names_are_known() {
        for name in ["localhost", "LOCALHOST.", "a.localhost", "printer.local", "x.internal", "nas.home.arpa"] {
            assert!(is_local_name(name), "{name}");
        }
        for name in ["example.org", "notlocalhost", "local.example.org", "home.arpa.example.org", "arpa"] {
            assert!(!is_local_name(name), "{name}");
        }
    }

    #[test]
    fn places_to_listen_and_to_be_reached() {
        let peer = PeerId::random();
        for (text, listen, host) in [
            ("/ip4/0.0.0.0/tcp/4001", true, false),
            ("/ip4/127.0.0.1/tcp/0", true, false),
            ("/ip6/::/udp/4001/quic-v1", true, false),
            ("/ip4/1.2.3.4/udp/4001/quic-v1", true, true),
            ("/ip4/224.0.0.1/tcp/4001", false, false),
            ("/dns4/example.org/tcp/4001", false, true),
            ("/dns4/127.0.0.1/tcp/4001", false, true),
            ("/dnsaddr/example.org", false, true),
            ("/ip4/1.2.3.4/tcp/4001/ws", false, true),
            ("/dns/example.org/tcp/443/tls/ws", false, true),
            (&format!("/ip4/1.2.3.4/tcp/4001/p2p/{peer}"), false, true),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(can_listen(&address), listen, "{text}");
            assert_eq!(names_a_host(&address), host, "{text}");
        }
    }
}
