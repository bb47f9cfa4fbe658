//! Garbage collection: keeps what is reachable from the roots, and gives the space of the rest back.
//!
//! Three phases, each in small steps between which everything else goes on:
//! *mark* walks the DAGs of the roots into a bitmap, *sweep* takes unmarked blocks out of the index, and *vacate* moves
//! what is left in mostly dead segments to new ones and drops those. A stop at any step loses nothing; the next
//! collection finds what this one left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cid::Cid;
use redb::{ReadableTable, ReadableTableMetadata};
use roaring::RoaringTreemap;

use super::BlocksError;
use super::file::{BlockFile, INDEX, QUARANTINE, SEGMENT_SIZES, SEGMENTS, change_segment_bytes, raise_floor};
use super::pack::{self, Place};
use crate::model::block::IDENTITY_HASH;
use crate::model::cids::codec;

/// Blocks that one step of the walk reads.
const MARK_BLOCKS: usize = if cfg!(test) { 64 } else { 256 };

/// Index entries that one step of the sweep looks at; fewer in tests, which look between the steps.
const SWEEP_ENTRIES: usize = if cfg!(test) { 128 } else { 8192 };

/// Bytes of blocks that one step copies.
const MOVE_BYTES: u64 = if cfg!(test) { 64 * 1024 } else { 8 * 1024 * 1024 };

/// Bytes of copied blocks after which the index is told; so much more room is taken meanwhile. Small blocks fall anywhere in
/// the index, so the more of them are told together, the more share a page of it.
const COPIED_BYTES_MAX: u64 = if cfg!(test) { 256 * 1024 } else { 128 * 1024 * 1024 };

/// Index entries that one step changes.
const INDEX_ENTRIES: usize = if cfg!(test) { 64 } else { 8192 };

/// Blocks that are listed at a time to be moved: about 100 bytes of memory each.
const MOVE_BLOCKS_MAX: u64 = 500_000;

/// A segment with less than this share of live bytes, in per cent, is vacated. What is left is then at most 1.25 times
/// what lives.
const LIVE_PERCENT_MIN: u64 = 80;

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blocks that are reachable from the roots, or became wanted meanwhile.
    pub kept_blocks: u64,
    /// Blocks that were removed.
    pub removed_blocks: u64,
    /// Bytes of the removed blocks.
    pub removed_bytes: u64,
    /// Blocks that were moved out of mostly dead segments.
    pub moved_blocks: u64,
    /// Segments whose space is free now.
    pub dropped_segments: u64,
}

/// Where a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcPhase {
    /// Walks the DAGs of the roots.
    Mark,
    /// Takes dead blocks out of the index.
    Sweep,
    /// Empties mostly dead segments.
    Vacate,
    /// Is done.
    Done,
}

impl GcPhase {
    /// The phase in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::Sweep => "sweep",
            Self::Vacate => "vacate",
            Self::Done => "done",
        }
    }
}

/// A running collection. Dropping it before it is done is safe.
#[derive(Debug)]
pub struct Collection {
    file: Arc<BlockFile>,
    links: Links,
    phase: GcPhase,
    pending: Vec<Cid>,
    /// All roots were added.
    sealed: bool,
    /// Blocks whose links were followed, by codec: the same bytes have other links under another codec.
    walked: HashMap<u64, RoaringTreemap>,
    /// Blocks in quarantine that the roots reach, by the [`Place::number`] that they had.
    quarantined: RoaringTreemap,
    /// How many damaged blocks the roots reach that may have links.
    damaged_nodes: u64,
    /// The last key that the sweep looked at.
    swept_to: Option<Vec<u8>>,
    /// The last key in quarantine that the sweep looked at.
    released_to: Option<Vec<u8>>,
    /// What lives in each segment below `segments_end`.
    live: BTreeMap<u64, Live>,
    /// Segments from here on are newer than this collection, and left alone.
    segments_end: u64,
    moves: Moves,
    report: GcReport,
}

