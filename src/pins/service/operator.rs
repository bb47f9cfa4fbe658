//! What the operator does with the pins of all accounts: count, look, list, try again, remove.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::{Owner, PinError, PinInput, PinService, PinView, joined, status, whole};
use crate::model::limits::ACCOUNT_PINS_REMOVED_AT_ONCE;
use crate::model::query::Status;
use crate::model::{PinId, PinRecord, PinState, UserId};
use crate::pins::board::PinChange;
use crate::store::records::{PinSet, Quota, RetryRefusal, Standing};

/// How many pins all accounts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusCounts {
    /// Wait for their turn or for their next try.
    pub queued: u64,
    /// Are being fetched.
    pub pinning: u64,
    /// Are whole.
    pub pinned: u64,
    /// Won't become whole by waiting.
    pub failed: u64,
}

/// A pin and whose it is.
#[derive(Debug, Clone)]
pub struct OwnedPin {
    /// The pin.
    pub view: PinView,
    /// The e-mail address of its account; `None` when the account is gone.
    pub account: Option<String>,
}

/// The beginning of a list.
#[derive(Debug, Clone)]
pub struct OwnedPage {
    /// Whether more pins match than the page holds.
    pub more: bool,
    /// Unfinished pins first, then failed ones, then the rest; the newest first of each.
    pub pins: Vec<OwnedPin>,
}

impl PinService {
    /// How many pins all accounts have. Costs a few bytes from the disk and a look at each unfinished pin in memory.
    pub async fn counts(&self) -> Result<StatusCounts, PinError> {
        let service = self.clone();
        let counts = tokio::task::spawn_blocking(move || {
            let pinning = service.board.fetching() as u64;
            Ok((service.records.count_pins()?, pinning))
        });
        let (counts, pinning) = joined(counts.await)?;
        // A pin that has just ended may still be on the board.
        let pinning = pinning.min(counts.unfinished);
        Ok(StatusCounts { queued: counts.unfinished - pinning, pinning, pinned: counts.pinned, failed: counts.failed })
    }

    /// At most `limit` pins of all accounts that have one of these statuses; all of them if none is given.
    pub async fn list_all(&self, statuses: BTreeSet<Status>, limit: usize) -> Result<OwnedPage, PinError> {
        let service = self.clone();
        joined(tokio::task::spawn_blocking(move || service.list_all_blocking(&statuses, limit)).await)
    }

    /// A pin, whoever owns it.
    pub async fn get_any(&self, id: PinId) -> Result<OwnedPin, PinError> {
        let service = self.clone();
        let pin = tokio::task::spawn_blocking(move || {
            let live = service.board.live(&id);
            let record = service.records.get(id)?.ok_or(PinError::NotFound)?;
            let account = service.account(record.user)?;
            Ok(OwnedPin { view: service.view(record, live.as_ref(), &service.delegates()), account })
        });
        joined(pin.await)
    }

    /// The account with this e-mail address as the owner of pins; the first that was made if none is named. What the operator pins for it
    /// isn't bound by its quota.
    pub async fn owner(&self, email: Option<String>) -> Result<Owner, PinError> {
        let records = Arc::clone(&self.records);
        let account = tokio::task::spawn_blocking(move || match email {
            None => records.first_user()?.ok_or_else(|| PinError::NoSuchAccount("there is no account yet".to_owned())),
            Some(email) => records
                .user_by_email(&email.trim().to_lowercase())?
                .ok_or_else(|| PinError::NoSuchAccount(format!("there is no account with the e-mail address {email}"))),
        });
        let account = joined(account.await)?;
        let pin_lifetime = account.pin_lifetime_s.map(Duration::from_secs);
        Ok(Owner { user: account.id, quota: Quota::NONE, pin_lifetime })
    }

    /// Makes a pin for an account, and waits where a client would be told that it is too fast.
    pub async fn add_patiently(&self, owner: Owner, input: PinInput) -> Result<PinView, PinError> {
        loop {
            match self.add(owner, input.clone()).await {
                Err(PinError::TooFast { wait }) => tokio::time::sleep(wait).await,
                outcome => return outcome,
            }
        }
    }

