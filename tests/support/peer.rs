//! A libp2p node that opens and accepts Bitswap streams and leaves what they carry to the test.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::StreamExt;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, SwarmEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::within;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");

/// Receives the stream that was asked for, or why there is none.
type Opened = oneshot::Sender<Result<Stream, String>>;

enum Command {
    Dial(Multiaddr),
    Open(PeerId, Opened),
}

/// The node. Dropping it ends its connections at once, without a word.
pub struct Peer {
    pub id: PeerId,
    /// Where it listens, with its id.
    pub address: Multiaddr,
    commands: mpsc::UnboundedSender<Command>,
    connected: watch::Receiver<HashMap<PeerId, u32>>,
    task: JoinHandle<()>,
}

/// Streams that others opened.
pub type Inbound = mpsc::UnboundedReceiver<(PeerId, Stream)>;

impl Peer {
    /// A new node on a free port.
    pub async fn start() -> (Self, Inbound) {
        Self::start_as(Keypair::generate_ed25519(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).await
    }

    /// A node of that identity, there.
    pub async fn start_as(keypair: Keypair, listen: Multiaddr) -> (Self, Inbound) {
        let (inbound, inbound_receiver) = mpsc::unbounded_channel();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, many_streams)
            .unwrap()
            .with_behaviour(|_| Streams { inbound, queue: VecDeque::new() })
            .unwrap()
            .build();
        swarm.listen_on(listen).unwrap();
        let address = within("listen address", 10, async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    return address;
                }
            }
        });
        let address = address.await;
        let id = *swarm.local_peer_id();
        let (commands, receiver) = mpsc::unbounded_channel();
        let (connected_sender, connected) = watch::channel(HashMap::new());
        let task = tokio::spawn(run(swarm, receiver, connected_sender));
        let peer = Self { id, address: address.with(Protocol::P2p(id)), commands, connected, task };
        (peer, inbound_receiver)
    }

    /// Connects, once more if it is connected already, and returns who is there.
    pub async fn connect(&self, address: &str) -> PeerId {
        let address: Multiaddr = address.parse().unwrap();
        let Some(Protocol::P2p(peer)) = address.iter().last() else { panic!("{address} names no peer") };
        let mut connected = self.connected.clone();
        let connections = |connected: &HashMap<PeerId, u32>| connected.get(&peer).copied().unwrap_or(0);
        let before = connections(&connected.borrow());
        assert!(self.commands.send(Command::Dial(address)).is_ok());
        within("connection", 10, connected.wait_for(|connected| connections(connected) > before)).await.unwrap();
        peer
    }

    /// Opens a stream to a connected peer.
    pub async fn try_open(&self, peer: PeerId) -> Result<Stream, String> {
        let (sender, receiver) = oneshot::channel();
        assert!(self.commands.send(Command::Open(peer, sender)).is_ok());
        within("outbound stream", 15, receiver).await.unwrap_or_else(|_| Err("the connection is gone".into()))
    }

    /// Opens a stream to a connected peer, which is expected to go well.
    pub async fn open(&self, peer: PeerId) -> Stream {
        self.try_open(peer).await.unwrap()
    }

    /// Ends the node; its port is free afterwards.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// boxo doesn't bound the streams that it opens either.
fn many_streams() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(4096);
    config
}

async fn run(
    mut swarm: Swarm<Streams>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    connected: watch::Sender<HashMap<PeerId, u32>>,
) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Dial(address)) => swarm.dial(address).unwrap(),
                Some(Command::Open(peer, opened)) => swarm.behaviour_mut().open(peer, opened),
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } => connected.send_modify(|peers| {
                    peers.insert(peer_id, num_established.get());
                }),
                SwarmEvent::ConnectionClosed { peer_id, num_established, .. } => connected.send_modify(|peers| {
                    peers.insert(peer_id, num_established);
                }),
                _ => {}
            },
        }
    }
}

struct Streams {
    inbound: mpsc::UnboundedSender<(PeerId, Stream)>,
    queue: VecDeque<ToSwarm<Infallible, Opened>>,
}

impl Streams {
    /// The swarm is polled after each command, so nobody has to be woken.
    fn open(&mut self, peer_id: PeerId, event: Opened) {
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event });
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler { peer, inbound: self.inbound.clone(), requests: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Opened>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

struct Handler {
    peer: PeerId,
    inbound: mpsc::UnboundedSender<(PeerId, Stream)>,
    requests: VecDeque<Opened>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Opened;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opened;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, opened: Opened) {
        self.requests.push_back(opened);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Infallible>> {
        match self.requests.pop_front() {
            Some(opened) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), opened),
            }),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        // Whoever doesn't wait any longer doesn't need the stream either.
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let _ = self.inbound.send((self.peer, protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                let _ = info.send(Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let _ = info.send(Err(error.to_string()));
            }
            _ => {}
        }
    }
}
