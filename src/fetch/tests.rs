//! A walk that takes sub-DAGs at once finds what one finds that looks at each block: after a survey, a collection, and damage.

use std::collections::BTreeSet;

use bytes::Bytes;
use cid::Cid;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

use super::core::Held;
use super::look_up;
use super::surveys::all_links;
use crate::dag::links::links;
use crate::dag::walk::{Walk, WalkLimits};
use crate::model::Block;
use crate::model::cids::codec;
use crate::store::blocks::{BlockReader, BlockStore, GcPhase, SurveyStep};

/// Random DAGs that are tried.
const ROUNDS: u64 = 60;

/// What a walk has found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    blocks: u64,
    bytes: u64,
    missing: BTreeSet<Vec<u8>>,
}

/// Walks what is held; returns how many blocks it looked for as well.
fn walk(reader: &BlockReader, root: Cid, at_once: bool) -> (Found, usize) {
    let mut walk = Walk::new(root, WalkLimits::NONE).unwrap();
    let (mut missing, mut looks) = (BTreeSet::new(), 0);
    loop {
        let cids: Vec<Cid> = std::iter::from_fn(|| walk.next()).take(5).collect();
        if cids.is_empty() {
            return (Found { blocks: walk.done(), bytes: walk.bytes(), missing }, looks);
        }
        looks += cids.len();
        for (cid, held) in look_up(reader, &cids, at_once).unwrap() {
            match held {
                Held::Later => walk.give_back(&cid),
                Held::No => drop(missing.insert(cid.hash().to_bytes())),
                Held::Leaf(bytes) => walk.add_leaf(&cid, u64::from(bytes)).unwrap(),
                Held::Node(data) => drop(walk.add_block(&cid, &data).unwrap()),
                Held::SubDag(data, sub_dag) => walk.add_sub_dag(&cid, &data, &sub_dag).unwrap(),
            }
        }
    }
}

fn node(number: usize, children: &[Cid]) -> Block {
    let data = serde_ipld_dagcbor::to_vec(&(number, children)).unwrap();
    Block::new_sha256(codec::DAG_CBOR, data.into()).unwrap()
}

fn held_links(cid: &Cid, data: &Bytes) -> Vec<Cid> {
    links(cid, data).unwrap_or_default()
}

struct Fixture {
    _directory: tempfile::TempDir,
    runtime: Runtime,
    store: BlockStore,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 1 << 20, 1 << 20).unwrap();
        Self { _directory: directory, runtime: Runtime::new().unwrap(), store }
    }

    fn put(&self, blocks: Vec<Block>) {
        self.runtime.block_on(self.store.writer().put(blocks)).unwrap();
    }

    fn survey(&self, root: &Cid) {
        let mut survey = self.store.writer().survey(root, all_links).unwrap();
        while survey.step().unwrap() != SurveyStep::Done {}
    }

    fn collect(&self, roots: &[Cid]) {
        let mut collection = self.store.collector(held_links).begin().unwrap();
        for root in roots {
            collection.add_root(root);
        }
        collection.seal_roots();
        while collection.step().unwrap() != GcPhase::Done {}
    }

    /// Both walks find the same; returns how many blocks each looked for.
    fn compare(&self, root: &Cid) -> (usize, usize) {
        let (each, looks) = walk(&self.store.reader(), *root, false);
        let (at_once, fewer) = walk(&self.store.reader(), *root, true);
        assert_eq!(each, at_once);
        (looks, fewer)
    }

    /// How many of these nodes have a list that counts.
    fn lists(&self, nodes: &[Cid]) -> usize {
        self.store.reader().sub_dag_bytes(nodes).unwrap().iter().flatten().count()
    }
}

/// Blocks of a DAG, from the leaves up: most link to what came shortly before.
fn random_dag(random: &mut StdRng, count: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::with_capacity(count);
    for number in 0..count {
        let children: Vec<Cid> = (0..random.random_range(0..6_usize).min(number))
            .map(|_| {
                let near = number.saturating_sub(12);
                let first = if random.random_ratio(1, 12) { 0 } else { near };
                *blocks[random.random_range(first..number)].cid()
            })
            .collect();
        let data = vec![u8::try_from(number % 251).unwrap(); number + 1];
        let leaf = Block::new_sha256(codec::RAW, data.into()).unwrap();
        blocks.push(if children.is_empty() { leaf } else { node(number, &children) });
    }
    blocks
}

