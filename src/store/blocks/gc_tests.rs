//! Garbage collection: what it keeps and frees, and what happens between its steps.

use std::path::Path;

use bytes::Bytes;
use cid::Cid;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::gc::Collection;
use super::{BlockStore, GcPhase, GcReport, SEGMENT_BYTES};
use crate::model::Block;
use crate::model::cids::codec;

const CACHE_BYTES: usize = 8 * 1024 * 1024;
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

struct Fixture {
    store: BlockStore,
    runtime: Runtime,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        Self { store, runtime: Runtime::new().unwrap(), directory }
    }

    fn put(&self, blocks: &[Block]) {
        self.runtime.block_on(self.store.writer().put(blocks.to_vec())).unwrap();
    }

    fn has(&self, block: &Block) -> bool {
        match self.store.reader().get(block.cid()).unwrap() {
            Some(data) => {
                assert_eq!(&data, block.data(), "a held block is whole");
                true
            }
            None => false,
        }
    }

    fn collect(&self, roots: &[Cid]) -> GcReport {
        let mut collection = self.store.collector(links).begin().unwrap();
        finish(&mut collection, roots)
    }
}

/// What [`node`] links to.
fn links(cid: &Cid, data: &Bytes) -> Vec<Cid> {
    assert_eq!(cid.codec(), codec::DAG_CBOR, "only nodes are read");
    if data.is_empty() {
        return Vec::new();
    }
    serde_ipld_dagcbor::from_slice(data).unwrap()
}

fn open(directory: &Path) -> BlockStore {
    BlockStore::open(&directory.join("blocks.redb"), CACHE_BYTES, BUFFER_BYTES).unwrap()
}

fn finish(collection: &mut Collection, roots: &[Cid]) -> GcReport {
    for root in roots {
        collection.add_root(root);
    }
    collection.seal_roots();
    while collection.step().unwrap() != GcPhase::Done {}
    collection.report()
}

fn raw(number: u64, bytes: usize) -> Block {
    let mut data = vec![0; bytes.max(8)];
    data[..8].copy_from_slice(&number.to_le_bytes());
    Block::new_sha256(codec::RAW, Bytes::from(data)).unwrap()
}

/// A dag-cbor node that links to others.
fn node(children: &[&Block]) -> Block {
    let links: Vec<Cid> = children.iter().map(|child| *child.cid()).collect();
    let data = serde_ipld_dagcbor::to_vec(&links).unwrap();
    Block::new_sha256(codec::DAG_CBOR, Bytes::from(data)).unwrap()
}

#[test]
fn keeps_what_roots_reach_and_removes_the_rest() {
    let fixture = Fixture::new();
    let (leaf, large, dead) = (raw(1, 100), raw(2, 3 * SEGMENT_BYTES), raw(3, 200_000));
    let inner = node(&[&leaf, &large]);
    let root = node(&[&inner]);
    let dead_root = node(&[&dead, &leaf]);
    fixture.put(&[leaf.clone(), large.clone(), inner.clone(), root.clone(), dead.clone(), dead_root.clone()]);
    let report = fixture.collect(&[*root.cid()]);
    assert_eq!((report.kept_blocks, report.removed_blocks), (4, 2));
    assert_eq!(report.removed_bytes, (dead.data().len() + dead_root.data().len()) as u64);
    for block in [&leaf, &large, &inner, &root] {
        assert!(fixture.has(block));
    }
    assert!(!fixture.has(&dead) && !fixture.has(&dead_root));
    // Nothing is left to do, and a removed block can come again.
    assert_eq!(fixture.collect(&[*root.cid()]).removed_blocks, 0);
    fixture.put(std::slice::from_ref(&dead));
    assert!(fixture.has(&dead));
}

#[test]
fn an_empty_store_and_no_roots_are_fine() {
    let fixture = Fixture::new();
    assert_eq!(fixture.collect(&[]), GcReport::default());
    let block = raw(1, 1000);
    fixture.put(std::slice::from_ref(&block));
    assert_eq!(fixture.collect(&[]).removed_blocks, 1);
    assert!(!fixture.has(&block));
    assert_eq!(fixture.store.reader().segment_bytes(), 0);
}

