//! What the records promise, against a real file.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;

use cid::Cid;

use super::*;
use crate::model::limits::{CREATED_AHEAD_MAX, RETAINED_ROOTS_MAX};
use crate::model::query::{Query, Status};
use crate::model::{Block, Failure, FailureCode, PinId, PinRecord, PinState, UserId};

const CACHE_BYTES: usize = 1024 * 1024;

fn root(number: usize) -> Cid {
    *Block::new_sha256(0x55, format!("content {number}").into()).unwrap().cid()
}

fn new_pin(user: u64, number: usize) -> NewPin {
    NewPin::plain(UserId(user), root(number))
}

async fn add(records: &Records, user: u64, number: usize, replaces: Option<PinId>) -> PinRecord {
    records.add_pin(new_pin(user, number), replaces).await.unwrap().unwrap()
}

fn pins_of(records: &Records, user: u64) -> Vec<PinRecord> {
    let mut pins = Vec::new();
    let query = Query { statuses: Status::ALL.into(), ..Query::default() };
    let count = records.list_pins(UserId(user), &query, &[], |record| {
        pins.push(record);
        ControlFlow::Continue(())
    });
    assert_eq!(count.unwrap(), pins.len() as u64);
    pins
}

fn open(directory: &tempfile::TempDir) -> Records {
    Records::open(&directory.path().join("records.redb"), CACHE_BYTES).unwrap()
}

/// A disk that is full while the flag is set.
#[derive(Debug)]
struct FillingDisk {
    file: redb::backends::FileBackend,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl FillingDisk {
    fn check(&self) -> std::io::Result<()> {
        let full = self.full.load(std::sync::atomic::Ordering::Acquire);
        if full { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl redb::StorageBackend for FillingDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

#[tokio::test]
async fn a_full_disk_fails_its_commit_and_writing_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.redb");
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let disk_full = Arc::clone(&full);
    let opener = move || {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = redb::backends::FileBackend::new(file.map_err(redb::StorageError::Io)?)?;
        let backend = FillingDisk { file, full: Arc::clone(&disk_full) };
        redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)
    };
    let records = Records::open_with("a filling disk", Box::new(opener)).unwrap();
    let first = add(&records, 1, 1, None).await;
    full.store(true, std::sync::atomic::Ordering::Release);
    assert!(records.add_pin(new_pin(1, 2), None).await.is_err());
    assert!(records.add_pin(new_pin(1, 3), None).await.is_err());
    full.store(false, std::sync::atomic::Ordering::Release);
    let last = add(&records, 1, 4, None).await;
    let ids: Vec<PinId> = pins_of(&records, 1).iter().map(|pin| pin.id).collect();
    assert_eq!(ids, [last.id, first.id]);
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let mut new = new_pin(1, 0);
    new.name = Some("a name".into());
    new.origins = vec!["/ip4/127.0.0.1/tcp/4001".into()];
    new.origins_skipped = vec!["nonsense: no multiaddr".into()];
    new.meta.insert("key".into(), "value".into());
    let pin = records.add_pin(new, None).await.unwrap().unwrap();
    records.close();
    drop(records);

    let records = open(&directory);
    assert_eq!(records.get(pin.id).unwrap(), Some(pin.clone()));
    assert_eq!(pins_of(&records, 1), std::slice::from_ref(&pin));
    assert_eq!(records.unfinished(None, 10).unwrap(), [pin]);
}

#[tokio::test]
async fn refuses_a_foreign_file_and_a_newer_schema() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.redb");
    let foreign = redb::Database::create(&path).unwrap();
    let transaction = foreign.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(foreign);
    assert!(matches!(Records::open(&path, CACHE_BYTES), Err(RecordsError::Foreign { .. })));

    let path = directory.path().join("newer.redb");
    drop(Records::open(&path, CACHE_BYTES).unwrap());
    let newer = redb::Database::create(&path).unwrap();
    let transaction = newer.begin_write().unwrap();
    let version = encode("meta", &(SCHEMA_VERSION + 1)).unwrap();
    transaction.open_table(META).unwrap().insert(SCHEMA_KEY, version.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(newer);
    assert!(
        matches!(Records::open(&path, CACHE_BYTES), Err(RecordsError::Newer { found, .. }) if found == SCHEMA_VERSION + 1)
    );

    let path = directory.path().join("text.redb");
    std::fs::write(&path, "not a database").unwrap();
    assert!(matches!(Records::open(&path, CACHE_BYTES), Err(RecordsError::Open { .. })));
}

#[tokio::test]
async fn what_queues_up_during_a_commit_shares_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let records = Arc::new(open(&directory));
    let (go, wait) = mpsc::channel::<()>();
    let (began, has_begun) = tokio::sync::oneshot::channel();
    let first = {
        let records = Arc::clone(&records);
        tokio::spawn(async move {
            records
                .write(move |_| {
                    began.send(()).unwrap();
                    wait.recv().unwrap();
                    Ok(())
                })
                .await
        })
    };
    has_begun.await.unwrap();
    // These are queued in order while the first holds the writer, and the last of them fails.
    let mut queued = tokio::task::JoinSet::new();
    let mut seen = Vec::new();
    for number in 0..3u64 {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        seen.push(receiver);
        let mut write = Box::pin({
            let records = Arc::clone(&records);
            async move {
                records
                    .write(move |change| {
                        sender.send(()).unwrap();
                        if number == 2 { Err(RecordsError::Closed) } else { change.set_meta("shared", &number) }
                    })
                    .await
            }
        });
        assert!(futures::poll!(&mut write).is_pending());
        queued.spawn(write);
    }
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    for receiver in seen {
        receiver.await.unwrap();
    }
    // They were one transaction: the error of the last took the others with it.
    for outcome in queued.join_all().await {
        assert!(matches!(outcome, Err(RecordsError::Closed)));
    }
    assert_eq!(records.meta::<u64>("shared").unwrap(), None);
    // The writer goes on.
    records.write(|change| change.set_meta("shared", &7u64)).await.unwrap();
    assert_eq!(records.meta::<u64>("shared").unwrap(), Some(7));
}

#[tokio::test]
async fn a_closed_writer_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    records.close();
    assert!(matches!(records.add_pin(new_pin(1, 0), None).await, Err(RecordsError::Closed)));
    records.close();
}

