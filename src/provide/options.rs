//! What an operator can set about providing: section `[provide]` of the configuration.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which blocks of pinned DAGs the DHT is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// All.
    All,
    /// Roots, and below them files and directories, but not the pieces of files.
    Entities,
    /// What was pinned.
    Roots,
    /// None.
    Off,
}

impl Strategy {
    /// The strategy in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Entities => "entities",
            Self::Roots => "roots",
            Self::Off => "off",
        }
    }
}

/// Section `[provide]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Which blocks.
    pub strategy: Strategy,
    /// How often each is provided.
    #[serde(with = "friendly")]
    pub interval: Duration,
}
