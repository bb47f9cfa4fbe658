//! The marks of whole DAGs: how long each counts.

use std::path::Path;

use bytes::Bytes;
use cid::Cid;
use tokio::runtime::Runtime;

use super::whole::BLOCKS_MIN;
use super::{BlockStore, GcPhase, WholeDag};
use crate::model::Block;
use crate::model::cids::codec;

const DAG: WholeDag = WholeDag { blocks: BLOCKS_MIN, bytes: 1000 };

fn open(directory: &Path) -> BlockStore {
    BlockStore::open(&directory.join("blocks.redb"), 1 << 20, 1 << 20).unwrap()
}

fn links(_: &Cid, data: &Bytes) -> Vec<Cid> {
    serde_ipld_dagcbor::from_slice(data).unwrap()
}

/// A node with leaves of its own, all of them stored.
fn dag(store: &BlockStore, runtime: &Runtime, name: u8) -> Cid {
    let leaves: Vec<Block> = (0..BLOCKS_MIN - 1)
        .map(|number| Block::new_sha256(codec::RAW, vec![name, u8::try_from(number).unwrap()].into()).unwrap())
        .collect();
    let children: Vec<Cid> = leaves.iter().map(|leaf| *leaf.cid()).collect();
    let data = serde_ipld_dagcbor::to_vec(&children).unwrap();
    let root = Block::new_sha256(codec::DAG_CBOR, data.into()).unwrap();
    let cid = *root.cid();
    runtime.block_on(store.writer().put([leaves, vec![root]].concat())).unwrap();
    cid
}

fn mark(store: &BlockStore, root: &Cid) {
    let generation = store.reader().whole_generation().unwrap();
    store.writer().mark_whole(root, DAG, generation).unwrap();
}

#[test]
fn a_mark_stands_for_its_content_until_a_collection_takes_some_of_it() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let store = open(directory.path());
    let (kept, gone) = (dag(&store, &runtime, 1), dag(&store, &runtime, 2));
    assert_eq!(store.reader().whole(&kept).unwrap(), None);
    mark(&store, &kept);
    mark(&store, &gone);
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.reader().whole(&kept).unwrap(), Some(DAG));
    // Another codec has other links.
    assert_eq!(store.reader().whole(&Cid::new_v1(codec::DAG_PB, *kept.hash())).unwrap(), None);

    let mut collection = store.collector(links).begin().unwrap();
    assert_eq!(store.reader().whole(&kept).unwrap(), None, "while garbage is collected every pin is walked");
    let late = dag(&store, &runtime, 3);
    mark(&store, &late);
    collection.add_root(&kept);
    collection.seal_roots();
    while collection.phase() == GcPhase::Mark {
        collection.step().unwrap();
    }
    // The mark has gone before the first of its blocks.
    let reader = store.reader();
    assert!(reader.has(&gone).unwrap());
    while collection.step().unwrap() != GcPhase::Done {}
    assert!(!reader.has(&gone).unwrap());
    assert_eq!(reader.whole(&kept).unwrap(), Some(DAG));
    assert_eq!(reader.whole(&gone).unwrap(), None);
    assert_eq!(reader.whole(&late).unwrap(), None, "what comes while garbage is collected gets no mark");
}

#[test]
fn a_mark_of_an_older_generation_counts_no_longer_and_small_dags_get_none() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let store = open(directory.path());
    let root = dag(&store, &runtime, 1);
    let before = store.reader().whole_generation().unwrap();
    store.writer().mark_whole(&root, WholeDag { blocks: BLOCKS_MIN - 1, ..DAG }, before).unwrap();
    assert_eq!(store.reader().whole(&root).unwrap(), None);
    mark(&store, &root);
    assert_eq!(store.reader().whole(&root).unwrap(), Some(DAG));
    store.reader().file().write(super::whole::begin_generation).unwrap();
    assert_eq!(store.reader().whole(&root).unwrap(), None);
    // Whoever walked before the damage was found may have seen what is gone.
    store.writer().mark_whole(&root, DAG, before).unwrap();
    assert_eq!(store.reader().whole(&root).unwrap(), None);
    mark(&store, &root);
    assert_eq!(store.reader().whole(&root).unwrap(), Some(DAG));
}
