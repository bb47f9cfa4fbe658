//! How much the store may take: writing stops before the disk is full or the operator's bound is passed, and goes on by
//! itself when there is room again. Reading and everything else never stop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;
use tokio::sync::watch;

use super::BlockStats;
#[cfg(unix)]
use crate::store::room;

/// What a block takes in the index and in front of it, in bytes, with the room that a tree leaves free.
const INDEX_BYTES_PER_BLOCK: u64 = 100;

/// Above this share of `bytes_max`, in per cent, garbage should be collected.
const HIGH_WATER_PERCENT: u64 = 90;

/// Below this multiple of `free_bytes_min`, garbage should be collected.
const HIGH_WATER_FREE: u64 = 2;

/// Room that has to be there before writing goes on after a shortage, in bytes; less for a store that may hold little.
const RESUME_BYTES: u64 = 32 * 1024 * 1024;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceLimits {
    /// Bytes of blocks that the store may hold, those included that are no longer needed and not yet collected.
    pub bytes_max: u64,
    /// Bytes that have to stay free on the disk.
    pub free_bytes_min: u64,
}

impl SpaceLimits {
    /// No bounds but the disk's own.
    pub const NONE: Self = Self { bytes_max: u64::MAX, free_bytes_min: 0 };
}

/// Why nothing can be written at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The store holds as much as it may.
    #[error(
        "the block store is full: it holds {} of the {} that store.max_bytes allows; remove pins, or raise store.max_bytes",
        ByteSize(*.held_bytes),
        ByteSize(*.bytes_max)
    )]
    Full {
        /// What it holds.
        held_bytes: u64,
        /// What it may hold.
        bytes_max: u64,
    },
    /// The disk has too little room.
    #[error(
        "the disk is full: {} are free, and store.min_free_bytes keeps {}; remove pins or other files, or lower store.min_free_bytes",
        ByteSize(*.free_bytes),
        ByteSize(*.free_bytes_min)
    )]
    Disk {
        /// What is free, the free pages inside the store's file included.
        free_bytes: u64,
        /// What has to stay free.
        free_bytes_min: u64,
    },
}

/// What a look at the store and its disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceState {
    /// Why nothing can be written, if so.
    pub shortage: Option<Shortage>,
    /// Whether garbage should be collected to make room.
    pub is_high: bool,
}

/// Free bytes of the disk, and bytes of the store's file on it.
type Probe = Box<dyn Fn(&Path) -> Option<(u64, u64)> + Send + Sync>;

/// Watches over the room of one store.
pub(super) struct Space {
    limits: SpaceLimits,
    path: PathBuf,
    probe: Probe,
    shortage: watch::Sender<Option<Shortage>>,
    /// What was refused since there is a shortage, in bytes: with less room it would be refused again.
    refused_bytes: AtomicU64,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Space").field("limits", &self.limits).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Space {
    pub(super) fn new(path: &Path, limits: SpaceLimits) -> Self {
        Self::with_probe(path, limits, Box::new(look))
    }

    fn with_probe(path: &Path, limits: SpaceLimits, probe: Probe) -> Self {
        Self {
            limits,
            path: path.to_owned(),
            probe,
            shortage: watch::Sender::new(None),
            refused_bytes: AtomicU64::new(0),
        }
    }

    /// What is the matter, and each change of it.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Shortage>> {
        self.shortage.subscribe()
    }

    /// What was the matter at the last look.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        *self.shortage.borrow()
    }

    /// Looks whether `new_bytes` more can be written to a store that holds `held`.
    pub(super) fn look(&self, held: BlockStats, new_bytes: u64) -> SpaceState {
        let state = self.state(held, new_bytes);
        match state.shortage {
            Some(_) => self.refused_bytes.fetch_max(new_bytes.min(self.limits.bytes_max), Ordering::Relaxed),
            None => self.refused_bytes.swap(0, Ordering::Relaxed),
        };
        let changed = self.shortage.send_if_modified(|shortage| {
            // The figures change all the time; what it is doesn't.
            let changed = shortage.is_some() != state.shortage.is_some();
            *shortage = state.shortage;
            changed
        });
        match (changed, state.shortage) {
            (true, Some(shortage)) => tracing::warn!("no blocks are stored for now: {shortage}"),
            (true, None) => tracing::info!("there is room for blocks again"),
            (false, _) => {}
        }
        state
    }

    fn state(&self, held: BlockStats, new_bytes: u64) -> SpaceState {
        let SpaceLimits { bytes_max, free_bytes_min } = self.limits;
        // Once it is over, a little room isn't enough: what was refused would be tried in vain again and again.
        let refused_bytes = self.refused_bytes.load(Ordering::Relaxed);
        let margin = if self.shortage().is_some() { RESUME_BYTES.min(bytes_max / 16).max(refused_bytes) } else { 0 };
        let new_bytes = new_bytes.max(margin);
        let held_bytes = held.segment_bytes;
        let mut state = SpaceState {
            shortage: None,
            is_high: u128::from(held_bytes) * 100 > u128::from(bytes_max) * u128::from(HIGH_WATER_PERCENT),
        };
        if held_bytes.saturating_add(new_bytes) > bytes_max {
            state.shortage = Some(Shortage::Full { held_bytes, bytes_max });
        } else if free_bytes_min > 0
            && let Some((free, file)) = (self.probe)(&self.path)
        {
            // Pages of the file that hold nothing are room as well, though the disk doesn't count them.
            let used = held_bytes.saturating_add(held.blocks.saturating_mul(INDEX_BYTES_PER_BLOCK));
            let free_bytes = free.saturating_add(file.saturating_sub(used));
            state.is_high |= free_bytes < free_bytes_min.saturating_mul(HIGH_WATER_FREE);
            if free_bytes < free_bytes_min.saturating_add(new_bytes) {
                state.shortage = Some(Shortage::Disk { free_bytes, free_bytes_min });
            }
        }
        state.is_high |= state.shortage.is_some();
        state
    }
}

