//! Writes down when each part of the keyspace was provided, so that a restart goes on with the schedule.
//!
//! A file of its own in the data directory: losing it costs one sweep.

use std::fs;
use std::io;
use std::path::Path;

use super::options::Strategy;
use crate::store::datadir::{DataDirError, write_secret};

const HEAD: &str = "pinnace provided 1";

/// What [`save`] wrote; `None` if there is nothing that can be gone on with, as when fewer blocks were provided before.
pub(super) fn load(path: &Path, strategy: Strategy) -> io::Result<Option<Vec<u64>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(times) = bytes.strip_prefix(head(strategy).as_bytes()) else { return Ok(None) };
    Ok(Some(times.as_chunks().0.iter().map(|time| u64::from_le_bytes(*time)).collect()))
}

/// Writes the times, whole or not at all.
pub(super) fn save(path: &Path, strategy: Strategy, times: &[u64]) -> Result<(), DataDirError> {
    let mut bytes = head(strategy).into_bytes();
    bytes.extend(times.iter().flat_map(|time| time.to_le_bytes()));
    write_secret(path, &bytes)
}

fn head(strategy: Strategy) -> String {
    format!("{HEAD} {}\n", strategy.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_for_the_same_strategy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("provided");
        assert_eq!(load(&path, Strategy::All).unwrap(), None);
        save(&path, Strategy::All, &[0, 7, u64::MAX]).unwrap();
        assert_eq!(load(&path, Strategy::All).unwrap(), Some(vec![0, 7, u64::MAX]));
        assert_eq!(load(&path, Strategy::Roots).unwrap(), None);
        fs::write(&path, b"something else").unwrap();
        assert_eq!(load(&path, Strategy::All).unwrap(), None);
        assert!(load(directory.path(), Strategy::All).is_err());
    }
}
