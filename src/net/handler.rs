//! Bitswap on one connection: reads each inbound stream to its end, writes through one long-lived outbound stream.
//!
//! boxo opens a new stream for every message, so many inbound streams are normal; pinnace keeps one outbound stream,
//! whose window grows with use, and opens another only when it fails. Blocks are hashed here, on the task of the
//! connection or apart from it, so that one peer's blocks don't hold up the event loop.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{self, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};

use super::buffers::{Buffer, USUAL_BYTES};
use super::quota::{Quota, Share};
use crate::bitswap::wire::{self, Incoming, Outgoing, Protocol};
use crate::model::limits::{
    INBOUND_BYTES_MAX, INBOUND_BYTES_PER_CONNECTION_MAX, INBOUND_STALL_MAX, INBOUND_STREAMS_MAX,
    INBOUND_STREAMS_PER_CONNECTION_MAX, MESSAGE_BYTES_MAX, OUTBOUND_PART_BYTES, OUTBOUND_STALL_MAX,
};

/// The protocols, best first.
const PROTOCOLS: [(StreamProtocol, Protocol); 3] = [
    (StreamProtocol::new(Protocol::V1_2.name()), Protocol::V1_2),
    (StreamProtocol::new(Protocol::V1_1.name()), Protocol::V1_1),
    (StreamProtocol::new(Protocol::V1_0.name()), Protocol::V1_0),
];

/// How often an outbound stream is tried again before the peer counts as one that doesn't speak Bitswap.
const OUTBOUND_FAILURES_MAX: u32 = 3;

/// How long negotiating a stream may take.
const NEGOTIATION_MAX: Duration = Duration::from_secs(20);

/// The room that is made for the beginning of a message.
const FIRST_READ_BYTES: usize = 4 * 1024;

/// Messages from this length on, in bytes, are decoded and hashed on another thread: each megabyte takes half a millisecond or more, in which the
/// connection would read nothing, and who sends the next message waits for room. For shorter ones the way there and back costs as much.
const HASHED_APART_BYTES_MIN: usize = 512 * 1024;

/// How often it is said that a part of a message came, while the rest hasn't.
const PART_PERIOD: Duration = Duration::from_millis(500);

/// How long ending a stream that its peer has ended may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Bytes of unfinished messages.
static INBOUND_BYTES: Quota = Quota::new(INBOUND_BYTES_PER_CONNECTION_MAX, INBOUND_BYTES_MAX);

/// Inbound streams.
static INBOUND_STREAMS: Quota = Quota::new(INBOUND_STREAMS_PER_CONNECTION_MAX, INBOUND_STREAMS_MAX);

/// Which of a peer's queues a message belongs to. Each has its own acknowledgements, in order. What is small and what
/// others wait for goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Our wantlist.
    Wants,
    /// What we hold, of the peer's wantlist, and what we don't.
    Presences,
    /// Blocks that the peer wants.
    Blocks,
}

impl Lane {
    /// All lanes, in the order in which they are looked after.
    pub const ALL: [Self; 3] = [Self::Wants, Self::Presences, Self::Blocks];
}

/// What the behaviour tells the handler.
#[derive(Debug)]
pub enum ToHandler {
    /// Write this; a [`FromHandler::Sent`] follows.
    Send(Lane, Outgoing),
    /// Whether the connection has to stay open even when it is idle.
    KeepAlive(bool),
}

/// What the handler tells the behaviour.
#[derive(Debug)]
pub enum FromHandler {
    /// A message came.
    Message(Incoming),
    /// A part came of a message that takes longer than [`PART_PERIOD`].
    Part,
    /// The oldest message of the lane was written, or couldn't be.
    Sent(Lane, bool),
    /// A stream for our messages is open, and this is what it speaks.
    Agreed(Protocol),
    /// The peer doesn't speak Bitswap.
    Unsupported,
    /// The peer speaks Bitswap after all.
    Supported,
    /// A stream was ended because of what came through it.
    Misbehaved(String),
}

/// Both upgrades: the stream as it is, and which version was agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 3>;

    fn protocol_info(&self) -> Self::InfoIter {
        PROTOCOLS.map(|(name, _)| name).into_iter()
    }
}