#[test]
fn segment_numbers_are_never_used_again() {
    let fixture = Fixture::new();
    fixture.put(&[raw(1, 1000)]);
    let before = fixture.store.reader().segment_numbers();
    fixture.collect(&[]);
    fixture.put(&[raw(2, 1000)]);
    let after = fixture.store.reader().segment_numbers();
    assert!(before.last() < after.first(), "{before:?} {after:?}");
}

#[test]
fn mostly_dead_segments_are_vacated() {
    let fixture = Fixture::new();
    let blocks: Vec<Block> = (0..6000).map(|number| raw(number, 1024)).collect();
    fixture.put(&blocks);
    let kept: Vec<&Block> = blocks.iter().step_by(3).collect();
    let root = node(&kept);
    fixture.put(std::slice::from_ref(&root));
    let report = fixture.collect(&[*root.cid()]);
    assert_eq!(report.removed_blocks, 4000);
    assert!(report.dropped_segments > 0 && report.moved_blocks >= 2000);
    let live: usize = kept.iter().map(|block| block.data().len()).sum::<usize>() + root.data().len();
    let held = fixture.store.reader().segment_bytes();
    assert!(held * 10 <= live * 13, "{held} bytes in segments for {live} that live");
    assert!(kept.iter().all(|block| fixture.has(block)));
    // And all of it is still there after a restart.
    let Fixture { store, directory, .. } = fixture;
    store.close();
    let store = open(directory.path());
    for block in kept {
        assert_eq!(store.reader().get(block.cid()).unwrap().as_ref(), Some(block.data()));
    }
}

#[test]
fn deleting_and_adding_again_does_not_let_the_file_grow() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let on_disk = || std::fs::metadata(fixture.directory.path().join("blocks.redb")).unwrap().blocks() * 512;
    let mut first = 0;
    for round in 0..10 {
        let blocks: Vec<Block> = (0..64).map(|number| raw(round * 1000 + number, 256 * 1024)).collect();
        fixture.put(&blocks);
        if round == 0 {
            first = on_disk();
        }
        assert_eq!(fixture.collect(&[]).removed_blocks, 64);
    }
    assert!(on_disk() * 2 <= first * 3, "{first} bytes at first, {} now", on_disk());
}

#[test]
fn the_same_bytes_are_walked_under_each_codec() {
    let fixture = Fixture::new();
    let leaf = raw(1, 100);
    let parent = node(&[&leaf]);
    let as_raw = Cid::new_v1(codec::RAW, *parent.cid().hash());
    fixture.put(&[leaf.clone(), parent.clone()]);
    fixture.collect(&[as_raw, *parent.cid()]);
    assert!(fixture.has(&leaf));
    fixture.collect(&[as_raw]);
    assert!(fixture.has(&parent), "the bytes are kept as what the root says they are");
    assert!(!fixture.has(&leaf), "a raw block has no links");
}

#[test]
fn a_dag_with_holes_keeps_what_is_held_of_it() {
    let fixture = Fixture::new();
    let (held, missing) = (raw(1, 100), raw(2, 100));
    let root = node(&[&missing, &held]);
    fixture.put(&[held.clone(), root.clone()]);
    assert_eq!(fixture.collect(&[*root.cid()]).removed_blocks, 0);
    assert!(fixture.has(&held));
}

/// The empty block lies where the node behind it lies, and is walked first.
#[test]
fn an_empty_node_does_not_stand_for_the_one_behind_it() {
    let fixture = Fixture::new();
    let empty = Block::new_sha256(codec::DAG_CBOR, Bytes::new()).unwrap();
    let leaf = raw(1, 100);
    let inner = node(&[&leaf]);
    let root = node(&[&inner, &empty]);
    fixture.put(&[empty.clone(), inner, leaf.clone(), root.clone()]);
    assert_eq!(fixture.collect(&[*root.cid()]).removed_blocks, 0);
    assert!(fixture.has(&leaf) && fixture.has(&empty));
}

#[test]
fn a_collection_waits_for_blocks_whose_links_were_followed() {
    let fixture = Fixture::new();
    let ticket = fixture.store.writer().ticket();
    let collector = fixture.store.collector(links);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let collection = collector.begin().unwrap();
        begun.send(()).unwrap();
        collection
    });
    // A later ticket is of the next epoch, so it doesn't hold the collection up; only the first one does.
    while !fixture.store.reader().is_collecting() {
        std::thread::yield_now();
    }
    let _later = fixture.store.writer().ticket();
    assert!(has_begun.try_recv().is_err());
    drop(ticket);
    has_begun.recv().unwrap();
    drop(thread.join().unwrap());
    assert!(!fixture.store.reader().is_collecting());
}

