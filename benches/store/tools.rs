//! What all rows need: blocks, stores, flat files, and figures.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Settings;
use futures::executor::block_on;
use pinnace::model::Block;
use pinnace::model::cids::codec;
use pinnace::store::blocks::{BlockStore, BlockWriter, PendingPut};

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * 1024;

/// A pseudorandom sequence (xorshift64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Block `number` of `length` bytes, different from every other.
pub fn block(number: u64, length: usize) -> Block {
    let mut random = Random::new(number + 1);
    let mut data = Vec::with_capacity(length + 8);
    data.extend_from_slice(&number.to_le_bytes());
    while data.len() < length {
        data.extend_from_slice(&random.next().to_le_bytes());
    }
    data.truncate(length);
    Block::new_sha256(codec::RAW, data.into()).unwrap()
}

/// Blocks `first..first + count`, made on all cores.
pub fn blocks(first: u64, count: u64, length: usize) -> Vec<Block> {
    let half = first + count / 2;
    std::thread::scope(|scope| {
        let upper = scope.spawn(|| (half..first + count).map(|number| block(number, length)).collect::<Vec<_>>());
        let mut all: Vec<Block> = (first..half).map(|number| block(number, length)).collect();
        all.extend(upper.join().unwrap());
        all
    })
}

/// A directory of its own inside the one for benches, removed with this value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(format!("bench-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn open(path: &Path, settings: &Settings) -> BlockStore {
    BlockStore::open(path, settings.cache_mib * MIB, settings.buffer_mib * MIB).unwrap()
}

/// Submits jobs as fast as the queue takes them, and waits until all are durable.
pub fn import(writer: &BlockWriter, jobs: impl IntoIterator<Item = Vec<Block>>) {
    let pending: Vec<PendingPut> = jobs.into_iter().map(|job| block_on(writer.submit(job)).unwrap()).collect();
    for put in pending {
        block_on(put.committed()).unwrap();
    }
}

/// Cuts blocks into jobs of about 256 KiB, as a fetch that is full of answers submits them.
pub fn jobs(blocks: &[Block]) -> impl Iterator<Item = Vec<Block>> {
    let per_job = (256 * KIB / blocks[0].data().len()).max(1);
    blocks.chunks(per_job).map(<[Block]>::to_vec)
}

/// Writes the bytes of blocks to a new flat file, `fdatasync` after each `group` bytes.
pub fn write_flat(path: &Path, blocks: &[Block], group: usize) {
    let mut file = File::create(path).unwrap();
    let mut waiting = 0;
    for block in blocks {
        file.write_all(block.data()).unwrap();
        waiting += block.data().len();
        if waiting >= group {
            file.sync_data().unwrap();
            waiting = 0;
        }
    }
    file.sync_data().unwrap();
}

/// Bytes that a file takes on the disk: holes, and what lies beyond redb's last page, take none.
pub fn disk_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Drops a file from the page cache. (`dd` knows the system call for it.)
pub fn make_cold(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
    let input = format!("if={}", path.display());
    let done = Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]).status().unwrap();
    assert!(done.success());
}

/// Reads a file into the page cache.
pub fn make_warm(path: &Path) {
    std::io::copy(&mut File::open(path).unwrap(), &mut std::io::sink()).unwrap();
}

pub fn seconds(job: impl FnOnce()) -> f64 {
    let start = Instant::now();
    job();
    start.elapsed().as_secs_f64()
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of `above[i] / below[i]`: each pair was measured one right after the other.
pub fn median_ratio(above: &[f64], below: &[f64]) -> f64 {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    median(&ratios)
}

/// Median and 99th percentile as text.
pub fn latencies(values: &mut [Duration]) -> String {
    values.sort_unstable();
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    format!("median {:.1?}, p99 {:.1?}, max {:.1?} (n {})", at(50), at(99), at(100), values.len())
}

/// The 99th percentile.
pub fn p99(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values[(values.len() - 1) * 99 / 100]
}

/// Seconds of processor time that this process has used.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // What stands before may contain blanks. The clock of these figures ticks 100 times a second.
    let figures: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (figures[11].parse::<f64>().unwrap() + figures[12].parse::<f64>().unwrap()) / 100.0
}

/// A figure of this process from `/proc/self/status`, in MB.
pub fn memory_mb(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    kib * 1024 / 1_000_000
}
