//! What a commit that flies shows, and what a crash or a failing disk makes of it, on files in memory.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::tests::{Memory, get, insert, open, open_with, put};
use super::*;
use crate::model::Block;
use crate::model::cids::codec;
use crate::store::blocks::BlockStore;
use crate::store::database::begin_write;

/// Longer than what the journal takes.
const LARGE: usize = 3_000_000;

/// A database whose journal is empty: a flight doesn't have to wait for that.
fn new_database(file: &Memory, journal: &Memory) -> redb::Database {
    let database = open(file, journal);
    put(&database, 0, b"zero").unwrap();
    put_ahead(&database, 1000, &vec![0; LARGE]).unwrap().unwrap().wait().unwrap();
    database
}

fn put_ahead(database: &redb::Database, key: u64, value: &[u8]) -> Result<Option<Flight>, redb::Error> {
    put_ahead_after(database, key, value, || {})
}

/// The same; `before_commit` comes when the file has grown as much as it must, which waits for the disk as well.
fn put_ahead_after(
    database: &redb::Database,
    key: u64,
    value: &[u8],
    before_commit: impl FnOnce(),
) -> Result<Option<Flight>, redb::Error> {
    let transaction = begin_write(database)?;
    insert(&transaction, key, value)?;
    before_commit();
    Ok(commit_ahead(transaction)?)
}

/// What a killed process, or a pulled plug after everything that was written, would leave.
fn found_after_crash(file: &Memory, journal: &Memory, key: u64) -> Option<Vec<u8>> {
    get(&open(&file.copied(), &journal.copied()), key)
}

#[test]
fn a_flight_is_read_at_once_and_durable_when_it_has_landed() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = new_database(&file, &journal);
    let value = vec![7; LARGE];
    let flight = put_ahead_after(&database, 1, &value, || file.close_gate()).unwrap().expect("a large commit flies");
    assert!(get(&database, 1).as_ref() == Some(&value));
    // It waits for the disk with its pages, so its header can't be there.
    file.wait_at_gate();
    assert!(found_after_crash(&file, &journal, 1).is_none());
    assert_eq!(found_after_crash(&file, &journal, 0).as_deref(), Some(b"zero".as_slice()));
    let (sender, landed) = mpsc::channel();
    flight.when_landed(move || sender.send(()).unwrap());
    assert!(landed.try_recv().is_err());
    file.open_gate();
    landed.recv().unwrap();
    flight.wait().unwrap();
    assert!(found_after_crash(&file, &journal, 1).as_ref() == Some(&value));
    // Who comes late is called as well.
    let (sender, landed) = mpsc::channel();
    flight.when_landed(move || sender.send(()).unwrap());
    landed.try_recv().unwrap();
}

#[test]
fn nothing_overtakes_a_flight() {
    for length in [100, LARGE] {
        for is_ahead in [false, true] {
            let (file, journal) = (Memory::default(), Memory::default());
            let database = new_database(&file, &journal);
            let flight = put_ahead_after(&database, 1, &vec![7; LARGE], || file.close_gate()).unwrap().unwrap();
            file.wait_at_gate();
            let written = (file.writes(), journal.writes());
            thread::scope(|scope| {
                let next = scope.spawn(|| {
                    let transaction = begin_write(&database).unwrap();
                    insert(&transaction, 2, &vec![8; length]).unwrap();
                    let next = if is_ahead { commit_ahead(transaction) } else { commit(transaction).map(|()| None) };
                    next.unwrap().map_or(Ok(()), |flight| flight.wait()).unwrap();
                    assert!(matches!(flight.wait(), Ok(())));
                });
                // It can get no further than to wait; whether it is there yet doesn't matter.
                assert_eq!((file.writes(), journal.writes()), written);
                assert!(found_after_crash(&file, &journal, 2).is_none());
                file.open_gate();
                next.join().unwrap();
            });
            for (key, value) in [(1, vec![7; LARGE]), (2, vec![8; length])] {
                assert!(found_after_crash(&file, &journal, key) == Some(value), "{key}, {length}, {is_ahead}");
            }
        }
    }
}

#[test]
fn who_reads_waits_for_no_flight() {
    const VALUES: u64 = 16;
    let (file, journal) = (Memory::default(), Memory::default());
    let mut builder = redb::Builder::new();
    // Half of what is read, so that readers have to make room.
    builder.set_cache_size(8 << 20);
    let database = open_with(builder, &file, &journal);
    let value = vec![9; 1 << 20];
    for key in 0..VALUES {
        put(&database, key, &value).unwrap();
    }
    put_ahead(&database, 1000, &vec![0; LARGE]).unwrap().unwrap().wait().unwrap();
    // It frees the pages of the value before. What redb notes about that stays in its cache, to be written with the next commit.
    let flight = put_ahead_after(&database, 1000, &vec![7; LARGE], || file.close_gate()).unwrap().unwrap();
    file.wait_at_gate();
    let (sender, all_read) = mpsc::channel();
    let read = thread::scope(|scope| {
        scope.spawn(|| {
            let _reading = Reading::begin();
            let found = (0..VALUES).all(|key| get(&database, key).as_ref() == Some(&value));
            sender.send(found).unwrap();
        });
        let read = all_read.recv_timeout(Duration::from_secs(60));
        file.open_gate();
        read
    });
    assert_eq!(read, Ok(true), "a reader waited for the disk");
    flight.wait().unwrap();
    // What the reader was refused failed nothing.
    put(&database, 1, b"one").unwrap();
    assert_eq!(get(&database, 1).as_deref(), Some(b"one".as_slice()));
    assert!(found_after_crash(&file, &journal, 1000) == Some(vec![7; LARGE]));
}

