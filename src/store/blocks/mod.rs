//! The blocks on disk: `blocks.redb`.
//!
//! Blocks are packed. A commit's blocks are written one after the other and cut into *segments* of at most
//! [`SEGMENT_BYTES`] under growing numbers; an index tells for each multihash where its block begins and how long it
//! is. (A value per block would double the file: redb gives a large value a power-of-two run of pages.) Blocks are
//! found by multihash alone, so every version and codec of a CID finds the same bytes. The newest entries of the index
//! stand in front of it, in memory and in a table of their own (`recent`).
//!
//! One thread writes ([`BlockWriter`] feeds it); readers ([`BlockReader`]) can't write and never wait for it, except
//! while a failed file is opened again. Identity CIDs are never stored: they are answered from themselves.

mod compact;
mod copy;
mod damage;
mod file;
mod gc;
mod guard;
mod held;
mod pack;
mod placed;
mod reader;
mod recent;
mod schema;
mod scrub;
mod space;
mod sub_dag;
mod survey;
mod whole;
mod writer;

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod gc_tests;
#[cfg(test)]
mod index_tests;
#[cfg(test)]
mod scrub_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole_tests;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use cid::Cid;
use tokio::sync::watch;

pub use compact::Compacted;
pub(super) use compact::compact;
pub use copy::CopyReport;
pub(super) use copy::{Check, copy_blocks, measure};
pub use damage::DamageFinder;
pub use gc::{BlockCollector, Collection, GcPhase, GcReport, Links};
pub use guard::Ticket;
pub use held::HeldWalk;
pub use reader::{BlockReader, BlockSnapshot, BlockStats};
pub use scrub::{BlockVerifier, DAMAGED_NAMED_MAX, Scrub, ScrubRecord, ScrubReport, ScrubStep};
pub use space::{Shortage, SpaceLimits, SpaceState};
pub use survey::{CheckedLinks, Survey, SurveyStep};
pub use whole::{BLOCKS_MIN as WHOLE_BLOCKS_MIN, WholeDag};
pub use writer::{BlockWriter, PendingPut};

use super::room::NoRoom;

/// The longest segment, in bytes: with the 16 bytes that redb adds to it, a run of 16 pages.
pub const SEGMENT_BYTES: usize = 65_520;

/// The version of the layout that this program writes.
pub const SCHEMA_VERSION: u64 = 4;

/// What can go wrong with the blocks on disk. Cheap to clone, since one failed commit is the answer to many puts.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlocksError {
    /// The file can't be opened.
    #[error("{path} can't be opened: {source}")]
    Open {
        /// The file.
        path: String,
        /// What redb says.
        source: Arc<redb::Error>,
    },
    /// The file was written by a newer program.
    #[error(
        "{path} has layout version {found}, and this program knows versions up to {SCHEMA_VERSION}: use a newer pinnace"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
    /// Reading or writing failed, such as for a full disk. What was in this batch isn't stored; the next batch is
    /// tried afresh.
    #[error("the block store failed: {0}")]
    Storage(Arc<redb::Error>),
    /// The file failed and can't be opened again either.
    #[error("the block store is out of service: it failed and can't be opened again: {0}")]
    OutOfService(Arc<redb::Error>),
    /// There is no room for what was to be stored; nothing of it is.
    #[error(transparent)]
    NoSpace(#[from] Shortage),
    /// The index names bytes that aren't there.
    #[error(
        "the block store is damaged: segment {segment} is missing or too short; `pinnace verify --repair` has its blocks fetched again"
    )]
    Damaged {
        /// The segment's number.
        segment: u64,
    },
    /// A block's bytes aren't what its hash says.
    #[error(
        "the block store is damaged: the bytes of {cid} aren't what its hash says; `pinnace verify --repair` has it fetched again"
    )]
    Corrupt {
        /// The block.
        cid: Cid,
    },
    /// Garbage can't be told from what is below damaged blocks.
    #[error(
        "{blocks} damaged blocks have not been replaced yet, and what is below them can't be told; garbage is not collected until they are or their pins are removed: `pinnace verify --repair` names the pins and has the blocks fetched again"
    )]
    Unreplaced {
        /// How many damaged blocks the pins reach that may have links.
        blocks: u64,
    },
    /// The disk is too small for a copy.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// A compaction met blocks that can't be read, and changed nothing.
    #[error("{damaged_blocks} blocks can't be read, as their segments are missing or too short; nothing was changed")]
    NotCompacted {
        /// How many.
        damaged_blocks: u64,
    },
    /// A copy was ended by who had begun it.
    #[error("it was cut off, because the program stops")]
    CutOff,
    /// The store was closed, so nothing is written any more.
    #[error("the block store is closed")]
    Closed,
}

