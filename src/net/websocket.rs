//! Connections over WebSocket: those that the HTTP side hands over, and those that this node makes.
//!
//! There is no port for them: browsers reach nothing but WebSocket over TLS with a certificate that they trust, and such a
//! certificate the HTTP side has, or the proxy before it. So peers come to the port of the API, where `/` is asked to become a
//! WebSocket (RFC 6455), and the stream is welcomed here. What goes through it is libp2p's as over TCP: encryption, then
//! multiplexing, in binary messages (<https://github.com/libp2p/specs/tree/master/websockets>).

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::{BoxFuture, Ready, ready as done};
use futures::{AsyncRead, AsyncWrite, FutureExt, Sink, SinkExt, Stream, StreamExt};
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::tcp::tokio::TcpStream;
use libp2p::{Multiaddr, Transport};
use rustls_platform_verifier::BuilderVerifierExt as _;
use rw_stream_sink::RwStreamSink;
use tokio::sync::{OnceCell, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::address::{self, Host, Parts};

/// The longest message that is taken. What libp2p's encryptions make of a write is at most 64 KiB and a little.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What is read from a stream, and written to it, at a time.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Streams that were handed over and wait for the node; more are ended.
pub(super) const GUESTS_QUEUED_MAX: usize = 64;

/// The bytes in the messages of a WebSocket.
pub type ByteStream = Pin<Box<dyn Duplex>>;

/// Both ways of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// A stream that the HTTP side has handed over.
pub(super) struct Guest {
    pub(super) stream: ByteStream,
    /// Where it comes from.
    pub(super) from: IpAddr,
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guest").field("from", &self.from).finish_non_exhaustive()
    }
}

/// A message as libraries have it.
pub trait Frame: Sized {
    /// With these bytes.
    fn binary(bytes: Bytes) -> Self;

    /// What it means here.
    fn content(self) -> Content;
}

/// What a message means here.
#[derive(Debug)]
pub enum Content {
    /// Bytes of the stream.
    Bytes(Bytes),
    /// Nothing: the library has dealt with it.
    Control,
    /// That nothing follows.
    End,
    /// Something that has no place in such a stream.
    Foreign,
}

impl Frame for Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn content(self) -> Content {
        match self {
            Self::Binary(bytes) => Content::Bytes(bytes),
            Self::Ping(_) | Self::Pong(_) => Content::Control,
            Self::Close(_) => Content::End,
            Self::Text(_) | Self::Frame(_) => Content::Foreign,
        }
    }
}

/// Makes a stream of bytes of a WebSocket, whatever library has it.
pub fn byte_stream<S, M, E>(socket: S) -> ByteStream
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Send + Unpin + 'static,
    M: Frame + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    Box::pin(RwStreamSink::new(Messages { socket, kind: PhantomData }))
}

struct Messages<S, M> {
    socket: S,
    kind: PhantomData<fn(M) -> M>,
}

impl<S, M, E> Stream for Messages<S, M>
where
    S: Stream<Item = Result<M, E>> + Unpin,
    M: Frame,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(message) = ready!(self.socket.poll_next_unpin(context)) else { return Poll::Ready(None) };
            match message.map_err(io::Error::other)?.content() {
                Content::Bytes(bytes) => return Poll::Ready(Some(Ok(bytes.into()))),
                Content::Control => {}
                Content::End => return Poll::Ready(None),
                Content::Foreign => {
                    let text = "a WebSocket message isn't binary";
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, text))));
                }
            }
        }
    }
}

impl<S, M, E> Sink<Vec<u8>> for Messages<S, M>
where
    S: Sink<M, Error = E> + Unpin,
    M: Frame,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_ready_unpin(context).map_err(io::Error::other)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Vec<u8>) -> io::Result<()> {
        self.socket.start_send_unpin(M::binary(bytes.into())).map_err(io::Error::other)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(context).map_err(io::Error::other)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(context).map_err(io::Error::other)
    }
}

/// The address of a WebSocket over TLS at the port of the API, for others to dial.
pub fn address(domain: &str, port: u16) -> Multiaddr {
    Multiaddr::empty()
        .with(Protocol::Dns(domain.into()))
        .with(Protocol::Tcp(port))
        .with(Protocol::Tls)
        .with(Protocol::Ws("/".into()))
}