#[test]
fn after_a_failed_flight_everything_fails_until_the_file_is_opened_again() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = new_database(&file, &journal);
    let flight = put_ahead_after(&database, 1, &vec![7; LARGE], || file.set_full(true)).unwrap().unwrap();
    assert_eq!(flight.wait().unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.set_full(false);
    put(&database, 2, b"two").unwrap_err();
    put_ahead(&database, 3, &vec![8; LARGE]).unwrap_err();
    drop(database);
    let database = open(&file, &journal);
    for key in 1..4 {
        assert!(get(&database, key).is_none());
    }
    assert_eq!(get(&database, 0).as_deref(), Some(b"zero".as_slice()));
    put_ahead(&database, 1, &vec![7; LARGE]).unwrap().unwrap().wait().unwrap();
    assert!(found_after_crash(&file, &journal, 1) == Some(vec![7; LARGE]));
}

#[test]
fn a_file_that_is_closed_waits_for_its_flight() {
    let (file, journal) = (Memory::default(), Memory::default());
    let database = new_database(&file, &journal);
    put_ahead_after(&database, 1, &vec![7; LARGE], || file.close_gate()).unwrap().unwrap();
    file.wait_at_gate();
    thread::scope(|scope| {
        scope.spawn(|| drop(database));
        file.open_gate();
    });
    assert!(get(&open(&file, &journal), 1) == Some(vec![7; LARGE]));
}

#[test]
fn flights_and_other_commits_follow_each_other() {
    let mut next = super::tests::random();
    let (file, journal) = (Memory::default(), Memory::default());
    let database = open(&file, &journal);
    let mut expected = std::collections::BTreeMap::new();
    let mut flights = 0;
    for step in 0..120 {
        let length = if next(3) == 0 { next(LARGE) } else { next(5_000) };
        let (key, value) = (next(10) as u64, vec![super::tests::byte(&mut next); length]);
        if next(4) == 0 {
            put(&database, key, &value).unwrap();
        } else if let Some(flight) = put_ahead(&database, key, &value).unwrap() {
            flights += 1;
            if next(2) == 0 {
                flight.wait().unwrap();
            }
        }
        expected.insert(key, value);
        for (key, value) in &expected {
            assert!(get(&database, *key).as_ref() == Some(value), "step {step}: {key}");
        }
    }
    drop(database);
    assert!(flights > 10, "{flights}");
    let database = open(&file, &journal);
    for (key, value) in &expected {
        assert!(get(&database, *key).as_ref() == Some(value), "{key}");
    }
}

const BLOCK_BYTES: usize = 128 * 1024;

fn block(number: u64) -> Block {
    Block::new_sha256(codec::RAW, number.to_le_bytes().repeat(BLOCK_BYTES / 8).into()).unwrap()
}

/// A store in which commits of eleven blocks fly at once, five at least.
async fn store_with_room(file: &Memory) -> BlockStore {
    let (opened, journal) = (file.clone(), Memory::default());
    let store = BlockStore::open_backend(Box::new(move || Ok(open(&opened, &journal)))).unwrap();
    // Until the file has just grown, so that it has room for the rest.
    let mut length = 0;
    for number in (1000..).step_by(10) {
        let before = std::mem::replace(&mut length, file.len().unwrap());
        if before > 32 << 20 && length > before {
            break;
        }
        store.writer().put((number..number + 10).map(block).collect()).await.unwrap();
    }
    // Entries that are merged don't fly, and a commit waits if the journal isn't empty.
    store.settle().unwrap();
    store.writer().put((500..510).map(block).collect()).await.unwrap();
    store
}

#[tokio::test]
async fn a_put_is_answered_when_it_has_landed_whatever_flies_behind_it() {
    let file = Memory::default();
    let store = store_with_room(&file).await;
    let submit =
        async |numbers: std::ops::Range<u64>| store.writer().submit(numbers.map(block).collect()).await.unwrap();
    file.close_gate();
    let first = submit(0..20).await;
    file.wait_at_gate();
    let second = submit(20..40).await;
    // The pages of the first, and its header.
    file.let_through(2);
    let answer = tokio::time::timeout(Duration::from_secs(60), first.committed()).await;
    let held = [0, 20].map(|number| store.reader().has(block(number).cid()).unwrap());
    file.open_gate();
    answer.expect("it has landed").unwrap();
    assert_eq!(held, [true, false]);
    second.committed().await.unwrap();
    assert!(store.reader().has(block(20).cid()).unwrap());
}

#[tokio::test]
async fn blocks_are_found_when_they_are_durable_and_stored_once() {
    let file = Memory::default();
    let store = store_with_room(&file).await;
    let stored = store.reader().stats().unwrap();
    file.close_gate();
    // Each job is large enough to fly, and begins with the block that ends the one before it.
    let mut puts = Vec::new();
    for job in 0..5_u64 {
        puts.push(store.writer().submit((job * 10..=job * 10 + 10).map(block).collect()).await.unwrap());
    }
    file.wait_at_gate();
    for number in 0..=50 {
        assert!(store.reader().get(block(number).cid()).unwrap().is_none(), "{number}");
    }
    file.open_gate();
    for (job, put) in puts.into_iter().enumerate() {
        put.committed().await.unwrap();
        for number in 0..=10 {
            let block = block(job as u64 * 10 + number);
            assert_eq!(store.reader().get(block.cid()).unwrap().as_ref(), Some(block.data()));
        }
    }
    let stats = store.reader().stats().unwrap();
    assert_eq!(stats.blocks - stored.blocks, 51);
    assert_eq!(stats.segment_bytes - stored.segment_bytes, 51 * BLOCK_BYTES as u64);
}
