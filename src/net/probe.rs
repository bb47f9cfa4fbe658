//! Looks at this node as a stranger would: dials each address that others are told, and asks for a block there.
//!
//! Each address gets a throw-away identity and a swarm of its own, so that every question goes through the sockets, and every
//! answer comes through the connection that it was asked on: to a peer that it knows the node would answer on the first.
//! Only own addresses are dialled, past the same guard as all others.

mod outcome;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, relay};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use outcome::{NoRoot, Probe, Reached, Root, Scope, Source, Unreached};

use super::bandwidth::Bandwidth;
use super::behaviour::{Bitswap, Event};
use super::handle::NodeHandle;
use super::handler::Lane;
use super::profile::{Profile, Refusal};
use super::{address, transport};
use crate::bitswap::wire::{Incoming, Outgoing, Presence, Protocol, WantEntry, WantKind};
use crate::model::limits::DELEGATES_MAX;

/// Checks that run at the same time in the whole process; others are told to come back.
const CHECKS_RUNNING_MAX: usize = 2;

/// When who was told to come back should: most checks are done in milliseconds.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How long a check may take.
const LIMITS: Limits = Limits { connect: transport::CONNECT_MAX, all: Duration::from_secs(15) };

/// How long looking at one address may take; all are looked at together.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Until there is a connection.
    connect: Duration,
    /// Until the root is there.
    all: Duration,
}

/// Why nothing was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// As many checks run as may.
    #[error("{CHECKS_RUNNING_MAX} checks are running, as many as may at the same time")]
    Busy {
        /// How long to wait.
        wait: Duration,
    },
}

/// Looks at the node from the outside. Clones share the bound of checks that run.
#[derive(Debug, Clone)]
pub struct Prober {
    node: NodeHandle,
    places: Arc<Semaphore>,
}

impl Prober {
    /// For the checks of a whole process.
    pub fn new(node: NodeHandle) -> Self {
        Self { node, places: Arc::new(Semaphore::new(CHECKS_RUNNING_MAX)) }
    }

    /// Asks for a block at every address that others are told, in their order. The answer comes within 15 s. When the caller
    /// doesn't wait for it, the connections end.
    pub async fn probe(&self, root: Cid) -> Result<Vec<Probe>, ProbeError> {
        let _place = self.places.try_acquire().map_err(|_| ProbeError::Busy { wait: BUSY_WAIT })?;
        let (profile, peer) = (self.node.profile(), self.node.peer_id());
        let probes = self.targets().into_iter().map(|(address, source)| async move {
            let scope = Scope::of(&address);
            let outcome = look(peer, &address, profile, root, LIMITS).await;
            Probe { address, scope, source, outcome }
        });
        Ok(futures::future::join_all(probes).await)
    }

    /// The addresses that others are told, and why they are.
    fn targets(&self) -> Vec<(Multiaddr, Source)> {
        let (addresses, last_resort) = self.node.delegates();
        let external: Vec<Multiaddr> = self.node.external().iter().map(address::without_peer).collect();
        let source = |address: &Multiaddr| match last_resort {
            true => Source::LastResort,
            false if external.contains(&address::without_peer(address)) => Source::External,
            false if *self.node.profile() == Profile::Public => Source::Reached,
            false => Source::Listening,
        };
        let targets = addresses.into_iter().take(DELEGATES_MAX);
        targets.map(|address| (address.clone(), source(&address))).collect()
    }
}

