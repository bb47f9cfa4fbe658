//! The scrub: what it finds, what quarantine means for everyone else, and what happens between its steps.

use bytes::Bytes;
use cid::Cid;
use multihash_codetable::{Code, MultihashDigest};
use redb::ReadableTable;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::file::{INDEX, QUARANTINE, SEGMENTS};
use super::pack::{self, Place};
use super::tests::{FaultyDisk, block};
use super::*;
use crate::model::Block;
use crate::model::cids::codec;

const MIB: usize = 1024 * 1024;

struct Fixture {
    store: BlockStore,
    runtime: Runtime,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 8 * MIB, 8 * MIB).unwrap();
        Self { store, runtime: Runtime::new().unwrap(), directory }
    }

    fn reopened(self) -> Self {
        let Self { store, runtime, directory } = self;
        store.close();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 8 * MIB, 8 * MIB).unwrap();
        Self { store, runtime, directory }
    }

    fn put(&self, blocks: &[Block]) {
        self.runtime.block_on(self.store.writer().put(blocks.to_vec())).unwrap();
    }

    fn has(&self, block: &Block) -> bool {
        self.store.reader().has(block.cid()).unwrap()
    }

    /// Flips a bit of a block as it lies in the file, `at` bytes from its start.
    fn damage_at(&self, block: &Block, at: usize) {
        self.store.reader().damage_at(block.cid(), u32::try_from(at).unwrap());
    }

    fn damage(&self, block: &Block) {
        self.damage_at(block, 0);
    }

    fn begin(&self, repairs: bool, resume: bool) -> Scrub {
        self.store.verifier(links).scrub(repairs, resume).unwrap()
    }

    fn scrub(&self, repairs: bool) -> ScrubReport {
        let mut scrub = self.begin(repairs, false);
        finish(&mut scrub);
        scrub.report().clone()
    }

    fn quarantined(&self) -> Vec<Vec<u8>> {
        let file = self.store.reader().file();
        file.read(|transaction| {
            let quarantine = transaction.open_table(QUARANTINE)?;
            quarantine.iter()?.map(|entry| Ok(entry?.0.value().to_vec())).collect()
        })
        .unwrap()
    }

    fn collect(&self, roots: &[&Block]) -> Result<GcReport, BlocksError> {
        let mut collection = self.store.collector(links).begin()?;
        for root in roots {
            collection.add_root(root.cid());
        }
        collection.seal_roots();
        while collection.step()? != GcPhase::Done {}
        Ok(collection.report())
    }

    fn is_damaged(&self, scrub: &Scrub, root: &Block, is_pinned: bool) -> bool {
        let mut finder = self.store.verifier(links).damage(scrub);
        finder.is_damaged(root.cid(), is_pinned, &|| true).unwrap().unwrap()
    }
}

fn finish(scrub: &mut Scrub) {
    while scrub.step(&|| true).unwrap() != ScrubStep::Done {}
}

/// What [`node`] links to.
fn links(_: &Cid, data: &Bytes) -> Vec<Cid> {
    serde_ipld_dagcbor::from_slice(data).unwrap_or_default()
}

fn node(children: &[&Block]) -> Block {
    let links: Vec<Cid> = children.iter().map(|child| *child.cid()).collect();
    Block::new_sha256(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(&links).unwrap().into()).unwrap()
}

fn small(from: u64, count: u64) -> Vec<Block> {
    (from..from + count).map(|number| block(number, 200)).collect()
}

