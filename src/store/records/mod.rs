//! `records.redb`: accounts, tokens and pins – everything that is small and must never wait for bulk writes.
//!
//! Blocks are elsewhere. Rules about who may do what are not here either: `auth` and `pins` hold them; this
//! module only makes sure that each change is whole, in one commit, and answered after it.

mod account;
mod chunk;
mod copy;
mod finish;
mod front;
mod index;
mod list;
mod names;
mod notices;
mod pins;
mod tables;
mod tokens;
mod upgrade;
mod usage;
mod users;
mod writer;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase};
use serde::{Serialize, de::DeserializeOwned};

use super::database::{self, Opener, Slot};
use super::disk::Reading;
pub(super) use copy::{CopyInError, copy_in, copy_out};
pub use finish::{Finished, over_quota};
pub use notices::{Attempt, HookRecord, NextNotice, NoticeNews, NoticeRecord, PinEvent};
pub use pins::{AddRefusal, NewPin, PinCounts, PinSet, RetryRefusal};
use tables::{META, SCHEMA_KEY, decode, encode};
pub use tokens::{Rotation, Scopes, TokenId, TokenKind, TokenRecord};
pub use usage::Usage;
pub use users::{NewUser, Quota, Role, Standing, UserRecord};
pub use writer::Change;
use writer::Writer;

/// The version of the tables' layout that this code reads and writes.
pub const SCHEMA_VERSION: u64 = 7;

/// Why records can't be read or written. Cloned for every caller that shared a failed commit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// The file can't be opened.
    #[error("{path} can't be opened: {source}")]
    Open {
        /// The file.
        path: String,
        /// What the store says.
        source: Arc<redb::Error>,
    },
    /// The file is a database of something else.
    #[error("{path} is a database, but not one of pinnace's records; choose another data directory")]
    Foreign {
        /// The file.
        path: String,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has schema version {found}, this version knows {SCHEMA_VERSION}: it was written by a newer pinnace; run that one"
    )]
    Newer {
        /// The file.
        path: String,
        /// The version in the file.
        found: u64,
    },
    /// A transaction failed.
    #[error("records: {0}")]
    Storage(#[source] Arc<redb::Error>),
    /// The file failed and can't be opened again.
    #[error("the records are out of service: their file failed and can't be opened again: {0}")]
    OutOfService(Arc<redb::Error>),
    /// A record can't be turned into bytes or back.
    #[error("records: an entry of \"{table}\" is unreadable: {reason}")]
    Codec {
        /// The table.
        table: &'static str,
        /// What the codec says.
        reason: String,
    },
    /// The writer's thread can't be started.
    #[error("records: the writer can't be started: {0}")]
    Thread(#[source] Arc<std::io::Error>),
    /// The records were closed.
    #[error("records: already closed")]
    Closed,
}

/// Every error of redb that a transaction can meet.
macro_rules! from_redb {
    ($($error:ty),*) => { $(
        impl From<$error> for RecordsError {
            fn from(error: $error) -> Self {
                Self::Storage(Arc::new(error.into()))
            }
        }
    )* };
}
from_redb!(redb::Error, redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// The records. Reads are synchronous and quick; writes wait for their commit.
#[derive(Debug)]
pub struct Records {
    file: Arc<Slot>,
    writer: Writer,
    news: Arc<NoticeNews>,
}

impl Records {
    /// Opens or makes the file at `path` with `cache_bytes` of memory for its pages.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, RecordsError> {
        let shown = path.display().to_string();
        let file_path = path.to_owned();
        Self::open_with(&shown, Box::new(move || database::open(&file_path, cache_bytes)))
    }

    /// Opens whatever `opener` gives; `name` is for messages.
    pub(super) fn open_with(name: &str, opener: Opener) -> Result<Self, RecordsError> {
        let file = Slot::open(name.to_owned(), opener)
            .map_err(|error| RecordsError::Open { path: name.to_owned(), source: Arc::new(error.into()) })?;
        file.with(|database| tables::prepare(database, name)).map_err(RecordsError::OutOfService)??;
        let file = Arc::new(file);
        let news = Arc::new(NoticeNews::default());
        let writer = Writer::start(Arc::clone(&file), Arc::clone(&news))?;
        Ok(Self { file, writer, news })
    }

    /// Runs `operation` in a write transaction that it may share with others, and answers after the commit.
    ///
    /// The operation must check everything before its first write: what it refuses it says in `T`. An error aborts
    /// the transaction, with all operations in it, so it is for storage that fails, not for refusals.
    pub async fn write<T, F>(&self, operation: F) -> Result<T, RecordsError>
    where
        T: Send + 'static,
        F: FnOnce(&Change<'_>) -> Result<T, RecordsError> + Send + 'static,
    {
        self.writer.write(operation).await
    }

    /// Commits what is queued and joins the writer; further writes are refused with [`RecordsError::Closed`]. Blocks
    /// until that is done.
    pub fn close(&self) {
        self.writer.close();
    }

    /// A value that belongs to the whole installation, such as a key.
    pub fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, RecordsError> {
        let snapshot = self.read()?;
        let table = snapshot.open_table(META)?;
        table.get(key)?.map(|value| decode("meta", value.value())).transpose()
    }

    /// A snapshot to read from. What is opened of it isn't to outlive it: see [`Reading`].
    fn read(&self) -> Result<Snapshot, RecordsError> {
        let reading = Reading::begin();
        let transaction = self.file.with(ReadableDatabase::begin_read).map_err(RecordsError::OutOfService)??;
        Ok(Snapshot { transaction, _reading: reading })
    }
}

/// One state of the records, for the thread that began to read it.
struct Snapshot {
    transaction: ReadTransaction,
    _reading: Reading,
}

impl Deref for Snapshot {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.transaction
    }
}

impl Change<'_> {
    /// A value that belongs to the whole installation, as this transaction sees it.
    pub fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, RecordsError> {
        let table = self.transaction().open_table(META)?;
        let value = redb::ReadableTable::get(&table, key)?;
        value.map(|value| decode("meta", value.value())).transpose()
    }

    /// Sets a value that belongs to the whole installation. The schema's version is not for callers.
    pub fn set_meta<T: Serialize>(&self, key: &str, value: &T) -> Result<(), RecordsError> {
        debug_assert_ne!(key, SCHEMA_KEY);
        self.transaction().open_table(META)?.insert(key, encode("meta", value)?.as_slice())?;
        Ok(())
    }
}

#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod tests;
