//! The file as redb's backend sees it, with one addition: a block that runs over several segments is asked of the disk
//! at once.
//!
//! redb reads a segment at a time and waits for each, and doesn't pass on what it will need next. [`read_ahead`]
//! tells the backend beneath it. Nothing else about the file is decided here.

use std::cell::Cell;
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::io::IoSlice;
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::ops::Bound;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use crate::store::blocks::SEGMENT_BYTES;

/// What is asked of the disk at once, in bytes: while redb copies one part, the next is on its way.
#[cfg(target_os = "linux")]
const AHEAD_PART_BYTES: u64 = 128 * 1024;

thread_local! {
    /// Bytes that this thread is about to read from one segment on; 0 when that is all.
    static AHEAD_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// Runs a job that reads `segments` segments one after the other, all of which are likely to lie side by side.
pub(in crate::store) fn read_ahead<T>(segments: u64, job: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            AHEAD_BYTES.set(0);
        }
    }
    let _reset = Reset;
    AHEAD_BYTES.set(segments * SEGMENT_BYTES as u64);
    job()
}

/// A file that takes pages which lie side by side at once.
pub(in crate::store) trait DiskFile: StorageBackend {
    /// Writes pages one behind the other, from `offset` on.
    fn write_run(&self, offset: u64, pages: &[&[u8]]) -> io::Result<()> {
        if pages.is_empty() { Ok(()) } else { self.write(offset, &pages.concat()) }
    }

    /// The same for whole segments that are aligned, in memory and in the file, to what disks demand.
    fn write_aligned_run(&self, offset: u64, pages: &[&[u8]]) -> io::Result<()> {
        self.write_run(offset, pages)
    }
}

/// A file on the disk.
#[derive(Debug)]
pub(super) struct SystemFile {
    backend: FileBackend,
    /// The same file, for what redb's backend doesn't offer.
    #[cfg(target_os = "linux")]
    file: File,
    /// The same file, past the page cache; without the flag where the file system doesn't offer that.
    #[cfg(target_os = "linux")]
    direct: Option<File>,
    /// Whether a write past the page cache was refused.
    #[cfg(target_os = "linux")]
    is_refused: AtomicBool,
}

impl SystemFile {
    /// Opens the file at `path`, which must be there. An empty one is refused: redb would take it for a new file, and what
    /// was in it must not go unnoticed.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty").into());
        }
        Ok(Self {
            #[cfg(target_os = "linux")]
            file: file.try_clone()?,
            #[cfg(target_os = "linux")]
            direct: open_direct(path),
            #[cfg(target_os = "linux")]
            is_refused: AtomicBool::new(false),
            backend: FileBackend::new(file)?,
        })
    }

    /// Lets the disk begin with a whole run of segments when the first of them is read.
    #[cfg(target_os = "linux")]
    fn begin_reading(&self, offset: u64, length: usize) {
        // Shorter reads are of the trees above the segments.
        if length >= SEGMENT_BYTES
            && let Some(bytes) = NonZeroU64::new(AHEAD_BYTES.replace(0))
        {
            let end = offset + bytes.get();
            let mut part = offset;
            while part < end {
                let length = AHEAD_PART_BYTES.min(end - part);
                // This is advice: without it, reading is only slower.
                let _ = rustix::fs::fadvise(&self.file, part, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
                part += length;
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn begin_reading(&self, _offset: u64, _length: usize) {}
}

impl StorageBackend for SystemFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.begin_reading(offset, out.len());
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}

impl DiskFile for SystemFile {
    #[cfg(target_os = "linux")]
    fn write_run(&self, offset: u64, pages: &[&[u8]]) -> io::Result<()> {
        Ok(write_all(&self.file, offset, pages)?)
    }

    /// Past the page cache: what is written in bulk isn't read soon, and the kernel spends more on finding memory for it than
    /// on writing it.
    #[cfg(target_os = "linux")]
    fn write_aligned_run(&self, offset: u64, pages: &[&[u8]]) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && !self.is_refused.load(Ordering::Relaxed)
        {
            match write_all(direct, offset, pages) {
                // A file system may say only now that it can't, or want another alignment.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                outcome => return Ok(outcome?),
            }
        }
        self.write_run(offset, pages)
    }
}

/// Opens the file at `path` for writes past the page cache, if the file system offers that.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    File::options().write(true).custom_flags(flag).open(path).ok()
}

#[cfg(target_os = "linux")]
fn write_all(file: &File, mut offset: u64, pages: &[&[u8]]) -> Result<(), rustix::io::Errno> {
    let mut slices: Vec<IoSlice<'_>> = pages.iter().map(|page| IoSlice::new(page)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset) {
            // A disk always takes something, or says why it doesn't.
            Ok(0) => return Err(rustix::io::Errno::IO),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
