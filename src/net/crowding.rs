//! Keeps one machine from taking all the places that there are for incoming connections, half-open ones and others.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::address::{self, Host, Reach};
use super::memory::{Gate, resident_bytes};

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} has too many connections to this node already")]
struct Crowded(IpAddr);

/// The same, whoever comes.
#[derive(Debug, thiserror::Error)]
#[error("this process takes more memory than network.memory_max")]
struct Full;

/// Who has one place: a machine, which has a whole network of addresses with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Machine {
    V4(u32),
    /// The upper 56 bits, as many as homes get.
    V6(u64),
}

impl Machine {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 72) as u64),
        }
    }
}

#[derive(Debug, Default)]
struct Places {
    taken: HashMap<ConnectionId, Machine>,
    of_machine: HashMap<Machine, u32>,
}

impl Places {
    fn take(&mut self, id: ConnectionId, machine: Machine, max: u32) -> bool {
        let count = self.of_machine.entry(machine).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        self.taken.insert(id, machine);
        true
    }

    fn leave(&mut self, id: ConnectionId) {
        let Some(machine) = self.taken.remove(&id) else { return };
        if let Some(count) = self.of_machine.get_mut(&machine) {
            *count -= 1;
            if *count == 0 {
                self.of_machine.remove(&machine);
            }
        }
    }
}

/// The behaviour. It knows no more than there are connections.
#[derive(Debug)]
pub struct Crowding {
    half_open: Places,
    established: Places,
    half_open_max: u32,
    established_max: u32,
    memory: Gate,
}

impl Crowding {
    /// So many half-open and established connections may come from one machine. Machines of private networks may have as many
    /// established ones as there are places: there, one address often stands for many. Nobody comes in while the process takes more than
    /// `memory_max` bytes, unless that is 0.
    pub fn new(half_open_max: u32, established_max: u32, memory_max: u64) -> Self {
        Self {
            half_open: Places::default(),
            established: Places::default(),
            half_open_max,
            established_max,
            memory: Gate::new(memory_max),
        }
    }

    /// Whether the process takes more memory than it may while others come in.
    pub fn is_memory_exceeded(&mut self) -> bool {
        self.memory.is_exceeded(Instant::now(), resident_bytes)
    }
}

/// The address from which a connection comes; nothing for one through a relay.
fn ip(remote: &Multiaddr) -> Option<IpAddr> {
    match address::parts(remote).ok()?.host {
        Host::Ip(ip) => Some(ip),
        Host::Name(_) => None,
    }
}

impl NetworkBehaviour for Crowding {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.is_memory_exceeded() {
            return Err(ConnectionDenied::new(Full));
        }
        match ip(remote) {
            Some(ip) if !self.half_open.take(id, Machine::of(ip), self.half_open_max) => {
                Err(ConnectionDenied::new(Crowded(ip)))
            }
            _ => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.half_open.leave(id);
        match ip(remote) {
            Some(ip)
                if address::reach(ip) == Reach::Global
                    && !self.established.take(id, Machine::of(ip), self.established_max) =>
            {
                Err(ConnectionDenied::new(Crowded(ip)))
            }
            _ => Ok(dummy::ConnectionHandler),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.established.leave(closed.connection_id),
            // Also of one that another behaviour has refused after this one let it in.
            FromSwarm::ListenFailure(failure) => {
                self.half_open.leave(failure.connection_id);
                self.established.leave(failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(crowding: &mut Crowding, number: usize, remote: &str) -> bool {
        let local = "/ip4/1.1.1.1/tcp/4001".parse().unwrap();
        let id = ConnectionId::new_unchecked(number);
        crowding.handle_pending_inbound_connection(id, &local, &remote.parse().unwrap()).is_ok()
    }

    fn established(crowding: &mut Crowding, number: usize, remote: &str) -> bool {
        let local = "/ip4/1.1.1.1/tcp/4001".parse().unwrap();
        let (id, peer) = (ConnectionId::new_unchecked(number), PeerId::random());
        crowding.handle_established_inbound_connection(id, peer, &local, &remote.parse().unwrap()).is_ok()
    }

    #[test]
    fn one_machine_never_has_all_places() {
        let mut crowding = Crowding::new(2, 3, 0);
        assert!(pending(&mut crowding, 1, "/ip4/2.2.2.2/tcp/1"));
        assert!(pending(&mut crowding, 2, "/ip4/2.2.2.2/udp/2/quic-v1"));
        assert!(!pending(&mut crowding, 3, "/ip4/2.2.2.2/tcp/3"));
        assert!(pending(&mut crowding, 4, "/ip4/2.2.2.3/tcp/3"), "others are let in");
        assert!(established(&mut crowding, 1, "/ip4/2.2.2.2/tcp/1"));
        assert!(pending(&mut crowding, 5, "/ip4/2.2.2.2/tcp/3"), "the first isn't half-open any longer");
        for number in 6..8 {
            assert!(established(&mut crowding, number, "/ip4/2.2.2.2/tcp/1"));
        }
        assert!(!established(&mut crowding, 8, "/ip4/2.2.2.2/tcp/1"));
        assert!(established(&mut crowding, 9, "/ip4/2.2.2.4/tcp/1"));
        crowding.established.leave(ConnectionId::new_unchecked(6));
        assert!(established(&mut crowding, 10, "/ip4/2.2.2.2/tcp/1"));
        for number in 0..20 {
            crowding.half_open.leave(ConnectionId::new_unchecked(number));
            crowding.established.leave(ConnectionId::new_unchecked(number));
        }
        assert!(crowding.half_open.of_machine.is_empty() && crowding.established.of_machine.is_empty());
    }

    #[test]
    fn a_home_with_ipv6_is_one_machine_and_a_private_network_is_not() {
        let mut crowding = Crowding::new(1, 1, 0);
        assert!(established(&mut crowding, 1, "/ip6/2606:4700:0:1100::1/tcp/1"));
        assert!(!established(&mut crowding, 2, "/ip6/2606:4700:0:11ff::2/tcp/1"));
        assert!(established(&mut crowding, 3, "/ip6/2606:4700:0:1200::1/tcp/1"));
        for number in 4..10 {
            assert!(established(&mut crowding, number, "/ip4/192.168.1.1/tcp/1"));
        }
        assert!(pending(&mut crowding, 11, "/ip4/127.0.0.1/tcp/1"));
        assert!(!pending(&mut crowding, 12, "/ip4/127.0.0.1/tcp/1"));
    }
}
