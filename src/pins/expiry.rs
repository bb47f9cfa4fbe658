//! Pins that go by themselves: which time a client's `meta` names, and the task that removes them when it has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::board::PinChange;
use super::service::whole;
use super::{PinError, PinService};
use crate::model::PinRecord;
use crate::model::limits::PINS_EXPIRED_AT_ONCE;

/// The key of `meta` that says when a pin goes by itself.
pub(super) const EXPIRES_AT: &str = "pinnace.expires_at";

/// The longest sleep: the clock of the machine may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_mins(10);

/// How long it waits after the records failed.
const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// Wakes the task when a pin was made that goes before all that the task knows of.
#[derive(Debug)]
pub(super) struct Alarm {
    woken: Notify,
    /// The earliest time that the task knows of; the greatest there is while it looks, and when there is none.
    next_ms: AtomicI64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { woken: Notify::new(), next_ms: AtomicI64::new(i64::MAX) }
    }
}

impl Alarm {
    /// Says that a pin was made that goes at this time; after its commit. A look that began before that commit has raised
    /// the known time before, so that it is told.
    pub(super) fn set(&self, expires_ms: i64) {
        if expires_ms < self.next_ms.load(Ordering::SeqCst) {
            self.woken.notify_waiters();
        }
    }

    fn knows(&self, next_ms: Option<i64>) {
        self.next_ms.store(next_ms.unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

/// When a pin goes by itself that is made at `now`: as its client says, or after `lifetime`, if there is one.
pub(super) fn expires_at(
    given: Option<&String>,
    lifetime: Option<Duration>,
    now: Timestamp,
) -> Result<Option<i64>, PinError> {
    let Some(text) = given else {
        let after = lifetime.map(|lifetime| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
        return Ok(after.map(|after| now.as_millisecond().saturating_add(after)));
    };
    let example = || format!("{:.3}", now + Duration::from_hours(24));
    match text.parse::<Timestamp>() {
        Ok(at) if at > now => Ok(Some(at.as_millisecond())),
        Ok(_) => Err(PinError::Invalid(format!(
            "\"meta\": the time of \"{EXPIRES_AT}\" is past; name one that is to come, such as {}",
            example()
        ))),
        Err(_) => Err(PinError::Invalid(format!(
            "\"meta\": \"{EXPIRES_AT}\" must be a time as in RFC 3339, such as {}",
            example()
        ))),
    }
}

/// When a pin goes by itself, for its owner.
pub(super) fn pinned_until(record: &PinRecord) -> Option<String> {
    let at = Timestamp::from_millisecond(record.expires_ms?).ok()?;
    Some(format!("{at:.3}"))
}

impl PinService {
    /// Removes pins whose time has come, for ever.
    pub async fn run_expiry(self) {
        loop {
            // From here on, one that comes in between is noticed.
            let mut earlier = std::pin::pin!(self.alarm.woken.notified());
            earlier.as_mut().enable();
            self.alarm.knows(None);
            let sleep = match self.remove_expired().await {
                Ok(Some(Duration::ZERO)) => continue,
                Ok(next) => next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX),
                Err(error) => {
                    tracing::error!(%error, "pins whose time has come can't be removed");
                    FAILED_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = &mut earlier => {}
            }
        }
    }

    /// Removes some of the pins whose time has come, as their owners would, but in one commit, which also has the events for their
    /// webhooks. Returns how long it is to the next.
    async fn remove_expired(&self) -> Result<Option<Duration>, PinError> {
        let (records, now) = (Arc::clone(&self.records), Timestamp::now());
        let look = tokio::task::spawn_blocking(move || records.expired(now.as_millisecond(), PINS_EXPIRED_AT_ONCE));
        let (expired, next_ms) = look.await.map_err(|_| PinError::Stopping)??;
        self.alarm.knows(next_ms);
        if !expired.is_empty() {
            let service = self.clone();
            // A stop leaves none unannounced.
            whole(async move {
                for id in service.records.expire_pins(expired, now.as_millisecond()).await? {
                    tracing::info!(pin = %id, "removed, as its time has come");
                    service.board.announce(PinChange::Removed(id)).await;
                }
                Ok(())
            })
            .await?;
        }
        let until =
            |at: i64| Duration::from_millis(u64::try_from(at.saturating_sub(now.as_millisecond())).unwrap_or(0));
        Ok(next_ms.map(until))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_a_pin_that_goes_before_all_others_wakes_the_task() {
        let alarm = Alarm::default();
        let is_woken_by = |expires_ms| {
            let mut woken = Box::pin(alarm.woken.notified());
            woken.as_mut().enable();
            alarm.set(expires_ms);
            woken.now_or_never().is_some()
        };
        assert!(is_woken_by(1000), "nothing is known");
        alarm.knows(Some(1000));
        assert!(!is_woken_by(1000) && !is_woken_by(1001));
        assert!(is_woken_by(999));
        alarm.knows(None);
        assert!(is_woken_by(5000), "a look is under way");
    }

    #[test]
    fn the_time_is_the_clients_or_follows_from_the_lifetime() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let hour = Some(Duration::from_hours(1));
        let at = |text: &str, lifetime| expires_at(Some(&text.to_owned()), lifetime, now);
        let ms = now.as_millisecond();
        assert_eq!(expires_at(None, None, now).unwrap(), None);
        assert_eq!(expires_at(None, hour, now).unwrap(), Some(ms + 3_600_000));
        assert_eq!(at("2026-01-31T12:00:01.5Z", hour).unwrap(), Some(ms + 1500));
        assert_eq!(at("2026-01-31T14:00:00+01:00", hour).unwrap(), Some(ms + 3_600_000));
        for (text, says) in [
            ("2026-01-31T12:00:00Z", "is past"),
            ("2025-01-31T12:00:00Z", "is past"),
            ("tomorrow", "RFC 3339, such as 2026-02-01T12:00:00.000Z"),
            ("2026-02-01", "RFC 3339"),
            ("", "RFC 3339"),
        ] {
            let Err(PinError::Invalid(sentence)) = at(text, hour) else { panic!("{text}") };
            assert!(sentence.contains(EXPIRES_AT) && sentence.contains(says), "{sentence}");
        }
    }
}