#[tokio::test]
async fn created_grows_over_a_clock_that_stands_still_or_goes_back_and_then_waits() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let ahead_ms = i64::try_from(CREATED_AHEAD_MAX.as_millis()).unwrap();
    let outcomes = records
        .write(move |change| {
            let mut outcomes = Vec::new();
            for now_ms in [5000, 5000, 4999, 5001 - ahead_ms + 1, 5001 - ahead_ms, 6000] {
                outcomes.push(change.add_pin(new_pin(1, 0), None, now_ms)?.map(|record| record.created_ms));
            }
            // Another account has its own time, and a deleted pin's time isn't given again.
            outcomes.push(change.add_pin(new_pin(2, 0), None, 1)?.map(|record| record.created_ms));
            let last = change.add_pin(new_pin(2, 0), None, 1)?.unwrap();
            change.remove_pin(UserId(2), last.id)?;
            outcomes.push(change.add_pin(new_pin(2, 0), None, 1)?.map(|record| record.created_ms));
            Ok(outcomes)
        })
        .await
        .unwrap();
    let wait = std::time::Duration::from_millis(2);
    assert_eq!(
        outcomes,
        [
            Ok(5000),
            Ok(5001),
            Ok(5002),
            Err(AddRefusal::TooFast { wait: wait / 2 }),
            Err(AddRefusal::TooFast { wait }),
            Ok(6000),
            Ok(1),
            Ok(3)
        ]
    );
}

