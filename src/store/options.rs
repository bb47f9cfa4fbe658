//! What an operator can set about the stores: section `[store]` of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::blocks::SpaceLimits;

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
    /// Bytes of blocks that the store may hold; zero for as many as the disk takes.
    pub max_bytes: ByteSize,
    /// Bytes that have to stay free on the disk.
    pub min_free_bytes: ByteSize,
    /// How often garbage is collected; zero for never.
    #[serde(with = "friendly")]
    pub gc_interval: Duration,
    /// How long after a whole verification the next begins; zero for never.
    #[serde(with = "friendly")]
    pub verify_interval: Duration,
    /// Bytes of blocks per second that a verification in the background reads.
    pub verify_rate: ByteSize,
}

impl Options {
    /// What the store may take.
    pub fn space_limits(&self) -> SpaceLimits {
        let bytes_max = self.max_bytes.as_u64();
        SpaceLimits {
            bytes_max: if bytes_max == 0 { u64::MAX } else { bytes_max },
            free_bytes_min: self.min_free_bytes.as_u64(),
        }
    }
}