fn negotiated(stream: Stream, name: &StreamProtocol) -> future::Ready<Result<(Stream, Protocol), Infallible>> {
    let version = PROTOCOLS.iter().find(|(known, _)| known == name).map_or(Protocol::V1_0, |(_, version)| *version);
    future::ready(Ok((stream, version)))
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, name: Self::Info) -> Self::Future {
        negotiated(stream, &name)
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, name: Self::Info) -> Self::Future {
        negotiated(stream, &name)
    }
}

/// An inbound stream.
struct Reader {
    stream: Stream,
    bytes: Share,
    /// What came and isn't taken yet is `head[taken..filled]`. There is no room while the stream has never been read.
    head: Vec<u8>,
    taken: usize,
    filled: usize,
    /// The message that is being read, once it has said its length.
    unfinished: Option<Unfinished>,
    /// The stream's place among those that may be open.
    _place: Share,
}

impl Reader {
    fn new(stream: Stream, bytes: Share, place: Share) -> Self {
        Self { stream, bytes, head: Vec::new(), taken: 0, filled: 0, unfinished: None, _place: place }
    }

    /// What came and isn't taken yet.
    fn rest(&self) -> &[u8] {
        &self.head[self.taken..self.filled]
    }
}

/// A message of which a part came: `body[..filled]`.
struct Unfinished {
    length: usize,
    body: Buffer,
    filled: usize,
    /// When it was last said that a part came, or when it began.
    told_at: Instant,
}

/// What came through a stream.
enum Came {
    Message(Incoming),
    /// A part of a message.
    Part,
    /// The orderly end.
    End,
}

type Read = (Reader, io::Result<Came>);

/// Reads one message, or a part of it when that takes long.
async fn read(mut reader: Reader) -> Read {
    let result = read_message(&mut reader).await;
    if !matches!(result, Ok(Came::Part)) {
        reader.bytes.release();
    }
    if matches!(result, Ok(Came::End)) {
        // Closing our side too spares the peer a reset. It needs no answer, so a dead peer must not hold it up.
        let _ = tokio::time::timeout(CLOSE_MAX, reader.stream.close()).await;
    }
    (reader, result)
}

