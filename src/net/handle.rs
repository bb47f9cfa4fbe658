//! How the rest of the program talks to the node.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cid::Cid;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::address;
use super::bandwidth::{Bandwidth, Counted};
use super::dht::announce::AnnounceError;
use super::dht::{DhtStatus, ProviderNews, Server};
use super::profile::{self, Profile};
use super::reachability::Reachability;
use super::session::{SessionEvent, SessionHandle};
use super::websocket::{ByteStream, Guest};
use crate::bitswap::PeerNumber;
use crate::bitswap::session::Action;
use crate::bitswap::wants::SessionId;
use crate::model::{Block, Traffic};

/// News of one look-up that wait; providers beyond are left out, as there are enough.
const PROVIDER_NEWS_QUEUED_MAX: usize = 64;

/// The node has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network node has stopped")]
pub struct NodeGone;

/// What the node is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Dial(PeerId, Vec<Multiaddr>),
    Protect(PeerId),
    Unprotect(PeerId),
    OpenSession(SessionId, Vec<PeerId>, mpsc::UnboundedSender<SessionEvent>),
    AddSources(SessionId, Vec<PeerId>),
    CloseSession(SessionId),
    Act(SessionId, Vec<Action>),
    Came(PeerNumber, Block),
    Stored(Vec<Cid>),
    Watch(Cid),
    Unwatch(Cid),
    FindProviders(Cid, mpsc::Sender<ProviderNews>),
    FindServers(Vec<u8>, oneshot::Sender<Vec<Server>>),
    Announce(Server, Arc<[Vec<u8>]>, oneshot::Sender<Result<u64, AnnounceError>>),
    NumberOf(PeerId, oneshot::Sender<Option<PeerNumber>>),
    Status(oneshot::Sender<NodeStatus>),
    Stop,
}

/// What the node reports without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A peer connected.
    PeerConnected(PeerId, PeerNumber),
    /// A peer is connected no longer.
    PeerGone(PeerId),
    /// A peer that was dialled can't be reached, for this reason.
    DialFailed(PeerId, String),
    /// A peer says that it has a watched root.
    Offered(Cid),
}

/// A look at the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Connected peers.
    pub peers: usize,
    /// Established connections.
    pub connections: u32,
    /// Our part in the DHT, unless it is off.
    pub dht: Option<DhtStatus>,
    /// How many of the peers that are to be kept connected are, and how many there are.
    pub peering: (usize, usize),
    /// Whether the process takes more memory than `network.memory_max`, so that nobody comes in.
    pub is_memory_exceeded: bool,
    /// Whether others reach this node; unknown in a network of one's own.
    pub reachability: Option<Reachability>,
}

/// What both sides read.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer_id: PeerId,
    pub(super) profile: Profile,
    pub(super) external: Vec<Multiaddr>,
    /// Where others come over WebSocket.
    pub(super) web_socket: Option<Multiaddr>,
    /// Where streams go that came over WebSocket.
    pub(super) guests: mpsc::Sender<Guest>,
    /// Addresses that others have reached us under, and those at relays.
    pub(super) reached: RwLock<Vec<Multiaddr>>,
    pub(super) listening: RwLock<Vec<Multiaddr>>,
    pub(super) next_session: AtomicU64,
    pub(super) served: Traffic,
    pub(super) bandwidth: Arc<Bandwidth>,
    pub(super) has_dht: bool,
}

impl Shared {
    fn delegates(&self) -> (Vec<Multiaddr>, bool) {
        let mut confirmed = self.external.clone();
        confirmed.extend_from_slice(&self.reached.read().unwrap_or_else(PoisonError::into_inner));
        confirmed.extend(self.web_socket.clone());
        let listening = self.listening.read().unwrap_or_else(PoisonError::into_inner);
        profile::delegates(&self.profile, &confirmed, &listening, self.peer_id)
    }

    /// The addresses for records of what we provide, without our id: those that may be told to anyone, none if there are none.
    pub(super) fn provider_addresses(&self) -> Vec<Multiaddr> {
        let (addresses, is_unsure) = self.delegates();
        if is_unsure { Vec::new() } else { addresses.iter().map(address::without_peer).collect() }
    }
}

/// The node, for its users. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

