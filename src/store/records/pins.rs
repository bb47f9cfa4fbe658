//! Pins as they are stored. What a client may ask for is decided in `pins::service`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use cid::Cid;
use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{EXPIRIES, PINS, PINS_FAILED, PINS_UNFINISHED, decode, encode};
use super::{Change, PinEvent, Quota, Records, RecordsError, usage};
use crate::model::limits::{CREATED_AHEAD_MAX, RETAINED_ROOTS_MAX};
use crate::model::{ContentKey, PinId, PinRecord, PinState, UserId};

/// A pin that is to be made; the fields are those of [`PinRecord`].
#[derive(Debug, Clone)]
pub struct NewPin {
    /// Whose pin it is.
    pub user: UserId,
    /// The CID exactly as the client wrote it.
    pub cid_text: String,
    /// The same CID, parsed.
    pub root: Cid,
    /// The name.
    pub name: Option<String>,
    /// Usable origins.
    pub origins: Vec<String>,
    /// Origins that are not used, each with the reason.
    pub origins_skipped: Vec<String>,
    /// The client's own key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// When it goes by itself.
    pub expires_ms: Option<i64>,
    /// How much the account may pin.
    pub quota: Quota,
}

impl NewPin {
    /// A pin of this root that has nothing else, and no bound.
    pub fn plain(user: UserId, root: Cid) -> Self {
        Self {
            user,
            cid_text: root.to_string(),
            root,
            name: None,
            origins: Vec::new(),
            origins_skipped: Vec::new(),
            meta: BTreeMap::new(),
            expires_ms: None,
            quota: Quota::NONE,
        }
    }
}

/// Why a pin was not made. Nothing was changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddRefusal {
    /// The account has no pin with the id that is to be replaced.
    NotFound,
    /// The account's newest `created` is too far ahead of the clock.
    TooFast {
        /// How long to wait.
        wait: Duration,
    },
    /// The account has as many pins as it may have.
    PinsExhausted {
        /// How many those are.
        quota: u64,
    },
    /// The account has pinned as many bytes as it may.
    BytesExhausted {
        /// How many it has pinned.
        pinned: u64,
        /// How many it may.
        quota: u64,
    },
    /// The account is being deleted, or was.
    AccountClosed,
}

/// Why a pin was not queued again. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryRefusal {
    /// There is no such pin.
    NotFound,
    /// It hasn't failed; this is its state.
    NotFailed(PinState),
}

/// How many pins there are, all accounts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinCounts {
    /// In [`PinState::Queued`].
    pub unfinished: u64,
    /// In [`PinState::Failed`].
    pub failed: u64,
    /// In [`PinState::Pinned`].
    pub pinned: u64,
}

impl PinCounts {
    /// In any state.
    pub fn total(&self) -> u64 {
        self.unfinished + self.failed + self.pinned
    }
}

/// Which pins of all accounts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinSet {
    /// Those in [`PinState::Queued`].
    Unfinished,
    /// Those in [`PinState::Failed`].
    Failed,
    /// Those in [`PinState::Pinned`].
    Pinned,
}

impl Records {
    /// The pin with this id, whoever owns it.
    pub fn get(&self, id: PinId) -> Result<Option<PinRecord>, RecordsError> {
        let snapshot = self.read()?;
        let table = snapshot.open_table(PINS)?;
        table.get(id.as_bytes())?.map(|value| decode("pins", value.value())).transpose()
    }

    /// At most `max` unfinished pins in the order in which they were made, from the one after `after` on.
    pub fn unfinished(&self, after: Option<PinId>, max: usize) -> Result<Vec<PinRecord>, RecordsError> {
        let transaction = self.read()?;
        let unfinished = transaction.open_table(PINS_UNFINISHED)?;
        let pins = transaction.open_table(PINS)?;
        let mut records = Vec::new();
        let start = after.map_or(std::ops::Bound::Unbounded, |id| std::ops::Bound::Excluded(*id.as_bytes()));
        let start = start.as_ref();
        for entry in unfinished.range::<&[u8; 16]>((start, std::ops::Bound::Unbounded))?.take(max) {
            let id = entry?.0;
            if let Some(value) = pins.get(id.value())? {
                records.push(decode("pins", value.value())?);
            }
        }
        Ok(records)
    }

