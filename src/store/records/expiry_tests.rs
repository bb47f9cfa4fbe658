//! The index of when pins go by themselves, against the pins themselves.

use redb::ReadableTable as _;

use super::tables::{EXPIRIES, META, SCHEMA_KEY, encode};
use super::*;
use crate::model::{Block, PinId, PinRecord, PinState, UserId};

fn open(directory: &tempfile::TempDir) -> Records {
    Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap()
}

fn new_pin(user: u64, expires_ms: Option<i64>) -> NewPin {
    let root = *Block::new_sha256(0x55, "content".into()).unwrap().cid();
    NewPin { expires_ms, ..NewPin::plain(UserId(user), root) }
}

async fn add(records: &Records, user: u64, expires_ms: Option<i64>, replaces: Option<PinId>) -> PinRecord {
    records.add_pin(new_pin(user, expires_ms), replaces).await.unwrap().unwrap()
}

/// The index has exactly what the pins say, in the order of the times.
#[track_caller]
fn assert_exact(records: &Records, pins: &[&PinRecord]) {
    let stored = records.pins(None, 1000).unwrap();
    let mut expected: Vec<(i64, PinId)> =
        stored.iter().filter_map(|pin| pin.expires_ms.map(|expires_ms| (expires_ms, pin.id))).collect();
    expected.sort_unstable();
    let mut named: Vec<PinId> = pins.iter().map(|pin| pin.id).collect();
    named.sort_unstable();
    assert_eq!(stored.iter().map(|pin| pin.id).collect::<Vec<_>>(), named);
    let table = records.read().unwrap().open_table(EXPIRIES).unwrap();
    let found = table.iter().unwrap().map(|entry| {
        let key = entry.unwrap().0;
        let (expires_ms, id) = key.value();
        (expires_ms, PinId(uuid::Uuid::from_bytes(*id)))
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_index_follows_what_is_made_replaced_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let stays = add(&records, 1, None, None).await;
    let late = add(&records, 1, Some(3000), None).await;
    // Another account, and the same time as another one.
    let early = add(&records, 2, Some(1000), None).await;
    let same = add(&records, 2, Some(3000), None).await;
    assert_exact(&records, &[&stays, &late, &early, &same]);
    assert_eq!(records.get(late.id).unwrap().unwrap().expires_ms, Some(3000));

    // A replacement has its own time, earlier, later or none.
    let late = add(&records, 1, Some(500), Some(late.id)).await;
    assert_exact(&records, &[&stays, &late, &early, &same]);
    let same = add(&records, 2, None, Some(same.id)).await;
    assert_exact(&records, &[&stays, &late, &early, &same]);
    let stays = add(&records, 1, Some(7000), Some(stays.id)).await;
    assert_exact(&records, &[&stays, &late, &early, &same]);

    // How a pin ends says nothing of its time, and one that isn't the account's stays.
    records.finish(early.id, PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
    assert!(!records.remove_pin(UserId(1), early.id).await.unwrap());
    assert_exact(&records, &[&stays, &late, &early, &same]);
    records.close();
    drop(records);
    let records = open(&directory);
    assert_exact(&records, &[&stays, &late, &early, &same]);
    assert!(records.remove_pin(UserId(2), early.id).await.unwrap());
    assert!(records.remove_pin(UserId(1), late.id).await.unwrap());
    assert_exact(&records, &[&stays, &same]);
    assert!(records.remove_pin(UserId(1), stays.id).await.unwrap());
    assert_exact(&records, &[&same]);
}

#[tokio::test]
async fn a_look_gives_no_more_than_it_may_and_says_when_the_next_one_goes() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    assert_eq!(records.expired(i64::MAX, 3).unwrap(), (vec![], None));
    let mut ids = Vec::new();
    for expires_ms in [100, 200, 300, 400] {
        ids.push(add(&records, 1, Some(expires_ms), None).await.id);
    }
    assert_eq!(records.expired(99, 3).unwrap(), (vec![], Some(100)));
    assert_eq!(records.expired(200, 3).unwrap(), (ids[..2].to_vec(), Some(300)), "that time is within");
    assert_eq!(records.expired(400, 3).unwrap(), (ids[..3].to_vec(), Some(400)), "the next one is overdue too");
    assert_eq!(records.expired(400, 4).unwrap(), (ids.clone(), None));
    assert_eq!(records.expired(400, 0).unwrap(), (vec![], Some(100)));
}

#[tokio::test]
async fn pins_of_a_file_of_version_4_stay_and_new_ones_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(&directory);
    let old = add(&records, 1, None, None).await;
    let downgrade = records.write(|change| {
        change.transaction().delete_table(EXPIRIES)?;
        let version = encode("meta", &4_u64)?;
        change.transaction().open_table(META)?.insert(SCHEMA_KEY, version.as_slice())?;
        Ok(())
    });
    downgrade.await.unwrap();
    records.close();
    drop(records);
    let records = open(&directory);
    assert_eq!(records.get(old.id).unwrap(), Some(old.clone()));
    assert_exact(&records, &[&old]);
    let new = add(&records, 1, Some(1), Some(old.id)).await;
    assert_eq!(records.expired(1, 10).unwrap(), (vec![new.id], None));
}
