//! The data directory: made at the first start, marked as ours, locked while a process uses it.
//!
//! It knows where each file is and how a secret is written; what the files hold is for their modules.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::database;

/// The file that marks a directory as a data directory; it holds the version of the layout.
const MARKER_FILE: &str = "pinnace.version";
/// The version of the layout that this program writes.
const LAYOUT_VERSION: u32 = 1;
/// The file that is locked; it holds the number of the process.
const LOCK_FILE: &str = "pinnace.lock";
/// The socket through which commands reach the process that uses the directory.
const CONTROL_FILE: &str = "admin.sock";
/// A file that is there while a backup is being restored into the directory.
const RESTORE_FILE: &str = "restore.unfinished";
/// The most that is read of the marker and of the lock file, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64;

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The path is there and is no directory.
    #[error("{path} is not a directory: give another one with --data")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error(
        "{path} is not empty and was not made by pinnace (it has no file {MARKER_FILE}): give an empty or a new directory with --data"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// There is no data directory.
    #[error(
        "{path} is no data directory of pinnace (it has no file {MARKER_FILE}): name the right one with --data DIR"
    )]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The directory was made by a newer program.
    #[error(
        "{path} has layout version {found}, and this program knows versions up to {LAYOUT_VERSION}: use a newer pinnace"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version, as written.
        found: String,
    },
    /// Another process uses the directory.
    #[error(
        "{path} is in use by another pinnace, process {pid}: stop that one first, or give another directory with --data"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, as it wrote itself down.
        pid: String,
    },
    /// A restore into the directory didn't come to its end.
    #[error(
        "a backup was being restored into {path}, and that was cut off: run `pinnace restore` again, or remove the directory"
    )]
    HalfRestored {
        /// The directory.
        path: PathBuf,
    },
    /// A file or the directory can't be read, made or written.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The platform tells no home directory, so there is no default.
    #[error("the platform names no home directory: give the data directory with --data")]
    NoHome,
}

/// Says what was tried with which path when an access fails.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { action, path: path.to_owned(), source }
}

