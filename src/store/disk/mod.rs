//! The disk beneath a redb file: what redb writes is gathered, and a small commit costs one wait for the disk.
//!
//! redb commits in two phases, as it must where a file has to open at once after a crash: it writes its pages, waits for the
//! disk, writes its header, and waits again. Two things are different here:
//!
//! - Pages are *held* in memory until redb waits for them, and then written in the order of the file, neighbours
//!   together. redb itself writes them one by one in no order, which costs the kernel more than twice as much. Whole segments
//!   of a commit that is too large for the journal aren't held, unless it flies: at their length, the order matters less
//!   than another copy.
//! - The pages and the header of a small commit go into a [`journal`] together, whole or not at all. Then one wait is enough; in the
//!   file they are written as well, and become durable there at leisure. What the journal has is written again when the file
//!   is opened after a crash.
//! - A large commit made by [`commit_ahead`] [flies](flight): redb goes on while another thread writes it and waits for the
//!   disk. Nothing that comes later touches the file before it has landed.
//!
//! What redb relies on stays as it was: nothing of a commit is found after a crash unless all of it is and all before it, and
//! one that has returned, and landed, is found. Nothing is journalled or flies unless it is committed by [`commit`] or
//! [`commit_ahead`]; whatever else waits for the disk gets what it asks for.

mod file;
mod flight;
#[cfg(test)]
mod flight_tests;
mod journal;
mod memory;
mod pages;
mod reading;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, CommitError, DatabaseError, StorageBackend, StorageError, WriteTransaction};

use crate::store::blocks::SEGMENT_BYTES;
use file::SystemFile;
pub(super) use file::{DiskFile, read_ahead};
pub(super) use flight::Flight;
#[cfg(test)]
pub(super) use flight::STARTED as FLIGHTS_STARTED;
use journal::{Journal, JournalPath, RECORD_BYTES_MAX};
pub(super) use journal::{JournalFile, remove_journal};
pub(super) use memory::rest;
use memory::{ALIGNMENT, Page};
use pages::Layers;
pub(super) use reading::Reading;

/// Bytes of pages that are held at most: a whole commit of large blocks, with what it changes in the trees.
const HELD_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Room for what redb writes between the two waits of a commit: its header.
const HEADER_BYTES_MAX: usize = 4096;

/// How far the commit of a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// There is none: whoever waits for the disk gets what it asks for.
    None,
    /// It hasn't waited for the disk yet.
    Begun,
    /// The same, of one that may fly.
    BegunAhead,
    /// It has waited once, and got the promise that nothing of what comes is durable before what came.
    Ordered,
    /// The same, of one that will fly.
    OrderedAhead,
    /// What it has written is durable.
    Durable,
    /// What it has written will be durable when it has landed.
    Flying,
}

impl Commit {
    fn is_ahead(self) -> bool {
        matches!(self, Self::BegunAhead | Self::OrderedAhead)
    }
}

thread_local! {
    static COMMIT: Cell<Commit> = const { Cell::new(Commit::None) };
    /// The flight that this thread's commit has begun.
    static DEPARTED: RefCell<Option<Flight>> = const { RefCell::new(None) };
}

/// Commits a transaction of a database on a [`Disk`]. It has to be one with quick repair, which waits for the disk twice.
pub(super) fn commit(transaction: WriteTransaction) -> Result<(), CommitError> {
    commit_from(Commit::Begun, transaction).map(drop)
}

/// The same, but a large commit may still be on its way when this returns. redb shows to readers what it did; nobody may rely
/// on that before it has landed. Waits for the flight before it.
pub(super) fn commit_ahead(transaction: WriteTransaction) -> Result<Option<Flight>, CommitError> {
    commit_from(Commit::BegunAhead, transaction)
}

fn commit_from(begun: Commit, transaction: WriteTransaction) -> Result<Option<Flight>, CommitError> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            COMMIT.set(Commit::None);
            DEPARTED.take();
        }
    }
    let _reset = Reset;
    COMMIT.set(begun);
    transaction.commit()?;
    if matches!(COMMIT.get(), Commit::Ordered | Commit::OrderedAhead) {
        return Err(StorageError::Io(io::Error::other("a commit has waited for the disk only once")).into());
    }
    Ok(DEPARTED.take())
}

/// A file with its journal.
#[derive(Debug)]
pub(super) struct Disk {
    file: Arc<dyn DiskFile>,
    layers: Arc<RwLock<Layers>>,
    /// Held by who writes, and never waited for by who reads.
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    journal: Journal,
    /// Whether the file has changed since the disk was last waited for, in ways that aren't in the journal.
    is_unsynced: bool,
    /// Whether the pages that are held have to be durable before any that come.
    has_barrier: bool,
    /// The last commit that flew, until somebody has seen that it landed. One that failed stays, so that all else fails too.
    flight: Option<Flight>,
}

