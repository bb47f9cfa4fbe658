//! The scrub: reads every block in the order of the file, and hashes it again.
//!
//! A damaged block can be put in *quarantine*: it leaves the index, so that nobody finds it any more and a fetch wants it
//! again, and its key is kept until it is stored again. What the blocks are needed for is not decided here.
//!
//! A pass is made of steps, between which everything else goes on: each looks its blocks up anew, as they may have been moved or
//! removed meanwhile. How far a pass is stays in the file, so that the next process can go on there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cid::Cid;
use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::file::{BlockFile, INDEX, META, QUARANTINE, SEGMENT_SIZES, SEGMENTS, put_in_quarantine};
use super::pack::{self, Place};
use super::placed::{self, Placed};
use super::{BlocksError, Links, whole};

/// Bytes of blocks that one step reads; one block more may go over it.
const STEP_BYTES: u64 = if cfg!(test) { 32 * 1024 } else { 4 * 1024 * 1024 };

/// Blocks that one step reads.
const STEP_BLOCKS: usize = if cfg!(test) { 16 } else { 4096 };

/// Blocks that are listed at a time: about 25 MB of memory.
const LISTED_BLOCKS_MAX: usize = if cfg!(test) { 100 } else { 262_144 };

/// What an entry of the index costs to read, in bytes.
const ENTRY_BYTES: u64 = 64;

/// Damaged blocks that a pass names; further ones are only counted.
pub const DAMAGED_NAMED_MAX: usize = 1000;

/// Damaged blocks that are remembered while nothing is repaired: about 10 MB of memory.
pub(super) const DAMAGED_KEPT_MAX: usize = 100_000;

/// Reads that the disk may refuse in one pass. Each makes the file be opened again; more of them are a disk that is going.
const REFUSED_READS_MAX: usize = 64;

/// [`Place::number`] of the last block that the unfinished pass has looked at.
const META_CURSOR: &str = "verify_cursor";
/// The segment at which the unfinished pass ends.
const META_END: &str = "verify_end";
/// What the unfinished pass has looked at, and what it put in quarantine.
const META_BLOCKS: &str = "verify_blocks";
const META_BYTES: &str = "verify_bytes";
const META_QUARANTINED: &str = "verify_quarantined";
/// When the last pass ended, in milliseconds since the Unix epoch.
const META_FINISHED: &str = "verify_finished";
/// There while blocks are in quarantine and not all pins that need them are known to be queued again.
const META_PINS_DUE: &str = "verify_pins_due";

/// Whether a number of the whole file says how far a pass is. In a copy of the file that means nothing.
pub(super) fn is_of_unfinished_pass(key: &str) -> bool {
    [META_CURSOR, META_END, META_BLOCKS, META_BYTES, META_QUARANTINED].contains(&key)
}

/// What a pass has found up to now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Blocks that were looked at.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
    /// Blocks that the pass has to look at, as far as is known.
    pub blocks_total: u64,
    /// Bytes of those blocks.
    pub bytes_total: u64,
    /// Blocks whose bytes aren't what their hash says, or aren't all there.
    pub damaged_blocks: u64,
    /// Those of them that this pass put in quarantine.
    pub quarantined_blocks: u64,
    /// The CIDs (with the codec for raw bytes) of the first [`DAMAGED_NAMED_MAX`] damaged blocks that this process found.
    pub damaged: Vec<Cid>,
}

/// What the file says of passes before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubRecord {
    /// When the last whole pass ended that left no damage in the index.
    pub finished: Option<Timestamp>,
    /// Whether a pass was cut off, so that the next can go on there.
    pub is_cut_off: bool,
    /// Whether pins may need blocks in quarantine without being queued again.
    pub pins_due: bool,
    /// Blocks in quarantine.
    pub quarantined_blocks: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubStep {
    /// It read about so many bytes, of blocks or of the index, and there may be more.
    Looked(u64),
    /// There are no more blocks.
    Done,
}

/// A handle that checks blocks.
#[derive(Debug, Clone)]
pub struct BlockVerifier {
    pub(super) file: Arc<BlockFile>,
    pub(super) links: Links,
}