/// A data directory that this process has for itself, until this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock goes with the open file.
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it (mode 0700) with its parents.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let data = Self::open_unmarked(path)?;
        if data.is_half_restored() {
            return Err(DataDirError::HalfRestored { path: path.to_owned() });
        }
        let marker = path.join(MARKER_FILE);
        if !marker.exists() {
            write_marker(&marker)?;
        }
        Ok(data)
    }

    /// Opens or makes a directory into which a backup is restored: one that had no end is no hindrance, and a new
    /// directory isn't marked as ours before [`DataDir::end_restore`].
    pub fn open_for_restore(path: &Path) -> Result<Self, DataDirError> {
        Self::open_unmarked(path)
    }

    /// From now on, and until [`DataDir::end_restore`], nobody can open the directory but another restore.
    pub fn begin_restore(&self) -> Result<(), DataDirError> {
        write_file(&self.path.join(RESTORE_FILE), b"", 0o600)
    }

    /// Whether a restore began and didn't end.
    pub fn is_half_restored(&self) -> bool {
        self.path.join(RESTORE_FILE).exists()
    }

    /// All files are in their places: marks the directory as ours.
    pub fn end_restore(&self) -> Result<(), DataDirError> {
        let marker = self.path.join(MARKER_FILE);
        if !marker.exists() {
            write_marker(&marker)?;
        }
        let unfinished = self.path.join(RESTORE_FILE);
        fs::remove_file(&unfinished).map_err(failed("remove", &unfinished))?;
        sync(&self.path)
    }

    fn open_unmarked(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let is_empty = fs::read_dir(path).map_err(failed("read", path))?.next().is_none();
        let marker = path.join(MARKER_FILE);
        // Before anything is written into it.
        let is_ours = marker.exists() || path.join(RESTORE_FILE).exists();
        if !is_empty && !is_ours && !only_unmarked_lock(path)? {
            return Err(DataDirError::Foreign { path: path.to_owned() });
        }
        let lock = lock(path)?;
        if marker.exists() {
            check_version(path, &marker)?;
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Opens a directory that is there already; makes none.
    pub fn open_existing(path: &Path) -> Result<Self, DataDirError> {
        if path.join(RESTORE_FILE).exists() {
            return Err(DataDirError::HalfRestored { path: path.to_owned() });
        }
        if !path.join(MARKER_FILE).exists() {
            return Err(DataDirError::Missing { path: path.to_owned() });
        }
        Self::open(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The private key of the node's identity, a secret.
    pub fn identity_path(&self) -> PathBuf {
        self.path.join("identity.key")
    }

    /// The accounts and pins.
    pub fn records_path(&self) -> PathBuf {
        self.path.join("records.redb")
    }

    /// The blocks.
    pub fn blocks_path(&self) -> PathBuf {
        self.path.join("blocks.redb")
    }

    /// The socket through which commands reach this process.
    pub fn control_path(&self) -> PathBuf {
        control_path(&self.path)
    }

    /// What the first start generated, a secret.
    pub fn first_start_path(&self) -> PathBuf {
        self.path.join("first-start.txt")
    }

    /// The directory of what was got over ACME, all of it secrets; made when there is something.
    pub fn acme_path(&self) -> PathBuf {
        self.path.join("acme")
    }

    /// When each part of the DHT's keyspace was last told what we provide.
    pub fn provided_path(&self) -> PathBuf {
        self.path.join("provided")
    }

    /// The servers of the DHT that were known last.
    pub fn servers_path(&self) -> PathBuf {
        self.path.join("servers")
    }

    /// Writes a file of this directory, see [`write_secret`].
    pub fn write_secret(&self, path: &Path, contents: &[u8]) -> Result<(), DataDirError> {
        write_secret(path, contents)
    }
}

/// Writes a file that only its owner may read (mode 0600), whole or not at all.
pub fn write_secret(path: &Path, contents: &[u8]) -> Result<(), DataDirError> {
    write_file(path, contents, 0o600)
}

/// The socket through which commands reach the process that uses the data directory `path`.
pub fn control_path(path: &Path) -> PathBuf {
    path.join(CONTROL_FILE)
}

/// Where the data directory is unless the operator says otherwise, such as `~/.local/share/pinnace`.
pub fn default_path() -> Result<PathBuf, DataDirError> {
    let strategy = etcetera::base_strategy::choose_native_strategy().map_err(|_| DataDirError::NoHome)?;
    Ok(strategy.data_dir().join("pinnace"))
}

/// Makes a directory that only its owner may use (mode 0700), and its parents, unless it is there.
pub fn create(path: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(DataDirError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", path)(error)),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make", parent))?;
    }
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        // Another process may have been faster; the lock decides between the two.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(failed("make", path)),
    }
}

