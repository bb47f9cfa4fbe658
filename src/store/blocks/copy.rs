//! Copies every block of a snapshot into another file, in the order in which they lie, so that segments are full again
//! and what belonged together stays together. For compaction, backups and restores.
//!
//! What is read and written at a time is bounded, whatever the store's size. The target is a file that nobody uses yet, so
//! its commits need not be quick to repair: whoever is killed meanwhile throws it away.
//!
//! The new index is collected in a file of its own and written at the end, in the order of its keys: its pages are full
//! then, and no commit has left holes of the one before. With small blocks, that is most of what a copy can waste.

use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::file::{INDEX, QUARANTINE, SEGMENTS, prepare_copy, put_in_quarantine};
use super::pack::{self, Place};
use super::placed::{self, Placed};
use super::{BlocksError, SEGMENT_BYTES};
use crate::store::database;

/// Bytes of blocks after which a transaction ends: few enough to hold them, so many that its last segment, which is
/// seldom full, hardly counts.
const COMMIT_BYTES: usize = 256 * SEGMENT_BYTES;

/// Blocks that one look at the index takes: about 10 MB of memory.
const PASS_BLOCKS: usize = if cfg!(test) { 5000 } else { 100_000 };

/// Entries of the index that one transaction writes.
const COMMIT_ENTRIES: usize = 500_000;

/// Memory for the pages of the file in which the new index is collected.
const SCRATCH_CACHE_BYTES: usize = 8 * 1024 * 1024;

/// What a copied block costs beside its bytes: its entry in the index, and in the file in which that is collected, the
/// pages of which are two thirds full, and written anew by each pass.
const ENTRY_BYTES: u64 = 50 + 160;

/// What redb's own pages and the ends of segments cost, in thousandths of the blocks' bytes, and in bytes whatever they
/// are.
const OVERHEAD_PER_MILLE: u64 = 20;
const OVERHEAD_BYTES: u64 = 4 * 1024 * 1024;

/// What a copy will be, or how far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Blocks that were copied.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that were left out, since they are damaged or can't be read.
    pub damaged_blocks: u64,
}

impl CopyReport {
    /// About how large a file with nothing but these blocks is, in bytes.
    pub(in crate::store) fn file_bytes(&self) -> u64 {
        self.bytes + self.bytes / 1000 * OVERHEAD_PER_MILLE + self.blocks * ENTRY_BYTES + OVERHEAD_BYTES
    }
}

/// How closely blocks are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Check {
    /// They must be there.
    Present,
    /// They must match their hashes.
    Hashes,
}

/// What all blocks of a snapshot are. Reads the whole index.
pub(in crate::store) fn measure(source: &ReadTransaction) -> Result<CopyReport, BlocksError> {
    let mut sum = CopyReport::default();
    placed::for_each(source, |_, place| {
        sum.blocks += 1;
        sum.bytes += u64::from(place.length);
        ControlFlow::Continue(())
    })?;
    Ok(sum)
}

/// Copies all blocks of a snapshot into `target`, a new database in the file `path`. `observe` is told how far it is after
/// each commit, and may end it.
pub(in crate::store) fn copy_blocks(
    source: &ReadTransaction,
    target: &Database,
    path: &Path,
    check: Check,
    observe: &mut dyn FnMut(CopyReport) -> ControlFlow<()>,
) -> Result<CopyReport, BlocksError> {
    let transaction = target.begin_write()?;
    prepare_copy(source, &transaction)?;
    transaction.commit()?;

    let scratch = Scratch::create(path)?;
    let segments = source.open_table(SEGMENTS)?;
    let mut report = CopyReport::default();
    let mut after: Option<u64> = None;
    loop {
        let pass = placed::next_places(source, &|number| Some(number) > after, PASS_BLOCKS, &|| true)?.blocks;
        let Some((_, last)) = pass.last() else { break };
        after = Some(last.number());
        let mut copied: Vec<Placed> = Vec::with_capacity(pass.len());
        let mut rest = pass.into_iter();
        while rest.len() > 0 {
            let mut batch: Vec<(Placed, Bytes)> = Vec::new();
            let mut damaged: Vec<Placed> = Vec::new();
            let mut bytes = 0;
            for placed in rest.by_ref() {
                match pack::read(&segments, placed.1) {
                    Ok(data) if check == Check::Present || pack::matches(&placed.0, data.clone()) => {
                        bytes += data.len();
                        batch.push((placed, data));
                    }
                    Ok(_) | Err(BlocksError::Damaged { .. }) => damaged.push(placed),
                    Err(error) => return Err(error),
                }
                if bytes >= COMMIT_BYTES {
                    break;
                }
            }
            let places: Vec<(&Bytes, &mut Place)> =
                batch.iter_mut().map(|(placed, data)| (&*data, &mut placed.1)).collect();
            let transaction = target.begin_write()?;
            pack::write(&transaction, places)?;
            {
                // A collection must not take what is below a block that is left out for garbage.
                let mut quarantine = transaction.open_table(QUARANTINE)?;
                for (key, place) in &damaged {
                    put_in_quarantine(&mut quarantine, key, *place)?;
                }
            }
            transaction.commit()?;
            report.damaged_blocks += damaged.len() as u64;
            report.blocks += batch.len() as u64;
            report.bytes += bytes as u64;
            copied.extend(batch.into_iter().map(|(placed, _)| placed));
            if observe(report).is_break() {
                return Err(BlocksError::CutOff);
            }
        }
        scratch.add(copied)?;
    }
    scratch.append_to(target)?;
    Ok(report)
}

/// The file in which the new index is collected; it goes when this is dropped.
struct Scratch {
    database: Database,
    path: PathBuf,
}

impl Scratch {
    /// A file beside the one at `path`. One that was left behind by a killed process is replaced.
    fn create(path: &Path) -> Result<Self, BlocksError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".index");
        let path = PathBuf::from(name);
        let database = database::create(&path, SCRATCH_CACHE_BYTES).map_err(redb::Error::from)?;
        Ok(Self { database, path })
    }

    fn add(&self, mut blocks: Vec<Placed>) -> Result<(), BlocksError> {
        // Neighbours in the index share pages.
        blocks.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let transaction = self.database.begin_write()?;
        {
            let mut index = transaction.open_table(INDEX)?;
            for (key, place) in &blocks {
                index.insert(&**key, &place.to_bytes())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Writes everything to the index of `target`, some entries at a time.
    fn append_to(&self, target: &Database) -> Result<(), BlocksError> {
        let source = self.database.begin_read()?;
        let index = match source.open_table(INDEX) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            index => index?,
        };
        let mut entries = index.iter()?.peekable();
        while entries.peek().is_some() {
            let transaction = target.begin_write()?;
            {
                let mut index = transaction.open_table(INDEX)?;
                let mut end = index.upper_bound_mut(Bound::<&[u8]>::Unbounded)?;
                for entry in entries.by_ref().take(COMMIT_ENTRIES) {
                    let (key, place) = entry?;
                    end.insert_before(key.value(), place.value()).map_err(redb::Error::from)?;
                }
                end.close()?;
            }
            transaction.commit()?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed now is replaced by the next copy to the same file.
        let _ = fs::remove_file(&self.path);
    }
}
