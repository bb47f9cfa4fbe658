//! The journal of a file: what was committed to it and isn't known to be durable there yet.
//!
//! It is a small file of a fixed length beside the other one. Each commit is a *record*: the pages that it wrote, with a
//! checksum over all of them. Records lie one behind the other, and those from the start on that belong together (one
//! *generation*, a random number) are what the journal has. A generation begins when everything before it is durable in the file,
//! so an empty journal, and one whose first record is torn, mean that the file is whole as it is.
//!
//! The header of the file says which commit it is at. Between a generation's beginning and end it is written only with the
//! records, so each byte of it is as it was before the first record, or as one of them has it. A journal whose file has any
//! other header doesn't belong to it: somebody put another file in its place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use multihash_codetable::{Code, MultihashDigest};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::memory::Page;
use crate::store::database;

/// The length of the journal. Each time that it is full, the file itself has to be waited for.
const JOURNAL_BYTES: usize = 16 * 1024 * 1024;

/// The length of the journals that earlier versions made.
const OLD_JOURNAL_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of pages that a record may have. A larger commit takes so long to write twice that a second wait is cheaper.
pub(in crate::store) const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// Records begin at multiples of this, so that writing one doesn't touch another.
const ALIGNMENT: usize = 4096;

/// What a record begins with.
const MAGIC: [u8; 8] = *b"pinnjou1";

/// The bytes of a digest.
const DIGEST_BYTES: usize = 32;

type DigestBytes = [u8; DIGEST_BYTES];

/// Where a journal is kept.
pub(in crate::store) trait JournalFile: fmt::Debug + Send + Sync {
    /// Opens it, if it is there.
    fn open(&self) -> io::Result<Option<Box<dyn StorageBackend>>>;

    /// Makes it, in the place of a broken one. It has to be durable, with all its `length` bytes on the disk, when this returns.
    fn make(&self, length: usize) -> io::Result<Box<dyn StorageBackend>>;
}

/// A journal beside the file that it belongs to.
#[derive(Debug)]
pub(in crate::store) struct JournalPath(PathBuf);

impl JournalPath {
    /// That of the file at `path`.
    pub(in crate::store) fn of(path: &Path) -> Self {
        Self(database::with_suffix(path, "-journal"))
    }
}

