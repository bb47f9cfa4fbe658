//! How fast the stores are, and how much room they take: the figures of `docs/BENCHMARKS.md`.
//!
//! `cargo bench --bench store -- [ROW…] [--rounds N] [--directory DIR] [--blocks N] [--gib N] [--cache MIB]
//! [--buffer MIB]` runs the rows named, or all but the long ones (`big`, `open`). What is compared is alternated within one run, and medians are printed: a disk
//! that others use too makes figures of different runs incomparable. Operations of microseconds (`quick`) are criterion's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't go on may as well panic")]

#[path = "store/big.rs"]
mod big;
#[path = "store/busy.rs"]
mod busy;
#[path = "store/collect.rs"]
mod collect;
#[path = "store/quick.rs"]
mod quick;
#[path = "store/reads.rs"]
mod reads;
#[path = "store/tools.rs"]
mod tools;
#[path = "store/writes.rs"]
mod writes;

use std::path::PathBuf;

/// What the command line says.
struct Settings {
    rounds: usize,
    directory: PathBuf,
    blocks: u64,
    gib: u64,
    cache_mib: usize,
    buffer_mib: usize,
}

/// A row's name, whether it takes minutes or gigabytes and so must be named, and what it does.
type Row = (&'static str, bool, fn(&Settings));

const ROWS: [Row; 13] = [
    ("size", false, writes::size),
    ("large", false, writes::large),
    ("small", false, writes::small),
    ("read", false, reads::read),
    ("lone", false, busy::lone),
    ("busy", false, busy::busy),
    ("quick", false, quick::quick),
    ("gc", false, collect::gc),
    ("churn", false, collect::churn),
    ("big", true, big::big),
    ("open", true, big::open_after_kill),
    ("child-big", true, big::child_big),
    ("child-open", true, big::child_open),
];

fn main() {
    let mut settings = Settings {
        rounds: 3,
        directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        blocks: 10_000_000,
        gib: 20,
        // As in `config/default.toml`.
        cache_mib: 64,
        buffer_mib: 32,
    };
    let mut names = Vec::new();
    let mut is_bench = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--rounds" => settings.rounds = value().parse().expect("a number"),
            "--directory" => settings.directory = value().into(),
            "--blocks" => settings.blocks = value().parse().expect("a number"),
            "--cache" => settings.cache_mib = value().parse().expect("a number"),
            "--buffer" => settings.buffer_mib = value().parse().expect("a number"),
            "--gib" => settings.gib = value().parse().expect("a number"),
            _ => names.push(argument),
        }
    }
    // `cargo test --benches` runs this too, without `--bench`; then building it is the test.
    if !is_bench {
        return;
    }
    for name in &names {
        assert!(ROWS.iter().any(|row| row.0 == name), "there is no row {name}");
    }
    for (name, is_long, row) in ROWS {
        if names.iter().any(|wanted| wanted == name) || (names.is_empty() && !is_long) {
            row(&settings);
        }
    }
}
