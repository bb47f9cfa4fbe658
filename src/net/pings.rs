//! Finds connections that are dead, and answers pings.
//!
//! Only where nothing else finds them: QUIC ends a connection by itself when nothing comes, so pings over it would cost packets and
//! tell nothing. `libp2p-ping` has one interval for all connections, so this has two of its behaviours.

use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, ping};

type Inner = ping::Behaviour;

/// The wait between two pings. Two in a row have to fail. Many peers take a stream for each, as the Go library waits no longer than 10 s
/// for the next on the same.
const PING_EVERY: Duration = Duration::from_mins(1);

/// The same over QUIC. The first ping is sent in any case, when the connection is new.
const PING_QUIC_EVERY: Duration = Duration::from_hours(24);

/// The behaviour.
pub struct Pings {
    /// Of all other connections; its events are those of all.
    others: Inner,
    /// Of those over QUIC.
    quic: Inner,
}

impl Default for Pings {
    fn default() -> Self {
        let every = |interval| Inner::new(ping::Config::new().with_interval(interval));
        Self { others: every(PING_EVERY), quic: every(PING_QUIC_EVERY) }
    }
}

impl Pings {
    /// Whose part a connection is, by an address of either side.
    fn of(&mut self, address: &Multiaddr) -> &mut Inner {
        if is_quic(address) { &mut self.quic } else { &mut self.others }
    }
}

/// Whether a connection is QUIC's from end to end: one through a relay may be dead though the relay isn't.
fn is_quic(address: &Multiaddr) -> bool {
    let has = |wanted: Protocol<'_>| address.iter().any(|part| part == wanted);
    has(Protocol::QuicV1) && !has(Protocol::P2pCircuit)
}

impl NetworkBehaviour for Pings {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // Of a connection through a relay, only the local address says so.
        self.of(local).handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.of(address).handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.others.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.others.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.others.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quic_from_end_to_end_finds_dead_connections_by_itself() {
        let peer = PeerId::random();
        for (address, expected) in [
            ("/ip4/8.8.8.8/udp/4001/quic-v1".into(), true),
            (format!("/ip6/2001:4860::1/udp/4001/quic-v1/p2p/{peer}"), true),
            ("/ip4/8.8.8.8/tcp/4001".into(), false),
            ("/ip4/8.8.8.8/tcp/4001/ws".into(), false),
            (format!("/ip4/8.8.8.8/udp/4001/quic-v1/p2p/{peer}/p2p-circuit"), false),
        ] {
            assert_eq!(is_quic(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