/// Removes the journal of a file that was closed and has another name now.
pub(in crate::store) fn remove_journal(path: &Path) -> io::Result<()> {
    database::remove_if_there(&JournalPath::of(path).0)
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

impl JournalFile for JournalPath {
    fn open(&self) -> io::Result<Option<Box<dyn StorageBackend>>> {
        match File::options().read(true).write(true).open(&self.0) {
            Ok(file) => backend(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make(&self, length: usize) -> io::Result<Box<dyn StorageBackend>> {
        let file = backend(database::create_private(&self.0)?)?;
        // Zeros that are written, other than a hole, have their place on the disk: a record then changes nothing but itself.
        file.write(0, &vec![0; length])?;
        file.sync_data()?;
        database::sync_directory_of(&self.0)?;
        Ok(file)
    }
}

/// The journal of an open file.
#[derive(Debug)]
pub(super) struct Journal {
    source: Box<dyn JournalFile>,
    file: Option<Box<dyn StorageBackend>>,
    /// Why there is none was said already.
    is_unavailable: bool,
    generation: u64,
    /// Records of this generation.
    records: u32,
    /// Where the next record begins.
    end: usize,
}

/// What a record says of itself.
struct Head {
    generation: u64,
    /// Its place in the generation.
    number: u32,
    pages: u32,
    /// The length of what follows: that header, and the pages with what says where they belong.
    body_bytes: u64,
    /// The length of the file.
    file_bytes: u64,
    /// The length of the header that the file had before; it stands in front of the pages.
    header_bytes: u32,
    /// The digest of everything else.
    checksum: DigestBytes,
}

const HEAD_BYTES: usize = 8 + 8 + 4 + 4 + 8 + 8 + 4 + DIGEST_BYTES;

/// What says where a page belongs: its offset and its length.
const PAGE_HEAD_BYTES: usize = 8 + 4;

/// The checksum of a record in whose own place for it are zeros.
fn checksum(data: &[u8]) -> DigestBytes {
    let mut bytes = DigestBytes::default();
    let hash = Code::Blake3_256.digest(data);
    bytes.copy_from_slice(hash.digest());
    bytes
}

/// Takes the next bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

impl Head {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        if take(&mut bytes)? != MAGIC {
            return None;
        }
        Some(Self {
            generation: u64::from_le_bytes(take(&mut bytes)?),
            number: u32::from_le_bytes(take(&mut bytes)?),
            pages: u32::from_le_bytes(take(&mut bytes)?),
            body_bytes: u64::from_le_bytes(take(&mut bytes)?),
            file_bytes: u64::from_le_bytes(take(&mut bytes)?),
            header_bytes: u32::from_le_bytes(take(&mut bytes)?),
            checksum: take(&mut bytes)?,
        })
    }

    fn to_bytes(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &self.generation.to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.pages.to_le_bytes(),
            &self.body_bytes.to_le_bytes(),
            &self.file_bytes.to_le_bytes(),
            &self.header_bytes.to_le_bytes(),
            &self.checksum,
        ];
        let mut rest = &mut bytes[..];
        for field in fields {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        bytes
    }

    /// The whole record's length in the journal.
    fn record_bytes(&self) -> Option<usize> {
        let body = usize::try_from(self.body_bytes).ok().filter(|bytes| *bytes <= JOURNAL_BYTES)?;
        Some((HEAD_BYTES + body).next_multiple_of(ALIGNMENT))
    }
}

/// A record that was read.
struct Record {
    head: Head,
    bytes: Vec<u8>,
}

impl Record {
    /// The header that the file had before.
    fn header_before(&self) -> Option<&[u8]> {
        self.bytes.get(HEAD_BYTES..)?.get(..self.head.header_bytes as usize)
    }

    /// The header that the file had after it.
    fn header(&self) -> Option<&[u8]> {
        self.pages()?.into_iter().find_map(|(offset, page)| (offset == 0).then_some(page))
    }

    /// The pages, by offset; `None` when they aren't what the head says.
    fn pages(&self) -> Option<Vec<(u64, &[u8])>> {
        let mut rest = self.bytes.get(HEAD_BYTES..)?.get(self.head.header_bytes as usize..)?;
        let mut pages = Vec::new();
        for _ in 0..self.head.pages {
            let offset = u64::from_le_bytes(take(&mut rest)?);
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            let (page, after) = rest.split_at_checked(length)?;
            pages.push((offset, page));
            rest = after;
        }
        Some(pages)
    }
}

impl Journal {
    /// Opens the journal of `file` and writes what it has into the file, durably.
    pub(super) fn recover(source: Box<dyn JournalFile>, file: &dyn StorageBackend) -> io::Result<Self> {
        let opened = source.open()?;
        let mut journal = Self { source, file: None, is_unavailable: false, generation: 0, records: 0, end: 0 };
        let Some(opened) = opened else { return Ok(journal) };
        let length = opened.len()?;
        if length < OLD_JOURNAL_BYTES as u64 {
            // Made only in part; nothing was ever written to it.
            return Ok(journal);
        }
        // What is read has to be what a crash would leave: a record that isn't durable must not get into the file.
        opened.sync_data()?;
        let records = read_all(&*opened, usize::try_from(length).unwrap_or(usize::MAX).min(JOURNAL_BYTES))?;
        journal.file = Some(opened);
        if records.is_empty() {
            return Ok(journal.of_this_length(length));
        }
        if belongs(&records, file)? {
            for record in &records {
                if file.len()? < record.head.file_bytes {
                    file.set_len(record.head.file_bytes)?;
                }
                for (offset, page) in record.pages().into_iter().flatten() {
                    file.write(offset, page)?;
                }
            }
            file.sync_data()?;
            tracing::debug!(commits = records.len(), "commits were taken over from the journal after a crash");
        } else {
            tracing::warn!("the journal belongs to another file and is left aside");
        }
        journal.clear()?;
        Ok(journal.of_this_length(length))
    }

    /// Lets go of an empty journal that is shorter than this version's: it is made anew when it is needed.
    fn of_this_length(mut self, length: u64) -> Self {
        if length < JOURNAL_BYTES as u64 {
            self.file = None;
        }
        self
    }

    /// Whether it has nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether records can be appended. It is made when it is first needed.
    pub(super) fn is_available(&mut self) -> bool {
        if self.file.is_none() && !self.is_unavailable {
            match self.source.make(JOURNAL_BYTES) {
                Ok(file) => self.file = Some(file),
                Err(error) => {
                    tracing::warn!(%error, "the journal can't be made, so small writes take longer");
                    self.is_unavailable = true;
                }
            }
        }
        self.file.is_some()
    }

    /// Forgets everything, durably. What it had has to be durable in the file.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            // Should this fail half-way, the next record begins a new generation.
            self.end = JOURNAL_BYTES;
            file.write(0, &[0; ALIGNMENT])?;
            file.sync_data()?;
        }
        self.records = 0;
        self.end = 0;
        Ok(())
    }

    /// Appends the pages of a commit, with the header of `file` among them; they are durable when this returns. `false` when
    /// it can't take them.
    pub(super) fn append(&mut self, pages: &BTreeMap<u64, Page>, file: &dyn StorageBackend) -> io::Result<bool> {
        let (Some(journal), Some(header)) = (&self.file, pages.get(&0)) else { return Ok(false) };
        let pages_bytes: usize = pages.values().map(|page| PAGE_HEAD_BYTES + page.len()).sum();
        let body_bytes = header.len() + pages_bytes;
        let length = (HEAD_BYTES + body_bytes).next_multiple_of(ALIGNMENT);
        if length > JOURNAL_BYTES {
            return Ok(false);
        }
        if self.end + length > JOURNAL_BYTES {
            // What is there becomes durable in the file. The first record of a new generation then takes the old one's place.
            file.sync_data()?;
            self.records = 0;
            self.end = 0;
        }
        if self.records == 0 {
            self.generation = rand::random();
        }
        let mut header_before = vec![0; header.len()];
        file.read(0, &mut header_before)?;
        let mut head = Head {
            generation: self.generation,
            number: self.records,
            pages: u32::try_from(pages.len()).unwrap_or(u32::MAX),
            body_bytes: body_bytes as u64,
            file_bytes: file.len()?,
            header_bytes: u32::try_from(header.len()).unwrap_or(u32::MAX),
            checksum: DigestBytes::default(),
        };
        let mut record = Vec::with_capacity(length);
        record.extend_from_slice(&head.to_bytes());
        record.extend_from_slice(&header_before);
        for (offset, page) in pages {
            record.extend_from_slice(&offset.to_le_bytes());
            record.extend_from_slice(&u32::try_from(page.len()).unwrap_or(u32::MAX).to_le_bytes());
            record.extend_from_slice(page);
        }
        head.checksum = checksum(&record);
        record[..HEAD_BYTES].copy_from_slice(&head.to_bytes());
        record.resize(length, 0);
        journal.write(self.end as u64, &record)?;
        journal.sync_data()?;
        self.records += 1;
        self.end += length;
        Ok(true)
    }
}

/// The records of the generation that is in the journal.
fn read_all(journal: &dyn StorageBackend, journal_bytes: usize) -> io::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut start = 0;
    while start + ALIGNMENT <= journal_bytes {
        let mut first = [0; HEAD_BYTES];
        journal.read(start as u64, &mut first)?;
        let Some(mut head) = Head::read(&first) else { break };
        let continues = records.last().is_none_or(|last| last.head.generation == head.generation);
        let Some(length) = head.record_bytes().filter(|length| start + length <= journal_bytes) else { break };
        if !continues || head.number as usize != records.len() {
            break;
        }
        let Ok(body_bytes) = usize::try_from(head.body_bytes) else { break };
        let mut bytes = vec![0; HEAD_BYTES + body_bytes];
        journal.read(start as u64, &mut bytes)?;
        let expected = std::mem::take(&mut head.checksum);
        bytes[..HEAD_BYTES].copy_from_slice(&head.to_bytes());
        if checksum(&bytes) != expected {
            break;
        }
        let record = Record { head, bytes };
        if record.pages().is_none() {
            break;
        }
        records.push(record);
        start += length;
    }
    Ok(records)
}

/// Whether the header of the file is one that it can have had while these records were written. One that was being written
/// may be torn.
fn belongs(records: &[Record], file: &dyn StorageBackend) -> io::Result<bool> {
    let before = records.first().and_then(Record::header_before);
    let headers: Vec<&[u8]> = before.into_iter().chain(records.iter().filter_map(Record::header)).collect();
    let Some(length) = headers.first().map(|header| header.len()) else { return Ok(false) };
    if file.len()? < length as u64 {
        return Ok(false);
    }
    let mut present = vec![0; length];
    file.read(0, &mut present)?;
    Ok(present.iter().enumerate().all(|(at, byte)| headers.iter().any(|header| header.get(at) == Some(byte))))
}
