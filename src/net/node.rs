//! The node's event loop: the only place where the swarm, the wantlists and the ledgers meet.
//!
//! It never waits for the disk (reading is handed to the blocking pool) nor for a session (their channels never
//! fill up), because everything that peers send passes through it.

mod lookups;
mod peering;
mod reach;
mod water;

use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, RwLock, atomic::AtomicU64};
use std::time::{Duration, Instant};

use cid::Cid;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, dcutr, identify, ping, swarm};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::peering::Kept;
use self::reach::Reaching;
use self::water::Connected;
use super::bandwidth::Bandwidth;
use super::behaviour::{self, Behaviour, BehaviourEvent, Bitswap};
use super::crowding::Crowding;
use super::handle::{Command, NodeEvent, NodeHandle, NodeStatus, Shared};
use super::handler::Lane;
use super::pings::Pings;
use super::port_mapping::PortMapping;
use super::problem::{dial_problem, innermost};
use super::profile::{self, Profile};
use super::repolled::Repolled;
use super::serve;
use super::session::SessionEvent;
use super::websocket::{GUESTS_QUEUED_MAX, Guest, Trust};
use super::{DhtChoice, Options, address, buffers, dht, listening, transport};
use crate::bitswap::PeerNumber;
use crate::bitswap::serve::{Answer, ReadJob, ReadResult, Server};
use crate::bitswap::session::Action;
use crate::bitswap::wants::{SessionId, Wants};
use crate::bitswap::wire::{Incoming, Presence, WantEntry, WantKind};
use crate::denylist::Denylist;
use crate::model::Block;
use crate::model::limits::{CONNECTIONS_PER_PEER_MAX, NODE_COMMANDS_QUEUED_MAX, WATCHED_ROOTS_MAX};
use crate::store::blocks::BlockReader;

/// How long a connection stays that neither side needs. Coming back costs a handshake; staying costs some memory.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// How often connected peers are asked again who they are. They tell by themselves when that changes, as Kubo does, so this is for others.
const IDENTIFY_EVERY: Duration = Duration::from_hours(1);

/// How often connections that nobody needs are looked for.
const TICK: Duration = Duration::from_secs(5);

/// Connections that are being made at the same time, each way.
const PENDING_CONNECTIONS_MAX: u32 = 256;

/// Events for the runner that wait; more are dropped, since each is only a reason to look sooner.
const NODE_EVENTS_QUEUED_MAX: usize = 4096;

/// Commands that are carried out in a row before the swarm gets its turn.
const COMMANDS_IN_A_ROW_MAX: usize = 64;

/// The session that asks newly connected peers for the roots that wait.
const WATCH_SESSION: SessionId = SessionId(0);

/// Why the node can't start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The transports can't be set up.
    #[error("the network transports can't be set up: {0}")]
    Transport(#[source] io::Error),
    /// The interfaces can't be listed.
    #[error("the network interfaces can't be listed: {0}")]
    Interfaces(#[source] io::Error),
    /// A listen address is taken or not of this machine.
    #[error(
        "can't listen for peers on {address}: {reason}; choose another with --listen MULTIADDR or the key network.listen"
    )]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system says.
        reason: String,
    },
    /// There is no address to listen on.
    #[error("there is no address to listen on for peers: set network.listen or --listen")]
    NoListener,
}

/// What a node can do without.
#[derive(Debug, Default)]
pub struct Extras {
    /// What isn't served.
    pub denylist: Denylist,
    /// Where the servers of the DHT that are known are kept over restarts.
    pub servers_file: Option<PathBuf>,
    /// Under which address others come over WebSocket, if they do.
    pub web_socket: Option<Multiaddr>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// To talk to it.
    pub handle: NodeHandle,
    /// What it reports.
    pub events: mpsc::Receiver<NodeEvent>,
    /// Ends when the node has stopped.
    pub task: JoinHandle<()>,
}

