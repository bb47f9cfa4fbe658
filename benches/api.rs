//! How fast the API is with many pins, over HTTP on loopback: the router with real records and accounts, and no node.
//!
//! `cargo bench --bench api -- [--pins N]… [--rounds N] [--seconds N] [--cache MIB] [--directory DIR]` fills a file with so many pins of one
//! account (10,000 and 1,000,000 if none is given), and prints for each list the time that half and 99 of 100 requests take at
//! most on one connection, then how many pins are made and looked at per second over 64. Medians of the rounds. The client
//! runs on the same machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't go on may as well panic")]

#[path = "api/client.rs"]
mod client;
#[path = "api/fill.rs"]
mod fill;
#[path = "api/server.rs"]
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::{Rate, Times};
use server::Server;

const CONNECTIONS: usize = 64;
const ACCOUNTS: usize = 16;

/// What the command line says.
struct Settings {
    pins: Vec<u64>,
    rounds: usize,
    time: Duration,
    cache_mib: usize,
    directory: PathBuf,
}

/// Lists, and how many requests are measured in a round.
fn lists(pins: u64) -> Vec<(&'static str, String, usize)> {
    let pin = fill::pin(pins / 3);
    let statuses = "status=queued,pinning,pinned,failed";
    vec![
        ("the newest", "limit=10".into(), 1000),
        ("before the middle", format!("limit=10&before={}", fill::time(pins / 2)), 1000),
        ("cid", format!("limit=10&{statuses}&cid={}", pin.cid_text), 1000),
        ("name, exact", format!("limit=10&name={}", pin.name.clone().unwrap()), 1000),
        ("name, any case", format!("limit=10&match=iexact&name={}", pin.name.unwrap().to_uppercase()), 1000),
        ("status failed", "limit=10&status=failed".into(), 1000),
        ("status queued", "limit=10&status=queued".into(), 1000),
        ("all statuses", format!("limit=10&{statuses}"), 1000),
        ("meta of many", "limit=10&meta[app]=app-7".into(), 1000),
        ("meta of few", format!("limit=10&meta[batch]=batch-{}", pins / 3000), 1000),
        ("meta and status", "limit=10&meta[app]=app-7&status=failed".into(), 1000),
        ("1000 of the newest", "limit=1000".into(), 100),
        ("part of a name", "limit=10&match=partial&name=otter-00123".into(), 100),
        ("part, no such", "limit=10&match=partial&name=nowhere".into(), 100),
        ("part of most names", "limit=10&match=partial&name=.car".into(), 100),
        ("part, any case", "limit=10&match=ipartial&name=OTTER-00123".into(), 100),
    ]
}

fn main() {
    let mut settings = Settings {
        pins: Vec::new(),
        rounds: 3,
        time: Duration::from_secs(5),
        cache_mib: 16,
        directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let mut is_bench = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--pins" => settings.pins.push(value().parse().expect("a number")),
            "--rounds" => settings.rounds = value().parse().expect("a number"),
            "--seconds" => settings.time = Duration::from_secs(value().parse().expect("a number")),
            "--cache" => settings.cache_mib = value().parse().expect("a number"),
            "--directory" => settings.directory = value().into(),
            other => panic!("{other} is not known"),
        }
    }
    // `cargo test --benches` runs this too, without `--bench`; then building it is the test.
    if !is_bench {
        return;
    }
    if settings.pins.is_empty() {
        settings.pins = vec![10_000, 1_000_000];
    }
    for pins in &settings.pins {
        measure(*pins, &settings);
    }
}

fn measure(pins: u64, settings: &Settings) {
    let directory = tempfile::tempdir_in(&settings.directory).unwrap();
    let filled = fill::fill(directory.path(), pins);
    println!("\n{pins} pins: filled in {:.1} s, {} MiB", filled.took.as_secs_f64(), filled.file_bytes >> 20);
    // From here on the kernel tells the most that was in use anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    println!("memory {} MiB before the start", resident_mib());
    let server = Server::start(directory.path(), settings.cache_mib << 20, ACCOUNTS);
    println!("memory {} MiB after the start", resident_mib());

    let lists = lists(pins);
    let mut times: Vec<Vec<Times>> = lists.iter().map(|_| Vec::new()).collect();
    for _ in 0..settings.rounds {
        for ((_, query, requests), times) in lists.iter().zip(&mut times) {
            times.push(client::time(&server, &format!("/api/psa/pins?{query}"), *requests));
        }
    }
    for ((name, ..), times) in lists.iter().zip(&mut times) {
        let p50 = median(times.iter().map(|times| times.p50).collect());
        let p99 = median(times.iter().map(|times| times.p99).collect());
        println!("{name:20} p50 {:8.3} ms, p99 {:8.3} ms, count {}", millis(p50), millis(p99), times[0].count);
    }
    println!("memory {} MiB after the lists", resident_mib());

    println!("token check          {:.2} µs warm", token_check(&server).as_secs_f64() * 1e6);
    let gets = rates(settings, || client::get(&server, &filled.ids, CONNECTIONS, settings.time));
    println!("GET /pins/{{id}}       {gets} /s");
    let posts = rates(settings, || client::post(&server, CONNECTIONS, settings.time));
    println!("POST /pins           {posts} /s");
    println!("memory {} MiB at the end, {} MiB at most", resident_mib(), status("VmHWM:") >> 10);
    server.stop();
}

/// How long it takes to know whose token a request has, once that was looked up: a median of many.
fn token_check(server: &Server) -> Duration {
    let check = || {
        let began = Instant::now();
        for _ in 0..1000 {
            server.accounts.authenticate(&server.token).unwrap();
        }
        began.elapsed() / 1000
    };
    median((0..1000).map(|_| check()).collect())
}

/// The median, and all rounds.
fn rates(settings: &Settings, measure: impl Fn() -> Rate) -> String {
    let rounds: Vec<Rate> = (0..settings.rounds).map(|_| measure()).collect();
    assert!(rounds.iter().all(|rate| rate.refused == 0), "requests were refused: {rounds:?}");
    let mut figures: Vec<u64> = rounds.iter().map(|rate| rate.per_second).collect();
    figures.sort_unstable();
    let p99 = median(rounds.iter().map(|rate| rate.p99).collect());
    format!("{:6} (rounds {figures:?}), p99 {:.1} ms", figures[figures.len() / 2], millis(p99))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn resident_mib() -> u64 {
    status("VmRSS:") >> 10
}

/// A figure of the kernel about this process, in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
