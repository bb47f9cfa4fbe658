//! Reading blocks. All of it blocks on the disk: call it where that is allowed.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use redb::ReadTransaction;

use super::file::{BlockFile, INDEX, SEGMENTS};
use super::gc::Links;
use super::held::HeldWalk;
use super::pack::{self, Place};
use super::scrub::{self, ScrubRecord};
use super::whole::WholeDag;
use super::{BlocksError, Shortage, SpaceState};
use crate::model::{Block, SubDag};
use crate::store::disk::Reading;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStats {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes in all segments: those of the blocks, and of removed ones whose space isn't given back yet.
    pub segment_bytes: u64,
}

/// A handle that reads blocks and can't write. Each call sees one state of the store, with everything whose put has
/// returned.
#[derive(Debug, Clone)]
pub struct BlockReader {
    file: Arc<BlockFile>,
}

impl BlockReader {
    pub(super) fn new(file: Arc<BlockFile>) -> Self {
        Self { file }
    }

    pub(super) fn file(&self) -> Arc<BlockFile> {
        Arc::clone(&self.file)
    }

    /// The lengths of blocks in bytes, as [`BlockReader::sizes_many`] says them, for a fetch that relies on those that are
    /// held: a garbage collection that runs keeps them from now on.
    pub fn hold_many(&self, cids: &[Cid]) -> Result<Vec<Option<u32>>, BlocksError> {
        let found = self.find(cids, |_, found| Ok(found))?;
        let stored = found.iter().filter_map(|found| match found {
            Some(Found::Stored(place)) => Some(*place),
            _ => None,
        });
        if self.file.guard.mark(stored) {
            // One that was swept before it was marked is seen to be gone.
            return self.sizes_many(cids);
        }
        Ok(found.into_iter().map(|found| found.map(Found::length)).collect())
    }

    /// All blocks as they are now, together with what `first` takes: between the two, no collection takes a block away.
    pub(in crate::store) fn snapshot_with<T, E: From<BlocksError>>(
        &self,
        first: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, ReadTransaction), E> {
        self.file.snapshot_with(first)
    }

    /// A walk over what is held, without roots yet. `links` says what a node links to.
    pub fn held_walk(&self, links: Links) -> HeldWalk {
        HeldWalk::new(self.file(), links)
    }

    /// One state of the store, for as long as it is held.
    pub fn snapshot(&self) -> Result<BlockSnapshot, BlocksError> {
        // Every block that is there now is in the index of the snapshot.
        self.file.settle()?;
        let ((), snapshot) = self.file.snapshot_with(|| Ok::<_, BlocksError>(()))?;
        Ok(BlockSnapshot { snapshot })
    }

    /// The figures of a DAG that is known to be whole, for who has a pin of it in the records already.
    pub fn whole(&self, root: &Cid) -> Result<Option<WholeDag>, BlocksError> {
        self.file.whole(root)
    }

    /// What [`super::BlockWriter::mark_whole`] needs to know from before a walk began.
    pub fn whole_generation(&self) -> Result<u64, BlocksError> {
        self.file.whole_generation()
    }

    /// How many bytes it takes to read what is known of the sub-DAGs of these nodes; `None` where nothing is. For who has a pin with them in
    /// the records already.
    pub fn sub_dag_bytes(&self, nodes: &[Cid]) -> Result<Vec<Option<u32>>, BlocksError> {
        self.file.sub_dag_bytes(nodes)
    }

    /// Of how many sub-DAGs it is known that they are whole; this reads a few bytes.
    pub fn sub_dag_lists(&self) -> Result<u64, BlocksError> {
        self.file.sub_dag_lists()
    }

    /// What is below a node whose sub-DAG is known to be whole.
    pub fn sub_dag(&self, node: &Cid) -> Result<Option<SubDag>, BlocksError> {
        self.file.sub_dag(node)
    }

    /// Whether the store has the block of `cid`.
    pub fn has(&self, cid: &Cid) -> Result<bool, BlocksError> {
        self.size(cid).map(|size| size.is_some())
    }

    /// The length of the block in bytes, if the store has it.
    pub fn size(&self, cid: &Cid) -> Result<Option<u32>, BlocksError> {
        Ok(self.sizes_many(std::slice::from_ref(cid))?.pop().flatten())
    }

    /// The bytes of the block, if the store has it.
    pub fn get(&self, cid: &Cid) -> Result<Option<Bytes>, BlocksError> {
        Ok(self.get_many(std::slice::from_ref(cid))?.pop().flatten())
    }

    /// The lengths of blocks in bytes, in the order of `cids`.
    pub fn sizes_many(&self, cids: &[Cid]) -> Result<Vec<Option<u32>>, BlocksError> {
        self.find(cids, |_, found| Ok(found.into_iter().map(|found| found.map(Found::length)).collect()))
    }

