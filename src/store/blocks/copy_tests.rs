//! Blocks in the order of their places, copies of them, and compaction.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableHandle};

use super::copy::{Check, copy_blocks, measure};
use super::file::{BlockFile, INDEX, QUARANTINE, SEGMENT_SIZES, SEGMENTS};
use super::placed;
use super::recent::RECENT;
use super::tests::block;
use super::*;
use crate::model::Block;
use crate::model::cids::codec;
use crate::store::database;

const CACHE_BYTES: usize = 8 << 20;

/// A store with these blocks, put a few at a time; closed.
fn filled(path: &Path, blocks: &[Block]) {
    let store = BlockStore::open(path, CACHE_BYTES, 8 << 20).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for few in blocks.chunks(100) {
        runtime.block_on(store.writer().put(few.to_vec())).unwrap();
    }
    store.close();
}

#[track_caller]
fn assert_holds(path: &Path, blocks: &[Block]) {
    let store = BlockStore::open(path, CACHE_BYTES, 8 << 20).unwrap();
    assert_eq!(store.reader().stats().unwrap().blocks, blocks.len() as u64);
    for block in blocks {
        assert_eq!(store.reader().get(block.cid()).unwrap().as_ref(), Some(block.data()));
    }
    store.close();
}

fn compacted(path: &Path) -> Result<Compacted, BlocksError> {
    compact(path, &mut |_, _| ())
}

/// Blocks of several sizes and hash functions, one of them empty.
fn mixed() -> Vec<Block> {
    let mut blocks: Vec<Block> = (1..180usize).map(|number| block(number as u64, (number * 7919) % 150_000)).collect();
    blocks.push(Block::new_sha256(codec::RAW, bytes::Bytes::new()).unwrap());
    for code in [0x11, 0x13, 0x1e, 0xb220] {
        let data = bytes::Bytes::from(format!("hashed by 0x{code:x}"));
        let hash = crate::model::block::HashFunction::of(code).unwrap().digest(&data);
        blocks.push(Block::verify(cid::Cid::new_v1(codec::RAW, hash), data).unwrap());
    }
    // The multihash of this one is as long as a bare SHA2-256 digest.
    let data = bytes::Bytes::from_static(b"30 bytes of a digest");
    let hash = crate::model::block::HashFunction::of(0x13).unwrap().digest(&data);
    let hash = cid::multihash::Multihash::wrap(0x13, &hash.digest()[..30]).unwrap();
    blocks.push(Block::verify(cid::Cid::new_v1(codec::RAW, hash), data).unwrap());
    blocks
}

#[test]
fn passes_give_every_block_once_in_the_order_of_places() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let blocks = mixed();
    filled(&path, &blocks);
    let file = BlockFile::open(&path, CACHE_BYTES, SpaceLimits::NONE).unwrap();
    file.read(|transaction| {
        let mut expected = Vec::new();
        placed::for_each(transaction, |key, place| {
            expected.push((place.number(), key.to_vec()));
            ControlFlow::Continue(())
        })?;
        expected.sort_unstable();
        assert_eq!(expected.len(), blocks.len());
        let (mut found, mut passes) = (Vec::new(), 0);
        let mut after = None;
        loop {
            let pass = placed::next_places(transaction, &|number| Some(number) > after, 50, &|| true)?.blocks;
            let Some((_, last)) = pass.last() else { break };
            after = Some(last.number());
            passes += 1;
            found.extend(pass.into_iter().map(|(key, place)| (place.number(), key.to_vec())));
        }
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(passes > 2, "one pass proves little");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_compacted_file_holds_the_same_and_is_hardly_larger_than_its_blocks() {
    for block_bytes in [1024, 4096, 262_144] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let count = 48 * 1024 * 1024 / block_bytes as u64;
        let blocks: Vec<Block> = (0..count).map(|number| block(number + 1, block_bytes)).collect();
        filled(&path, &blocks);
        let kept: Vec<Block> =
            blocks.into_iter().filter(|block| block.cid().hash().digest()[0].is_multiple_of(2)).collect();
        let store = BlockStore::open(&path, CACHE_BYTES, 8 << 20).unwrap();
        let mut collection = store.collector(|_, _| Vec::new()).begin().unwrap();
        for block in &kept {
            collection.add_root(block.cid());
        }
        collection.seal_roots();
        while collection.step().unwrap() != GcPhase::Done {}
        drop(collection);
        store.close();

        let result = compacted(&path).unwrap();
        let payload: usize = kept.iter().map(|block| block.data().len()).sum();
        assert_eq!((result.blocks, result.block_bytes), (kept.len() as u64, payload as u64));
        assert_eq!(result.bytes_after, fs::metadata(&path).unwrap().len());
        assert!(result.bytes_after < result.bytes_before, "{result:?}");
        assert!(result.bytes_after * 100 <= payload as u64 * 106, "{result:?}: {payload} bytes of {block_bytes}");
        assert_holds(&path, &kept);
        // The same again, and blocks can still be added.
        assert_eq!(compacted(&path).unwrap().blocks, kept.len() as u64);
        let more = block(1 << 40, 100_000);
        filled(&path, std::slice::from_ref(&more));
        assert_holds(&path, &[kept, vec![more]].concat());
    }
}

#[test]
fn a_copy_fits_into_what_was_measured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    for blocks in [mixed(), (1..20_000).map(|number| block(number, 100)).collect()] {
        let _ = fs::remove_file(&path);
        filled(&path, &blocks);
        let measured = BlockFile::open(&path, CACHE_BYTES, SpaceLimits::NONE).unwrap().read(measure).unwrap();
        let result = compacted(&path).unwrap();
        assert!(result.bytes_after <= measured.file_bytes(), "{result:?} {}", measured.file_bytes());
        assert_holds(&path, &blocks);
    }
}

