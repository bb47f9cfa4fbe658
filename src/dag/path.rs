//! Where a path leads: from a root through directories, sharded or not, and through the maps and lists of dag-cbor and
//! dag-json, as `/ipfs/CID/some/path` means it.
//!
//! Pure: [`PathWalk::wants`] says which block is needed next. The blocks that were needed are what proves the answer.

use cid::Cid;

use super::links::{Found, LinkError, look_up};
use super::target::Target;
use super::unixfs::{self, Kind, Slots};
use crate::model::cids::codec;
use crate::model::limits::PATH_BLOCKS_MAX;

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is nothing of this name.
    #[error("there is no \"{name}\" in {node}")]
    Missing {
        /// The block where it was looked for.
        node: String,
        /// The part of the path.
        name: String,
    },
    /// The path ends inside a block, at a value that is no link.
    #[error("the path ends at a value inside the block {node}; a path can only end at a link")]
    Value {
        /// The block.
        node: String,
    },
    /// A block can't be read.
    #[error("block {node} is invalid: {source}")]
    Invalid {
        /// The block.
        node: String,
        /// What is wrong with it.
        source: LinkError,
    },
    /// The way is longer than any that makes sense.
    #[error("the path leads through more than {PATH_BLOCKS_MAX} blocks")]
    TooLong,
}

/// Where a path has led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The blocks that lie on the way, from the root on and without the last.
    pub blocks: Vec<Cid>,
    /// What the path names.
    pub end: Target,
    /// The root and what each part of the path leads to, as text.
    pub roots: Vec<String>,
}

/// A path on its way.
#[derive(Debug)]
pub struct PathWalk {
    parts: Vec<Vec<u8>>,
    /// Parts of the path that are done.
    used: usize,
    at: Target,
    /// Inside a sharded directory: where the next part belongs.
    slots: Option<Slots>,
    blocks: Vec<Cid>,
    roots: Vec<String>,
}

/// One step from a block.
enum Step {
    /// Parts of the path are done, and this is where they lead.
    Link { target: Target, parts: usize },
    /// A deeper node of the same directory.
    Deeper(Target),
    /// There is nothing under this part, counted from the next one.
    Nothing(usize),
    /// The path ends inside the block.
    Value,
}

impl PathWalk {
    /// A walk from `root` along the parts of a path.
    pub fn new(root: Cid, parts: Vec<Vec<u8>>) -> Result<Self, PathError> {
        let at = Target::of(root);
        let roots = vec![at.text()];
        let mut walk = Self { parts, used: 0, at, slots: None, blocks: Vec::new(), roots };
        walk.skip_inline()?;
        Ok(walk)
    }

    /// The block that is needed to go on; `None` when the path has come to its end.
    pub fn wants(&self) -> Option<Cid> {
        match &self.at {
            Target::Block(cid) if self.used < self.parts.len() => Some(*cid),
            _ => None,
        }
    }

    /// Takes the block that is wanted. After an error the walk stands still.
    pub fn add_block(&mut self, data: &[u8]) -> Result<(), PathError> {
        let Some(cid) = self.wants() else { return Ok(()) };
        if self.blocks.len() >= PATH_BLOCKS_MAX {
            return Err(PathError::TooLong);
        }
        self.step(data)?;
        self.blocks.push(cid);
        self.skip_inline()
    }

    /// Where the path has led, once nothing is wanted any more.
    pub fn finish(self) -> Resolved {
        Resolved { blocks: self.blocks, end: self.at, roots: self.roots }
    }

    /// Goes through blocks that links carry themselves. Each is smaller than the one around it, so this ends.
    fn skip_inline(&mut self) -> Result<(), PathError> {
        while self.used < self.parts.len() {
            let Target::Inline { data, .. } = &self.at else { return Ok(()) };
            let data = data.clone();
            self.step(&data)?;
        }
        Ok(())
    }

    fn step(&mut self, data: &[u8]) -> Result<(), PathError> {
        let invalid = |source| PathError::Invalid { node: self.at.text(), source };
        let rest = self.parts.get(self.used..).unwrap_or_default();
        let step = match self.at.codec() {
            codec::DAG_PB => directory_step(data, rest, &mut self.slots),
            codec::DAG_CBOR | codec::DAG_JSON => inner_step(self.at.codec(), data, rest),
            codec if codec::is_leaf(codec) => Ok(Step::Nothing(0)),
            codec => Err(LinkError::UnsupportedCodec { codec }),
        };
        match step.map_err(invalid)? {
            Step::Link { target, parts } => {
                self.used += parts;
                self.slots = None;
                if parts > 0 {
                    self.roots.push(target.text());
                }
                self.at = target;
                Ok(())
            }
            Step::Deeper(target) => {
                self.at = target;
                Ok(())
            }
            Step::Nothing(offset) => {
                let name = rest.get(offset).map(|name| String::from_utf8_lossy(name).chars().take(100).collect());
                Err(PathError::Missing { node: self.at.text(), name: name.unwrap_or_default() })
            }
            Step::Value => Err(PathError::Value { node: self.at.text() }),
        }
    }
}

/// A step through dag-cbor or dag-json.
fn inner_step(codec: u64, data: &[u8], rest: &[Vec<u8>]) -> Result<Step, LinkError> {
    Ok(match look_up(codec, data, rest)? {
        Found::Link { target, used } => Step::Link { target, parts: used },
        Found::Value => Step::Value,
        Found::Nothing { used } => Step::Nothing(used),
    })
}

/// A step through a directory, or any other dag-pb node whose links have names. `slots` is set inside a sharded one.
fn directory_step(data: &[u8], rest: &[Vec<u8>], slots: &mut Option<Slots>) -> Result<Step, LinkError> {
    let Some(name) = rest.first() else { return Ok(Step::Value) };
    let node = unixfs::read(codec::DAG_PB, data)?;
    let kind = node.as_ref().map(|node| node.kind);
    let Some(shard) = node.filter(|node| node.kind == Kind::Shard) else {
        if slots.is_some() {
            return Err(unixfs::malformed("a part of a sharded directory is no shard"));
        }
        if matches!(kind, Some(Kind::File | Kind::Other)) {
            return Ok(Step::Nothing(0));
        }
        let found = find(data, |link| link == name)?;
        return Ok(found.map_or(Step::Nothing(0), |(target, _)| Step::Link { target, parts: 1 }));
    };
    let shard = shard.shard()?;
    let slots = slots.get_or_insert_with(|| Slots::of(name));
    let Some(digits) = slots.next(shard) else { return Ok(Step::Nothing(0)) };
    let found = find(data, |link| {
        link.strip_prefix(digits.as_bytes()).is_some_and(|entry| entry.is_empty() || entry == name.as_slice())
    })?;
    Ok(match found {
        Some((target, name_bytes)) if name_bytes == shard.digits => Step::Deeper(target),
        Some((target, _)) => Step::Link { target, parts: 1 },
        None => Step::Nothing(0),
    })
}

/// The first link whose name is right, and the length of that name in bytes.
fn find(data: &[u8], is_right: impl Fn(&[u8]) -> bool) -> Result<Option<(Target, usize)>, LinkError> {
    let mut found = None;
    unixfs::each_link(data, |link| {
        if found.is_none() && is_right(link.name) {
            found = Some((Target::read(link.hash)?, link.name.len()));
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests;
