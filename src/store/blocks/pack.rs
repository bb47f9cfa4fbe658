//! How blocks lie in segments: where one begins, how many are cut into segments, and how one is put together again.

use std::collections::HashSet;

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};

use super::file::{self, INDEX, SEGMENT_SIZES, SEGMENTS};
use super::{BlocksError, SEGMENT_BYTES};
use crate::model::Block;
use crate::model::block::IDENTITY_HASH;

/// Where a block lies: from `offset` in `segment` on, running over the following segments if it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment in which the block begins.
    pub(super) segment: u64,
    /// Where in it, in bytes.
    pub(super) offset: u32,
    /// The block's length in bytes.
    pub(super) length: u32,
}

impl Place {
    /// A number that no other block has, for bitmaps. An empty block shares its number with the block behind it.
    pub(super) fn number(self) -> u64 {
        self.segment << 16 | u64::from(self.offset)
    }

    /// The segments over which the block runs: those before the last one are full.
    pub(super) fn segments(self) -> std::ops::RangeInclusive<u64> {
        let end = (self.offset as usize + self.length as usize).saturating_sub(1).max(self.offset as usize);
        self.segment..=self.segment + (end / SEGMENT_BYTES) as u64
    }

    /// The block's bytes in each segment over which it runs.
    pub(super) fn parts(self) -> impl Iterator<Item = (u64, u64)> {
        let mut rest = u64::from(self.length);
        let mut room = (SEGMENT_BYTES as u64).saturating_sub(u64::from(self.offset));
        self.segments().map(move |segment| {
            let part = rest.min(room);
            rest -= part;
            room = SEGMENT_BYTES as u64;
            (segment, part)
        })
    }

    /// The form in the index: three big-endian numbers.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let packed = u128::from(self.segment) << 64 | u128::from(self.offset) << 32 | u128::from(self.length);
        packed.to_be_bytes()
    }

    /// Reads what [`Place::to_bytes`] made.
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes one field out of the packed number")]
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let packed = u128::from_be_bytes(bytes);
        Self { segment: (packed >> 64) as u64, offset: (packed >> 32) as u32, length: packed as u32 }
    }
}

/// The index key of a CID; `None` for an identity CID, which is never stored.
pub(super) fn key(cid: &cid::Cid) -> Option<Vec<u8>> {
    (cid.hash().code() != IDENTITY_HASH).then(|| cid.hash().to_bytes())
}

/// Puts the blocks that the store doesn't have yet into new segments, in their order, and indexes them.
pub(super) fn append<'a>(
    transaction: &WriteTransaction,
    blocks: impl Iterator<Item = &'a Block>,
) -> Result<(), BlocksError> {
    let mut index = transaction.open_table(INDEX)?;
    let mut segments = Segments::new(transaction)?;
    let mut places: Vec<(Vec<u8>, Place)> = Vec::new();
    let mut in_batch: HashSet<Vec<u8>> = HashSet::new();
    for block in blocks {
        let Some(key) = key(block.cid()) else { continue };
        if in_batch.contains(&key) || index.get(key.as_slice())?.is_some() {
            continue;
        }
        let place = segments.push(block.data())?;
        in_batch.insert(key.clone());
        places.push((key, place));
    }
    segments.flush()?;
    // Neighbours in the index share pages, so in this order each page is looked up once.
    places.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    for (key, place) in places {
        index.insert(key.as_slice(), place.to_bytes())?;
    }
    Ok(())
}

/// Cuts a run of bytes into segments.
pub(super) struct Segments<'t> {
    table: Table<'t, u64, &'static [u8]>,
    sizes: Table<'t, u64, u32>,
    /// The number of the segment that is being filled.
    number: u64,
    buffer: Vec<u8>,
}

impl<'t> Segments<'t> {
    /// Continues behind the last segment.
    pub(super) fn new(transaction: &'t WriteTransaction) -> Result<Self, BlocksError> {
        let table = transaction.open_table(SEGMENTS)?;
        let sizes = transaction.open_table(SEGMENT_SIZES)?;
        let last = sizes.last()?.map_or(0, |(number, _)| number.value() + 1);
        let number = last.max(file::floor(transaction)?);
        Ok(Self { table, sizes, number, buffer: Vec::with_capacity(SEGMENT_BYTES) })
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a block has at most BLOCK_BYTES_MAX bytes, a segment SEGMENT_BYTES"
    )]
    pub(super) fn push(&mut self, data: &Bytes) -> Result<Place, BlocksError> {
        let place = Place { segment: self.number, offset: self.buffer.len() as u32, length: data.len() as u32 };
        let mut rest = data.as_ref();
        while !rest.is_empty() {
            let room = SEGMENT_BYTES - self.buffer.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() == SEGMENT_BYTES {
                self.flush()?;
            }
        }
        Ok(place)
    }

    /// Ends the segment that is being filled, unless it is empty.
    #[expect(clippy::cast_possible_truncation, reason = "a segment has at most SEGMENT_BYTES")]
    pub(super) fn flush(&mut self) -> Result<(), BlocksError> {
        if !self.buffer.is_empty() {
            self.table.insert(self.number, self.buffer.as_slice())?;
            self.sizes.insert(self.number, self.buffer.len() as u32)?;
            self.number += 1;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Puts the block at `place` together again.
pub(super) fn read(segments: &impl ReadableTable<u64, &'static [u8]>, place: Place) -> Result<Bytes, BlocksError> {
    let length = place.length as usize;
    let mut data = Vec::with_capacity(length);
    let mut number = place.segment;
    let mut offset = place.offset as usize;
    while data.len() < length {
        let damaged = || BlocksError::Damaged { segment: number };
        let segment = segments.get(number)?.ok_or_else(damaged)?;
        let part = segment.value().get(offset..).filter(|part| !part.is_empty()).ok_or_else(damaged)?;
        data.extend_from_slice(part.get(..length - data.len()).unwrap_or(part));
        number += 1;
        offset = 0;
    }
    Ok(data.into())
}