impl Node {
    /// Starts a node and waits until it listens on every address.
    pub async fn start(keypair: Keypair, options: &Options, reader: BlockReader) -> Result<Self, NodeError> {
        Self::start_with(keypair, options, reader, Extras::default()).await
    }

    /// The same with what a whole service has besides.
    pub async fn start_with(
        keypair: Keypair,
        options: &Options,
        reader: BlockReader,
        Extras { denylist, servers_file, web_socket }: Extras,
    ) -> Result<Self, NodeError> {
        let interfaces = profile::interfaces().map_err(NodeError::Interfaces)?;
        let profile = profile::resolve(options.profile, &options.external, &interfaces);
        let peer_id = keypair.public().to_peer_id();
        let has_dht = match options.dht {
            DhtChoice::Auto => profile == Profile::Public,
            DhtChoice::On => true,
            DhtChoice::Off => false,
        };
        // Only a router can help who has no address of the Internet's; whoever has one sends nothing to the networks around.
        let has_global_interface = interfaces.iter().any(|own| address::reach(own.address) == address::Reach::Global);
        let maps_ports = options.upnp && profile == Profile::Public && !has_global_interface;
        let bandwidth = Bandwidth::new(options);
        let (guests, doors) = doors();
        let transport =
            transport::build_with(&keypair, profile.clone(), &bandwidth, doors).map_err(NodeError::Transport)?;
        let mut swarm = build_swarm(&keypair, options, &profile, has_dht, maps_ports, transport);
        let web_socket = web_socket.filter(|address| profile.may_announce(address));
        for address in options.external.iter().chain(&web_socket) {
            swarm.add_external_address(address.clone());
        }
        let early = listen(&mut swarm, &options.listen).await?;
        let (commands, command_receiver) = mpsc::channel(NODE_COMMANDS_QUEUED_MAX);
        let (events, event_receiver) = mpsc::channel(NODE_EVENTS_QUEUED_MAX);
        let shared = Arc::new(Shared {
            served: crate::model::Traffic::default(),
            bandwidth,
            peer_id,
            profile,
            external: options.external.clone(),
            web_socket,
            guests,
            reached: RwLock::default(),
            listening: RwLock::default(),
            next_session: AtomicU64::new(WATCH_SESSION.0 + 1),
            has_dht,
        });
        let reaching = Reaching::new(options, &shared.profile, maps_ports, &swarm.behaviour().streams);
        let servers = known_servers(servers_file.clone()).await;
        let (read_sender, read_results) = mpsc::unbounded_channel();
        let mut event_loop = EventLoop {
            swarm,
            shared: Arc::clone(&shared),
            events,
            numbers: HashMap::new(),
            peers: HashMap::new(),
            next_number: 0,
            wants: Wants::default(),
            server: Server::default(),
            sessions: HashMap::new(),
            protected: HashMap::new(),
            watched: HashMap::new(),
            reader,
            denylist,
            read_sender,
            idle: HashSet::new(),
            lookups: dht::Queries::default(),
            entrances: dht::Entrances::new(&options.bootstrap),
            peering: Kept::all(&options.peering, Instant::now()),
            connected: Connected::default(),
            connections_max: options.connections_max,
            quiet_connections_max: options.quiet_connections_max,
            reaching,
            servers_file,
            servers_saved_at: Instant::now(),
        };
        event_loop.note_listening();
        event_loop.enter_dht();
        event_loop.enter_dht_by(&servers);
        for event in early {
            event_loop.handle_bitswap(event);
        }
        let task = tokio::spawn(Repolled::new(Box::pin(event_loop.run(command_receiver, read_results))));
        Ok(Self { handle: NodeHandle { commands, shared }, events: event_receiver, task })
    }
}

/// What was written down when this node ran last.
async fn known_servers(file: Option<PathBuf>) -> Vec<(PeerId, Multiaddr)> {
    let Some(file) = file else { return Vec::new() };
    let loaded = tokio::task::spawn_blocking(move || dht::known::load(&file)).await.map_err(io::Error::other);
    loaded.flatten().unwrap_or_else(|error| {
        tracing::warn!(%error, "the servers of the DHT that were known can't be read");
        Vec::new()
    })
}

