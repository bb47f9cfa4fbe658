//! TLS on the API's port: which certificate is shown, and the handshake. TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
//!
//! The certificate comes from `files` that the operator keeps, or from a certificate authority that speaks ACME (`acme`).

mod acme;
mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use self::acme::Acme;
use self::files::Files;
use super::options::{Options, TlsChoice};
use crate::model::limits::HTTP_TLS_HANDSHAKE_MAX;

/// What a connection speaks that only checks that we own a domain (RFC 8737).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// Why there is no TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read the file of {key}, {}: {source}; name one that pinnace may read", path.display())]
    Unreadable {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("the file of {key}, {}, can't be used: {reason}", path.display())]
    Unusable {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what it must hold.
        reason: String,
    },
    /// The TLS library refuses what is built into it.
    #[error("TLS can't be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// What the operator should know about the certificate: at most one sentence.
#[derive(Debug, Clone, Default)]
struct Warning(Arc<Mutex<Option<String>>>);

impl Warning {
    fn set(&self, warning: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = warning;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS with its certificate.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    source: Source,
    warning: Warning,
}

/// Where the certificate comes from.
#[derive(Debug, Clone)]
enum Source {
    Files(Arc<Files>),
    Acme(Arc<Acme>),
}

impl Tls {
    /// Sets TLS up as the options say; none for "off". What ACME gets is kept in the directory `cache`.
    pub(super) fn open(options: &Options, cache: &Path) -> Result<Option<Self>, TlsError> {
        let source = match options.tls {
            TlsChoice::Off => return Ok(None),
            TlsChoice::Files => Source::Files(Arc::new(Files::open(&options.tls_certificate, &options.tls_key)?)),
            TlsChoice::Acme => Source::Acme(Arc::new(Acme::new(options, cache)?)),
        };
        let resolver: Arc<dyn ResolvesServerCert> = match &source {
            Source::Files(files) => Arc::clone(files) as _,
            Source::Acme(acme) => Arc::clone(acme) as _,
        };
        let versions = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
        let mut config = versions.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if matches!(source, Source::Acme(_)) {
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        Ok(Some(Self { acceptor: TlsAcceptor::from(Arc::new(config)), source, warning: Warning::default() }))
    }

    /// Shakes hands, within [`HTTP_TLS_HANDSHAKE_MAX`]; none for a connection that was only there for ACME.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<Option<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            let mut stream = self.acceptor.accept(stream).await?;
            if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
                stream.shutdown().await?;
                return Ok(None);
            }
            Ok(Some(stream))
        };
        let outcome = tokio::time::timeout(HTTP_TLS_HANDSHAKE_MAX, handshake).await;
        outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Keeps the certificate up to date, for ever.
    pub(super) async fn keep(self) {
        match self.source {
            Source::Files(files) => files.keep(&self.warning).await,
            Source::Acme(acme) => acme.keep(&self.warning).await,
        }
    }

    /// What the operator should mend.
    pub(super) fn warning(&self) -> Option<String> {
        self.warning.get()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The cryptography: the one that the other parts use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
