//! What is below a node whose sub-DAG is known to be whole, so that a walk takes it at once instead of looking for each block.
//!
//! A *sub-DAG* stands by its node: the blocks below it, with their lengths, and nodes further down that are left to whoever walks, as
//! they have sub-DAGs of their own or are below other nodes as well. So a block is listed once, however deep it lies. A list counts as long
//! as a mark of a whole DAG does (see [`super::whole`]), and goes in the same way before a collection takes the first of its blocks.

use std::collections::HashMap;
use std::ops::Bound;

use cid::Cid;
use cid::multihash::Multihash;
use multihash_codetable::{Code, MultihashDigest};
use redb::{ReadTransaction, ReadableTableMetadata, TableDefinition, TableError};
use roaring::RoaringTreemap;

use super::BlocksError;
use super::file::{BlockFile, META};
use super::pack;
use super::whole::{generation, key};
use crate::model::SubDag;

/// The lists there are: by node (version 1 of the CID, in its binary form), the generation and the list's length in bytes. Apart
/// from the lists, so that a collection goes through the nodes without reading those.
pub(super) const SUB_DAGS: TableDefinition<'_, &[u8], (u64, u32)> = TableDefinition::new("sub_dags");

/// The lists, by node.
pub(super) const SUB_DAG_BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("sub_dag_blocks");

/// Lists that are kept at most. Each has at least a thousand blocks.
const SUB_DAGS_MAX: u64 = 200_000;

/// Nodes whose lists a collection looks at in one step.
const PRUNE_NODES: usize = if cfg!(test) { 3 } else { 4096 };

/// Bytes of the sum at the front of a list: a wrong bit must not make a missing block seem held.
const SUM_BYTES: usize = 8;

/// CIDs with a number each, in the form in which they are stored.
#[derive(Debug, Default)]
pub(super) struct CidList {
    bytes: Vec<u8>,
    len: usize,
}

impl CidList {
    pub(super) fn push(&mut self, cid: &Cid, number: u32) {
        self.bytes.extend_from_slice(&cid.to_bytes());
        self.bytes.extend_from_slice(unsigned_varint::encode::u32(number, &mut unsigned_varint::encode::u32_buffer()));
        self.len += 1;
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.len += other.len;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn entries(&self) -> Vec<(Cid, u32)> {
        read_list(&self.bytes).unwrap_or_default()
    }
}

/// What [`CidList`] wrote; `None` if it is anything else.
fn read_list(mut bytes: &[u8]) -> Option<Vec<(Cid, u32)>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let cid = Cid::read_bytes(&mut bytes).ok()?;
        let (number, rest) = unsigned_varint::decode::u32(bytes).ok()?;
        bytes = rest;
        entries.push((cid, number));
    }
    Some(entries)
}

/// A [`SubDag`] that is being put together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) blocks: CidList,
    pub(super) below: CidList,
    pub(super) height: u32,
}

impl Draft {
    /// Memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.bytes.len() + self.below.bytes.len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SUM_BYTES];
        bytes.extend_from_slice(&self.height.to_le_bytes());
        bytes.extend_from_slice(&(self.blocks.bytes.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.blocks.bytes);
        bytes.extend_from_slice(&self.below.bytes);
        let sum = sum(&bytes);
        bytes.splice(..SUM_BYTES, sum);
        bytes
    }
}

/// The sum of what stands behind it.
fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let hash: Multihash<64> = Code::Sha2_256.digest(bytes.get(SUM_BYTES..).unwrap_or_default());
    hash.digest().first_chunk().copied().unwrap_or_default()
}

/// The list in these bytes; `None` if they aren't what was written.
fn decode(bytes: &[u8]) -> Option<SubDag> {
    let (written, rest) = bytes.split_first_chunk::<SUM_BYTES>()?;
    if *written != sum(bytes) {
        return None;
    }
    let (height, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (blocks, below) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(SubDag { blocks: read_list(blocks)?, below: read_list(below)?, height: u32::from_le_bytes(*height) })
}

/// Since when what was looked at has been kept: the generation of the marks, and a count of the collections that began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    generation: u64,
    collections: u64,
}

