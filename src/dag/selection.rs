//! Which blocks answer a question about a DAG, in which order: all of it, or one file or directory in it, or some bytes
//! of a file. This is the `dag-scope` and the `entity-bytes` of the trustless gateway.
//!
//! Blocks come depth first and in the order of the links, as a reader of the DAG meets them. Pure, like
//! [`super::walk`], which asks what is still missing and therefore tells each block once, in whatever order.

use std::collections::HashSet;

use cid::Cid;

use super::links::cid_bytes::{self, Target as Parsed};
use super::links::{LinkError, links_of};
use super::target::Target;
use super::unixfs::{self, Kind};
use super::walk::{CidStack, KeyedHash};
use crate::model::CidError;
use crate::model::cids::{self, codec};
use crate::model::limits::PARTIAL_NODES_MAX;

/// Why the blocks of an answer can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// A block is no valid node of its codec.
    #[error("block {node} is invalid: {source}")]
    Invalid {
        /// The block's CID.
        node: String,
        /// What is wrong.
        source: LinkError,
    },
    /// What is below the first block can't be walked.
    #[error(transparent)]
    Unsupported(#[from] CidError),
}

/// Bytes of a file, from the first to the last, both counted from 0 and both part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// What is asked for of a DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Its first block.
    Block,
    /// The file or directory that begins with it: all blocks of the file, or those that hold these bytes; the blocks that
    /// list the directory. Of anything else, the first block.
    Entity(Option<ByteRange>),
    /// Everything.
    All,
}

/// A block that is wanted next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its CID.
    pub cid: Cid,
    /// Whether it belongs to the answer; one that was there already is only needed to go on.
    pub is_told: bool,
}

/// What a block is to the question, which decides what of its links belongs to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing below it belongs.
    Alone,
    /// Everything below it belongs.
    All,
    /// The first block of a file or directory.
    Entity(Option<ByteRange>),
    /// A piece of a file, all of which belongs.
    File,
    /// A piece of a file, of which these bytes belong, counted from where the piece begins.
    Part(ByteRange),
    /// A node of a sharded directory.
    Shard,
}

/// A walk over the blocks of an answer.
#[derive(Debug)]
pub struct Selection {
    keyed: KeyedHash,
    repeats: bool,
    /// Blocks that were told with all that belongs below them. Empty when blocks are repeated.
    seen: HashSet<u128>,
    /// Blocks that were told, and only some of what is below them.
    seen_partly: HashSet<u128>,
    pending: CidStack,
    /// The block that [`Selection::next`] has handed out.
    current: Option<(Cid, Role)>,
    partial_nodes: usize,
}

impl Selection {
    /// An answer that begins with the blocks of a path, in their order, and goes on with what is asked for of the DAG
    /// behind `end`. With `repeats`, a block comes as often as the walk meets it, else once.
    pub fn new(path: &[Cid], end: &Target, scope: Scope, repeats: bool) -> Result<Self, SelectionError> {
        let mut selection = Self {
            keyed: KeyedHash::default(),
            repeats,
            seen: HashSet::new(),
            seen_partly: HashSet::new(),
            pending: CidStack::default(),
            current: None,
            partial_nodes: 0,
        };
        let role = match scope {
            Scope::Block => Role::Alone,
            Scope::Entity(bytes) => Role::Entity(bytes),
            Scope::All => Role::All,
        };
        match end {
            Target::Block(cid) => {
                if role != Role::Alone {
                    cids::check(cid)?;
                }
                selection.push(cid, role);
            }
            Target::Inline { codec, data } => {
                let invalid = |source| SelectionError::Invalid { node: end.text(), source };
                selection.add_children(role, *codec, data).map_err(invalid)?;
            }
        }
        for cid in path.iter().rev() {
            selection.push(cid, Role::Alone);
        }
        Ok(selection)
    }

    /// The next block; `None` when the answer is complete. Its bytes must be given before the next one is asked for.
    #[expect(clippy::should_implement_trait, reason = "it goes on only when it is given the block")]
    pub fn next(&mut self) -> Option<Wanted> {
        loop {
            let (cid, role) = self.pop()?;
            let is_told = self.repeats || {
                let key = self.keyed.hash(&cid);
                if matches!(role, Role::Part(_)) {
                    if self.seen.contains(&key) {
                        continue;
                    }
                    self.seen_partly.insert(key)
                } else {
                    if !self.seen.insert(key) {
                        continue;
                    }
                    !self.seen_partly.contains(&key)
                }
            };
            if !is_told && codec::is_leaf(cid.codec()) {
                continue;
            }
            self.current = Some((cid, role));
            return Some(Wanted { cid, is_told });
        }
    }

    /// Takes the bytes of the block that was handed out last.
    pub fn add_block(&mut self, data: &[u8]) -> Result<(), SelectionError> {
        let Some((cid, role)) = self.current.take() else { return Ok(()) };
        self.add_children(role, cid.codec(), data)
            .map_err(|source| SelectionError::Invalid { node: cid.to_string(), source })
    }

