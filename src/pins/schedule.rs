//! Which pin is fetched next, and when a stalled one is tried again: a pure state machine.
//!
//! Users take turns, and of one user the oldest pin goes first. A pin that stalls gives up its slot and waits, twice as
//! long after each try; news of a provider ends the wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::model::{PinId, UserId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    Active,
    Waiting(Instant),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    user: UserId,
    place: Place,
    tries: u32,
}

/// The schedule.
#[derive(Debug)]
pub struct Schedule {
    active_max: usize,
    retry_min: Duration,
    retry_max: Duration,
    pins: HashMap<PinId, Entry>,
    /// Pin ids sort by their age.
    ready: BTreeMap<UserId, BTreeSet<PinId>>,
    waiting: BTreeSet<(Instant, PinId)>,
    active: usize,
    last_user: UserId,
}

impl Schedule {
    /// An empty schedule with `active_max` slots.
    pub fn new(active_max: usize, retry_min: Duration, retry_max: Duration) -> Self {
        Self {
            active_max,
            retry_min,
            retry_max,
            pins: HashMap::new(),
            ready: BTreeMap::new(),
            waiting: BTreeSet::new(),
            active: 0,
            last_user: UserId(0),
        }
    }

    /// A new pin waits for its turn. One that is known already stays where it is.
    pub fn add(&mut self, pin: PinId, user: UserId) {
        if self.pins.contains_key(&pin) {
            return;
        }
        self.pins.insert(pin, Entry { user, place: Place::Ready, tries: 0 });
        self.ready.entry(user).or_default().insert(pin);
    }

    /// Forgets a pin that is finished or gone. Returns whether it was known.
    pub fn remove(&mut self, pin: PinId) -> bool {
        let Some(entry) = self.pins.remove(&pin) else { return false };
        self.leave(pin, entry);
        true
    }

    /// The pin whose turn it is, if a slot is free; it is active from now on.
    pub fn start_next(&mut self) -> Option<PinId> {
        if self.active >= self.active_max {
            return None;
        }
        let after = self.last_user;
        let next_user =
            self.ready.range(UserId(after.0.saturating_add(1))..).next().or_else(|| self.ready.iter().next());
        let (user, pin) = next_user.and_then(|(user, pins)| Some((*user, *pins.first()?)))?;
        self.last_user = user;
        self.move_to(pin, Place::Active);
        Some(pin)
    }

    /// An active pin stalled: it waits. `jitter`, from 0 to 1, spreads the pins that stalled together over a quarter of the
    /// wait. Returns when it is tried next.
    pub fn stalled(&mut self, pin: PinId, now: Instant, jitter: f64) -> Instant {
        let tries = self.pins.get(&pin).map_or(0, |entry| entry.tries);
        let wait = self.retry_min.saturating_mul(1 << tries.min(20)).min(self.retry_max);
        let at = now + wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
        if let Some(entry) = self.pins.get_mut(&pin) {
            entry.tries += 1;
            self.move_to(pin, Place::Waiting(at));
        }
        at
    }

    /// There is news of a provider: the pin needn't wait any longer. Returns whether it did.
    pub fn wake(&mut self, pin: PinId) -> bool {
        let waits = matches!(self.pins.get(&pin), Some(Entry { place: Place::Waiting(_), .. }));
        if waits {
            self.move_to(pin, Place::Ready);
        }
        waits
    }

