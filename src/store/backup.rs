//! Backups: one file with everything that a pinnace has, taken while it goes on.
//!
//! The file is a redb database: a header, the identity, the records' tables under other names, and the blocks as
//! `blocks.redb` has them. It is whole when it has its name. Reading it back is `restore`'s matter.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use redb::{Database, ReadTransaction, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::blocks::{BlockReader, BlocksError, Check, CopyReport, copy_blocks, measure};
use super::database;
use super::datadir::DataDir;
use super::records::{Records, RecordsError, copy_out};
use super::room::{self, NoRoom, RoomError};
use super::{Options, Stores, StoresError};

/// The version of the form of backups that this program writes.
pub(super) const FORMAT_VERSION: u64 = 1;

/// What the backup itself is, by name.
pub(super) const BACKUP: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("backup");
/// [`Header`] as JSON.
pub(super) const HEADER_KEY: &str = "header";
/// The private key of the node's identity, as its file has it; absent if there was none.
pub(super) const IDENTITY_KEY: &str = "identity";

/// The memory for pages of a backup.
pub(super) const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The longest identity that is looked at, in bytes: that of any key is shorter.
pub(super) const IDENTITY_BYTES_MAX: u64 = 16 * 1024;

/// What a backup says of itself. Fields are only ever added within a format version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// See [`FORMAT_VERSION`].
    pub(super) format: u64,
    /// When it was made, as in RFC 3339.
    pub(super) made: String,
    /// The version of the program that made it.
    pub(super) made_by: String,
    /// Blocks in it.
    pub(super) blocks: u64,
    /// Bytes of those blocks.
    pub(super) bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackupError {
    /// There is a file.
    #[error("{} is there already: name another file, or replace it with --force", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The path can't be that of a backup.
    #[error("{} can't be a backup: {reason}", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A file or directory can't be used.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The backup can't be written.
    #[error("{} can't be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Arc<redb::Error>,
    },
    /// The disk is too small.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A backup runs already.
    #[error("a backup is being written already, to {}: wait for its end", path.display())]
    Running {
        /// To this file.
        path: PathBuf,
    },
    /// The blocks, or their copy, failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The records, or their copy, failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The stores can't be opened.
    #[error(transparent)]
    Stores(Arc<StoresError>),
    /// redb met pages that it can't read.
    #[error("a store is damaged where a backup has to read it; the log says more")]
    Damaged,
    /// The program stops.
    #[error("the backup was cut off, because the program stops")]
    Stopped,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |source| BackupError::Io { action, path: path.to_owned(), source: Arc::new(source) }
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// What was copied.
    pub done: CopyReport,
    /// What there is to be copied.
    pub all: CopyReport,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupReport {
    /// The blocks.
    pub copied: CopyReport,
    /// The length of the file.
    pub file_bytes: u64,
}

/// The last backup.
#[derive(Debug, Clone)]
pub enum BackupState {
    /// It runs.
    Running(BackupProgress),
    /// It is over.
    Ended(Result<BackupReport, BackupError>),
}

/// What is backed up.
#[derive(Debug)]
struct Source {
    blocks: BlockReader,
    records: Arc<Records>,
    data_directory: PathBuf,
    identity_path: PathBuf,
    records_path: PathBuf,
}

impl Source {
    fn new(blocks: BlockReader, records: Arc<Records>, data: &DataDir) -> Self {
        Self {
            blocks,
            records,
            data_directory: data.path().to_owned(),
            identity_path: data.identity_path(),
            records_path: data.records_path(),
        }
    }
}

/// Writes a backup of a data directory that no service uses to `file`; `force` replaces a file that is there.
pub fn backup_stopped(
    directory: &Path,
    options: &Options,
    file: &Path,
    force: bool,
    observe: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    let stores = Stores::open_stopped(directory, options).map_err(|error| BackupError::Stores(Arc::new(error)))?;
    let source = Source::new(stores.blocks.reader(), Arc::clone(&stores.records), &stores.data);
    let report = catching(|| {
        check_target(&source, file, force)?;
        write(&source, file, force, &mut |progress| {
            observe(progress);
            ControlFlow::Continue(())
        })
    });
    drop(source);
    stores.close();
    report
}

/// redb panics where it finds its pages damaged; nothing but the copy depends on what was being read.
fn catching<T>(job: impl FnOnce() -> Result<T, BackupError>) -> Result<T, BackupError> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or(Err(BackupError::Damaged))
}

/// Backs up a running service, one backup at a time.
#[derive(Debug)]
pub struct Backups {
    source: Source,
    /// The last backup, which may still run, and its file.
    last: Mutex<Option<(PathBuf, watch::Receiver<BackupState>)>>,
    stopping: AtomicBool,
}

impl Backups {
    /// Nothing is written until it is asked for.
    pub fn new(blocks: BlockReader, records: Arc<Records>, data: &DataDir) -> Arc<Self> {
        let source = Source::new(blocks, records, data);
        Arc::new(Self { source, last: Mutex::default(), stopping: AtomicBool::new(false) })
    }

