//! The frontier of one DAG: which CIDs are to be obtained next, which are on their way, and when all are there.
//!
//! Made for DAGs of millions of blocks: a block that was seen costs 16 bytes (a keyed hash of its multihash and
//! codec), one that waits costs its CID. It does no I/O and knows no time; obtaining and storing blocks is for the
//! caller.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use cid::Cid;

use super::links::{LinkError, bytes_told, links};
use crate::model::block::IDENTITY_HASH;
use crate::model::cids;
use crate::model::{CidError, SubDag};

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
    #[error("the DAG has more than {blocks_max} blocks, which pins.blocks_max of this service allows")]
    TooLarge {
        /// How many blocks are allowed.
        blocks_max: u64,
    },
    /// The distinct blocks of the DAG have more bytes than allowed.
    #[error("the DAG has more than {bytes_max} bytes, which pins.bytes_max of this service allows")]
    TooManyBytes {
        /// How many bytes are allowed.
        bytes_max: u64,
    },
    /// A block is further from the root than allowed.
    #[error(
        "the DAG has blocks that are more than {depth_max} links away from its root, which pins.depth_max of this service allows"
    )]
    TooDeep {
        /// How many links are allowed.
        depth_max: u32,
    },
}

/// What a DAG may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkLimits {
    /// Distinct blocks.
    pub blocks_max: u64,
    /// Bytes of the distinct blocks.
    pub bytes_max: u64,
    /// Links from the root to a block, on the way on which it is found first.
    pub depth_max: u32,
}

impl WalkLimits {
    /// Any DAG.
    pub const NONE: Self = Self { blocks_max: u64::MAX, bytes_max: u64::MAX, depth_max: u32::MAX };

    /// Whether a DAG of so many blocks and bytes is within them.
    pub fn allow(&self, blocks: u64, bytes: u64) -> bool {
        blocks <= self.blocks_max && bytes <= self.bytes_max
    }
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
    /// With the number of links from the root.
    outstanding: HashMap<u128, u32>,
    pending: CidStack,
    limits: WalkLimits,
    done: u64,
    bytes: u64,
    bytes_told: Option<u64>,
}

impl Walk {
    /// A walk from `root` that fails when the DAG is more than `limits` allow.
    ///
    /// If `root` is an identity CID, it counts for nothing and the walk begins with what it links to.
    pub fn new(root: Cid, limits: WalkLimits) -> Result<Self, WalkError> {
        cids::check(&root)?;
        let mut walk = Self {
            keyed: KeyedHash::default(),
            seen: HashSet::new(),
            outstanding: HashMap::new(),
            pending: CidStack::default(),
            limits,
            done: 0,
            bytes: 0,
            bytes_told: None,
        };
        if root.hash().code() == IDENTITY_HASH {
            walk.add_children(&root, &Bytes::copy_from_slice(root.hash().digest()), 0)?;
        } else {
            walk.push(&[root], 0)?;
        }
        Ok(walk)
    }

    /// The next CID to obtain; `None` when none is known right now. It is never an identity CID.
    #[expect(clippy::should_implement_trait, reason = "a walk goes on after `None`, when blocks were added")]
    pub fn next(&mut self) -> Option<Cid> {
        let (cid, depth) =
            self.pending.pop_with(|note| note.first_chunk().map_or(0, |depth| u32::from_le_bytes(*depth)))?;
        self.outstanding.insert(self.keyed.hash(&cid), depth);
        Some(cid)
    }

    /// Takes the block of an outstanding CID and returns how many blocks it made known.
    ///
    /// A block that isn't outstanding, such as one that came twice, changes nothing.
    pub fn add_block(&mut self, cid: &Cid, data: &Bytes) -> Result<usize, WalkError> {
        let key = self.keyed.hash(cid);
        let Some(depth) = self.outstanding.get(&key).copied() else { return Ok(0) };
        if depth == 0 {
            self.bytes_told = bytes_told(cid, data);
        }
        let new = self.add_children(cid, data, depth)?;
        self.count(data.len() as u64)?;
        self.outstanding.remove(&key);
        Ok(new)
    }

    /// Takes an outstanding CID whose block has no links, by its size alone: a held leaf needn't be read to be counted.
    pub fn add_leaf(&mut self, cid: &Cid, bytes: u64) -> Result<(), WalkError> {
        match self.outstanding.remove(&self.keyed.hash(cid)) {
            Some(_) => self.count(bytes),
            None => Ok(()),
        }
    }

