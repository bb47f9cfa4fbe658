//! A certificate from an authority that speaks ACME (RFC 8555), such as Let's Encrypt. That the domains are ours is proven on
//! the API's own port (TLS-ALPN-01, RFC 8737), so nothing else has to listen.
//!
//! `rustls-acme` speaks the protocol, and renews a certificate when two thirds of its life are over. This file has what it
//! leaves to us: pauses after failures that the authorities' limits allow, an end to orders that hang, files that only their owner
//! may read, and what the operator is told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use multihash_codetable::{Code, MultihashDigest};
use rustls_acme::{
    AccountCache, AcmeConfig, AcmeState, CertCache, EventError, EventOk, ResolvesServerCertAcme, is_tls_alpn_challenge,
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{TlsError, Warning, provider};
use crate::http::options::Options;
use crate::store::datadir::{self, DataDirError};

/// The pause after the first failure; it doubles with each further one. Let's Encrypt takes five failed validations an hour
/// (<https://letsencrypt.org/docs/rate-limits/>).
const PAUSE_MIN: Duration = Duration::from_mins(2);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_hours(6);

/// How long nothing may happen until all begins anew with what is in the cache: requests to the authority have no end of their
/// own. While a certificate is just waiting to be renewed, that costs two small files being read.
const SILENCE_MAX: Duration = Duration::from_hours(6);

/// What went wrong in the cache.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file can't be written.
    #[error(transparent)]
    Write(#[from] DataDirError),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopping,
}

/// The certificate from the authority, and what is needed to get one.
pub(super) struct Acme {
    domains: Vec<String>,
    contact: Option<String>,
    directory: String,
    cache: PathBuf,
    client: Arc<ClientConfig>,
    resolvers: RwLock<Resolvers>,
}

/// What answers handshakes; usually the same twice.
#[derive(Debug, Default)]
struct Resolvers {
    /// Has the answers for the authority, which proves that the domains are ours.
    challenged: Option<Arc<ResolvesServerCertAcme>>,
    /// Has the certificate.
    serving: Option<Arc<ResolvesServerCertAcme>>,
}

type State = AcmeState<CacheError, CacheError>;

impl Acme {
    /// Gets nothing yet; that is what [`Self::keep`] does.
    pub(super) fn new(options: &Options, cache: &Path) -> Result<Self, TlsError> {
        // The authorities that the system trusts vouch for the directory, so a private one can be used.
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let client = client.with_platform_verifier()?.with_no_client_auth();
        let contact = Some(options.acme_contact.trim()).filter(|contact| !contact.is_empty());
        Ok(Self {
            domains: options.acme_domains.clone(),
            contact: contact.map(|address| format!("mailto:{address}")),
            directory: options.acme_directory.clone(),
            cache: cache.to_owned(),
            client: Arc::new(client),
            resolvers: RwLock::default(),
        })
    }

    /// Gets the certificate and renews it, for ever.
    pub(super) async fn keep(&self, warning: &Warning) {
        warning
            .set(Some(format!("there is no certificate yet for {}; it is being asked for", self.domains.join(", "))));
        let mut pause = PAUSE_MIN;
        loop {
            let mut state = self.begin();
            // Without a file there is nothing to begin anew with, and authorities give few certificates a week.
            let mut is_cached = true;
            loop {
                match tokio::time::timeout(SILENCE_MAX, state.next()).await {
                    Err(_) if is_cached => break,
                    Err(_) => {}
                    Ok(None) => break,
                    Ok(Some(Ok(event))) => {
                        if matches!(event, EventOk::DeployedCachedCert | EventOk::DeployedNewCert) {
                            self.serve(&state);
                            pause = PAUSE_MIN;
                            warning.set(None);
                        }
                        if matches!(event, EventOk::DeployedNewCert) {
                            tracing::info!(domains = self.domains.join(", "), "a new certificate is in use");
                        }
                    }
                    Ok(Some(Err(error))) => {
                        is_cached &= !matches!(error, EventError::CertCacheStore(_));
                        self.tell(&error, warning);
                        if matches!(error, EventError::Order(_) | EventError::NewCertParse(_)) {
                            // The order goes on only when it is polled again.
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(PAUSE_MAX);
                        }
                    }
                }
            }
        }
    }

    /// Starts with what is in the cache.
    fn begin(&self) -> State {
        let config = AcmeConfig::new_with_client_config(&self.domains, Arc::clone(&self.client))
            .contact(&self.contact)
            .directory(&self.directory)
            .cache(Cache { directory: self.cache.clone() });
        let state = config.state();
        let mut resolvers = self.resolvers.write().unwrap_or_else(PoisonError::into_inner);
        resolvers.challenged = Some(state.resolver());
        state
    }

    /// The state has a certificate.
    fn serve(&self, state: &State) {
        self.resolvers.write().unwrap_or_else(PoisonError::into_inner).serving = Some(state.resolver());
    }

    fn tell(&self, error: &EventError<CacheError, CacheError>, warning: &Warning) {
        let domains = self.domains.join(", ");
        tracing::warn!(%error, domains, directory = self.directory, "the certificate can't be got or kept");
        let sentence = match error {
            EventError::Order(_) | EventError::NewCertParse(_) => format!(
                "no certificate for {domains} could be got from {}, and it will be tried again: {error}. Each domain must lead to this machine, and port 443 of it to http.listen",
                self.directory
            ),
            error => format!("the certificate for {domains} can't be kept in {}: {error}", self.cache.display()),
        };
        warning.set(Some(sentence));
    }
}

impl ResolvesServerCert for Acme {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let resolver = {
            let resolvers = self.resolvers.read().unwrap_or_else(PoisonError::into_inner);
            let is_challenge = is_tls_alpn_challenge(&hello);
            if is_challenge { resolvers.challenged.clone() } else { resolvers.serving.clone() }
        };
        resolver?.resolve(hello)
    }
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Acme").field("domains", &self.domains).finish_non_exhaustive()
    }
}

