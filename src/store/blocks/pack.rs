//! How blocks lie in segments: where one begins, how many are cut into segments, and how one is put together again.

use std::borrow::Cow;

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::file::{self, INDEX, QUARANTINE, SEGMENT_SIZES, SEGMENTS};
use super::recent::{Digest, Entry, Writing};
use super::{BlocksError, SEGMENT_BYTES};
use crate::model::Block;
use crate::model::block::IDENTITY_HASH;
use crate::model::cids::codec;
use crate::model::limits::BLOCK_BYTES_MAX;
use crate::store::disk;

/// The multihash code of SHA2-256, of which nearly all blocks are.
const SHA2_256: u64 = 0x12;

/// The length of its digest, in bytes.
const SHA2_256_BYTES: usize = 32;

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

    /// The place with this [`Place::number`].
    #[expect(clippy::cast_possible_truncation, reason = "the offset is the number's last 16 bits")]
    pub(super) fn from_number(number: u64, length: u32) -> Self {
        Self { segment: number >> 16, offset: number as u32 & 0xffff, length }
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

    /// The form in the index: 5 bytes of the segment's number, 2 of the offset and 3 of the length, big-endian. Shorter
    /// entries are fewer pages that a commit of small blocks has to write.
    pub(super) fn to_bytes(self) -> PlaceBytes {
        let packed = u128::from(self.segment) << 40 | u128::from(self.offset) << 24 | u128::from(self.length);
        let [_, _, _, _, _, _, bytes @ ..] = packed.to_be_bytes();
        bytes
    }

    /// Reads what [`Place::to_bytes`] made.
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes one field out of the packed number")]
    pub(super) fn from_bytes(bytes: &PlaceBytes) -> Self {
        let mut packed = [0; 16];
        packed[6..].copy_from_slice(bytes);
        let packed = u128::from_be_bytes(packed);
        Self {
            segment: (packed >> 40) as u64,
            offset: (packed >> 24) as u32 & 0xffff,
            length: packed as u32 & 0x00ff_ffff,
        }
    }
}

/// The form of a [`Place`] in the index.
pub(super) type PlaceBytes = [u8; 10];

// What the fields of `PlaceBytes` can hold.
const _: () = assert!(SEGMENT_BYTES <= 1 << 16 && BLOCK_BYTES_MAX < 1 << 24);

/// The index key of a CID; `None` for an identity CID, which is never stored.
///
/// For SHA2-256 it is the bare digest; for everything else the multihash, one byte longer where that would make it as long
/// as such a digest. The code and the length at its front tell any two of those apart.
pub(super) fn key(cid: &Cid) -> Option<Cow<'_, [u8]>> {
    let hash = cid.hash();
    match (hash.code(), hash.digest()) {
        (IDENTITY_HASH, _) => None,
        (SHA2_256, digest) if digest.len() == SHA2_256_BYTES => Some(Cow::Borrowed(digest)),
        _ => {
            let mut multihash = hash.to_bytes();
            if multihash.len() == SHA2_256_BYTES {
                multihash.push(0);
            }
            Some(Cow::Owned(multihash))
        }
    }
}

/// The CID, with the codec for raw bytes, of the block with this [`key`]; `None` for what is no such key.
pub(super) fn cid(key: &[u8]) -> Option<Cid> {
    let hash = if key.len() == SHA2_256_BYTES {
        Multihash::wrap(SHA2_256, key).ok()?
    } else {
        let mut rest = key;
        let hash = Multihash::read(&mut rest).ok()?;
        let is_padded = key.len() == SHA2_256_BYTES + 1 && rest == [0];
        if !rest.is_empty() && !is_padded {
            return None;
        }
        hash
    };
    Some(Cid::new_v1(codec::RAW, hash))
}

/// Whether these are the bytes of the block with this [`key`].
pub(super) fn matches(key: &[u8], data: Bytes) -> bool {
    cid(key).is_some_and(|cid| Block::verify(cid, data).is_ok())
}

/// A block of a batch, on its way into the index.
struct Candidate<'a> {
    /// The key's first bytes: nearly always enough to sort by, without a look at what `key` points to.
    prefix: u64,
    /// The block's place in the batch.
    order: usize,
    key: Cow<'a, [u8]>,
}

/// What became of a batch of blocks.
#[derive(Debug, Default)]
pub(super) struct Appended {
    /// The new ones for the front of the index, in the order of their keys.
    pub(super) entries: Vec<Entry>,
    /// How many are new.
    pub(super) new: usize,
    /// Where each block of the batch is that can be stored.
    pub(super) places: Vec<Place>,
    /// Whether readers see any of it before the entries are theirs.
    pub(super) shows_at_once: bool,
}

