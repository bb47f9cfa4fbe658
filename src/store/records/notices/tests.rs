//! What the records promise about events: each is written with what it tells of, and nothing else waits.

use super::*;
use crate::model::{Block, Failure, FailureCode, PinId};
use crate::store::records::{NewPin, NewUser, Quota, Role};

const PINNED: PinState = PinState::Pinned { blocks: 1, bytes: 1 };

fn open(directory: &tempfile::TempDir) -> Records {
    Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap()
}

async fn account(records: &Records, email: &str) -> UserId {
    let new = NewUser {
        email: email.into(),
        password_hash: "hash".into(),
        created_ms: 1,
        role: Role::User,
        quota: Quota::NONE,
        pin_lifetime_s: None,
    };
    records.write(|change| change.create_user(new)).await.unwrap().unwrap().id
}

async fn set(records: &Records, user: UserId, url: &str) -> Option<HookRecord> {
    let url = url.to_owned();
    records.write(move |change| change.set_hook(user, url, "secret".into(), 5)).await.unwrap()
}

async fn pin(records: &Records, user: UserId, expires_ms: Option<i64>) -> PinRecord {
    let root = *Block::new_sha256(0x55, "content".into()).unwrap().cid();
    let new = NewPin { expires_ms, origins: vec!["/an/origin".into()], ..NewPin::plain(user, root) };
    records.add_pin(new, None).await.unwrap().unwrap()
}

/// The events that wait, by looking at each and telling it.
async fn drain(records: &Records, user: UserId) -> Vec<(PinEvent, PinId)> {
    let mut told = Vec::new();
    while let Some(next) = records.next_notice(user).unwrap() {
        told.push((next.notice.event, next.notice.pin.id));
        settle(records, user, next, None, 0).await;
    }
    let hook = records.hook(user).unwrap().unwrap();
    assert_eq!((hook.waiting, hook.waiting_bytes), (0, 0));
    told
}

async fn settle(records: &Records, user: UserId, next: NextNotice, error: Option<&str>, before_ms: i64) -> u64 {
    let attempt = Attempt { at_ms: 9, status: None, error: error.map(str::to_owned) };
    records.write(move |change| change.settle_notice(user, &next, attempt, before_ms)).await.unwrap()
}

#[tokio::test]
async fn events_are_written_with_what_they_tell_of_and_survive() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let (user, other) = (account(&records, "a@example.org").await, account(&records, "b@example.org").await);
    let before = pin(&records, user, None).await;
    records.finish(before.id, PINNED).await.unwrap();
    assert!(set(&records, user, "https://example.org").await.is_some());
    assert_eq!(set(&records, UserId(99), "https://example.org").await, None);
    assert_eq!(records.notice_news().take(), [(user, true)].into());

    let (pinned, failed, expired) =
        (pin(&records, user, None).await, pin(&records, user, None).await, pin(&records, user, Some(100)).await);
    let failure = Failure { code: FailureCode::Stalled, sentence: "no".into(), tried: Vec::new() };
    records.finish(pinned.id, PINNED).await.unwrap();
    records.finish(failed.id, PinState::Failed(failure)).await.unwrap();
    // Others have no webhook, and what is removed by hand is no event.
    records.finish(pin(&records, other, None).await.id, PINNED).await.unwrap();
    assert!(records.remove_pin(user, failed.id).await.unwrap());
    assert_eq!(records.expire_pins(vec![expired.id, pinned.id, failed.id], 99).await.unwrap(), []);
    assert_eq!(records.expire_pins(vec![expired.id, pinned.id, failed.id], 100).await.unwrap(), [expired.id]);
    assert_eq!((records.get(expired.id).unwrap(), records.count_pins_of(user).unwrap()), (None, 2));
    assert_eq!(records.notice_news().take(), [(user, false)].into());
    records.close();
    drop(records);

    let records = open(&directory);
    assert_eq!(records.users_with_notices().unwrap(), [user]);
    let first = records.next_notice(user).unwrap().unwrap();
    assert_eq!((&first.notice.pin.state, first.notice.pin.origins.len()), (&PINNED, 0));
    let expected = [(PinEvent::Pinned, pinned.id), (PinEvent::Failed, failed.id), (PinEvent::Expired, expired.id)];
    assert_eq!(drain(&records, user).await, expected);
    assert_eq!(records.users_with_notices().unwrap(), []);
    assert_eq!(records.hook(user).unwrap().unwrap().last, Some(Attempt { at_ms: 9, status: None, error: None }));
}