#[tokio::test]
async fn a_replaced_pin_leaves_its_roots_until_its_successor_is_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let first = add(&records, 1, 0, None).await;
    let second = add(&records, 1, 1, Some(first.id)).await;
    assert_eq!(second.retained_roots, [root(0)]);
    let third = add(&records, 1, 0, Some(second.id)).await;
    assert_eq!(third.retained_roots, [root(0), root(1)]);
    assert_eq!(pins_of(&records, 1), std::slice::from_ref(&third));
    assert_eq!(records.unfinished(None, 10).unwrap(), std::slice::from_ref(&third));

    assert!(records.finish(third.id, PinState::Pinned { blocks: 1, bytes: 9 }).await.unwrap());
    assert_eq!(records.get(third.id).unwrap().unwrap().retained_roots, []);
    assert_eq!(records.unfinished(None, 10).unwrap(), []);
    // The same content again retains nothing that the successor doesn't hold itself.
    let renamed = add(&records, 1, 0, Some(third.id)).await;
    assert_eq!(renamed.retained_roots, []);

    // Someone else's pin, and one that is gone, are not replaced.
    assert_eq!(records.add_pin(new_pin(2, 5), Some(renamed.id)).await.unwrap(), Err(AddRefusal::NotFound));
    assert_eq!(records.add_pin(new_pin(1, 5), Some(first.id)).await.unwrap(), Err(AddRefusal::NotFound));
    assert_eq!(pins_of(&records, 1), [renamed]);
    assert_eq!(pins_of(&records, 2), []);
}

#[tokio::test]
async fn a_long_chain_of_replaces_keeps_the_oldest_and_the_newest_roots() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let last = records
        .write(|change| {
            let mut pin = change.add_pin(new_pin(1, 0), None, 1)?.unwrap();
            for number in 1..=RETAINED_ROOTS_MAX + 3 {
                pin = change.add_pin(new_pin(1, number), Some(pin.id), i64::try_from(number).unwrap())?.unwrap();
            }
            Ok(pin)
        })
        .await
        .unwrap();
    assert_eq!(last.retained_roots.len(), RETAINED_ROOTS_MAX);
    assert_eq!(last.retained_roots[0], root(0));
    assert_eq!(last.retained_roots[RETAINED_ROOTS_MAX - 1], root(RETAINED_ROOTS_MAX + 2));
}

#[tokio::test]
async fn finishing_a_pin_that_is_gone_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let pin = add(&records, 1, 0, None).await;
    assert!(!records.remove_pin(UserId(2), pin.id).await.unwrap());
    assert!(records.remove_pin(UserId(1), pin.id).await.unwrap());
    assert!(!records.remove_pin(UserId(1), pin.id).await.unwrap());
    assert!(!records.finish(pin.id, PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap());
    assert_eq!(records.get(pin.id).unwrap(), None);
}

#[tokio::test]
async fn unfinished_pins_come_in_pages_in_the_order_they_were_made() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(add(&records, 1 + number as u64 % 2, number, None).await.id);
    }
    let failure = Failure { code: FailureCode::NoProvider, sentence: "nobody".into(), tried: Vec::new() };
    assert!(records.finish(ids.remove(3), PinState::Failed(failure)).await.unwrap());
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = records.unfinished(after, 4).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        paged.extend(page.into_iter().map(|record| record.id));
    }
    assert_eq!(paged, ids);
}

fn failure() -> PinState {
    PinState::Failed(Failure { code: FailureCode::NoProvider, sentence: "nobody".into(), tried: Vec::new() })
}

fn scanned(records: &Records, sets: &[PinSet]) -> Vec<PinId> {
    let mut ids = Vec::new();
    records
        .scan_all_pins(sets, |record| {
            ids.push(record.id);
            ControlFlow::Continue(())
        })
        .unwrap();
    ids
}