/// The account's key and the certificate with its key, as files of a directory; all are secrets.
struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The file for what belongs to all of these; another domain or authority has another file.
    fn path(&self, kind: &str, names: &[String], directory_url: &str) -> PathBuf {
        let key = names.iter().map(String::as_str).chain([directory_url]).collect::<Vec<_>>().join("\n");
        let hash = Code::Sha2_256.digest(key.as_bytes());
        let hash = hash.digest().first_chunk().map_or(0, |first| u128::from_be_bytes(*first));
        self.directory.join(format!("{kind}-{hash:032x}"))
    }

    async fn load(&self, path: PathBuf) -> Result<Option<Vec<u8>>, CacheError> {
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CacheError::Read { path, source }),
        }
    }

    async fn store(&self, path: PathBuf, bytes: &[u8]) -> Result<(), CacheError> {
        let (directory, bytes) = (self.directory.clone(), bytes.to_owned());
        let write = move || {
            datadir::create(&directory)?;
            datadir::write_secret(&path, &bytes)
        };
        Ok(tokio::task::spawn_blocking(write).await.map_err(|_| CacheError::Stopping)??)
    }
}

#[async_trait]
impl CertCache for Cache {
    type EC = CacheError;

    async fn load_cert(&self, domains: &[String], directory_url: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.load(self.path("certificate", domains, directory_url)).await
    }

    async fn store_cert(&self, domains: &[String], directory_url: &str, cert: &[u8]) -> Result<(), CacheError> {
        self.store(self.path("certificate", domains, directory_url), cert).await
    }
}

#[async_trait]
impl AccountCache for Cache {
    type EA = CacheError;

    async fn load_account(&self, contact: &[String], directory_url: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.load(self.path("account", contact, directory_url)).await
    }

    async fn store_account(&self, contact: &[String], directory_url: &str, account: &[u8]) -> Result<(), CacheError> {
        self.store(self.path("account", contact, directory_url), account).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
    }

    #[tokio::test]
    async fn what_is_cached_is_found_again_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let cache = || Cache { directory: directory.path().join("acme") };
        let domains = ["pins.example.org".to_owned()];
        let others = ["example.org".to_owned()];
        let url = "https://acme.example.org/directory";
        assert_eq!(cache().load_cert(&domains, url).await.unwrap(), None);
        cache().store_cert(&domains, url, b"certificate").await.unwrap();
        cache().store_account(&[], url, b"account").await.unwrap();
        assert_eq!(cache().load_cert(&domains, url).await.unwrap().unwrap(), b"certificate");
        assert_eq!(cache().load_account(&[], url).await.unwrap().unwrap(), b"account");
        assert_eq!(cache().load_cert(&others, url).await.unwrap(), None);
        assert_eq!(cache().load_cert(&domains, "https://other.example.org/directory").await.unwrap(), None);
        cache().store_cert(&domains, url, b"renewed").await.unwrap();
        assert_eq!(cache().load_cert(&domains, url).await.unwrap().unwrap(), b"renewed");
        #[cfg(unix)]
        for path in [cache().directory, cache().path("certificate", &domains, url), cache().path("account", &[], url)] {
            assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
    }
}
