//! TCP and WebSocket (TLS or Noise, yamux) and QUIC, with a guard that every dial passes with its final IP address.
//!
//! The guard sits below DNS: a name is resolved first, and what it resolves to is judged and then dialled, so that a
//! name can't smuggle in an address that the profile forbids. WebSocket has guard and DNS of its own below it, as it has
//! to know the name that a certificate is to be for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};
use libp2p::core::transport::timeout::{TransportTimeout, TransportTimeoutError};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, OrTransport, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, dns, quic, relay, tcp, yamux};
use tokio::sync::mpsc;

use super::bandwidth::{Bandwidth, Carrier, Metered};
use super::profile::Profile;
use super::security::Security;
use super::websocket::{Guest, Trust, WebSockets};
use crate::model::limits::INBOUND_STREAMS_PER_CONNECTION_MAX;

/// Streams on one TCP connection, both sides together: yamux ends a connection with more, so there is ample room beyond
/// those that Bitswap takes.
const YAMUX_STREAMS_MAX: usize = 2 * INBOUND_STREAMS_PER_CONNECTION_MAX;

/// Incoming streams on one QUIC connection.
const QUIC_STREAMS_MAX: u32 = 256;

/// How long nothing comes over a QUIC connection before a packet is sent that keeps it, in NATs as well. That of the Go library: a shorter
/// one would make both sides send more, as the shorter idle time of the two counts, and peers send twice in it at least.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long nothing may come over a QUIC connection before it counts as dead, in milliseconds; that of the Go library. A peer that has
/// started anew says so as soon as it gets anything (a stateless reset), so it isn't waited for that long.
const QUIC_IDLE_MAX_MS: u32 = 30_000;

/// How long setting up a connection may take, either way: a peer that accepts and then says nothing would otherwise hold
/// one of the bounded places for connections in the making for ever.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The same through a relay, which may have to be dialled first.
const RELAYED_CONNECT_MAX: Duration = Duration::from_secs(20);

/// A transport, and the behaviour by which it goes through relays.
pub type WithRelays = (Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour);

/// What WebSockets need besides.
#[derive(Debug)]
pub struct Doors {
    /// What certificates of others are checked against.
    pub trust: Trust,
    /// Streams that came in elsewhere.
    pub guests: mpsc::Receiver<Guest>,
}

/// Builds the transport of a node that nobody comes to over WebSocket.
pub fn build(keypair: &Keypair, profile: Profile, bandwidth: &Arc<Bandwidth>) -> io::Result<WithRelays> {
    build_with(keypair, profile, bandwidth, Doors { trust: Trust::default(), guests: mpsc::channel(1).1 })
}

/// Builds the transport of a node. All that its connections carry is counted and bounded by `bandwidth`.
pub fn build_with(
    keypair: &Keypair,
    profile: Profile,
    bandwidth: &Arc<Bandwidth>,
    Doors { trust, guests }: Doors,
) -> io::Result<WithRelays> {
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(YAMUX_STREAMS_MAX);
    let (relayed, relays) = relay::client::new(keypair.public().to_peer_id());
    // The relay itself is dialled by the swarm, and so passes the guard below.
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(keypair)?)
        .multiplex(multiplexer.clone())
        .map(metered(Carrier::Relay, bandwidth))
        .boxed();
    let sockets = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).map_err(SocketError);
    let tcp = sockets()
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(keypair)?)
        .multiplex(multiplexer.clone())
        .map(metered(Carrier::Tcp, bandwidth));
    let guarded = Guarded { inner: sockets().map_err(io::Error::other).boxed(), profile: profile.clone() };
    let web_sockets = WebSockets::new(resolving(guarded)?, trust, guests)
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(keypair)?)
        .multiplex(multiplexer)
        .map(metered(Carrier::WebSocket, bandwidth))
        // Its errors hide what is below them, too.
        .map_err(io::Error::other)
        .boxed();
    let mut quic_config = quic::Config::new(keypair);
    quic_config.max_concurrent_stream_limit = QUIC_STREAMS_MAX;
    quic_config.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic_config.max_idle_timeout = QUIC_IDLE_MAX_MS;
    let quic = quic::tokio::Transport::new(quic_config).map(metered(Carrier::Quic, bandwidth));
    let both = OrTransport::new(quic, tcp)
        .map(|either, _| either.into_inner())
        // The type that either error becomes hides both, and who dials may want to know what happened.
        .map_err(|error| error.either(quic_error, io::Error::other))
        .boxed();
    let direct = OrTransport::new(web_sockets, resolving(Guarded { inner: both, profile })?)
        .map(|either, _| either.into_inner())
        .map_err(|error| error.either(std::convert::identity, std::convert::identity));
    let direct = TransportTimeout::new(direct, CONNECT_MAX).map_err(timeout_error).boxed();
    let relayed = TransportTimeout::new(relayed, RELAYED_CONNECT_MAX).map_err(timeout_error).boxed();
    let either = OrTransport::new(relayed, direct)
        .map(|either, _| either.into_inner())
        .map_err(|error| error.either(std::convert::identity, std::convert::identity))
        .boxed();
    Ok((either, relays))
}

/// Puts the system's DNS above a transport.
fn resolving<O: Send + 'static>(guarded: Guarded<O>) -> io::Result<Boxed<O>> {
    let resolving = dns::tokio::Transport::system(guarded)
        .map_err(|error| io::Error::other(format!("the system's DNS configuration can't be read: {error}")))?;
    Ok(resolving.map_err(io::Error::other).boxed())
}

/// What puts the meter between a connection and the swarm.
fn metered<M>(
    carrier: Carrier,
    bandwidth: &Arc<Bandwidth>,
) -> impl FnOnce((PeerId, M), ConnectedPoint) -> (PeerId, StreamMuxerBox) + Clone + Send + Unpin + 'static
where
    M: StreamMuxer<Substream: Send + Unpin + 'static, Error: Send + Sync + 'static> + Send + Unpin + 'static,
{
    let bandwidth = Arc::clone(bandwidth);
    move |(peer, muxer), _| (peer, StreamMuxerBox::new(Metered::new(muxer, peer, carrier, &bandwidth)))
}

/// An error of a TCP socket. It is its own source, as libp2p's upgrades show only the sources of the errors below them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SocketError(#[source] io::Error);

fn quic_error(error: quic::Error) -> io::Error {
    match error {
        quic::Error::HandshakeTimedOut => io::Error::new(io::ErrorKind::TimedOut, error),
        error => io::Error::other(error),
    }
}

fn timeout_error<E: std::error::Error + Send + Sync + 'static>(error: TransportTimeoutError<E>) -> io::Error {
    match error {
        TransportTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, error),
        error => io::Error::other(error),
    }
}

/// Refuses to dial what the profile forbids.
struct Guarded<O> {
    inner: Boxed<O>,
    profile: Profile,
}

impl<O> Transport for Guarded<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<O> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<O> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        // Only origins, configured peers and own addresses are ever dialled, so each address here is a trusted one.
        match self.profile.may_dial(&address, true) {
            Ok(()) => self.inner.dial(address, options),
            Err(reason) => Err(TransportError::Other(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{address} is not dialled: {reason}"),
            ))),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}
