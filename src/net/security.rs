//! Which encryption a TCP connection gets: TLS 1.3 first, as Kubo prefers too (AES has hardware support nearly
//! everywhere), Noise for peers that only speak that.
//!
//! There is a buffer on both sides of it. Below, because rustls asks the socket for one record at a time; above, because
//! yamux writes the head and the body of each frame on their own, and each would become a record and a system call.

use std::io;

use futures::future::{BoxFuture, Either};
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsStream;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::corked::Corked;
use super::tls::{self, Tls};

/// What is read from a socket at a time, at most: four full records of TLS.
const READ_BYTES: usize = 64 * 1024;

/// What is encrypted at a time, at most: four full records, as many as rustls holds.
const WRITE_BYTES: usize = 64 * 1024;

/// Both encryptions, to be negotiated.
#[derive(Clone)]
pub struct Security {
    tls: Tls,
    noise: noise::Config,
}

impl Security {
    /// Proves the identity of `keypair`.
    pub fn new(keypair: &Keypair) -> io::Result<Self> {
        Ok(Self { tls: Tls::new(keypair)?, noise: noise::Config::new(keypair).map_err(io::Error::other)? })
    }
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<&'static str>, <noise::Config as UpgradeInfo>::InfoIter>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(tls::PROTOCOL).chain(self.noise.protocol_info())
    }
}

type Encrypted<C> = (PeerId, Corked<Either<TlsStream<BufReader<C>>, noise::Output<BufReader<C>>>>);

fn buffered<C>(peer: PeerId, stream: Either<TlsStream<BufReader<C>>, noise::Output<BufReader<C>>>) -> Encrypted<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    (peer, Corked::new(stream, WRITE_BYTES))
}

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Encrypted<C>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted<C>>>;

    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            if name == tls::PROTOCOL {
                let (peer, stream) = self.tls.accept(socket).await?;
                return Ok(buffered(peer, Either::Left(stream)));
            }
            let (peer, stream) = self.noise.upgrade_inbound(socket, name).await.map_err(io::Error::other)?;
            Ok(buffered(peer, Either::Right(stream)))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Encrypted<C>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted<C>>>;

    fn upgrade_outbound(self, socket: C, name: &'static str) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            if name == tls::PROTOCOL {
                let (peer, stream) = self.tls.connect(socket).await?;
                return Ok(buffered(peer, Either::Left(stream)));
            }
            let (peer, stream) = self.noise.upgrade_outbound(socket, name).await.map_err(io::Error::other)?;
            Ok(buffered(peer, Either::Right(stream)))
        }
        .boxed()
    }
}
