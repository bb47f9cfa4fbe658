//! Verifications as a service runs them: joined, stopped, resumed, and what they do to pins.

use bytes::Bytes;
use cid::Cid;
use tempfile::TempDir;

use super::*;
use crate::model::cids::codec;
use crate::model::{Block, Failure, FailureCode, UserId};
use crate::store::blocks::BlockStore;
use crate::store::records::{NewPin, NewUser, Quota, Role};

const FAST: VerifyRequest = VerifyRequest { repair: false, rate: 0, resume: false };
const REPAIR: VerifyRequest = VerifyRequest { repair: true, ..FAST };

/// What a verification told those who fetch.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Fetches for Told {
    fn restart(&self) {
        self.0.lock().unwrap().push("restart".into());
    }

    fn requeued(&self, pins: Vec<PinRecord>) {
        self.0.lock().unwrap().extend(pins.into_iter().filter_map(|pin| pin.name));
    }
}

struct Fixture {
    blocks: BlockStore,
    records: Arc<Records>,
    told: Arc<Told>,
    verifier: Arc<Verifier>,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap(), links)
    }

    fn open(directory: TempDir, links: crate::store::blocks::Links) -> Self {
        let blocks = BlockStore::open(&directory.path().join("blocks.redb"), 1 << 20, 1 << 20).unwrap();
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap());
        let told = Arc::new(Told::default());
        let verifier = Verifier::new(blocks.verifier(links), Arc::clone(&records), Arc::clone(&told) as Arc<_>);
        Self { blocks, records, told, verifier, directory }
    }

    async fn put(&self, blocks: &[&Block]) {
        self.blocks.writer().put(blocks.iter().map(|block| (*block).clone()).collect()).await.unwrap();
    }

    async fn pin(&self, name: &str, root: &Block, state: PinState) -> PinId {
        let new = NewPin { name: Some(name.to_owned()), ..NewPin::plain(UserId(1), *root.cid()) };
        let id = self.records.add_pin(new, None).await.unwrap().unwrap().id;
        self.records.finish(id, state).await.unwrap();
        id
    }

    fn state(&self, id: PinId) -> PinState {
        self.records.get(id).unwrap().unwrap().state
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }
}

/// What [`node`] links to.
fn links(_: &Cid, data: &Bytes) -> Vec<Cid> {
    serde_ipld_dagcbor::from_slice(data).unwrap()
}

fn raw(number: u32, bytes: usize) -> Block {
    let data: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(bytes).collect();
    Block::new_sha256(codec::RAW, data.into()).unwrap()
}

fn node(children: &[&Block]) -> Block {
    let links: Vec<Cid> = children.iter().map(|child| *child.cid()).collect();
    Block::new_sha256(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(&links).unwrap().into()).unwrap()
}

