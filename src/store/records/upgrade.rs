//! Makes a file of an older version one of this version, within the transaction that opens it.

use redb::{ReadableTable, WriteTransaction};

use super::index::Pending;
use super::tables::{OLD_PINS_BY_USER, ORDINALS_NEXT, PINS, PINS_BY_CREATED, PINS_BY_ORDINAL, PINS_FAILED, decode};
use super::{RecordsError, usage};
use crate::model::{PinRecord, PinState, UserId};

/// Upgrades from `version`. All tables of this version are there.
pub(super) fn run(transaction: &WriteTransaction, version: u64) -> Result<(), RecordsError> {
    if version < 2 {
        from_1(transaction)?;
    }
    from_2(transaction)
}

/// There were no usage figures, and in the oldest files no index of failed pins.
fn from_1(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    let mut failed = transaction.open_table(PINS_FAILED)?;
    for entry in transaction.open_table(PINS)?.iter()? {
        let (id, value) = entry?;
        let record: PinRecord = decode("pins", value.value())?;
        match record.state {
            PinState::Failed(_) => {
                failed.insert(id.value(), ())?;
            }
            PinState::Pinned { .. } => usage::add(transaction, &record)?,
            PinState::Queued => {}
        }
    }
    Ok(())
}

/// There were no ordinals, and no index of what a list can ask for. What is held in memory is bounded, as the index is written
/// in pieces.
fn from_2(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    let mut index = Pending::default();
    let (mut user, mut ordinal) = (None, 0);
    {
        let mut by_created = transaction.open_table(PINS_BY_CREATED)?;
        let mut by_ordinal = transaction.open_table(PINS_BY_ORDINAL)?;
        let mut next = transaction.open_table(ORDINALS_NEXT)?;
        let pins = transaction.open_table(PINS)?;
        for entry in transaction.open_table(OLD_PINS_BY_USER)?.iter()? {
            let (key, id) = entry?;
            let ((owner, created_ms), id) = (key.value(), id.value());
            if user != Some(owner) {
                (user, ordinal) = (Some(owner), 0);
            }
            let Some(record) = pins.get(id)?.map(|value| decode::<PinRecord>("pins", value.value())).transpose()?
            else {
                continue;
            };
            debug_assert_eq!((record.user, record.created_ms), (UserId(owner), created_ms));
            by_created.insert((owner, created_ms), (id, ordinal))?;
            by_ordinal.insert((owner, ordinal), id)?;
            index.add_settled(&record, ordinal)?;
            ordinal += 1;
            next.insert(owner, ordinal)?;
            if index.is_large() {
                index.write(transaction)?;
            }
        }
    }
    index.write(transaction)?;
    transaction.delete_table(OLD_PINS_BY_USER)?;
    Ok(())
}