    /// Queues a failed pin again, whoever owns it.
    pub async fn retry(&self, id: PinId) -> Result<OwnedPin, PinError> {
        let service = self.clone();
        whole(async move {
            let record = service.records.retry_pin(id).await?.map_err(|refusal| match refusal {
                RetryRefusal::NotFound => PinError::NotFound,
                RetryRefusal::NotFailed(PinState::Pinned { .. }) => PinError::NotFailed(Status::Pinned),
                RetryRefusal::NotFailed(_) if service.is_fetching(id) => PinError::NotFailed(Status::Pinning),
                RetryRefusal::NotFailed(_) => PinError::NotFailed(Status::Queued),
            })?;
            service.board.announce(PinChange::Added(Arc::new(record))).await;
            Ok(())
        })
        .await?;
        self.get_any(id).await
    }

    /// Removes a pin, whoever owns it.
    pub async fn remove_any(&self, id: PinId) -> Result<(), PinError> {
        let record = self.records.get(id)?.ok_or(PinError::NotFound)?;
        self.remove(record.user, id).await
    }

    /// Removes the pins of an account that is being deleted, and then the account.
    pub async fn remove_account(&self, user: UserId) -> Result<(), PinError> {
        loop {
            let (records, max) = (Arc::clone(&self.records), ACCOUNT_PINS_REMOVED_AT_ONCE);
            let ids = tokio::task::spawn_blocking(move || Ok(records.pins_of(user, max)?)).await;
            let ids = joined(ids)?;
            if ids.is_empty() {
                self.records.write(move |change| change.forget_user(user)).await?;
                return Ok(());
            }
            let removals = ids.into_iter().map(|id| self.remove(user, id));
            for removed in futures::future::join_all(removals).await {
                match removed {
                    Ok(()) | Err(PinError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Goes on with the accounts whose deletion had begun before the last stop.
    pub async fn remove_deleted_accounts(&self) -> Result<(), PinError> {
        let records = Arc::clone(&self.records);
        let accounts = joined(tokio::task::spawn_blocking(move || Ok(records.users(None, usize::MAX)?)).await)?;
        for account in accounts {
            if account.standing == Standing::Deleting {
                self.remove_account(account.id).await?;
            }
        }
        Ok(())
    }

    fn list_all_blocking(&self, statuses: &BTreeSet<Status>, limit: usize) -> Result<OwnedPage, PinError> {
        let wanted = |status| statuses.is_empty() || statuses.contains(&status);
        let mut sets = Vec::new();
        if wanted(Status::Queued) || wanted(Status::Pinning) {
            sets.push(PinSet::Unfinished);
        }
        if wanted(Status::Failed) {
            sets.push(PinSet::Failed);
        }
        if wanted(Status::Pinned) {
            sets.push(PinSet::Pinned);
        }
        let delegates = self.delegates();
        let mut accounts = BTreeMap::new();
        let mut page = OwnedPage { more: false, pins: Vec::new() };
        let mut visit = |record: PinRecord| {
            let (record, live) = self.current(record)?;
            if !wanted(status(&record, live.as_ref())) {
                return Ok(true);
            }
            if page.pins.len() == limit {
                page.more = true;
                return Ok(false);
            }
            let account = match accounts.get(&record.user) {
                Some(account) => Option::clone(account),
                None => accounts.entry(record.user).or_insert(self.account(record.user)?).clone(),
            };
            page.pins.push(OwnedPin { view: self.view(record, live.as_ref(), &delegates), account });
            Ok(true)
        };
        let mut failed: Option<PinError> = None;
        self.records.scan_all_pins(&sets, |record| match visit(record) {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(page), Err)
    }

    fn is_fetching(&self, id: PinId) -> bool {
        self.board.live(&id).is_some_and(|live| live.is_fetching())
    }

    fn account(&self, user: UserId) -> Result<Option<String>, PinError> {
        Ok(self.records.user(user)?.map(|user| user.email))
    }
}
