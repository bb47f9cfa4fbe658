//! Lists from the index against lists that a plain model makes by looking at every pin.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use cid::Cid;
use redb::ReadableDatabase;

use super::tables::{ACCOUNT_PINS, FRONT, NAMES, PINS_BY_CREATED, PINS_BY_ORDINAL, POSTINGS};
use super::*;
use crate::model::cids::codec;
use crate::model::query::{NameMatch, Query, Status, fold_case};
use crate::model::{Block, ContentKey, Failure, FailureCode, PinId, PinRecord, PinState, UserId};

const USERS: [UserId; 2] = [UserId(1), UserId(2)];
const NAME_POOL: [&str; 9] = ["a", "A", "ab", "Report 1", "report 1", "REPORT 11", "Straße", "STRASSE", "οδος"];
const PARTS: [&str; 7] = ["a", "B", "report", "RE", "ss", "ΔΟΣ", "t 1"];

/// Random numbers that a seed gives again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Roots of which the last two are one content.
fn roots() -> Vec<Cid> {
    let cid = |number: u8| *Block::new_sha256(codec::DAG_PB, vec![number].into()).unwrap().cid();
    vec![cid(0), cid(1), cid(2), cid(3), Cid::new_v0(*cid(3).hash()).unwrap()]
}

fn new_pin(random: &mut Random) -> NewPin {
    let root = *random.pick(&roots());
    let mut meta = BTreeMap::new();
    for key in ["k", "l", "kl"] {
        if random.one_in(2) {
            meta.insert(key.to_owned(), (*random.pick(&["1", "2", "l1"])).to_owned());
        }
    }
    NewPin {
        name: (!random.one_in(4)).then(|| (*random.pick(&NAME_POOL)).to_owned()),
        meta,
        ..NewPin::plain(*random.pick(&USERS), root)
    }
}

fn query(random: &mut Random, model: &BTreeMap<i64, PinRecord>) -> Query {
    let mut query = Query::default();
    if random.one_in(3) {
        query.contents = (0..=random.below(3)).map(|_| ContentKey::of(random.pick(&roots()))).collect();
    }
    if random.one_in(2) {
        query.name_match =
            *random.pick(&[NameMatch::Exact, NameMatch::IgnoreCase, NameMatch::Partial, NameMatch::PartialIgnoreCase]);
        let pool = if random.one_in(2) { &PARTS[..] } else { &NAME_POOL[..] };
        query.name = Some((*random.pick(pool)).to_owned());
    }
    if random.one_in(3) {
        for key in ["k", "l"] {
            if random.one_in(2) {
                query.meta.insert(key.to_owned(), (*random.pick(&["1", "2", "l1"])).to_owned());
            }
        }
    }
    query.statuses = Status::ALL.into_iter().filter(|_| random.one_in(2)).collect();
    let times: Vec<i64> = model.keys().copied().collect();
    let mut time = || {
        let near = if times.is_empty() { 0 } else { *random.pick(&times) };
        random.one_in(3).then(|| near + i64::try_from(random.below(3)).unwrap() - 1)
    };
    (query.before_ms, query.after_ms) = (time(), time());
    query
}

fn status(record: &PinRecord, fetching: &BTreeSet<i64>) -> Status {
    match record.state {
        PinState::Pinned { .. } => Status::Pinned,
        PinState::Failed(_) => Status::Failed,
        PinState::Queued if fetching.contains(&record.created_ms) => Status::Pinning,
        PinState::Queued => Status::Queued,
    }
}

fn matches(query: &Query, record: &PinRecord, fetching: &BTreeSet<i64>) -> bool {
    let name_matches = match (&query.name, &record.name) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wanted), Some(name)) => match query.name_match {
            NameMatch::Exact => name == wanted,
            NameMatch::IgnoreCase => fold_case(name) == fold_case(wanted),
            NameMatch::Partial => name.contains(wanted.as_str()),
            NameMatch::PartialIgnoreCase => fold_case(name).contains(&fold_case(wanted)),
        },
    };
    name_matches
        && (query.contents.is_empty() || query.contents.contains(&ContentKey::of(&record.root)))
        && query.meta.iter().all(|(key, value)| record.meta.get(key) == Some(value))
        && query.wants(status(record, fetching))
        && query.before_ms.is_none_or(|before| record.created_ms < before)
        && query.after_ms.is_none_or(|after| record.created_ms > after)
}