/// Each of redb's own errors is a failure of the store.
macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for BlocksError {
            fn from(error: $error) -> Self {
                Self::Storage(Arc::new(error.into()))
            }
        })+
    };
}
from_redb!(redb::Error, redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// The open block store: hands out readers and writers, and ends the writing thread when closed or dropped.
#[derive(Debug)]
pub struct BlockStore {
    reader: BlockReader,
    writer: BlockWriter,
    thread: Option<JoinHandle<()>>,
}

impl BlockStore {
    /// Opens the file at `path`, or makes it.
    ///
    /// `cache_bytes` is the memory for cached pages, `write_buffer_bytes` for blocks that wait for their commit.
    pub fn open(path: &Path, cache_bytes: usize, write_buffer_bytes: usize) -> Result<Self, BlocksError> {
        Self::open_limited(path, cache_bytes, write_buffer_bytes, SpaceLimits::NONE)
    }

    /// The same, for a store that may take only so much.
    pub fn open_limited(
        path: &Path,
        cache_bytes: usize,
        write_buffer_bytes: usize,
        limits: SpaceLimits,
    ) -> Result<Self, BlocksError> {
        Self::start(file::BlockFile::open(path, cache_bytes, limits)?, write_buffer_bytes)
    }

    /// Opens whatever `opener` gives.
    #[cfg(test)]
    pub(in crate::store) fn open_backend(opener: super::database::Opener) -> Result<Self, BlocksError> {
        Self::start(file::BlockFile::open_with("blocks".as_ref(), SpaceLimits::NONE, opener)?, 8 << 20)
    }

    fn start(file: file::BlockFile, write_buffer_bytes: usize) -> Result<Self, BlocksError> {
        let file = Arc::new(file);
        let (writer, thread) = writer::start(Arc::clone(&file), write_buffer_bytes)?;
        Ok(Self { reader: BlockReader::new(file), writer, thread: Some(thread) })
    }

    /// What is known of whole DAGs counts no longer, as when damage is found.
    #[cfg(test)]
    pub(crate) fn begin_generation(&self) {
        self.reader.file().write(whole::begin_generation).unwrap();
    }

    /// A handle that reads.
    pub fn reader(&self) -> BlockReader {
        self.reader.clone()
    }

    /// A handle that writes.
    pub fn writer(&self) -> BlockWriter {
        self.writer.clone()
    }

    /// Merges what stands in front of the index, as an idle store does by itself after a while.
    pub fn settle(&self) -> Result<(), BlocksError> {
        self.reader.file().settle()
    }

    /// What keeps the store from writing, and each change of it.
    pub fn shortage(&self) -> watch::Receiver<Option<Shortage>> {
        self.reader.file().space.subscribe()
    }

    /// A handle that collects garbage; `links` says what a block links to.
    pub fn collector(&self, links: Links) -> BlockCollector {
        BlockCollector { file: self.reader.file(), links }
    }

    /// A handle that checks blocks; `links` says what a block links to.
    pub fn verifier(&self, links: Links) -> BlockVerifier {
        BlockVerifier { file: self.reader.file(), links }
    }

    /// Commits what was submitted, then ends the writing thread. Blocks until that is done; readers go on working.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.writer.stop();
            if thread.join().is_err() {
                tracing::error!("the thread that writes blocks had panicked");
            }
        }
    }
}

impl Drop for BlockStore {
    fn drop(&mut self) {
        self.stop();
    }
}