#[tokio::test]
async fn pins_of_all_accounts_are_counted_and_shown_by_state() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(add(&records, 1 + number as u64 % 2, number, None).await.id);
    }
    let pinned = PinState::Pinned { blocks: 1, bytes: 9 };
    for (number, state) in [(0, failure()), (1, failure()), (2, failure()), (3, pinned.clone()), (4, pinned.clone())] {
        records.finish(ids[number], state).await.unwrap();
    }
    // A failed pin that is removed is no longer counted, and one that is pinned has failed no longer.
    assert!(records.remove_pin(UserId(1), ids[0]).await.unwrap());
    records.finish(ids[2], pinned).await.unwrap();
    assert_eq!(records.count_pins().unwrap(), PinCounts { unfinished: 2, failed: 1, pinned: 3 });
    assert_eq!(scanned(&records, &[PinSet::Unfinished]), [ids[6], ids[5]]);
    assert_eq!(scanned(&records, &[PinSet::Failed]), [ids[1]]);
    assert_eq!(scanned(&records, &[PinSet::Pinned]), [ids[4], ids[3], ids[2]]);
    let all = [PinSet::Unfinished, PinSet::Failed, PinSet::Pinned];
    assert_eq!(scanned(&records, &all), [ids[6], ids[5], ids[1], ids[4], ids[3], ids[2]]);
    let mut first = Vec::new();
    records
        .scan_all_pins(&all, |record| {
            first.push(record.id);
            if first.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(first, [ids[6], ids[5], ids[1]]);
}

#[tokio::test]
async fn a_failed_pin_and_no_other_is_queued_again() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let replaced = add(&records, 1, 0, None).await;
    let pin = add(&records, 1, 1, Some(replaced.id)).await;
    assert_eq!(records.retry_pin(pin.id).await.unwrap(), Err(RetryRefusal::NotFailed(PinState::Queued)));
    assert_eq!(records.retry_pin(replaced.id).await.unwrap(), Err(RetryRefusal::NotFound));
    records.finish(pin.id, failure()).await.unwrap();
    let retried = records.retry_pin(pin.id).await.unwrap().unwrap();
    // What it replaced stays until it is pinned.
    assert_eq!(retried, pin);
    assert_eq!(records.get(retried.id).unwrap().as_ref(), Some(&retried));
    assert_eq!(records.unfinished(None, 10).unwrap(), std::slice::from_ref(&retried));
    assert_eq!(records.count_pins().unwrap(), PinCounts { unfinished: 1, failed: 0, pinned: 0 });

    let state = PinState::Pinned { blocks: 1, bytes: 9 };
    records.finish(retried.id, state.clone()).await.unwrap();
    assert_eq!(records.retry_pin(retried.id).await.unwrap(), Err(RetryRefusal::NotFailed(state)));
    assert_eq!(records.count_pins().unwrap(), PinCounts { unfinished: 0, failed: 0, pinned: 1 });
}

/// Makes of the file what `version` had of it.
async fn downgrade(records: &Records, version: u64) {
    use super::tables::{
        ACCOUNT_PINS, EXPIRIES, HOOKS, NAMES, NOTICES, OLD_CREATED_LAST, OLD_ORDINALS_NEXT, OLD_PINS_BY_USER,
        OLD_POSTINGS,
    };
    use super::tables::{PINS_BY_CREATED, PINS_BY_ORDINAL, PINS_FAILED, POSTINGS, ROOTS_BY_USER, USAGE};
    use super::upgrade::tests::{postings_of, write_posting_of_6};
    use redb::{ReadableTable as _, TableHandle as _};
    let make_old = move |change: &Change<'_>| {
        let transaction = change.transaction();
        if version < 4 {
            let mut created_last = transaction.open_table(OLD_CREATED_LAST)?;
            let mut ordinals = transaction.open_table(OLD_ORDINALS_NEXT)?;
            for entry in transaction.open_table(ACCOUNT_PINS)?.iter()? {
                let (user, row) = entry?;
                created_last.insert(user.value(), row.value().0)?;
                ordinals.insert(user.value(), row.value().1)?;
            }
        }
        let mut newer = vec![POSTINGS.name()];
        if version >= 3 {
            let mut old = transaction.open_table(OLD_POSTINGS)?;
            for (term, ordinals) in postings_of(&transaction.open_table(POSTINGS)?) {
                write_posting_of_6(&mut old, &term, &ordinals);
            }
        }
        if version < 6 {
            newer.extend([HOOKS.name(), NOTICES.name()]);
        }
        if version < 5 {
            newer.push(EXPIRIES.name());
        }
        if version < 4 {
            newer.push(ACCOUNT_PINS.name());
        }
        if version < 3 {
            let mut by_user = transaction.open_table(OLD_PINS_BY_USER)?;
            for entry in transaction.open_table(PINS_BY_CREATED)?.iter()? {
                let (key, place) = entry?;
                by_user.insert(key.value(), place.value().0)?;
            }
        }
        if version < 3 {
            newer.extend([PINS_BY_CREATED.name(), PINS_BY_ORDINAL.name(), NAMES.name()]);
            newer.push(OLD_ORDINALS_NEXT.name());
        }
        if version == 1 {
            // The last of these came without a new version.
            newer.extend([USAGE.name(), ROOTS_BY_USER.name(), PINS_FAILED.name()]);
        }
        for table in newer {
            let table = transaction.list_tables()?.find(|found| found.name() == table).unwrap();
            assert!(transaction.delete_table(table)?);
        }
        let version = encode("meta", &version)?;
        transaction.open_table(META)?.insert(SCHEMA_KEY, version.as_slice())?;
        Ok(())
    };
    records.write(make_old).await.unwrap();
}

