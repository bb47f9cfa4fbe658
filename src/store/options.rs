//! What an operator can set about the stores: section `[store]` of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

/// Section `[store]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Memory for cached pages of `blocks.redb`.
    pub blocks_cache: ByteSize,
    /// Memory for cached pages of `records.redb`.
    pub records_cache: ByteSize,
    /// Bytes of blocks that may wait for their commit.
    pub write_buffer: ByteSize,
    /// How often garbage is collected; zero for never.
    #[serde(with = "friendly")]
    pub gc_interval: Duration,
    /// How long after a whole verification the next begins; zero for never.
    #[serde(with = "friendly")]
    pub verify_interval: Duration,
    /// Bytes of blocks per second that a verification in the background reads.
    pub verify_rate: ByteSize,
}
