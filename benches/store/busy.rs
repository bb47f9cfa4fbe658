//! Rows about latency: small commits on an idle store, and beside an import.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use pinnace::store::Records;

use super::Settings;
use super::tools::{KIB, Scratch, block, blocks, import, jobs, latencies, median, open, p99};

fn timed(job: impl FnOnce()) -> Duration {
    let start = Instant::now();
    job();
    start.elapsed()
}

/// 4 KiB in place and `fdatasync`: the least that any durable commit can cost.
fn bare_commit(file: &File, number: u64) {
    file.write_all_at(&[7; 4096], number % 256 * 4096).unwrap();
    file.sync_data().unwrap();
}

fn bare_file(path: &Path) -> File {
    let file = File::create(path).unwrap();
    file.write_all_at(&vec![1; 256 * 4096], 0).unwrap();
    file.sync_all().unwrap();
    file
}

fn records_commit(records: &Records, number: u64) {
    block_on(records.write(move |change| change.set_meta("bench", &number))).unwrap();
}

/// A lone put and a lone commit of the records, against a bare commit.
pub fn lone(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "lone");
    let store = open(&scratch.path("blocks.redb"), settings);
    let records = Records::open(&scratch.path("records.redb"), 16 << 20).unwrap();
    let bare = bare_file(&scratch.path("bare"));
    import(&store.writer(), jobs(&blocks(1 << 40, 1024, 256 * KIB)));
    let (mut puts, mut changes, mut bares) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..500 {
        let block = block(number, KIB);
        bares.push(timed(|| bare_commit(&bare, number)));
        puts.push(timed(|| block_on(store.writer().put(vec![block])).unwrap()));
        changes.push(timed(|| records_commit(&records, number)));
    }
    let ratio = |values: &[Duration]| {
        let ratios: Vec<f64> =
            values.iter().zip(&bares).map(|(value, bare)| value.as_secs_f64() / bare.as_secs_f64()).collect();
        median(&ratios)
    };
    let (put_ratio, change_ratio) = (ratio(&puts), ratio(&changes));
    println!("lone bare 4 KiB + fdatasync: {}", latencies(&mut bares));
    println!("lone put: {}, {put_ratio:.2} x bare", latencies(&mut puts));
    println!("lone commit of records: {}, {change_ratio:.2} x bare", latencies(&mut changes));
}

/// The same three beside an import of 1 GiB of 256 KiB blocks.
pub fn busy(settings: &Settings) {
    let all = blocks(1 << 40, 4096, 256 * KIB);
    let (mut puts, mut changes, mut bares) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..settings.rounds as u64 {
        let scratch = Scratch::new(&settings.directory, "busy");
        let store = open(&scratch.path("blocks.redb"), settings);
        let records = Records::open(&scratch.path("records.redb"), 16 << 20).unwrap();
        let bare = bare_file(&scratch.path("bare"));
        let done = AtomicBool::new(false);
        let more = || !done.load(Ordering::Acquire);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                import(&store.writer(), jobs(&all));
                done.store(true, Ordering::Release);
            });
            scope.spawn(|| {
                for number in (round << 20..).take_while(|_| more()) {
                    let block = block(number, KIB);
                    puts.push(timed(|| block_on(store.writer().put(vec![block])).unwrap()));
                }
            });
            for number in (0..).take_while(|_| more()) {
                bares.push(timed(|| bare_commit(&bare, number)));
                changes.push(timed(|| records_commit(&records, number)));
            }
        });
    }
    let ratio = p99(&mut changes).as_secs_f64() / p99(&mut bares).as_secs_f64();
    println!("busy bare 4 KiB + fdatasync: {}", latencies(&mut bares));
    println!("busy put: {}", latencies(&mut puts));
    println!("busy commit of records: {}, p99 {ratio:.2} x bare", latencies(&mut changes));
}