/// Whether a start was stopped between making the lock file and making the marker.
fn only_unmarked_lock(path: &Path) -> Result<bool, DataDirError> {
    for entry in fs::read_dir(path).map_err(failed("read", path))? {
        let name = entry.map_err(failed("read", path))?.file_name();
        let temporaries = [MARKER_FILE, RESTORE_FILE].map(temporary_name);
        if name != LOCK_FILE && !temporaries.iter().any(|temporary| name == temporary.as_str()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let lock_path = path.join(LOCK_FILE);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
    let mut file = options.map_err(failed("write", &lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let written = read_small(&lock_path).unwrap_or_default();
            let pid = if written.trim().is_empty() { "unknown" } else { written.trim() }.to_owned();
            return Err(DataDirError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.and_then(|()| file.flush()).map_err(failed("write", &lock_path))?;
    Ok(file)
}

fn check_version(path: &Path, marker: &Path) -> Result<(), DataDirError> {
    let written = read_small(marker).map_err(failed("read", marker))?;
    match written.trim().parse::<u32>() {
        Ok(version) if version <= LAYOUT_VERSION => Ok(()),
        _ => Err(DataDirError::Newer { path: path.to_owned(), found: written.trim().to_owned() }),
    }
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut contents = Vec::new();
    File::open(path)?.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut contents)?;
    Ok(String::from_utf8_lossy(&contents).into_owned())
}

fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}

/// Writes a temporary file beside `path`, makes it durable, and renames it: the file is there whole, or as it was.
fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<(), DataDirError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(temporary_name(&name));
    database::remove_if_there(&temporary).map_err(failed("write", &temporary))?;
    let mut options = OpenOptions::new();
    // The file must be new: one that was there might be readable by others.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&temporary).map_err(failed("write", &temporary))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("write", path))?;
    // The new name is durable when its directory is.
    path.parent().map_or(Ok(()), sync)
}

fn write_marker(marker: &Path) -> Result<(), DataDirError> {
    write_file(marker, format!("{LAYOUT_VERSION}\n").as_bytes(), 0o644)
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> Result<(), DataDirError> {
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write", directory))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_the_directory_with_its_parents_and_opens_it_again() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/data");
        drop(DataDir::open(&path).unwrap());
        let data = DataDir::open(&path).unwrap();
        assert_eq!(data.path(), path);
        #[cfg(unix)]
        assert_eq!(mode(&path), 0o700);
        for file in [
            data.identity_path(),
            data.records_path(),
            data.blocks_path(),
            data.control_path(),
            data.first_start_path(),
        ] {
            assert!(file.starts_with(&path));
        }
    }

    #[test]
    fn only_an_existing_directory_is_opened_as_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let missing = DataDir::open_existing(&path).unwrap_err();
        assert!(matches!(missing, DataDirError::Missing { .. }), "{missing}");
        assert!(!path.exists());
        let running = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open_existing(&path), Err(DataDirError::InUse { .. })));
        drop(running);
        DataDir::open_existing(&path).unwrap();
    }

    #[test]
    fn refuses_a_foreign_directory_and_leaves_it_alone() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("thesis.tex"), "").unwrap();
        let error = DataDir::open(temporary.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("--data"));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn goes_on_where_a_first_start_was_stopped() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join(LOCK_FILE), "1\n").unwrap();
        fs::write(temporary.path().join(temporary_name(MARKER_FILE)), "").unwrap();
        DataDir::open(temporary.path()).unwrap();
        assert!(temporary.path().join(MARKER_FILE).exists());
    }

    #[test]
    fn a_restore_that_did_not_end_leaves_no_data_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        for _ in 0..2 {
            let data = DataDir::open_for_restore(&path).unwrap();
            data.begin_restore().unwrap();
            fs::write(data.records_path(), "half").unwrap();
            drop(data);
            assert!(matches!(DataDir::open(&path), Err(DataDirError::HalfRestored { .. })));
            assert!(matches!(DataDir::open_existing(&path), Err(DataDirError::HalfRestored { .. })));
        }
        let data = DataDir::open_for_restore(&path).unwrap();
        assert!(data.is_half_restored());
        data.end_restore().unwrap();
        drop(data);
        assert!(!DataDir::open_existing(&path).unwrap().is_half_restored());
    }

    #[test]
    fn refuses_a_newer_layout_and_what_is_no_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let marker = temporary.path().join(MARKER_FILE);
        for version in ["2\n", "future\n"] {
            fs::write(&marker, version).unwrap();
            assert!(matches!(DataDir::open(temporary.path()), Err(DataDirError::Newer { .. })));
        }
        assert!(matches!(DataDir::open(&marker), Err(DataDirError::NotADirectory { .. })));
        let error = DataDir::open(&marker.join("data")).unwrap_err();
        assert!(matches!(error, DataDirError::Io { .. }), "{error}");
        assert!(error.to_string().contains(MARKER_FILE), "{error}");
    }

    #[test]
    fn names_the_process_that_has_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let first = DataDir::open(temporary.path()).unwrap();
        let error = DataDir::open(temporary.path()).unwrap_err();
        let DataDirError::InUse { pid, .. } = &error else { panic!("{error}") };
        assert_eq!(*pid, std::process::id().to_string());
        assert!(error.to_string().contains(pid));
        drop(first);
        DataDir::open(temporary.path()).unwrap();
    }

    #[test]
    fn a_secret_is_for_its_owner_alone_whatever_was_there_before() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::open(temporary.path()).unwrap();
        let path = data.identity_path();
        fs::write(&path, "old and readable").unwrap();
        fs::write(path.with_file_name(temporary_name("identity.key")), "left over").unwrap();
        data.write_secret(&path, b"secret").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        #[cfg(unix)]
        assert_eq!(mode(&path), 0o600);
        assert!(!path.with_file_name(temporary_name("identity.key")).exists());
        let missing = data.path().join("missing/secret");
        assert!(matches!(data.write_secret(&missing, b""), Err(DataDirError::Io { .. })));
    }

    #[test]
    fn the_default_is_a_directory_of_our_own() {
        assert!(default_path().unwrap().ends_with("pinnace"));
    }
}
