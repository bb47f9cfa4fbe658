//! What a disk with its journal gives to redb, on files in memory.

use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, TableDefinition};

use super::*;
use crate::model::Block;
use crate::model::cids::codec;
use crate::store::blocks::BlockStore;
use crate::store::database::begin_write;
use crate::store::records::Records;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("table");

/// A file in memory that counts what it is asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: Mutex<Vec<u8>>,
    writes: AtomicU64,
    syncs: AtomicU64,
    is_full: AtomicBool,
    gate: Mutex<Gate>,
    gate_moved: Condvar,
}

/// What holds up who waits for the disk.
#[derive(Debug, Default)]
struct Gate {
    is_closed: bool,
    /// How many may pass although it is closed.
    passes: usize,
    waiting: usize,
}

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.bytes.lock().unwrap()
    }

    fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Acquire)
    }

    pub(super) fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Acquire)
    }

    /// From now on, who waits for the disk waits.
    pub(super) fn close_gate(&self) {
        self.0.gate.lock().unwrap().is_closed = true;
    }

    pub(super) fn open_gate(&self) {
        self.0.gate.lock().unwrap().is_closed = false;
        self.0.gate_moved.notify_all();
    }

    /// Lets so many through while it stays closed.
    pub(super) fn let_through(&self, count: usize) {
        self.0.gate.lock().unwrap().passes += count;
        self.0.gate_moved.notify_all();
    }

    /// Returns when somebody waits for the disk behind the gate.
    pub(super) fn wait_at_gate(&self) {
        let gate = self.0.gate.lock().unwrap();
        drop(self.0.gate_moved.wait_while(gate, |gate| gate.waiting == 0).unwrap());
    }

    fn pass_gate(&self) {
        let mut gate = self.0.gate.lock().unwrap();
        if gate.is_closed {
            gate.waiting += 1;
            self.0.gate_moved.notify_all();
            gate = self.0.gate_moved.wait_while(gate, |gate| gate.is_closed && gate.passes == 0).unwrap();
            gate.waiting -= 1;
            gate.passes = gate.passes.saturating_sub(1);
        }
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::Release);
    }

    /// Another file with the same bytes.
    pub(super) fn copied(&self) -> Self {
        let copy = Self::default();
        copy.bytes().clone_from(&self.bytes());
        copy
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.bytes();
        out.copy_from_slice(bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::AcqRel);
        self.pass_gate();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.is_full.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.writes.fetch_add(1, Ordering::AcqRel);
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes();
        let end = bytes.len().max(start + data.len());
        bytes.resize(end, 0);
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl DiskFile for Memory {}

/// An empty one isn't there yet.
impl JournalFile for Memory {
    fn open(&self) -> io::Result<Option<Box<dyn StorageBackend>>> {
        Ok(if self.bytes().is_empty() { None } else { Some(Box::new(self.clone())) })
    }

    fn make(&self, length: usize) -> io::Result<Box<dyn StorageBackend>> {
        self.write(0, &vec![0; length])?;
        Ok(Box::new(self.clone()))
    }
}

pub(super) fn open(file: &Memory, journal: &Memory) -> Database {
    open_with(Builder::new(), file, journal)
}

pub(super) fn open_with(mut builder: Builder, file: &Memory, journal: &Memory) -> Database {
    let disk = Disk::new(Box::new(file.clone()), Box::new(journal.clone())).unwrap();
    builder.set_repair_callback(redb::RepairSession::abort).create_with_backend(disk).unwrap()
}

pub(super) fn insert(transaction: &WriteTransaction, key: u64, value: &[u8]) -> Result<(), redb::Error> {
    transaction.open_table(TABLE)?.insert(key, value)?;
    Ok(())
}

pub(super) fn put(database: &Database, key: u64, value: &[u8]) -> Result<(), redb::Error> {
    let transaction = begin_write(database)?;
    insert(&transaction, key, value)?;
    Ok(commit(transaction)?)
}

pub(super) fn get(database: &Database, key: u64) -> Option<Vec<u8>> {
    let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
    table.get(key).unwrap().map(|value| value.value().to_vec())
}

/// Numbers below a bound; the same ones for the same seed.
pub(super) fn random() -> impl FnMut(usize) -> usize {
    let seed: u64 = std::env::var("PINNACE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("PINNACE_TEST_SEED={seed}");
    let mut state = seed;
    move |end| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    }
}

pub(super) fn byte(next: &mut impl FnMut(usize) -> usize) -> u8 {
    u8::try_from(next(256)).unwrap()
}

#[tokio::test]
async fn a_put_and_a_change_of_the_records_wait_for_the_disk_once() {
    let files: [Memory; 4] = Default::default();
    let opener = |file: Memory, journal: Memory| Box::new(move || Ok(open(&file, &journal)));
    let [file, journal, records_file, records_journal] = files.clone();
    let blocks = BlockStore::open_backend(opener(file, journal)).unwrap();
    let records = Records::open_with("records", opener(records_file, records_journal)).unwrap();
    let mut counts = std::collections::BTreeMap::<[u64; 2], u64>::new();
    for number in 0..200_u64 {
        let syncs = |files: &[Memory]| files.iter().map(Memory::syncs).sum::<u64>();
        let before = [syncs(&files[..2]), syncs(&files[2..])];
        let block = Block::new_sha256(codec::RAW, Bytes::copy_from_slice(&number.to_le_bytes().repeat(100))).unwrap();
        blocks.writer().put(vec![block]).await.unwrap();
        records.write(move |change| change.set_meta("test", &number)).await.unwrap();
        let waits = [syncs(&files[..2]) - before[0], syncs(&files[2..]) - before[1]];
        *counts.entry(waits).or_default() += 1;
    }
    // Now and then the journal is full, or the file grows.
    assert!(counts.get(&[1, 1]).is_some_and(|count| *count > 180), "{counts:?}");
}

#[test]
fn what_only_the_journal_has_is_there_after_a_crash() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    // The file neither grows nor shrinks with what follows.
    put(&database, 1000, &vec![0; 3_000_000]).unwrap();
    put(&database, 0, b"zero").unwrap();
    let durable = file.copied();
    let syncs = file.syncs();
    for key in 1..20_u64 {
        put(&database, key, &key.to_le_bytes()).unwrap();
        if file.syncs() > syncs {
            continue;
        }
        // Nothing of what was written since reached the disk.
        let (file, journal) = (durable.copied(), journal.copied());
        let crashed = open(&file, &journal);
        assert_eq!(get(&crashed, key), Some(key.to_le_bytes().to_vec()));
        put(&crashed, 100, b"more").unwrap();
        drop(crashed);
        assert_eq!(get(&open(&file, &journal), 100).as_deref(), Some(b"more".as_slice()));
    }
    assert_eq!(file.syncs(), syncs, "these commits fit into the journal");
}

