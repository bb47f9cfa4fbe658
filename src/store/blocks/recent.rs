//! The front of the index: entries of the newest blocks, which aren't in the index yet.
//!
//! Hashes fall anywhere in the index, so a commit of small blocks that went straight there would rewrite a page of it for
//! nearly each block. New entries go to the table [`RECENT`] instead, in one piece per commit and *bucket* (the first bits
//! of the digest), and into a map in memory, where they are found. When there are [`RECENT_MAX`] of them, the
//! fullest bucket is merged into the index in the order of its keys: then many of them share a page.
//!
//! Only digests of SHA2-256 come here, as they are all of one length and fall evenly; others are rare.
//!
//! Whoever changes the index for new blocks holds [`Recent::lock`] from before its transaction until the maps say what the
//! transaction did. Readers look into the maps *before* they begin their transaction, so what they find there is
//! in it. An entry leaves its map after the commit that merged it; readers who overlap with that notice it by the
//! [`Recent::epoch`] and look again.
//!
//! A commit may still [fly](Flight) when its transaction is over. Its entries wait until it has landed: what a reader finds
//! is durable. Only who packs the next commit, which is durable after this one, finds them before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::BlocksError;
use super::file::INDEX;
use super::pack::{Place, PlaceBytes};
use crate::store::disk::Flight;

/// Entries that aren't in the index yet, by bucket and a growing number: keys and [`PlaceBytes`] one after the other.
pub(super) const RECENT: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("recent");

/// A digest of SHA2-256.
pub(super) type Digest = [u8; 32];

/// An entry that goes into the index.
pub(super) type Entry = (Digest, Place);

/// How many entries there may be: about 90 bytes of memory each.
const RECENT_MAX: usize = if cfg!(test) { 256 } else { 512 * 1024 };

/// How many an idle store keeps.
const RECENT_IDLE_MAX: usize = if cfg!(test) { 64 } else { 16 * 1024 };

/// The first six bits of a digest make its bucket.
pub(super) const BUCKETS: usize = 64;

const DIGEST_BYTES: usize = size_of::<Digest>();
const ENTRY_BYTES: usize = DIGEST_BYTES + size_of::<PlaceBytes>();

type Bucket = HashMap<Digest, PlaceBytes>;

/// The entries in memory.
#[derive(Debug)]
pub(super) struct Recent {
    buckets: Vec<RwLock<Bucket>>,
    length: AtomicUsize,
    epoch: AtomicU64,
    newest: Mutex<Newest>,
}

/// What only those know who change the index.
#[derive(Debug, Default)]
struct Newest {
    /// The number of the next piece.
    next_piece: u64,
    /// The entries of the commit that flies, in the order of their keys.
    flying: Option<(Vec<Entry>, Flight)>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| RwLock::default()).collect(),
            length: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            newest: Mutex::default(),
        }
    }
}

fn bucket_of(digest: &Digest) -> usize {
    usize::from(digest[0] >> 2)
}

impl Recent {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Changes whenever entries have left the maps.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Where the block of a digest is, if its entry is here.
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        if self.len() == 0 {
            return None;
        }
        self.bucket(bucket_of(digest)).get(digest).map(Place::from_bytes)
    }

    /// Whether an idle store should merge a bucket.
    pub(super) fn has_to_settle(&self) -> bool {
        self.len() > RECENT_IDLE_MAX
    }

    /// For one transaction that changes the index for new blocks. Waits for the commit that flies.
    pub(super) fn lock(&self) -> Result<Writing<'_>, BlocksError> {
        let mut writing = self.lock_ahead();
        writing.land()?;
        Ok(writing)
    }

    /// The same, while a commit may fly.
    pub(super) fn lock_ahead(&self) -> Writing<'_> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        Writing { recent: self, newest, merged: Vec::new(), added: Vec::new() }
    }

    /// The bucket with the most entries, if there are any.
    pub(super) fn fullest(&self) -> Option<usize> {
        self.fullest_of(0..BUCKETS)
    }

    /// How many entries a bucket has.
    pub(super) fn bucket_len(&self, bucket: usize) -> usize {
        self.bucket(bucket).len()
    }

    fn fullest_of(&self, buckets: impl Iterator<Item = usize>) -> Option<usize> {
        let lengths = buckets.map(|bucket| (self.bucket_len(bucket), bucket));
        lengths.max().filter(|(length, _)| *length > 0).map(|(_, bucket)| bucket)
    }

    /// Shows to readers what a transaction did: the buckets that it merged, and the entries that it added.
    fn show(&self, merged: &[usize], added: &[Entry]) {
        let mut length = self.len();
        for bucket in merged {
            length -= std::mem::take(&mut *self.bucket_mut(*bucket)).len();
        }
        for entries in added.chunk_by(|(left, _), (right, _)| bucket_of(left) == bucket_of(right)) {
            let [(first, _), ..] = entries else { continue };
            let mut bucket = self.bucket_mut(bucket_of(first));
            for (digest, place) in entries {
                length += usize::from(bucket.insert(*digest, place.to_bytes()).is_none());
            }
        }
        self.length.store(length, Ordering::Release);
        if !merged.is_empty() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn bucket(&self, bucket: usize) -> RwLockReadGuard<'_, Bucket> {
        self.buckets[bucket].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket_mut(&self, bucket: usize) -> RwLockWriteGuard<'_, Bucket> {
        self.buckets[bucket].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one transaction does to the entries; nothing of it shows until [`Writing::committed`].
pub(super) struct Writing<'recent> {
    recent: &'recent Recent,
    newest: MutexGuard<'recent, Newest>,
    merged: Vec<usize>,
    added: Vec<Entry>,
}

