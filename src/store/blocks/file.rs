//! The redb file beneath the block store: its tables, its version, and its transactions.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    Table, TableDefinition, TableError, WriteTransaction,
};

use super::guard::{Guard, Marks};
use super::pack::{self, Place, PlaceBytes};
use super::recent::{BUCKETS, RECENT, Recent};
use super::space::{Space, SpaceLimits, SpaceState};
use super::{BlockStats, BlocksError, schema, scrub};
use crate::model::Block;
use crate::store::database::{self, Opener, Slot, begin_write};
use crate::store::disk::{self, Flight, Reading};

/// Packed bytes of blocks, by segment number.
pub(super) const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");

/// Where each block is ([`super::pack::Place`]), by [`super::pack::key`].
pub(super) const INDEX: TableDefinition<'_, &[u8], &PlaceBytes> = TableDefinition::new("index");

/// The length of each segment in bytes, so that finding the mostly dead ones doesn't read them all.
pub(super) const SEGMENT_SIZES: TableDefinition<'_, u64, u32> = TableDefinition::new("segment_sizes");

/// Blocks that were found damaged and taken out of the index, by [`super::pack::key`]: where each lay, and when it was
/// found, in milliseconds since the Unix epoch.
pub(super) const QUARANTINE: TableDefinition<'_, &[u8], (&PlaceBytes, u64)> = TableDefinition::new("quarantine");

/// Entries after which a transaction that merges them into the index takes no further bucket.
const SETTLE_ENTRIES: usize = 32 * 1024;

/// Numbers of the whole file, by name.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The version of the file.
pub(super) const META_SCHEMA: &str = "schema";
/// Bytes in all segments.
pub(super) const META_SEGMENT_BYTES: &str = "segment_bytes";
/// No new segment gets a number below this.
const META_SEGMENTS_FLOOR: &str = "segments_floor";

/// The lowest number that a new segment may get, when there is no segment.
pub(super) fn floor(transaction: &WriteTransaction) -> Result<u64, BlocksError> {
    Ok(transaction.open_table(META)?.get(META_SEGMENTS_FLOOR)?.map_or(0, |floor| floor.value()))
}

/// Keeps numbers below `floor` from being used again.
pub(super) fn raise_floor(transaction: &WriteTransaction, floor: u64) -> Result<(), BlocksError> {
    let mut meta = transaction.open_table(META)?;
    let before = meta.get(META_SEGMENTS_FLOOR)?.map_or(0, |floor| floor.value());
    if before < floor {
        meta.insert(META_SEGMENTS_FLOOR, floor)?;
    }
    Ok(())
}