#[test]
fn a_journal_is_not_written_over_another_file_or_a_newer_state() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    put(&database, 1, b"one").unwrap();
    put(&database, 2, b"two").unwrap();
    let left_behind = journal.copied();
    put(&database, 3, b"three").unwrap();
    drop(database);

    let other = Memory::default();
    drop(open(&other, &Memory::default()));
    let before = other.copied();
    let opened = Disk::new(Box::new(other.clone()), Box::new(left_behind.copied())).unwrap();
    assert_eq!(*other.bytes(), *before.bytes());
    drop(opened);

    let closed = file.copied();
    let database = open(&closed, &left_behind);
    assert_eq!(get(&database, 3).as_deref(), Some(b"three".as_slice()));
}

#[test]
fn every_cut_and_every_flipped_byte_of_the_journal_leaves_a_whole_commit() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    // The file neither grows nor shrinks with what follows.
    put(&database, 1000, &vec![0; 3_000_000]).unwrap();
    put(&database, 0, b"zero").unwrap();
    let durable = file.copied();
    let start = journal.copied();
    let syncs = file.syncs();
    for key in 1..=3_u64 {
        put(&database, key, &key.to_le_bytes()).unwrap();
    }
    assert_eq!(file.syncs(), syncs);
    let whole = journal.bytes().clone();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let check = |bytes: Vec<u8>| {
        let torn = Memory::default();
        *torn.bytes() = bytes;
        let database = open(&durable.copied(), &torn);
        let found: Vec<bool> = (1..=3).map(|key| get(&database, key) == Some(u64::to_le_bytes(key).to_vec())).collect();
        assert!(found.is_sorted_by(|one, other| one >= other), "{found:?}");
        found.into_iter().filter(|found| *found).count()
    };
    assert_eq!(check(whole.clone()), 3);
    let mut seen = [false; 4];
    for at in (0..end).step_by(1021) {
        let mut cut = start.bytes().clone();
        cut[..at].copy_from_slice(&whole[..at]);
        seen[check(cut)] = true;
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        seen[check(flipped)] = true;
    }
    assert!(seen[..3].iter().all(|seen| *seen), "{seen:?}");
}