impl Writing<'_> {
    /// Where the block of a digest is, if its entry is here or flies.
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        if let Some((entries, _)) = &self.newest.flying
            && let Ok(at) = entries.binary_search_by(|(other, _)| other.cmp(digest))
        {
            return Some(entries[at].1);
        }
        self.recent.find(digest)
    }

    /// Waits for the commit that flies and shows its entries to readers.
    pub(super) fn land(&mut self) -> Result<(), BlocksError> {
        if let Some((_, flight)) = &self.newest.flying {
            // One that failed stays: the file has to be opened again, which is when the entries are read.
            flight.wait().map_err(|error| BlocksError::from(redb::Error::Io(error)))?;
            let landed = self.newest.flying.take();
            self.recent.show(&[], &landed.map(|(entries, _)| entries).unwrap_or_default());
        }
        Ok(())
    }

    /// Whether there is room for so many entries without a merge.
    pub(super) fn has_room(&self, entries: usize) -> bool {
        let flying = self.newest.flying.as_ref().map_or(0, |(entries, _)| entries.len());
        self.recent.len() + flying + entries <= RECENT_MAX
    }

    /// Takes the entries of the table in the place of all others, as at a start. Nothing changes when it fails. A file that was
    /// opened again has what landed, and nothing flies.
    pub(super) fn load(&mut self, table: &impl ReadableTable<(u8, u64), &'static [u8]>) -> Result<(), BlocksError> {
        let mut buckets: Vec<Bucket> = (0..BUCKETS).map(|_| Bucket::new()).collect();
        let mut next_piece = 0;
        for piece in table.iter()? {
            let (key, entries) = piece?;
            next_piece = next_piece.max(key.value().1 + 1);
            for (digest, place) in self::entries(entries.value()) {
                buckets[bucket_of(&digest)].insert(digest, place.to_bytes());
            }
        }
        *self.newest = Newest { next_piece, flying: None };
        self.recent.length.store(buckets.iter().map(Bucket::len).sum(), Ordering::Release);
        for (number, bucket) in buckets.into_iter().enumerate() {
            *self.recent.bucket_mut(number) = bucket;
        }
        self.recent.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Adds entries, in the order of their keys, and merges as much as they need room; then nothing may fly.
    pub(super) fn add(&mut self, transaction: &WriteTransaction, entries: Vec<Entry>) -> Result<(), BlocksError> {
        while self.left() + entries.len() > RECENT_MAX {
            let Some(bucket) = self.fullest_left() else { break };
            self.merge(transaction, bucket)?;
        }
        let mut table = transaction.open_table(RECENT)?;
        for entries in entries.chunk_by(|(left, _), (right, _)| bucket_of(left) == bucket_of(right)) {
            let [(first, _), ..] = entries else { continue };
            let mut piece =
                table.insert_reserve((first[0] >> 2, self.newest.next_piece), entries.len() * ENTRY_BYTES)?;
            for (bytes, (digest, place)) in piece.as_mut().chunks_exact_mut(ENTRY_BYTES).zip(entries) {
                bytes[..DIGEST_BYTES].copy_from_slice(digest);
                bytes[DIGEST_BYTES..].copy_from_slice(&place.to_bytes());
            }
        }
        self.newest.next_piece += 1;
        self.added = entries;
        Ok(())
    }

    /// Merges a bucket into the index.
    pub(super) fn merge(&mut self, transaction: &WriteTransaction, bucket: usize) -> Result<(), BlocksError> {
        debug_assert!(self.newest.flying.is_none(), "what flies isn't in the maps, and would be lost");
        let mut entries: Vec<(Digest, PlaceBytes)> =
            self.recent.bucket(bucket).iter().map(|(digest, place)| (*digest, *place)).collect();
        entries.sort_unstable_by_key(|(digest, _)| *digest);
        let mut index = transaction.open_table(INDEX)?;
        for (digest, place) in &entries {
            index.insert(digest.as_slice(), place)?;
        }
        #[expect(clippy::cast_possible_truncation, reason = "there are 64 buckets")]
        let number = bucket as u8;
        transaction.open_table(RECENT)?.retain_in((number, 0)..=(number, u64::MAX), |_, _| false)?;
        self.merged.push(bucket);
        Ok(())
    }

    /// Shows to readers what the transaction did, which has just been committed.
    pub(super) fn committed(self) {
        self.recent.show(&self.merged, &self.added);
    }

    /// Keeps the entries until the transaction, which merged nothing, has landed.
    pub(super) fn departed(mut self, flight: Flight) {
        debug_assert!(self.merged.is_empty() && self.newest.flying.is_none());
        self.newest.flying = Some((std::mem::take(&mut self.added), flight));
    }

    /// Entries that this transaction hasn't merged.
    fn left(&self) -> usize {
        let merged: usize = self.merged.iter().map(|bucket| self.recent.bucket_len(*bucket)).sum();
        self.recent.len().saturating_sub(merged)
    }

    fn fullest_left(&self) -> Option<usize> {
        self.recent.fullest_of((0..BUCKETS).filter(|bucket| !self.merged.contains(bucket)))
    }
}

/// The entries of a piece of [`RECENT`].
pub(super) fn entries(piece: &[u8]) -> impl Iterator<Item = Entry> {
    piece.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| {
        let mut digest = Digest::default();
        let mut place = PlaceBytes::default();
        digest.copy_from_slice(&entry[..DIGEST_BYTES]);
        place.copy_from_slice(&entry[DIGEST_BYTES..]);
        (digest, Place::from_bytes(&place))
    })
}