fn pinned() -> PinState {
    PinState::Pinned { blocks: 1, bytes: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_that_need_damaged_blocks_are_named_and_queued_again_with_repair_only() {
    let fixture = Fixture::new();
    let [good, bad, missing] = [1, 2, 3].map(|number| raw(number, 1000));
    let (whole, damaged, outer) = (node(&[&good]), node(&[&good, &bad]), node(&[&node(&[&good, &bad])]));
    let unfinished = node(&[&missing, &damaged]);
    fixture.put(&[&good, &bad, &whole, &damaged, &outer, &unfinished]).await;
    let email = "a@example.org".to_owned();
    let user = NewUser {
        email: email.clone(),
        password_hash: String::new(),
        created_ms: 0,
        role: Role::User,
        quota: Quota::NONE,
        pin_lifetime_s: None,
    };
    fixture.records.write(move |change| change.create_user(user)).await.unwrap();
    let failed = PinState::Failed(Failure { code: FailureCode::Stalled, sentence: "x".into(), tried: Vec::new() });
    let ids = [
        fixture.pin("whole", &whole, pinned()).await,
        fixture.pin("damaged", &damaged, pinned()).await,
        fixture.pin("outer", &outer, pinned()).await,
        fixture.pin("failed", &damaged, failed.clone()).await,
        fixture.pin("unfinished", &unfinished, PinState::Queued).await,
        fixture.pin("lacks a block", &missing, PinState::Queued).await,
    ];
    let well = fixture.verifier.verify(FAST).await.unwrap();
    assert_eq!((well.blocks.blocks, well.blocks.damaged_blocks, well.damaged_pins), (6, 0, 0));
    assert!(fixture.verifier.blocks.record().unwrap().finished.is_some());

    fixture.blocks.reader().damage(bad.cid());
    let report = fixture.verifier.verify(FAST).await.unwrap();
    assert_eq!((report.blocks.damaged_blocks, report.quarantined_blocks, report.repairs), (1, 0, false));
    let names = |report: &VerifyReport| -> Vec<(String, bool)> {
        report.pins.iter().map(|pin| (pin.record.name.clone().unwrap(), pin.requeued)).collect()
    };
    let expected = |requeued| {
        ["damaged", "outer", "failed", "unfinished"]
            .map(|name| (name.to_owned(), requeued && (name == "damaged" || name == "outer")))
    };
    assert_eq!(names(&report), expected(false));
    assert_eq!((report.damaged_pins, report.pins[0].account.as_ref()), (4, Some(&email)));
    assert!(fixture.told().is_empty());
    assert_eq!(fixture.state(ids[1]), pinned());

    let report = fixture.verifier.verify(REPAIR).await.unwrap();
    assert_eq!((report.blocks.quarantined_blocks, report.quarantined_blocks, report.repairs), (1, 1, true));
    assert_eq!(names(&report), expected(true));
    // Running fetches begin anew before the pins are looked at.
    assert_eq!(fixture.told(), ["restart", "damaged", "outer"]);
    let states = ids.map(|id| fixture.state(id));
    assert_eq!(states, [pinned(), PinState::Queued, PinState::Queued, failed, PinState::Queued, PinState::Queued]);

    // It is still missing: the pins are named, and nothing more can be done about them.
    let again = fixture.verifier.verify(REPAIR).await.unwrap();
    assert_eq!((again.blocks.damaged_blocks, again.quarantined_blocks, again.damaged_pins), (0, 1, 4));
    assert_eq!(fixture.told(), ["restart"]);
    fixture.put(&[&bad]).await;
    let well = fixture.verifier.verify(REPAIR).await.unwrap();
    assert_eq!((well.quarantined_blocks, well.damaged_pins), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_joins_makes_it_faster_and_makes_it_repair() {
    let fixture = Fixture::new();
    let blocks: Vec<Block> = (0..20).map(|number| raw(number, 100_000)).collect();
    fixture.put(&blocks.iter().collect::<Vec<_>>()).await;
    let id = fixture.pin("pin", &blocks[0], pinned()).await;
    fixture.blocks.reader().damage(blocks[0].cid());
    // Would take minutes.
    let slow = fixture.verifier.request(VerifyRequest { rate: 10_000, ..FAST });
    let mut seen = slow.clone();
    let found = seen.wait_for(|state| match state {
        Some(VerifyState::Running(_, report)) => report.blocks.damaged_blocks == 1,
        _ => false,
    });
    found.await.unwrap();
    // The one that makes it fast comes last: after it, the pass can end before anyone else joins.
    let repairing = fixture.verifier.request(VerifyRequest { rate: 10_000, ..REPAIR });
    let first = fixture.verifier.verify(FAST).await.unwrap();
    let Some(VerifyState::Ended(Ok(second))) = repairing.borrow().clone() else { panic!("it joined no pass") };
    assert_eq!(first, second);
    assert_eq!((first.blocks.quarantined_blocks, first.damaged_pins, first.repairs), (1, 1, true));
    assert_eq!(fixture.state(id), PinState::Queued);
    assert!(matches!(&*slow.borrow(), Some(VerifyState::Ended(Ok(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_pass_and_the_next_process_goes_on_with_it() {
    let fixture = Fixture::new();
    let blocks: Vec<Block> = (0..20).map(|number| raw(number, 100_000)).collect();
    fixture.put(&blocks.iter().collect::<Vec<_>>()).await;
    let mut seen = fixture.verifier.request(VerifyRequest { rate: 10_000, ..REPAIR });
    let some =
        seen.wait_for(|state| matches!(state, Some(VerifyState::Running(_, report)) if report.blocks.blocks > 0));
    some.await.unwrap();
    fixture.verifier.stop().await;
    assert!(matches!(fixture.verifier.state(), Some(VerifyState::Ended(Err(VerifyError::Stopped)))));
    assert!(matches!(fixture.verifier.verify(FAST).await, Err(VerifyError::Stopped)));
    let Fixture { blocks: store, records, verifier, directory, .. } = fixture;
    let record = verifier.blocks.record().unwrap();
    assert!(record.is_cut_off && record.finished.is_none());
    store.close();
    records.close();
    drop((records, verifier));

    let fixture = Fixture::open(directory, links);
    let regular = tokio::spawn(Arc::clone(&fixture.verifier).run_regularly(Duration::from_secs(3600), 0));
    let mut state = fixture.verifier.lock().state.subscribe();
    let ended = state.wait_for(|state| matches!(state, Some(VerifyState::Ended(_)))).await.unwrap().clone();
    let Some(VerifyState::Ended(Ok(report))) = ended else { panic!("{ended:?}") };
    assert_eq!((report.blocks.blocks, report.blocks.bytes), (20, 2_000_000));
    let record = fixture.verifier.blocks.record().unwrap();
    assert!(!record.is_cut_off && record.finished.is_some());
    regular.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_was_cut_off_is_ended_by_the_next_process_also_without_an_interval() {
    let fixture = Fixture::new();
    let block = raw(1, 1000);
    fixture.put(&[&block]).await;
    let id = fixture.pin("pin", &block, pinned()).await;
    fixture.blocks.reader().damage(block.cid());
    // As a process leaves it that is killed after the block went into quarantine.
    let mut scrub = fixture.verifier.blocks.scrub(true, false).unwrap();
    while scrub.step(&|| true).unwrap() != ScrubStep::Done {}
    drop(scrub);
    assert_eq!(fixture.state(id), pinned());
    Arc::clone(&fixture.verifier).run_regularly(Duration::ZERO, 0).await;
    assert_eq!(fixture.state(id), PinState::Queued);
    assert!(!fixture.verifier.blocks.record().unwrap().pins_due);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_reading_says_that_the_file_is_beyond_repair() {
    let fixture = Fixture::open(tempfile::tempdir().unwrap(), |_, _| panic!("a panic that the test wants"));
    let (leaf, other) = (raw(1, 1000), raw(2, 1000));
    let root = node(&[&leaf]);
    fixture.put(&[&leaf, &other, &root]).await;
    fixture.pin("pin", &root, pinned()).await;
    fixture.blocks.reader().damage(other.cid());
    let error = fixture.verifier.verify(FAST).await.unwrap_err();
    assert!(matches!(error, VerifyError::Structure) && error.to_string().contains("backup"), "{error}");
    // The next one is begun all the same.
    assert!(fixture.verifier.verify(FAST).await.is_err());
}

#[test]
fn the_next_pass_is_due_an_interval_after_the_last_whole_one() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let hour = Duration::from_secs(3600);
    let never = ScrubRecord::default();
    let done = ScrubRecord { finished: Some(at(1000)), ..never };
    let cut_off = ScrubRecord { is_cut_off: true, ..done };
    let pins_due = ScrubRecord { pins_due: true, ..done };
    for (record, interval, now, expected) in [
        (never, hour, 0, Some(Duration::ZERO)),
        (done, hour, 1000, Some(hour)),
        (done, hour, 1600, Some(hour - Duration::from_secs(600))),
        (done, hour, 10_000, Some(Duration::ZERO)),
        // The clock was set back.
        (done, hour, 0, Some(hour)),
        (cut_off, hour, 1000, Some(Duration::ZERO)),
        (cut_off, Duration::ZERO, 1000, None),
        (done, Duration::ZERO, 10_000, None),
        (pins_due, Duration::ZERO, 1000, Some(Duration::ZERO)),
    ] {
        assert_eq!(due_in(&record, interval, at(now)), expected, "{record:?} {interval:?} {now}");
    }
}
