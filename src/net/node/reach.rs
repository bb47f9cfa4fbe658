//! What the event loop does so that others reach this node: tests of its addresses, the router's ports, places at relays.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, identify, relay, upnp};
use tokio::task::JoinSet;

use super::super::address::{self, Host};
use super::super::profile::Profile;
use super::super::reachability::autonat::{self, Nonces};
use super::super::reachability::{Outcome, Reach, Reachability, RouterState, Test};
use super::super::relays::{self, Relays};
use super::super::{Options, dht};
use super::EventLoop;

/// How this node comes to be reached. In a network of one's own all of it rests.
pub(super) struct Reaching {
    /// In the public profile only.
    reach: Option<Reach>,
    pub(super) tests: JoinSet<(Test, Outcome)>,
    /// The task that takes the streams of those who have reached us; it ends with this.
    _dial_backs: JoinSet<()>,
    nonces: Nonces,
    router: Router,
    uses_relays: bool,
    relays: Relays,
    places: HashMap<ListenerId, PeerId>,
    /// What the swarm was told that others have reached us under.
    told: HashSet<Multiaddr>,
    relayed: Vec<Multiaddr>,
    relayed_connections: HashMap<ConnectionId, Circuit>,
    /// From where peers are connected directly.
    origins: HashMap<PeerId, (IpAddr, Multiaddr)>,
}

/// A connection through a relay.
struct Circuit {
    peer: PeerId,
    relay: Option<PeerId>,
}

/// The router, as far as it was heard of.
struct Router {
    state: RouterState,
    /// What it forwards to this node.
    forwarded: HashSet<Multiaddr>,
}

impl Router {
    fn new(is_asked: bool) -> Self {
        let state = if is_asked { RouterState::Searched } else { RouterState::NotAsked };
        Self { state, forwarded: HashSet::new() }
    }

    fn heard(&mut self, event: &upnp::Event) {
        self.state = match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                self.forwarded.insert(external_addr.clone());
                RouterState::Mapped
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.forwarded.remove(external_addr);
                // It may be gone, or refuse now; it is asked again for a while, and by the next start.
                if self.forwarded.is_empty() { RouterState::Missing } else { RouterState::Mapped }
            }
            upnp::Event::GatewayNotFound => RouterState::Missing,
            upnp::Event::NonRoutableGateway => RouterState::BehindAnother,
        };
    }
}

impl Reaching {
    pub(super) fn new(
        options: &Options,
        profile: &Profile,
        maps_ports: bool,
        streams: &libp2p_stream::Behaviour,
    ) -> Self {
        let is_public = *profile == Profile::Public;
        let nonces = Nonces::default();
        let mut dial_backs = JoinSet::new();
        // Nobody else accepts this protocol.
        if is_public && let Ok(incoming) = streams.new_control().accept(autonat::DIAL_BACK) {
            dial_backs.spawn(autonat::take_dial_backs(incoming, nonces.clone()));
        }
        Self {
            reach: is_public.then(|| Reach::new(&options.external, Instant::now())),
            tests: JoinSet::new(),
            _dial_backs: dial_backs,
            nonces,
            router: Router::new(maps_ports),
            uses_relays: is_public && options.relays,
            relays: Relays::default(),
            places: HashMap::new(),
            told: HashSet::new(),
            relayed: Vec::new(),
            relayed_connections: HashMap::new(),
            origins: HashMap::new(),
        }
    }
}

impl Reaching {
    /// From where a peer is connected directly.
    pub(super) fn address_of(&self, peer: &PeerId) -> Option<IpAddr> {
        self.origins.get(peer).map(|(ip, _)| *ip)
    }
}

impl EventLoop {
    /// A connection is up.
    pub(super) fn note_connection(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let reaching = &mut self.reaching;
        if endpoint.is_relayed() {
            let through = match endpoint {
                ConnectedPoint::Dialer { address, .. } => address,
                ConnectedPoint::Listener { local_addr, .. } => local_addr,
            };
            let relay = address::relay(through).and_then(|at| address::peer(&at));
            reaching.relayed_connections.insert(id, Circuit { peer, relay });
            return;
        }
        let remote = endpoint.get_remote_address();
        if let Ok(Host::Ip(ip)) = address::parts(remote).map(|parts| parts.host) {
            reaching.origins.insert(peer, (ip, remote.clone()));
        }
        // Relays count what goes through them, and a direct connection is faster.
        let surplus: Vec<ConnectionId> = reaching
            .relayed_connections
            .iter()
            .filter(|(_, circuit)| circuit.peer == peer)
            .map(|(id, _)| *id)
            .collect();
        for id in surplus {
            self.swarm.close_connection(id);
        }
    }