impl Writing {
    /// Waits for the commit that flies. To be called by all that touch the file.
    fn land(&mut self) -> io::Result<()> {
        if let Some(flight) = &self.flight {
            flight.wait()?;
            self.flight = None;
            // Nobody has touched the file since it departed.
            self.is_unsynced = false;
        }
        Ok(())
    }
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
        let writing = Writing { journal, is_unsynced: true, has_barrier: false, flight: None };
        Ok(Self { file: file.into(), layers: Arc::default(), writing: Mutex::new(writing) })
    }

    fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers_mut(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held is in the file.
    fn let_go_of_held(&self) {
        let held = std::mem::take(&mut self.layers_mut().held);
        // Thousands of pages are freed after the lock is free.
        drop(held);
    }

    /// Empties the journal before the file is written in ways that it doesn't know.
    fn empty_journal(&self, writing: &mut Writing) -> io::Result<()> {
        if !writing.journal.is_empty() {
            // It must not be written over what comes now.
            self.file.sync_data()?;
            writing.journal.clear()?;
        }
        writing.is_unsynced = true;
        Ok(())
    }

    /// Writes what is held into the file, past the journal.
    fn write_past_journal(&self, writing: &mut Writing) -> io::Result<()> {
        self.empty_journal(writing)?;
        let ordered = Arc::clone(&self.layers().ordered);
        if !ordered.is_empty() {
            // A commit that wanted to fly has something else to write first.
            ordered.write(&*self.file, 0..)?;
            self.file.sync_data()?;
            self.layers_mut().ordered = Arc::default();
        }
        self.layers().held.write(&*self.file, 0..)?;
        self.let_go_of_held();
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
        writing.land()?;
        if writing.has_barrier {
            self.sync(writing)?;
        }
        self.write_past_journal(writing)
    }

    /// Lets a commit begin its flight, of which all but the header that is held was ordered.
    fn depart(&self, writing: &mut Writing) {
        {
            let mut layers = self.layers_mut();
            let header = std::mem::take(&mut layers.held);
            layers.flying = [std::mem::take(&mut layers.ordered), Arc::new(header)];
        }
        let flight = Flight::start(Arc::clone(&self.file), Arc::clone(&self.layers));
        writing.flight = Some(flight.clone());
        DEPARTED.set(Some(flight));
    }

    /// Makes a small commit durable in the journal, if it can be; `false` when nothing of it is there.
    fn write_to_journal(&self, writing: &mut Writing) -> io::Result<bool> {
        // All but the header goes into the file first, into pages that no earlier commit uses: a disk that is full says so
        // before the commit is one.
        self.layers().held.write(&*self.file, 1..)?;
        if !writing.journal.append(&self.layers().held.pages, &*self.file)? {
            writing.is_unsynced = true;
            return Ok(false);
        }
        writing.has_barrier = false;
        if let Some(header) = self.layers().held.pages.get(&0) {
            self.file.write(0, header)?;
        }
        self.let_go_of_held();
        Ok(true)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let layers = self.layers();
        if layers.touches(offset, out.len()) {
            // Pages stay in memory until they are in the file, so nothing is missed.
            return layers.read(offset, out, |out| self.file.read(offset, out));
        }
        drop(layers);
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut writing = self.writing();
        self.leave_journal(&mut writing)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut writing = self.writing();
        let commit = COMMIT.get();
        if commit == Commit::OrderedAhead {
            self.depart(&mut writing);
            COMMIT.set(Commit::Flying);
            return Ok(());
        }
        writing.land()?;
        let is_small = self.layers().held.bytes + HEADER_BYTES_MAX <= RECORD_BYTES_MAX;
        // Not the header of a commit that went past the journal: emptying the journal again costs the next one two waits more.
        let may_be_journalled = !matches!(commit, Commit::None | Commit::Durable);
        if may_be_journalled && is_small && !writing.is_unsynced && writing.journal.is_available() {
            if matches!(commit, Commit::Begun | Commit::BegunAhead) {
                writing.has_barrier = true;
                COMMIT.set(Commit::Ordered);
                return Ok(());
            }
            if self.write_to_journal(&mut writing)? {
                COMMIT.set(Commit::Durable);
                return Ok(());
            }
        }
        if commit == Commit::BegunAhead && !writing.has_barrier && self.layers().ordered.is_empty() {
            self.empty_journal(&mut writing)?;
            let mut layers = self.layers_mut();
            layers.ordered = Arc::new(std::mem::take(&mut layers.held));
            COMMIT.set(Commit::OrderedAhead);
            return Ok(());
        }
        self.sync(&mut writing)?;
        if commit != Commit::None {
            COMMIT.set(Commit::Durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if reading::is_reading() {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "pages are written by those who commit them"));
        }
        let mut writing = self.writing();
        let is_ahead = COMMIT.get().is_ahead();
        if !is_ahead {
            writing.land()?;
        }
        let (is_torn, is_held, bytes) = {
            let layers = self.layers();
            let held = &layers.held;
            let is_held = held.pages.contains_key(&offset);
            (held.would_tear(offset, data.len()), is_held, held.bytes + data.len())
        };
        let is_past_barrier = writing.has_barrier && bytes > RECORD_BYTES_MAX;
        // The journal can't take this commit any more.
        let is_past_journal = writing.is_unsynced || bytes > RECORD_BYTES_MAX;
        let is_direct = is_past_journal && !is_ahead && data.len() >= SEGMENT_BYTES;
        if is_torn || is_past_barrier || bytes > HELD_BYTES_MAX || (is_direct && (is_held || !writing.is_unsynced)) {
            self.leave_journal(&mut writing)?;
        }
        if is_direct {
            return self.file.write(offset, data);
        }
        let can_be_aligned = is_ahead && offset.is_multiple_of(ALIGNMENT as u64);
        let page = if can_be_aligned { Page::aligned(data) } else { data.into() };
        self.layers_mut().held.insert(offset, page);
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        // What is held was never waited for, so nobody relies on it. What flies holds the file open.
        let landed = self.writing().land();
        self.file.close().and(landed)
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

impl Drop for Disk {
    fn drop(&mut self) {
        // Who opens the file next must not meet somebody who still writes to it. An error was the answer to who waited.
        let _ = self.writing().land();
    }
}