/// What lives in a segment.
#[derive(Debug, Clone, Copy, Default)]
struct Live {
    /// All bytes of the segment; known from the plan on.
    size: u64,
    bytes: u64,
    /// Blocks of which at least a part is in the segment.
    blocks: u64,
}

impl Live {
    fn is_mostly_dead(&self) -> bool {
        self.bytes * 100 < self.size * LIVE_PERCENT_MIN
    }
}

/// The segments that are being vacated, and the blocks in them.
#[derive(Debug, Default)]
struct Moves {
    /// Segments to vacate that have no turn yet.
    segments: BTreeSet<u64>,
    /// Those whose turn it is.
    turn: BTreeSet<u64>,
    blocks: Vec<(Vec<u8>, Place)>,
    /// What was copied and is not indexed yet.
    copied: Vec<Copied>,
    /// Bytes of those, until they are indexed.
    copied_bytes: u64,
    is_indexing: bool,
    /// Segments in which nothing lives any more, once the index says where the copies are.
    empty: BTreeSet<u64>,
    planned: bool,
}

/// A block that is in two places.
#[derive(Debug)]
struct Copied {
    key: Vec<u8>,
    old: Place,
    new: Place,
}

/// A handle that begins collections.
#[derive(Debug, Clone)]
pub struct BlockCollector {
    pub(super) file: Arc<BlockFile>,
    pub(super) links: Links,
}

/// What a held block links to. The store doesn't know what a DAG is, so it is told. A block that can't be read has no links
/// that a pin could rely on: its pin failed.
pub type Links = fn(&Cid, &Bytes) -> Vec<Cid>;

impl BlockCollector {
    /// Begins a collection. The roots have to be read after this returns: whatever is found or put from now on is kept,
    /// and what was received before is durable. Waits for what is on its way to the disk. Only one may run at a
    /// time.
    pub fn begin(&self) -> Result<Collection, BlocksError> {
        let file = Arc::clone(&self.file);
        file.guard.begin();
        // From here on a failure ends the time in which marks are kept.
        let mut collection = Collection {
            file,
            links: self.links,
            phase: GcPhase::Mark,
            pending: Vec::new(),
            sealed: false,
            walked: HashMap::new(),
            quarantined: RoaringTreemap::new(),
            damaged_nodes: 0,
            swept_to: None,
            released_to: None,
            live: BTreeMap::new(),
            segments_end: 0,
            moves: Moves::default(),
            report: GcReport::default(),
        };
        collection.segments_end = collection.file.read(|transaction| {
            let last = transaction.open_table(SEGMENT_SIZES)?.last()?.map(|(number, _)| number.value());
            Ok(last.map_or(0, |last| last + 1))
        })?;
        // After the look at the segments: every block that is in one of those is in the index now.
        collection.file.settle()?;
        Ok(collection)
    }
}

/// A node may name a block many thousand times.
pub(super) fn distinct(mut cids: Vec<Cid>) -> Vec<Cid> {
    cids.sort_unstable();
    cids.dedup();
    cids
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.file.guard.end();
    }
}

impl Collection {
    /// A root whose DAG, as far as it is held, is kept. To be called before [`Collection::seal_roots`].
    pub fn add_root(&mut self, root: &Cid) {
        debug_assert!(!self.sealed, "a root after the last one would not be walked");
        self.pending.push(*root);
    }

    /// There are no more roots: when those that were added are walked, the sweep begins.
    pub fn seal_roots(&mut self) {
        self.sealed = true;
    }