    /// A connection is gone, and perhaps it was the peer's last.
    pub(super) fn note_connection_gone(&mut self, peer: &PeerId, id: ConnectionId, was_last: bool) {
        let reaching = &mut self.reaching;
        reaching.relayed_connections.remove(&id);
        if was_last {
            reaching.origins.remove(peer);
            if let Some(reach) = &mut reaching.reach {
                reach.disconnected(peer);
            }
        }
    }

    /// A peer has told who it is, and under which address it sees us.
    pub(super) fn learn_helper(&mut self, peer: PeerId, info: &identify::Info) {
        let reaching = &mut self.reaching;
        let (Some(reach), Some((ip, address))) = (&mut reaching.reach, reaching.origins.get(&peer)) else { return };
        let now = Instant::now();
        reach.observed(peer, *ip, &info.observed_addr, now);
        if info.protocols.contains(&autonat::DIAL_REQUEST) {
            reach.found_tester(peer);
        }
        if info.protocols.contains(&relays::HOP) {
            // A peer that has dialled us is connected from a port of which nobody knows whether it listens there.
            let is_dialled = info.listen_addrs.contains(&address::without_peer(address));
            let said = || info.listen_addrs.iter().find(|address| self.shared.profile.may_dial(address, true).is_ok());
            let address = if is_dialled { Some(address) } else { said() };
            if let Some(address) = address.filter(|address| address::relay(address).is_none()) {
                reaching.relays.found(peer, address, now);
            }
        }
        self.keep_reached();
    }

    /// The addresses have changed that the node listens on.
    pub(super) fn note_listening(&mut self) {
        let listening: Vec<Multiaddr> =
            self.swarm.listeners().filter(|address| address::relay(address).is_none()).cloned().collect();
        if let Some(reach) = &mut self.reaching.reach {
            reach.listens_on(&listening, Instant::now());
        }
        *self.shared.listening.write().unwrap_or_else(PoisonError::into_inner) = listening;
        self.update_reached();
    }