#[test]
fn commits_go_past_a_journal_that_cannot_be_made() {
    let (file, journal) = (Memory::default(), Memory::default());
    journal.set_full(true);
    let database = open(&file, &journal);
    put(&database, 1, b"one").unwrap();
    let syncs = file.syncs();
    put(&database, 2, b"two").unwrap();
    assert_eq!(file.syncs(), syncs + 2);
    let crashed = open(&file.copied(), &Memory::default());
    assert_eq!(get(&crashed, 2).as_deref(), Some(b"two".as_slice()));
}

#[test]
fn a_full_disk_fails_a_commit_before_it_is_in_the_journal() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    put(&database, 1, b"one").unwrap();
    file.set_full(true);
    put(&database, 2, b"two").unwrap_err();
    drop(database);
    // It opens although nothing can be written.
    let disk = Disk::new(Box::new(file.clone()), Box::new(journal.clone()));
    file.set_full(false);
    drop(disk);
    let database = open(&file, &journal);
    assert_eq!((get(&database, 1).as_deref(), get(&database, 2)), (Some(b"one".as_slice()), None));
}

#[test]
fn large_commits_and_small_ones_follow_each_other() {
    let mut next = random();
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    let mut expected = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let length = if next(4) == 0 { next(3_000_000) } else { next(5_000) };
        let (key, value) = (next(10) as u64, vec![byte(&mut next); length]);
        put(&database, key, &value).unwrap();
        expected.insert(key, value);
        // What a killed process leaves: everything that was written, nothing that was held.
        let crashed = open(&file.copied(), &journal.copied());
        for (key, value) in &expected {
            assert!(get(&crashed, *key).as_ref() == Some(value), "{key}");
        }
    }
}

#[test]
fn whatever_is_written_is_read_before_and_after_it_is_in_the_file() {
    let mut next = random();
    let file = Memory::default();
    let disk = Disk::new(Box::new(file.clone()), Box::new(Memory::default())).unwrap();
    let mut model = vec![0; 400_000];
    disk.set_len(model.len() as u64).unwrap();
    for step in 0..20_000 {
        let start = next(model.len());
        // Now and then as long as what isn't held.
        let longest = if next(20) == 0 { 2 * SEGMENT_BYTES } else { 3_000 };
        let length = next((model.len() - start).min(longest)) + 1;
        match next(20) {
            0 => disk.sync_data().unwrap(),
            1 => {
                let longer = model.len() / 2 + next(400_000);
                model.resize(longer.max(1), 0);
                disk.set_len(model.len() as u64).unwrap();
            }
            2..8 => {
                let byte = byte(&mut next);
                model[start..start + length].fill(byte);
                disk.write(start as u64, &vec![byte; length]).unwrap();
            }
            _ => {
                let mut read = vec![0; length];
                disk.read(start as u64, &mut read).unwrap();
                assert!(read == model[start..start + length], "step {step}: {length} bytes from {start} on");
            }
        }
    }
    disk.sync_data().unwrap();
    assert!(*file.bytes() == model);
}
