//! What is known of all pins of an account together, in one small row that a commit which makes or removes a pin writes.

use redb::ReadableTable;

use super::tables::ACCOUNT_PINS;
use super::{Change, Records, RecordsError};
use crate::model::{PinId, UserId};

/// What is known of all pins of an account together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AccountPins {
    /// The newest `created` that a pin of it was ever given, in milliseconds; it outlives the pin.
    pub(super) created_last_ms: Option<i64>,
    /// The ordinal of its next pin. None is given twice.
    pub(super) ordinal_next: u64,
    /// How many it has, in any state.
    pub(super) pins: u64,
    /// No pin can be made any more, as the account is being deleted or was. This outlives the account: a request may come late.
    pub(super) is_closed: bool,
}

impl AccountPins {
    fn of_row((created_last_ms, ordinal_next, pins, is_closed): (i64, u64, u64, bool)) -> Self {
        let created_last_ms = (ordinal_next > 0).then_some(created_last_ms);
        Self { created_last_ms, ordinal_next, pins, is_closed }
    }

    pub(super) fn row(&self) -> (i64, u64, u64, bool) {
        (self.created_last_ms.unwrap_or_default(), self.ordinal_next, self.pins, self.is_closed)
    }
}

impl Records {
    /// How many pins an account has, in any state; this reads a few bytes, whatever their number.
    pub fn count_pins_of(&self, user: UserId) -> Result<u64, RecordsError> {
        let row = self.read()?.open_table(ACCOUNT_PINS)?.get(user.0)?.map(|row| row.value());
        Ok(row.map_or(0, |row| AccountPins::of_row(row).pins))
    }

    /// Ids of at most `max` pins of an account, the oldest first.
    pub fn pins_of(&self, user: UserId, max: usize) -> Result<Vec<PinId>, RecordsError> {
        let snapshot = self.read()?;
        let by_created = snapshot.open_table(super::tables::PINS_BY_CREATED)?;
        let range = by_created.range((user.0, i64::MIN)..=(user.0, i64::MAX))?;
        range.take(max).map(|entry| Ok(PinId(uuid::Uuid::from_bytes(*entry?.1.value().0)))).collect()
    }
}

impl Change<'_> {
    /// How many pins an account has, in any state.
    pub(super) fn count_pins_of(&self, user: UserId) -> Result<u64, RecordsError> {
        Ok(self.account(user)?.pins)
    }

    pub(super) fn account(&self, user: UserId) -> Result<AccountPins, RecordsError> {
        let row = self.pin_tables()?.accounts.get(user.0)?.map(|row| row.value());
        Ok(row.map_or_else(AccountPins::default, AccountPins::of_row))
    }

    pub(super) fn put_account(&self, user: UserId, account: &AccountPins) -> Result<(), RecordsError> {
        self.pin_tables()?.accounts.insert(user.0, account.row())?;
        Ok(())
    }

    /// Lets no pin of an account be made any more.
    pub(super) fn close_account(&self, user: UserId) -> Result<(), RecordsError> {
        let account = AccountPins { is_closed: true, ..self.account(user)? };
        self.put_account(user, &account)
    }
}
