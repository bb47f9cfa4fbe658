//! A redb file that is made whole or not at all, is its owner's alone, and is opened again after a failure.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Durability, StorageError, WriteTransaction};

use super::disk::Disk;

/// How long opening waits for others to let go of the file: readers of one that failed, and children on their way to another program.
const REOPEN_MAX: Duration = Duration::from_secs(1);

/// How long it rests between two tries.
const REOPEN_PAUSE: Duration = Duration::from_millis(10);

/// Opens the file, or makes it, as [`prepare`] says.
pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    prepare(path)?;
    Builder::new().set_cache_size(cache_bytes).create_with_backend(Disk::open(path)?)
}

/// Makes the file if it isn't there. A file that is being made has another name until it is whole, so that a process killed
/// meanwhile leaves nothing that can't be opened. Whatever mode the directory has, only the owner may read the file.
pub(super) fn prepare(path: &Path) -> Result<(), DatabaseError> {
    if !path.try_exists().map_err(storage)? {
        make(path).map_err(|error| match error {
            MakeError::Io(error) => storage(error),
            MakeError::Database(error) => error,
        })?;
    }
    set_private(path).map_err(storage)
}

/// A write transaction whose commit is durable, and after which the file opens at once even when the process is killed:
/// without quick repair, opening would read the whole file.
pub(super) fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.set_durability(Durability::Immediate)?;
    Ok(transaction)
}

/// The name of a file that is to take the place of the one at `path`, until it is whole. A killed process leaves it behind
/// for the next one to replace.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// The name of a file beside another one.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

enum MakeError {
    Io(io::Error),
    Database(DatabaseError),
}

fn make(path: &Path) -> Result<(), MakeError> {
    let new = path.with_extension("new");
    let file = create_private(&new).map_err(MakeError::Io)?;
    let backend = FileBackend::new(file).map_err(MakeError::Database)?;
    drop(Builder::new().create_with_backend(backend).map_err(MakeError::Database)?);
    rename(&new, path).map_err(MakeError::Io)
}

/// Makes a new file that only its owner may read, in the place of one that an earlier try left behind.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    remove_if_there(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A new, empty database in a file as [`create_private`] makes it. It is whole when [`finish`] has returned.
pub(super) fn create(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    let backend = FileBackend::new(create_private(path).map_err(storage)?)?;
    Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)
}

/// Up to here a file grows by doubling, beyond it by redb's regions of 4 GiB; with some room for what redb adds.
const DOUBLING_BYTES_MAX: u64 = 9 * 1024 * 1024 * 1024;

/// Closes a database that [`create`] made, and makes its file durable.
///
/// When a file has been doubled, redb may use its last pages first. So these are moved to the front, and the file can
/// end behind what it holds. This reads the whole file, and holds a list of its pages in memory; but it is bounded, as
/// larger files are filled from the front. Nobody uses the file yet, so it holds up nobody and endangers nothing.
pub(super) fn finish(mut database: Database, path: &Path) -> Result<(), redb::Error> {
    if fs::metadata(path)?.len() < DOUBLING_BYTES_MAX {
        database.compact()?;
    }
    database.close()?;
    Ok(File::open(path).and_then(|file| file.sync_all())?)
}

/// Gives a whole file its name, in the place of what has it; durable when this returns.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(unix)]
fn set_private(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(not(unix))]
fn set_private(_: &Path) -> io::Result<()> {
    Ok(())
}

fn storage(error: io::Error) -> DatabaseError {
    DatabaseError::Storage(StorageError::Io(error))
}

pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// Opens a file that may be locked for a moment still: by readers of this process, or by a child of it that has just been forked, which holds
/// all that is open until it becomes another program.
fn open_patiently(opener: &Opener) -> Result<Database, DatabaseError> {
    let until = Instant::now() + REOPEN_MAX;
    loop {
        match opener() {
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < until => std::thread::sleep(REOPEN_PAUSE),
            outcome => return outcome,
        }
    }
}

/// An open file. After one failed access (a full disk is enough) redb refuses all further ones; [`Slot::reopen`] closes the
/// file and opens it again.
pub(super) struct Slot {
    name: String,
    opener: Opener,
    /// An error in place of the database when it couldn't be opened again.
    database: RwLock<Result<Database, Arc<redb::Error>>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Slot {
    /// Opens whatever `opener` gives; `name` is for messages.
    pub(super) fn open(name: String, opener: Opener) -> Result<Self, DatabaseError> {
        let database = open_patiently(&opener)?;
        Ok(Self { name, opener, database: RwLock::new(Ok(database)) })
    }

    /// Does something with the open file; the error says why there is none.
    pub(super) fn with<T>(&self, job: impl FnOnce(&Database) -> T) -> Result<T, Arc<redb::Error>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map(job).map_err(Arc::clone)
    }

    /// Whether the file failed and couldn't be opened again since.
    pub(super) fn is_out_of_service(&self) -> bool {
        self.database.read().unwrap_or_else(PoisonError::into_inner).is_err()
    }

    /// Closes the file and opens it again. Transactions that still read hold it open, so this waits for them, for a while.
    /// Nobody else gets the file before `prepare` is done; when that fails, the file stays closed.
    pub(super) fn reopen(&self, prepare: impl FnOnce(&Database) -> Result<(), Arc<redb::Error>>) {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The file is locked while it is open, so the old database has to go first.
        *slot = Err(Arc::new(redb::Error::DatabaseClosed));
        let opened = open_patiently(&self.opener).map_err(|error| Arc::new(error.into()));
        let opened = opened.and_then(|database| prepare(&database).map(|()| database));
        match &opened {
            Ok(_) => tracing::info!("{} is open again after a failure", self.name),
            Err(error) => tracing::error!("{} can't be opened again after a failure: {error}", self.name),
        }
        *slot = opened;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_made_file_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.redb");
        fs::write(path.with_extension("new"), b"half").unwrap();
        drop(open(&path, 1 << 20).unwrap());
        assert!(!path.with_extension("new").exists());
        drop(open(&path, 1 << 20).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_it_also_when_it_was_open_to_all() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("records.redb");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(open(&path, 1 << 20).unwrap());
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        drop(open(&path, 1 << 20).unwrap());
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn reopening_waits_for_readers() {
        use redb::ReadableDatabase;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let slot = Slot::open("blocks".into(), Box::new(move || open(&path, 1 << 20))).unwrap();
        let reading = slot.with(|database| database.begin_read().unwrap()).unwrap();
        let reader = std::thread::spawn(move || drop(reading));
        slot.reopen(|_| Ok(()));
        reader.join().unwrap();
        assert!(!slot.is_out_of_service());
    }
}
