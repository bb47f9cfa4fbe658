//! The frontier of one DAG: which CIDs are to be obtained next, which are on their way, and when all are there.
//!
//! Made for DAGs of millions of blocks: a block that was seen costs 16 bytes (a keyed hash of its multihash and
//! codec), one that waits costs its CID. It does no I/O and knows no time; obtaining and storing blocks is for the
//! caller.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use cid::Cid;

use super::links::{LinkError, links};
use crate::model::CidError;
use crate::model::block::IDENTITY_HASH;
use crate::model::cids;

/// Why a DAG can't be walked to its end. Waiting or asking someone else does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// A block is no valid node of its codec.
    #[error("block {cid} is invalid: {source}")]
    Invalid {
        /// The block's CID.
        cid: Cid,
        /// What is wrong.
        source: LinkError,
    },
    /// A block links to something that can't be walked or verified.
    #[error("block {parent} links to {child}: {source}")]
    Unsupported {
        /// The block with the link.
        parent: Cid,
        /// The CID that is linked.
        child: Cid,
        /// Why it can't be used.
        source: CidError,
    },
    /// The root itself can't be walked or verified.
    #[error("{source}")]
    UnsupportedRoot {
        /// Why it can't be used.
        #[from]
        source: CidError,
    },
    /// The DAG has more distinct blocks than allowed.
    #[error("the DAG has more than {blocks_max} blocks")]
    TooLarge {
        /// How many blocks are allowed.
        blocks_max: u64,
    },
}

/// A walk over the distinct blocks (multihash and codec) of one DAG, depth first and in the order of the links, so
/// that a file comes in reading order.
///
/// [`Walk::next`] hands out a CID, which is then *outstanding* until [`Walk::add_block`] brings its block or
/// [`Walk::give_back`] returns it. After an error the walk stands still: the block concerned stays outstanding for
/// ever.
#[derive(Debug)]
pub struct Walk {
    keyed: KeyedHash,
    /// Every block that was ever found, done or not.
    seen: HashSet<u128>,
    outstanding: HashSet<u128>,
    pending: CidStack,
    blocks_max: u64,
    done: u64,
    bytes: u64,
}

impl Walk {
    /// A walk from `root` that fails when the DAG has more than `blocks_max` distinct blocks.
    ///
    /// If `root` is an identity CID, it counts for nothing and the walk begins with what it links to.
    pub fn new(root: Cid, blocks_max: u64) -> Result<Self, WalkError> {
        cids::check(&root)?;
        let mut walk = Self {
            keyed: KeyedHash::default(),
            seen: HashSet::new(),
            outstanding: HashSet::new(),
            pending: CidStack::default(),
            blocks_max,
            done: 0,
            bytes: 0,
        };
        if root.hash().code() == IDENTITY_HASH {
            walk.add_children(&root, &Bytes::copy_from_slice(root.hash().digest()))?;
        } else {
            walk.push(&[root])?;
        }
        Ok(walk)
    }

    /// The next CID to obtain; `None` when none is known right now. It is never an identity CID.
    #[expect(clippy::should_implement_trait, reason = "a walk goes on after `None`, when blocks were added")]
    pub fn next(&mut self) -> Option<Cid> {
        let cid = self.pending.pop()?;
        self.outstanding.insert(self.keyed.hash(&cid));
        Some(cid)
    }

    /// Takes the block of an outstanding CID and returns how many blocks it made known.
    ///
    /// A block that isn't outstanding, such as one that came twice, changes nothing.
    pub fn add_block(&mut self, cid: &Cid, data: &Bytes) -> Result<usize, WalkError> {
        let key = self.keyed.hash(cid);
        if !self.outstanding.contains(&key) {
            return Ok(0);
        }
        let new = self.add_children(cid, data)?;
        self.outstanding.remove(&key);
        self.done += 1;
        self.bytes += data.len() as u64;
        Ok(new)
    }

    /// Takes an outstanding CID whose block has no links, by its size alone: a held leaf needn't be read to be counted.
    pub fn add_leaf(&mut self, cid: &Cid, bytes: u64) {
        if self.outstanding.remove(&self.keyed.hash(cid)) {
            self.done += 1;
            self.bytes += bytes;
        }
    }

    /// Returns an outstanding CID that couldn't be obtained: it comes next again.
    pub fn give_back(&mut self, cid: &Cid) {
        if self.outstanding.remove(&self.keyed.hash(cid)) {
            self.pending.push(cid);
        }
    }

