//! Whose event is told next: accounts take turns, each has one call at a time, and one whose webhook fails waits longer each time.
//!
//! Pure: the time and the jitter are given.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Retries;
use crate::model::UserId;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// An event was told; there may be more.
    Told,
    /// None was waiting.
    Nothing,
    /// An event couldn't be told.
    Failed,
}

/// Where an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In line, after so many failures.
    Ready { failures: u32 },
    /// Its webhook is called. Events may have come meanwhile, and the webhook may be another one.
    Called { failures: u32, has_news: bool, is_set: bool },
    /// It waits for its next try.
    Waits { failures: u32, until: Instant },
}

/// The accounts that have events, or may have some.
#[derive(Debug)]
pub(super) struct Turns {
    retries: Retries,
    places: HashMap<UserId, Place>,
    ready: VecDeque<UserId>,
    /// Those that wait, by the time of their next try.
    waiting: BTreeSet<(Instant, UserId)>,
}

impl Turns {
    pub(super) fn new(retries: Retries) -> Self {
        Self { retries, places: HashMap::new(), ready: VecDeque::new(), waiting: BTreeSet::new() }
    }

    /// An account may have events. `is_set` says that its webhook is another one, which ends its wait.
    pub(super) fn news(&mut self, user: UserId, is_set: bool) {
        match self.places.get_mut(&user) {
            None => self.get_in_line(user, 0),
            Some(Place::Ready { failures }) if is_set => *failures = 0,
            Some(Place::Called { has_news, is_set: set_meanwhile, .. }) => {
                *has_news = true;
                *set_meanwhile |= is_set;
            }
            Some(Place::Waits { until, .. }) if is_set => {
                let until = *until;
                self.waiting.remove(&(until, user));
                self.get_in_line(user, 0);
            }
            Some(Place::Ready { .. } | Place::Waits { .. }) => {}
        }
    }

    /// The next account whose turn it is; its webhook is called until [`Self::ended`] is.
    pub(super) fn begin(&mut self, now: Instant) -> Option<UserId> {
        while let Some(&(until, user)) = self.waiting.first()
            && until <= now
        {
            self.waiting.pop_first();
            let failures = match self.places.get(&user) {
                Some(Place::Waits { failures, .. }) => *failures,
                _ => 0,
            };
            self.get_in_line(user, failures);
        }
        let user = self.ready.pop_front()?;
        let failures = match self.places.get(&user) {
            Some(Place::Ready { failures }) => *failures,
            _ => 0,
        };
        self.places.insert(user, Place::Called { failures, has_news: false, is_set: false });
        Some(user)
    }

    /// A turn has ended; `jitter` is between 0 and 1.
    pub(super) fn ended(&mut self, user: UserId, ended: Ended, now: Instant, jitter: f64) {
        let Some(Place::Called { failures, has_news, is_set }) = self.places.remove(&user) else { return };
        match ended {
            Ended::Told => self.get_in_line(user, 0),
            Ended::Nothing if has_news => self.get_in_line(user, 0),
            Ended::Nothing => {}
            Ended::Failed if is_set => self.get_in_line(user, 0),
            Ended::Failed => {
                let until = now + pause(&self.retries, failures, jitter);
                self.waiting.insert((until, user));
                self.places.insert(user, Place::Waits { failures: failures.saturating_add(1), until });
            }
        }
    }

    /// When the next wait ends.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.waiting.first().map(|(until, _)| *until)
    }

    fn get_in_line(&mut self, user: UserId, failures: u32) {
        self.places.insert(user, Place::Ready { failures });
        self.ready.push_back(user);
    }
}

/// How long to wait after a failure that so many others came before: a quarter more or less, so that accounts with the same webhook
/// don't come together.
fn pause(retries: &Retries, failures: u32, jitter: f64) -> Duration {
    let doubled = retries.pause_min.saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(retries.pause_max).mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UserId = UserId(1);
    const B: UserId = UserId(2);

    #[test]
    fn accounts_take_turns_and_have_one_call_each() {
        let now = Instant::now();
        let mut turns = Turns::new(Retries::default());
        for user in [A, B, A] {
            turns.news(user, false);
        }
        assert_eq!([turns.begin(now), turns.begin(now), turns.begin(now)], [Some(A), Some(B), None]);
        turns.news(A, false);
        assert_eq!(turns.begin(now), None, "it is being called");
        turns.ended(A, Ended::Told, now, 0.5);
        turns.ended(B, Ended::Nothing, now, 0.5);
        assert_eq!([turns.begin(now), turns.begin(now)], [Some(A), None]);
        // What came during a look that found nothing isn't missed.
        turns.news(A, false);
        turns.ended(A, Ended::Nothing, now, 0.5);
        assert_eq!(turns.begin(now), Some(A));
        turns.ended(A, Ended::Nothing, now, 0.5);
        assert_eq!((turns.begin(now), turns.places.len()), (None, 0), "nothing is left of them");
    }

    #[test]
    fn a_failure_waits_longer_each_time_until_something_is_told() {
        let mut now = Instant::now();
        let mut turns = Turns::new(Retries::default());
        turns.news(A, false);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(turns.begin(now), Some(A));
            turns.ended(A, Ended::Failed, now, 0.5);
            turns.news(A, false);
            assert_eq!(turns.begin(now), None, "events that come don't end the wait");
            let until = turns.next_at().unwrap();
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
        assert_eq!(turns.begin(now), Some(A));
        turns.ended(A, Ended::Told, now, 0.5);
        turns.begin(now).unwrap();
        turns.ended(A, Ended::Failed, now, 0.0);
        assert_eq!(turns.next_at(), Some(now + Duration::from_millis(7500)), "it begins anew");
        // Another webhook is tried at once.
        turns.news(A, true);
        assert_eq!((turns.next_at(), turns.begin(now)), (None, Some(A)));
        turns.news(A, true);
        turns.ended(A, Ended::Failed, now, 0.0);
        assert_eq!(turns.begin(now), Some(A), "also when it was set during a call of the one before");
    }

    #[test]
    fn pauses_are_spread() {
        let retries = Retries::default();
        assert_eq!(pause(&retries, 0, 0.0), Duration::from_millis(7500));
        assert_eq!(pause(&retries, 0, 1.0), Duration::from_millis(12_500));
        assert_eq!(pause(&retries, u32::MAX, 1.0), Duration::from_secs(4500));
    }
}
