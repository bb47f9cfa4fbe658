//! Webhooks of accounts, and the events that wait to be told to them. An event is written in the commit of what it tells of, so
//! that no crash loses one, and goes in a commit after it was told.
//!
//! How they are told is in `pins::webhooks`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use super::tables::{HOOKS, NOTICES, NoticeTables, decode, encode};
use super::{Change, Records, RecordsError, Standing};
use crate::model::limits::{NOTICES_BYTES_PER_ACCOUNT_MAX, NOTICES_PER_ACCOUNT_MAX};
use crate::model::{PinRecord, PinState, UserId};

/// What happened to a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinEvent {
    /// Every block of it is stored.
    Pinned,
    /// It failed.
    Failed,
    /// It was removed, as its time had come.
    Expired,
}

impl PinEvent {
    /// The event as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// An event that waits for its webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeRecord {
    /// Its id, which stays the same however often it is told.
    pub id: Uuid,
    /// What happened.
    pub event: PinEvent,
    /// When, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The pin as it was then, without its origins and what it replaced.
    pub pin: PinRecord,
}

/// How telling an event went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The status of the answer, if one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What was wrong; nothing if the event was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The webhook of an account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRecord {
    /// Tells it from the ones that the account had before.
    pub id: Uuid,
    /// Where events go.
    pub url: String,
    /// What signs them.
    pub secret: String,
    /// When it was set, in milliseconds since the Unix epoch.
    pub set_ms: i64,
    /// Events that wait.
    pub waiting: u64,
    /// How the last try went, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Attempt>,
    /// The number of the next event.
    next: u64,
    /// Bytes of the events that wait.
    waiting_bytes: u64,
}

impl fmt::Debug for HookRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HookRecord").field("id", &self.id).field("url", &self.url).finish_non_exhaustive()
    }
}

/// The event of an account that is to be told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextNotice {
    /// Where it goes.
    pub hook: HookRecord,
    /// Its number.
    pub number: u64,
    /// The event.
    pub notice: NoticeRecord,
}

/// What commits changed about webhooks, for the one who tells events.
#[derive(Debug, Default)]
pub struct NoticeNews {
    /// The accounts concerned, at most all of them, and whether the webhook itself is another one.
    changed: Mutex<BTreeMap<UserId, bool>>,
    came: Notify,
}

impl NoticeNews {
    /// Adds what a commit changed.
    pub(super) fn add(&self, changed: BTreeMap<UserId, bool>) {
        if changed.is_empty() {
            return;
        }
        let mut all = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        for (user, is_set) in changed {
            *all.entry(user).or_default() |= is_set;
        }
        self.came.notify_one();
    }

    /// The accounts concerned since the last call, and whether the webhook itself is another one.
    pub fn take(&self) -> BTreeMap<UserId, bool> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is something to take. One may wait at a time.
    pub async fn come(&self) {
        self.came.notified().await;
    }
}

impl Records {
    /// The webhook of an account.
    pub fn hook(&self, user: UserId) -> Result<Option<HookRecord>, RecordsError> {
        let snapshot = self.read()?;
        let hooks = snapshot.open_table(HOOKS)?;
        hooks.get(user.0)?.map(|value| decode("hooks", value.value())).transpose()
    }

    /// The accounts that have events waiting.
    pub fn users_with_notices(&self) -> Result<Vec<UserId>, RecordsError> {
        let mut users = Vec::new();
        for entry in self.read()?.open_table(HOOKS)?.iter()? {
            let (user, value) = entry?;
            let hook: HookRecord = decode("hooks", value.value())?;
            if hook.waiting > 0 {
                users.push(UserId(user.value()));
            }
        }
        Ok(users)
    }

    /// The oldest event of an account that waits.
    pub fn next_notice(&self, user: UserId) -> Result<Option<NextNotice>, RecordsError> {
        let transaction = self.read()?;
        let Some(value) = transaction.open_table(HOOKS)?.get(user.0)? else { return Ok(None) };
        let notices = transaction.open_table(NOTICES)?;
        let Some(first) = notices.range(numbers_of(user))?.next() else { return Ok(None) };
        let (key, notice) = first?;
        Ok(Some(NextNotice {
            hook: decode("hooks", value.value())?,
            number: key.value().1,
            notice: decode("notices", notice.value())?,
        }))
    }

    /// What commits change about webhooks.
    pub fn notice_news(&self) -> Arc<NoticeNews> {
        Arc::clone(&self.news)
    }
}

