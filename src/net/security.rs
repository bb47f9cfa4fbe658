//! Which encryption a TCP connection gets: TLS 1.3 first, as Kubo prefers too (AES has hardware support nearly
//! everywhere), Noise for peers that only speak that.

use std::io;

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise, tls};

/// Both encryptions, to be negotiated.
#[derive(Clone)]
pub struct Security {
    tls: tls::Config,
    noise: noise::Config,
}

impl Security {
    /// Proves the identity of `keypair`.
    pub fn new(keypair: &Keypair) -> io::Result<Self> {
        Ok(Self {
            tls: tls::Config::new(keypair).map_err(io::Error::other)?,
            noise: noise::Config::new(keypair).map_err(io::Error::other)?,
        })
    }

    fn tls_name(&self) -> &'static str {
        self.tls.protocol_info().next().unwrap_or_default()
    }
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<<tls::Config as UpgradeInfo>::InfoIter, <noise::Config as UpgradeInfo>::InfoIter>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.tls.protocol_info().chain(self.noise.protocol_info())
    }
}

type Encrypted<C> = (PeerId, Either<tls::TlsStream<C>, noise::Output<C>>);

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Encrypted<C>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted<C>>>;

    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        async move {
            if name == self.tls_name() {
                let (peer, stream) = self.tls.upgrade_inbound(socket, name).await.map_err(io::Error::other)?;
                return Ok((peer, Either::Left(stream)));
            }
            let (peer, stream) = self.noise.upgrade_inbound(socket, name).await.map_err(io::Error::other)?;
            Ok((peer, Either::Right(stream)))
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
            if name == self.tls_name() {
                let (peer, stream) = self.tls.upgrade_outbound(socket, name).await.map_err(io::Error::other)?;
                return Ok((peer, Either::Left(stream)));
            }
            let (peer, stream) = self.noise.upgrade_outbound(socket, name).await.map_err(io::Error::other)?;
            Ok((peer, Either::Right(stream)))
        }
        .boxed()
    }
}
