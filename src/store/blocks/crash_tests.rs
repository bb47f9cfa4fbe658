//! What a process killed with SIGKILL leaves behind: every block whose put had returned.
//!
//! The test starts itself again as the process that will be killed. That one writes numbered blocks and prints a number
//! as soon as the block, and every one before it, is acknowledged.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use redb::Database;

use super::tests::block;
use super::*;
use crate::model::Block;

const DIRECTORY_VARIABLE: &str = "PINNACE_CRASH_TEST_DIRECTORY";
const FIRST_VARIABLE: &str = "PINNACE_CRASH_TEST_FIRST";
const SEED_VARIABLE: &str = "PINNACE_CRASH_TEST_SEED";
const TEST_NAME: &str = "store::blocks::crash_tests::acknowledged_blocks_survive_a_kill";

/// For more than the few rounds of every day.
const ROUNDS_VARIABLE: &str = "PINNACE_CRASH_TEST_ROUNDS";

const ROUNDS: usize = 6;
const PUTS_IN_FLIGHT: usize = 10;

/// A number that depends on the seed and nothing else.
fn mix(seed: u64, number: u64) -> u64 {
    let mut mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Small blocks, and now and then one that runs over several segments: enough of both for commits that fly.
fn numbered(seed: u64, number: u64) -> Block {
    let size = mix(seed, number);
    let length = if size.is_multiple_of(4) { 300_000 } else { 5_000 };
    block(number + 1, usize::try_from(size >> 8).unwrap_or(0) % length)
}

fn open(directory: &Path) -> BlockStore {
    BlockStore::open(&directory.join("blocks.redb"), 16 << 20, 8 << 20).unwrap()
}

/// Writes until it is killed.
fn write_blocks(directory: &Path, seed: u64, first: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = open(directory);
        let writer = store.writer();
        let mut pending = VecDeque::new();
        let mut next = first;
        loop {
            while pending.len() < PUTS_IN_FLIGHT {
                let end = next + 1 + mix(seed, next) % 20;
                pending.push_back((
                    end - 1,
                    writer.submit((next..end).map(|number| numbered(seed, number)).collect()).await.unwrap(),
                ));
                next = end;
            }
            if let Some((last, put)) = pending.pop_front() {
                put.committed().await.unwrap();
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "\nacknowledged {last}").and_then(|()| stdout.flush()).unwrap();
            }
        }
    });
}

/// Runs the writing process, kills it when it has acknowledged `acknowledgements` puts, and returns the last block
/// acknowledged.
fn write_and_kill(directory: &Path, seed: u64, first: u64, acknowledgements: u64) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([TEST_NAME, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY_VARIABLE, directory)
        .env(FIRST_VARIABLE, first.to_string())
        .env(SEED_VARIABLE, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = None;
    let mut count = 0;
    // Reads on after the kill: what was printed before it counts.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(number) = line.unwrap().strip_prefix("acknowledged ").map(|number| number.parse::<u64>().unwrap())
        else {
            continue;
        };
        last = Some(number);
        count += 1;
        if count == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(count >= acknowledgements, "the process ended by itself after {count} acknowledgements");
    last.unwrap()
}

#[test]
fn acknowledged_blocks_survive_a_kill() {
    let seed = env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    if let Some(directory) = env::var_os(DIRECTORY_VARIABLE) {
        let first = env::var(FIRST_VARIABLE).unwrap().parse().unwrap();
        write_blocks(directory.as_ref(), seed, first);
    }
    println!("{SEED_VARIABLE}={seed}");
    let directory = tempfile::tempdir().unwrap();
    let mut first = 0;
    let rounds = env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let acknowledgements = 1 + mix(seed, round as u64) % 25;
        let last = write_and_kill(directory.path(), seed, first, acknowledgements);
        // Opening needs no walk over the file: redb would ask here before it began one.
        let path = directory.path().join("blocks.redb");
        drop(Database::builder().set_repair_callback(redb::RepairSession::abort).create(path).unwrap());
        let store = open(directory.path());
        for number in 0..=last {
            let block = numbered(seed, number);
            let data = store.reader().get(block.cid()).unwrap();
            let data = data.unwrap_or_else(|| panic!("block {number} was acknowledged and is lost (last {last})"));
            Block::verify(*block.cid(), data).unwrap();
        }
        // Blocks of a commit that was never acknowledged may be there; if so, they are whole.
        for number in last + 1..last + 200 {
            let block = numbered(seed, number);
            if let Some(data) = store.reader().get(block.cid()).unwrap() {
                Block::verify(*block.cid(), data).unwrap();
            }
        }
        first = last + 1;
    }
}
