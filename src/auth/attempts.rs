//! Failed logins: how long an address has to wait before it may try an account again. Pure: the caller gives the time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::model::limits::{EMAIL_CHARS_MAX, LOGIN_FAILURES_TRACKED_MAX};

/// Failed logins that cost nothing.
const FREE_FAILURES: u32 = 10;
/// The wait after the first failure that costs something; it doubles with each further one.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_mins(15);
/// Failures are forgotten after this long without another one.
const FORGET_AFTER: Duration = Duration::from_hours(1);

/// An account as seen from an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(String, IpAddr);

impl Key {
    /// The key of an e-mail address (cut to a bounded length) and an address. Whoever has an IPv6 address usually
    /// has a whole /64, so that counts as one.
    pub(super) fn new(email: &str, address: IpAddr) -> Self {
        let address = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address @ IpAddr::V4(_) => address,
        };
        Self(email.chars().take(EMAIL_CHARS_MAX).collect(), address)
    }
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    last: Instant,
    blocked_until: Instant,
}

/// The failures of all keys, at most [`LOGIN_FAILURES_TRACKED_MAX`].
#[derive(Debug, Default)]
pub(super) struct Attempts {
    entries: HashMap<Key, Entry>,
}

impl Attempts {
    /// Lets an attempt begin, or says how long to wait. It counts as failed until [`Self::succeeded`] says otherwise,
    /// so that many at once don't slip through.
    pub(super) fn begin(&mut self, key: &Key, now: Instant) -> Result<(), Duration> {
        if !self.entries.contains_key(key) {
            self.make_room(now);
        }
        let entry = self.entries.entry(key.clone()).or_insert(Entry { failures: 0, last: now, blocked_until: now });
        if now < entry.blocked_until {
            return Err(entry.blocked_until - now);
        }
        if now.saturating_duration_since(entry.last) > FORGET_AFTER {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.last = now;
        if let Some(doublings) = entry.failures.checked_sub(FREE_FAILURES) {
            entry.blocked_until = now + WAIT_MIN.saturating_mul(1 << doublings.min(20)).min(WAIT_MAX);
        }
        Ok(())
    }

    /// Forgets the failures of a key.
    pub(super) fn succeeded(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < LOGIN_FAILURES_TRACKED_MAX {
            return;
        }
        self.entries.retain(|_, entry| now.saturating_duration_since(entry.last) <= FORGET_AFTER);
        if self.entries.len() >= LOGIN_FAILURES_TRACKED_MAX
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| key.clone())
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::new(&format!("{number}@example.org"), IpAddr::from([127, 0, 0, 1]))
    }

    #[test]
    fn waits_grow_after_the_free_failures_and_end_with_a_success() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        for _ in 0..FREE_FAILURES {
            attempts.begin(&key(0), now).unwrap();
        }
        assert_eq!(attempts.begin(&key(0), now), Err(WAIT_MIN));
        attempts.begin(&key(1), now).unwrap();
        let later = now + WAIT_MIN;
        attempts.begin(&key(0), later).unwrap();
        assert_eq!(attempts.begin(&key(0), later), Err(WAIT_MIN * 2));
        attempts.succeeded(&key(0));
        attempts.begin(&key(0), later).unwrap();
    }

    #[test]
    fn the_wait_has_an_end_and_failures_are_forgotten() {
        let mut attempts = Attempts::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            attempts.begin(&key(0), now).unwrap();
            now += WAIT_MAX;
        }
        now += FORGET_AFTER;
        for _ in 0..FREE_FAILURES {
            attempts.begin(&key(0), now).unwrap();
        }
        assert_eq!(attempts.begin(&key(0), now), Err(WAIT_MIN));
    }

    #[test]
    fn a_crowd_of_addresses_takes_bounded_memory() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..LOGIN_FAILURES_TRACKED_MAX + 10 {
            attempts.begin(&key(number), now + Duration::from_millis(number as u64)).unwrap();
        }
        assert_eq!(attempts.entries.len(), LOGIN_FAILURES_TRACKED_MAX);
        assert!(!attempts.entries.contains_key(&key(0)));
        assert!(attempts.entries.contains_key(&key(LOGIN_FAILURES_TRACKED_MAX + 9)));
    }

    #[test]
    fn a_whole_ipv6_network_is_one_address() {
        let key = |address: &str| Key::new("a@example.org", address.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
