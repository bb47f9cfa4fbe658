//! Which pin is fetched next, and when a stalled one is tried again: a pure state machine.
//!
//! Accounts take turns, and of one account the pin that has waited longest goes first: new ones in the order in which they
//! were made, those that come back from a try behind them, and one for which a provider has just turned up before them all. A
//! pin that stalls gives up its slot and waits, twice as long after each try in which nothing came; news of a provider ends the
//! wait. A pin that takes long gives up its slot too, while others wait for one, so that small pins don't wait for huge ones.

mod queue;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use self::queue::Queue;
use super::Options;
use crate::model::{PinId, UserId};

/// How often the turn of a pin doubles that had to give its slot up: going on costs a look at all that it has.
const TURN_DOUBLINGS_MAX: u32 = 5;

/// What bounds the schedule.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleLimits {
    /// How many pins hold a slot.
    pub active_max: usize,
    /// The wait after the first try in which nothing came.
    pub retry_min: Duration,
    /// The longest wait.
    pub retry_max: Duration,
    /// How long a pin may fetch while others wait for a slot.
    pub turn: Duration,
}

impl ScheduleLimits {
    /// Those of a schedule that nobody carries out.
    pub const NONE: Self =
        Self { active_max: 0, retry_min: Duration::ZERO, retry_max: Duration::ZERO, turn: Duration::MAX };
}

impl From<&Options> for ScheduleLimits {
    fn from(options: &Options) -> Self {
        let Options { active_max, retry_min, retry_max, turn, .. } = *options;
        Self { active_max, retry_min, retry_max, turn }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At this place of its account's queue.
    Ready(i64),
    /// Holds a slot; since when blocks have come, if any have.
    Active(Option<Instant>),
    /// Is fetched together with an active pin that has the same DAG.
    Joined,
    /// For its next try.
    Waiting(Instant),
    /// How it ended is being written down.
    Ending,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    user: UserId,
    place: Place,
    /// Tries in a row in which nothing came.
    tries: u32,
    /// How often it gave its slot up for others.
    yields: u32,
}

/// Where a pin stands, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Waits for a slot, after so many others: as many as start before it if all stay as it is.
    Ready(usize),
    /// Holds a slot, or shares one.
    Active,
    /// Waits for its next try.
    Waiting(Instant),
    /// How it ended is being written down.
    Ending,
}

/// The schedule.
#[derive(Debug)]
pub struct Schedule {
    limits: ScheduleLimits,
    pins: HashMap<PinId, Entry>,
    /// Only of accounts that have some.
    ready: BTreeMap<UserId, Queue>,
    /// Places before and behind all others of any queue.
    front: i64,
    back: i64,
    waiting: BTreeSet<(Instant, PinId)>,
    active: BTreeSet<PinId>,
    last_user: UserId,
}

impl Schedule {
    /// An empty schedule.
    pub fn new(limits: ScheduleLimits) -> Self {
        Self {
            limits,
            pins: HashMap::new(),
            ready: BTreeMap::new(),
            front: -1,
            back: 0,
            waiting: BTreeSet::new(),
            active: BTreeSet::new(),
            last_user: UserId(0),
        }
    }

    /// A new pin waits for its turn, behind all others of its account. One that is known already stays where it is.
    pub fn add(&mut self, pin: PinId, user: UserId) {
        if self.pins.contains_key(&pin) {
            return;
        }
        self.pins.insert(pin, Entry { user, place: Place::Ending, tries: 0, yields: 0 });
        self.queue_up(pin);
    }

    /// Forgets a pin that is finished or gone. Returns whether it was known.
    pub fn remove(&mut self, pin: PinId) -> bool {
        let Some(entry) = self.pins.remove(&pin) else { return false };
        self.leave(pin, entry);
        true
    }

    /// The pin whose turn it is, if a slot is free; it is active from now on.
    pub fn start_next(&mut self) -> Option<PinId> {
        if self.active.len() >= self.limits.active_max {
            return None;
        }
        let after = self.last_user;
        let next_user =
            self.ready.range(UserId(after.0.saturating_add(1))..).next().or_else(|| self.ready.iter().next());
        let (user, pin) = next_user.and_then(|(user, queue)| Some((*user, queue.first()?)))?;
        self.last_user = user;
        self.move_to(pin, Place::Active(None));
        Some(pin)
    }

    /// A pin goes along with an active one that has the same DAG; it needs no slot.
    pub fn join(&mut self, pin: PinId) {
        self.move_to(pin, Place::Joined);
    }

    /// The slot of a pin that goes becomes that of one which went along.
    pub fn hand_over(&mut self, from: PinId, to: PinId) {
        let place = self.pins.get(&from).map(|entry| entry.place);
        if let Some(place @ Place::Active(_)) = place {
            self.move_to(from, Place::Joined);
            self.move_to(to, place);
        }
    }

    /// A block came for an active pin: its turn has begun.
    pub fn progressed(&mut self, pin: PinId, now: Instant) {
        if let Some(Entry { place: place @ Place::Active(None), .. }) = self.pins.get_mut(&pin) {
            *place = Place::Active(Some(now));
        }
    }