/// What the system says; `None` where it says nothing.
#[cfg(unix)]
fn look(path: &Path) -> Option<(u64, u64)> {
    let free = room::free_bytes(path).ok()??;
    let file = std::fs::metadata(path).ok()?;
    // The unit is 512 bytes, whatever the file system's blocks are (POSIX, sys/stat.h as Linux and the BSDs have it).
    Some((free, std::os::unix::fs::MetadataExt::blocks(&file).saturating_mul(512)))
}

#[cfg(not(unix))]
fn look(_path: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn held(bytes: u64) -> BlockStats {
        BlockStats { blocks: 0, segment_bytes: bytes }
    }

    #[test]
    fn the_bound_of_the_store_counts_what_is_to_come() {
        let limits = SpaceLimits { bytes_max: 100 * MIB, ..SpaceLimits::NONE };
        let space = Space::with_probe(Path::new("x"), limits, Box::new(|_| None));
        let calm = SpaceState { shortage: None, is_high: false };
        assert_eq!(space.look(held(90 * MIB), 10 * MIB), calm);
        assert_eq!(space.look(held(91 * MIB), 9 * MIB), SpaceState { is_high: true, ..calm });
        let full = space.look(held(99 * MIB), 2 * MIB);
        assert!(matches!(full.shortage, Some(Shortage::Full { .. })), "{full:?}");
        assert_eq!(space.shortage(), full.shortage);
        assert_eq!(space.look(held(50 * MIB), 0), calm);
        assert_eq!(space.shortage(), None);
    }

    #[test]
    fn what_was_refused_has_to_fit_before_it_is_tried_again() {
        let limits = SpaceLimits { bytes_max: 100 * MIB, ..SpaceLimits::NONE };
        let space = Space::with_probe(Path::new("x"), limits, Box::new(|_| None));
        assert!(space.look(held(60 * MIB), 50 * MIB).shortage.is_some());
        let later = space.look(held(60 * MIB), 0);
        assert!(later.shortage.is_some(), "it would be refused again");
        assert!(later.is_high, "garbage is in its way");
        assert_eq!(space.look(held(50 * MIB), 0), SpaceState { shortage: None, is_high: false });
        assert_eq!(space.look(held(60 * MIB), 0).shortage, None);
    }

    #[test]
    fn free_pages_of_the_file_are_room_and_news_come_once() {
        let limits = SpaceLimits { free_bytes_min: 10 * MIB, ..SpaceLimits::NONE };
        let free = Arc::new(AtomicU64::new(100 * MIB));
        let disk = Arc::clone(&free);
        let probe = move |_: &Path| Some((disk.load(Ordering::Relaxed), 50 * MIB));
        let space = Space::with_probe(Path::new("x"), limits, Box::new(probe));
        let mut news = space.subscribe();
        assert!(!space.look(held(50 * MIB), 0).is_high);
        free.store(12 * MIB, Ordering::Relaxed);
        assert_eq!(space.look(held(50 * MIB), 2 * MIB), SpaceState { shortage: None, is_high: true });
        assert!(!news.has_changed().unwrap());
        for free_now in [11, 5] {
            free.store(free_now * MIB, Ordering::Relaxed);
            let shortage = space.look(held(50 * MIB), 2 * MIB).shortage;
            let (free_bytes, free_bytes_min) = (free_now * MIB, 10 * MIB);
            assert_eq!(shortage, Some(Shortage::Disk { free_bytes, free_bytes_min }));
        }
        assert!(news.borrow_and_update().is_some());
        // A collection gave pages back to the file, not to the disk.
        assert!(space.look(held(30 * MIB), 0).shortage.is_some(), "a little isn't enough");
        assert_eq!(space.look(held(2 * MIB), 2 * MIB).shortage, None);
        assert!(news.has_changed().unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn the_disk_is_asked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 20]).unwrap();
        file.as_file().sync_all().unwrap();
        let (free, on_disk) = look(file.path()).unwrap();
        assert!(free > 0);
        assert!((MIB..2 * MIB).contains(&on_disk), "{on_disk}");
        assert_eq!(look(Path::new("/no/such/file")), None);
    }
}
