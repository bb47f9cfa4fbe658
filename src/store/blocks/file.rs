//! The redb file beneath the block store: its tables, its version, and opening it again after a failure.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::guard::Guard;
use super::pack::PlaceBytes;
use super::{BlocksError, SCHEMA_VERSION};
use crate::store::database;

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

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The file. After one failed access redb refuses all further ones (a full disk is enough), so [`BlockFile::reopen`]
/// closes it and opens it again.
pub(super) struct BlockFile {
    name: String,
    /// What keeps a garbage collection and everything else out of each other's way.
    pub(super) guard: Guard,
    opener: Opener,
    /// An error in place of the database when it couldn't be opened again.
    database: RwLock<Result<Database, Arc<redb::Error>>>,
}

impl fmt::Debug for BlockFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BlockFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl BlockFile {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, BlocksError> {
        let file_path = path.to_owned();
        let opener = move || database::open(&file_path, cache_bytes);
        Self::open_with(path.display().to_string(), Box::new(opener))
    }

    /// Opens whatever `opener` gives; `name` is for messages.
    pub(super) fn open_with(name: String, opener: Opener) -> Result<Self, BlocksError> {
        let open_error = |error: redb::Error| BlocksError::Open { path: name.clone(), source: Arc::new(error) };
        let database = opener().map_err(|error| open_error(error.into()))?;
        check_schema(&database, &name)?;
        Ok(Self { name, guard: Guard::default(), opener, database: RwLock::new(Ok(database)) })
    }

    /// A transaction that reads the state of this moment.
    pub(super) fn read<T>(
        &self,
        job: impl FnOnce(&ReadTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().map_err(|error| BlocksError::OutOfService(Arc::clone(error)))?;
        job(&database.begin_read()?)
    }

    /// A transaction that is durable when this returns `Ok`, and has no effect otherwise.
    pub(super) fn write<T>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().map_err(|error| BlocksError::OutOfService(Arc::clone(error)))?;
        write(database, job)
    }

    /// As [`BlockFile::write`], but the transaction is undone, which costs nothing, when the job says `false`.
    pub(super) fn write_if(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<bool, BlocksError>,
    ) -> Result<(), BlocksError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().map_err(|error| BlocksError::OutOfService(Arc::clone(error)))?;
        let transaction = begin(database)?;
        if job(&transaction)? { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
    }

    /// Whether the file failed and couldn't be opened again since.
    pub(super) fn is_out_of_service(&self) -> bool {
        self.database.read().unwrap_or_else(PoisonError::into_inner).is_err()
    }

    /// Closes the file and opens it again. Waits for readers, and they wait for this.
    pub(super) fn reopen(&self) {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The file is locked while it is open, so the old database has to go first.
        *slot = Err(Arc::new(redb::Error::DatabaseClosed));
        *slot = (self.opener)().map_err(|error| Arc::new(error.into()));
        match &*slot {
            Ok(_) => tracing::info!("{} is open again after a failure", self.name),
            Err(error) => tracing::error!("{} can't be opened again after a failure: {error}", self.name),
        }
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, BlocksError> {
    let mut transaction = database.begin_write()?;
    // Without quick repair, opening after a crash reads the whole file.
    transaction.set_quick_repair(true);
    transaction.set_durability(Durability::Immediate)?;
    Ok(transaction)
}

fn write<T>(
    database: &Database,
    job: impl FnOnce(&WriteTransaction) -> Result<T, BlocksError>,
) -> Result<T, BlocksError> {
    let transaction = begin(database)?;
    let result = job(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// Makes the tables of a new file, and refuses a file that a newer program wrote.
fn check_schema(database: &Database, name: &str) -> Result<(), BlocksError> {
    write(database, |transaction| {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(META_SCHEMA)?.map(|version| version.value());
        match found {
            Some(found) if found > SCHEMA_VERSION => Err(BlocksError::NewerSchema { path: name.to_owned(), found }),
            Some(_) => Ok(()),
            None => {
                meta.insert(META_SCHEMA, SCHEMA_VERSION)?;
                transaction.open_table(SEGMENTS)?;
                transaction.open_table(SEGMENT_SIZES)?;
                transaction.open_table(INDEX)?;
                Ok(())
            }
        }
    })
}