#[test]
fn what_a_killed_compaction_left_is_removed_and_the_new_file_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let blocks = mixed();
    filled(&path, &blocks);
    fs::write(database::temporary_path(&path), "half of a file").unwrap();
    assert_holds(&path, &blocks);
    compacted(&path).unwrap();
    assert!(!database::temporary_path(&path).exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_holds(&path, &blocks);
}

#[test]
fn an_unreadable_block_ends_a_compaction_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    filled(&path, &mixed());
    let file = BlockFile::open(&path, CACHE_BYTES, SpaceLimits::NONE).unwrap();
    file.write(|transaction| {
        transaction.open_table(SEGMENTS)?.pop_first()?;
        Ok(())
    })
    .unwrap();
    drop(file);
    let refused = compacted(&path).unwrap_err();
    assert!(matches!(refused, BlocksError::NotCompacted { damaged_blocks: 1.. }), "{refused}");
    assert!(!database::temporary_path(&path).exists());
    let read = BlockFile::open(&path, CACHE_BYTES, SpaceLimits::NONE).unwrap().read(measure).unwrap();
    assert_eq!(read.blocks, mixed().len() as u64);
}

#[test]
fn a_checked_copy_leaves_damaged_blocks_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let blocks = mixed();
    filled(&path, &blocks);
    let file = BlockFile::open(&path, CACHE_BYTES, SpaceLimits::NONE).unwrap();
    let damaged = &blocks[40];
    file.settle().unwrap();
    file.write(|transaction| {
        let key = pack::key(damaged.cid()).unwrap();
        let place = pack::Place::from_bytes(transaction.open_table(INDEX)?.get(&*key)?.unwrap().value());
        let mut segments = transaction.open_table(SEGMENTS)?;
        let mut segment = segments.get(place.segment)?.unwrap().value().to_vec();
        segment[place.offset as usize + 1] ^= 1;
        segments.insert(place.segment, segment.as_slice())?;
        Ok(())
    })
    .unwrap();
    let copy = directory.path().join("copy.redb");
    let target = database::create(&copy, CACHE_BYTES).unwrap();
    let report =
        file.read(|source| copy_blocks(source, &target, &copy, Check::Hashes, &mut |_| ControlFlow::Continue(())));
    database::finish(target, &copy).unwrap();
    assert_eq!(report.unwrap().damaged_blocks, 1);
    // A collection must not take what is below it for garbage.
    let copied = BlockFile::open(&copy, CACHE_BYTES, SpaceLimits::NONE).unwrap();
    let is_known = |transaction: &redb::ReadTransaction| {
        Ok(transaction.open_table(QUARANTINE)?.get(&*pack::key(damaged.cid()).unwrap())?.is_some())
    };
    assert!(copied.read(is_known).unwrap());
    drop(copied);
    let whole: Vec<Block> = blocks.iter().filter(|block| *block != damaged).cloned().collect();
    assert_holds(&copy, &whole);

    let again = database::create(&copy, CACHE_BYTES).unwrap();
    let cut_off =
        file.read(|source| copy_blocks(source, &again, &copy, Check::Present, &mut |_| ControlFlow::Break(())));
    assert!(matches!(cut_off, Err(BlocksError::CutOff)));
}

/// Who adds a table must say here, and in `copy`, what becomes of it in a copy.
#[test]
fn every_table_is_one_that_a_copy_knows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    filled(&path, &[]);
    let database = database::open(&path, CACHE_BYTES).unwrap();
    let read = database.begin_read().unwrap();
    let mut names: Vec<String> = read.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    names.sort();
    let known = [INDEX.name(), "meta", QUARANTINE.name(), RECENT.name(), SEGMENT_SIZES.name(), SEGMENTS.name()];
    // A copy begins without what is known of whole DAGs.
    assert_eq!(names, [&known[..], &["sub_dag_blocks", "sub_dags", "whole"]].concat());
    assert_eq!(read.list_multimap_tables().unwrap().count(), 0);
}
