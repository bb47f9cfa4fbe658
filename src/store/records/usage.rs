//! How much each account has pinned, kept in the commit that changes a pin's state.
//!
//! What counts are the distinct roots of an account's pinned pins, each with the bytes of the distinct blocks of its DAG:
//! a root pinned twice counts once, what two roots share counts twice.

use cid::Cid;
use redb::{ReadableTable, WriteTransaction};

use super::tables::{ROOTS_BY_USER, USAGE};
use super::{Records, RecordsError};
use crate::model::{ContentKey, PinRecord, PinState, UserId};

/// What an account has pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Distinct roots.
    pub roots: u64,
    /// Bytes of their DAGs.
    pub bytes: u64,
}

impl Records {
    /// What an account has pinned; this reads a few bytes, whatever that is.
    pub fn usage(&self, user: UserId) -> Result<Usage, RecordsError> {
        let usage = self.read()?.open_table(USAGE)?.get(user.0)?.map(|usage| usage.value());
        Ok(usage.map_or_else(Usage::default, |(roots, bytes)| Usage { roots, bytes }))
    }
}

/// What an account has pinned, as a transaction sees it.
pub(super) fn of(transaction: &WriteTransaction, user: UserId) -> Result<Usage, RecordsError> {
    let usage = transaction.open_table(USAGE)?.get(user.0)?.map(|usage| usage.value());
    Ok(usage.map_or_else(Usage::default, |(roots, bytes)| Usage { roots, bytes }))
}

/// Whether an account has this root pinned.
pub(super) fn has_root(transaction: &WriteTransaction, user: UserId, root: &Cid) -> Result<bool, RecordsError> {
    let key = ContentKey::of(root);
    Ok(transaction.open_table(ROOTS_BY_USER)?.get((user.0, key.as_bytes()))?.is_some())
}

/// The bytes that an account has pinned less when this pin of it goes.
pub(super) fn freed_by(transaction: &WriteTransaction, record: &PinRecord) -> Result<u64, RecordsError> {
    if !matches!(record.state, PinState::Pinned { .. }) {
        return Ok(0);
    }
    let key = ContentKey::of(&record.root);
    let root = transaction.open_table(ROOTS_BY_USER)?.get((record.user.0, key.as_bytes()))?.map(|root| root.value());
    Ok(root.map_or(0, |(pins, bytes)| if pins == 1 { bytes } else { 0 }))
}

/// Counts a pin that becomes pinned.
pub(super) fn add(transaction: &WriteTransaction, record: &PinRecord) -> Result<(), RecordsError> {
    let PinState::Pinned { bytes, .. } = record.state else { return Ok(()) };
    let mut roots = transaction.open_table(ROOTS_BY_USER)?;
    let key = ContentKey::of(&record.root);
    let key = (record.user.0, key.as_bytes());
    let (pins, bytes) = roots.get(key)?.map_or((0, bytes), |root| root.value());
    roots.insert(key, (pins + 1, bytes))?;
    if pins == 0 {
        let mut usage = transaction.open_table(USAGE)?;
        let (roots, all_bytes) = usage.get(record.user.0)?.map_or((0, 0), |usage| usage.value());
        usage.insert(record.user.0, (roots + 1, all_bytes.saturating_add(bytes)))?;
    }
    Ok(())
}

/// Takes back what [`add`] counted for a pin that is pinned no longer; `record` is as it was.
pub(super) fn subtract(transaction: &WriteTransaction, record: &PinRecord) -> Result<(), RecordsError> {
    if !matches!(record.state, PinState::Pinned { .. }) {
        return Ok(());
    }
    let mut roots = transaction.open_table(ROOTS_BY_USER)?;
    let key = ContentKey::of(&record.root);
    let key = (record.user.0, key.as_bytes());
    let Some((pins, bytes)) = roots.get(key)?.map(|root| root.value()) else { return Ok(()) };
    if pins > 1 {
        roots.insert(key, (pins - 1, bytes))?;
        return Ok(());
    }
    roots.remove(key)?;
    let mut usage = transaction.open_table(USAGE)?;
    let (roots, all_bytes) = usage.get(record.user.0)?.map_or((0, 0), |usage| usage.value());
    if roots > 1 {
        usage.insert(record.user.0, (roots - 1, all_bytes.saturating_sub(bytes)))?;
    } else {
        usage.remove(record.user.0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;

    use super::*;
    use crate::model::cids::codec;
    use crate::model::{Block, Failure, FailureCode, PinId};
    use crate::store::records::NewPin;

    const USERS: [UserId; 2] = [UserId(1), UserId(2)];

    /// Roots of which the last two are one content under two versions of the CID.
    fn roots() -> Vec<Cid> {
        let cid = |number: u8, codec| *Block::new_sha256(codec, Bytes::from(vec![number])).unwrap().cid();
        let v1 = cid(9, codec::DAG_PB);
        vec![cid(1, codec::RAW), cid(2, codec::RAW), v1, Cid::new_v0(*v1.hash()).unwrap()]
    }

    fn bytes_of(root: &Cid) -> u64 {
        u64::from(root.hash().digest()[0]) + 1
    }

    fn new_pin(user: UserId, root: Cid) -> NewPin {
        NewPin::plain(user, root)
    }

    /// The same figures, counted anew.
    fn count(pins: &HashMap<PinId, PinRecord>, user: UserId) -> Usage {
        let mut roots: HashMap<ContentKey, u64> = HashMap::new();
        for record in pins.values().filter(|record| record.user == user) {
            if let PinState::Pinned { bytes, .. } = record.state {
                roots.insert(ContentKey::of(&record.root), bytes);
            }
        }
        Usage { roots: roots.len() as u64, bytes: roots.values().sum() }
    }

    #[tokio::test]
    async fn the_figures_follow_every_change_of_a_pin() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut state = seed;
        let mut next = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % end
        };
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap();
        let roots = roots();
        let mut pins: HashMap<PinId, PinRecord> = HashMap::new();
        for _ in 0..300 {
            let mut ids: Vec<PinId> = pins.keys().copied().collect();
            ids.sort_unstable();
            let some = (!ids.is_empty()).then(|| ids[next(ids.len())]);
            match (next(6), some) {
                (0, Some(id)) => {
                    let record = pins.remove(&id).unwrap();
                    assert!(records.remove_pin(record.user, id).await.unwrap());
                }
                (1, Some(id)) => {
                    let old = pins.remove(&id).unwrap();
                    let new = new_pin(old.user, roots[next(roots.len())]);
                    let new = records.add_pin(new, Some(id)).await.unwrap().unwrap();
                    pins.insert(new.id, new);
                }
                (2, Some(id)) => {
                    let failed = PinState::Failed(Failure {
                        code: FailureCode::Stalled,
                        sentence: "x".into(),
                        tried: Vec::new(),
                    });
                    assert!(records.finish(id, failed.clone()).await.unwrap());
                    pins.get_mut(&id).unwrap().state = failed;
                }
                (3 | 4, Some(id)) => {
                    let record = pins.get_mut(&id).unwrap();
                    record.state = PinState::Pinned { blocks: 1, bytes: bytes_of(&record.root) };
                    assert!(records.finish(id, record.state.clone()).await.unwrap());
                }
                _ => {
                    let new = new_pin(USERS[next(2)], roots[next(roots.len())]);
                    let new = records.add_pin(new, None).await.unwrap().unwrap();
                    pins.insert(new.id, new);
                }
            }
            for user in USERS {
                assert_eq!(records.usage(user).unwrap(), count(&pins, user));
            }
        }
    }
}
