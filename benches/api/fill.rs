//! A file with many pins of one account.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use pinnace::model::cids::codec;
use pinnace::model::{Block, Failure, FailureCode, PinId, PinState, UserId};
use pinnace::store::Records;
use pinnace::store::records::NewPin;

/// The account that has the pins: the first.
pub const USER: UserId = UserId(1);

/// Pins in one transaction.
const GROUP_PINS: u64 = 10_000;

/// Ids that are kept to be asked for.
const IDS_MAX: u64 = 10_000;

/// For filling alone.
const CACHE_BYTES: usize = 64 << 20;

/// When the first pin was made.
const FIRST_MS: i64 = 1_700_000_000_000;

const ADJECTIVES: [&str; 8] = ["brisk", "calm", "dusty", "eager", "faint", "gentle", "hollow", "ivory"];
const NOUNS: [&str; 8] = ["otter", "paddle", "quay", "rudder", "sail", "tiller", "anchor", "beacon"];

pub struct Filled {
    pub took: Duration,
    pub file_bytes: u64,
    pub ids: Vec<PinId>,
}

/// Pin `number`.
pub fn pin(number: u64) -> NewPin {
    // Neighbours have nothing in common.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let pick = |from: &[&'static str], shift: u32| from[usize::try_from(mixed >> shift).unwrap() % from.len()];
    let root = *Block::new_sha256(codec::RAW, number.to_le_bytes().to_vec().into()).unwrap().cid();
    NewPin {
        name: Some(format!("{}-{}-{number:07}.car", pick(&ADJECTIVES, 8), pick(&NOUNS, 16))),
        meta: [
            ("app".to_owned(), format!("app-{}", mixed >> 32 & 15)),
            ("batch".to_owned(), format!("batch-{}", number / 1000)),
        ]
        .into(),
        ..NewPin::plain(USER, root)
    }
}

/// `created` of pin `number`.
pub fn time(number: u64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(FIRST_MS + i64::try_from(number).unwrap()).unwrap())
}

/// Nine of ten are pinned, some have failed, the newest are unfinished.
fn state(number: u64, pins: u64) -> PinState {
    match number % 20 {
        _ if number + pins / 100 > pins => PinState::Queued,
        3 | 13 => PinState::Failed(Failure {
            code: FailureCode::NoProvider,
            sentence: "no origins were given and no connected peer has the content".into(),
            tried: Vec::new(),
        }),
        _ => PinState::Pinned { blocks: 3, bytes: 700_000 },
    }
}

pub fn fill(directory: &Path, pins: u64) -> Filled {
    let path = directory.join("records.redb");
    let records = std::sync::Arc::new(Records::open(&path, CACHE_BYTES).unwrap());
    let began = Instant::now();
    let mut ids = Vec::new();
    let kept = (pins / IDS_MAX).max(1);
    for first in (0..pins).step_by(usize::try_from(GROUP_PINS).unwrap()) {
        let group = records.write(move |change| {
            let mut ids = Vec::new();
            for number in first..(first + GROUP_PINS).min(pins) {
                let now_ms = FIRST_MS + i64::try_from(number).unwrap();
                let record = change.add_pin(pin(number), None, now_ms)?.unwrap();
                let state = state(number, pins);
                if state != PinState::Queued {
                    change.finish(record.id, state)?;
                }
                if number % kept == 0 {
                    ids.push(record.id);
                }
            }
            Ok(ids)
        });
        ids.extend(block_on(group).unwrap());
    }
    let took = began.elapsed();
    records.close();
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    Filled { took, file_bytes, ids }
}
