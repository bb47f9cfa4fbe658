//! Blocks in the order of their places, for whoever reads all of a store: so it reads each segment once, and one after
//! the other. The index is in the order of hashes, which fall anywhere.
//!
//! Memory is bounded: each pass over the whole index takes the next [`PASS_BLOCKS`] blocks.

use redb::{ReadTransaction, ReadableTable};

use super::BlocksError;
use super::file::INDEX;
use super::pack::Place;

/// Blocks that one pass takes. Twice as many are held meanwhile, at about 100 bytes each: 40 MB.
const PASS_BLOCKS: usize = 200_000;

/// A block that is in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its key in the index, see [`super::pack::key`].
    pub(super) key: Box<[u8]>,
    /// Where it lies.
    pub(super) place: Place,
}

impl Placed {
    /// By place; an empty block has the place of the one behind it.
    fn order(&self) -> (u64, &[u8]) {
        (self.place.number(), &self.key)
    }
}

/// Shows every entry of the index, in the order of keys.
pub(super) fn for_each(transaction: &ReadTransaction, mut visit: impl FnMut(&[u8], Place)) -> Result<(), BlocksError> {
    for entry in transaction.open_table(INDEX)?.iter()? {
        let (key, place) = entry?;
        visit(key.value(), Place::from_bytes(place.value()));
    }
    Ok(())
}

/// Goes through the blocks of one snapshot in the order of their places.
#[derive(Debug)]
pub(super) struct PlacedBlocks {
    pass_blocks: usize,
    /// The last block that was given.
    last: Option<Placed>,
}

impl PlacedBlocks {
    /// From the first block on.
    pub(super) fn new() -> Self {
        Self::with_pass(PASS_BLOCKS)
    }

    /// The same with passes of another size.
    pub(super) fn with_pass(pass_blocks: usize) -> Self {
        Self { pass_blocks, last: None }
    }

    /// The next blocks, in order; none when there are no more. It must always be the same snapshot.
    pub(super) fn next_pass(&mut self, transaction: &ReadTransaction) -> Result<Vec<Placed>, BlocksError> {
        let after = self.last.as_ref().map(Placed::order);
        let mut found: Vec<Placed> = Vec::new();
        // No block behind this one can be among those of this pass.
        let mut end: Option<(u64, Box<[u8]>)> = None;
        for_each(transaction, |key, place| {
            let order = (place.number(), key);
            let is_behind = end.as_ref().is_some_and(|(number, key)| order > (*number, &**key));
            if is_behind || after.is_some_and(|after| order <= after) {
                return;
            }
            found.push(Placed { key: key.into(), place });
            if found.len() >= 2 * self.pass_blocks {
                let (_, last, _) =
                    found.select_nth_unstable_by(self.pass_blocks - 1, |left, right| left.order().cmp(&right.order()));
                end = Some((last.place.number(), last.key.clone()));
                found.truncate(self.pass_blocks);
            }
        })?;
        found.sort_unstable_by(|left, right| left.order().cmp(&right.order()));
        found.truncate(self.pass_blocks);
        if let Some(last) = found.last() {
            self.last = Some(last.clone());
        }
        Ok(found)
    }
}