    /// The backup that runs or ran last, and its file; `None` when there was none since the start.
    pub fn state(&self) -> Option<(PathBuf, BackupState)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(path, state)| (path.clone(), state.borrow().clone()))
    }

    /// Begins a backup to `file`, which must be absolute; `force` replaces a file that is there. Must be called within
    /// the runtime.
    pub fn begin(self: &Arc<Self>, file: PathBuf, force: bool) -> Result<(), BackupError> {
        check_target(&self.source, &file, force)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, state)) = last.as_ref()
            && matches!(*state.borrow(), BackupState::Running(_))
        {
            return Err(BackupError::Running { path: path.clone() });
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(BackupError::Stopped);
        }
        let (sender, receiver) = watch::channel(BackupState::Running(BackupProgress::default()));
        *last = Some((file.clone(), receiver));
        let backups = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let result = catching(|| {
                write(&backups.source, &file, force, &mut |progress| {
                    sender.send_replace(BackupState::Running(progress));
                    let is_stopping = backups.stopping.load(Ordering::Acquire);
                    if is_stopping { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            });
            let path = file.display();
            match &result {
                Ok(report) => tracing::info!(%path, blocks = report.copied.blocks, "a backup was written"),
                Err(error) => tracing::warn!(%path, %error, "a backup ended early"),
            }
            sender.send_replace(BackupState::Ended(result));
        });
        Ok(())
    }

    /// Lets a running backup end at its next step, waits for that, and begins no other.
    pub async fn stop(&self) {
        let last = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            self.stopping.store(true, Ordering::Release);
            last.as_ref().map(|(_, state)| state.clone())
        };
        if let Some(mut state) = last {
            // A thread that is gone has ended as well.
            let _ = state.wait_for(|state| matches!(state, BackupState::Ended(_))).await;
        }
    }
}

/// Says what is wrong with a path before anything is done.
fn check_target(source: &Source, file: &Path, force: bool) -> Result<(), BackupError> {
    let bad = |reason| Err(BackupError::BadPath { path: file.to_owned(), reason });
    if !file.is_absolute() {
        return bad("its path must be absolute");
    }
    let (Some(_), Some(parent)) = (file.file_name(), file.parent()) else { return bad("it has no name") };
    let parent = parent.canonicalize().map_err(failed("use the directory", parent))?;
    let data_directory = &source.data_directory;
    let own = data_directory.canonicalize().map_err(failed("use the directory", data_directory))?;
    if parent == own {
        return bad("it would lie among the files of the data directory; choose another place");
    }
    match fs::symlink_metadata(file) {
        Ok(metadata) if metadata.is_dir() => bad("it is a directory"),
        Ok(_) if !force => Err(BackupError::Exists { path: file.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", file)(error)),
    }
}

fn write(
    source: &Source,
    file: &Path,
    force: bool,
    observe: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<BackupReport, BackupError> {
    let snapshots = snapshots(source)?;
    let new = database::temporary_path(file);
    let written = write_new(source, snapshots, &new, observe).and_then(|report| {
        // Someone may have made it meanwhile.
        if !force && file.try_exists().map_err(failed("look at", file))? {
            return Err(BackupError::Exists { path: file.to_owned() });
        }
        database::rename(&new, file).map_err(failed("write", file))?;
        Ok(report)
    });
    if written.is_err() {
        // The error says more than one of a file that can't be removed.
        let _ = fs::remove_file(&new);
    }
    written
}

/// One state of both stores, in which every pin that is `Pinned` is whole: its blocks were durable before its record said
/// so, the records' snapshot is the older one, and no sweep commits between the two.
fn snapshots(source: &Source) -> Result<(ReadTransaction, ReadTransaction), BackupError> {
    source.blocks.snapshot_with(|| Ok(source.records.snapshot()?))
}

fn write_new(
    source: &Source,
    (records, blocks): (ReadTransaction, ReadTransaction),
    new: &Path,
    observe: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<BackupReport, BackupError> {
    let all = measure(&blocks)?;
    if observe(BackupProgress { done: CopyReport::default(), all }).is_break() {
        return Err(BackupError::Stopped);
    }
    let records_bytes = fs::metadata(&source.records_path).map_err(failed("look at", &source.records_path))?.len();
    room::check(new, all.file_bytes() + records_bytes).map_err(|error| match error {
        RoomError::NoRoom(error) => BackupError::NoRoom(error),
        RoomError::Io(error) => failed("look at the disk of", new)(error),
    })?;
    let unwritable = |source: redb::Error| BackupError::Write { path: new.to_owned(), source: Arc::new(source) };
    let target = database::create(new, CACHE_BYTES).map_err(|error| unwritable(error.into()))?;
    copy_out(&records, &target)?;
    drop(records);
    let copied = copy_blocks(&blocks, &target, new, Check::Present, &mut |done| observe(BackupProgress { done, all }));
    let copied = copied.map_err(|error| match error {
        BlocksError::CutOff => BackupError::Stopped,
        error => BackupError::Blocks(error),
    })?;
    drop(blocks);
    let header = Header {
        format: FORMAT_VERSION,
        made: format!("{:.3}", Timestamp::now()),
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        blocks: copied.blocks,
        bytes: copied.bytes,
    };
    let identity = match fs::read(&source.identity_path) {
        Ok(identity) => Some(identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read", &source.identity_path)(error)),
    };
    write_header(&target, &header, identity.as_deref()).map_err(unwritable)?;
    database::finish(target, new).map_err(unwritable)?;
    let file_bytes = fs::metadata(new).map_err(failed("look at", new))?.len();
    Ok(BackupReport { copied, file_bytes })
}

fn write_header(target: &Database, header: &Header, identity: Option<&[u8]>) -> Result<(), redb::Error> {
    let header = serde_json::to_vec(header).map_err(|error| redb::Error::Io(error.into()))?;
    let transaction = target.begin_write()?;
    {
        let mut table = transaction.open_table(BACKUP)?;
        table.insert(HEADER_KEY, header.as_slice())?;
        if let Some(identity) = identity {
            table.insert(IDENTITY_KEY, identity)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