impl Change<'_> {
    /// Sets the webhook of an account; events that wait go to the new one. `None` when there is no such account.
    pub fn set_hook(
        &self,
        user: UserId,
        url: String,
        secret: String,
        now_ms: i64,
    ) -> Result<Option<HookRecord>, RecordsError> {
        if self.user(user)?.is_none_or(|user| user.standing == Standing::Deleting) {
            return Ok(None);
        }
        let mut tables = self.notice_tables()?;
        let old = hook(&tables, user)?;
        let (next, waiting, waiting_bytes) = old.map_or((0, 0, 0), |old| (old.next, old.waiting, old.waiting_bytes));
        let new =
            HookRecord { id: Uuid::now_v7(), url, secret, set_ms: now_ms, waiting, last: None, next, waiting_bytes };
        put_hook(&mut tables, user, &new)?;
        self.concerns(user, true);
        Ok(Some(new))
    }

    /// Removes the webhook of an account with the events that wait; false when it has none.
    pub fn remove_hook(&self, user: UserId) -> Result<bool, RecordsError> {
        let mut tables = self.notice_tables()?;
        let had = tables.hooks.remove(user.0)?.is_some();
        if had {
            tables.notices.retain_in(numbers_of(user), |_, _| false)?;
            self.concerns(user, true);
        }
        Ok(had)
    }

    /// Writes down what happened to a pin, if its account has a webhook. When too much waits, the oldest events go.
    pub(super) fn note(&self, event: PinEvent, pin: &PinRecord, now_ms: i64) -> Result<(), RecordsError> {
        let user = pin.user;
        let mut tables = self.notice_tables()?;
        let Some(mut hook) = hook(&tables, user)? else { return Ok(()) };
        let pin = PinRecord { origins: Vec::new(), retained_roots: Vec::new(), ..pin.clone() };
        let notice = NoticeRecord { id: Uuid::now_v7(), event, created_ms: now_ms, pin };
        let value = encode("notices", &notice)?;
        tables.notices.insert((user.0, hook.next), value.as_slice())?;
        hook.next += 1;
        hook.waiting += 1;
        hook.waiting_bytes += value.len() as u64;
        let is_over = |hook: &HookRecord| {
            hook.waiting > NOTICES_PER_ACCOUNT_MAX || hook.waiting_bytes > NOTICES_BYTES_PER_ACCOUNT_MAX
        };
        let mut dropped = 0_u64;
        while is_over(&hook) && remove_first(&mut tables, user, &mut hook, |_| true)? {
            dropped += 1;
        }
        if dropped > 0 {
            tracing::warn!(account = %user, dropped, "more events wait for a webhook than may; the oldest are dropped");
        }
        put_hook(&mut tables, user, &hook)?;
        self.concerns(user, false);
        Ok(())
    }

    /// Writes down what became of a pin that has ended, if its account has a webhook.
    pub(super) fn note_end(&self, pin: &PinRecord) -> Result<(), RecordsError> {
        let event = match pin.state {
            PinState::Pinned { .. } => PinEvent::Pinned,
            PinState::Failed(_) => PinEvent::Failed,
            PinState::Queued => return Ok(()),
        };
        self.note(event, pin, jiff::Timestamp::now().as_millisecond())
    }

    /// Writes down how telling an event went. One that was told goes; after a failure, all events of the account that are from before
    /// `give_up_before_ms` go instead, and the answer is how many those were.
    pub fn settle_notice(
        &self,
        user: UserId,
        told: &NextNotice,
        attempt: Attempt,
        give_up_before_ms: i64,
    ) -> Result<u64, RecordsError> {
        let mut tables = self.notice_tables()?;
        // The webhook may have gone meanwhile, with its events, and another one come.
        let Some(mut hook) = hook(&tables, user)? else { return Ok(0) };
        let mut dropped = 0;
        if attempt.error.is_none() {
            let key = (user.0, told.number);
            let is_there = match tables.notices.get(key)? {
                Some(value) => decode::<NoticeRecord>("notices", value.value())?.id == told.notice.id,
                None => false,
            };
            if is_there {
                let bytes = tables.notices.remove(key)?.map_or(0, |value| value.value().len());
                hook.forget(bytes);
            }
        } else {
            while remove_first(&mut tables, user, &mut hook, |notice| notice.created_ms < give_up_before_ms)? {
                dropped += 1;
            }
        }
        if hook.id == told.hook.id {
            hook.last = Some(attempt);
        }
        put_hook(&mut tables, user, &hook)?;
        Ok(dropped)
    }
}

impl HookRecord {
    /// One event less waits.
    fn forget(&mut self, bytes: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes as u64);
    }
}

/// The keys that events of an account can have.
fn numbers_of(user: UserId) -> std::ops::RangeInclusive<(u64, u64)> {
    (user.0, 0)..=(user.0, u64::MAX)
}

fn hook(tables: &NoticeTables<'_>, user: UserId) -> Result<Option<HookRecord>, RecordsError> {
    tables.hooks.get(user.0)?.map(|value| decode("hooks", value.value())).transpose()
}

fn put_hook(tables: &mut NoticeTables<'_>, user: UserId, hook: &HookRecord) -> Result<(), RecordsError> {
    tables.hooks.insert(user.0, encode("hooks", hook)?.as_slice())?;
    Ok(())
}

/// Removes the oldest event of an account if `goes` says so; false if nothing went.
fn remove_first(
    tables: &mut NoticeTables<'_>,
    user: UserId,
    hook: &mut HookRecord,
    goes: impl FnOnce(&NoticeRecord) -> bool,
) -> Result<bool, RecordsError> {
    let first = match tables.notices.range(numbers_of(user))?.next() {
        Some(first) => {
            let (key, value) = first?;
            goes(&decode("notices", value.value())?).then(|| (key.value(), value.value().len()))
        }
        None => None,
    };
    let Some((key, bytes)) = first else { return Ok(false) };
    tables.notices.remove(key)?;
    hook.forget(bytes);
    Ok(true)
}

#[cfg(test)]
mod tests;