    /// Takes the block of an outstanding CID with what is known of its sub-DAG, whose blocks need not be looked at one by one. As
    /// [`Walk::add_block`] alone, if some of those may be deeper than allowed.
    pub fn add_sub_dag(&mut self, cid: &Cid, data: &Bytes, sub_dag: &SubDag) -> Result<(), WalkError> {
        let key = self.keyed.hash(cid);
        let Some(depth) = self.outstanding.get(&key).copied() else { return Ok(()) };
        if depth.checked_add(sub_dag.height).is_none_or(|deepest| deepest > self.limits.depth_max) {
            return self.add_block(cid, data).map(|_| ());
        }
        if depth == 0 {
            self.bytes_told = bytes_told(cid, data);
        }
        self.count(data.len() as u64)?;
        for (block, bytes) in &sub_dag.blocks {
            // One that waits, or is on its way, is counted when it comes.
            if self.see(block)? {
                self.count(u64::from(*bytes))?;
            }
        }
        for (node, links) in sub_dag.below.iter().rev() {
            self.push(&[*node], depth.saturating_add(*links))?;
        }
        self.outstanding.remove(&key);
        Ok(())
    }

    /// One block more is there.
    fn count(&mut self, bytes: u64) -> Result<(), WalkError> {
        self.done += 1;
        self.bytes += bytes;
        let bytes_max = self.limits.bytes_max;
        if self.bytes > bytes_max { Err(WalkError::TooManyBytes { bytes_max }) } else { Ok(()) }
    }

    /// Returns an outstanding CID that couldn't be obtained: it comes next again.
    pub fn give_back(&mut self, cid: &Cid) {
        if let Some(depth) = self.outstanding.remove(&self.keyed.hash(cid)) {
            self.pending.push_with(cid, &depth.to_le_bytes());
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

    /// The bytes of the whole DAG, as its root says, if it does: see [`bytes_told`].
    pub fn bytes_told(&self) -> Option<u64> {
        self.bytes_told
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

    fn add_children(&mut self, parent: &Cid, data: &Bytes, depth: u32) -> Result<usize, WalkError> {
        let children = links(parent, data).map_err(|source| WalkError::Invalid { cid: *parent, source })?;
        for child in &children {
            cids::check(child).map_err(|source| WalkError::Unsupported { parent: *parent, child: *child, source })?;
        }
        self.push(&children, depth.saturating_add(1))
    }

    /// Whether a block of the DAG wasn't known before.
    fn see(&mut self, cid: &Cid) -> Result<bool, WalkError> {
        let is_new = self.seen.insert(self.keyed.hash(cid));
        let blocks_max = self.limits.blocks_max;
        if self.seen.len() as u64 > blocks_max { Err(WalkError::TooLarge { blocks_max }) } else { Ok(is_new) }
    }

    /// Makes the CIDs that are new pending, the first of them on top; they are `depth` links away from the root.
    fn push(&mut self, cids: &[Cid], depth: u32) -> Result<usize, WalkError> {
        let depth_max = self.limits.depth_max;
        let mut new = Vec::new();
        for cid in cids {
            if self.see(cid)? {
                if depth > depth_max {
                    return Err(WalkError::TooDeep { depth_max });
                }
                new.push(cid);
            }
        }
        for cid in new.iter().rev() {
            self.pending.push_with(cid, &depth.to_le_bytes());
        }
        Ok(new.len())
    }
}

/// Two 64-bit SipHash values under random keys: nobody can make two blocks collide on purpose, and a collision by
/// chance among ten million blocks has odds of one in 10²⁴.
#[derive(Debug)]
pub struct KeyedHash {
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
    /// What stands for the block with this multihash and codec, whatever the version of the CID.
    pub fn hash(&self, cid: &Cid) -> u128 {
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

    /// The CID that was pushed last, with what `read` makes of its note.
    pub(super) fn pop_with<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<(Cid, T)> {
        let length = usize::from(self.buffer.pop()?);
        let start = self.buffer.len().checked_sub(length)?;
        let popped =
            self.buffer.get(start..).map(|mut bytes| Cid::read_bytes(&mut bytes).map(|cid| (cid, read(bytes))));
        self.buffer.truncate(start);
        self.len -= 1;
        if self.buffer.capacity() > 1024 * 1024 && self.buffer.len() < self.buffer.capacity() / 4 {
            self.buffer.shrink_to(self.buffer.capacity() / 2);
        }
        #[expect(clippy::expect_used, reason = "the bytes are those that `push_with` wrote")]
        Some(popped.and_then(Result::ok).expect("a CID that was pushed reads back"))
    }

    /// Memory that it takes, in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
mod tests;
