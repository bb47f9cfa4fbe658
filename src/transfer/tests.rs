//! Imports and exports on a real store.

use tempfile::TempDir;

use super::*;
use crate::model::BlockError;
use crate::model::cids::codec;
use crate::store::blocks::{BlockStore, GcPhase};

fn open() -> (TempDir, BlockStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(&directory.path().join("blocks.redb"), 8 << 20, 8 << 20).unwrap();
    (directory, store)
}

fn raw(number: usize) -> Block {
    Block::new_sha256(codec::RAW, number.to_string().repeat(100).into()).unwrap()
}

fn node(children: &[Cid]) -> Block {
    Block::new_sha256(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(children).unwrap().into()).unwrap()
}

/// A root with two nodes that share leaves, in the order in which they are walked.
fn dag() -> Vec<Block> {
    let leaves: Vec<Block> = (0..9).map(raw).collect();
    let cids: Vec<Cid> = leaves.iter().map(|leaf| *leaf.cid()).collect();
    let (left, right) = (node(&cids[..6]), node(&cids[3..]));
    let root = node(&[*left.cid(), *right.cid(), *left.cid()]);
    let mut blocks = vec![root, left];
    blocks.extend_from_slice(&leaves[..6]);
    blocks.push(right);
    blocks.extend_from_slice(&leaves[6..]);
    blocks
}

fn car(blocks: &[Block]) -> Vec<u8> {
    let mut file = car::header(&[*blocks[0].cid()]);
    for block in blocks {
        file.extend(car::section(block.cid(), block.data()));
    }
    file
}

async fn import(store: &BlockStore, file: &[u8], root: Option<Cid>) -> Result<Imported, ImportError> {
    let mut import = Import::new(store.reader(), store.writer());
    for piece in file.chunks(1000) {
        import.feed(piece).await?;
    }
    import.end_file()?;
    import.finish(root).await
}

fn export(store: &BlockStore, root: Cid) -> Result<Vec<u8>, ExportError> {
    let mut export = Export::begin(&store.reader(), root)?;
    let mut file = Vec::new();
    while let Some(bytes) = export.next_bytes()? {
        file.extend_from_slice(&bytes);
    }
    Ok(file)
}

#[tokio::test]
async fn what_was_imported_is_exported_byte_for_byte() {
    let (_directory, store) = open();
    let blocks = dag();
    let file = car(&blocks);
    let imported = import(&store, &file, None).await.unwrap();
    let bytes = blocks.iter().map(|block| block.data().len() as u64).sum();
    assert_eq!(imported.report, ImportReport { blocks: blocks.len() as u64, bytes, held_blocks: 0 });
    assert_eq!(imported.roots, [*blocks[0].cid()]);
    drop(imported);
    assert_eq!(export(&store, *blocks[0].cid()).unwrap(), file);
    let again = import(&store, &file, None).await.unwrap();
    assert_eq!(again.report.held_blocks, blocks.len() as u64);
}

#[tokio::test]
async fn an_export_names_the_missing_block() {
    let (_directory, store) = open();
    let blocks = dag();
    import(&store, &car(&blocks[..blocks.len() - 1]), None).await.unwrap();
    let (root, last) = (*blocks[0].cid(), *blocks[blocks.len() - 1].cid());
    let error = export(&store, root).unwrap_err();
    assert!(matches!(error, ExportError::Missing { missing, .. } if missing == last), "{error}");
    let absent = *raw(1000).cid();
    assert!(matches!(Export::begin(&store.reader(), absent), Err(ExportError::Missing { .. })));
    // An identity CID has its DAG within itself.
    let inline: Cid = "bafkqaaa".parse().unwrap();
    assert_eq!(export(&store, inline).unwrap(), car::header(&[inline]));
}

#[tokio::test]
async fn a_file_without_roots_needs_one_and_a_wrong_one_is_refused_with_its_place() {
    let (_directory, store) = open();
    let blocks = dag();
    let mut file = car::header(&[]);
    file.extend(car::section(blocks[2].cid(), blocks[2].data()));
    assert!(matches!(import(&store, &file, None).await, Err(ImportError::NoRoot)));
    let root = *blocks[2].cid();
    assert_eq!(import(&store, &file, Some(root)).await.unwrap().roots, [root]);

    let at = file.len() as u64;
    file.extend(car::section(blocks[3].cid(), b"something else"));
    let wrong = import(&store, &file, Some(root)).await.unwrap_err();
    let ImportError::Car(CarError::Block { at: found, source }) = wrong else { panic!("{wrong}") };
    assert_eq!((found, source), (at, BlockError::Mismatch { cid: *blocks[3].cid() }));
    let cut_off = import(&store, &file[..file.len() - 1], Some(root)).await.unwrap_err();
    assert!(matches!(cut_off, ImportError::Car(CarError::Truncated { .. })), "{cut_off}");
}

/// Runs a whole collection without any root.
fn collect_everything(store: &BlockStore) {
    let mut collection = store.collector(|_, _| Vec::new()).begin().unwrap();
    collection.seal_roots();
    while collection.step().unwrap() != GcPhase::Done {}
}

#[tokio::test]
async fn a_collection_waits_for_the_pins_of_an_import_and_does_not_touch_an_export() {
    let (_directory, store) = open();
    let blocks = dag();
    let file = car(&blocks);
    let imported = import(&store, &file, None).await.unwrap();
    let collector = store.collector(|_, _| Vec::new());
    let (sender, begun) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let collection = collector.begin().unwrap();
        sender.send(()).unwrap();
        drop(collection);
    });
    for _ in 0..100 {
        std::thread::yield_now();
        assert!(begun.try_recv().is_err(), "the collection must wait");
    }
    drop(imported);
    begun.recv().unwrap();
    thread.join().unwrap();

    let mut export = Export::begin(&store.reader(), *blocks[0].cid()).unwrap();
    collect_everything(&store);
    assert!(!store.reader().has(blocks[5].cid()).unwrap());
    let mut exported = Vec::new();
    while let Some(bytes) = export.next_bytes().unwrap() {
        exported.extend_from_slice(&bytes);
    }
    assert_eq!(exported, file);

    // A collection that runs already keeps what is imported, also what it had not swept yet.
    let mut collection = store.collector(|_, _| Vec::new()).begin().unwrap();
    import(&store, &file, None).await.unwrap();
    collection.seal_roots();
    while collection.step().unwrap() != GcPhase::Done {}
    assert!(blocks.iter().all(|block| store.reader().has(block.cid()).unwrap()));
}