fn build_swarm(
    keypair: &Keypair,
    options: &Options,
    profile: &Profile,
    has_dht: bool,
    maps_ports: bool,
    (transport, relays): transport::WithRelays,
) -> Swarm<Behaviour> {
    let identify = identify::Config::new("ipfs/0.1.0".into(), keypair.public())
        .with_agent_version(concat!("pinnace/", env!("CARGO_PKG_VERSION")).into())
        .with_interval(IDENTIFY_EVERY)
        // Without this, identify tells the whole world our private addresses.
        .with_hide_listen_addrs(matches!(profile, Profile::Public))
        // Peers that are connected already learn where we are reached, too.
        .with_push_listen_addr_updates(true);
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_CONNECTIONS_MAX))
        .with_max_pending_outgoing(Some(PENDING_CONNECTIONS_MAX))
        .with_max_established(Some(options.connections_max))
        // Strangers must not take the places that dialling origins needs.
        .with_max_established_incoming(Some(options.connections_max - options.connections_max / 8))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        crowding: Crowding::new(
            PENDING_CONNECTIONS_MAX / 2,
            (options.connections_max / 4).max(1),
            options.memory_max.as_u64(),
        ),
        identify: identify::Behaviour::new(identify),
        ping: Pings::default(),
        bitswap: Bitswap::default(),
        dht: dht::behaviour(keypair.public().to_peer_id(), has_dht).into(),
        streams: libp2p_stream::Behaviour::new(),
        relays,
        direct: dcutr::Behaviour::new(keypair.public().to_peer_id()),
        ports: maps_ports.then(PortMapping::default).into(),
    };
    let config = swarm::Config::with_executor(|task| drop(tokio::spawn(Repolled::new(task))))
        .with_idle_connection_timeout(IDLE_MAX)
        // QUIC first, TCP a quarter of a second later, as Kubo does: dialling all addresses at once costs a handshake for each, of
        // which all but one are for nothing.
        .with_smart_dial();
    Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config)
}

/// The way in for streams that come over WebSocket: where to put them, and where they come out.
fn doors() -> (mpsc::Sender<Guest>, transport::Doors) {
    let (sender, guests) = mpsc::channel(GUESTS_QUEUED_MAX);
    (sender, transport::Doors { trust: Trust::default(), guests })
}

/// Listens on all addresses and waits until each is bound. An address family that the machine lacks is skipped with a
/// warning, as long as another listener works. Returns what peers that were quicker did meanwhile.
async fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<Vec<behaviour::Event>, NodeError> {
    let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
    let mut early = Vec::new();
    for address in addresses {
        if let Err(error) = listening::probe(address) {
            skip_or_fail(address, &error)?;
            continue;
        }
        match swarm.listen_on(address.clone()) {
            Ok(id) => {
                waiting.insert(id, address.clone());
            }
            Err(error) => skip_or_fail(address, &error)?,
        }
    }
    while !waiting.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                waiting.remove(&listener_id);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(address) = waiting.remove(&listener_id) {
                    let error = reason.err().unwrap_or_else(|| io::Error::other("the listener was closed"));
                    skip_or_fail(&address, &error)?;
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Bitswap(event)) => early.push(event),
            _ => {}
        }
    }
    if swarm.listeners().next().is_none() {
        return Err(NodeError::NoListener);
    }
    #[cfg(target_os = "linux")]
    super::udp_buffers::enlarge();
    Ok(early)
}