/// Dials an address as nobody in particular, and asks the peer there for a block.
async fn look(
    peer: PeerId,
    address: &Multiaddr,
    profile: &Profile,
    root: Cid,
    limits: Limits,
) -> Result<Reached, Unreached> {
    match profile.may_dial(address, true) {
        // A name is judged again, below, by what it leads to.
        Ok(()) | Err(Refusal::Unresolved) => {}
        Err(refusal) => return Err(Unreached::NotAllowed(refusal.to_string())),
    }
    let began = Instant::now();
    let mut swarm = stranger(profile, limits)?;
    let dial = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address.clone()]).build();
    swarm.dial(dial).map_err(|error| Unreached::of(&error, began.elapsed()))?;
    let connected = timeout(limits.connect, connect(&mut swarm, peer, began)).await;
    let handshake = connected.unwrap_or(Err(Unreached::TimedOut(limits.connect)))?;

    let asked = Instant::now();
    let left = limits.all.saturating_sub(began.elapsed());
    swarm.behaviour_mut().bitswap.send(peer, Lane::Wants, want(root));
    let mut protocol = None;
    let answered = timeout(left, answer(&mut swarm, peer, root, &mut protocol)).await;
    let root = answered.unwrap_or(Err(NoRoot::TimedOut(left))).map(|bytes| Root { after: asked.elapsed(), bytes });
    Ok(Reached { handshake, protocol, root })
}

/// What a node speaks that nobody knows: Bitswap, and what leads it through relays.
#[derive(NetworkBehaviour)]
struct Stranger {
    bitswap: Bitswap,
    relays: relay::client::Behaviour,
}

/// A node that nobody knows.
fn stranger(profile: &Profile, limits: Limits) -> Result<Swarm<Stranger>, Unreached> {
    let keypair = Keypair::generate_ed25519();
    let (transport, relays) = transport::build(&keypair, profile.clone(), &Bandwidth::unbounded())
        .map_err(|error| Unreached::Failed(error.to_string()))?;
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(limits.all);
    let behaviour = Stranger { bitswap: Bitswap::default(), relays };
    Ok(Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config))
}

/// Waits for the connection, and returns how long it took to make.
async fn connect(swarm: &mut Swarm<Stranger>, peer: PeerId, began: Instant) -> Result<Duration, Unreached> {
    loop {
        // The relay that leads there is only a part of the way.
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => return Ok(began.elapsed()),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } if peer_id.is_none_or(|at| at == peer) => {
                return Err(Unreached::of(&error, began.elapsed()));
            }
            _ => {}
        }
    }
}

/// Waits for the block, and returns its length. What the stream speaks is told as soon as it is known.
async fn answer(
    swarm: &mut Swarm<Stranger>,
    peer: PeerId,
    root: Cid,
    protocol: &mut Option<Protocol>,
) -> Result<usize, NoRoot> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(StrangerEvent::Bitswap(Event::Agreed(by, agreed))) if by == peer => {
                *protocol = Some(agreed);
            }
            SwarmEvent::Behaviour(StrangerEvent::Bitswap(Event::Message(by, message))) if by == peer => {
                if let Some(answer) = read(&message, root) {
                    return answer;
                }
            }
            SwarmEvent::Behaviour(StrangerEvent::Bitswap(event)) => match event {
                Event::Unsupported(by) if by == peer => return Err(NoRoot::NoBitswap),
                Event::Misbehaved(by, reason) if by == peer => return Err(NoRoot::Unreadable(reason)),
                Event::Sent(by, _, false) | Event::Disconnected(by) if by == peer => return Err(NoRoot::Lost),
                _ => {}
            },
            _ => {}
        }
    }
}

/// What a message says about the root; nothing, if it is about something else. Its blocks were hashed when it was read.
fn read(message: &Incoming, root: Cid) -> Option<Result<usize, NoRoot>> {
    let found = message.blocks.iter().find_map(|block| block.relabel(root));
    if let Some(block) = found {
        return Some(Ok(block.data().len()));
    }
    let about_root = |(cid, _): &&(Cid, Presence)| cid.hash() == root.hash();
    match message.presences.iter().find(about_root) {
        Some((_, Presence::DontHave)) => Some(Err(NoRoot::Missing)),
        // Nothing but the root was asked for.
        _ if !message.blocks.is_empty() => Some(Err(NoRoot::WrongBlock)),
        _ => None,
    }
}

fn want(root: Cid) -> Outgoing {
    let entry = WantEntry { cid: root, priority: 1, cancel: false, kind: WantKind::Block, send_dont_have: true };
    Outgoing { wants: vec![entry], full: true, ..Outgoing::default() }
}
