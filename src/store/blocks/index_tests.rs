//! The index and its front: nothing is lost between the two, and older files become ones of today.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, ReadableDatabase, ReadableTableMetadata};

use super::tests::block;
use super::*;
use crate::model::Block;

fn open(path: &Path) -> BlockStore {
    BlockStore::open(path, 4 << 20, 4 << 20).unwrap()
}

/// A number that depends on the seed and nothing else.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

fn assert_holds_exactly(store: &BlockStore, expected: &HashMap<u64, Block>, end: u64) {
    let reader = store.reader();
    for number in 0..end {
        let data = reader.get(block(number, 20).cid()).unwrap();
        assert_eq!(data.as_ref(), expected.get(&number).map(Block::data), "block {number}");
    }
    assert_eq!(reader.stats().unwrap().blocks, expected.len() as u64);
}

#[tokio::test]
async fn blocks_are_found_before_during_and_after_their_way_into_the_index() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut state = seed;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let mut store = open(&path);
    let mut expected: HashMap<u64, Block> = HashMap::new();
    let mut end = 0;
    for _ in 0..60 {
        match next(&mut state) % 8 {
            0 => {
                store.close();
                store = open(&path);
            }
            1 => store.reader().file().settle().unwrap(),
            2 => store.reader().file().settle_fullest().unwrap(),
            _ => {
                // New ones, and some that are there already.
                let count = 1 + next(&mut state) % 120;
                let first = end - next(&mut state) % (end + 1).min(50);
                let blocks: Vec<Block> = (first..first + count).map(|number| block(number, 20)).collect();
                store.writer().put(blocks.clone()).await.unwrap();
                expected.extend((first..).zip(blocks));
                end = end.max(first + count);
            }
        }
    }
    assert_holds_exactly(&store, &expected, end + 10);
    assert!(store.reader().file().recent_len() <= 256, "the front of the index is bounded");
    store.close();
    assert_holds_exactly(&open(&path), &expected, end + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_always_find_what_was_put_while_it_is_merged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("blocks.redb"));
    let writer = store.writer();
    let blocks: Vec<Block> = (0..64).map(|number| block(number, 20)).collect();
    writer.put(blocks.clone()).await.unwrap();
    let cids: Vec<_> = blocks.iter().map(|block| *block.cid()).collect();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (reader, cids, done) = (store.reader(), cids.clone(), Arc::clone(&done));
            tokio::task::spawn_blocking(move || {
                let mut rounds = 0;
                while !done.load(Ordering::Acquire) {
                    assert!(reader.get_many(&cids).unwrap().iter().all(Option::is_some));
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    for round in 0..40 {
        let more = (0..30).map(|number| block(1000 + round * 30 + number, 20)).collect();
        writer.put(more).await.unwrap();
        let file = store.reader().file();
        tokio::task::spawn_blocking(move || file.settle().unwrap()).await.unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

/// Makes a file of today into one of version 1, as it was before the front of the index.
fn make_version_1(path: &Path) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(file::META).unwrap();
        meta.insert(file::META_SCHEMA, 1).unwrap();
        meta.remove(file::META_SEGMENT_BYTES).unwrap();
    }
    assert!(transaction.delete_table(recent::RECENT).unwrap());
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_file_of_version_1_is_upgraded_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let store = open(&path);
    let blocks: Vec<Block> = (0..300).map(|number| block(number, 1000)).collect();
    store.writer().put(blocks.clone()).await.unwrap();
    store.reader().file().settle().unwrap();
    let segment_bytes = store.reader().stats().unwrap().segment_bytes;
    assert_eq!(segment_bytes, 300_000);
    store.close();
    make_version_1(&path);

    for _ in 0..2 {
        let store = open(&path);
        let reader = store.reader();
        assert!(blocks.iter().all(|block| reader.get(block.cid()).unwrap().as_ref() == Some(block.data())));
        assert_eq!(reader.stats().unwrap(), BlockStats { blocks: 300, segment_bytes });
        store.close();
    }
    let store = open(&path);
    store.writer().put(vec![block(1000, 10)]).await.unwrap();
    assert_eq!(store.reader().stats().unwrap(), BlockStats { blocks: 301, segment_bytes: segment_bytes + 10 });
}

#[test]
fn opening_a_file_of_today_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    open(&path).close();
    let last_transaction = || {
        let database = Database::open(&path).unwrap();
        let count = database.begin_read().unwrap().open_table(file::META).unwrap().len().unwrap();
        (count, std::fs::metadata(&path).unwrap().len())
    };
    let before = last_transaction();
    open(&path).close();
    assert_eq!(last_transaction(), before);
}
