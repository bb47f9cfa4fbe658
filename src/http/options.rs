//! What an operator can set about the HTTP side: section `[http]` of the configuration.

use std::net::SocketAddr;

use serde::Deserialize;

/// Section `[http]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where the API listens; port 0 picks a free port.
    pub listen: SocketAddr,
    /// Whether what is held is served at `/ipfs/`.
    pub gateway: bool,
}
