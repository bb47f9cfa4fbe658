//! How many blocks have gone through, since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks and their bytes that went one way.
#[derive(Debug, Default)]
pub struct Traffic {
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Counts blocks.
    pub fn add(&self, blocks: u64, bytes: u64) {
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Blocks and bytes so far.
    pub fn total(&self) -> (u64, u64) {
        (self.blocks.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
