//! Rows about stores of millions of blocks or many gigabytes: made by a process that is killed, then opened.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Settings;
use super::tools::{
    KIB, MIB, Random, Scratch, block, blocks, cpu_seconds, disk_bytes, import, jobs, latencies, memory_mb, open,
    seconds,
};

const WINDOW: u64 = 500_000;

/// Runs this program again for `row`, shows what it prints, and kills it when it says that it is ready.
fn until_ready(settings: &Settings, row: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--bench", row, "--blocks", &settings.blocks.to_string(), "--gib", &settings.gib.to_string()])
        .args(["--cache", &settings.cache_mib.to_string(), "--buffer", &settings.buffer_mib.to_string()])
        .arg("--directory")
        .arg(&settings.directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "ready" {
            child.kill().unwrap();
            break;
        }
        println!("{line}");
    }
    assert!(!child.wait().unwrap().success(), "the process should have been killed in the middle of its writing");
}

fn time_open(path: &Path, settings: &Settings) {
    let start = Instant::now();
    let store = open(path, settings);
    println!("open after kill -9: {:.1?} at {:.1} GB on disk", start.elapsed(), disk_bytes(path) as f64 / 1e9);
    store.close();
}

/// Fills a store with 1 KiB blocks and says how that slows down; then `has` and memory.
pub fn big(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "big");
    let path = scratch.path("blocks.redb");
    until_ready(settings, "child-big");
    time_open(&path, settings);
    let before = memory_mb("VmRSS");
    let store = open(&path, settings);
    let reader = store.reader();
    println!("big: {} blocks, {:.3} x payload", reader.stats().unwrap().blocks, {
        disk_bytes(&path) as f64 / (reader.stats().unwrap().blocks * KIB as u64) as f64
    });
    // An idle store does so by itself.
    println!("big: {:.1} s until the front of the index is merged", seconds(|| store.settle().unwrap()));
    // The CIDs are made first: hashing is no part of a look-up.
    let mut random = Random::new(3);
    for (name, first) in [("present", 0), ("absent", 1 << 41)] {
        let numbers: Vec<u64> = (0..200_000).map(|_| first + random.next() % settings.blocks).collect();
        let cids: Vec<_> = numbers.iter().map(|number| *block(*number, KIB).cid()).collect();
        for pass in ["first pass", "second pass"] {
            let mut times: Vec<Duration> = Vec::with_capacity(cids.len());
            for cid in &cids {
                let start = Instant::now();
                let found = reader.has(cid).unwrap();
                times.push(start.elapsed());
                assert_eq!(found, first == 0);
            }
            println!("has, {name}, {pass}: {}", latencies(&mut times));
        }
    }
    println!("big memory of a reader: {} MB more than before opening", memory_mb("VmRSS").saturating_sub(before));
}

/// Fills the store of [`big`], says when it has the number of blocks asked for, and goes on.
pub fn child_big(settings: &Settings) {
    let path = settings.directory.join("bench-big/blocks.redb");
    let before = memory_mb("VmRSS");
    let store = open(&path, settings);
    let writer = store.writer();
    // The blocks are made on another thread, a little ahead.
    let (sender, receiver) = std::sync::mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for job in 0.. {
            let job: Vec<_> = (job * 256..(job + 1) * 256).map(|number| block(number, KIB)).collect();
            if sender.send(job).is_err() {
                break;
            }
        }
    });
    let mut written = 0;
    let mut cpu = cpu_seconds();
    while written < settings.blocks + 2 * WINDOW {
        let taken = seconds(|| {
            import(&writer, receiver.iter().take(usize::try_from(WINDOW / 256).unwrap()));
        });
        written += WINDOW / 256 * 256;
        let cpu_now = cpu_seconds();
        let blocks = WINDOW as f64;
        // The making of the blocks is in this figure of processor time.
        println!(
            "big at {written}: {:.0} blocks/s, {:.1} µs of CPU each",
            blocks / taken,
            (cpu_now - cpu) * 1e6 / blocks
        );
        cpu = cpu_now;
    }
    println!(
        "big memory of the writer: {} MB at most, {} MB now, {before} MB before opening; cache {} MiB, buffer {} MiB",
        memory_mb("VmHWM"),
        memory_mb("VmRSS"),
        settings.cache_mib,
        settings.buffer_mib
    );
    println!("ready");
    import(&writer, receiver.iter());
}

/// Opening a store of many gigabytes after its writer was killed.
pub fn open_after_kill(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "open");
    for _ in 0..settings.rounds {
        until_ready(settings, "child-open");
        time_open(&scratch.path("blocks.redb"), settings);
    }
}

/// Writes 1 MiB blocks until there are `gib` GiB, and goes on.
pub fn child_open(settings: &Settings) {
    let path = settings.directory.join("bench-open/blocks.redb");
    let store = open(&path, settings);
    let writer = store.writer();
    let mut number = store.reader().stats().unwrap().blocks + 1_000_000;
    loop {
        import(&writer, jobs(&blocks(number, 64, MIB)));
        number += 64;
        if disk_bytes(&path) > settings.gib << 30 {
            println!("ready");
        }
    }
}