    /// The roots that at most `max` pins keep, in the order of their ids, from the one after `after` on: a pin's own, and
    /// those that it replaced.
    pub fn roots(&self, after: Option<PinId>, max: usize) -> Result<Vec<(PinId, Vec<Cid>)>, RecordsError> {
        let snapshot = self.read()?;
        let pins = snapshot.open_table(PINS)?;
        let start = after.map_or(std::ops::Bound::Unbounded, |id| std::ops::Bound::Excluded(*id.as_bytes()));
        let mut roots = Vec::new();
        for entry in pins.range::<&[u8; 16]>((start.as_ref(), std::ops::Bound::Unbounded))?.take(max) {
            let record: PinRecord = decode("pins", entry?.1.value())?;
            let mut kept = record.retained_roots;
            kept.push(record.root);
            roots.push((record.id, kept));
        }
        Ok(roots)
    }

    /// The roots of pins that are whole, among at most `max` pins in the order of their ids, from the one after `after` on; and the last of
    /// those pins, `None` after the end.
    pub fn whole_roots(&self, after: Option<PinId>, max: usize) -> Result<(Vec<Cid>, Option<PinId>), RecordsError> {
        let page = self.pins(after, max)?;
        let last = page.last().map(|record| record.id);
        let is_whole = |record: &PinRecord| matches!(record.state, PinState::Pinned { .. });
        Ok((page.iter().filter(|record| is_whole(record)).map(|record| record.root).collect(), last))
    }

    /// At most `max` pins of all accounts in the order of their ids, from the one after `after` on.
    pub fn pins(&self, after: Option<PinId>, max: usize) -> Result<Vec<PinRecord>, RecordsError> {
        let snapshot = self.read()?;
        let pins = snapshot.open_table(PINS)?;
        let start = after.map_or(std::ops::Bound::Unbounded, |id| std::ops::Bound::Excluded(*id.as_bytes()));
        let range = pins.range::<&[u8; 16]>((start.as_ref(), std::ops::Bound::Unbounded))?;
        range.take(max).map(|entry| decode("pins", entry?.1.value())).collect()
    }

    /// The pins of all accounts that go at this time or before, at most `max`, and when the one after those goes.
    pub fn expired(&self, now_ms: i64, max: usize) -> Result<(Vec<PinId>, Option<i64>), RecordsError> {
        let snapshot = self.read()?;
        let expiries = snapshot.open_table(EXPIRIES)?;
        let mut expired = Vec::new();
        for entry in expiries.iter()? {
            let key = entry?.0;
            let (expires_ms, id) = key.value();
            if expires_ms > now_ms || expired.len() == max {
                return Ok((expired, Some(expires_ms)));
            }
            expired.push(PinId(uuid::Uuid::from_bytes(*id)));
        }
        Ok((expired, None))
    }

    /// How many pins all accounts have; this reads a few bytes, whatever their number.
    pub fn count_pins(&self) -> Result<PinCounts, RecordsError> {
        let transaction = self.read()?;
        let unfinished = transaction.open_table(PINS_UNFINISHED)?.len()?;
        let failed = transaction.open_table(PINS_FAILED)?.len()?;
        let pinned = transaction.open_table(PINS)?.len()?.saturating_sub(unfinished).saturating_sub(failed);
        Ok(PinCounts { unfinished, failed, pinned })
    }