impl NodeHandle {
    /// Our own peer id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer_id
    }

    /// Which addresses may be dialled and announced.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// The addresses that clients are told to dial, each ending in our peer id. `true` says that none of them is
    /// known to be reachable.
    pub fn delegates(&self) -> (Vec<Multiaddr>, bool) {
        self.shared.delegates()
    }

    /// The addresses that the operator named as those under which others reach the node.
    pub fn external(&self) -> &[Multiaddr] {
        &self.shared.external
    }

    /// The addresses that the node listens on, of every interface.
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.shared.listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a stream that came over WebSocket from this address. `false` says that too many wait.
    pub fn welcome(&self, stream: ByteStream, from: IpAddr) -> bool {
        self.shared.guests.try_send(Guest { stream, from }).is_ok()
    }

    /// Dials a peer in the background, unless it is connected or being dialled.
    pub async fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), NodeGone> {
        self.send(Command::Dial(peer, addresses)).await
    }

    /// Keeps connections to a peer open until as many [`NodeHandle::unprotect`] follow.
    pub async fn protect(&self, peer: PeerId) -> Result<(), NodeGone> {
        self.send(Command::Protect(peer)).await
    }

    /// Takes one [`NodeHandle::protect`] back.
    pub async fn unprotect(&self, peer: PeerId) -> Result<(), NodeGone> {
        self.send(Command::Unprotect(peer)).await
    }

    /// Opens a session. Peers that are connected are told at once.
    pub async fn open_session(&self, sources: Vec<PeerId>) -> Result<SessionHandle, NodeGone> {
        let id = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::unbounded_channel();
        self.send(Command::OpenSession(id, sources, sender)).await?;
        Ok(SessionHandle { id, commands: self.commands.clone(), events })
    }

    /// Blocks became readable: peers that wait for them get them.
    pub async fn stored(&self, cids: Vec<Cid>) -> Result<(), NodeGone> {
        self.send(Command::Stored(cids)).await
    }

    /// Asks each peer that connects from now on whether it has this root, and reports [`NodeEvent::Offered`].
    pub async fn watch(&self, root: Cid) -> Result<(), NodeGone> {
        self.send(Command::Watch(root)).await
    }

    /// Takes one [`NodeHandle::watch`] back.
    pub async fn unwatch(&self, root: Cid) -> Result<(), NodeGone> {
        self.send(Command::Unwatch(root)).await
    }

    /// Whether the node takes part in the DHT.
    pub fn has_dht(&self) -> bool {
        self.shared.has_dht
    }

    /// Asks the DHT who has a block. Each peer that it names is dialled at once; the channel is closed after
    /// [`ProviderNews::Ended`], and without it when too many look-ups run. Dropping the receiver ends the look-up.
    pub async fn find_providers(&self, cid: Cid) -> Result<mpsc::Receiver<ProviderNews>, NodeGone> {
        let (news, receiver) = mpsc::channel(PROVIDER_NEWS_QUEUED_MAX);
        self.send(Command::FindProviders(cid, news)).await?;
        Ok(receiver)
    }

    /// The servers of the DHT that are nearest to the place of these bytes: 20 as a rule, none where it can't be asked.
    pub async fn find_servers(&self, place: Vec<u8>) -> Result<Vec<Server>, NodeGone> {
        let (reply, servers) = oneshot::channel();
        self.send(Command::FindServers(place, reply)).await?;
        Ok(servers.await.unwrap_or_default())
    }

    /// Tells a server of the DHT that we have what these multihashes name, under the addresses of [`NodeHandle::delegates`].
    /// Returns how many bytes that took.
    pub async fn announce(&self, server: Server, multihashes: Arc<[Vec<u8>]>) -> Result<u64, AnnounceError> {
        let (reply, outcome) = oneshot::channel();
        let gone = || AnnounceError::Write(std::io::Error::other(NodeGone));
        self.send(Command::Announce(server, multihashes, reply)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Blocks, and their bytes, that were read for peers since the start.
    pub fn served(&self) -> (u64, u64) {
        self.shared.served.total()
    }

    /// What went over the network since the start.
    pub fn transferred(&self) -> Vec<Counted> {
        self.shared.bandwidth.counted()
    }

    /// The number that a peer has while it is connected.
    pub async fn number_of(&self, peer: PeerId) -> Result<Option<PeerNumber>, NodeGone> {
        let (reply, number) = oneshot::channel();
        self.send(Command::NumberOf(peer, reply)).await?;
        number.await.map_err(|_| NodeGone)
    }

    /// A look at the node.
    pub async fn status(&self) -> Result<NodeStatus, NodeGone> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Status(sender)).await?;
        receiver.await.map_err(|_| NodeGone)
    }

    /// Tells the node to stop; its task ends soon after.
    pub async fn stop(&self) {
        let _ = self.send(Command::Stop).await;
    }

    async fn send(&self, command: Command) -> Result<(), NodeGone> {
        self.commands.send(command).await.map_err(|_| NodeGone)
    }
}
