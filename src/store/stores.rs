//! Both stores of a data directory, opened together: by the service, and by commands that work while it is stopped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;

use super::Options;
use super::blocks::{BlockStore, BlocksError, Compacted, CopyReport, compact};
use super::datadir::{DataDir, DataDirError};
use super::records::{Records, RecordsError};

/// Why the stores can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A store's file is damaged in a way that redb doesn't foresee.
    #[error("{path} is damaged and can't be opened; restore it from a backup")]
    Damaged {
        /// The file.
        path: String,
    },
    /// `records.redb` failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// `blocks.redb` failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
}

/// The open stores, and the lock on their directory. Fields are dropped in this order, the lock last.
#[derive(Debug)]
pub struct Stores {
    /// `blocks.redb`.
    pub blocks: BlockStore,
    /// `records.redb`.
    pub records: Arc<Records>,
    /// The directory, locked.
    pub data: DataDir,
}

/// The open records of a service that doesn't run, and the lock on its directory.
#[derive(Debug)]
pub struct StoppedRecords {
    /// `records.redb`.
    pub records: Arc<Records>,
    _data: DataDir,
}

impl Stores {
    /// Opens the stores in a data directory that this process has for itself; what isn't there is made.
    pub fn open(data: DataDir, options: &Options) -> Result<Self, StoresError> {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let records = guarded(&data.records_path(), |path| Records::open(path, bytes(options.records_cache)))?;
        let blocks = guarded(&data.blocks_path(), |path| {
            let (cache, buffer) = (bytes(options.blocks_cache), bytes(options.write_buffer));
            BlockStore::open_limited(path, cache, buffer, options.space_limits())
        })?;
        Ok(Self { blocks, records: Arc::new(records), data })
    }

    /// Opens the stores of a data directory that is there already, for a command. Fails with [`DataDirError::InUse`] while
    /// a service runs with it.
    pub fn open_stopped(directory: &Path, options: &Options) -> Result<Self, StoresError> {
        Self::open(DataDir::open_existing(directory)?, options)
    }

    /// Opens only `records.redb` of a data directory that is there already, for a command that needs no blocks. Fails with
    /// [`DataDirError::InUse`] while a service runs with it.
    pub fn open_records_stopped(directory: &Path, options: &Options) -> Result<StoppedRecords, StoresError> {
        let data = DataDir::open_existing(directory)?;
        let cache_bytes = usize::try_from(options.records_cache.as_u64()).unwrap_or(usize::MAX);
        let records = guarded(&data.records_path(), |path| Records::open(path, cache_bytes))?;
        Ok(StoppedRecords { records: Arc::new(records), _data: data })
    }

    /// Writes `blocks.redb` anew without unused space, while no service runs. `observe` is told how far it is, and what
    /// it is to become.
    pub fn compact_stopped(
        directory: &Path,
        observe: &mut dyn FnMut(CopyReport, CopyReport),
    ) -> Result<Compacted, StoresError> {
        let data = DataDir::open_existing(directory)?;
        guarded(&data.blocks_path(), |path| compact(path, observe))
    }

    /// Commits what is queued and closes both files. Blocks until that is done.
    pub fn close(self) {
        self.blocks.close();
        self.records.close();
    }
}

/// Opens a store. redb panics where it finds its pages damaged; nothing of the store exists then, so that is just
/// another way to fail.
fn guarded<T, E: Into<StoresError>>(path: &Path, open: impl FnOnce(&Path) -> Result<T, E>) -> Result<T, StoresError> {
    match catch_unwind(AssertUnwindSafe(|| open(path))) {
        Ok(opened) => opened.map_err(Into::into),
        Err(_) => Err(StoresError::Damaged { path: path.display().to_string() }),
    }
}