/// A pass over all blocks. Dropping it before it is done is safe.
#[derive(Debug)]
pub struct Scrub {
    file: Arc<BlockFile>,
    repairs: bool,
    /// Blocks of the present list that weren't looked at yet, the last one first.
    ahead: Vec<Placed>,
    cursor: Option<u64>,
    /// Segments from here on are newer than this pass, but for moved blocks.
    end: u64,
    /// What is damaged and not in quarantine.
    found: HashMap<Box<[u8]>, Place>,
    refused_reads: usize,
    report: ScrubReport,
}

/// What a look at a block found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It was removed, or moved to where it is looked at later.
    Gone,
    Whole,
    Damaged,
}

impl BlockVerifier {
    /// Begins a pass that repairs or only looks. With `resume` it goes on where the one before was cut off, if it was.
    pub fn scrub(&self, repairs: bool, resume: bool) -> Result<Scrub, BlocksError> {
        let file = Arc::clone(&self.file);
        let (cursor, end, report) = file.read(|transaction| {
            let meta = transaction.open_table(META)?;
            let number = |key| Ok::<_, BlocksError>(meta.get(key)?.map(|value| value.value()));
            if resume && let (Some(cursor), Some(end)) = (number(META_CURSOR)?, number(META_END)?) {
                let quarantined_blocks = number(META_QUARANTINED)?.unwrap_or(0);
                let report = ScrubReport {
                    blocks: number(META_BLOCKS)?.unwrap_or(0),
                    bytes: number(META_BYTES)?.unwrap_or(0),
                    damaged_blocks: quarantined_blocks,
                    quarantined_blocks,
                    ..ScrubReport::default()
                };
                return Ok((Some(cursor), end, report));
            }
            let last = transaction.open_table(SEGMENT_SIZES)?.last()?.map(|(number, _)| number.value());
            Ok((None, last.map_or(0, |last| last + 1), ScrubReport::default()))
        })?;
        let (ahead, found) = (Vec::new(), HashMap::new());
        Ok(Scrub { file, repairs, ahead, cursor, end, found, refused_reads: 0, report })
    }

    /// Lets the file be usable again after one of its accesses failed.
    pub fn reopen(&self) {
        self.file.reopen();
    }

    /// What the file says of passes before.
    pub fn record(&self) -> Result<ScrubRecord, BlocksError> {
        record(&self.file)
    }
}

/// See [`BlockVerifier::record`].
pub(super) fn record(file: &BlockFile) -> Result<ScrubRecord, BlocksError> {
    file.read(|transaction| {
        let meta = transaction.open_table(META)?;
        let finished = meta.get(META_FINISHED)?.and_then(|at| i64::try_from(at.value()).ok());
        Ok(ScrubRecord {
            finished: finished.and_then(|at| Timestamp::from_millisecond(at).ok()),
            is_cut_off: meta.get(META_CURSOR)?.is_some(),
            pins_due: meta.get(META_PINS_DUE)?.is_some(),
            quarantined_blocks: transaction.open_table(QUARANTINE)?.len()?,
        })
    })
}

impl Scrub {
    /// What was found up to now.
    pub fn report(&self) -> &ScrubReport {
        &self.report
    }

    /// Whether it repairs.
    pub fn repairs(&self) -> bool {
        self.repairs
    }

    /// Whether damage was found that isn't in quarantine.
    pub fn has_unrepaired(&self) -> bool {
        self.report.damaged_blocks > self.report.quarantined_blocks
    }

    /// The keys of damaged blocks that aren't in quarantine.
    pub(super) fn unrepaired(&self) -> impl Iterator<Item = &[u8]> {
        self.found.keys().map(|key| &**key)
    }

    /// From now on damaged blocks are put in quarantine, beginning with those that were found already.
    pub fn repair(&mut self) {
        if self.repairs {
            return;
        }
        self.repairs = true;
        let kept = self.found.len() as u64;
        if self.report.damaged_blocks > self.report.quarantined_blocks + kept {
            // Not all of them are remembered.
            self.cursor = None;
            self.ahead.clear();
            self.report = ScrubReport::default();
        }
        // Counted again when they are in quarantine.
        self.report.damaged_blocks -= kept.min(self.report.damaged_blocks);
        self.report.damaged.clear();
    }