fn skip_or_fail(address: &Multiaddr, error: &(dyn std::error::Error + 'static)) -> Result<(), NodeError> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io_error) = current.downcast_ref::<io::Error>() {
            // EAFNOSUPPORT has no kind of its own.
            let no_such_family = io_error.raw_os_error() == Some(97);
            if no_such_family || io_error.kind() == io::ErrorKind::AddrNotAvailable {
                tracing::warn!(%address, "not listening there, as this machine has no such address");
                return Ok(());
            }
        }
        cause = current.source();
    }
    Err(NodeError::Listen { address: address.clone(), reason: innermost(error) })
}

struct SessionState {
    sources: HashSet<PeerId>,
    events: mpsc::UnboundedSender<SessionEvent>,
}

struct EventLoop {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    events: mpsc::Sender<NodeEvent>,
    numbers: HashMap<PeerId, PeerNumber>,
    peers: HashMap<PeerNumber, PeerId>,
    next_number: u64,
    wants: Wants,
    server: Server,
    sessions: HashMap<SessionId, SessionState>,
    protected: HashMap<PeerId, usize>,
    /// How many pins wait for each root.
    watched: HashMap<Cid, usize>,
    reader: BlockReader,
    denylist: Denylist,
    /// Not bounded by itself: the server gives out a bounded number of jobs.
    read_sender: mpsc::UnboundedSender<(ReadJob, ReadResult)>,
    /// Peers that weren't needed when last looked at.
    idle: HashSet<PeerNumber>,
    /// Look-ups in the DHT.
    lookups: dht::Queries,
    entrances: dht::Entrances,
    /// Peers that the operator wants to be connected with.
    peering: Vec<Kept>,
    connected: Connected,
    connections_max: u32,
    quiet_connections_max: u32,
    reaching: Reaching,
    servers_file: Option<PathBuf>,
    servers_saved_at: Instant,
}