    /// An active pin that has to give its slot up, as its turn is over and others wait. [`Schedule::yielded`] must follow.
    ///
    /// The turn begins with the first block that comes, so that each turn brings something, however long it takes to find
    /// out what is held.
    pub fn overdue(&self, now: Instant) -> Option<PinId> {
        if self.ready.is_empty() || self.active.len() < self.limits.active_max {
            return None;
        }
        let turns = self.active.iter().filter_map(|pin| {
            let entry = self.pins.get(pin)?;
            let Place::Active(Some(since)) = entry.place else { return None };
            Some((since + self.limits.turn.saturating_mul(1 << entry.yields.min(TURN_DOUBLINGS_MAX)), *pin))
        });
        turns.min().filter(|(over_at, _)| *over_at <= now).map(|(_, pin)| pin)
    }

    /// A pin has given its slot up, or lost the one that it went along with: it goes on when those before it had their turn.
    pub fn yielded(&mut self, pin: PinId) {
        if let Some(entry) = self.pins.get_mut(&pin) {
            entry.yields += 1;
            self.queue_up(pin);
        }
    }

    /// A pin stalled: it waits. `progressed` says whether anything came in this try. `jitter`, from 0 to 1, spreads the pins that
    /// stalled together over a quarter of the wait. Returns when it is tried next.
    pub fn stalled(&mut self, pin: PinId, now: Instant, jitter: f64, progressed: bool) -> Instant {
        let tries = self.pins.get(&pin).filter(|_| !progressed).map_or(0, |entry| entry.tries);
        let wait = self.limits.retry_min.saturating_mul(1 << tries.min(20)).min(self.limits.retry_max);
        let at = now + wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
        if let Some(entry) = self.pins.get_mut(&pin) {
            entry.tries = tries + 1;
            self.move_to(pin, Place::Waiting(at));
        }
        at
    }

    /// A pin has ended and needs no slot any more; [`Schedule::remove`] follows when that is written down.
    pub fn ending(&mut self, pin: PinId) {
        self.move_to(pin, Place::Ending);
    }

    /// There is news of a provider: the pin needn't wait any longer, and goes before the others of its account. Returns
    /// whether it waited.
    pub fn wake(&mut self, pin: PinId) -> bool {
        let waits = matches!(self.pins.get(&pin), Some(Entry { place: Place::Waiting(_), .. }));
        if waits {
            self.front -= 1;
            self.move_to(pin, Place::Ready(self.front));
        }
        waits
    }

    /// Ends the waits that are over, and returns the pins concerned.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<PinId> {
        let due: Vec<PinId> = self.waiting.iter().take_while(|(at, _)| *at <= now).map(|(_, pin)| *pin).collect();
        for pin in &due {
            self.queue_up(*pin);
        }
        due
    }

    /// When the next wait is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Where a pin stands; `None` when it isn't known.
    pub fn standing(&self, pin: &PinId) -> Option<Standing> {
        let entry = self.pins.get(pin)?;
        Some(match entry.place {
            Place::Ready(place) => Standing::Ready(self.ahead(entry.user, place)),
            Place::Active(_) | Place::Joined => Standing::Active,
            Place::Waiting(at) => Standing::Waiting(at),
            Place::Ending => Standing::Ending,
        })
    }

    /// How many start before the one at this place of an account's queue: those of the same account that are before it, and of each
    /// other account as many, and one more if its next turn comes sooner.
    fn ahead(&self, user: UserId, place: i64) -> usize {
        let own = self.ready.get(&user).map_or(0, |queue| queue.before(place));
        // The further an account is from the last one in the order of turns, the later it comes.
        let turn_of = |user: UserId| (user <= self.last_user, user);
        let of_others = self.ready.iter().filter(|(other, _)| **other != user).map(|(other, queue)| {
            let is_sooner = turn_of(*other) < turn_of(user);
            queue.len().min(own + usize::from(is_sooner))
        });
        own + of_others.sum::<usize>()
    }

    fn queue_up(&mut self, pin: PinId) {
        self.back += 1;
        self.move_to(pin, Place::Ready(self.back));
    }

    fn move_to(&mut self, pin: PinId, place: Place) {
        let Some(entry) = self.pins.get(&pin).copied() else { return };
        self.leave(pin, entry);
        match place {
            Place::Ready(place) => self.ready.entry(entry.user).or_default().insert(place, pin),
            Place::Active(_) => {
                self.active.insert(pin);
            }
            Place::Waiting(at) => {
                self.waiting.insert((at, pin));
            }
            Place::Joined | Place::Ending => {}
        }
        self.pins.insert(pin, Entry { place, ..entry });
    }

    fn leave(&mut self, pin: PinId, entry: Entry) {
        match entry.place {
            Place::Ready(place) => {
                if let Some(queue) = self.ready.get_mut(&entry.user) {
                    queue.remove(place);
                    if queue.is_empty() {
                        self.ready.remove(&entry.user);
                    }
                }
            }
            Place::Active(_) => {
                self.active.remove(&pin);
            }
            Place::Waiting(at) => {
                self.waiting.remove(&(at, pin));
            }
            Place::Joined | Place::Ending => {}
        }
    }
}