fn raw_cid(block: &Block) -> Cid {
    Cid::new_v1(codec::RAW, *block.cid().hash())
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is_and_nothing_is_changed_without_repair() {
    let fixture = Fixture::new();
    let blocks = small(0, 250);
    let large = block(1000, 5 * SEGMENT_BYTES / 2);
    let empty = block(1001, 0);
    fixture.put(&blocks[..100]);
    fixture.put(&[empty.clone(), large.clone()]);
    fixture.put(&blocks[100..]);
    let whole = fixture.scrub(false);
    let bytes = 250 * 200 + large.data().len() as u64;
    assert_eq!((whole.blocks, whole.bytes, whole.damaged_blocks), (252, bytes, 0));
    assert_eq!((whole.blocks_total, whole.bytes_total), (252, bytes));

    fixture.damage_at(&blocks[7], 199);
    fixture.damage(&blocks[8]);
    fixture.damage_at(&large, large.data().len() - 1);
    fixture.damage(&blocks[249]);
    let report = fixture.scrub(false);
    assert_eq!((report.blocks, report.damaged_blocks, report.quarantined_blocks), (252, 4, 0));
    // In the order of the file.
    let expected = [&blocks[7], &blocks[8], &large, &blocks[249]].map(raw_cid);
    assert_eq!(report.damaged, expected);
    assert!(fixture.quarantined().is_empty());
    assert!(blocks.iter().all(|block| fixture.has(block)));
    let fixture = fixture.reopened();
    assert_eq!(fixture.scrub(false).damaged_blocks, 4);
}

#[test]
fn a_damaged_block_is_gone_until_it_is_stored_again() {
    let fixture = Fixture::new();
    let blocks = small(0, 50);
    let large = block(1000, 3 * SEGMENT_BYTES);
    fixture.put(&blocks);
    fixture.put(std::slice::from_ref(&large));
    for block in [&blocks[3], &blocks[30], &large] {
        fixture.damage(block);
    }
    let report = fixture.scrub(true);
    assert_eq!((report.damaged_blocks, report.quarantined_blocks), (3, 3));
    let fixture = fixture.reopened();
    let reader = fixture.store.reader();
    assert_eq!(fixture.quarantined().len(), 3);
    assert_eq!(reader.scrub_record().unwrap().quarantined_blocks, 3);
    assert!(reader.scrub_record().unwrap().pins_due);
    for block in [&blocks[3], &blocks[30], &large] {
        assert_eq!(reader.get(block.cid()).unwrap(), None);
        assert_eq!(reader.hold_many(&[*block.cid()]).unwrap(), [None]);
    }
    assert_eq!(fixture.scrub(true).damaged_blocks, 0, "what is in quarantine isn't looked at again");

    fixture.put(&[blocks[3].clone(), blocks[4].clone(), large.clone()]);
    assert_eq!(fixture.quarantined().len(), 1);
    assert_eq!(reader.get(blocks[3].cid()).unwrap().as_ref(), Some(blocks[3].data()));
    assert_eq!(reader.get(large.cid()).unwrap().as_ref(), Some(large.data()));
    fixture.put(&blocks);
    assert!(fixture.quarantined().is_empty());
    let whole = fixture.scrub(false);
    assert_eq!((whole.blocks, whole.damaged_blocks), (51, 0));
}

#[test]
fn every_hash_function_is_checked() {
    let fixture = Fixture::new();
    let mut blocks = Vec::new();
    for (number, code) in [Code::Sha2_512, Code::Blake3_256, Code::Sha3_256, Code::Blake2b256].into_iter().enumerate() {
        let data = Bytes::from(vec![u8::try_from(number).unwrap(); 300]);
        blocks.push(Block::verify(Cid::new_v1(codec::DAG_PB, code.digest(&data)), data.clone()).unwrap());
        // Cut so that the multihash is as long as the digest of SHA2-256, and thus padded in the index.
        let cut = cid::multihash::Multihash::wrap(0x12, &Code::Sha2_256.digest(&data).digest()[..30]).unwrap();
        blocks.push(Block::verify(Cid::new_v1(codec::RAW, cut), data).unwrap());
    }
    fixture.put(&blocks);
    assert_eq!(fixture.scrub(false).damaged_blocks, 0);
    for block in &blocks {
        fixture.damage(block);
    }
    let report = fixture.scrub(true);
    assert_eq!(report.quarantined_blocks, blocks.len() as u64);
    assert!(blocks.iter().all(|block| report.damaged.contains(&raw_cid(block)) && !fixture.has(block)));
    fixture.put(&blocks);
    assert!(fixture.quarantined().is_empty());
}

#[test]
fn a_missing_segment_a_place_behind_all_and_a_key_that_is_no_hash_are_damage() {
    let fixture = Fixture::new();
    let (long, other) = (block(1, 3 * SEGMENT_BYTES), block(2, 100));
    fixture.put(std::slice::from_ref(&long));
    fixture.put(std::slice::from_ref(&other));
    let file = fixture.store.reader().file();
    file.settle().unwrap();
    file.write(|transaction| {
        transaction.open_table(SEGMENTS)?.remove(1)?;
        let mut index = transaction.open_table(INDEX)?;
        let place = index.get(&*pack::key(other.cid()).unwrap())?.unwrap().value().to_owned();
        index.insert([0x80; 40].as_slice(), &place)?;
        let nowhere = Place { segment: 1 << 39, offset: 7, length: 100 };
        index.insert([0x07; 32].as_slice(), &nowhere.to_bytes())?;
        Ok(())
    })
    .unwrap();
    let report = fixture.scrub(true);
    assert_eq!((report.blocks, report.quarantined_blocks), (4, 3));
    let nowhere = cid::multihash::Multihash::wrap(0x12, &[0x07; 32]).unwrap();
    assert_eq!(report.damaged, [raw_cid(&long), Cid::new_v1(codec::RAW, nowhere)]);
    assert!(fixture.has(&other) && !fixture.has(&long));
    assert_eq!(fixture.scrub(true).blocks, 1);
}

#[test]
fn who_decides_to_repair_later_repairs_what_was_found_before() {
    let fixture = Fixture::new();
    let blocks = small(0, 150);
    fixture.put(&blocks);
    for block in [&blocks[0], &blocks[149]] {
        fixture.damage(block);
    }
    let mut scrub = fixture.begin(false, false);
    while scrub.report().damaged_blocks == 0 {
        scrub.step(&|| true).unwrap();
    }
    assert!(scrub.has_unrepaired());
    assert_eq!(scrub.unrepaired().count(), 1);
    scrub.repair();
    finish(&mut scrub);
    assert_eq!((scrub.report().damaged_blocks, scrub.report().quarantined_blocks), (2, 2));
    assert_eq!(scrub.report().damaged, [&blocks[0], &blocks[149]].map(raw_cid));
    assert_eq!(fixture.quarantined().len(), 2);
}

#[test]
fn a_pass_goes_on_where_it_was_cut_off() {
    let fixture = Fixture::new();
    let blocks = small(0, 150);
    fixture.put(&blocks);
    fixture.damage(&blocks[0]);
    let mut scrub = fixture.begin(true, true);
    while scrub.report().blocks < 20 {
        scrub.step(&|| true).unwrap();
    }
    scrub.save().unwrap();
    let looked_at = scrub.report().blocks;
    drop(scrub);
    let fixture = fixture.reopened();
    assert!(fixture.store.reader().scrub_record().unwrap().is_cut_off);
    // One in front of where it goes on, which the next pass finds, and one behind it.
    fixture.damage(&blocks[1]);
    fixture.damage(&blocks[149]);
    let mut scrub = fixture.begin(true, true);
    assert_eq!(scrub.report().blocks, looked_at);
    finish(&mut scrub);
    let report = scrub.report();
    assert_eq!((report.blocks, report.damaged_blocks, report.quarantined_blocks), (150, 2, 2));
    scrub.finish().unwrap();
    let record = fixture.store.reader().scrub_record().unwrap();
    assert!(record.finished.is_some() && !record.is_cut_off && !record.pins_due);
    assert_eq!(fixture.begin(true, true).report().blocks, 0, "the next one begins anew");
    assert_eq!(fixture.scrub(false).damaged, [raw_cid(&blocks[1])]);
}

#[test]
fn a_pass_that_leaves_damage_is_not_taken_for_a_whole_one() {
    let fixture = Fixture::new();
    let blocks = small(0, 50);
    fixture.put(&blocks);
    fixture.damage(&blocks[0]);
    let mut scrub = fixture.begin(false, false);
    finish(&mut scrub);
    scrub.save().unwrap();
    scrub.finish().unwrap();
    assert_eq!(fixture.store.reader().scrub_record().unwrap(), ScrubRecord::default());
}

#[test]
fn a_stop_in_the_middle_of_the_index_is_no_end() {
    let fixture = Fixture::new();
    fixture.put(&small(0, 50));
    let mut scrub = fixture.begin(false, false);
    assert_eq!(scrub.step(&|| false).unwrap(), ScrubStep::Looked(0));
    finish(&mut scrub);
    assert_eq!(scrub.report().blocks, 50);
}

/// What happens beside a pass.
#[derive(Debug, Clone, Copy)]
enum Beside {
    Put,
    Collect,
    StoreAgain,
}

#[test]
fn whatever_happens_between_two_steps_damage_is_found_and_nothing_else_is() {
    for (beside, repairs) in [Beside::Put, Beside::Collect, Beside::StoreAgain]
        .into_iter()
        .flat_map(|beside| [(beside, false), (beside, true)])
    {
        for at in 0.. {
            let fixture = Fixture::new();
            let blocks = small(0, 300);
            let root = node(&blocks.iter().step_by(2).collect::<Vec<_>>());
            // Garbage between them, so that a collection moves what is left.
            fixture.put(&blocks);
            fixture.put(std::slice::from_ref(&root));
            for number in [0, 100, 298] {
                fixture.damage(&blocks[number]);
            }
            let mut scrub = fixture.begin(repairs, false);
            let mut step = 0;
            loop {
                if step == at {
                    match beside {
                        Beside::Put => fixture.put(&small(1000, 200)),
                        Beside::Collect => assert_eq!(fixture.collect(&[&root]).unwrap().removed_blocks, 150),
                        Beside::StoreAgain => fixture.put(&blocks),
                    }
                }
                step += 1;
                if scrub.step(&|| true).unwrap() == ScrubStep::Done {
                    break;
                }
            }
            let report = scrub.report();
            assert_eq!(report.damaged_blocks, 3, "{beside:?} before step {at}: {report:?}");
            assert_eq!(report.quarantined_blocks, if repairs { 3 } else { 0 });
            assert!(report.blocks >= 151, "{beside:?} before step {at}: {report:?}");
            if repairs {
                fixture.put(&blocks);
                assert!(fixture.quarantined().is_empty());
                assert_eq!(fixture.scrub(false).damaged_blocks, 0, "{beside:?} before step {at}");
            }
            if step <= at {
                assert!(at > 10, "the pass has several steps");
                break;
            }
        }
    }
}

#[test]
fn garbage_is_not_collected_while_a_damaged_node_is_missing() {
    let fixture = Fixture::new();
    let (leaf, other, garbage) = (block(1, 500), block(2, 500), block(3, 500));
    let inner = node(&[&leaf]);
    let root = node(&[&inner, &other]);
    let all = [leaf.clone(), other.clone(), garbage.clone(), inner.clone(), root.clone()];
    fixture.put(&all);
    fixture.damage_at(&inner, 10);
    // Nobody has found it yet, but its links aren't trusted.
    assert!(matches!(fixture.collect(&[&root]), Err(BlocksError::Unreplaced { blocks: 1 })));
    assert_eq!(fixture.scrub(true).quarantined_blocks, 1);
    for _ in 0..2 {
        let error = fixture.collect(&[&root, &inner]).unwrap_err();
        assert!(matches!(error, BlocksError::Unreplaced { blocks: 1 }), "{error}");
        assert!(error.to_string().contains("pinnace verify --repair"));
        assert!(fixture.has(&leaf) && fixture.has(&garbage));
        assert_eq!(fixture.quarantined().len(), 1);
    }
    // It comes back, and what is below it is there.
    fixture.put(std::slice::from_ref(&inner));
    assert_eq!(fixture.collect(&[&root]).unwrap().removed_blocks, 1);
    assert!(all.iter().all(|block| fixture.has(block) != (block == &garbage)));

    // Or its pin goes.
    fixture.damage_at(&inner, 10);
    fixture.scrub(true);
    assert_eq!(fixture.collect(&[&other]).unwrap().removed_blocks, 2);
    assert!(fixture.quarantined().is_empty() && fixture.has(&other));
}

#[test]
fn a_damaged_leaf_holds_up_no_collection_and_is_not_forgotten() {
    let fixture = Fixture::new();
    let (leaf, garbage, unneeded) = (block(1, 500), block(2, 500), block(3, 500));
    let root = node(&[&leaf]);
    fixture.put(&[leaf.clone(), garbage.clone(), unneeded.clone(), root.clone()]);
    fixture.damage(&leaf);
    fixture.damage(&unneeded);
    assert_eq!(fixture.scrub(true).quarantined_blocks, 2);
    assert_eq!(fixture.collect(&[&root]).unwrap().removed_blocks, 1);
    assert_eq!(fixture.quarantined(), [pack::key(leaf.cid()).unwrap().into_owned()]);
}

/// A node goes into quarantine before each step of a collection in turn: nothing that was below it may go, the damaged bytes
/// may not come back, and it must be remembered.
#[test]
fn whenever_a_block_goes_into_quarantine_a_collection_loses_nothing() {
    for (at, is_found_before) in (0..).flat_map(|at| [(at, false), (at, true)]) {
        let fixture = Fixture::new();
        let blocks = small(0, 400);
        let inner = node(&blocks.iter().step_by(2).collect::<Vec<_>>());
        let root = node(&[&inner]);
        let small_leaf = &blocks[200];
        fixture.put(&blocks);
        fixture.put(&[inner.clone(), root.clone()]);
        let mut collection = fixture.store.collector(links).begin().unwrap();
        collection.add_root(root.cid());
        collection.seal_roots();
        let mut step = 0;
        let ended = loop {
            if step == at {
                // With it goes a leaf that the collection moves.
                fixture.damage_at(&inner, 20);
                fixture.damage(small_leaf);
                if is_found_before {
                    assert_eq!(fixture.scrub(true).quarantined_blocks, 2, "before step {at}");
                }
            }
            step += 1;
            match collection.step() {
                Ok(GcPhase::Done) => break true,
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error, BlocksError::Unreplaced { blocks: 1 }), "{error}");
                    break false;
                }
            }
        };
        drop(collection);
        let was_damaged = step > at;
        // What was damaged after it was copied went with the old segment.
        let leaf_is_whole = fixture.store.reader().get(small_leaf.cid()).unwrap().as_ref() == Some(small_leaf.data());
        assert!(!leaf_is_whole || !is_found_before || !was_damaged, "before step {at}");
        let damaged = if leaf_is_whole { 1 } else { 2 };
        if was_damaged && !is_found_before {
            assert_eq!(fixture.scrub(true).quarantined_blocks, damaged, "before step {at}");
        }
        if was_damaged {
            assert_eq!(fixture.quarantined().len() as u64, damaged, "before step {at}");
            assert!(!fixture.has(&inner) && fixture.has(small_leaf) == leaf_is_whole);
        }
        assert!(blocks.iter().step_by(2).all(|block| fixture.has(block) || (was_damaged && block == small_leaf)));
        if !was_damaged {
            assert!(ended && at > 5, "the collection has several steps");
            break;
        }
    }
}

