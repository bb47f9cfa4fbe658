//! Pins as they are stored. What a client may ask for is decided in `pins::service`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use cid::Cid;
use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{
    CREATED_LAST, ORDINALS_NEXT, PINS, PINS_BY_CREATED, PINS_BY_ORDINAL, PINS_FAILED, PINS_UNFINISHED, decode, encode,
};
use super::{Change, Records, RecordsError, usage};
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
        let table = self.read()?.open_table(PINS)?;
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
        let pins = self.read()?.open_table(PINS)?;
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

    /// At most `max` pins of all accounts in the order of their ids, from the one after `after` on.
    pub fn pins(&self, after: Option<PinId>, max: usize) -> Result<Vec<PinRecord>, RecordsError> {
        let pins = self.read()?.open_table(PINS)?;
        let start = after.map_or(std::ops::Bound::Unbounded, |id| std::ops::Bound::Excluded(*id.as_bytes()));
        let range = pins.range::<&[u8; 16]>((start.as_ref(), std::ops::Bound::Unbounded))?;
        range.take(max).map(|entry| decode("pins", entry?.1.value())).collect()
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
        let mut created_last = self.transaction().open_table(CREATED_LAST)?;
        let last = created_last.get(new.user.0)?.map(|last| last.value());
        let created_ms = last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)));
        let ahead = Duration::from_millis(u64::try_from(created_ms.saturating_sub(now_ms)).unwrap_or(0));
        if ahead > CREATED_AHEAD_MAX {
            return Ok(Err(AddRefusal::TooFast { wait: ahead.saturating_sub(CREATED_AHEAD_MAX) }));
        }

        let retained_roots = old.as_ref().map_or_else(Vec::new, |old| retained_roots(old, &new.root));
        if let Some(old) = &old {
            self.delete_pin(old)?;
        }
        let NewPin { user, cid_text, root, name, origins, origins_skipped, meta } = new;
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
            state: PinState::Queued,
            retained_roots,
        };
        created_last.insert(user.0, created_ms)?;
        let ordinal = self.next_ordinal(user)?;
        self.put_pin(&record, ordinal)?;
        let id = record.id.as_bytes();
        self.transaction().open_table(PINS_BY_CREATED)?.insert((user.0, created_ms), (id, ordinal))?;
        self.transaction().open_table(PINS_BY_ORDINAL)?.insert((user.0, ordinal), id)?;
        Ok(Ok(record))
    }

    /// Removes a pin of this account; false when it has none with this id.
    pub fn remove_pin(&self, user: UserId, id: PinId) -> Result<bool, RecordsError> {
        match self.pin(id)? {
            Some(record) if record.user == user => {
                self.delete_pin(&record)?;
                Ok(true)
            }
            _ => Ok(false),
        }
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

    /// Stores how a pin ended; false when it is gone meanwhile.
    pub fn finish(&self, id: PinId, state: PinState) -> Result<bool, RecordsError> {
        let Some(mut record) = self.pin(id)? else { return Ok(false) };
        record.state = state;
        if matches!(record.state, PinState::Pinned { .. }) {
            record.retained_roots.clear();
        }
        self.put_pin(&record, self.ordinal(&record)?)?;
        Ok(true)
    }

    /// The ordinal of an account's next pin, which is given to no other.
    fn next_ordinal(&self, user: UserId) -> Result<u64, RecordsError> {
        let mut next = self.transaction().open_table(ORDINALS_NEXT)?;
        let ordinal = next.get(user.0)?.map_or(0, |next| next.value());
        next.insert(user.0, ordinal + 1)?;
        Ok(ordinal)
    }

    fn ordinal(&self, record: &PinRecord) -> Result<u64, RecordsError> {
        let by_created = self.transaction().open_table(PINS_BY_CREATED)?;
        let place = by_created.get((record.user.0, record.created_ms))?.map(|place| place.value().1);
        place.ok_or_else(|| not_listed(record))
    }

    /// Writes a pin that differs at most in its state from what it was, and the indexes and figures that depend on it.
    fn put_pin(&self, record: &PinRecord, ordinal: u64) -> Result<(), RecordsError> {
        let id = record.id.as_bytes();
        let mut unfinished = self.transaction().open_table(PINS_UNFINISHED)?;
        let mut failed = self.transaction().open_table(PINS_FAILED)?;
        match record.state {
            PinState::Queued => {
                unfinished.insert(id, ())?;
                failed.remove(id)?;
            }
            PinState::Failed(_) => {
                unfinished.remove(id)?;
                failed.insert(id, ())?;
            }
            PinState::Pinned { .. } => {
                unfinished.remove(id)?;
                failed.remove(id)?;
            }
        }
        let mut pins = self.transaction().open_table(PINS)?;
        match pins.insert(id, encode("pins", record)?.as_slice())? {
            Some(old) => {
                let old = decode("pins", old.value())?;
                usage::subtract(self.transaction(), &old)?;
                self.index().change_state(record.user, ordinal, &old.state, &record.state)?;
            }
            None => self.index().add(record, ordinal)?,
        }
        usage::add(self.transaction(), record)
    }

    fn pin(&self, id: PinId) -> Result<Option<PinRecord>, RecordsError> {
        let table = self.transaction().open_table(PINS)?;
        let value = table.get(id.as_bytes())?;
        value.map(|value| decode("pins", value.value())).transpose()
    }

    fn delete_pin(&self, record: &PinRecord) -> Result<(), RecordsError> {
        self.transaction().open_table(PINS)?.remove(record.id.as_bytes())?;
        let ordinal = self.ordinal(record)?;
        self.index().remove(record, ordinal)?;
        self.transaction().open_table(PINS_BY_CREATED)?.remove((record.user.0, record.created_ms))?;
        self.transaction().open_table(PINS_BY_ORDINAL)?.remove((record.user.0, ordinal))?;
        self.transaction().open_table(PINS_UNFINISHED)?.remove(record.id.as_bytes())?;
        self.transaction().open_table(PINS_FAILED)?.remove(record.id.as_bytes())?;
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