#[tokio::test]
async fn files_of_older_versions_are_upgraded_in_place() {
    for version in 1..SCHEMA_VERSION {
        let directory = tempfile::tempdir().unwrap();
        let records = open(&directory);
        let failed = add(&records, 1, 0, None).await.id;
        add(&records, 1, 1, None).await;
        records.finish(failed, failure()).await.unwrap();
        for (number, bytes) in [(2, 20), (3, 30), (3, 30)] {
            let pin = add(&records, 1, number, None).await.id;
            records.finish(pin, PinState::Pinned { blocks: 1, bytes }).await.unwrap();
        }
        // More than a group of names and a commit's worth of changes, and another account in between.
        let added = records.write(|change| {
            for number in 0..70_i64 {
                let mut new = new_pin(1 + u64::from(number % 7 == 0), 5);
                new.name = Some(format!("Name {}", number % 3));
                new.meta = (0..1000).map(|pair| (pair.to_string(), number.to_string())).collect();
                change.add_pin(new, None, jiff::Timestamp::now().as_millisecond() + number)?.unwrap();
            }
            Ok(())
        });
        added.await.unwrap();
        let usage = Usage { roots: 2, bytes: 50 };
        assert_eq!(records.usage(UserId(1)).unwrap(), usage);
        let (index, pins) = (super::list_tests::index_of(&records), pins_of(&records, 1));
        downgrade(&records, version).await;
        records.close();
        drop(records);
        for _ in 0..2 {
            let records = open(&directory);
            assert_eq!(scanned(&records, &[PinSet::Failed]), [failed]);
            assert_eq!(records.count_pins().unwrap(), PinCounts { unfinished: 71, failed: 1, pinned: 3 });
            assert_eq!(records.usage(UserId(1)).unwrap(), usage);
            assert_eq!(super::list_tests::index_of(&records), index);
            assert_eq!(pins_of(&records, 1), pins);
            records.close();
        }
    }
}

#[tokio::test]
async fn records_of_an_older_backup_are_upgraded_where_they_are_restored() {
    use redb::ReadableTable as _;
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let pin = add(&records, 1, 0, None).await;
    let index = super::list_tests::index_of(&records);
    downgrade(&records, 2).await;
    let backup = redb::Database::create(directory.path().join("backup")).unwrap();
    copy_out(&records.snapshot().unwrap(), &backup).unwrap();
    // The program that made it had these tables on its list.
    let transaction = backup.begin_write().unwrap();
    {
        let old = super::tables::OLD_PINS_BY_USER;
        let source = records.snapshot().unwrap().open_table(old).unwrap();
        let name = redb::TableDefinition::<(u64, i64), &'static [u8; 16]>::new("records.pins_by_user");
        let mut target = transaction.open_table(name).unwrap();
        for entry in source.iter().unwrap() {
            let (key, id) = entry.unwrap();
            target.insert(key.value(), id.value()).unwrap();
        }
        let source = records.snapshot().unwrap().open_table(super::tables::OLD_CREATED_LAST).unwrap();
        let name = redb::TableDefinition::<u64, i64>::new("records.created_last");
        let mut target = transaction.open_table(name).unwrap();
        for entry in source.iter().unwrap() {
            let (user, created_last) = entry.unwrap();
            target.insert(user.value(), created_last.value()).unwrap();
        }
    }
    transaction.commit().unwrap();
    let path = directory.path().join("restored.redb");
    let restored = redb::Database::create(&path).unwrap();
    copy_in(&backup.begin_read().unwrap(), &restored).unwrap();
    drop(restored);
    let restored = Records::open(&path, CACHE_BYTES).unwrap();
    assert_eq!(pins_of(&restored, 1), [pin]);
    assert_eq!(super::list_tests::index_of(&restored), index);
}