    /// About how much memory this takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        // A table has room for eight sevenths of its entries, and a byte more for each.
        let table = |set: &HashSet<u128>| set.capacity().saturating_mul(8) / 7 * (size_of::<u128>() + 1);
        table(&self.seen) + table(&self.seen_partly) + self.pending.capacity_bytes()
    }

    fn add_children(&mut self, role: Role, codec: u64, data: &[u8]) -> Result<(), LinkError> {
        let mut children = Vec::new();
        self.find_children(role, codec, data, &mut children)?;
        for (cid, role) in children.iter().rev() {
            self.push(cid, *role);
        }
        Ok(())
    }

    /// Puts what belongs below a block into `children`, in its order.
    ///
    /// This calls itself for blocks that links carry themselves, each of which is smaller than the one around it.
    fn find_children(
        &mut self,
        role: Role,
        codec: u64,
        data: &[u8],
        children: &mut Vec<(Cid, Role)>,
    ) -> Result<(), LinkError> {
        match role {
            Role::Alone => Ok(()),
            Role::All => {
                children.extend(links_of(codec, data)?.into_iter().map(|cid| (cid, Role::All)));
                Ok(())
            }
            Role::Entity(bytes) => match (unixfs::read(codec, data)?.map(|node| node.kind), bytes) {
                (Some(Kind::File), None) => self.find_children(Role::File, codec, data, children),
                (Some(Kind::File), Some(bytes)) => self.find_children(Role::Part(bytes), codec, data, children),
                (Some(Kind::Shard), _) => self.find_children(Role::Shard, codec, data, children),
                _ => Ok(()),
            },
            Role::File => {
                if unixfs::read(codec, data)?.is_none_or(|node| node.kind != Kind::File) {
                    return Ok(());
                }
                unixfs::each_link(data, |link| self.add_child(link.hash, Role::File, children))
            }
            Role::Part(bytes) => self.find_parts(bytes, codec, data, children),
            Role::Shard => {
                let Some(node) = unixfs::read(codec, data)?.filter(|node| node.kind == Kind::Shard) else {
                    return Ok(());
                };
                let shard = node.shard()?;
                unixfs::each_link(data, |link| {
                    if link.name.len() == shard.digits {
                        self.add_child(link.hash, Role::Shard, children)
                    } else {
                        Ok(())
                    }
                })
            }
        }
    }

    /// Puts the pieces of a file that hold these bytes into `children`.
    fn find_parts(
        &mut self,
        bytes: ByteRange,
        codec: u64,
        data: &[u8],
        children: &mut Vec<(Cid, Role)>,
    ) -> Result<(), LinkError> {
        let Some(node) = unixfs::read(codec, data)?.filter(|node| node.kind == Kind::File) else { return Ok(()) };
        // A range cuts at most two pieces on each level. More are cut only where the sizes contradict each other, and then
        // the ways through a small DAG can be without number.
        self.partial_nodes += 1;
        if self.partial_nodes > PARTIAL_NODES_MAX {
            return Err(unixfs::malformed("the sizes of a file's pieces contradict each other"));
        }
        let mut sizes = node.block_sizes.iter().copied();
        let mut start = node.own_bytes;
        unixfs::each_link(data, |link| {
            let size = sizes.next().ok_or_else(|| unixfs::malformed("a file has more links than block sizes"))?;
            let first = start;
            start = start.checked_add(size).ok_or_else(|| unixfs::malformed("a file is larger than any can be"))?;
            if size == 0 || bytes.last < first || bytes.first >= start {
                return Ok(());
            }
            let part = ByteRange { first: bytes.first.saturating_sub(first), last: (bytes.last - first).min(size - 1) };
            let is_whole = part.first == 0 && part.last == size - 1;
            self.add_child(link.hash, if is_whole { Role::File } else { Role::Part(part) }, children)
        })
    }

    fn add_child(&mut self, hash: &[u8], role: Role, children: &mut Vec<(Cid, Role)>) -> Result<(), LinkError> {
        match cid_bytes::parse(hash)?.0 {
            Parsed::Block(cid) => {
                children.push((cid, role));
                Ok(())
            }
            Parsed::Inline { codec, data } => self.find_children(role, codec, data, children),
        }
    }

    fn push(&mut self, cid: &Cid, role: Role) {
        let tag = match role {
            Role::Alone => 0,
            Role::All => 1,
            Role::Entity(None) => 2,
            Role::Entity(Some(_)) => 3,
            Role::File => 4,
            Role::Part(_) => 5,
            Role::Shard => 6,
        };
        let mut note = vec![tag];
        if let Role::Entity(Some(bytes)) | Role::Part(bytes) = role {
            note.extend_from_slice(&bytes.first.to_be_bytes());
            note.extend_from_slice(&bytes.last.to_be_bytes());
        }
        self.pending.push_with(cid, &note);
    }

    fn pop(&mut self) -> Option<(Cid, Role)> {
        let (cid, note) = self.pending.pop_with(<[u8]>::to_vec)?;
        let number = |at: usize| {
            let bytes = note.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        let bytes = || ByteRange { first: number(1), last: number(9) };
        let role = match note.first() {
            Some(1) => Role::All,
            Some(2) => Role::Entity(None),
            Some(3) => Role::Entity(Some(bytes())),
            Some(4) => Role::File,
            Some(5) => Role::Part(bytes()),
            Some(6) => Role::Shard,
            _ => Role::Alone,
        };
        Some((cid, role))
    }
}

#[cfg(test)]
mod tests;