/// Bytes in all segments.
pub(super) fn segment_bytes(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, BlocksError> {
    Ok(meta.get(META_SEGMENT_BYTES)?.map_or(0, |bytes| bytes.value()))
}

/// Counts bytes of segments that came or went.
pub(super) fn change_segment_bytes(
    transaction: &WriteTransaction,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), BlocksError> {
    let mut meta = transaction.open_table(META)?;
    let before = segment_bytes(&meta)?;
    meta.insert(META_SEGMENT_BYTES, change(before))?;
    Ok(())
}

/// Notes in the table [`QUARANTINE`] a block that is damaged where it lies.
pub(super) fn put_in_quarantine(
    quarantine: &mut Table<'_, &'static [u8], (&'static PlaceBytes, u64)>,
    key: &[u8],
    place: Place,
) -> Result<(), BlocksError> {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    quarantine.insert(key, (&place.to_bytes(), now))?;
    Ok(())
}

/// [`QUARANTINE`], as a reader has it.
pub(super) type Quarantine = ReadOnlyTable<&'static [u8], (&'static PlaceBytes, u64)>;

/// Makes the tables of a file that becomes a copy of `source`'s blocks, which all get new places.
///
/// Their segments get numbers that `source` never had: a block in quarantine is known by the place that it had, and what a
/// scrub had seen can't be told from what it hadn't.
pub(super) fn prepare_copy(source: &ReadTransaction, transaction: &WriteTransaction) -> Result<(), BlocksError> {
    schema::make_tables(transaction)?;
    {
        let mut meta = transaction.open_table(META)?;
        for entry in source.open_table(META)?.iter()? {
            let (key, value) = entry?;
            if key.value() != META_SEGMENT_BYTES && !scrub::is_of_unfinished_pass(key.value()) {
                meta.insert(key.value(), value.value())?;
            }
        }
        let mut quarantine = transaction.open_table(QUARANTINE)?;
        match source.open_table(QUARANTINE) {
            // A backup by an older program.
            Err(TableError::TableDoesNotExist(_)) => {}
            damaged => {
                for entry in damaged?.iter()? {
                    let (key, found) = entry?;
                    quarantine.insert(key.value(), found.value())?;
                }
            }
        }
    }
    let last = source.open_table(SEGMENT_SIZES)?.last()?.map(|(number, _)| number.value());
    raise_floor(transaction, last.map_or(0, |last| last + 1))
}

/// The file of the block store, the front of its index, and what keeps a garbage collection out of everyone's way.
#[derive(Debug)]
pub(super) struct BlockFile {
    slot: Slot,
    pub(super) guard: Guard,
    pub(super) space: Space,
    recent: Recent,
    /// Blocks that were moved since the start lie in segments below this one: a scrub goes on that far, so that it misses
    /// none that were moved out of its way.
    pub(super) moved_end: AtomicU64,
}

impl BlockFile {
    pub(super) fn open(path: &Path, cache_bytes: usize, limits: SpaceLimits) -> Result<Self, BlocksError> {
        let file_path = path.to_owned();
        Self::open_with(path, limits, Box::new(move || database::open(&file_path, cache_bytes)))
    }

    /// Opens whatever `opener` gives; `path` is for messages, and for a look at the disk.
    pub(super) fn open_with(path: &Path, limits: SpaceLimits, opener: Opener) -> Result<Self, BlocksError> {
        let name = &path.display().to_string();
        let open_error =
            |error: DatabaseError| BlocksError::Open { path: name.to_owned(), source: Arc::new(error.into()) };
        let slot = Slot::open(name.to_owned(), opener).map_err(open_error)?;
        let file = Self {
            slot,
            guard: Guard::default(),
            space: Space::new(path, limits),
            recent: Recent::default(),
            moved_end: AtomicU64::new(0),
        };
        file.with(|database| schema::prepare(database, name))?;
        file.with(|database| file.load_recent(database))?;
        Ok(file)
    }

    /// A transaction that reads the state of this moment.
    pub(super) fn read<T>(
        &self,
        job: impl FnOnce(&ReadTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with_newest(|newest| job(&newest.begin_read()?))
    }

    /// A transaction that reads the state of this moment, and where the blocks of `keys` are in it.
    pub(super) fn read_places<K: AsRef<[u8]>, T>(
        &self,
        keys: &[Option<K>],
        job: impl FnOnce(&ReadTransaction, Vec<Option<Place>>) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with_newest(|newest| newest.read_places(keys, job))
    }

    /// For who looks up one thing after the other, and doesn't know the next before.
    pub(super) fn with_newest<T>(
        &self,
        job: impl FnOnce(&Newest<'_>) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with(|database| {
            let _reading = Reading::begin();
            job(&Newest { database, recent: &self.recent })
        })
    }

    /// As [`BlockFile::write`], holding the marks of a collection from before the job until after the commit. Not longer:
    /// who waits for the file to be opened again must not hold what its users wait for.
    pub(super) fn write_with_marks<T>(
        &self,
        job: impl FnOnce(&WriteTransaction, &Marks) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with(|database| {
            let transaction = begin_write(database)?;
            let marks = self.guard.marks();
            let result = job(&transaction, &marks)?;
            disk::commit(transaction)?;
            Ok(result)
        })
    }

    /// As [`BlockFile::write`], but the transaction is undone, which costs nothing, when the job says `false`.
    pub(super) fn write_if(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<bool, BlocksError>,
    ) -> Result<(), BlocksError> {
        self.with(|database| {
            let transaction = begin_write(database)?;
            if job(&transaction)? { Ok(disk::commit(transaction)?) } else { Ok(transaction.abort()?) }
        })
    }

    /// A snapshot that goes with another one, which `first` takes: between the two, no collection takes a block away.
    pub(super) fn snapshot_with<T, E: From<BlocksError>>(
        &self,
        first: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, ReadTransaction), E> {
        self.slot
            .with(|database| {
                // A sweep holds the marks from its look at them to its commit. Who waits for them has the file already,
                // as sweeps do: in the other order, each could wait for the other while the file is opened again.
                let marks = self.guard.marks();
                let taken = first()?;
                let snapshot = database.begin_read().map_err(BlocksError::from)?;
                drop(marks);
                Ok((taken, snapshot))
            })
            .map_err(BlocksError::OutOfService)?
    }

    /// A transaction that is durable when this returns `Ok`, and has no effect otherwise. Not for new blocks.
    pub(super) fn write<T>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with(|database| {
            let transaction = begin_write(database)?;
            let result = job(&transaction)?;
            disk::commit(transaction)?;
            Ok(result)
        })
    }

    /// What the store holds; this reads a few bytes, whatever its size.
    pub(super) fn stats(&self) -> Result<BlockStats, BlocksError> {
        let recent = self.recent.len() as u64;
        self.read(|transaction| {
            Ok(BlockStats {
                blocks: transaction.open_table(INDEX)?.len()? + recent,
                segment_bytes: segment_bytes(&transaction.open_table(META)?)?,
            })
        })
    }

    /// Looks whether there is room for `new_bytes`; a file that couldn't be opened again after a failure is tried once more.
    pub(super) fn look_for_space(&self, new_bytes: u64) -> Result<SpaceState, BlocksError> {
        if self.is_out_of_service() {
            self.reopen();
        }
        Ok(self.space.look(self.stats()?, new_bytes))
    }

    /// Stores blocks, those that are there already excepted. They are durable when this returns `Ok(None)`; with a flight, which
    /// there only is if they `may_fly`, when it has landed. What flew before has landed when this returns `Ok`.
    pub(super) fn append(&self, blocks: &[&Block], may_fly: bool) -> Result<Option<Flight>, BlocksError> {
        let bytes: usize = blocks.iter().map(|block| block.data().len()).sum();
        if let Some(shortage) = self.look_for_space(bytes as u64)?.shortage {
            return Err(shortage.into());
        }
        self.with(|database| {
            let mut writing = self.recent.lock_ahead();
            let transaction = begin_write(database)?;
            let appended = pack::append(&transaction, &writing, blocks)?;
            // Before the commit, so that no sweep can come in between.
            self.guard.mark(appended.places.into_iter());
            if appended.new == 0 {
                // What is there already is durable already, once what flies has landed.
                transaction.abort()?;
                return writing.land().map(|()| None);
            }
            let may_fly = may_fly && !appended.shows_at_once && writing.has_room(appended.entries.len());
            if !may_fly {
                writing.land()?;
            }
            writing.add(&transaction, appended.entries)?;
            if !may_fly {
                disk::commit(transaction)?;
                writing.committed();
                return Ok(None);
            }
            let flight = disk::commit_ahead(transaction)?;
            // It has: a commit waits for the one before it.
            writing.land()?;
            match &flight {
                Some(flight) => writing.departed(flight.clone()),
                None => writing.committed(),
            }
            Ok(flight)
        })
    }

    /// Waits for what flies. Readers find it then.
    pub(super) fn land(&self) -> Result<(), BlocksError> {
        self.with(|_| self.recent.lock().map(drop))
    }

    /// How many entries are in front of the index.
    #[cfg(test)]
    pub(super) fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Whether an idle store should merge a bucket of its newest entries into the index.
    pub(super) fn has_to_settle(&self) -> bool {
        self.recent.has_to_settle()
    }

    /// Merges the fullest bucket of the newest entries into the index.
    pub(super) fn settle_fullest(&self) -> Result<(), BlocksError> {
        self.recent.fullest().map_or(Ok(()), |bucket| self.settle_buckets(bucket..bucket + 1).map(drop))
    }

    /// Merges all entries that are there now into the index, which so has every block that was put before this call.
    pub(super) fn settle(&self) -> Result<(), BlocksError> {
        let mut first = 0;
        while first < BUCKETS {
            first = self.settle_buckets(first..BUCKETS)?;
        }
        Ok(())
    }

    /// Merges as many of these buckets as one transaction should; the answer is the first that is left.
    fn settle_buckets(&self, mut buckets: Range<usize>) -> Result<usize, BlocksError> {
        self.with(|database| {
            let mut writing = self.recent.lock()?;
            let transaction = begin_write(database)?;
            let mut merged = 0;
            while merged < SETTLE_ENTRIES
                && let Some(bucket) = buckets.next()
            {
                let length = self.recent.bucket_len(bucket);
                if length > 0 {
                    writing.merge(&transaction, bucket)?;
                    merged += length;
                }
            }
            if merged > 0 {
                disk::commit(transaction)?;
                writing.committed();
            } else {
                transaction.abort()?;
            }
            Ok(buckets.start)
        })
    }

    /// Whether the file failed and couldn't be opened again since.
    pub(super) fn is_out_of_service(&self) -> bool {
        self.slot.is_out_of_service()
    }

    /// Closes the file and opens it again. Waits for readers, and they wait for this.
    pub(super) fn reopen(&self) {
        self.slot.reopen(|database| {
            self.load_recent(database).map_err(|error| match error {
                BlocksError::Storage(error) => error,
                error => Arc::new(redb::Error::Corrupted(error.to_string())),
            })
        });
    }

    /// Reads the front of the index. The file decides: a commit that failed may be in it all the same.
    fn load_recent(&self, database: &Database) -> Result<(), BlocksError> {
        self.recent.lock_ahead().load(&database.begin_read()?.open_table(RECENT)?)
    }

    /// Does something with the open file. When an access fails, redb refuses all further ones until it is opened again.
    fn with<T>(&self, job: impl FnOnce(&Database) -> Result<T, BlocksError>) -> Result<T, BlocksError> {
        let result = self.slot.with(job).map_err(BlocksError::OutOfService)?;
        if let Err(BlocksError::Storage(error)) = &result
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.reopen();
        }
        result
    }
}