async fn read_message(reader: &mut Reader) -> io::Result<Came> {
    let mut message = match reader.unfinished.take() {
        Some(unfinished) => unfinished,
        None => match read_length(reader).await? {
            Some(length) => begin(reader, length)?,
            None => return Ok(Came::End),
        },
    };
    while message.filled < message.length {
        if message.filled == message.body.len() {
            let before = std::mem::replace(&mut message.body, room(&mut reader.bytes, message.length, message.filled)?);
            message.body[..message.filled].copy_from_slice(&before);
        }
        // What comes behind the message isn't read with it.
        let end = message.length.min(message.body.len());
        let count = read_some(&mut reader.stream, &mut message.body[message.filled..end]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        message.filled += count;
        if message.filled < message.length && message.told_at.elapsed() >= PART_PERIOD {
            reader.unfinished = Some(Unfinished { told_at: Instant::now(), ..message });
            return Ok(Came::Part);
        }
    }
    let bytes = message.body.into_bytes(message.length);
    let decoded = if message.length < HASHED_APART_BYTES_MIN {
        wire::decode(bytes)
    } else {
        // It counts until it is done, also when the connection ends before.
        let counted = reader.bytes.take();
        let decode = move || {
            let _counted = counted;
            wire::decode(bytes)
        };
        tokio::task::spawn_blocking(decode).await.map_err(io::Error::other)?
    };
    decoded.map(Came::Message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// A message of this length, with what came of it already.
fn begin(reader: &mut Reader, length: usize) -> io::Result<Unfinished> {
    let filled = length.min(reader.rest().len());
    // What is announced is not believed before a good part of it came.
    let first = length.min(USUAL_BYTES);
    let mut body = if filled == length { Buffer::new(length) } else { room(&mut reader.bytes, first, 0)? };
    body[..filled].copy_from_slice(&reader.rest()[..filled]);
    reader.taken += filled;
    Ok(Unfinished { length, body, filled, told_at: Instant::now() })
}

/// Room for so many bytes of a message, in the place of room for `before` bytes.
fn room(share: &mut Share, bytes: usize, before: usize) -> io::Result<Buffer> {
    if !share.grow(Buffer::length_for(bytes) - before) {
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many unfinished messages at once"));
    }
    Ok(Buffer::new(bytes))
}

/// Reads how long the next message is; `None` is the orderly end of the stream.
async fn read_length(reader: &mut Reader) -> io::Result<Option<usize>> {
    loop {
        match unsigned_varint::decode::usize(reader.rest()) {
            Ok((length, rest)) => {
                reader.taken = reader.filled - rest.len();
                if length > MESSAGE_BYTES_MAX {
                    let text = format!("a message of {length} bytes is over the limit of {MESSAGE_BYTES_MAX}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                return Ok(Some(length));
            }
            Err(unsigned_varint::decode::Error::Insufficient) => {
                let first = reader.rest().is_empty();
                // The room of streams that rest is bounded by their number.
                reader.head.resize(FIRST_READ_BYTES, 0);
                reader.head.copy_within(reader.taken..reader.filled, 0);
                reader.filled -= std::mem::take(&mut reader.taken);
                let room = &mut reader.head[reader.filled..];
                // A stream may rest between messages as long as it likes; it costs nothing.
                let count =
                    if first { reader.stream.read(room).await? } else { read_some(&mut reader.stream, room).await? };
                if count == 0 {
                    return if first { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
                reader.filled += count;
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
}

/// Reads some bytes of a message, which mustn't stand still for long.
async fn read_some(stream: &mut Stream, room: &mut [u8]) -> io::Result<usize> {
    let read = tokio::time::timeout(INBOUND_STALL_MAX, stream.read(room)).await;
    read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn in_time(writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(OUTBOUND_STALL_MAX, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn write(mut stream: Stream, protocol: Protocol, message: Outgoing) -> io::Result<(Stream, Protocol)> {
    for message in message.into_messages() {
        let pieces = wire::encode_pieces(&message, protocol);
        drop(message);
        for part in pieces.iter().flat_map(|piece| piece.chunks(OUTBOUND_PART_BYTES)) {
            in_time(stream.write_all(part)).await?;
        }
    }
    in_time(stream.flush()).await?;
    Ok((stream, protocol))
}

enum Outbound {
    None,
    Opening,
    Idle(Stream, Protocol),
    Writing(Lane, BoxFuture<'static, io::Result<(Stream, Protocol)>>),
    Unsupported,
}

/// The handler of one connection.
pub struct Handler {
    inbound: FuturesUnordered<BoxFuture<'static, Read>>,
    inbound_bytes: Arc<AtomicUsize>,
    inbound_streams: Arc<AtomicUsize>,
    outbound: Outbound,
    failures: u32,
    /// When it was last said that a part of a message came.
    part_told_at: Option<Instant>,
    /// Of each [`Lane`].
    queues: [VecDeque<Outgoing>; Lane::ALL.len()],
    events: VecDeque<FromHandler>,
    keep_alive: bool,
}

impl Handler {
    /// The handler of a new connection.
    pub fn new(keep_alive: bool) -> Self {
        Self {
            inbound: FuturesUnordered::new(),
            inbound_bytes: Arc::default(),
            inbound_streams: Arc::default(),
            outbound: Outbound::None,
            failures: 0,
            part_told_at: None,
            queues: Default::default(),
            events: VecDeque::new(),
            keep_alive,
        }
    }

    fn next_message(&mut self) -> Option<(Lane, Outgoing)> {
        Lane::ALL.into_iter().find_map(|lane| Some((lane, self.queues[lane as usize].pop_front()?)))
    }

    fn has_queued(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Nothing can be written on this connection any more.
    fn give_up(&mut self) {
        self.outbound = Outbound::Unsupported;
        self.events.push_back(FromHandler::Unsupported);
        self.fail_queued();
    }

    fn fail_queued(&mut self) {
        while let Some((lane, _)) = self.next_message() {
            self.events.push_back(FromHandler::Sent(lane, false));
        }
    }

    fn outbound_failed(&mut self) {
        self.failures += 1;
        self.outbound = Outbound::None;
        if self.failures >= OUTBOUND_FAILURES_MAX {
            self.give_up();
        }
    }

    fn poll_outbound(&mut self, context: &mut Context<'_>) -> Option<ConnectionHandlerEvent<Upgrade, (), FromHandler>> {
        loop {
            match std::mem::replace(&mut self.outbound, Outbound::None) {
                Outbound::Idle(stream, protocol) => match self.next_message() {
                    Some((lane, message)) => {
                        self.outbound = Outbound::Writing(lane, write(stream, protocol, message).boxed());
                    }
                    None => {
                        self.outbound = Outbound::Idle(stream, protocol);
                        return None;
                    }
                },
                Outbound::Writing(lane, mut writing) => match writing.poll_unpin(context) {
                    Poll::Ready(Ok((stream, protocol))) => {
                        self.failures = 0;
                        self.outbound = Outbound::Idle(stream, protocol);
                        return Some(ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Sent(lane, true)));
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "an outbound Bitswap stream failed");
                        self.outbound_failed();
                        return Some(ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Sent(lane, false)));
                    }
                    Poll::Pending => {
                        self.outbound = Outbound::Writing(lane, writing);
                        return None;
                    }
                },
                Outbound::None if self.has_queued() => {
                    self.outbound = Outbound::Opening;
                    let protocol = SubstreamProtocol::new(Upgrade, ()).with_timeout(NEGOTIATION_MAX);
                    return Some(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
                }
                other => {
                    self.outbound = other;
                    return None;
                }
            }
        }
    }

    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Option<FromHandler> {
        while let Poll::Ready(Some((reader, result))) = self.inbound.poll_next_unpin(context) {
            match result {
                Ok(Came::Message(message)) => {
                    self.inbound.push(read(reader).boxed());
                    return Some(FromHandler::Message(message));
                }
                Ok(Came::Part) => {
                    self.inbound.push(read(reader).boxed());
                    // However many streams there are.
                    if self.part_told_at.is_none_or(|told_at| told_at.elapsed() >= PART_PERIOD) {
                        self.part_told_at = Some(Instant::now());
                        return Some(FromHandler::Part);
                    }
                }
                Ok(Came::End) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::QuotaExceeded | io::ErrorKind::TimedOut => {
                        return Some(FromHandler::Misbehaved(error.to_string()));
                    }
                    _ => tracing::debug!(%error, "an inbound Bitswap stream ended early"),
                },
            }
        }
        None
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToHandler;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        SubstreamProtocol::new(Upgrade, ()).with_timeout(NEGOTIATION_MAX)
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep_alive || self.has_queued()
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            ToHandler::KeepAlive(keep_alive) => self.keep_alive = keep_alive,
            ToHandler::Send(lane, message) => {
                self.queues[lane as usize].push_back(message);
                if matches!(self.outbound, Outbound::Unsupported) {
                    self.fail_queued();
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (mut stream, _), .. }) => {
                let mut place = INBOUND_STREAMS.share(&self.inbound_streams);
                if !place.grow(1) {
                    self.events.push_back(FromHandler::Misbehaved("too many open streams".into()));
                    return;
                }
                stream.ignore_for_keep_alive();
                if matches!(self.outbound, Outbound::Unsupported) {
                    // Who opens Bitswap to us speaks it.
                    self.outbound = Outbound::None;
                    self.failures = 0;
                    self.events.push_back(FromHandler::Supported);
                }
                let bytes = INBOUND_BYTES.share(&self.inbound_bytes);
                self.inbound.push(read(Reader::new(stream, bytes, place)).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (mut stream, version),
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.outbound = Outbound::Idle(stream, version);
                self.events.push_back(FromHandler::Agreed(version));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                tracing::debug!(%error, "no outbound Bitswap stream");
                match error {
                    StreamUpgradeError::NegotiationFailed => self.give_up(),
                    _ => self.outbound_failed(),
                }
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if let Some(event) = self.poll_outbound(context) {
            return Poll::Ready(event);
        }
        if let Some(event) = self.poll_inbound(context) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        // Giving up while polling the outbound side leaves events behind.
        match self.events.pop_front() {
            Some(event) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event)),
            None => Poll::Pending,
        }
    }
}
