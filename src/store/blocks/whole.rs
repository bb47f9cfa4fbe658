//! Which DAGs are known to be whole, so that a pin of one that is held needs no walk.
//!
//! A *mark* stands by its root, with the figures of the DAG and the *generation* in which it was made. It counts as long as every block
//! below it stays: a collection that is about to remove blocks first removes the marks whose roots it hasn't walked, and a
//! damaged block that goes into quarantine begins a new generation, in the same commit. While a collection runs no mark is
//! looked at, since one that is about to go might be: a pin that is made meanwhile is walked, and what it finds is kept.

use std::collections::{HashMap, HashSet};

use cid::Cid;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction};
use roaring::RoaringTreemap;

use super::BlocksError;
use super::file::{BlockFile, META};
use super::pack::{self, Place};

/// DAGs with fewer blocks aren't marked: walking them takes a few milliseconds, and a mark a commit.
pub const BLOCKS_MIN: u64 = if cfg!(test) { 4 } else { 1000 };

/// Marks that are kept at most, so that a collection looks at a bounded number of them.
const MARKS_MAX: u64 = 100_000;

/// Marks by root (version 1 of the CID, in its binary form): generation, blocks, bytes.
pub(super) const WHOLE: TableDefinition<'_, &[u8], (u64, u64, u64)> = TableDefinition::new("whole");

/// The generation of the marks that count.
const META_GENERATION: &str = "whole_generation";

/// The figures of a DAG that is held, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeDag {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
}

/// The key of a mark.
pub(super) fn key(root: &Cid) -> Vec<u8> {
    Cid::new_v1(root.codec(), *root.hash()).to_bytes()
}

/// The generation that counts now.
pub(super) fn generation(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, BlocksError> {
    Ok(meta.get(META_GENERATION)?.map_or(0, |generation| generation.value()))
}

/// No mark that is there counts any longer.
pub(super) fn begin_generation(transaction: &WriteTransaction) -> Result<(), BlocksError> {
    let mut meta = transaction.open_table(META)?;
    let next = generation(&meta)? + 1;
    meta.insert(META_GENERATION, next)?;
    Ok(())
}

impl BlockFile {
    /// The figures of a DAG that is known to be whole.
    pub(super) fn whole(&self, root: &Cid) -> Result<Option<WholeDag>, BlocksError> {
        let look = |transaction: &ReadTransaction| {
            let mark = match transaction.open_table(WHOLE) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?.get(key(root).as_slice())?.map(|mark| mark.value()),
            };
            let now = generation(&transaction.open_table(META)?)?;
            let whole = mark.filter(|(generation, ..)| *generation == now);
            Ok(whole.map(|(_, blocks, bytes)| WholeDag { blocks, bytes }))
        };
        // A collection that begins later reads the roots later, and whoever asks has its pin among them.
        Ok(self.guard.undisturbed(|| self.read(look))?.flatten())
    }

    /// Marks a DAG all of whose blocks are durable, and kept by a pin. `generation` is what [`BlockFile::generation`] was before the
    /// first of them was looked at.
    pub(super) fn mark_whole(&self, root: &Cid, dag: WholeDag, at: u64) -> Result<(), BlocksError> {
        if dag.blocks < BLOCKS_MIN {
            return Ok(());
        }
        self.write_if(|transaction| {
            let now = generation(&transaction.open_table(META)?)?;
            let mut marks = transaction.open_table(WHOLE)?;
            // A collection that runs may have removed the marks already, and what this one stands for is about to go.
            if now != at || marks.len()? >= MARKS_MAX || self.guard.marks().is_some() {
                return Ok(false);
            }
            let mark = (now, dag.blocks, dag.bytes);
            let before = marks.insert(key(root).as_slice(), mark)?.map(|before| before.value());
            Ok(before != Some(mark))
        })
    }

    /// The generation of the marks that count now.
    pub(super) fn whole_generation(&self) -> Result<u64, BlocksError> {
        self.read(|transaction| generation(&transaction.open_table(META)?))
    }

    /// Removes the marks of older generations, and those whose root isn't among the blocks that a collection `walked`, by codec.
    pub(super) fn prune_whole(&self, walked: &HashMap<u64, RoaringTreemap>) -> Result<(), BlocksError> {
        let roots: Vec<Vec<u8>> = self.read(|transaction| match transaction.open_table(WHOLE) {
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            marks => Ok(marks?.iter()?.map(|mark| Ok(mark?.0.value().to_vec())).collect::<Result<_, BlocksError>>()?),
        })?;
        if roots.is_empty() {
            return Ok(());
        }
        let cids: Vec<Option<Cid>> = roots.iter().map(|root| Cid::try_from(root.as_slice()).ok()).collect();
        let keys: Vec<_> = cids.iter().map(|cid| cid.as_ref().and_then(pack::key)).collect();
        let is_walked = |(cid, place): (&Cid, &Place)| {
            walked.get(&cid.codec()).is_some_and(|numbers| numbers.contains(place.number()))
        };
        let kept: HashSet<&[u8]> = self.read_places(&keys, |_, places| {
            let each = roots.iter().zip(&cids).zip(&places);
            let kept = each.filter(|((_, cid), place)| cid.as_ref().zip(place.as_ref()).is_some_and(is_walked));
            Ok(kept.map(|((root, _), _)| root.as_slice()).collect())
        })?;
        self.write_if(|transaction| {
            let now = generation(&transaction.open_table(META)?)?;
            let mut marks = transaction.open_table(WHOLE)?;
            let before = marks.len()?;
            // One that was made since the look above goes too: nobody can say here what it stands on.
            marks.retain(|root, (generation, ..)| generation == now && kept.contains(root))?;
            Ok(marks.len()? != before)
        })
    }
}
