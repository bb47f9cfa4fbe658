//! Makes a file of an older version one of this version, within the transaction that opens it.

use redb::{ReadableTable, WriteTransaction};

use super::account::AccountPins;
use super::index::Pending;
use super::tables::{
    ACCOUNT_PINS, OLD_CREATED_LAST, OLD_ORDINALS_NEXT, OLD_PINS_BY_USER, PINS, PINS_BY_CREATED, PINS_BY_ORDINAL,
    PINS_FAILED, decode,
};
use super::{RecordsError, usage, users};
use crate::model::{PinRecord, PinState, UserId};

/// Upgrades from `version`. All tables of this version are there.
pub(super) fn run(transaction: &WriteTransaction, version: u64) -> Result<(), RecordsError> {
    if version < 2 {
        from_1(transaction)?;
    }
    if version < 3 {
        from_2(transaction)?;
    }
    if version < 4 {
        from_3(transaction)?;
    }
    // Versions 5 and 6 have only tables more, which are there already: before, nothing went by itself, and nobody was told.
    Ok(())
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
        let mut next = transaction.open_table(OLD_ORDINALS_NEXT)?;
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

/// What is known of an account's pins was in two tables, their number wasn't known, and there were no roles.
fn from_3(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    {
        let ordinals = transaction.open_table(OLD_ORDINALS_NEXT)?;
        let by_created = transaction.open_table(PINS_BY_CREATED)?;
        let mut accounts = transaction.open_table(ACCOUNT_PINS)?;
        for entry in transaction.open_table(OLD_CREATED_LAST)?.iter()? {
            let (user, created_last) = entry?;
            let user = user.value();
            let mut account = AccountPins {
                created_last_ms: Some(created_last.value()),
                // It was made up to here by pins that are gone, if not by any that is left.
                ordinal_next: ordinals.get(user)?.map_or(0, |next| next.value()).max(1),
                ..AccountPins::default()
            };
            for entry in by_created.range((user, i64::MIN)..=(user, i64::MAX))? {
                entry?;
                account.pins += 1;
            }
            accounts.insert(user, account.row())?;
        }
    }
    transaction.delete_table(OLD_ORDINALS_NEXT)?;
    transaction.delete_table(OLD_CREATED_LAST)?;
    users::promote_first(transaction)
}