    /// Ends the waits that are over, and returns the pins concerned.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<PinId> {
        let due: Vec<PinId> = self.waiting.iter().take_while(|(at, _)| *at <= now).map(|(_, pin)| *pin).collect();
        for pin in &due {
            self.move_to(*pin, Place::Ready);
        }
        due
    }

    /// When the next wait is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Whether the pin is being fetched.
    pub fn is_active(&self, pin: PinId) -> bool {
        matches!(self.pins.get(&pin), Some(Entry { place: Place::Active, .. }))
    }

    /// How many tries a pin has behind it.
    pub fn tries(&self, pin: PinId) -> u32 {
        self.pins.get(&pin).map_or(0, |entry| entry.tries)
    }

    fn move_to(&mut self, pin: PinId, place: Place) {
        let Some(entry) = self.pins.get(&pin).copied() else { return };
        self.leave(pin, entry);
        match place {
            Place::Ready => {
                self.ready.entry(entry.user).or_default().insert(pin);
            }
            Place::Active => self.active += 1,
            Place::Waiting(at) => {
                self.waiting.insert((at, pin));
            }
        }
        self.pins.insert(pin, Entry { place, ..entry });
    }

    fn leave(&mut self, pin: PinId, entry: Entry) {
        match entry.place {
            Place::Ready => {
                if let Some(pins) = self.ready.get_mut(&entry.user) {
                    pins.remove(&pin);
                    if pins.is_empty() {
                        self.ready.remove(&entry.user);
                    }
                }
            }
            Place::Active => self.active -= 1,
            Place::Waiting(at) => {
                self.waiting.remove(&(at, pin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(active_max: usize) -> Schedule {
        Schedule::new(active_max, SECOND, 8 * SECOND)
    }

    fn pins(count: usize) -> Vec<PinId> {
        let mut pins: Vec<PinId> = (0..count).map(|_| PinId::new()).collect();
        pins.sort_unstable();
        pins
    }

    #[test]
    fn users_take_turns_and_the_oldest_pin_goes_first() {
        let (mut schedule, pins) = (schedule(10), pins(5));
        for pin in &pins[..4] {
            schedule.add(*pin, UserId(1));
        }
        schedule.add(pins[4], UserId(2));
        let order: Vec<PinId> = std::iter::from_fn(|| schedule.start_next()).collect();
        assert_eq!(order, [pins[0], pins[4], pins[1], pins[2], pins[3]]);
    }

    #[test]
    fn slots_are_bounded_and_freed() {
        let (mut schedule, pins) = (schedule(1), pins(2));
        schedule.add(pins[0], UserId(1));
        schedule.add(pins[1], UserId(1));
        assert_eq!(schedule.start_next(), Some(pins[0]));
        assert_eq!(schedule.start_next(), None);
        assert!(schedule.remove(pins[0]));
        assert!(!schedule.remove(pins[0]));
        assert_eq!(schedule.start_next(), Some(pins[1]));
    }

    #[test]
    fn a_stalled_pin_waits_longer_each_time_up_to_the_bound() {
        let (mut schedule, pin, mut now) = (schedule(1), PinId::new(), Instant::now());
        schedule.add(pin, UserId(1));
        for seconds in [1, 2, 4, 8, 8] {
            assert_eq!(schedule.start_next(), Some(pin));
            let at = schedule.stalled(pin, now, 0.0);
            assert_eq!(at, now + seconds * SECOND);
            assert_eq!(schedule.start_next(), None);
            assert!(schedule.handle_timeout(at - Duration::from_millis(1)).is_empty());
            assert_eq!(schedule.handle_timeout(at), [pin]);
            now = at;
        }
        assert_eq!(schedule.tries(pin), 5);
    }

    #[test]
    fn jitter_adds_at_most_a_quarter() {
        let (mut schedule, pin, now) = (schedule(1), PinId::new(), Instant::now());
        schedule.add(pin, UserId(1));
        schedule.start_next();
        assert_eq!(schedule.stalled(pin, now, 1.0), now + SECOND.mul_f64(1.25));
    }

    #[test]
    fn news_end_the_wait_at_once() {
        let (mut schedule, pin, now) = (schedule(1), PinId::new(), Instant::now());
        schedule.add(pin, UserId(1));
        schedule.start_next();
        assert!(!schedule.wake(pin), "an active pin doesn't wait");
        schedule.stalled(pin, now, 0.5);
        assert!(schedule.wake(pin));
        assert_eq!(schedule.next_timeout(), None);
        assert_eq!(schedule.start_next(), Some(pin));
        assert!(schedule.is_active(pin));
    }

    #[test]
    fn a_pin_is_in_one_place_only() {
        let (mut schedule, pin, now) = (schedule(2), PinId::new(), Instant::now());
        schedule.add(pin, UserId(1));
        schedule.add(pin, UserId(1));
        assert_eq!(schedule.start_next(), Some(pin));
        schedule.add(pin, UserId(1));
        assert_eq!(schedule.start_next(), None);
        schedule.stalled(pin, now, 0.0);
        assert!(schedule.remove(pin));
        assert!(schedule.handle_timeout(now + 100 * SECOND).is_empty());
        assert_eq!(schedule.active, 0);
    }
}