    /// Shows the pins of all accounts, one set after the other and each newest first, from one snapshot. It reads the
    /// disk for as long as there are pins: not for the event loop.
    pub fn scan_all_pins(
        &self,
        sets: &[PinSet],
        mut visit: impl FnMut(PinRecord) -> ControlFlow<()>,
    ) -> Result<(), RecordsError> {
        let transaction = self.read()?;
        let pins = transaction.open_table(PINS)?;
        for set in sets {
            let table = match set {
                PinSet::Unfinished => PINS_UNFINISHED,
                PinSet::Failed => PINS_FAILED,
                PinSet::Pinned => {
                    for entry in pins.iter()?.rev() {
                        let record: PinRecord = decode("pins", entry?.1.value())?;
                        if matches!(record.state, PinState::Pinned { .. }) && visit(record).is_break() {
                            return Ok(());
                        }
                    }
                    continue;
                }
            };
            for entry in transaction.open_table(table)?.iter()?.rev() {
                if let Some(value) = pins.get(entry?.0.value())?
                    && visit(decode("pins", value.value())?).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Makes a pin, in the place of another one of the same account if `replaces` says so.
    pub async fn add_pin(
        &self,
        new: NewPin,
        replaces: Option<PinId>,
    ) -> Result<Result<PinRecord, AddRefusal>, RecordsError> {
        self.write(move |change| change.add_pin(new, replaces, Timestamp::now().as_millisecond())).await
    }

    /// Removes a pin of this account; false when it has none with this id.
    pub async fn remove_pin(&self, user: UserId, id: PinId) -> Result<bool, RecordsError> {
        self.write(move |change| change.remove_pin(user, id)).await
    }

    /// Removes those of these pins whose time has come at `now_ms`, all in one commit that also has the events of that. The answer
    /// has those that were still there.
    pub async fn expire_pins(&self, ids: Vec<PinId>, now_ms: i64) -> Result<Vec<PinId>, RecordsError> {
        self.write(move |change| {
            let mut expired = Vec::new();
            for id in ids {
                if change.expire_pin(id, now_ms)? {
                    expired.push(id);
                }
            }
            Ok(expired)
        })
        .await
    }

    /// Queues a failed pin again, whoever owns it.
    pub async fn retry_pin(&self, id: PinId) -> Result<Result<PinRecord, RetryRefusal>, RecordsError> {
        self.write(move |change| change.retry_pin(id)).await
    }

    /// Queues pins again that are pinned and turned out not to be whole, all in one commit. The answer has those that were
    /// still there and pinned.
    pub async fn requeue_pins(&self, ids: Vec<PinId>) -> Result<Vec<PinRecord>, RecordsError> {
        self.write(move |change| {
            let mut queued = Vec::new();
            for id in ids {
                queued.extend(change.requeue_pin(id)?);
            }
            Ok(queued)
        })
        .await
    }

    /// Stores how a pin ended; false when it is gone meanwhile. A pinned one no longer keeps what it replaced.
    pub async fn finish(&self, id: PinId, state: PinState) -> Result<bool, RecordsError> {
        self.write(move |change| change.finish(id, state)).await
    }
}

impl Change<'_> {
    /// Makes a pin at `now_ms`, in the place of `replaces` if that is given.
    pub fn add_pin(
        &self,
        new: NewPin,
        replaces: Option<PinId>,
        now_ms: i64,
    ) -> Result<Result<PinRecord, AddRefusal>, RecordsError> {
        let old = match replaces {
            None => None,
            Some(id) => match self.pin(id)? {
                Some(record) if record.user == new.user => Some(record),
                _ => return Ok(Err(AddRefusal::NotFound)),
            },
        };
        let mut account = self.account(new.user)?;
        let created_ms = account.created_last_ms.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)));
        let ahead = Duration::from_millis(u64::try_from(created_ms.saturating_sub(now_ms)).unwrap_or(0));
        if account.is_closed {
            return Ok(Err(AddRefusal::AccountClosed));
        }
        if ahead > CREATED_AHEAD_MAX {
            return Ok(Err(AddRefusal::TooFast { wait: ahead.saturating_sub(CREATED_AHEAD_MAX) }));
        }
        if let Some(refusal) = self.over_quota(&new, account.pins, old.as_ref())? {
            return Ok(Err(refusal));
        }