    /// The bytes of blocks, in the order of `cids`. How much that may be is for the caller to bound.
    pub fn get_many(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        self.find(cids, |transaction, found| {
            let segments = transaction.open_table(SEGMENTS)?;
            let get = |found| match found {
                None => Ok(None),
                Some(Found::Inline(data)) => Ok(Some(data)),
                Some(Found::Stored(place)) => pack::read(&segments, place).map(Some),
            };
            found.into_iter().map(get).collect()
        })
    }

    /// Finds blocks, and does something with them while they can't go away.
    fn find<T>(
        &self,
        cids: &[Cid],
        job: impl FnOnce(&ReadTransaction, Vec<Option<Found>>) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        let keys: Vec<_> = cids.iter().map(pack::key).collect();
        self.file.read_places(&keys, |transaction, places| {
            let found = keys.iter().zip(cids).zip(places).map(|((key, cid), place)| match key {
                Some(_) => place.map(Found::Stored),
                None => Block::from_identity(*cid).map(|block| Found::Inline(block.into_parts().1)),
            });
            job(transaction, found.collect())
        })
    }

    /// Looks at the store and its disk again: whether blocks can be stored, and whether garbage should be collected.
    pub fn look_for_space(&self) -> Result<SpaceState, BlocksError> {
        self.file.look_for_space(0)
    }

    /// Why nothing can be stored, as far as the last look said.
    pub fn shortage(&self) -> Option<Shortage> {
        self.file.space.shortage()
    }

    /// What the store knows of its blocks being verified; this reads a few bytes, whatever its size.
    pub fn scrub_record(&self) -> Result<ScrubRecord, BlocksError> {
        scrub::record(&self.file)
    }

    /// What the store holds; this reads a few bytes, whatever its size.
    pub fn stats(&self) -> Result<BlockStats, BlocksError> {
        self.file.stats()
    }
}

/// A state of the store that no change touches. Pages that are freed meanwhile can't be used again before it is dropped.
#[derive(Debug)]
pub struct BlockSnapshot {
    snapshot: ReadTransaction,
}

impl BlockSnapshot {
    /// The bytes of the block, if the store had it.
    pub fn get(&self, cid: &Cid) -> Result<Option<Bytes>, BlocksError> {
        let Some(key) = pack::key(cid) else {
            return Ok(Block::from_identity(*cid).map(|block| block.into_parts().1));
        };
        let _reading = Reading::begin();
        let Some(place) = self.snapshot.open_table(INDEX)?.get(&*key)?.map(|place| Place::from_bytes(place.value()))
        else {
            return Ok(None);
        };
        pack::read(&self.snapshot.open_table(SEGMENTS)?, place).map(Some)
    }
}

#[cfg(test)]
impl BlockReader {
    /// Flips a bit of a block as it lies in the file.
    pub(in crate::store) fn damage(&self, cid: &Cid) {
        self.damage_at(cid, 0);
    }

    /// The same, so many bytes from the block's start.
    pub(in crate::store) fn damage_at(&self, cid: &Cid, at: u32) {
        use redb::ReadableTable as _;
        let place = self.file.read_places(&[pack::key(cid)], |_, places| Ok(places[0].unwrap())).unwrap();
        let changed = self.file.write(|transaction| {
            let at = (place.offset + at) as usize;
            let number = place.segment + (at / super::SEGMENT_BYTES) as u64;
            let mut segments = transaction.open_table(SEGMENTS)?;
            let mut bytes = segments.get(number)?.unwrap().value().to_vec();
            bytes[at % super::SEGMENT_BYTES] ^= 1;
            segments.insert(number, bytes.as_slice())?;
            Ok(())
        });
        changed.unwrap();
    }

    /// Whether a collection keeps marks.
    pub(super) fn is_collecting(&self) -> bool {
        self.file.guard.marks().is_some()
    }

    /// The numbers of all segments.
    pub(super) fn segment_numbers(&self) -> Vec<u64> {
        use redb::ReadableTable as _;
        let numbers = self.file.read(|transaction| {
            let segments = transaction.open_table(SEGMENTS)?;
            segments.iter()?.map(|segment| Ok(segment?.0.value())).collect()
        });
        numbers.unwrap()
    }

    /// Bytes in all segments.
    pub(super) fn segment_bytes(&self) -> usize {
        use redb::ReadableTable as _;
        let sum = self.file.read(|transaction| {
            let segments = transaction.open_table(SEGMENTS)?;
            segments.iter()?.try_fold(0, |sum, segment| Ok(sum + segment?.1.value().len()))
        });
        sum.unwrap()
    }
}

/// Where the bytes of a CID are.
enum Found {
    /// In the CID itself.
    Inline(Bytes),
    /// In the file.
    Stored(Place),
}

impl Found {
    fn length(self) -> u32 {
        match self {
            Self::Inline(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
            Self::Stored(place) => place.length,
        }
    }
}
