//! What an operator can set about the pins' life: section `[pins]` of the configuration.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

/// Section `[pins]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Pins that are fetched at the same time.
    pub active_max: usize,
    /// A pin that got no block for this long gives up its slot and waits for its next try.
    #[serde(with = "friendly")]
    pub stall_timeout: Duration,
    /// The wait before the second try; it doubles with every further one.
    #[serde(with = "friendly")]
    pub retry_min: Duration,
    /// The longest wait between two tries.
    #[serde(with = "friendly")]
    pub retry_max: Duration,
    /// A pin fails when nobody who has what it lacks was found for this long.
    #[serde(with = "friendly")]
    pub give_up_after: Duration,
    /// Distinct blocks of one DAG.
    pub blocks_max: u64,
}