        let retained_roots = old.as_ref().map_or_else(Vec::new, |old| retained_roots(old, &new.root));
        if let Some(old) = &old {
            self.delete_pin(old)?;
            account.pins = account.pins.saturating_sub(1);
        }
        let NewPin { user, cid_text, root, name, origins, origins_skipped, meta, expires_ms, quota: _ } = new;
        let record = PinRecord {
            id: PinId::new(),
            user,
            cid_text,
            root,
            name,
            origins,
            origins_skipped,
            meta,
            created_ms,
            expires_ms,
            state: PinState::Queued,
            retained_roots,
        };
        let ordinal = account.ordinal_next;
        account.ordinal_next += 1;
        account.pins += 1;
        account.created_last_ms = Some(created_ms);
        self.put_account(user, &account)?;
        let id = record.id.as_bytes();
        let mut tables = self.pin_tables()?;
        tables.by_created.insert((user.0, created_ms), (id, ordinal))?;
        tables.by_ordinal.insert((user.0, ordinal), id)?;
        tables.unfinished.insert(id, ())?;
        if let Some(expires_ms) = expires_ms {
            tables.expiries.insert((expires_ms, id), ())?;
        }
        tables.pins.insert(id, encode("pins", &record)?.as_slice())?;
        drop(tables);
        self.index().add(&record, ordinal)?;
        Ok(Ok(record))
    }

    /// Removes a pin of this account; false when it has none with this id.
    pub fn remove_pin(&self, user: UserId, id: PinId) -> Result<bool, RecordsError> {
        match self.pin(id)? {
            Some(record) if record.user == user => {
                self.take_pin(&record)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes a pin whose time has come at `now_ms`, and notes that for its account's webhook; false when there is none with this
    /// id, or its time is still to come.
    pub fn expire_pin(&self, id: PinId, now_ms: i64) -> Result<bool, RecordsError> {
        match self.pin(id)? {
            Some(record) if record.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) => {
                self.take_pin(&record)?;
                self.note(PinEvent::Expired, &record, now_ms)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes a pin and counts it no longer.
    fn take_pin(&self, record: &PinRecord) -> Result<(), RecordsError> {
        self.delete_pin(record)?;
        let mut account = self.account(record.user)?;
        account.pins = account.pins.saturating_sub(1);
        self.put_account(record.user, &account)
    }

    /// Queues a failed pin again.
    pub fn retry_pin(&self, id: PinId) -> Result<Result<PinRecord, RetryRefusal>, RecordsError> {
        let Some(mut record) = self.pin(id)? else { return Ok(Err(RetryRefusal::NotFound)) };
        if !matches!(record.state, PinState::Failed(_)) {
            return Ok(Err(RetryRefusal::NotFailed(record.state)));
        }
        record.state = PinState::Queued;
        self.put_pin(&record, self.ordinal(&record)?)?;
        Ok(Ok(record))
    }

    /// Queues a pinned pin again; `None` when it is gone or isn't pinned.
    pub fn requeue_pin(&self, id: PinId) -> Result<Option<PinRecord>, RecordsError> {
        let Some(mut record) = self.pin(id)? else { return Ok(None) };
        if !matches!(record.state, PinState::Pinned { .. }) {
            return Ok(None);
        }
        record.state = PinState::Queued;
        self.put_pin(&record, self.ordinal(&record)?)?;
        Ok(Some(record))
    }

    /// Stores how a pin ended, and notes it for its account's webhook; false when it is gone meanwhile.
    pub fn finish(&self, id: PinId, state: PinState) -> Result<bool, RecordsError> {
        let Some(mut record) = self.pin(id)? else { return Ok(false) };
        record.state = state;
        if matches!(record.state, PinState::Pinned { .. }) {
            record.retained_roots.clear();
        }
        self.put_pin(&record, self.ordinal(&record)?)?;
        self.note_end(&record)?;
        Ok(true)
    }

    /// Why an account can't make a pin that takes the place of `old`, if its quota doesn't allow it. `pins` is how many it has.
    fn over_quota(&self, new: &NewPin, pins: u64, old: Option<&PinRecord>) -> Result<Option<AddRefusal>, RecordsError> {
        if let Some(quota) = new.quota.pins
            && old.is_none()
            && pins >= quota
        {
            return Ok(Some(AddRefusal::PinsExhausted { quota }));
        }
        let Some(quota) = new.quota.bytes else { return Ok(None) };
        let freed = old.map_or(Ok(0), |old| usage::freed_by(self.transaction(), old))?;
        let pinned = usage::of(self.transaction(), new.user)?.bytes.saturating_sub(freed);
        Ok((pinned >= quota).then_some(AddRefusal::BytesExhausted { pinned, quota }))
    }

    fn ordinal(&self, record: &PinRecord) -> Result<u64, RecordsError> {
        let tables = self.pin_tables()?;
        let place = tables.by_created.get((record.user.0, record.created_ms))?.map(|place| place.value().1);
        place.ok_or_else(|| not_listed(record))
    }

    /// Writes a pin that differs only in its state from what it was, and the indexes and figures that depend on it.
    fn put_pin(&self, record: &PinRecord, ordinal: u64) -> Result<(), RecordsError> {
        let id = record.id.as_bytes();
        let mut tables = self.pin_tables()?;
        match record.state {
            PinState::Queued => {
                tables.unfinished.insert(id, ())?;
                tables.failed.remove(id)?;
            }
            PinState::Failed(_) => {
                tables.unfinished.remove(id)?;
                tables.failed.insert(id, ())?;
            }
            PinState::Pinned { .. } => {
                tables.unfinished.remove(id)?;
                tables.failed.remove(id)?;
            }
        }
        let old = tables.pins.insert(id, encode("pins", record)?.as_slice())?;
        let old: Option<PinRecord> = old.map(|old| decode("pins", old.value())).transpose()?;
        drop(tables);
        let old = old.ok_or_else(|| not_listed(record))?;
        usage::subtract(self.transaction(), &old)?;
        self.index().change_state(record.user, ordinal, &old.state, &record.state)?;
        usage::add(self.transaction(), record)
    }

    pub(super) fn pin(&self, id: PinId) -> Result<Option<PinRecord>, RecordsError> {
        let tables = self.pin_tables()?;
        let value = tables.pins.get(id.as_bytes())?;
        value.map(|value| decode("pins", value.value())).transpose()
    }

    fn delete_pin(&self, record: &PinRecord) -> Result<(), RecordsError> {
        let ordinal = self.ordinal(record)?;
        let id = record.id.as_bytes();
        let mut tables = self.pin_tables()?;
        tables.pins.remove(id)?;
        tables.by_created.remove((record.user.0, record.created_ms))?;
        tables.by_ordinal.remove((record.user.0, ordinal))?;
        tables.unfinished.remove(id)?;
        tables.failed.remove(id)?;
        if let Some(expires_ms) = record.expires_ms {
            tables.expiries.remove((expires_ms, id))?;
        }
        drop(tables);
        self.index().remove(record, ordinal)?;
        usage::subtract(self.transaction(), record)
    }
}

/// An error that no change of a pin leads to: what is in the tables about it doesn't fit together.
fn not_listed(record: &PinRecord) -> RecordsError {
    RecordsError::Codec { table: "pins_by_created", reason: format!("the pin {} is missing", record.id) }
}

/// What the successor of `replaced` keeps: everything that `replaced` kept and its own DAG, each content once; nothing
/// if that is only what the successor pins itself.
///
/// Over the bound the second oldest goes: only the oldest of a chain can be a whole DAG, since a pin that becomes
/// whole forgets what it replaced, so the guarantee that a replaced pin's content stays is not touched.
fn retained_roots(replaced: &PinRecord, successor: &Cid) -> Vec<Cid> {
    let mut roots: Vec<Cid> = Vec::new();
    for root in replaced.retained_roots.iter().chain([&replaced.root]) {
        let key = ContentKey::of(root);
        if !roots.iter().any(|root| ContentKey::of(root) == key) {
            roots.push(*root);
        }
    }
    while roots.len() > RETAINED_ROOTS_MAX {
        roots.remove(1);
    }
    if let [only] = roots.as_slice()
        && ContentKey::of(only) == ContentKey::of(successor)
    {
        roots.clear();
    }
    roots
}