#[tokio::test]
async fn a_new_webhook_gets_what_waits_and_one_that_is_removed_takes_it_along() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let user = account(&records, "a@example.org").await;
    set(&records, user, "https://one.example.org").await;
    let pinned = pin(&records, user, None).await;
    records.finish(pinned.id, PINNED).await.unwrap();
    let under_way = records.next_notice(user).unwrap().unwrap();
    set(&records, user, "https://two.example.org").await;
    // How the call of the one before went isn't said of the new one.
    settle(&records, user, under_way.clone(), Some("it failed"), 0).await;
    let next = records.next_notice(user).unwrap().unwrap();
    assert_eq!((next.hook.url.as_str(), &next.hook.last, next.number), ("https://two.example.org", &None, 0));

    let removed =
        records.write(move |change| Ok((change.remove_hook(user)?, change.remove_hook(user)?))).await.unwrap();
    assert_eq!((removed, records.hook(user).unwrap()), ((true, false), None));
    assert_eq!(settle(&records, user, under_way.clone(), None, 0).await, 0);
    set(&records, user, "https://three.example.org").await;
    assert_eq!(records.next_notice(user).unwrap(), None);
    // It has the number of one that was told before, and is another one.
    records.finish(pinned.id, PINNED).await.unwrap();
    settle(&records, user, under_way, None, 0).await;
    assert_eq!(drain(&records, user).await, [(PinEvent::Pinned, pinned.id)]);
}

#[tokio::test]
async fn a_deleted_account_has_no_webhook_and_gets_none() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let user = account(&records, "a@example.org").await;
    set(&records, user, "https://example.org").await;
    let (pinned, late) = (pin(&records, user, None).await, pin(&records, user, Some(100)).await);
    records.finish(pinned.id, PINNED).await.unwrap();
    let delete = records.write(move |change| {
        let account = change.user(user)?.unwrap();
        change.begin_delete_user(account)
    });
    delete.await.unwrap();
    assert_eq!((records.hook(user).unwrap(), records.next_notice(user).unwrap()), (None, None));
    assert_eq!(set(&records, user, "https://example.org").await, None);
    records.expire_pins(vec![late.id], 100).await.unwrap();
    let table = records.read().unwrap().open_table(NOTICES).unwrap();
    assert!(table.iter().unwrap().next().is_none());
}

#[tokio::test]
async fn too_many_events_drop_the_oldest_and_so_does_a_failure_that_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let user = account(&records, "a@example.org").await;
    set(&records, user, "https://example.org").await;
    let pinned = pin(&records, user, None).await;
    let note = async |count: u64, meta_bytes: usize| {
        let mut pin = pinned.clone();
        pin.meta.insert("key".into(), "x".repeat(meta_bytes));
        let write = records.write(move |change| {
            (0..count).try_for_each(|number| change.note(PinEvent::Pinned, &pin, i64::try_from(number).unwrap()))
        });
        write.await.unwrap();
    };
    note(NOTICES_PER_ACCOUNT_MAX + 3, 0).await;
    let next = records.next_notice(user).unwrap().unwrap();
    assert_eq!((next.hook.waiting, next.number), (NOTICES_PER_ACCOUNT_MAX, 3));
    // A failure takes those that are too old, and no more.
    assert_eq!(settle(&records, user, next.clone(), Some("it failed"), 3).await, 0);
    assert_eq!(settle(&records, user, next, Some("it failed"), 10).await, 7);
    let next = records.next_notice(user).unwrap().unwrap();
    assert_eq!((next.hook.waiting, next.number), (NOTICES_PER_ACCOUNT_MAX - 7, 10));
    assert_eq!(next.hook.last.unwrap().error.as_deref(), Some("it failed"));

    note(300, 64 * 1024).await;
    let hook = records.hook(user).unwrap().unwrap();
    assert!(hook.waiting < 260 && hook.waiting_bytes <= NOTICES_BYTES_PER_ACCOUNT_MAX, "{}", hook.waiting);
    drain(&records, user).await;
}