/// One page, and the count.
fn page(records: &Records, user: UserId, query: &Query, fetching: &BTreeSet<i64>) -> (Vec<PinRecord>, u64) {
    let mut pins = Vec::new();
    let fetching: Vec<i64> = fetching.iter().copied().collect();
    let count = records.list_pins(user, query, &fetching, |record| {
        pins.push(record);
        if pins.len() == query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (pins, count.unwrap())
}

/// Changes pins in a commit, in the records and in the model.
async fn change(records: &Records, random: &mut Random, model: &mut BTreeMap<i64, PinRecord>, now_ms: &mut i64) {
    let mut steps: Vec<(usize, usize, NewPin)> = Vec::new();
    for _ in 0..=random.below(12) {
        steps.push((random.below(9), random.below(1 << 20), new_pin(random)));
    }
    // Accounts that have had more pins: their ordinals go on in another group or chunk.
    let jump =
        random.one_in(8).then(|| (*random.pick(&USERS), *random.pick(&[1, 63, 64, 31_999, 32_000, 65_536, 200_000])));
    let fills = !random.one_in(3);
    let (mut pins, mut now) = (std::mem::take(model), *now_ms);
    (*model, *now_ms) = records
        .write(move |change| {
            if let Some((user, by)) = jump {
                let mut account = change.account(user)?;
                let ordinal = account.ordinal_next + by;
                // More often than not the front is full soon.
                let before_last = ordinal.next_multiple_of(front::PINS_MAX) - 2;
                account.ordinal_next = if fills { before_last.max(ordinal) } else { ordinal };
                account.created_last_ms.get_or_insert(0);
                change.put_account(user, &account)?;
            }
            for (what, which, new) in steps {
                now += 1;
                let some = pins.keys().nth(which % pins.len().max(1)).copied();
                match (what, some) {
                    (0, Some(created_ms)) => {
                        let old = pins.remove(&created_ms).unwrap();
                        assert!(change.remove_pin(old.user, old.id)?);
                    }
                    (1, Some(created_ms)) => {
                        let old = pins.remove(&created_ms).unwrap();
                        let new = change.add_pin(NewPin { user: old.user, ..new }, Some(old.id), now)?.unwrap();
                        pins.insert(new.created_ms, new);
                    }
                    (2..=4, Some(created_ms)) => {
                        let record = pins.get_mut(&created_ms).unwrap();
                        let failure = Failure { code: FailureCode::Stalled, sentence: "x".into(), tried: Vec::new() };
                        let pinned = PinState::Pinned { blocks: 1, bytes: 1 };
                        let state = if what == 2 { PinState::Failed(failure) } else { pinned };
                        assert!(change.finish(record.id, state.clone())?);
                        if what != 2 {
                            record.retained_roots.clear();
                        }
                        record.state = state;
                    }
                    (5, Some(created_ms)) => {
                        let record = pins.get_mut(&created_ms).unwrap();
                        if change.retry_pin(record.id)?.is_ok() || change.requeue_pin(record.id)?.is_some() {
                            record.state = PinState::Queued;
                        }
                    }
                    _ => {
                        let new = change.add_pin(new, None, now)?.unwrap();
                        pins.insert(new.created_ms, new);
                    }
                }
            }
            Ok((pins, now))
        })
        .await
        .unwrap();
}

/// What is in the index, as text; terms are told alike whether they are in the front or not.
pub(super) fn index_of(records: &Records) -> BTreeSet<String> {
    let read = records.file.with(ReadableDatabase::begin_read).unwrap().unwrap();
    let mut lines = BTreeSet::new();
    macro_rules! each {
        ($table:expr, |$key:ident, $value:ident| $lines:expr) => {
            for entry in redb::ReadableTable::iter(&read.open_table($table).unwrap()).unwrap() {
                let (key, value) = entry.unwrap();
                let ($key, $value) = (key.value(), value.value());
                lines.extend($lines);
            }
        };
    }
    each!(PINS_BY_CREATED, |key, value| [format!("created {key:?} {value:?}")]);
    each!(PINS_BY_ORDINAL, |key, value| [format!("ordinal {key:?} {value:?}")]);
    each!(ACCOUNT_PINS, |key, value| [format!("account {key:?} {value:?}")]);
    each!(NAMES, |key, value| [format!("names {key:?} {value:?}")]);
    each!(POSTINGS, |key, value| {
        let chunk = index::chunk_of_key(key).unwrap();
        let term = &key[..key.len() - 4];
        let ordinals = chunk::decode(value).unwrap();
        ordinals.into_iter().map(|low| format!("term {term:?} {}", index::join(chunk, low))).collect::<Vec<_>>()
    });
    each!(FRONT, |key, value| front::terms(value).map(|term| {
        let term = [&key.0.to_be_bytes(), term.unwrap()].concat();
        format!("term {term:?} {}", key.1)
    }));
    lines
}

#[tokio::test]
async fn lists_are_those_of_a_plain_model() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let open = || Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap();
    let mut records = open();
    // Times are unique over both accounts, so that the model can go by them.
    let (mut model, mut now_ms) = (BTreeMap::new(), 1000);
    for round in 0..60 {
        change(&records, &mut random, &mut model, &mut now_ms).await;
        if round % 10 == 9 {
            records.close();
            drop(records);
            records = open();
        }
        for _ in 0..12 {
            let mut query = query(&mut random, &model);
            query.limit = *random.pick(&[1, 2, 5, 1000]);
            let fetching: BTreeSet<i64> = model.keys().copied().filter(|_| random.one_in(3)).chain([999]).collect();
            let user = *random.pick(&USERS);
            let mut expected: Vec<PinRecord> = model
                .values()
                .rev()
                .filter(|record| record.user == user && matches(&query, record, &fetching))
                .cloned()
                .collect();
            // Page after page, as clients go on with `before`.
            loop {
                let (pins, count) = page(&records, user, &query, &fetching);
                assert_eq!(count, expected.len() as u64, "{query:?}");
                let rest = expected.split_off(pins.len());
                assert_eq!(pins, expected, "{query:?}");
                let Some(last) = pins.last() else { break };
                query.before_ms = Some(last.created_ms);
                expected = rest;
            }
        }
    }
    // Nothing is left behind when all pins are gone.
    let pins: Vec<(UserId, PinId)> = model.values().map(|record| (record.user, record.id)).collect();
    let removed = records.write(move |change| {
        for (user, id) in &pins {
            assert!(change.remove_pin(*user, *id)?);
        }
        Ok(())
    });
    removed.await.unwrap();
    assert!(index_of(&records).len() <= USERS.len(), "{:?}", index_of(&records));
}

#[tokio::test]
async fn a_commit_of_more_than_is_collected_is_written_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let records = Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap();
    let mut new = new_pin(&mut Random(1));
    new.name = Some("name".into());
    new.meta = (0..1000).map(|number| (number.to_string(), String::new())).collect();
    let user = new.user;
    let mut adding = Vec::new();
    for _ in 0..index::PENDING_MAX / 1000 + 3 {
        adding.push(records.add_pin(new.clone(), None));
    }
    let added = adding.len() as u64;
    for outcome in futures::future::join_all(adding).await {
        outcome.unwrap().unwrap();
    }
    for number in [0, 999] {
        let meta = [(number.to_string(), String::new())].into();
        let query = Query { meta, statuses: [Status::Queued].into(), ..Query::default() };
        assert_eq!(page(&records, user, &query, &BTreeSet::new()).1, added);
    }
}