    /// Whether roots that were added aren't walked yet.
    pub fn has_unwalked_roots(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What was done up to now.
    pub fn report(&self) -> GcReport {
        self.report
    }

    /// The phase of the next step.
    pub fn phase(&self) -> GcPhase {
        self.phase
    }

    /// Does the next piece of work, of a bounded size.
    pub fn step(&mut self) -> Result<GcPhase, BlocksError> {
        match self.phase {
            GcPhase::Mark => self.mark()?,
            GcPhase::Sweep => self.sweep()?,
            GcPhase::Vacate => self.vacate()?,
            GcPhase::Done => {}
        }
        Ok(self.phase)
    }

    fn mark(&mut self) -> Result<(), BlocksError> {
        let first = self.pending.len().saturating_sub(MARK_BLOCKS);
        let cids = self.pending.split_off(first);
        let keys: Vec<_> = cids.iter().map(pack::key).collect();
        let mut found: Vec<Place> = Vec::new();
        let (pending, walked, links) = (&mut self.pending, &mut self.walked, self.links);
        let (quarantined, damaged_nodes) = (&mut self.quarantined, &mut self.damaged_nodes);
        self.file.read_places(&keys, |transaction, places| {
            let segments = transaction.open_table(SEGMENTS)?;
            let quarantine = transaction.open_table(QUARANTINE)?;
            for ((cid, key), place) in cids.iter().zip(&keys).zip(places) {
                if cid.hash().code() == IDENTITY_HASH {
                    pending.extend(links(cid, &Bytes::copy_from_slice(cid.hash().digest())));
                    continue;
                }
                let Some(key) = key else { continue };
                let is_leaf = codec::is_leaf(cid.codec());
                let Some(place) = place else {
                    // Not here yet, or never: a fetch that brings it keeps what is below it. But what is below a block that
                    // was here and was damaged is here, and needed when it comes back.
                    if let Some(lost) = quarantine.get(&**key)? {
                        let number = Place::from_bytes(lost.value().0).number();
                        quarantined.insert(number);
                        if !is_leaf && walked.entry(cid.codec()).or_default().insert(number) {
                            *damaged_nodes += 1;
                        }
                    }
                    continue;
                };
                found.push(place);
                // An empty block has no links, and must not stand for the block behind it, whose number it has.
                if is_leaf || place.length == 0 || !walked.entry(cid.codec()).or_default().insert(place.number()) {
                    continue;
                }
                // Links that aren't what the hash says would have the wrong blocks removed.
                match pack::read(&segments, place) {
                    Ok(data) if pack::matches(key, data.clone()) => pending.extend(distinct(links(cid, &data))),
                    Ok(_) | Err(BlocksError::Damaged { .. }) => *damaged_nodes += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        self.file.guard.mark(found.into_iter());
        if self.pending.is_empty() && self.sealed {
            if self.damaged_nodes > 0 {
                return Err(BlocksError::Unreplaced { blocks: self.damaged_nodes });
            }
            // Before the first block goes.
            self.file.prune_whole(&self.walked)?;
            self.file.prune_sub_dags(&self.walked)?;
            self.walked = HashMap::new();
            self.phase = GcPhase::Sweep;
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<(), BlocksError> {
        let start = self.swept_to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut live: Vec<Place> = Vec::new();
        let mut dead: Vec<(Vec<u8>, Place)> = Vec::new();
        // A fetch that marks a block meanwhile looks for it only after the commit.
        self.file.write_with_marks(|transaction, marks| {
            let mut index = transaction.open_table(INDEX)?;
            let Some(marks) = marks else { return Ok(()) };
            for entry in index.range::<&[u8]>((start, Bound::Unbounded))?.take(SWEEP_ENTRIES) {
                let (key, place) = entry?;
                let place = Place::from_bytes(place.value());
                last = Some(key.value().to_vec());
                if marks.contains(place.number()) {
                    live.push(place);
                } else {
                    dead.push((key.value().to_vec(), place));
                }
            }
            for (key, _) in &dead {
                index.remove(key.as_slice())?;
            }
            Ok(())
        })?;
        for place in live {
            self.report.kept_blocks += 1;
            for (segment, bytes) in place.parts() {
                if segment < self.segments_end {
                    let live = self.live.entry(segment).or_default();
                    live.bytes += bytes;
                    live.blocks += 1;
                }
            }
        }
        self.report.removed_blocks += dead.len() as u64;
        self.report.removed_bytes += dead.iter().map(|(_, place)| u64::from(place.length)).sum::<u64>();
        match last {
            Some(last) => self.swept_to = Some(last),
            None => self.release()?,
        }
        Ok(())
    }

    /// Forgets blocks in quarantine that no root reaches. One that went there after the walk had found it was marked.
    fn release(&mut self) -> Result<(), BlocksError> {
        let start = self.released_to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let quarantined = &self.quarantined;
        self.file.write_if(|transaction| {
            let mut quarantine = transaction.open_table(QUARANTINE)?;
            let index = transaction.open_table(INDEX)?;
            let held = self.file.guard.marks();
            let Some(marks) = held.as_ref() else { return Ok(false) };
            let mut unneeded = Vec::new();
            for entry in quarantine.range::<&[u8]>((start, Bound::Unbounded))?.take(SWEEP_ENTRIES) {
                let (key, found) = entry?;
                let number = Place::from_bytes(found.value().0).number();
                let is_needed = quarantined.contains(number) || marks.contains(number);
                if !is_needed || index.get(key.value())?.is_some() {
                    unneeded.push(key.value().to_vec());
                }
                last = Some(key.value().to_vec());
            }
            for key in &unneeded {
                quarantine.remove(key.as_slice())?;
            }
            Ok(!unneeded.is_empty())
        })?;
        match last {
            Some(last) => self.released_to = Some(last),
            None => {
                self.file.guard.end();
                self.phase = GcPhase::Vacate;
            }
        }
        Ok(())
    }

    fn vacate(&mut self) -> Result<(), BlocksError> {
        if !self.moves.planned {
            self.plan_moves()?;
        }
        if self.moves.is_indexing {
            return self.index_copies();
        }
        if self.moves.blocks.is_empty() {
            if self.moves.segments.is_empty() {
                self.phase = GcPhase::Done;
                return Ok(());
            }
            self.list_blocks()?;
        }
        self.copy_blocks()
    }

    /// Finds the segments to vacate, and drops those without any live byte.
    fn plan_moves(&mut self) -> Result<(), BlocksError> {
        let (live, end) = (&mut self.live, self.segments_end);
        let mut empty = Vec::new();
        let segments = &mut self.moves.segments;
        self.file.read(|transaction| {
            for entry in transaction.open_table(SEGMENT_SIZES)?.range(..end)? {
                let (number, size) = entry?;
                let (number, size) = (number.value(), u64::from(size.value()));
                let Some(live) = live.get_mut(&number) else {
                    empty.push(number);
                    continue;
                };
                live.size = size;
                if live.is_mostly_dead() {
                    segments.insert(number);
                }
            }
            Ok(())
        })?;
        self.moves.planned = true;
        self.drop_segments(&empty)
    }

    /// Lists the blocks of as many segments as their number allows.
    fn list_blocks(&mut self) -> Result<(), BlocksError> {
        // At least one segment gets its turn.
        let mut count = 0;
        while count < MOVE_BLOCKS_MAX {
            let Some(segment) = self.moves.segments.pop_first() else { break };
            count += self.live.get(&segment).map_or(0, |live| live.blocks);
            self.moves.turn.insert(segment);
        }
        let (turn, blocks) = (&self.moves.turn, &mut self.moves.blocks);
        self.file.read(|transaction| {
            for entry in transaction.open_table(INDEX)?.iter()? {
                let (key, place) = entry?;
                let place = Place::from_bytes(place.value());
                if turn.range(place.segments()).next().is_some() {
                    blocks.push((key.value().to_vec(), place));
                }
            }
            Ok(())
        })?;
        // Blocks that lay together stay together.
        self.moves.blocks.sort_unstable_by_key(|(_, place)| std::cmp::Reverse(place.number()));
        Ok(())
    }

    /// Copies the next blocks to new segments. The index doesn't say so yet: a stop leaves a copy that nothing names.
    fn copy_blocks(&mut self) -> Result<(), BlocksError> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while bytes < MOVE_BYTES {
            let Some((key, old)) = self.moves.blocks.pop() else { break };
            bytes += u64::from(old.length);
            batch.push(Copied { key, old, new: old });
        }
        let mut copies = self.file.write(|transaction| {
            let mut data = Vec::new();
            {
                let segments = transaction.open_table(SEGMENTS)?;
                for copied in &batch {
                    data.push(pack::read(&segments, copied.old)?);
                }
            }
            pack::write(transaction, data.iter().zip(batch.iter_mut().map(|copied| &mut copied.new)).collect())?;
            let end = batch.iter().map(|copied| copied.new.segments().end() + 1).max().unwrap_or(0);
            self.file.moved_end.fetch_max(end, Ordering::AcqRel);
            Ok(batch)
        })?;
        self.moves.copied.append(&mut copies);
        self.moves.copied_bytes += bytes;
        if self.moves.copied_bytes >= COPIED_BYTES_MAX || self.moves.blocks.is_empty() {
            // From the last one on: neighbours in the index share pages.
            self.moves.copied.sort_unstable_by(|left, right| right.key.cmp(&left.key));
            self.moves.copied_bytes = 0;
            self.moves.is_indexing = true;
        }
        Ok(())
    }

    /// Tells the index where the next blocks are now; after the last one, drops the segments that are empty then.
    fn index_copies(&mut self) -> Result<(), BlocksError> {
        let first = self.moves.copied.len().saturating_sub(INDEX_ENTRIES);
        let batch = self.moves.copied.split_off(first);
        self.report.moved_blocks += self.file.write(|transaction| {
            let mut index = transaction.open_table(INDEX)?;
            let mut moved = 0;
            for Copied { key, old, new } in batch.iter().rev() {
                // One that went into quarantine since it was listed must not come back.
                if index.get(key.as_slice())?.is_some_and(|found| *found.value() == old.to_bytes()) {
                    index.insert(key.as_slice(), &new.to_bytes())?;
                    moved += 1;
                }
            }
            Ok(moved)
        })?;
        for (segment, bytes) in batch.iter().flat_map(|copied| copied.old.parts()) {
            let Some(live) = self.live.get_mut(&segment) else { continue };
            live.bytes = live.bytes.saturating_sub(bytes);
            live.blocks = live.blocks.saturating_sub(1);
            if live.blocks == 0 {
                self.moves.empty.insert(segment);
            } else if live.is_mostly_dead() && !self.moves.turn.contains(&segment) {
                // A block that ran into it was moved for the sake of the segment before or behind.
                self.moves.segments.insert(segment);
            }
        }
        if !self.moves.copied.is_empty() {
            return Ok(());
        }
        self.moves.is_indexing = false;
        let mut empty = std::mem::take(&mut self.moves.empty);
        if self.moves.blocks.is_empty() {
            empty.extend(std::mem::take(&mut self.moves.turn));
        }
        for segment in &empty {
            self.moves.turn.remove(segment);
            self.moves.segments.remove(segment);
        }
        self.drop_segments(&empty.into_iter().collect::<Vec<_>>())
    }

    fn drop_segments(&mut self, numbers: &[u64]) -> Result<(), BlocksError> {
        for numbers in numbers.chunks(1024) {
            let dropped = self.file.write(|transaction| {
                let mut segments = transaction.open_table(SEGMENTS)?;
                let mut sizes = transaction.open_table(SEGMENT_SIZES)?;
                let before = sizes.len()?;
                let mut bytes = 0;
                for number in numbers {
                    segments.remove(number)?;
                    bytes += sizes.remove(number)?.map_or(0, |size| u64::from(size.value()));
                }
                change_segment_bytes(transaction, |before| before.saturating_sub(bytes))?;
                // Numbers only grow, even when the last segments go.
                if let Some(last) = numbers.iter().max() {
                    raise_floor(transaction, last + 1)?;
                }
                Ok(before - sizes.len()?)
            })?;
            self.report.dropped_segments += dropped;
        }
        Ok(())
    }
}
