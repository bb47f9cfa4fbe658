//! Tokens that were checked lately, so that the next request with one costs a look into memory: who it is, how fast it may go, and
//! when it was used last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::Identity;
use crate::model::limits::SESSIONS_MAX;
use crate::store::records::TokenId;

/// What a token may use at once after a pause, as the time in which it would have earned it.
const BURST: Duration = Duration::from_secs(2);
/// The time of the last use is noted at most this often, in milliseconds: it is shown by the minute.
const NOTE_USE_EVERY_MS: i64 = 60_000;

/// A token that was checked, and is valid until it expires or [`Sessions::forget`] is called.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Arc<Identity>,
    bucket: Bucket,
    use_noted_ms: AtomicI64,
}

/// What is known of tokens, at most [`SESSIONS_MAX`].
#[derive(Debug)]
pub(super) struct Sessions {
    known: RwLock<Known>,
    /// When tokens were used last, in milliseconds since the Unix epoch, until that is written down.
    used: Mutex<HashMap<TokenId, i64>>,
    rate: Option<Rate>,
}

#[derive(Debug, Default)]
struct Known {
    /// Grows with each change of what the records say of tokens and accounts.
    generation: u64,
    /// By the text of the token, which spares checking its signature again.
    sessions: HashMap<Box<str>, Arc<Session>>,
}

/// The state of knowledge at which a look into the records began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generation(u64);

impl Sessions {
    /// None yet. Each may make `requests_per_second`; without a bound if that is zero.
    pub(super) fn new(requests_per_second: u32) -> Self {
        let rate = (requests_per_second > 0)
            .then(|| Rate { start: Instant::now(), interval: Duration::from_secs(1) / requests_per_second });
        Self { known: RwLock::default(), used: Mutex::default(), rate }
    }

    /// What is known of the token; to be asked for before the records are.
    pub(super) fn get(&self, bearer: &str) -> Result<Arc<Session>, Generation> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.sessions.get(bearer).cloned().ok_or(Generation(known.generation))
    }

    /// Remembers a token that the records knew, unless they have changed since.
    pub(super) fn insert(&self, bearer: &str, identity: Identity, at: Generation) -> Arc<Session> {
        let session = Arc::new(Session {
            identity: Arc::new(identity),
            bucket: Bucket::default(),
            use_noted_ms: AtomicI64::new(i64::MIN),
        });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.generation == at.0 {
            if known.sessions.len() >= SESSIONS_MAX {
                known.sessions.clear();
            }
            known.sessions.insert(bearer.into(), Arc::clone(&session));
        }
        session
    }

    /// Forgets everything; to be called after each commit that takes something from a token or an account, before the
    /// one who asked for it is answered.
    pub(super) fn forget(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.generation += 1;
        known.sessions.clear();
    }

    /// Counts a request, or says how long its sender has to wait.
    pub(super) fn take(&self, session: &Session) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| session.bucket.take(rate, rate.start.elapsed()))
    }

    /// Notes that a token was used.
    pub(super) fn note_use(&self, session: &Session, now_ms: i64) {
        let noted_ms = session.use_noted_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(noted_ms) < NOTE_USE_EVERY_MS {
            return;
        }
        session.use_noted_ms.store(now_ms, Ordering::Relaxed);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < SESSIONS_MAX || used.contains_key(&session.identity.token) {
            used.insert(session.identity.token, now_ms);
        }
    }

    /// When a token was used last, if that isn't written down yet.
    pub(super) fn used(&self, token: TokenId) -> Option<i64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).get(&token).copied()
    }

    /// What is to be written down.
    pub(super) fn take_used(&self) -> Vec<(TokenId, i64)> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

/// How fast a token may go.
#[derive(Debug)]
struct Rate {
    start: Instant,
    /// The time in which one request is earned.
    interval: Duration,
}

/// What a token has used: the time (since the start, in nanoseconds) at which all of that will have been earned. This is the
/// generic cell rate algorithm of ITU-T I.371.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, rate: &Rate, now: Duration) -> Result<(), Duration> {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (now, interval, burst) = (nanoseconds(now), nanoseconds(rate.interval), nanoseconds(BURST));
        let earn = |earned: u64| {
            let earned = earned.max(now);
            (earned - now <= burst).then(|| earned.saturating_add(interval))
        };
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
        taken.map(drop).map_err(|earned| Duration::from_nanos((earned - now).saturating_sub(burst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserId;
    use crate::store::records::{Quota, Role, Scopes, TokenKind};

    fn identity() -> Identity {
        let token = TokenId::new();
        Identity {
            user: UserId(1),
            role: Role::User,
            quota: Quota::NONE,
            pin_lifetime_s: None,
            scopes: Scopes::ALL,
            kind: TokenKind::Device,
            token,
            family: token,
            name: None,
            expires_ms: None,
        }
    }

    #[test]
    fn a_token_may_burst_and_then_has_to_wait_for_what_it_earns() {
        let rate = Rate { start: Instant::now(), interval: Duration::from_millis(10) };
        let bucket = Bucket::default();
        let mut now = Duration::from_secs(5);
        let taken = std::iter::from_fn(|| bucket.take(&rate, now).ok()).count();
        assert_eq!(taken, 201);
        assert_eq!(bucket.take(&rate, now), Err(Duration::from_millis(10)));
        now += Duration::from_millis(10);
        bucket.take(&rate, now).unwrap();
        bucket.take(&rate, now).unwrap_err();
        now += Duration::from_mins(1);
        assert_eq!(std::iter::from_fn(|| bucket.take(&rate, now).ok()).count(), 201);
    }

    #[test]
    fn what_the_records_said_before_a_change_is_not_remembered() {
        let sessions = Sessions::new(0);
        let before = sessions.get("a").unwrap_err();
        sessions.forget();
        sessions.insert("a", identity(), before);
        let after = sessions.get("a").unwrap_err();
        sessions.insert("a", identity(), after);
        sessions.get("a").unwrap();
        sessions.forget();
        sessions.get("a").unwrap_err();
    }

    #[test]
    fn a_crowd_of_tokens_takes_bounded_memory() {
        let sessions = Sessions::new(0);
        let generation = sessions.get("").unwrap_err();
        for number in 0..SESSIONS_MAX + 10 {
            let session = sessions.insert(&number.to_string(), identity(), generation);
            sessions.note_use(&session, 1);
        }
        assert!(sessions.known.read().unwrap().sessions.len() <= SESSIONS_MAX);
        assert_eq!(sessions.take_used().len(), SESSIONS_MAX);
        assert!(sessions.take_used().is_empty());
    }

    #[test]
    fn the_last_use_is_noted_once_a_minute() {
        let sessions = Sessions::new(0);
        let generation = sessions.get("").unwrap_err();
        let session = sessions.insert("a", identity(), generation);
        let token = session.identity.token;
        for (now_ms, noted_ms) in [(1000, 1000), (60_999, 1000), (61_000, 61_000)] {
            sessions.note_use(&session, now_ms);
            assert_eq!(sessions.used(token), Some(noted_ms));
        }
    }
}
