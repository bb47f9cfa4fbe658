//! Connections and streams that are counted and bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::io::IoSlice;
use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

use super::negotiated::Lines;
use super::shares::StreamNumber;
use super::{Bandwidth, Carrier, Direction, Talk};

/// What the streams of a connection have in common.
#[derive(Debug)]
struct Connection {
    peer: PeerId,
    carrier: Carrier,
    bandwidth: Arc<Bandwidth>,
    /// Bytes that were of use to either side, of all connections with the peer.
    used: Arc<AtomicU64>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.bandwidth.end(&self.peer);
        for direction in Direction::ALL {
            if let Some(limiter) = self.bandwidth.limiter(direction, self.carrier) {
                limiter.leave(self.peer);
            }
        }
    }
}

/// A connection whose streams are counted and bounded.
#[derive(Debug)]
pub struct Metered<M> {
    inner: M,
    connection: Arc<Connection>,
}

impl<M: StreamMuxer> Metered<M> {
    /// A connection to a peer.
    pub fn new(inner: M, peer: PeerId, carrier: Carrier, bandwidth: &Arc<Bandwidth>) -> Self {
        for direction in Direction::ALL {
            if let Some(limiter) = bandwidth.limiter(direction, carrier) {
                limiter.join(peer);
            }
        }
        let used = bandwidth.begin(peer);
        Self { inner, connection: Arc::new(Connection { peer, carrier, bandwidth: Arc::clone(bandwidth), used }) }
    }

    fn stream(&self, inner: M::Substream, names: Direction) -> Stream<M::Substream> {
        let number = self.connection.bandwidth.next_stream.fetch_add(1, Ordering::Relaxed);
        let lines = Some(Box::new((names, Lines::default())));
        Stream { inner, connection: Arc::clone(&self.connection), number, talk: Talk::Negotiation, lines }
    }
}

impl<M> StreamMuxer for Metered<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = Stream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_inbound(context))?;
        Poll::Ready(Ok(self.stream(inner, Direction::Upload)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_outbound(context))?;
        Poll::Ready(Ok(self.stream(inner, Direction::Download)))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

/// A stream that is counted and bounded.
#[derive(Debug)]
pub struct Stream<S> {
    inner: S,
    connection: Arc<Connection>,
    number: StreamNumber,
    talk: Talk,
    /// While it isn't known what the stream is for: which way the accepting side's lines go, and those that went.
    lines: Option<Box<(Direction, Lines)>>,
}

impl<S> Stream<S> {
    /// How many bytes of `wanted` may be transferred now.
    fn allowed(&self, direction: Direction, wanted: usize, context: &Context<'_>) -> Poll<usize> {
        let connection = &*self.connection;
        match connection.bandwidth.limiter(direction, connection.carrier) {
            None => Poll::Ready(wanted),
            Some(limiter) if limiter.may_transfer(connection.peer, self.number, context.waker()) => {
                Poll::Ready(wanted.min(limiter.quantum))
            }
            Some(_) => Poll::Pending,
        }
    }

    fn is_bounded(&self, direction: Direction) -> bool {
        self.connection.bandwidth.limiter(direction, self.connection.carrier).is_some()
    }

    /// Notes what was transferred: so many bytes, which `bytes` begins with while the protocol isn't known.
    fn note(&mut self, direction: Direction, count: usize, bytes: &[u8]) {
        let Connection { peer, carrier, bandwidth, used } = &*self.connection;
        bandwidth.counter(direction, *carrier, self.talk).fetch_add(count as u64, Ordering::Relaxed);
        if self.talk.is_use() {
            used.fetch_add(count as u64, Ordering::Relaxed);
        }
        if let Some(limiter) = bandwidth.limiter(direction, *carrier) {
            limiter.transferred(*peer, self.number, count);
        }
        if let Some(lines) = &mut self.lines
            && lines.0 == direction
            && let Some(talk) = lines.1.feed(&bytes[..count.min(bytes.len())])
        {
            self.talk = talk;
            self.lines = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.allowed(Direction::Download, buffer.len(), context));
        let count = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer[..allowed]))?;
        self.note(Direction::Download, count, buffer);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.allowed(Direction::Upload, bytes.len(), context));
        let count = ready!(Pin::new(&mut self.inner).poll_write(context, &bytes[..allowed]))?;
        self.note(Direction::Upload, count, bytes);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One slice at a time where the bytes are looked at or bounded.
        if self.lines.is_some() || self.is_bounded(Direction::Upload) {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| &**slice);
            return self.poll_write(context, first);
        }
        let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices))?;
        self.note(Direction::Upload, count, &[]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        let Connection { peer, carrier, bandwidth, .. } = &*self.connection;
        for direction in Direction::ALL {
            if let Some(limiter) = bandwidth.limiter(direction, *carrier) {
                limiter.forget(*peer, self.number);
            }
        }
    }
}
