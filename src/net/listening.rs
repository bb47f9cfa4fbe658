//! Finds out whether a TCP port is free before libp2p listens on it.
//!
//! libp2p lets several sockets share a port, so that it can dial from the port that it listens on. Beside another
//! program that does the same (Kubo does), listening would seem to work, and the system would deal the connections out
//! between the two.

use std::io;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use socket2::{Domain, Socket, Type};

/// Fails when another socket listens on this TCP address. Other kinds of addresses, and port 0, are always fine.
pub fn probe(address: &Multiaddr) -> io::Result<()> {
    let Some(address) = tcp_address(address) else { return Ok(()) };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without this, connections that have just ended count as users of the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

fn tcp_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) if port != 0 => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_socket_shares_willingly_is_still_taken() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        #[cfg(unix)]
        socket.set_reuse_port(true).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        assert_eq!(probe(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        probe(&address).unwrap();
    }

    #[test]
    fn only_tcp_ports_are_looked_at() {
        for text in ["/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/udp/4001/quic-v1", "/dns4/localhost/tcp/1"] {
            probe(&text.parse().unwrap()).unwrap();
        }
    }
}
