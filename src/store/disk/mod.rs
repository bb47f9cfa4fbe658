//! The disk beneath a redb file: what redb writes is gathered, and a small commit costs one wait for the disk.
//!
//! redb commits in two phases, as it must where a file has to open at once after a crash: it writes its pages, waits for the
//! disk, writes its header, and waits again. Two things are different here:
//!
//! - Pages are *held* in memory until redb waits for them, and then written in the order of the file, neighbours
//!   together. redb itself writes them one by one in no order, which costs the kernel more than twice as much. Whole segments
//!   of a commit that is too large for the journal aren't held: at their length, the order matters less than another copy.
//! - The pages and the header of a small commit go into a [`journal`] together, whole or not at all. Then one wait is enough; in the
//!   file they are written as well, and become durable there at leisure. What the journal has is written again when the file
//!   is opened after a crash.
//!
//! What redb relies on stays as it was: nothing of a commit is found after a crash unless all of it is, and a commit that
//! has returned is found. Nothing is journalled unless it is committed by [`commit`]; whatever else waits for the disk gets what it asks for.

mod file;
mod journal;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, RangeFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, CommitError, DatabaseError, StorageBackend, StorageError, WriteTransaction};

use crate::store::blocks::SEGMENT_BYTES;
use file::SystemFile;
pub(super) use file::{DiskFile, read_ahead};
use journal::{Journal, JournalPath, RECORD_BYTES_MAX};
pub(super) use journal::{JournalFile, remove_journal};

/// Bytes of pages that are held at most: a whole commit of large blocks, with what it changes in the trees.
const HELD_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Pages that are written at once at most: no system takes fewer.
const RUN_PAGES_MAX: usize = 64;

/// Room for what redb writes between the two waits of a commit: its header.
const HEADER_BYTES_MAX: usize = 4096;

/// How far the commit of a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// There is none: whoever waits for the disk gets what it asks for.
    None,
    /// It hasn't waited for the disk yet.
    Begun,
    /// It has waited once, and got the promise that nothing of what comes is durable before what came.
    Ordered,
    /// What it has written is durable.
    Durable,
}

thread_local! {
    static COMMIT: Cell<Commit> = const { Cell::new(Commit::None) };
}

/// Commits a transaction of a database on a [`Disk`]. It has to be one with quick repair, which waits for the disk twice.
pub(super) fn commit(transaction: WriteTransaction) -> Result<(), CommitError> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            COMMIT.set(Commit::None);
        }
    }
    let _reset = Reset;
    COMMIT.set(Commit::Begun);
    transaction.commit()?;
    if COMMIT.get() == Commit::Ordered {
        return Err(StorageError::Io(io::Error::other("a commit has waited for the disk only once")).into());
    }
    Ok(())
}

/// A file with its journal.
#[derive(Debug)]
pub(super) struct Disk {
    file: Box<dyn DiskFile>,
    pages: RwLock<Pages>,
    /// Held by who writes, and never waited for by who reads.
    writing: Mutex<Writing>,
}

/// Pages that aren't in the file yet, by their offsets. No two of them overlap.
#[derive(Debug, Default)]
struct Pages {
    pages: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
}

#[derive(Debug)]
struct Writing {
    journal: Journal,
    /// Whether the file has changed since the disk was last waited for, in ways that aren't in the journal.
    is_unsynced: bool,
    /// Whether the pages that are held have to be durable before any that come.
    has_barrier: bool,
}

