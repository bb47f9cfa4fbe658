//! Whole lives of many pins in virtual time, from a seed: no pin is forgotten, none waits for ever, and accounts are equal.

use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SEEDS: u64 = 2000;
const TURN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What a pin needs, which the schedule doesn't know.
struct Life {
    user: UserId,
    /// How long it still has to fetch.
    needs: Duration,
    /// Until when nobody has what it wants.
    provided_at: Instant,
    made_at: Instant,
    became_ready_at: Instant,
}

struct World {
    schedule: Schedule,
    random: StdRng,
    now: Instant,
    lives: BTreeMap<PinId, Life>,
    /// When each running try ends, unless its turn ends before.
    running: BTreeMap<PinId, Instant>,
    active_max: usize,
    users: u64,
    /// The longest that a small pin with a provider waited for its first slot.
    small_wait_max: Duration,
    finished: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let active_max = random.random_range(1..=8);
        let limits =
            ScheduleLimits { active_max, retry_min: Duration::from_secs(10), retry_max: RETRY_MAX, turn: TURN };
        let users = random.random_range(1..=5);
        Self {
            schedule: Schedule::new(limits),
            random,
            now: Instant::now(),
            lives: BTreeMap::new(),
            running: BTreeMap::new(),
            active_max,
            users,
            small_wait_max: Duration::ZERO,
            finished: 0,
        }
    }

    fn make_pin(&mut self) {
        let (pin, user) = (PinId::new(), UserId(self.random.random_range(1..=self.users)));
        let needs = match self.random.random_range(0..10) {
            0 => Duration::from_secs(self.random.random_range(60..600)),
            _ => Duration::from_millis(self.random.random_range(10..2000)),
        };
        let wait = if self.random.random_range(0..5) == 0 { self.random.random_range(1..2000) } else { 0 };
        let provided_at = self.now + Duration::from_secs(wait);
        let life = Life { user, needs, provided_at, made_at: self.now, became_ready_at: self.now };
        self.lives.insert(pin, life);
        self.schedule.add(pin, user);
    }

    /// Starts what can be started, and looks whether the order is fair.
    fn start(&mut self) {
        loop {
            let waiting: HashSet<UserId> = self.schedule.ready.keys().copied().collect();
            let expected: Vec<PinId> = self
                .lives
                .keys()
                .filter(|pin| self.schedule.standing(pin) == Some(Standing::Ready(0)))
                .copied()
                .collect();
            let Some(pin) = self.schedule.start_next() else { break };
            assert_eq!(expected, [pin], "the one with nobody ahead of it starts, and there is one such");
            assert!(self.schedule.active.len() <= self.active_max);
            let life = &self.lives[&pin];
            assert!(waiting.contains(&life.user));
            if life.needs <= Duration::from_secs(2) && life.provided_at <= life.made_at {
                self.small_wait_max = self.small_wait_max.max(self.now - life.became_ready_at);
            }
            let has_provider = life.provided_at <= self.now;
            let ends_at = self.now + if has_provider { life.needs } else { Duration::from_secs(10) };
            if has_provider {
                self.schedule.progressed(pin, self.now);
            }
            self.running.insert(pin, ends_at);
        }
        assert!(
            self.schedule.ready.is_empty() || self.schedule.active.len() == self.active_max,
            "no slot is free while somebody waits"
        );
    }

    /// Goes on to the next thing that happens.
    fn step(&mut self) {
        let turn_ends = self.running.keys().filter_map(|pin| match self.schedule.pins[pin].place {
            Place::Active(Some(since)) if !self.schedule.ready.is_empty() => {
                Some(since + TURN * (1 << self.schedule.pins[pin].yields.min(TURN_DOUBLINGS_MAX)))
            }
            _ => None,
        });
        let next = turn_ends.chain(self.running.values().copied()).chain(self.schedule.next_timeout()).min();
        let before = self.now;
        self.now = next.expect("something is always to come while a pin is unfinished").max(self.now);
        for pin in self.schedule.handle_timeout(self.now) {
            self.lives.get_mut(&pin).unwrap().became_ready_at = self.now;
        }
        let ended: Vec<PinId> = self.running.iter().filter(|(_, at)| **at <= self.now).map(|(pin, _)| *pin).collect();
        for pin in ended {
            self.running.remove(&pin);
            if matches!(self.schedule.pins[&pin].place, Place::Active(Some(_))) {
                self.schedule.ending(pin);
                self.schedule.remove(pin);
                self.lives.remove(&pin);
                self.finished += 1;
            } else {
                let at = self.schedule.stalled(pin, self.now, self.random.random(), false);
                assert!(at - self.now <= RETRY_MAX.mul_f64(1.25), "no wait is longer than the longest");
            }
        }
        if let Some(pin) = self.schedule.overdue(self.now) {
            let since = match self.schedule.pins[&pin].place {
                Place::Active(Some(since)) => since,
                place => panic!("{place:?} has no turn"),
            };
            let life = self.lives.get_mut(&pin).unwrap();
            life.needs = life.needs.saturating_sub(self.now - since);
            life.became_ready_at = self.now;
            self.running.remove(&pin);
            self.schedule.yielded(pin);
        }
        assert!(self.now >= before);
    }
}

#[test]
fn every_pin_ends_and_none_is_starved() {
    let first: u64 =
        std::env::var("PINNACE_SCHEDULE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    for seed in (0..SEEDS).map(|number| first.wrapping_add(number)) {
        println!("PINNACE_SCHEDULE_SEED={seed}");
        let mut world = World::new(seed);
        let pins = world.random.random_range(1..60);
        for _ in 0..pins {
            world.make_pin();
        }
        let mut steps = 0;
        while !world.lives.is_empty() {
            world.start();
            world.step();
            // Some come while others run.
            if world.finished < 20 && world.random.random_range(0..20) == 0 {
                world.make_pin();
            }
            steps += 1;
            assert!(steps < 100_000, "it comes to no end");
        }
        assert!(world.schedule.pins.is_empty() && world.schedule.ready.is_empty());
        assert!(world.schedule.waiting.is_empty() && world.schedule.active.is_empty());
        // In front of it may be all others, each with a whole turn, over all slots.
        let rounds = u32::try_from((pins + 20) / world.active_max + 2).unwrap();
        assert!(world.small_wait_max <= TURN * 2 * rounds, "a small pin waited for {:?}", world.small_wait_max);
    }
}

#[test]
fn an_account_with_few_pins_does_not_wait_for_one_with_many() {
    let limits = ScheduleLimits { active_max: 4, turn: TURN, retry_min: TURN, retry_max: TURN };
    let mut schedule = Schedule::new(limits);
    for _ in 0..100_000 {
        schedule.add(PinId::new(), UserId(1));
    }
    let pin = PinId::new();
    schedule.add(pin, UserId(2));
    assert_eq!(schedule.standing(&pin), Some(Standing::Ready(1)));
    assert!((0..2).map(|_| schedule.start_next()).any(|started| started == Some(pin)));
}