/// A table that a copy of a store, which begins without, may not have.
fn opened<T>(table: Result<T, TableError>) -> Result<Option<T>, BlocksError> {
    match table {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}

impl BlockFile {
    /// What a survey that begins now says of itself when it is through.
    pub(super) fn since_now(&self) -> Result<Since, BlocksError> {
        // Before the look: whatever is collected later is seen to have been.
        let collections = self.guard.turns();
        Ok(Since { generation: self.whole_generation()?, collections })
    }

    /// Whether it is known already that what was looked at `since` counts no longer.
    pub(super) fn is_disturbed(&self, since: Since) -> bool {
        self.guard.turns() != since.collections || self.guard.marks().is_some()
    }

    /// How many bytes the lists of these nodes have; `None` where there is none that counts.
    pub(super) fn sub_dag_bytes(&self, nodes: &[Cid]) -> Result<Vec<Option<u32>>, BlocksError> {
        let look = |transaction: &ReadTransaction| {
            let Some(lists) = opened(transaction.open_table(SUB_DAGS))? else { return Ok(vec![None; nodes.len()]) };
            let now = generation(&transaction.open_table(META)?)?;
            let find = |node: &Cid| {
                let found = lists.get(key(node).as_slice())?.map(|list| list.value());
                Ok(found.filter(|(generation, _)| *generation == now).map(|(_, bytes)| bytes))
            };
            nodes.iter().map(find).collect::<Result<_, BlocksError>>()
        };
        let found = self.guard.undisturbed(|| self.read(look))?;
        Ok(found.unwrap_or_else(|| vec![None; nodes.len()]))
    }

    /// How many lists there are, those that count no longer among them.
    pub(super) fn sub_dag_lists(&self) -> Result<u64, BlocksError> {
        self.read(|transaction| opened(transaction.open_table(SUB_DAGS))?.map_or(Ok(0), |lists| Ok(lists.len()?)))
    }

    /// The node's sub-DAG, if there is a list that counts.
    pub(super) fn sub_dag(&self, node: &Cid) -> Result<Option<SubDag>, BlocksError> {
        let key = key(node);
        let look = |transaction: &ReadTransaction| {
            let Some(lists) = opened(transaction.open_table(SUB_DAGS))? else { return Ok(None) };
            let now = generation(&transaction.open_table(META)?)?;
            if lists.get(key.as_slice())?.is_none_or(|list| list.value().0 != now) {
                return Ok(None);
            }
            let contents = transaction.open_table(SUB_DAG_BLOCKS)?;
            Ok::<_, BlocksError>(contents.get(key.as_slice())?.and_then(|list| decode(list.value())))
        };
        // As with marks: a list that is about to go might be seen otherwise.
        Ok(self.guard.undisturbed(|| self.read(look))?.flatten())
    }

    /// Writes lists down, if nothing was collected or damaged `since`; says whether it did.
    pub(super) fn remember_sub_dags(&self, found: &[(Cid, Draft)], since: Since) -> Result<bool, BlocksError> {
        if found.is_empty() {
            return Ok(true);
        }
        let encoded: Vec<(Vec<u8>, Vec<u8>)> = found.iter().map(|(node, draft)| (key(node), draft.encode())).collect();
        // A collection that begins meanwhile sees them all.
        self.write_with_marks(|transaction, marks| {
            let now =
                Since { generation: generation(&transaction.open_table(META)?)?, collections: self.guard.turns() };
            if marks.is_some() || now != since {
                return Ok(false);
            }
            let mut lists = transaction.open_table(SUB_DAGS)?;
            let mut contents = transaction.open_table(SUB_DAG_BLOCKS)?;
            let mut room = SUB_DAGS_MAX.saturating_sub(lists.len()?);
            for (node, bytes) in &encoded {
                let Ok(length) = u32::try_from(bytes.len()) else { continue };
                if room == 0 {
                    break;
                }
                if lists.insert(node.as_slice(), (now.generation, length))?.is_none() {
                    room -= 1;
                }
                contents.insert(node.as_slice(), bytes.as_slice())?;
            }
            Ok(true)
        })
    }

    /// Removes the lists of older generations, and those whose nodes aren't among the blocks that a collection `walked`, by codec. While
    /// that runs none is added.
    pub(super) fn prune_sub_dags(&self, walked: &HashMap<u64, RoaringTreemap>) -> Result<(), BlocksError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let nodes = self.read(|transaction| {
                let Some(lists) = opened(transaction.open_table(SUB_DAGS))? else { return Ok(Vec::new()) };
                let now = generation(&transaction.open_table(META)?)?;
                let range = lists.range::<&[u8]>((start, Bound::Unbounded))?.take(PRUNE_NODES);
                let each = range.map(|list| {
                    let (node, list) = list?;
                    Ok((node.value().to_vec(), list.value().0 == now))
                });
                each.collect::<Result<Vec<_>, BlocksError>>()
            })?;
            let Some((last, _)) = nodes.last() else { return Ok(()) };
            after = Some(last.clone());
            let cids: Vec<Option<Cid>> = nodes.iter().map(|(node, _)| Cid::try_from(node.as_slice()).ok()).collect();
            let keys: Vec<_> = cids.iter().map(|cid| cid.as_ref().and_then(pack::key)).collect();
            let places = self.read_places(&keys, |_, places| Ok(places))?;
            let is_walked = |(cid, place): (&Cid, pack::Place)| {
                walked.get(&cid.codec()).is_some_and(|numbers| numbers.contains(place.number()))
            };
            let each = nodes.iter().zip(&cids).zip(places);
            let stale = each
                .filter(|(((_, counts), cid), place)| !(*counts && cid.as_ref().zip(*place).is_some_and(is_walked)));
            let stale: Vec<&[u8]> = stale.map(|(((node, _), _), _)| node.as_slice()).collect();
            if stale.is_empty() {
                continue;
            }
            self.write(|transaction| {
                let mut lists = transaction.open_table(SUB_DAGS)?;
                let mut contents = transaction.open_table(SUB_DAG_BLOCKS)?;
                for node in stale {
                    lists.remove(node)?;
                    contents.remove(node)?;
                }
                Ok(())
            })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cids::codec;

    #[test]
    fn a_list_that_is_not_what_was_written_is_none() {
        let cid = |number: u8| Cid::new_v1(codec::RAW, Code::Sha2_256.digest(&[number]));
        let mut draft = Draft { height: 7, ..Draft::default() };
        (0..3).for_each(|number| draft.blocks.push(&cid(number), 1 << (8 * number)));
        draft.below.push(&Cid::new_v0(*cid(9).hash()).unwrap(), 2);
        let bytes = draft.encode();
        let expected = SubDag {
            blocks: vec![(cid(0), 1), (cid(1), 1 << 8), (cid(2), 1 << 16)],
            below: vec![(Cid::new_v0(*cid(9).hash()).unwrap(), 2)],
            height: 7,
        };
        assert_eq!(decode(&bytes), Some(expected));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut off at {at}");
        }
    }
}
