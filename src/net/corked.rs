//! A write buffer that is flushed at the end of a turn of its task.
//!
//! yamux flushes after every frame, and each stream that a peer opens for one message takes four small ones: two for the
//! negotiation, a window update and the end. By the time that there is nothing more to read most of them are there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{BufWriter, IoSlice};
use futures::{AsyncRead, AsyncWrite};

/// How often in a row a flush is put off while there is more to read: half a megabyte of the largest frames.
const PUT_OFF_MAX: u32 = 8;

/// The stream with its buffer. What is read passes through.
pub struct Corked<S> {
    writer: BufWriter<S>,
    /// How often flushing was put off.
    put_off: u32,
    /// Nothing was there to read since it was first put off.
    read_all: bool,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// Buffers up to so many bytes.
    pub fn new(stream: S, bytes: usize) -> Self {
        Self { writer: BufWriter::with_capacity(bytes, stream), put_off: 0, read_all: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.writer).poll_read(context, buffer);
        self.read_all |= read.is_pending();
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.put_off == 0 {
            self.read_all = false;
        }
        if !self.writer.buffer().is_empty() && !self.read_all && self.put_off < PUT_OFF_MAX {
            self.put_off += 1;
            // The task comes back for it by itself, so a flush that is put off is never forgotten.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.writer).poll_flush(context))?;
        self.put_off = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::AsyncWriteExt;
    use std::task::Waker;

    /// What is written to it, and nothing to read.
    #[derive(Default)]
    struct Written(Vec<u8>);

    impl AsyncRead for Written {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Written {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn several_frames_of_one_turn_leave_together() {
        let mut context = Context::from_waker(Waker::noop());
        let mut corked = Corked::new(Written::default(), 64);
        for frame in [b"one", b"two"] {
            assert!(Pin::new(&mut corked).poll_write(&mut context, frame).is_ready());
            assert!(Pin::new(&mut corked).poll_flush(&mut context).is_pending());
        }
        assert!(corked.writer.get_ref().0.is_empty());
        assert!(Pin::new(&mut corked).poll_read(&mut context, &mut [0]).is_pending());
        assert!(Pin::new(&mut corked).poll_flush(&mut context).is_ready());
        assert_eq!(corked.writer.get_ref().0, b"onetwo");
        assert!(Pin::new(&mut corked).poll_flush(&mut context).is_ready(), "there is nothing to wait for");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_flush_gets_it_without_reading() {
        let mut corked = Corked::new(Written::default(), 8);
        corked.write_all(b"more than the buffer holds").await.unwrap();
        corked.flush().await.unwrap();
        assert_eq!(corked.writer.get_ref().0, b"more than the buffer holds");
        corked.write_all(b", and this").await.unwrap();
        corked.close().await.unwrap();
        assert_eq!(corked.writer.get_ref().0, b"more than the buffer holds, and this");
    }
}
