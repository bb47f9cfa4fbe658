//! Writes `blocks.redb` anew without the space that nothing uses, and puts the new file in the place of the old one.
//!
//! A collection gives space back for new blocks, but the file stays as long as it was. (redb's own compaction moves pages
//! within the file and holds everything up for as long as that takes; and what is dead within a segment would stay.)

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::BlocksError;
use super::copy::{Check, CopyReport, copy_blocks, measure};
use super::file::BlockFile;
use super::space::SpaceLimits;
use crate::store::database;
use crate::store::room::{self, RoomError};

/// Memory for the pages of either file.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The length of the file before.
    pub bytes_before: u64,
    /// Its length now.
    pub bytes_after: u64,
    /// Blocks that it holds.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub block_bytes: u64,
}

/// Compacts the file at `path`, which nobody has open. `observe` is told how far it is, and what it is to become.
pub(in crate::store) fn compact(
    path: &Path,
    observe: &mut dyn FnMut(CopyReport, CopyReport),
) -> Result<Compacted, BlocksError> {
    let new = database::temporary_path(path);
    let outcome = write_new(path, &new, observe);
    if outcome.is_err() {
        // The error says more than one of a file that can't be removed; the next compaction removes it.
        let _ = fs::remove_file(&new);
    }
    outcome
}

fn write_new(
    path: &Path,
    new: &Path,
    observe: &mut dyn FnMut(CopyReport, CopyReport),
) -> Result<Compacted, BlocksError> {
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    let failed = |error: io::Error| BlocksError::Storage(Arc::new(redb::Error::Io(error)));
    database::remove_if_there(new).map_err(failed)?;
    let bytes_before = length(path).map_err(failed)?;
    let old = BlockFile::open(path, CACHE_BYTES, SpaceLimits::NONE)?;
    let report = old.read(|source| {
        let all = measure(source)?;
        room::check(new, all.file_bytes()).map_err(|error| match error {
            RoomError::NoRoom(error) => BlocksError::NoRoom(error),
            RoomError::Io(error) => failed(error),
        })?;
        let target = database::create(new, CACHE_BYTES).map_err(redb::Error::from)?;
        let report = copy_blocks(source, &target, new, Check::Present, &mut |done| {
            observe(done, all);
            ControlFlow::Continue(())
        })?;
        database::finish(target, new)?;
        Ok(report)
    })?;
    drop(old);
    if report.damaged_blocks > 0 {
        return Err(BlocksError::NotCompacted { damaged_blocks: report.damaged_blocks });
    }
    let bytes_after = length(new).map_err(failed)?;
    database::rename(new, path).map_err(failed)?;
    Ok(Compacted { bytes_before, bytes_after, blocks: report.blocks, block_bytes: report.bytes })
}