    /// Does the next piece of work, of a bounded size. `go_on` is asked in the middle of a long look at the index.
    pub fn step(&mut self, go_on: &dyn Fn() -> bool) -> Result<ScrubStep, BlocksError> {
        if self.repairs && !self.found.is_empty() {
            let chosen: Vec<Placed> =
                self.found.iter().take(STEP_BLOCKS).map(|(key, place)| (key.clone(), *place)).collect();
            self.quarantine(&chosen)?;
            for (key, _) in &chosen {
                self.found.remove(key);
            }
            return Ok(ScrubStep::Looked(0));
        }
        if self.ahead.is_empty() {
            let bytes = self.list(go_on)?;
            let is_done = self.ahead.is_empty() && go_on();
            return Ok(if is_done { ScrubStep::Done } else { ScrubStep::Looked(bytes) });
        }
        self.look()
    }

    /// Lists the next blocks; the answer is how many bytes of the index that read.
    fn list(&mut self, go_on: &dyn Fn() -> bool) -> Result<u64, BlocksError> {
        // The newest blocks are in the index from here on; those that come later are for the next pass.
        self.file.settle()?;
        let (cursor, before) = (self.cursor, self.end);
        let (listing, end) = self.file.read(|transaction| {
            // After the transaction has begun: what was moved before it is in it.
            let end = before.max(self.file.moved_end.load(Ordering::Acquire));
            let last = transaction.open_table(SEGMENT_SIZES)?.last()?.map(|(number, _)| number.value());
            // A place behind all segments isn't new but damaged.
            let is_wanted = |number| {
                let segment = Place::from_number(number, 0).segment;
                Some(number) > cursor && (segment < end || Some(segment) > last)
            };
            Ok((placed::next_places(transaction, &is_wanted, LISTED_BLOCKS_MAX, go_on)?, end))
        })?;
        self.end = end;
        if go_on() {
            self.report.blocks_total = self.report.blocks + listing.blocks_wanted;
            self.report.bytes_total = self.report.bytes + listing.bytes_wanted;
            self.ahead = listing.blocks;
            self.ahead.reverse();
        }
        Ok(listing.entries * ENTRY_BYTES)
    }