    /// Distinct blocks that are known to belong to the DAG.
    pub fn known(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Distinct blocks that were added.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Bytes of the distinct blocks that were added.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CIDs that [`Walk::next`] can hand out.
    pub fn pending_len(&self) -> usize {
        self.pending.len
    }

    /// CIDs that were handed out and whose blocks haven't come.
    pub fn outstanding_len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether every block of the DAG was added.
    pub fn is_complete(&self) -> bool {
        self.pending.len == 0 && self.outstanding.is_empty()
    }

    fn add_children(&mut self, parent: &Cid, data: &Bytes) -> Result<usize, WalkError> {
        let children = links(parent, data).map_err(|source| WalkError::Invalid { cid: *parent, source })?;
        for child in &children {
            cids::check(child).map_err(|source| WalkError::Unsupported { parent: *parent, child: *child, source })?;
        }
        self.push(&children)
    }

    /// Makes the CIDs that are new pending, the first of them on top.
    fn push(&mut self, cids: &[Cid]) -> Result<usize, WalkError> {
        let mut new = Vec::new();
        for cid in cids {
            if self.seen.insert(self.keyed.hash(cid)) {
                if self.seen.len() as u64 > self.blocks_max {
                    return Err(WalkError::TooLarge { blocks_max: self.blocks_max });
                }
                new.push(cid);
            }
        }
        for cid in new.iter().rev() {
            self.pending.push(cid);
        }
        Ok(new.len())
    }
}

/// Two 64-bit SipHash values under random keys: nobody can make two blocks collide on purpose, and a collision by
/// chance among ten million blocks has odds of one in 10²⁴.
#[derive(Debug)]
pub(super) struct KeyedHash {
    high: RandomState,
    low: RandomState,
    /// The standard library may derive the keys of two states from one another; this sets the two hashes apart.
    salt: [u8; 16],
}

impl Default for KeyedHash {
    fn default() -> Self {
        Self { high: RandomState::new(), low: RandomState::new(), salt: rand::random() }
    }
}

impl KeyedHash {
    pub(super) fn hash(&self, cid: &Cid) -> u128 {
        let half = |state: &RandomState, salt: &[u8]| {
            let mut hasher = state.build_hasher();
            hasher.write(salt);
            hasher.write_u64(cid.codec());
            hasher.write_u64(cid.hash().code());
            hasher.write(cid.hash().digest());
            hasher.finish()
        };
        u128::from(half(&self.high, &[])) << 64 | u128::from(half(&self.low, &self.salt))
    }
}

/// A stack of CIDs in one buffer, each with a note of a few bytes: a CID takes its binary form and a byte for the length,
/// about 37 bytes in all.
#[derive(Debug, Default)]
pub(super) struct CidStack {
    buffer: Vec<u8>,
    len: usize,
}

impl CidStack {
    fn push(&mut self, cid: &Cid) {
        self.push_with(cid, &[]);
    }

    /// Pushes a CID with a note of at most 100 bytes.
    pub(super) fn push_with(&mut self, cid: &Cid, note: &[u8]) {
        let start = self.buffer.len();
        let bytes = cid.to_bytes();
        self.buffer.extend_from_slice(&bytes);
        self.buffer.extend_from_slice(note);
        // Four varints and a digest of at most 64 bytes: with the note always below 256.
        let length = u8::try_from(self.buffer.len() - start).unwrap_or(u8::MAX);
        self.buffer.push(length);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Cid> {
        self.pop_with().map(|(cid, _)| cid)
    }

    pub(super) fn pop_with(&mut self) -> Option<(Cid, Vec<u8>)> {
        let length = usize::from(self.buffer.pop()?);
        let start = self.buffer.len().checked_sub(length)?;
        let read =
            self.buffer.get(start..).map(|mut bytes| Cid::read_bytes(&mut bytes).map(|cid| (cid, bytes.to_vec())));
        self.buffer.truncate(start);
        self.len -= 1;
        if self.buffer.capacity() > 1024 * 1024 && self.buffer.len() < self.buffer.capacity() / 4 {
            self.buffer.shrink_to(self.buffer.capacity() / 2);
        }
        #[expect(clippy::expect_used, reason = "the bytes are those that `push_with` wrote")]
        Some(read.and_then(Result::ok).expect("a CID that was pushed reads back"))
    }

    /// Memory that it takes, in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
mod tests;