impl Disk {
    /// Opens the file at `path`, which must be there, and its journal, if there is one.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::new(Box::new(SystemFile::open(path)?), Box::new(JournalPath::of(path)))
            .map_err(|error| StorageError::from(error).into())
    }

    /// A file with what its journal has.
    pub(super) fn new(file: Box<dyn DiskFile>, journal: Box<dyn JournalFile>) -> io::Result<Self> {
        let journal = Journal::recover(journal, &*file)?;
        let writing = Writing { journal, is_unsynced: true, has_barrier: false };
        Ok(Self { file, pages: RwLock::default(), writing: Mutex::new(writing) })
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages_mut(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is held of `part` into the file, where who reads still finds it in memory.
    fn write_pages(&self, part: RangeFrom<u64>) -> io::Result<()> {
        let pages = self.pages();
        let mut run: Vec<&[u8]> = Vec::new();
        let (mut start, mut end) = (0, 0);
        for (&offset, page) in pages.pages.range(part) {
            if offset != end || run.len() == RUN_PAGES_MAX {
                self.file.write_run(start, &run)?;
                run.clear();
                start = offset;
            }
            run.push(page);
            end = offset + page.len() as u64;
        }
        self.file.write_run(start, &run)
    }

    /// Writes what is held into the file, past the journal.
    fn write_past_journal(&self, writing: &mut Writing) -> io::Result<()> {
        if !writing.journal.is_empty() {
            // It must not be written over what comes now.
            self.file.sync_data()?;
            writing.journal.clear()?;
        }
        writing.is_unsynced = true;
        self.write_pages(0..)?;
        *self.pages_mut() = Pages::default();
        Ok(())
    }

    /// Makes everything durable in the file itself.
    fn sync(&self, writing: &mut Writing) -> io::Result<()> {
        self.write_past_journal(writing)?;
        self.file.sync_data()?;
        writing.is_unsynced = false;
        writing.has_barrier = false;
        Ok(())
    }

    /// Before the file is changed in a way that the journal doesn't know.
    fn leave_journal(&self, writing: &mut Writing) -> io::Result<()> {
        if writing.has_barrier {
            self.sync(writing)?;
        }
        self.write_past_journal(writing)
    }

    /// Makes a small commit durable in the journal, if it can be; `false` when nothing of it is there.
    fn write_to_journal(&self, writing: &mut Writing) -> io::Result<bool> {
        // All but the header goes into the file first, into pages that no earlier commit uses: a disk that is full says so
        // before the commit is one.
        self.write_pages(1..)?;
        if !writing.journal.append(&self.pages().pages, &*self.file)? {
            writing.is_unsynced = true;
            return Ok(false);
        }
        writing.has_barrier = false;
        if let Some(header) = self.pages().pages.get(&0) {
            self.file.write(0, header)?;
        }
        *self.pages_mut() = Pages::default();
        Ok(true)
    }
}

impl Pages {
    /// Those that lie in or over `length` bytes from `offset` on.
    fn overlapping(&self, offset: u64, length: usize) -> impl Iterator<Item = (u64, &Arc<[u8]>)> {
        let end = offset + length as u64;
        let before = self.pages.range(..offset).next_back();
        let before = before.filter(|(start, page)| *start + page.len() as u64 > offset);
        before.into_iter().chain(self.pages.range(offset..end)).map(|(start, page)| (*start, page))
    }

    /// Whether the page with these bounds would lie over another one in part.
    fn would_tear(&self, offset: u64, length: usize) -> bool {
        self.overlapping(offset, length).any(|(start, page)| start != offset || page.len() != length)
    }

    fn insert(&mut self, offset: u64, page: &[u8]) {
        self.bytes += page.len();
        if let Some(before) = self.pages.insert(offset, page.into()) {
            self.bytes -= before.len();
        }
    }

    /// Puts what is held of `length` bytes from `offset` on into `out`.
    fn overlay(&self, offset: u64, out: &mut [u8]) {
        for (start, page) in self.overlapping(offset, out.len()) {
            let from = start.max(offset);
            let to = (start + page.len() as u64).min(offset + out.len() as u64);
            let inside = |position: u64, base: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
            out[inside(from, offset)..inside(to, offset)]
                .copy_from_slice(&page[inside(from, start)..inside(to, start)]);
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let pages = self.pages();
        if pages.overlapping(offset, out.len()).next().is_none() {
            drop(pages);
            return self.file.read(offset, out);
        }
        // The pages stay held until they are in the file, so nothing is missed; one that covers everything needs no file.
        if let Some(page) = pages.pages.get(&offset)
            && let Some(whole) = page.get(..out.len())
        {
            out.copy_from_slice(whole);
            return Ok(());
        }
        self.file.read(offset, out)?;
        pages.overlay(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut writing = self.writing();
        self.leave_journal(&mut writing)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut writing = self.writing();
        let commit = COMMIT.get();
        let is_small = self.pages().bytes + HEADER_BYTES_MAX <= RECORD_BYTES_MAX;
        if commit != Commit::None && is_small && !writing.is_unsynced && writing.journal.is_available() {
            if commit == Commit::Begun {
                writing.has_barrier = true;
                COMMIT.set(Commit::Ordered);
                return Ok(());
            }
            if self.write_to_journal(&mut writing)? {
                COMMIT.set(Commit::Durable);
                return Ok(());
            }
        }
        self.sync(&mut writing)?;
        if commit != Commit::None {
            COMMIT.set(Commit::Durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut writing = self.writing();
        let (is_torn, is_held, bytes) = {
            let pages = self.pages();
            let is_held = pages.pages.contains_key(&offset);
            (pages.would_tear(offset, data.len()), is_held, pages.bytes + data.len())
        };
        let is_past_barrier = writing.has_barrier && bytes > RECORD_BYTES_MAX;
        // The journal can't take this commit any more.
        let is_past_journal = writing.is_unsynced || bytes > RECORD_BYTES_MAX;
        let is_direct = is_past_journal && data.len() >= SEGMENT_BYTES;
        if is_torn || is_past_barrier || bytes > HELD_BYTES_MAX || (is_direct && (is_held || !writing.is_unsynced)) {
            self.leave_journal(&mut writing)?;
        }
        if is_direct {
            return self.file.write(offset, data);
        }
        self.pages_mut().insert(offset, data);
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        // What is held was never waited for, so nobody relies on it.
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