    /// Looks at the next blocks of the list.
    fn look(&mut self) -> Result<ScrubStep, BlocksError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((_, place)) = self.ahead.last() {
            // Those that share a number go together, as the cursor can't tell them apart.
            let shares = batch.last().is_some_and(|(_, last): &Placed| last.number() == place.number());
            if !shares && (bytes >= STEP_BYTES || batch.len() >= STEP_BLOCKS) {
                break;
            }
            bytes += u64::from(place.length);
            batch.extend(self.ahead.pop());
        }
        let seen = self.look_at(&batch)?;
        let mut damaged = Vec::new();
        for ((key, place), seen) in batch.iter().zip(seen) {
            match seen {
                Seen::Gone => continue,
                Seen::Whole => {}
                Seen::Damaged => damaged.push((key.clone(), *place)),
            }
            self.report.blocks += 1;
            self.report.bytes += u64::from(place.length);
        }
        self.cursor = batch.last().map(|(_, place)| place.number()).or(self.cursor);
        if self.repairs {
            self.quarantine(&damaged)?;
        } else {
            for (key, place) in damaged {
                // Where it was moved to and found again, it is the same block.
                if !self.found.contains_key(&key) {
                    count(&mut self.report, &key);
                    if self.found.len() < DAMAGED_KEPT_MAX {
                        self.found.insert(key, place);
                    }
                }
            }
        }
        Ok(ScrubStep::Looked(bytes))
    }

    /// Reads blocks and hashes them. A block that the disk refuses to give twice in a row is damaged, too.
    fn look_at(&mut self, batch: &[Placed]) -> Result<Vec<Seen>, BlocksError> {
        let mut seen = Vec::new();
        let mut refused_at = None;
        loop {
            match read_each(&self.file, batch, &mut seen) {
                Ok(()) => return Ok(seen),
                Err(error) if is_refusal(&error) => {
                    self.refused_reads += 1;
                    if self.refused_reads > REFUSED_READS_MAX {
                        return Err(error);
                    }
                    // The file was opened again.
                    if refused_at.replace(seen.len()) == Some(seen.len()) && is_own_refusal(&error) {
                        seen.push(Seen::Damaged);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts blocks in quarantine, unless they were removed or are whole where they are now.
    fn quarantine(&mut self, blocks: &[Placed]) -> Result<(), BlocksError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let taken = self.file.write(|transaction| {
            let mut taken = Vec::new();
            {
                let mut index = transaction.open_table(INDEX)?;
                let mut quarantine = transaction.open_table(QUARANTINE)?;
                let segments = transaction.open_table(SEGMENTS)?;
                for (key, place) in blocks {
                    let found = index.get(&**key)?.map(|found| Place::from_bytes(found.value()));
                    let Some(found) = found else { continue };
                    if found != *place && is_whole(&segments, key, found)? {
                        continue;
                    }
                    index.remove(&**key)?;
                    put_in_quarantine(&mut quarantine, key, found)?;
                    taken.push(key);
                }
            }
            // A stop must not let pins be forgotten that need these.
            if !taken.is_empty() {
                // What was whole may not be any more.
                whole::begin_generation(transaction)?;
                transaction.open_table(META)?.insert(META_PINS_DUE, 1)?;
            }
            Ok(taken)
        })?;
        for key in taken {
            count(&mut self.report, key);
            self.report.quarantined_blocks += 1;
        }
        Ok(())
    }

    /// Notes in the file how far this pass is. Not while damage is left that only this pass knows of.
    pub fn save(&self) -> Result<(), BlocksError> {
        let Some(cursor) = self.cursor.filter(|_| !self.has_unrepaired()) else { return Ok(()) };
        self.file.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_CURSOR, cursor)?;
            meta.insert(META_END, self.end)?;
            meta.insert(META_BLOCKS, self.report.blocks)?;
            meta.insert(META_BYTES, self.report.bytes)?;
            meta.insert(META_QUARANTINED, self.report.quarantined_blocks)?;
            Ok(())
        })
    }

    /// Notes in the file that this pass is over, and what follows from it is done. Not when damage is left.
    pub fn finish(&self) -> Result<(), BlocksError> {
        if self.has_unrepaired() {
            return Ok(());
        }
        self.file.write(|transaction: &WriteTransaction| {
            let mut meta = transaction.open_table(META)?;
            for key in [META_CURSOR, META_END, META_BLOCKS, META_BYTES, META_QUARANTINED] {
                meta.remove(key)?;
            }
            if self.repairs {
                meta.remove(META_PINS_DUE)?;
            }
            meta.insert(META_FINISHED, u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0))?;
            Ok(())
        })
    }
}

/// Counts a damaged block and names it, as far as there is room.
fn count(report: &mut ScrubReport, key: &[u8]) {
    report.damaged_blocks += 1;
    if report.damaged.len() < DAMAGED_NAMED_MAX {
        // What is no key any more can't be named.
        report.damaged.extend(pack::cid(key));
    }
}

/// Reads the blocks of a batch from the one behind `seen` on, and tells of each what it is.
fn read_each(file: &BlockFile, batch: &[Placed], seen: &mut Vec<Seen>) -> Result<(), BlocksError> {
    file.read(|transaction| {
        let index = transaction.open_table(INDEX)?;
        let segments = transaction.open_table(SEGMENTS)?;
        for (key, place) in batch.iter().skip(seen.len()) {
            let found = index.get(&**key)?.map(|found| Place::from_bytes(found.value()));
            seen.push(if found != Some(*place) {
                Seen::Gone
            } else if is_whole(&segments, key, *place)? {
                Seen::Whole
            } else {
                Seen::Damaged
            });
        }
        Ok(())
    })
}

/// Whether the block at a place is what its key says.
fn is_whole(segments: &impl ReadableTable<u64, &'static [u8]>, key: &[u8], place: Place) -> Result<bool, BlocksError> {
    match pack::read(segments, place) {
        Ok(data) => Ok(pack::matches(key, data)),
        Err(BlocksError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the disk refused to read, now or to somebody else before.
fn is_refusal(error: &BlocksError) -> bool {
    is_own_refusal(error) || matches!(error, BlocksError::Storage(error) if matches!(**error, redb::Error::PreviousIo))
}

fn is_own_refusal(error: &BlocksError) -> bool {
    matches!(error, BlocksError::Storage(error) if matches!(**error, redb::Error::Io(_)))
}