/// The open file, with the newest state of its index.
pub(super) struct Newest<'file> {
    database: &'file Database,
    recent: &'file Recent,
}

impl Newest<'_> {
    /// A transaction that reads the state of this moment.
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, BlocksError> {
        Ok(self.database.begin_read()?)
    }

    /// See [`BlockFile::read_places`].
    pub(super) fn read_places<K: AsRef<[u8]>, T>(
        &self,
        keys: &[Option<K>],
        job: impl FnOnce(&ReadTransaction, Vec<Option<Place>>) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        let (transaction, mut places) = loop {
            let epoch = self.recent.epoch();
            let find = |key: &Option<K>| self.recent.find(key.as_ref()?.as_ref().try_into().ok()?);
            let places: Vec<Option<Place>> = keys.iter().map(find).collect();
            let transaction = self.database.begin_read()?;
            // What left the front of the index in between may have been moved since, or removed. That is over in a moment.
            if self.recent.epoch() == epoch {
                break (transaction, places);
            }
        };
        let index = transaction.open_table(INDEX)?;
        for (key, place) in keys.iter().zip(&mut places) {
            if let (Some(key), None) = (key, &place) {
                *place = index.get(key.as_ref())?.map(|place| Place::from_bytes(place.value()));
            }
        }
        job(&transaction, places)
    }
}
