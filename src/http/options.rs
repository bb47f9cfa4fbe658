//! What an operator can set about the HTTP side: section `[http]` of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// Section `[metrics]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsOptions {
    /// Where figures for Prometheus are served; nowhere if absent.
    #[serde(deserialize_with = "address_or_none")]
    pub listen: Option<SocketAddr>,
}

/// An empty text stands for none: TOML has no null.
fn address_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

use super::forwarded::Network;

/// Section `[http]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where the API listens; port 0 picks a free port.
    pub listen: SocketAddr,
    /// Whether what is held is served at `/ipfs/`.
    pub gateway: bool,
    /// Whether peers may come to the node over WebSocket.
    pub websocket: bool,
    /// The reverse proxies that may say where a request comes from.
    pub trusted_proxies: Vec<Network>,
    /// Where clients reach the API, to be shown; empty for what follows from the other keys.
    pub public_url: String,
    /// Whether the API speaks TLS, and where its certificate comes from.
    pub tls: TlsChoice,
    /// The certificate and those that vouch for it, for [`TlsChoice::Files`]; empty for none.
    pub tls_certificate: PathBuf,
    /// Its private key, a secret; empty for none.
    pub tls_key: PathBuf,
    /// The domains of the certificate, for [`TlsChoice::Acme`].
    pub acme_domains: Vec<String>,
    /// The operator's e-mail address, for the authority; empty for none.
    pub acme_contact: String,
    /// The directory of the authority, a URL.
    pub acme_directory: String,
}

/// Whether the API speaks TLS, and where its certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsChoice {
    /// It doesn't.
    Off,
    /// From two files.
    Files,
    /// From an authority that speaks ACME.
    Acme,
}
