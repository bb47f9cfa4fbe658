//! What an operator can set about the pins' life: section `[pins]` of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use crate::dag::walk::WalkLimits;

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
    /// How long a pin may fetch while others wait for a slot.
    #[serde(with = "friendly")]
    pub turn: Duration,
    /// How long a pin lasts whose client doesn't say; zero for ever.
    #[serde(with = "friendly")]
    pub lifetime: Duration,
    /// Distinct blocks of one DAG.
    pub blocks_max: u64,
    /// Bytes of the distinct blocks of one DAG; zero for no bound.
    pub bytes_max: ByteSize,
    /// Links from the root of a DAG to any of its blocks.
    pub depth_max: u32,
}

impl Options {
    /// What a DAG may be.
    pub fn dag_limits(&self) -> WalkLimits {
        let bytes_max = match self.bytes_max.as_u64() {
            0 => u64::MAX,
            bytes => bytes,
        };
        WalkLimits { blocks_max: self.blocks_max, bytes_max, depth_max: self.depth_max }
    }
}
