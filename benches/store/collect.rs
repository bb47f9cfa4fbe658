//! Rows about garbage: how long a collection takes, what reads feel of it, and what it leaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cid::Cid;
use pinnace::model::Block;
use pinnace::store::Stores;
use pinnace::store::blocks::{BlockReader, BlockStore, GcPhase, GcReport};
use pinnace::store::datadir::DataDir;

use super::Settings;
use super::tools::{KIB, Random, Scratch, block, blocks, disk_bytes, import, jobs, latencies, open, p99};

/// Blocks of the row `gc`.
const BLOCKS: u64 = 1_000_000;

/// Blocks that each turn of the row `churn` puts and removes.
const CHURN_BLOCKS: u64 = 100_000;

const CHURN_TURNS: u64 = 10;

/// Collects with these roots, none of which has links.
fn collect(store: &BlockStore, roots: impl Iterator<Item = Cid>) -> GcReport {
    let mut collection = store.collector(|_, _| Vec::new()).begin().unwrap();
    for root in roots {
        collection.add_root(&root);
    }
    collection.seal_roots();
    while collection.step().unwrap() != GcPhase::Done {}
    collection.report()
}

/// Reads blocks at random until told to stop.
fn read_until(reader: &BlockReader, cids: &[Cid], stop: &AtomicBool) -> Vec<Duration> {
    let mut random = Random::new(11);
    let mut times = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let cid = &cids[random.below(cids.len())];
        let start = Instant::now();
        assert!(reader.get(cid).unwrap().is_some());
        times.push(start.elapsed());
    }
    times
}

/// Reads for as long as `job` takes.
fn reading_beside(store: &BlockStore, cids: &[Cid], job: impl FnOnce()) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    let reader = store.reader();
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| read_until(&reader, cids, &stop));
        job();
        stop.store(true, Ordering::Release);
        reads.join().unwrap()
    })
}

fn live_ratio(store: &BlockStore, payload: u64) -> f64 {
    store.reader().stats().unwrap().segment_bytes as f64 / payload as f64
}

/// One collection of a million blocks of 1 KiB of which half are dead, and reads beside it.
pub fn gc(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "gc");
    for round in 0..settings.rounds {
        let directory = scratch.path(&round.to_string());
        let path = DataDir::open(&directory).unwrap().blocks_path();
        let store = open(&path, settings);
        let mut random = Random::new(round as u64 + 5);
        let mut kept: Vec<Cid> = Vec::new();
        for first in (0..BLOCKS).step_by(100_000) {
            let some = blocks(first, 100_000, KIB);
            import(&store.writer(), jobs(&some));
            kept.extend(some.iter().filter(|_| random.below(2) == 0).map(|block| *block.cid()));
        }
        // A collection merges the front of the index before it begins, which an idle store does as well, a little later.
        drop(store.collector(|_, _| Vec::new()).begin().unwrap());
        let mut idle = reading_beside(&store, &kept, || std::thread::sleep(Duration::from_secs(3)));
        let mut took = Duration::ZERO;
        let mut report = None;
        let mut busy = reading_beside(&store, &kept, || {
            let start = Instant::now();
            report = Some(collect(&store, kept.iter().copied()));
            took = start.elapsed();
        });
        let report = report.unwrap();
        assert_eq!(report.kept_blocks, kept.len() as u64);
        let payload = (kept.len() * KIB) as u64;
        println!(
            "gc: {took:.1?} for {BLOCKS} blocks, {} removed, {} moved; live segments {:.3} x what is left, file {:.3} x",
            report.removed_blocks,
            report.moved_blocks,
            live_ratio(&store, payload),
            disk_bytes(&path) as f64 / payload as f64,
        );
        let ratio = p99(&mut busy).as_secs_f64() / p99(&mut idle).as_secs_f64();
        println!("gc, reads: idle {}; beside {}; p99 {ratio:.2} x", latencies(&mut idle), latencies(&mut busy));
        store.close();
        let start = Instant::now();
        let compacted = Stores::compact_stopped(&directory, &mut |_, _| {}).unwrap();
        println!(
            "gc, compact: {:.1?}; file {:.3} x what is left",
            start.elapsed(),
            compacted.bytes_after as f64 / payload as f64
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

/// Puts and removes the same volume again and again: how the file grows.
pub fn churn(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "churn");
    let path = scratch.path("blocks.redb");
    let store = open(&path, settings);
    let mut first_size = 0;
    for turn in 0..CHURN_TURNS {
        // Other blocks each time, of mixed sizes, and two in a hundred stay.
        let numbers = turn * CHURN_BLOCKS..(turn + 1) * CHURN_BLOCKS;
        let some: Vec<Block> =
            numbers.map(|number| block(number, if number % 20 == 0 { 64 * KIB } else { KIB })).collect();
        import(&store.writer(), jobs(&some));
        let size = disk_bytes(&path);
        if turn == 0 {
            first_size = size;
        }
        println!("churn: turn {}: {:.2} x of the first", turn + 1, size as f64 / first_size as f64);
        collect(&store, std::iter::empty());
    }
}
