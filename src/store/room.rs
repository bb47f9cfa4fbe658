//! Whether the disk has room for a file that is about to be written.

use std::io;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

/// There is too little room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} needs about {} more on its disk, which has {} free: make room, or choose another disk",
    path.display(), ByteSize(*.needed_bytes), ByteSize(*.free_bytes)
)]
pub struct NoRoom {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What it takes, in bytes.
    pub needed_bytes: u64,
    /// What the disk has left for this user, in bytes.
    pub free_bytes: u64,
}

/// Why a file can't be begun.
#[derive(Debug)]
pub(super) enum RoomError {
    NoRoom(NoRoom),
    Io(io::Error),
}

/// Fails when the disk of `path`, a file that need not be there yet, has less than `needed_bytes` free.
pub(super) fn check(path: &Path, needed_bytes: u64) -> Result<(), RoomError> {
    match free_bytes(path).map_err(RoomError::Io)? {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(RoomError::NoRoom(NoRoom { path: path.to_owned(), needed_bytes, free_bytes }))
        }
        _ => Ok(()),
    }
}

/// What is free on the disk of a file; `None` where the platform isn't asked.
#[cfg(unix)]
pub(super) fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(directory)?;
    Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_path: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn says_how_much_is_needed_and_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        assert!(check(&path, 1).is_ok());
        let Err(RoomError::NoRoom(refused)) = check(&path, 1 << 62) else { panic!("there can't be that much") };
        assert!(refused.free_bytes > 0);
        let text = refused.to_string();
        assert!(text.contains("4.0 EiB") && text.contains("new"), "{text}");
        assert!(matches!(check(&directory.path().join("missing/new"), 1), Err(RoomError::Io(_))));
    }
}