/// Puts the blocks that the store doesn't have yet into new segments, in their order. Those with a SHA2-256 digest are
/// for the caller to index, the others are indexed.
pub(super) fn append(
    transaction: &WriteTransaction,
    writing: &Writing<'_>,
    blocks: &[&Block],
) -> Result<Appended, BlocksError> {
    let mut index = transaction.open_table(INDEX)?;
    let mut candidates = candidates(blocks);
    let mut appended = Appended::default();
    let mut known = Ok(());
    candidates.retain(|candidate| match place_of(writing, &index, &candidate.key) {
        Ok(place) => {
            appended.places.extend(place);
            place.is_none()
        }
        Err(error) => {
            known = Err(error);
            false
        }
    });
    known?;
    appended.new = candidates.len();
    if candidates.is_empty() {
        return Ok(appended);
    }
    let mut places = vec![None; blocks.len()];
    for candidate in &candidates {
        places[candidate.order] = Some(Place { segment: 0, offset: 0, length: 0 });
    }
    let new = blocks.iter().zip(&mut places).filter_map(|(block, place)| Some((block.data(), place.as_mut()?)));
    write(transaction, new.collect())?;
    appended.entries.reserve(candidates.len());
    for Candidate { key, order, .. } in &candidates {
        let Some(place) = places[*order] else { continue };
        appended.places.push(place);
        match Digest::try_from(&**key) {
            Ok(digest) => appended.entries.push((digest, place)),
            Err(_) => {
                index.insert(&**key, &place.to_bytes())?;
                appended.shows_at_once = true;
            }
        }
    }
    appended.shows_at_once |= release(transaction, &candidates)?;
    Ok(appended)
}

/// Where the block of a key is, as one transaction sees the index.
fn place_of(
    writing: &Writing<'_>,
    index: &impl ReadableTable<&'static [u8], &'static PlaceBytes>,
    key: &[u8],
) -> Result<Option<Place>, BlocksError> {
    if let Ok(digest) = <&Digest>::try_from(key)
        && let Some(place) = writing.find(digest)
    {
        return Ok(Some(place));
    }
    Ok(index.get(key)?.map(|place| Place::from_bytes(place.value())))
}

/// What was damaged and is stored again leaves the quarantine. Says whether there is one.
fn release(transaction: &WriteTransaction, stored: &[Candidate<'_>]) -> Result<bool, BlocksError> {
    let mut quarantine = transaction.open_table(QUARANTINE)?;
    let has_any = !quarantine.is_empty()?;
    if has_any {
        for Candidate { key, .. } in stored {
            quarantine.remove(&**key)?;
        }
    }
    Ok(has_any)
}

/// The distinct blocks of a batch that can be stored, by key. Neighbours in the index share pages, so in this order each
/// page is looked up once, as long as it is in some cache.
fn candidates<'a>(blocks: &[&'a Block]) -> Vec<Candidate<'a>> {
    let candidate = |(order, block): (usize, &&'a Block)| {
        let key = key(block.cid())?;
        let prefix = key.first_chunk().map_or(0, |prefix| u64::from_be_bytes(*prefix));
        Some(Candidate { prefix, order, key })
    };
    let mut candidates: Vec<Candidate<'a>> = blocks.iter().enumerate().filter_map(candidate).collect();
    candidates.sort_unstable_by(|left, right| {
        (left.prefix.cmp(&right.prefix))
            .then_with(|| left.key.cmp(&right.key))
            .then_with(|| left.order.cmp(&right.order))
    });
    candidates.dedup_by(|later, first| later.prefix == first.prefix && later.key == first.key);
    candidates
}

/// Writes blocks to new segments, in their order, and notes each one's place.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a block has at most BLOCK_BYTES_MAX bytes, a segment SEGMENT_BYTES"
)]
pub(super) fn write(transaction: &WriteTransaction, mut blocks: Vec<(&Bytes, &mut Place)>) -> Result<(), BlocksError> {
    let mut segments = transaction.open_table(SEGMENTS)?;
    let mut sizes = transaction.open_table(SEGMENT_SIZES)?;
    let last = sizes.last()?.map_or(0, |(number, _)| number.value() + 1);
    let first = last.max(file::floor(transaction)?);
    let mut end = 0;
    for (data, place) in &mut blocks {
        **place = Place {
            segment: first + (end / SEGMENT_BYTES) as u64,
            offset: (end % SEGMENT_BYTES) as u32,
            length: data.len() as u32,
        };
        end += data.len();
    }
    file::change_segment_bytes(transaction, |before| before + end as u64)?;
    let mut parts = blocks.iter().map(|(data, _)| data.as_ref());
    let mut rest: &[u8] = &[];
    let mut number = first;
    while end > 0 {
        let length = end.min(SEGMENT_BYTES);
        // Bytes go straight into redb's page.
        let mut segment = segments.insert_reserve(number, length)?;
        let mut room = segment.as_mut();
        while !room.is_empty() {
            if rest.is_empty() {
                let Some(part) = parts.next() else { break };
                rest = part;
            }
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            room = &mut room[now.len()..];
            rest = later;
        }
        drop(segment);
        sizes.insert(number, length as u32)?;
        end -= length;
        number += 1;
    }
    Ok(())
}

/// Puts the block at `place` together again.
pub(super) fn read(segments: &impl ReadableTable<u64, &'static [u8]>, place: Place) -> Result<Bytes, BlocksError> {
    let numbers = place.segments();
    let count = numbers.end() - numbers.start() + 1;
    if count == 1 { collect(segments, place) } else { disk::read_ahead(count, || collect(segments, place)) }
}

fn collect(segments: &impl ReadableTable<u64, &'static [u8]>, place: Place) -> Result<Bytes, BlocksError> {
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