impl EventLoop {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut read_results: mpsc::UnboundedReceiver<(ReadJob, ReadResult)>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.handle_tick(),
                event = self.swarm.select_next_some() => self.handle_swarm_event(event),
                command = commands.recv() => {
                    let mut next = command;
                    for carried_out in 1..=COMMANDS_IN_A_ROW_MAX {
                        match next {
                            None | Some(Command::Stop) => {
                                if let Some(saving) = self.save_servers() {
                                    // It has logged what went wrong.
                                    let _ = saving.await;
                                }
                                return;
                            }
                            Some(command) => self.handle_command(command),
                        }
                        // What is taken out of the queue has to be carried out, so the last one is not followed.
                        if carried_out == COMMANDS_IN_A_ROW_MAX {
                            break;
                        }
                        match commands.try_recv() {
                            Ok(command) => next = Some(command),
                            Err(_) => break,
                        }
                    }
                }
                Some(Ok((test, outcome))) = self.reaching.tests.join_next() => self.handle_test(&test, outcome),
                result = read_results.recv() => {
                    if let Some((job, result)) = result {
                        self.handle_read(&job, result);
                    }
                }
            }
            self.pump();
        }
    }

    /// Carries out what the cores have ready.
    fn pump(&mut self) {
        while let Some(job) = self.server.poll_job() {
            let (reader, results) = (self.reader.clone(), self.read_sender.clone());
            let denylist = self.denylist.clone();
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || {
                let read = std::panic::catch_unwind(AssertUnwindSafe(|| serve::read(&reader, &denylist, &job)));
                // A job that is never answered would keep its place for ever.
                let result = read.unwrap_or_else(|_| ReadResult {
                    missing: job.wants.iter().map(|(cid, _)| *cid).collect(),
                    ..ReadResult::default()
                });
                let bytes = result.blocks.iter().map(|(_, data)| data.len() as u64).sum();
                shared.served.add(result.blocks.len() as u64, bytes);
                let _ = results.send((job, result));
            });
        }
        while let Some((number, message)) = self.wants.poll_message() {
            match self.peers.get(&number) {
                Some(peer) => {
                    let first = message.wants.iter().find(|want| want.kind == WantKind::Block && !want.cancel);
                    if let Some(WantEntry { cid, .. }) = first {
                        tracing::debug!(%cid, %peer, "a peer is asked for blocks");
                    }
                    self.swarm.behaviour_mut().bitswap.send(*peer, Lane::Wants, message);
                }
                None => self.wants.sent(number, true),
            }
        }
    }

    fn handle_read(&mut self, job: &ReadJob, result: ReadResult) {
        let Answer { presences, blocks } = self.server.handle_read(job, result);
        if let Some(peer) = self.peers.get(&job.peer) {
            for (lane, message) in [(Lane::Presences, presences), (Lane::Blocks, blocks)] {
                if let Some(message) = message {
                    self.swarm.behaviour_mut().bitswap.send(*peer, lane, message);
                }
            }
        }
        self.update_keep_alive(job.peer);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Dial(peer, addresses) => self.dial(peer, addresses),
            Command::Protect(peer) => {
                *self.protected.entry(peer).or_default() += 1;
                self.update_keep_alive_of(&peer);
            }
            Command::Unprotect(peer) => {
                if let Some(count) = self.protected.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        self.protected.remove(&peer);
                    }
                }
                self.update_keep_alive_of(&peer);
            }
            Command::OpenSession(id, sources, events) => {
                let state = SessionState { sources: sources.into_iter().collect(), events };
                for (number, peer) in &self.peers {
                    let source = state.sources.contains(peer);
                    let _ = state.events.send(SessionEvent::PeerConnected { peer: *number, source });
                }
                self.sessions.insert(id, state);
            }
            Command::AddSources(id, sources) => {
                let Some(state) = self.sessions.get_mut(&id) else { return };
                for peer in sources {
                    if state.sources.insert(peer)
                        && let Some(number) = self.numbers.get(&peer)
                    {
                        let _ = state.events.send(SessionEvent::PeerConnected { peer: *number, source: true });
                    }
                }
            }
            Command::CloseSession(id) => {
                self.sessions.remove(&id);
                self.wants.close_session(id);
                self.update_keep_alive_of_all();
            }
            Command::Act(id, actions) => {
                // A session that is closed already would leave wants that nobody takes back.
                if self.sessions.contains_key(&id) {
                    self.act(id, actions);
                }
            }
            Command::Came(from, block) => {
                self.deliver(from, &block);
                self.update_keep_alive_of_all();
            }
            Command::Stored(cids) => self.server.handle_stored(&cids),
            Command::Watch(root) => self.watch(root),
            Command::Unwatch(root) => self.unwatch(root),
            Command::FindProviders(cid, news) => self.find_providers(&cid, news),
            Command::FindServers(place, reply) => self.find_servers(place, reply),
            Command::Announce(server, multihashes, reply) => self.announce(server, multihashes, reply),
            Command::NumberOf(peer, reply) => {
                let _ = reply.send(self.numbers.get(&peer).copied());
            }
            Command::Status(reply) => {
                let info = self.swarm.network_info();
                let connections = info.connection_counters().num_established();
                let (dht, peering) = (self.dht_status(), self.peering_status());
                let reachability = self.reachability();
                let is_memory_exceeded = self.swarm.behaviour_mut().crowding.is_memory_exceeded();
                let _ = reply.send(NodeStatus {
                    peers: info.num_peers(),
                    connections,
                    dht,
                    peering,
                    is_memory_exceeded,
                    reachability,
                });
            }
            Command::Stop => {}
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == self.shared.peer_id {
            return;
        }
        let options =
            DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                tracing::debug!(%peer, %error, "can't dial");
                let _ = self.events.try_send(NodeEvent::DialFailed(peer, dial_problem(&error)));
            }
        }
    }

    fn act(&mut self, session: SessionId, actions: Vec<Action>) {
        let mut touched = HashSet::new();
        for action in actions {
            match action {
                Action::Ask { peer, cid, kind } => {
                    self.wants.ask(session, peer, cid, kind);
                    touched.insert(peer);
                }
                Action::Withdraw { peer, cid } => {
                    self.wants.release(session, peer, &cid);
                    touched.insert(peer);
                }
            }
        }
        for peer in touched {
            self.update_keep_alive(peer);
        }
    }

    fn watch(&mut self, root: Cid) {
        *self.watched.entry(root).or_default() += 1;
    }

    fn unwatch(&mut self, root: Cid) {
        let Some(count) = self.watched.get_mut(&root) else { return };
        *count -= 1;
        if *count == 0 {
            self.watched.remove(&root);
            let numbers: Vec<PeerNumber> = self.peers.keys().copied().collect();
            for number in numbers {
                self.wants.withdraw(WATCH_SESSION, number, &root);
                self.update_keep_alive(number);
            }
        }
    }

    fn handle_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Bitswap(event)) => self.handle_bitswap(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, peer, result: Err(failure) }))
                if !matches!(failure, ping::Failure::Unsupported) =>
            {
                tracing::debug!(%peer, %failure, "a connection is dead");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Dht(event)) => self.handle_dht(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.learn_server(peer_id, &info);
                self.learn_helper(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ports(event)) => self.handle_ports(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Relays(event)) => self.handle_relay(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Direct(event)) => {
                tracing::debug!(peer = %event.remote_peer_id, result = ?event.result, "a direct connection was tried");
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.note_connected(peer_id);
                self.note_connection(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.note_connection_gone(&peer_id, connection_id, num_established == 0);
                if num_established == 0 {
                    self.note_gone(&peer_id);
                }
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.note_listening(),
            SwarmEvent::ListenerClosed { listener_id, .. } => self.note_listener_ended(listener_id),
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => self.update_reached(),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has a problem"),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "dialling failed");
                if !matches!(error, DialError::DialPeerConditionFalse(_) | DialError::Aborted) {
                    let _ = self.events.try_send(NodeEvent::DialFailed(peer, dial_problem(&error)));
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn handle_bitswap(&mut self, event: behaviour::Event) {
        match event {
            behaviour::Event::Connected(peer) => self.connected(peer),
            behaviour::Event::Disconnected(peer) | behaviour::Event::Unsupported(peer) => self.gone(&peer),
            behaviour::Event::Message(peer, message) => {
                if let Some(number) = self.numbers.get(&peer).copied() {
                    self.handle_message(number, message);
                    self.update_keep_alive(number);
                }
            }
            behaviour::Event::Part(peer) => {
                if let Some(number) = self.numbers.get(&peer).copied() {
                    self.note_part(number);
                }
            }
            behaviour::Event::Sent(peer, lane, delivered) => {
                if let Some(number) = self.numbers.get(&peer).copied() {
                    match lane {
                        Lane::Wants => self.wants.sent(number, delivered),
                        Lane::Presences => self.server.sent_presences(number),
                        Lane::Blocks => self.server.sent(number, delivered),
                    }
                    self.update_keep_alive(number);
                }
            }
            behaviour::Event::Agreed(peer, protocol) => {
                tracing::debug!(%peer, protocol = protocol.name(), "a peer takes our messages");
            }
            behaviour::Event::Misbehaved(peer, reason) => tracing::debug!(%peer, reason, "a Bitswap stream was ended"),
        }
    }

    fn connected(&mut self, peer: PeerId) {
        self.next_number += 1;
        let number = PeerNumber(self.next_number);
        self.numbers.insert(peer, number);
        self.peers.insert(number, peer);
        self.wants.peer_connected(number);
        self.server.peer_connected(number);
        for state in self.sessions.values() {
            let source = state.sources.contains(&peer);
            let _ = state.events.send(SessionEvent::PeerConnected { peer: number, source });
        }
        for root in self.watched.keys().take(WATCHED_ROOTS_MAX) {
            self.wants.ask(WATCH_SESSION, number, *root, WantKind::Have);
        }
        let _ = self.events.try_send(NodeEvent::PeerConnected(peer, number));
        self.update_keep_alive(number);
    }

    fn gone(&mut self, peer: &PeerId) {
        let Some(number) = self.numbers.remove(peer) else { return };
        self.peers.remove(&number);
        self.wants.peer_gone(number);
        self.server.peer_gone(number);
        for state in self.sessions.values() {
            let _ = state.events.send(SessionEvent::PeerGone(number));
        }
        let _ = self.events.try_send(NodeEvent::PeerGone(*peer));
    }

    fn handle_message(&mut self, from: PeerNumber, message: Incoming) {
        if message.full || !message.wants.is_empty() {
            self.server.handle_wants(from, message.wants, message.full);
        }
        for (cid, presence) in message.presences {
            for session in self.wants.handle_presence(from, &cid, presence) {
                if session == WATCH_SESSION {
                    // Either way that question is answered; keeping it would cost memory for each idle peer.
                    self.wants.withdraw(WATCH_SESSION, from, &cid);
                    if presence == Presence::Have {
                        let _ = self.events.try_send(NodeEvent::Offered(cid));
                    }
                }
                let Some(state) = self.sessions.get(&session) else { continue };
                let _ = state.events.send(match presence {
                    Presence::Have => SessionEvent::Have { from, cid },
                    Presence::DontHave => SessionEvent::DontHave { from, cid },
                });
            }
        }
        for block in message.blocks {
            self.deliver(from, &block);
        }
    }

    /// Tells those who asked a peer for something that it is at it.
    fn note_part(&self, from: PeerNumber) {
        for session in self.wants.sessions_asking(from) {
            if let Some(state) = self.sessions.get(&session) {
                let _ = state.events.send(SessionEvent::Part(from));
            }
        }
    }

    /// Gives a block to the sessions that want it.
    fn deliver(&mut self, from: PeerNumber, block: &Block) {
        for (session, cid) in self.wants.handle_block(from, block) {
            if session == WATCH_SESSION {
                let _ = self.events.try_send(NodeEvent::Offered(cid));
            }
            let Some(state) = self.sessions.get(&session) else { continue };
            if let Some(block) = block.relabel(cid) {
                let _ = state.events.send(SessionEvent::Block { from, block });
            }
        }
    }

    fn update_keep_alive_of(&mut self, peer: &PeerId) {
        if let Some(number) = self.numbers.get(peer).copied() {
            self.update_keep_alive(number);
        }
    }

    fn update_keep_alive_of_all(&mut self) {
        let numbers: Vec<PeerNumber> = self.peers.keys().copied().collect();
        for number in numbers {
            self.update_keep_alive(number);
        }
    }

    /// A connection stays while a pin names the peer or either side wants something of the other. That it isn't needed
    /// any longer is said with the next tick: between two blocks it often isn't, for a moment.
    fn update_keep_alive(&mut self, number: PeerNumber) {
        let Some(peer) = self.peers.get(&number) else { return };
        if self.is_needed(number, peer) {
            self.swarm.behaviour_mut().bitswap.keep_alive(*peer, true);
        } else {
            self.idle.insert(number);
        }
    }

    fn is_needed(&self, number: PeerNumber, peer: &PeerId) -> bool {
        self.is_wanted(peer) || self.wants.wants_of(number) || self.server.wanted_by(number)
    }

    /// Whether it is needed apart from the blocks that either side asks for.
    fn is_wanted(&self, peer: &PeerId) -> bool {
        self.protected.contains_key(peer) || self.is_kept(peer) || self.is_relay_in_use(peer)
    }

    fn handle_tick(&mut self) {
        self.keep_lookups();
        self.keep_servers();
        self.keep_peering();
        self.keep_reached();
        self.end_unneeded();
        buffers::rest();
        for number in std::mem::take(&mut self.idle) {
            let Some(peer) = self.peers.get(&number).copied() else { continue };
            if !self.is_needed(number, &peer) {
                self.swarm.behaviour_mut().bitswap.keep_alive(peer, false);
            }
        }
    }
}
