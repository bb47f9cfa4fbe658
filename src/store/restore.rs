//! Makes a data directory from a backup.
//!
//! Every block is hashed again. What doesn't match is left out, and the pins that miss it are queued again, so that it is
//! fetched. A directory into which a restore didn't come to its end can't be used but for another restore.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};

use super::backup::{BACKUP, CACHE_BYTES, FORMAT_VERSION, HEADER_KEY, Header, IDENTITY_BYTES_MAX, IDENTITY_KEY};
use super::blocks::{BlockStore, BlocksError, Check, CopyReport, DamageFinder, Links, copy_blocks};
use super::datadir::{DataDir, DataDirError};
use super::records::{CopyInError, PinSet, Records, RecordsError, copy_in};
use super::room::{self, NoRoom, RoomError};
use super::{Options, database, disk};
use crate::model::PinId;

/// Pins that are queued again in one transaction.
const REQUEUE_PINS: usize = 1000;

/// Why a backup can't be restored. Nothing that was there is changed, but for a directory that was being restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file can't be opened as a backup.
    #[error("{} can't be opened as a backup: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The file is something else.
    #[error("{} is no backup of pinnace: it has no header", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer program made the backup.
    #[error("{} was made by pinnace {made_by}, and this one can't read all of it ({what}): use that version", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of the program.
        made_by: String,
        /// What is too new.
        what: String,
    },
    /// The backup is damaged in a way that hashes of blocks can't mend.
    #[error("{} is damaged and can't be restored: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The directory has accounts or pins.
    #[error(
        "{} has accounts or pins already, which a restore would replace: give another directory with --data, or move this one away",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file can't be used.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk is too small.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// The directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The restored records can't be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The restored blocks can't be used.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The new file of the records, or of the blocks, can't be written.
    #[error("{} can't be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// When the backup was made, as in RFC 3339.
    pub made: String,
    /// The blocks.
    pub copied: CopyReport,
    /// Pins of all accounts.
    pub pins: u64,
    /// Pins that were whole and lack blocks now, so they are queued again.
    pub requeued_pins: u64,
}

