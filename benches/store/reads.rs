//! Rows about reading large blocks at random, against `pread` on a flat file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use cid::Cid;
use pinnace::store::blocks::BlockReader;

use super::Settings;
use super::tools::{
    KIB, Random, Scratch, blocks, import, jobs, make_cold, make_warm, median, median_ratio, open, seconds, write_flat,
};

const COUNT: usize = 8192;
const LENGTH: usize = 256 * KIB;

fn read_store(reader: &BlockReader, cids: &[Cid], seed: u64, reads: usize) {
    let mut random = Random::new(seed);
    for _ in 0..reads {
        assert_eq!(reader.get(&cids[random.below(COUNT)]).unwrap().unwrap().len(), LENGTH);
    }
}

fn read_flat(file: &File, seed: u64, reads: usize) {
    let mut random = Random::new(seed);
    for _ in 0..reads {
        // Each into memory of its own, as the store answers.
        let mut data = vec![0; LENGTH];
        file.read_exact_at(&mut data, (random.below(COUNT) * LENGTH) as u64).unwrap();
        std::hint::black_box(data);
    }
}

/// Runs a job on so many threads, each with its own seed; the answer is MiB/s.
fn on_threads(threads: usize, reads: usize, job: impl Fn(u64, usize) + Sync) -> f64 {
    let taken = seconds(|| {
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let job = &job;
                scope.spawn(move || job(thread as u64 + 1, reads));
            }
        });
    });
    (threads * reads * LENGTH) as f64 / f64::from(1 << 20) / taken
}

/// 2 GiB of 256 KiB blocks at random, cold and warm, and warm on two threads.
pub fn read(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "read");
    let (path, flat_path) = (scratch.path("blocks.redb"), scratch.path("flat"));
    let store = open(&path, settings);
    let cids: Vec<Cid> = {
        let all = blocks(0, COUNT as u64, LENGTH);
        import(&store.writer(), jobs(&all));
        write_flat(&flat_path, &all, usize::MAX);
        all.iter().map(|block| *block.cid()).collect()
    };
    let (reader, flat) = (store.reader(), File::open(&flat_path).unwrap());
    for (name, threads, reads) in [("cold", 1, 2000), ("warm", 1, 8000), ("warm, two threads", 2, 8000)] {
        let (mut store_speeds, mut flat_speeds) = (Vec::new(), Vec::new());
        for round in 0..settings.rounds as u64 {
            let prepare = if name == "cold" { make_cold } else { make_warm };
            prepare(&path);
            let packed = on_threads(threads, reads, |seed, reads| read_store(&reader, &cids, seed + round * 9, reads));
            prepare(&flat_path);
            let bare = on_threads(threads, reads, |seed, reads| read_flat(&flat, seed + round * 9, reads));
            println!("read {name} round {round}: store {packed:.0} MiB/s, pread {bare:.0} MiB/s");
            store_speeds.push(packed);
            flat_speeds.push(bare);
        }
        println!(
            "read {name}: store {:.0} MiB/s, pread {:.0} MiB/s, ratio {:.2}",
            median(&store_speeds),
            median(&flat_speeds),
            median_ratio(&store_speeds, &flat_speeds)
        );
    }
    let mut gains = Vec::new();
    for round in 0..settings.rounds as u64 {
        let one = on_threads(1, 8000, |seed, reads| read_store(&reader, &cids, seed + round, reads));
        let two = on_threads(2, 8000, |seed, reads| read_store(&reader, &cids, seed + round, reads));
        gains.push(two / one);
    }
    println!("read: two threads are {:.2} times as fast as one", median(&gains));
}