/// What happens beside a collection.
#[derive(Debug, Clone, Copy)]
enum Beside {
    /// A block comes and is put.
    Put,
    /// A fetch finds a block that is held, by chance, and relies on it.
    Find,
    /// A fetch finds a held block below a parent that isn't durable yet.
    FindBelowNewParent,
}

/// Does one thing beside the collection before each of its steps in turn; whatever was relied on must be there at the end.
#[test]
fn whatever_happens_between_two_steps_nothing_relied_on_is_lost() {
    for beside in [Beside::Put, Beside::Find, Beside::FindBelowNewParent] {
        for at in 0.. {
            let fixture = Fixture::new();
            // More than one step of the sweep, and segments to vacate.
            let blocks: Vec<Block> = (0..500).map(|number| raw(number, 64)).collect();
            fixture.put(&blocks);
            let root = node(&blocks.iter().step_by(2).collect::<Vec<_>>());
            fixture.put(std::slice::from_ref(&root));
            let mut collection = fixture.store.collector(links).begin().unwrap();
            collection.add_root(root.cid());
            collection.seal_roots();
            let mut step = 0;
            let mut relied_on = Vec::new();
            loop {
                if step == at {
                    relied_on = rely(&fixture, beside, &blocks);
                }
                step += 1;
                if collection.step().unwrap() == GcPhase::Done {
                    break;
                }
            }
            for block in &relied_on {
                assert!(fixture.has(block), "{beside:?} before step {at}");
            }
            assert!(blocks.iter().step_by(2).all(|block| fixture.has(block)));
            if step <= at {
                assert!(at > 4, "the collection has several steps");
                break;
            }
        }
    }
}

/// Relies on dead blocks as a fetch does, and puts again what it doesn't find.
fn rely(fixture: &Fixture, beside: Beside, blocks: &[Block]) -> Vec<Block> {
    let wanted: Vec<Block> = blocks.iter().skip(1).step_by(7).filter(|block| !kept(block, blocks)).cloned().collect();
    let cids: Vec<Cid> = wanted.iter().map(|block| *block.cid()).collect();
    match beside {
        Beside::Put => fixture.put(&wanted),
        Beside::Find | Beside::FindBelowNewParent => {
            let ticket = fixture.store.writer().ticket();
            let held = fixture.store.reader().hold_many(&cids).unwrap();
            let missing: Vec<Block> =
                wanted.iter().zip(held).filter(|(_, held)| held.is_none()).map(|(block, _)| block.clone()).collect();
            fixture.put(&missing);
            if matches!(beside, Beside::FindBelowNewParent) {
                fixture.put(&[node(&wanted.iter().collect::<Vec<_>>())]);
            }
            drop(ticket);
        }
    }
    wanted
}

fn kept(block: &Block, blocks: &[Block]) -> bool {
    blocks.iter().position(|other| other == block).is_some_and(|index| index % 2 == 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Random stores, roots and sizes against a plain set.
    #[test]
    fn agrees_with_a_plain_model(
        sizes in proptest::collection::vec(8usize..150_000, 1..40),
        kept in proptest::collection::vec(any::<bool>(), 40),
        rounds in 1usize..4,
    ) {
        let fixture = Fixture::new();
        let blocks: Vec<Block> = sizes.iter().enumerate().map(|(number, size)| raw(number as u64, *size)).collect();
        for chunk in blocks.chunks(7) {
            fixture.put(chunk);
        }
        let roots: Vec<Cid> = blocks.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(block, _)| *block.cid()).collect();
        for _ in 0..rounds {
            fixture.collect(&roots);
            for (block, kept) in blocks.iter().zip(&kept) {
                prop_assert_eq!(fixture.has(block), *kept);
            }
        }
        let live: usize = blocks.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(block, _)| block.data().len()).sum();
        prop_assert!(fixture.store.reader().segment_bytes() * 100 <= live * 125 + 100);
    }
}
