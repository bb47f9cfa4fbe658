//! The cells that the keyspace is cut into.

use std::ops::Range;

use crate::provide::keyspace::{Key, Prefix};

/// How many bits all places in a cell have in common.
pub const CELL_BITS: u32 = 12;

/// How many cells there are.
pub const CELLS: usize = 1 << CELL_BITS;

/// A cell: a 4,096th of the keyspace. They are in the order of the keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(u16);

impl Cell {
    /// The cell that a place is in.
    pub fn of(key: &Key) -> Self {
        let [high, low, ..] = key.0;
        Self(u16::from_be_bytes([high, low]) >> (u16::BITS - CELL_BITS))
    }

    /// All places in it.
    pub fn prefix(self) -> Prefix {
        let mut key = [0; 32];
        let [high, low, ..] = &mut key;
        [*high, *low] = (self.0 << (u16::BITS - CELL_BITS)).to_be_bytes();
        Prefix::of(&Key(key), CELL_BITS)
    }

    /// Which one it is, from 0 to 4,095.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All cells.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..1 << CELL_BITS).map(Self)
    }

    /// The cell with this index; the last one if there is none.
    pub(super) fn at(index: usize) -> Self {
        Self(u16::try_from(index.min(CELLS - 1)).unwrap_or_default())
    }

    /// The cells that are in the prefix as a whole.
    pub(super) fn range(prefix: &Prefix) -> Range<usize> {
        let first = Self::of(&prefix.first()).index();
        let count = CELL_BITS.checked_sub(prefix.bits()).map_or(0, |bits| 1 << bits);
        first..first + count
    }
}
