//! Everything the node speaks: Bitswap, the DHT, identify and ping, within connection limits.
//!
//! The Bitswap behaviour only carries messages: it knows which connection of a peer takes them and which are
//! unanswered when a connection ends. What they say is decided in `bitswap`.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, connection_limits, dcutr, identify, relay};

use super::crowding::Crowding;
use super::dht::Kademlia;
use super::handler::{FromHandler, Handler, Lane, ToHandler};
use super::pings::Pings;
use super::port_mapping::PortMapping;
use crate::bitswap::wire::{Incoming, Outgoing, Protocol};

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    /// Refuses connections over the limits.
    pub limits: connection_limits::Behaviour,
    /// The same for each machine.
    pub crowding: Crowding,
    /// Tells peers who we are and which protocols we speak.
    pub identify: identify::Behaviour,
    /// Answers pings, and finds connections that are dead.
    pub ping: Pings,
    /// Blocks.
    pub bitswap: Bitswap,
    /// Our part in the DHT, unless it is off.
    pub dht: Toggle<Kademlia>,
    /// Streams to DHT servers that are told what we have.
    pub streams: libp2p_stream::Behaviour,
    /// Places for us at relays, and connections through them.
    pub relays: relay::client::Behaviour,
    /// Makes direct connections out of those, through the NATs of both sides.
    pub direct: dcutr::Behaviour,
    /// Has the router forward our ports, in the public profile.
    pub ports: Toggle<PortMapping>,
}

/// What the Bitswap behaviour reports.
#[derive(Debug)]
pub enum Event {
    /// The first connection to a peer is up.
    Connected(PeerId),
    /// The last connection to a peer is gone.
    Disconnected(PeerId),
    /// A peer doesn't speak Bitswap.
    Unsupported(PeerId),
    /// A message came.
    Message(PeerId, Incoming),
    /// A part came of a message that takes its time.
    Part(PeerId),
    /// The oldest unacknowledged message of the lane was written, or lost.
    Sent(PeerId, Lane, bool),
    /// A stream for our messages is open, and this is what it speaks.
    Agreed(PeerId, Protocol),
    /// A peer broke the rules of the protocol, and its stream was ended.
    Misbehaved(PeerId, String),
}

#[derive(Debug, Default)]
struct Connection {
    id: Option<ConnectionId>,
    /// Messages of each [`Lane`].
    unsent: [usize; Lane::ALL.len()],
    unsupported: bool,
}

#[derive(Debug, Default)]
struct Peer {
    connections: Vec<Connection>,
    keep_alive: bool,
    /// The node was told that the peer doesn't speak Bitswap.
    mute: bool,
}

/// The Bitswap behaviour.
#[derive(Debug, Default)]
pub struct Bitswap {
    peers: HashMap<PeerId, Peer>,
    queue: VecDeque<ToSwarm<Event, ToHandler>>,
    waker: Option<Waker>,
}

impl Bitswap {
    /// Sends a message on one of the peer's connections. Exactly one [`Event::Sent`] follows, unless the peer
    /// disconnects first.
    pub fn send(&mut self, peer: PeerId, lane: Lane, message: Outgoing) {
        let connection = self.peers.get_mut(&peer).and_then(|state| {
            // All messages of a peer go through one connection while it lives, so that they keep their order.
            state.connections.iter_mut().find(|connection| !connection.unsupported)
        });
        match connection {
            Some(Connection { id: Some(id), unsent, .. }) => {
                unsent[lane as usize] += 1;
                let handler = NotifyHandler::One(*id);
                self.push(ToSwarm::NotifyHandler { peer_id: peer, handler, event: ToHandler::Send(lane, message) });
            }
            _ => self.push(ToSwarm::GenerateEvent(Event::Sent(peer, lane, false))),
        }
    }

    /// Says whether the connections to a peer have to stay open when they are idle.
    pub fn keep_alive(&mut self, peer: PeerId, keep_alive: bool) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if std::mem::replace(&mut state.keep_alive, keep_alive) == keep_alive {
            return;
        }
        let ids: Vec<ConnectionId> = state.connections.iter().filter_map(|connection| connection.id).collect();
        for id in ids {
            let handler = NotifyHandler::One(id);
            self.push(ToSwarm::NotifyHandler { peer_id: peer, handler, event: ToHandler::KeepAlive(keep_alive) });
        }
    }

    fn push(&mut self, event: ToSwarm<Event, ToHandler>) {
        self.queue.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler_for(&self, peer: &PeerId) -> Handler {
        Handler::new(self.peers.get(peer).is_some_and(|state| state.keep_alive))
    }

    /// None of the peer's connections takes messages: for the node it is gone, until it speaks Bitswap after all.
    fn silence(&mut self, peer: PeerId) {
        self.keep_alive(peer, false);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !std::mem::replace(&mut state.mute, true) {
            self.push(ToSwarm::GenerateEvent(Event::Unsupported(peer)));
        }
    }

    fn connection_closed(&mut self, peer: PeerId, id: ConnectionId, remaining: usize) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let position = state.connections.iter().position(|connection| connection.id == Some(id));
        let closed = position.map(|position| state.connections.remove(position)).unwrap_or_default();
        if remaining == 0 {
            self.peers.remove(&peer);
            self.push(ToSwarm::GenerateEvent(Event::Disconnected(peer)));
            return;
        }
        if state.connections.iter().all(|connection| connection.unsupported) {
            self.silence(peer);
            return;
        }
        for lane in Lane::ALL {
            for _ in 0..closed.unsent[lane as usize] {
                self.push(ToSwarm::GenerateEvent(Event::Sent(peer, lane, false)));
            }
        }
        // Whatever was written on the lost connection may not have arrived: say all wants again on the other.
        self.push(ToSwarm::GenerateEvent(Event::Sent(peer, Lane::Wants, false)));
    }
}

impl NetworkBehaviour for Bitswap {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler_for(&peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler_for(&peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let peer = established.peer_id;
                let state = self.peers.entry(peer).or_default();
                let first = state.connections.is_empty();
                state.connections.push(Connection { id: Some(established.connection_id), ..Connection::default() });
                if first || std::mem::take(&mut state.mute) {
                    self.push(ToSwarm::GenerateEvent(Event::Connected(peer)));
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                self.connection_closed(peer_id, connection_id, remaining_established);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let state = self.peers.get_mut(&peer);
        let connection =
            state.and_then(|state| state.connections.iter_mut().find(|connection| connection.id == Some(id)));
        let event = match event {
            FromHandler::Message(message) => Event::Message(peer, message),
            FromHandler::Part => Event::Part(peer),
            FromHandler::Misbehaved(reason) => Event::Misbehaved(peer, reason),
            FromHandler::Agreed(protocol) => Event::Agreed(peer, protocol),
            FromHandler::Sent(lane, delivered) => {
                if let Some(connection) = connection {
                    let unsent = &mut connection.unsent[lane as usize];
                    *unsent = unsent.saturating_sub(1);
                }
                Event::Sent(peer, lane, delivered)
            }
            FromHandler::Unsupported => {
                if let Some(connection) = connection {
                    connection.unsupported = true;
                }
                let state = self.peers.get(&peer);
                if state.is_none_or(|state| state.connections.iter().all(|connection| connection.unsupported)) {
                    self.silence(peer);
                }
                return;
            }
            FromHandler::Supported => {
                if let Some(connection) = connection {
                    connection.unsupported = false;
                }
                let mute = self.peers.get_mut(&peer).is_some_and(|state| std::mem::take(&mut state.mute));
                if !mute {
                    return;
                }
                Event::Connected(peer)
            }
        };
        self.push(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