/// Restores the backup `file` into `directory`. `observe` is told what was copied, and of how many blocks and bytes.
pub fn restore(
    file: &Path,
    directory: &Path,
    options: &Options,
    links: Links,
    observe: &mut dyn FnMut(CopyReport, CopyReport),
) -> Result<RestoreReport, RestoreError> {
    // redb panics where it finds its pages damaged, and hashes are checked only of blocks.
    catch_unwind(AssertUnwindSafe(|| restore_all(file, directory, options, links, observe))).unwrap_or_else(|_| {
        Err(RestoreError::Damaged { path: file.to_owned(), reason: "its pages can't be read".to_owned() })
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Io { action, path: path.to_owned(), source }
}

fn restore_all(
    file: &Path,
    directory: &Path,
    options: &Options,
    links: Links,
    observe: &mut dyn FnMut(CopyReport, CopyReport),
) -> Result<RestoreReport, RestoreError> {
    let backup = Backup::open(file)?;
    let data = DataDir::open_for_restore(directory)?;
    refuse_what_is_in_use(&data, options)?;
    data.begin_restore()?;
    let records_path = temporary_path(&data.records_path());
    let blocks_path = temporary_path(&data.blocks_path());

    let records = backup.restore_records(&records_path, options)?;
    let copied = backup.restore_blocks(&blocks_path, observe)?;
    let cache_bytes = usize::try_from(options.blocks_cache.as_u64()).unwrap_or(usize::MAX);
    let blocks = BlockStore::open(&blocks_path, cache_bytes, CACHE_BYTES)?;
    let requeued_pins = requeue_broken(&records, blocks.verifier(links).finder())?;
    let pins = records.count_pins()?.total();
    records.close();
    drop(records);
    blocks.close();

    if let Some(identity) = &backup.identity {
        data.write_secret(&data.identity_path(), identity)?;
    }
    for (temporary, path) in [(records_path, data.records_path()), (blocks_path, data.blocks_path())] {
        database::rename(&temporary, &path).map_err(failed("write", &path))?;
        disk::remove_journal(&temporary).map_err(failed("remove the journal of", &temporary))?;
    }
    data.end_restore()?;
    Ok(RestoreReport { made: backup.header.made, copied, pins, requeued_pins })
}

/// The name that a file has until all of them are whole.
fn temporary_path(path: &Path) -> PathBuf {
    path.with_extension("redb.restored")
}

/// Refuses a directory that someone may still want, unless it is what a restore left behind.
fn refuse_what_is_in_use(data: &DataDir, options: &Options) -> Result<(), RestoreError> {
    let path = data.records_path();
    if data.is_half_restored() || !path.try_exists().map_err(failed("look at", &path))? {
        return Ok(());
    }
    let records = Records::open(&path, cache_bytes(options))?;
    let is_used = records.count_pins()?.total() > 0 || records.has_users()?;
    records.close();
    if is_used { Err(RestoreError::NotEmpty { path: data.path().to_owned() }) } else { Ok(()) }
}

fn cache_bytes(options: &Options) -> usize {
    usize::try_from(options.records_cache.as_u64()).unwrap_or(usize::MAX)
}

/// An open backup whose form is known.
struct Backup {
    path: PathBuf,
    snapshot: ReadTransaction,
    header: Header,
    identity: Option<Vec<u8>>,
    /// Held for as long as the snapshot is read.
    _database: ReadOnlyDatabase,
}

impl Backup {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        let unreadable = |source: redb::Error| RestoreError::Open { path: path.to_owned(), source: Box::new(source) };
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .open_read_only(path)
            .map_err(|error| unreadable(error.into()))?;
        let snapshot = database.begin_read().map_err(|error| unreadable(error.into()))?;
        let foreign = || RestoreError::Foreign { path: path.to_owned() };
        let table = snapshot.open_table(BACKUP).map_err(|_| foreign())?;
        let get = |key: &str| -> Result<Option<Vec<u8>>, RestoreError> {
            let value = table.get(key).map_err(|error| unreadable(error.into()))?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        let header = get(HEADER_KEY)?.ok_or_else(foreign)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| foreign())?;
        if header.format > FORMAT_VERSION {
            let what = format!("its form has version {}, and {FORMAT_VERSION} is known", header.format);
            return Err(RestoreError::Newer { path: path.to_owned(), made_by: header.made_by, what });
        }
        let identity = get(IDENTITY_KEY)?;
        if identity.as_ref().is_some_and(|identity| identity.len() as u64 > IDENTITY_BYTES_MAX) {
            return Err(RestoreError::Damaged { path: path.to_owned(), reason: "its identity is too long".to_owned() });
        }
        drop(table);
        Ok(Self { path: path.to_owned(), snapshot, header, identity, _database: database })
    }

    fn restore_records(&self, path: &Path, options: &Options) -> Result<Records, RestoreError> {
        let unwritable = |source: redb::Error| RestoreError::Write { path: path.to_owned(), source: Box::new(source) };
        let target = database::create(path, cache_bytes(options)).map_err(|error| unwritable(error.into()))?;
        copy_in(&self.snapshot, &target).map_err(|error| match error {
            CopyInError::UnknownTable(table) => self.newer(format!("it has a table \"{table}\"")),
            CopyInError::Records(error) => error.into(),
        })?;
        database::finish(target, path).map_err(unwritable)?;
        match Records::open(path, cache_bytes(options)) {
            Err(RecordsError::Newer { found, .. }) => Err(self.newer(format!("its records have version {found}"))),
            records => Ok(records?),
        }
    }

    fn restore_blocks(
        &self,
        path: &Path,
        observe: &mut dyn FnMut(CopyReport, CopyReport),
    ) -> Result<CopyReport, RestoreError> {
        let all = CopyReport { blocks: self.header.blocks, bytes: self.header.bytes, damaged_blocks: 0 };
        room::check(path, all.file_bytes()).map_err(|error| match error {
            RoomError::NoRoom(error) => RestoreError::NoRoom(error),
            RoomError::Io(error) => failed("look at the disk of", path)(error),
        })?;
        let unwritable = |source: redb::Error| RestoreError::Write { path: path.to_owned(), source: Box::new(source) };
        let target = database::create(path, CACHE_BYTES).map_err(|error| unwritable(error.into()))?;
        let mut copied = copy_blocks(&self.snapshot, &target, path, Check::Hashes, &mut |done| {
            observe(done, all);
            ControlFlow::Continue(())
        })?;
        database::finish(target, path).map_err(unwritable)?;
        // A damaged index may have lost some without a trace.
        let missing = self.header.blocks.saturating_sub(copied.blocks + copied.damaged_blocks);
        copied.damaged_blocks += missing;
        match BlockStore::open(path, CACHE_BYTES, CACHE_BYTES) {
            Err(BlocksError::NewerSchema { found, .. }) => Err(self.newer(format!("its blocks have version {found}"))),
            Err(error) => Err(error.into()),
            Ok(store) => {
                store.close();
                Ok(copied)
            }
        }
    }

    fn newer(&self, what: String) -> RestoreError {
        RestoreError::Newer { path: self.path.clone(), made_by: self.header.made_by.clone(), what }
    }
}

/// Queues every pin again that says it is whole and isn't; returns how many.
fn requeue_broken(records: &Records, mut finder: DamageFinder) -> Result<u64, RestoreError> {
    let mut broken: Vec<PinId> = Vec::new();
    let mut failed = None;
    records.scan_all_pins(&[PinSet::Pinned], |record| match finder.is_damaged(&record.root, true, &|| true) {
        Ok(None | Some(false)) => ControlFlow::Continue(()),
        Ok(Some(true)) => {
            broken.push(record.id);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    for some in broken.chunks(REQUEUE_PINS) {
        let some = some.to_vec();
        futures::executor::block_on(records.write(move |change| {
            for id in some {
                change.requeue_pin(id)?;
            }
            Ok(())
        }))?;
    }
    Ok(broken.len() as u64)
}