/// Where to dial, and what to say there.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// The part that is dialled by TCP.
    tcp: Multiaddr,
    /// Who has to be there by its certificate, if it is asked for one.
    server: Option<String>,
    url: String,
}

impl Target {
    /// Nothing, if the address isn't one of a WebSocket.
    fn of(address: &Multiaddr) -> Option<Self> {
        let Parts { host, transport: address::Transport::WebSocket { port, secure }, .. } =
            address::parts(address).ok()?
        else {
            return None;
        };
        let host = match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name,
        };
        let (mut server, mut path) = (host.clone(), "/".to_owned());
        for part in address {
            match part {
                Protocol::Sni(name) => server = name.into_owned(),
                Protocol::Ws(at) | Protocol::Wss(at) => path = at.into_owned(),
                _ => {}
            }
        }
        let (scheme, slash) = (if secure { "wss" } else { "ws" }, if path.starts_with('/') { "" } else { "/" });
        let shown = if host.contains(':') { format!("[{host}]") } else { host };
        Some(Self {
            tcp: address.iter().take(2).collect(),
            server: secure.then_some(server),
            url: format!("{scheme}://{shown}:{port}{slash}{path}"),
        })
    }
}

/// What certificates are checked against: read from the system when one is first needed.
pub(super) type Trust = Arc<OnceCell<Arc<ClientConfig>>>;

/// The transport. It listens nowhere.
pub(super) struct WebSockets {
    tcp: Boxed<TcpStream>,
    trust: Trust,
    guests: mpsc::Receiver<Guest>,
    listener: ListenerId,
}

impl WebSockets {
    /// Dials by `tcp`, which resolves names and judges addresses.
    pub(super) fn new(tcp: Boxed<TcpStream>, trust: Trust, guests: mpsc::Receiver<Guest>) -> Self {
        Self { tcp, trust, guests, listener: ListenerId::next() }
    }
}

impl Transport for WebSockets {
    type Output = ByteStream;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<ByteStream>>;
    type Dial = BoxFuture<'static, io::Result<ByteStream>>;

    fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(Target { tcp, server, url }) = Target::of(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let dialling = self.tcp.dial(tcp, options)?;
        let trust = Arc::clone(&self.trust);
        Ok(async move {
            let TcpStream(socket) = dialling.await?;
            let Some(server) = server else { return open(url, socket).await };
            let server = ServerName::try_from(server).map_err(io::Error::other)?;
            let config = trust.get_or_try_init(trusted_by_the_system).await?;
            let connected = TlsConnector::from(Arc::clone(config)).connect(server, socket).await;
            let socket = connected.map_err(tls_problem)?;
            open(url, socket).await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        // Without anyone left who could hand one over there is nothing to tell either.
        let Poll::Ready(Some(Guest { stream, from })) = self.guests.poll_recv(context) else { return Poll::Pending };
        let end = |ip: IpAddr| Multiaddr::from(ip).with(Protocol::Tcp(0)).with(Protocol::Ws("/".into()));
        Poll::Ready(TransportEvent::Incoming {
            listener_id: self.listener,
            upgrade: done(Ok(stream)),
            local_addr: end(Ipv4Addr::UNSPECIFIED.into()),
            send_back_addr: end(from),
        })
    }
}

/// Asks whoever is at the other end to become a WebSocket.
async fn open<S>(url: String, socket: S) -> io::Result<ByteStream>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let config = Some(config());
    let opened = tokio_tungstenite::client_async_with_config(url, socket, config).await;
    let (socket, _) = opened.map_err(|error| match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::other(error),
    })?;
    Ok(byte_stream(socket))
}

/// Whoever shows a wrong certificate would otherwise seem to have ended the connection.
#[derive(Debug, thiserror::Error)]
#[error("its certificate isn't accepted: {0}")]
struct BadCertificate(rustls::CertificateError);

fn tls_problem(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|held| held.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(reason)) => io::Error::other(BadCertificate(reason.clone())),
        _ => error,
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

async fn trusted_by_the_system() -> io::Result<Arc<ClientConfig>> {
    // Reading the certificates takes some milliseconds.
    let reading = tokio::task::spawn_blocking(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok::<_, rustls::Error>(Arc::new(builder.with_platform_verifier()?.with_no_client_auth()))
    });
    reading.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