    pub(super) fn handle_ports(&mut self, event: &upnp::Event) {
        let reaching = &mut self.reaching;
        let Some(reach) = &mut reaching.reach else { return };
        reaching.router.heard(event);
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router forwards a port to this node");
                reach.mapped(external_addr, Instant::now());
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router forwards a port no longer");
                reach.unmapped(external_addr);
            }
            upnp::Event::GatewayNotFound | upnp::Event::NonRoutableGateway => {}
        }
        self.update_reached();
    }

    pub(super) fn handle_relay(&mut self, event: &relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal: false, .. } = event {
            tracing::info!(relay = %relay_peer_id, "a relay has a place for this node");
            self.reaching.relays.got(relay_peer_id);
        }
    }

    /// A listener has ended: if it was a place at a relay, another one may have to do.
    pub(super) fn note_listener_ended(&mut self, id: ListenerId) {
        if let Some(relay) = self.reaching.places.remove(&id) {
            tracing::debug!(%relay, "there is no place at a relay any longer");
            self.reaching.relays.lost(&relay, Instant::now());
            // The behaviour takes it back only when the connection ends.
            let is_there = |each: &&Multiaddr| address::relay(each).and_then(|at| address::peer(&at)) == Some(relay);
            let gone: Vec<Multiaddr> = self.swarm.external_addresses().filter(is_there).cloned().collect();
            for address in gone {
                self.swarm.remove_external_address(&address);
            }
        }
        self.note_listening();
    }

    /// Whether a peer is a relay that holds a place for us, or carries a connection of ours.
    pub(super) fn is_relay_in_use(&self, peer: &PeerId) -> bool {
        self.reaching.places.values().any(|relay| relay == peer)
            || self.reaching.relayed_connections.values().any(|circuit| circuit.relay == Some(*peer))
    }

    /// A test has ended.
    pub(super) fn handle_test(&mut self, test: &Test, outcome: Outcome) {
        tracing::debug!(address = %test.address, tester = %test.tester, ?outcome, "an address of ours was tested");
        if let Some(reach) = &mut self.reaching.reach {
            reach.tested(test, outcome, Instant::now());
        }
        self.keep_reached();
    }

    /// Begins the tests that are due, and asks relays for places or gives them back. To be called with every tick.
    pub(super) fn keep_reached(&mut self) {
        let now = Instant::now();
        let Some(reach) = &mut self.reaching.reach else { return };
        while let Some(test) = reach.next_test(now) {
            let (streams, nonces) = (self.swarm.behaviour().streams.new_control(), self.reaching.nonces.clone());
            self.reaching.tests.spawn(async move {
                let outcome = autonat::test(streams, test.tester, test.address.clone(), nonces).await;
                (test, outcome)
            });
        }
        self.update_reached();
        self.keep_places(now);
    }

    fn keep_places(&mut self, now: Instant) {
        let reaching = &mut self.reaching;
        let is_needed = reaching.uses_relays && reaching.reach.as_ref().is_some_and(|reach| reach.needs_relay(now));
        let silent = reaching.relays.silent(now);
        let ended: Vec<ListenerId> = reaching
            .places
            .iter()
            .filter(|(_, relay)| !is_needed || silent.contains(relay))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            // Its event tells the rest.
            self.swarm.remove_listener(id);
        }
        if !is_needed {
            return;
        }
        while let Some((relay, address)) = self.reaching.relays.next(now) {
            match self.swarm.listen_on(address) {
                Ok(id) => {
                    self.reaching.places.insert(id, relay);
                }
                Err(error) => {
                    tracing::debug!(%relay, %error, "a relay can't be asked for a place");
                    self.reaching.relays.lost(&relay, now);
                }
            }
        }
    }

    /// Tells the swarm, the DHT and everyone else of addresses under which others reach us now, or no longer.
    pub(super) fn update_reached(&mut self) {
        let confirmed: HashSet<Multiaddr> =
            self.reaching.reach.iter().flat_map(|reach| reach.confirmed().cloned()).collect();
        for address in confirmed.difference(&self.reaching.told) {
            tracing::info!(%address, "others reach this node");
            self.swarm.add_external_address(address.clone());
        }
        for address in self.reaching.told.difference(&confirmed) {
            if !self.shared.external.contains(address) {
                tracing::info!(%address, "others reach this node no longer");
                self.swarm.remove_external_address(address);
            }
        }
        let relayed: Vec<Multiaddr> =
            self.swarm.external_addresses().filter(|address| address::relay(address).is_some()).cloned().collect();
        let is_server = !confirmed.is_empty() || !self.shared.external.is_empty();
        if confirmed != self.reaching.told || relayed != self.reaching.relayed {
            let mut reached: Vec<Multiaddr> = confirmed.iter().cloned().collect();
            reached.sort_unstable_by_key(Multiaddr::to_string);
            reached.extend_from_slice(&relayed);
            *self.shared.reached.write().unwrap_or_else(PoisonError::into_inner) = reached;
            (self.reaching.told, self.reaching.relayed) = (confirmed, relayed);
        }
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            dht::serve(kademlia, is_server);
        }
    }

    pub(super) fn reachability(&self) -> Option<Reachability> {
        let reaching = &self.reaching;
        let reach = reaching.reach.as_ref()?;
        let look = reach.look(reaching.relayed.clone(), Instant::now());
        let relays = reaching.uses_relays.then(|| reaching.relays.known());
        Some(Reachability { router: reaching.router.state, relays, ..look })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_has_forgotten_all_ports_forwards_none() {
        let [tcp, quic]: [Multiaddr; 2] =
            ["/ip4/8.8.8.8/tcp/4001", "/ip4/8.8.8.8/udp/4001/quic-v1"].map(|text| text.parse().unwrap());
        let new = |address: &Multiaddr| upnp::Event::NewExternalAddr {
            local_addr: "/ip4/192.168.1.2/tcp/4001".parse().unwrap(),
            external_addr: address.clone(),
        };
        let expired = |address: &Multiaddr| upnp::Event::ExpiredExternalAddr {
            local_addr: "/ip4/192.168.1.2/tcp/4001".parse().unwrap(),
            external_addr: address.clone(),
        };
        let mut router = Router::new(true);
        for (event, state) in [
            (new(&tcp), RouterState::Mapped),
            (new(&quic), RouterState::Mapped),
            (expired(&tcp), RouterState::Mapped),
            (expired(&quic), RouterState::Missing),
            (new(&quic), RouterState::Mapped),
        ] {
            router.heard(&event);
            assert_eq!(router.state, state, "after {event:?}");
        }
    }
}