#[test]
fn dags_with_damaged_blocks_are_told_from_others() {
    let fixture = Fixture::new();
    let leaves = small(0, 20);
    let missing = block(999, 100);
    let [shared, other, bad] =
        [&leaves[..5], &leaves[5..10], &leaves[10..]].map(|leaves| node(&leaves.iter().collect::<Vec<_>>()));
    let damaged_below = node(&[&shared, &bad, &other]);
    let twice_below = node(&[&other, &damaged_below]);
    let whole = node(&[&shared, &other]);
    let holed = node(&[&shared, &missing]);
    let nodes = [&shared, &other, &bad, &damaged_below, &twice_below, &whole, &holed].map(Clone::clone);
    fixture.put(&leaves);
    fixture.put(&nodes);
    fixture.damage(&leaves[15]);
    for repairs in [false, true] {
        let mut scrub = fixture.begin(repairs, false);
        finish(&mut scrub);
        let mut finder = fixture.store.verifier(links).damage(&scrub);
        let mut is_damaged =
            |root: &Block, is_pinned| finder.is_damaged(root.cid(), is_pinned, &|| true).unwrap().unwrap();
        for is_pinned in [true, false, true] {
            for (root, expected) in
                [(&twice_below, true), (&whole, false), (&damaged_below, true), (&shared, false), (&bad, true)]
            {
                assert_eq!(is_damaged(root, is_pinned), expected);
            }
            assert_eq!(is_damaged(&holed, is_pinned), is_pinned, "a pin that isn't whole yet may lack blocks");
            assert_eq!(is_damaged(&missing, is_pinned), is_pinned);
        }
        let identity = node(&[&leaves[15]]);
        let inline = cid::multihash::Multihash::wrap(0, identity.data()).unwrap();
        let inline = Cid::new_v1(codec::DAG_CBOR, inline);
        assert_eq!(finder.is_damaged(&inline, false, &|| true).unwrap(), Some(true));
        assert_eq!(finder.is_damaged(whole.cid(), true, &|| false).unwrap(), None);
    }
    // A node that itself is damaged.
    fixture.put(&leaves);
    fixture.damage_at(&shared, 30);
    let mut scrub = fixture.begin(false, false);
    finish(&mut scrub);
    assert!(fixture.is_damaged(&scrub, &whole, true) && fixture.is_damaged(&scrub, &holed, false));
    assert!(!fixture.is_damaged(&scrub, &other, true));
}

#[test]
fn what_the_disk_refuses_to_read_is_damaged_and_the_rest_goes_on() {
    let runtime = Runtime::new().unwrap();
    let disk = FaultyDisk::new(8 * MIB);
    // More than the cache holds.
    let blocks: Vec<Block> = (0..250).map(|number| block(number, 100_000)).collect();
    runtime.block_on(disk.store.writer().put(blocks.clone())).unwrap();
    disk.refuse_reads_of(blocks[20].data());
    let mut scrub = disk.store.verifier(links).scrub(true, false).unwrap();
    finish(&mut scrub);
    let report = scrub.report();
    assert!(report.damaged.contains(&raw_cid(&blocks[20])), "{report:?}");
    // Neighbours may lie in the same segment.
    assert!(report.damaged_blocks <= 3 && report.blocks == 250, "{report:?}");
    let reader = disk.store.reader();
    let held = blocks.iter().filter(|block| reader.has(block.cid()).unwrap());
    assert!(held.clone().count() as u64 == 250 - report.quarantined_blocks);
    for block in held {
        assert_eq!(reader.get(block.cid()).unwrap().as_ref(), Some(block.data()));
    }
}
