//! The index in the order in which the blocks lie in the file, so that a pass over all of them reads the disk in order.
//!
//! The index is sorted by hash, and a list of all places would need more memory the more blocks there are. So each call
//! reads the whole index and keeps the first places of a range; the next call goes on behind them.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use redb::{ReadTransaction, ReadableTable, TableError};

use super::BlocksError;
use super::file::INDEX;
use super::pack::Place;
use super::recent::{self, RECENT};

/// Entries of the index between two looks at whether to go on.
const LOOK_EVERY: u64 = 8192;

/// A block of the index: its key, and where it lies.
pub(super) type Placed = (Box<[u8]>, Place);

/// The first of the wanted blocks.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Their keys and places, by [`Place::number`].
    pub(super) blocks: Vec<Placed>,
    /// Entries of the index that were read.
    pub(super) entries: u64,
    /// How many blocks are wanted, listed or not.
    pub(super) blocks_wanted: u64,
    /// Bytes of those blocks.
    pub(super) bytes_wanted: u64,
}

/// Shows every entry of the index and of what stands in front of it.
pub(super) fn for_each(
    transaction: &ReadTransaction,
    mut visit: impl FnMut(&[u8], Place) -> ControlFlow<()>,
) -> Result<(), BlocksError> {
    for entry in transaction.open_table(INDEX)?.iter()? {
        let (key, place) = entry?;
        if visit(key.value(), Place::from_bytes(place.value())).is_break() {
            return Ok(());
        }
    }
    let pieces = match transaction.open_table(RECENT) {
        // A backup by an older program.
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        pieces => pieces?,
    };
    for piece in pieces.iter()? {
        for (digest, place) in recent::entries(piece?.1.value()) {
            if visit(&digest, place).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Lists the at most `max` first blocks whose [`Place::number`] is wanted; blocks that share a number are listed together. `go_on` is asked now and then; once it says no, the list may lack any block.
///
/// Takes about 100 bytes of memory for each of the `max` blocks.
pub(super) fn next_places(
    transaction: &ReadTransaction,
    is_wanted: &dyn Fn(u64) -> bool,
    max: usize,
    go_on: &dyn Fn() -> bool,
) -> Result<Listing, BlocksError> {
    let mut listing = Listing::default();
    // By number and length, so that an empty block comes before the one behind it; the largest is at the top.
    let mut first: BinaryHeap<(u64, u32, Box<[u8]>)> = BinaryHeap::new();
    let mut rejected_min = u64::MAX;
    for_each(transaction, |key, place| {
        if listing.entries.is_multiple_of(LOOK_EVERY) && !go_on() {
            return ControlFlow::Break(());
        }
        listing.entries += 1;
        let number = place.number();
        if !is_wanted(number) {
            return ControlFlow::Continue(());
        }
        listing.blocks_wanted += 1;
        listing.bytes_wanted += u64::from(place.length);
        if first.len() < max {
            first.push((number, place.length, key.into()));
        } else if let Some(mut last) = first.peek_mut() {
            if number < last.0 {
                rejected_min = rejected_min.min(last.0);
                *last = (number, place.length, key.into());
            } else {
                rejected_min = rejected_min.min(number);
            }
        }
        ControlFlow::Continue(())
    })?;
    let mut first = first.into_sorted_vec();
    // Who goes on behind a number would miss what was left out of it. Only a damaged index has so many under one number
    // that nothing would be left; then most of them have to do.
    let whole = first.partition_point(|(number, ..)| *number < rejected_min);
    if whole > 0 {
        first.truncate(whole);
    }
    listing.blocks = first.into_iter().map(|(number, length, key)| (key, Place::from_number(number, length))).collect();
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase};

    use super::*;
    use crate::store::blocks::file::INDEX;

    #[test]
    fn lists_every_block_once_in_order_whatever_the_memory() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut expected: Vec<(u64, u32)> = Vec::new();
        {
            let mut index = transaction.open_table(INDEX).unwrap();
            for number in 0..500u32 {
                // Each seventh block is empty, and shares its place with the next one.
                let (at, length) = match number % 7 {
                    0 => (number, 0),
                    1 => (number - 1, 10),
                    _ => (number, 10),
                };
                let place = Place { segment: u64::from(at / 50), offset: at % 50 * 10, length };
                let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
                index.insert(key.as_slice(), &place.to_bytes()).unwrap();
                expected.push((place.number(), length));
            }
        }
        transaction.commit().unwrap();
        expected.sort_unstable();
        let snapshot = database.begin_read().unwrap();
        for max in [3, 10, 499, 500, 1000] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let listing = next_places(&snapshot, &|number| Some(number) > after, max, &|| true).unwrap();
                assert_eq!(listing.blocks_wanted, 500 - found.len() as u64);
                assert!(listing.blocks.len() <= max);
                let Some((_, last)) = listing.blocks.last() else { break };
                after = Some(last.number());
                found.extend(listing.blocks.iter().map(|(_, place)| (place.number(), place.length)));
            }
            assert_eq!(found, expected, "{max} at a time");
        }
        assert!(next_places(&snapshot, &|_| true, 10, &|| false).unwrap().blocks.is_empty());
    }
}
