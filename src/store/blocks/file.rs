//! The redb file beneath the block store: its tables, its version, and its transactions.

use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::disk::Disk;
use super::guard::Guard;
use super::pack::PlaceBytes;
use super::{BlocksError, SCHEMA_VERSION};
use crate::store::database::{self, Opener, Slot, begin_write};

/// Packed bytes of blocks, by segment number.
pub(super) const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");

/// Where each block is ([`super::pack::Place`]), by [`super::pack::key`].
pub(super) const INDEX: TableDefinition<'_, &[u8], &PlaceBytes> = TableDefinition::new("index");

/// The length of each segment in bytes, so that finding the mostly dead ones doesn't read them all.
pub(super) const SEGMENT_SIZES: TableDefinition<'_, u64, u32> = TableDefinition::new("segment_sizes");

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
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

/// Makes the tables of a file that becomes a copy of `source`'s blocks, which all get new places: so all values of the
/// file are copied but for the lowest number of a segment.
pub(super) fn prepare_copy(source: &ReadTransaction, transaction: &WriteTransaction) -> Result<(), BlocksError> {
    let mut meta = transaction.open_table(META)?;
    for entry in source.open_table(META)?.iter()? {
        let (key, value) = entry?;
        if key.value() != META_SEGMENTS_FLOOR {
            meta.insert(key.value(), value.value())?;
        }
    }
    transaction.open_table(SEGMENTS)?;
    transaction.open_table(SEGMENT_SIZES)?;
    transaction.open_table(INDEX)?;
    Ok(())
}

/// The file of the block store, with what keeps a garbage collection out of everyone's way.
#[derive(Debug)]
pub(super) struct BlockFile {
    slot: Slot,
    pub(super) guard: Guard,
}

impl BlockFile {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, BlocksError> {
        let file_path = path.to_owned();
        let opener = move || {
            database::prepare(&file_path)?;
            Database::builder().set_cache_size(cache_bytes).create_with_backend(Disk::open(&file_path)?)
        };
        Self::open_with(&path.display().to_string(), Box::new(opener))
    }

    /// Opens whatever `opener` gives; `name` is for messages.
    pub(super) fn open_with(name: &str, opener: Opener) -> Result<Self, BlocksError> {
        let open_error =
            |error: DatabaseError| BlocksError::Open { path: name.to_owned(), source: Arc::new(error.into()) };
        let slot = Slot::open(name.to_owned(), opener).map_err(open_error)?;
        let file = Self { slot, guard: Guard::default() };
        file.with(|database| check_schema(database, name))?;
        Ok(file)
    }

    /// A transaction that reads the state of this moment.
    pub(super) fn read<T>(
        &self,
        job: impl FnOnce(&ReadTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with(|database| job(&database.begin_read()?))
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

    /// A transaction that is durable when this returns `Ok`, and has no effect otherwise.
    pub(super) fn write<T>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        self.with(|database| {
            let transaction = begin_write(database)?;
            let result = job(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// As [`BlockFile::write`], but the transaction is undone, which costs nothing, when the job says `false`.
    pub(super) fn write_if(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<bool, BlocksError>,
    ) -> Result<(), BlocksError> {
        self.with(|database| write_if(database, job))
    }

    /// Whether the file failed and couldn't be opened again since.
    pub(super) fn is_out_of_service(&self) -> bool {
        self.slot.is_out_of_service()
    }

    /// Closes the file and opens it again. Waits for readers, and they wait for this.
    pub(super) fn reopen(&self) {
        self.slot.reopen();
    }

    fn with<T>(&self, job: impl FnOnce(&Database) -> Result<T, BlocksError>) -> Result<T, BlocksError> {
        self.slot.with(job).map_err(BlocksError::OutOfService)?
    }
}

fn write_if(
    database: &Database,
    job: impl FnOnce(&WriteTransaction) -> Result<bool, BlocksError>,
) -> Result<(), BlocksError> {
    let transaction = begin_write(database)?;
    if job(&transaction)? { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
}

/// Makes the tables of a new file, and refuses a file that a newer program wrote.
fn check_schema(database: &Database, name: &str) -> Result<(), BlocksError> {
    write_if(database, |transaction| {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(META_SCHEMA)?.map(|version| version.value());
        match found {
            Some(found) if found > SCHEMA_VERSION => Err(BlocksError::NewerSchema { path: name.to_owned(), found }),
            // Nothing to commit, so opening costs no write.
            Some(_) => Ok(false),
            None => {
                meta.insert(META_SCHEMA, SCHEMA_VERSION)?;
                transaction.open_table(SEGMENTS)?;
                transaction.open_table(SEGMENT_SIZES)?;
                transaction.open_table(INDEX)?;
                Ok(true)
            }
        }
    })
}
