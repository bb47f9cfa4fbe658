//! Webhooks: an account names a URL, and what becomes of its pins is told there.
//!
//! The events lie among the records from the commit on that they tell of (`store::records::notices`). `delivery` tells them, in the
//! order of `turns`; `event` is what is sent.

mod delivery;
mod event;
mod turns;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::PinError;
use crate::model::UserId;
use crate::retrieval::post::{Caller, check_form};
use crate::store::Records;
use crate::store::records::{Attempt, HookRecord};

pub use event::SIGNATURE_HEADER;

/// Before the random part of a secret, so that it is known for what it is where it shows up.
const SECRET_PREFIX: &str = "whsec_";

/// When an event that couldn't be told is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// The pause after the first failure; it doubles with each further one.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// How old an event is that goes with the next failure.
    pub give_up_after: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_secs(10),
            pause_max: Duration::from_hours(1),
            give_up_after: Duration::from_hours(24),
        }
    }
}

/// The webhook of an account, without what signs its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookView {
    /// Where events go.
    pub url: String,
    /// When it was set, in milliseconds since the Unix epoch.
    pub set_ms: i64,
    /// Events that wait.
    pub waiting: u64,
    /// How the last try went, if there was one.
    pub last: Option<Attempt>,
}

impl From<HookRecord> for WebhookView {
    fn from(HookRecord { url, set_ms, waiting, last, .. }: HookRecord) -> Self {
        Self { url, set_ms, waiting, last }
    }
}

/// The webhooks of all accounts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Webhooks {
    records: Arc<Records>,
    /// Calls them; absent where there is no network.
    caller: Option<Caller>,
    retries: Retries,
}

impl Webhooks {
    /// Those of a service that doesn't run: they can be set, and nothing is told.
    pub(super) fn stopped(records: Arc<Records>) -> Self {
        Self { records, caller: None, retries: Retries::default() }
    }

    /// The same for a service that runs.
    pub(super) fn with_network(self, caller: Caller, retries: Retries) -> Self {
        Self { caller: Some(caller), retries, ..self }
    }

    /// The webhook of an account, if it has one.
    pub fn get(&self, user: UserId) -> Result<Option<WebhookView>, PinError> {
        Ok(self.records.hook(user)?.map(WebhookView::from))
    }

    /// Sets the webhook of an account, in the place of the one that it had. The answer has the secret that signs its events, which is
    /// shown only now.
    pub async fn set(&self, user: UserId, url: &str) -> Result<(WebhookView, String), PinError> {
        let judged = self.caller.as_ref().map_or_else(|| check_form(url), |caller| caller.check(url));
        judged.map_err(|refusal| PinError::Invalid(format!("\"url\" can't be used: {refusal}")))?;
        let (url, secret, now_ms) = (url.to_owned(), secret(), Timestamp::now().as_millisecond());
        let set = self.records.write(move |change| change.set_hook(user, url, secret, now_ms)).await?;
        let hook = set.ok_or(PinError::AccountClosed)?;
        let secret = hook.secret.clone();
        Ok((hook.into(), secret))
    }

    /// Removes the webhook of an account with the events that wait; false when it has none.
    pub async fn remove(&self, user: UserId) -> Result<bool, PinError> {
        Ok(self.records.write(move |change| change.remove_hook(user)).await?)
    }

    /// Tells events, for ever; what isn't told when this is dropped is told by the next one.
    pub async fn run(self) {
        match self.caller {
            Some(caller) => delivery::run(&self.records, &caller, self.retries).await,
            None => std::future::pending().await,
        }
    }
}

/// A secret of 32 random bytes.
fn secret() -> String {
    format!("{SECRET_PREFIX}{}", hex(&rand::random::<[u8; 32]>()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
