//! What the operator doesn't want here: files with rules in the compact denylist format, read again when they change.
//!
//! `parse` reads the format and `rules` answers, both without I/O; this file reads the files. Who fetches or serves asks
//! [`Denylist::denies`]; without a file that costs nothing.

mod parse;
mod rules;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use cid::Cid;
use jiff::Timestamp;
use serde::Deserialize;

pub use parse::{Fault, ParseError};
use rules::Rules;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The most that is read of a file, in bytes: about four million double hashes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Section `[denylist]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DenylistError {
    /// The file can't be read.
    #[error("the denylist {} can't be read: {source}; put the file there, or take it out of the key denylist.files", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is too large.
    #[error("the denylist {} has more than {FILE_BYTES_MAX} bytes; make several files of it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line can't be used.
    #[error("the denylist {}, {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong with it.
        source: ParseError,
    },
}

/// By what it is known that a file has changed.
type Mark = Option<(u64, Option<SystemTime>)>;

#[derive(Debug)]
struct Seen {
    /// Of each file, as of the last time that all were read.
    marks: Vec<Mark>,
    read: Timestamp,
    fault: Option<String>,
}

#[derive(Debug)]
struct Lists {
    files: Vec<PathBuf>,
    rules: RwLock<Arc<Rules>>,
    seen: Mutex<Seen>,
}

/// The rules that count now. Clones share them; the default has none, and never will.
#[derive(Debug, Clone, Default)]
pub struct Denylist(Option<Arc<Lists>>);

impl Denylist {
    /// Reads the files, which must be usable. Blocks on the disk.
    pub fn open(options: &Options) -> Result<Self, DenylistError> {
        if options.files.is_empty() {
            return Ok(Self::default());
        }
        let files = options.files.clone();
        let marks = marks(&files);
        let rules = RwLock::new(Arc::new(read(&files)?));
        let seen = Mutex::new(Seen { marks, read: Timestamp::now(), fault: None });
        Ok(Self(Some(Arc::new(Lists { files, rules, seen }))))
    }

    /// Whether there is any file.
    pub fn has_files(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a block is denied, whatever the version and codec of its CID.
    pub fn denies(&self, cid: &Cid) -> bool {
        self.0.as_ref().is_some_and(|lists| lists.rules().denies(cid))
    }

    /// Whether what is behind a path is denied, by its text; the blocks on its way aren't looked at.
    pub fn denies_path(&self, root: &Cid, parts: &[Vec<u8>]) -> bool {
        // The rules are text: no other path can be among them.
        self.0.as_ref().is_some_and(|lists| {
            !parts.is_empty()
                && String::from_utf8(parts.join(&b'/')).is_ok_and(|path| lists.rules().denies_path(root, &path))
        })
    }

    /// How many rules there are, and when they were read; `None` without files.
    pub fn state(&self) -> Option<(u64, Timestamp)> {
        self.0.as_ref().map(|lists| (lists.rules().count(), lists.seen().read))
    }

    /// Why a file that has changed isn't used.
    pub fn warning(&self) -> Option<String> {
        let fault = self.0.as_ref()?.seen().fault.clone()?;
        Some(format!("{fault}; until the file can be used, the rules that were read before stay in use"))
    }

    /// Looks at the files, for ever.
    pub async fn keep(self) {
        let Some(lists) = self.0 else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let lists = Arc::clone(&lists);
            if let Err(error) = tokio::task::spawn_blocking(move || lists.look()).await {
                tracing::error!(%error, "the denylists can't be looked at");
            }
        }
    }
}

impl Lists {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all files if one has changed. Those that can't be used leave the old rules in use until one changes again.
    fn look(&self) {
        // Before they are read, so that a change in between is seen the next time.
        let marks = marks(&self.files);
        if marks == self.seen().marks {
            return;
        }
        let outcome = read(&self.files);
        let mut seen = self.seen();
        seen.marks = marks;
        match outcome {
            Ok(rules) => {
                tracing::info!(rules = rules.count(), "the changed denylists are in use");
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                (seen.read, seen.fault) = (Timestamp::now(), None);
            }
            Err(error) => {
                tracing::warn!(%error, "a changed denylist can't be used; the old rules stay in use");
                seen.fault = Some(error.to_string());
            }
        }
    }
}

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    let mark = |path: &PathBuf| std::fs::metadata(path).ok().map(|found| (found.len(), found.modified().ok()));
    files.iter().map(mark).collect()
}

/// The rules of all files, those of later ones behind those of earlier ones.
fn read(files: &[PathBuf]) -> Result<Rules, DenylistError> {
    let mut rules = Rules::default();
    for path in files {
        let bytes = contents(path)?;
        parse::parse(&bytes, |rule| rules.add(rule))
            .map_err(|source| DenylistError::Line { path: path.clone(), source })?;
    }
    rules.seal();
    Ok(rules)
}

fn contents(path: &Path) -> Result<Vec<u8>, DenylistError> {
    let mut bytes = Vec::new();
    let outcome = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    outcome.map_err(|source| DenylistError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(DenylistError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