#[test]
fn sub_dags_taken_at_once_are_what_a_walk_finds() {
    let first = std::env::var("PINNACE_SURVEY_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    let (mut looks, mut fewer) = (0, 0);
    for seed in (0..ROUNDS).map(|number| u64::wrapping_add(first, number)) {
        println!("PINNACE_SURVEY_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new();
        let blocks = random_dag(&mut random, 200);
        let cids: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
        let root = *cids.last().unwrap();
        let lost: BTreeSet<usize> = (0..random.random_range(0..3)).map(|_| random.random_range(0..200)).collect();
        let held = |(index, block): (usize, &Block)| (!lost.contains(&index)).then(|| block.clone());
        fixture.put(blocks.iter().enumerate().filter_map(held).collect());
        fixture.compare(&root);
        fixture.survey(&root);
        for cid in &cids {
            let (each, at_once) = fixture.compare(cid);
            assert!(at_once <= each);
            (looks, fewer) = (looks + each, fewer + at_once);
        }
        // The rest comes, and a new version of it.
        fixture.put(lost.iter().map(|index| blocks[*index].clone()).collect());
        let parts: Vec<Cid> = (0..8).map(|_| cids[random.random_range(0..200)]).collect();
        let version = node(200, &parts);
        fixture.put(vec![version.clone()]);
        fixture.compare(version.cid());
        fixture.survey(version.cid());
        fixture.survey(&root);
        fixture.compare(version.cid());
        fixture.compare(&root);

        let kept = [*version.cid(), cids[random.random_range(150..200)]];
        fixture.collect(&kept);
        for cid in cids.iter().chain(&kept) {
            fixture.compare(cid);
        }
        fixture.collect(&[]);
        assert_eq!(fixture.lists(&cids), 0, "what they stand for is gone");
        fixture.put(blocks);
        fixture.compare(&root);
    }
    println!("{looks} looks one by one, {fewer} at once");
    // Many of these DAGs are too small for a list, or lack a block.
    assert!(fewer * 10 < looks * 9, "{fewer} looks instead of {looks}");
}

#[test]
fn a_chain_that_is_deeper_than_the_survey_goes_has_lists_all_along() {
    let fixture = Fixture::new();
    let mut chain = vec![node(0, &[])];
    for number in 1..300 {
        chain.push(node(number, &[*chain.last().unwrap().cid()]));
    }
    let root = *chain.last().unwrap().cid();
    fixture.put(chain);
    fixture.survey(&root);
    let (each, at_once) = fixture.compare(&root);
    assert!(each == 300 && at_once < 120, "{each} and {at_once}");
}

#[test]
fn what_is_collected_or_damaged_meanwhile_ends_a_survey() {
    let fixture = Fixture::new();
    let leaves: Vec<Block> =
        (0..20).map(|number| Block::new_sha256(codec::RAW, vec![number].into()).unwrap()).collect();
    let root = node(1, &leaves.iter().map(|leaf| *leaf.cid()).collect::<Vec<_>>());
    let cid = *root.cid();
    fixture.put([leaves, vec![root]].concat());
    let survey = || fixture.store.writer().survey(&cid, all_links).unwrap();

    let mut collected = survey();
    fixture.collect(&[cid]);
    assert_eq!(collected.step().unwrap(), SurveyStep::Disturbed);

    let collection = fixture.store.collector(held_links).begin().unwrap();
    assert_eq!(survey().step().unwrap(), SurveyStep::Disturbed, "while garbage is collected");
    let mut late = survey();
    drop(collection);
    assert_eq!(late.step().unwrap(), SurveyStep::Disturbed, "begun while garbage was collected");
    assert_eq!(fixture.lists(&[cid]), 0);

    fixture.survey(&cid);
    assert_eq!(fixture.lists(&[cid]), 1);
    assert_eq!(fixture.compare(&cid), (21, 1));
    let collection = fixture.store.collector(held_links).begin().unwrap();
    assert_eq!(fixture.compare(&cid), (21, 21), "while garbage is collected each block is looked at");
    drop(collection);

    let mut damaged = survey();
    fixture.store.begin_generation();
    assert_eq!(fixture.lists(&[cid]), 0, "a damaged block may be among those of any list");
    while damaged.step().unwrap() == SurveyStep::More {}
    assert_eq!(fixture.lists(&[cid]), 0, "what was seen before the damage was found");
    fixture.survey(&cid);
    assert_eq!(fixture.compare(&cid), (21, 1));
}