#[tokio::test]
async fn accounts_are_found_by_number_and_address_and_tokens_end_with_their_family() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let new = NewUser {
        email: "a@example.org".into(),
        password_hash: "hash".into(),
        created_ms: 1,
        role: Role::User,
        quota: Quota::NONE,
        pin_lifetime_s: None,
    };
    let again = new.clone();
    let (user, twice) =
        records.write(|change| Ok((change.create_user(new)?.unwrap(), change.create_user(again)?))).await.unwrap();
    assert_eq!(twice, None);
    assert_eq!(records.user_by_email("a@example.org").unwrap().as_ref(), Some(&user));
    assert_eq!(records.user(user.id).unwrap().as_ref(), Some(&user));
    assert_eq!(records.user_by_email("b@example.org").unwrap(), None);

    let family = TokenId::new();
    let token = |family| TokenRecord {
        id: TokenId::new(),
        user: user.id,
        kind: TokenKind::Access,
        family,
        name: None,
        scopes: Scopes::ALL,
        created_ms: 1,
        expires_ms: None,
        last_used_ms: None,
        key: 0,
        rotated: None,
    };
    let (one, two, other) = (token(family), token(family), token(TokenId::new()));
    let kept = two.id;
    let tokens = [one.clone(), two.clone(), other.clone()];
    records.write(move |change| tokens.iter().try_for_each(|token| change.put_token(token))).await.unwrap();
    let (user_id, only) = (user.id, one.id);
    records.write(move |change| change.revoke_family(user_id, family, |token| token.id == only)).await.unwrap();
    assert_eq!(records.token(one.id).unwrap(), None);
    assert_eq!(records.token(kept).unwrap(), Some(two));
    assert_eq!(records.write(move |change| change.revoke_family(user_id, family, |_| true)).await.unwrap(), 1);
    assert_eq!(records.token(kept).unwrap(), None);
    assert_eq!(records.token(other.id).unwrap().as_ref(), Some(&other));
    assert!(records.write(move |change| change.revoke_token(other.id)).await.unwrap());
    assert!(!records.write(move |change| change.revoke_token(other.id)).await.unwrap());
}

#[tokio::test]
async fn only_pinned_pins_are_queued_again_when_blocks_of_them_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let mut pins = Vec::new();
    for number in 0..4 {
        pins.push(add(&records, 1, number, None).await);
    }
    let failure = Failure { code: FailureCode::Stalled, sentence: "x".into(), tried: Vec::new() };
    records.finish(pins[0].id, PinState::Pinned { blocks: 1, bytes: 2 }).await.unwrap();
    records.finish(pins[1].id, PinState::Failed(failure.clone())).await.unwrap();
    records.remove_pin(UserId(1), pins[2].id).await.unwrap();
    let ids = pins.iter().map(|pin| pin.id).collect();
    let queued = records.requeue_pins(ids).await.unwrap();
    assert_eq!(queued, [PinRecord { state: PinState::Queued, ..pins[0].clone() }]);
    assert_eq!(records.get(pins[0].id).unwrap().unwrap().state, PinState::Queued);
    assert_eq!(records.get(pins[1].id).unwrap().unwrap().state, PinState::Failed(failure));
    assert_eq!(records.get(pins[2].id).unwrap(), None);
    assert_eq!(records.count_pins().unwrap(), PinCounts { unfinished: 2, failed: 1, pinned: 0 });
    let unfinished: Vec<PinId> = records.unfinished(None, 10).unwrap().iter().map(|pin| pin.id).collect();
    assert_eq!(unfinished, [pins[0].id, pins[3].id]);
    let page: Vec<PinId> = records.pins(Some(pins[0].id), 1).unwrap().iter().map(|pin| pin.id).collect();
    assert_eq!(page, [pins[1].id]);
    assert_eq!(records.pins(None, 10).unwrap().len(), 3);
}
