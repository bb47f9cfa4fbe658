//! What providing has cost since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Look-ups of servers.
    pub(super) lookups: Counter,
    /// Servers that were told, each time on one stream.
    pub(super) streams: Counter,
    /// Servers that couldn't be told.
    pub(super) failures: Counter,
    /// Records that servers were told.
    pub(super) records: Counter,
    /// Bytes of those.
    pub(super) bytes: Counter,
}
