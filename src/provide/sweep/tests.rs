//! The schedule by itself.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;
const START: u64 = 1_750_000_000;

/// A network in which all regions have the same size. One of 256 takes a minute, a smaller one less.
struct World {
    sweep: Sweep,
    bits: u32,
    now: u64,
    running: Vec<(Cell, u64)>,
    /// When look-ups began.
    begun_at: Vec<u64>,
    age_max: u64,
    /// There are CIDs in each so manieth cell.
    step: usize,
}

impl World {
    fn new(bits: u32, options: SweepOptions) -> Self {
        let sweep = Sweep::new(options, None, START);
        Self { sweep, bits, now: START, running: Vec::new(), begun_at: Vec::new(), age_max: 0, step: 1 }
    }

    fn restart(&mut self, down_seconds: u64) {
        self.now += down_seconds;
        self.running.clear();
        let saved = self.sweep.provided_at().to_vec();
        self.sweep = Sweep::new(self.sweep.options, Some(saved), self.now);
    }

    fn run(&mut self, seconds: u64) {
        let end_at = self.now + seconds;
        while self.now < end_at {
            while let Some((cell, began_at)) =
                self.running.first().copied().filter(|(_, at)| at + self.takes() <= self.now)
            {
                self.running.remove(0);
                self.sweep.finished(cell, &self.region(cell), began_at);
            }
            while let Some(cell) = self.sweep.next(self.now) {
                if !cell.index().is_multiple_of(self.step) {
                    self.sweep.found_empty(cell, self.now);
                    continue;
                }
                let is_doubled = self.running.iter().any(|(other, _)| self.region(*other) == self.region(cell));
                assert!(!is_doubled, "a region is done twice at a time");
                self.sweep.looked_up(cell, &self.region(cell));
                self.begun_at.push(self.now);
                self.running.push((cell, self.now));
            }
            let oldest = self.sweep.status(self.now).oldest_seconds.unwrap_or_default();
            self.age_max = self.age_max.max(oldest);
            let done_at = self.running.first().map(|(_, at)| at + self.takes());
            let next_at = self.sweep.next_at(self.now);
            self.now = [done_at, next_at, Some(end_at)].into_iter().flatten().min().unwrap().max(self.now + 1);
        }
    }

    fn region(&self, cell: Cell) -> Prefix {
        Prefix::of(&cell.prefix().first(), self.bits.min(CELL_BITS))
    }

    fn takes(&self) -> u64 {
        60 >> self.bits.saturating_sub(8)
    }

    fn begun_between(&self, from: u64, to: u64) -> u64 {
        self.begun_at.iter().filter(|at| (from..to).contains(at)).count() as u64
    }

    fn most_in_an_hour(&self, from: u64, to: u64) -> u64 {
        (from..to).step_by(600).map(|at| self.begun_between(at, at + HOUR)).max().unwrap_or_default()
    }
}

#[test]
fn the_first_sweep_takes_two_hours_and_the_next_ones_are_even() {
    for bits in [0, 1, 4, 8, 12] {
        let mut world = World::new(bits, SweepOptions { offset_seconds: 5 * HOUR, ..SweepOptions::default() });
        let regions = 1u64 << bits;
        world.run(2 * HOUR + 120);
        assert_eq!(world.sweep.status(world.now).provided, CELLS, "{bits} bits");
        assert!(world.begun_at.len() as u64 <= regions + regions / 11 + 1, "the slots of this hour come on top");
        world.run(23 * HOUR);
        let steady_at = world.now;
        assert!(world.begun_between(START, steady_at) <= 2 * regions + regions / 4 + 1, "one sweep more at most");
        world.run(66 * HOUR);
        let steady = world.begun_between(steady_at, world.now);
        assert!((3 * regions..=3 * regions + regions / 11 + 1).contains(&steady), "{bits} bits: {steady}");
        let (most, mean) = (world.most_in_an_hour(steady_at, world.now), regions.div_ceil(22));
        assert!(most <= 2 * mean + 1, "{bits} bits: {most} in an hour instead of {mean}");
        // Regions whose neighbour runs wait for it.
        assert!(world.age_max <= 22 * HOUR + 600, "{bits} bits: {} s", world.age_max);
    }
}

#[test]
fn a_downtime_is_caught_up_without_a_burst() {
    let mut world = World::new(8, SweepOptions::default());
    world.run(30 * HOUR);
    let before = world.sweep.provided_at().to_vec();
    world.restart(6 * HOUR);
    assert_eq!(world.sweep.provided_at(), before);
    let (began_at, overdue) = (world.now, world.sweep.status(world.now).overdue as u64);
    assert!((900..1300).contains(&overdue), "{overdue}");
    world.run(HOUR);
    assert_eq!(world.sweep.status(world.now).overdue, 0);
    assert!(world.begun_between(began_at, world.now) <= overdue / 16 + 14);
    world.run(21 * HOUR);
    assert!(world.most_in_an_hour(began_at + HOUR, world.now) <= 14);
}

#[test]
fn frequent_restarts_change_nothing() {
    let mut world = World::new(8, SweepOptions::default());
    for _ in 0..50 {
        world.run(HOUR + 100);
        world.restart(30);
    }
    let from = world.now;
    for _ in 0..22 {
        world.run(HOUR);
        world.restart(0);
    }
    assert!((245..=285).contains(&world.begun_between(from, world.now)), "{}", world.begun_between(from, world.now));
    assert!(world.age_max < 22 * HOUR + 600, "{}", world.age_max);
}

#[test]
fn regions_that_become_smaller_or_larger_are_done_in_time() {
    let mut world = World::new(8, SweepOptions::default());
    world.run(26 * HOUR);
    for bits in [9, 8, 7, 9] {
        let from = world.now;
        world.bits = bits;
        world.run(22 * HOUR);
        let begun = world.begun_between(from, world.now);
        assert!(begun <= (1 << bits) + (1 << bits) / 8 + 2, "{bits} bits: {begun}");
    }
    assert!(world.age_max < 22 * HOUR + 600, "{}", world.age_max);
}

#[test]
fn failures_wait_longer_each_time() {
    let mut sweep =
        Sweep::new(SweepOptions { catch_up_cells_per_hour: u64::MAX, ..SweepOptions::default() }, None, START);
    let first = sweep.next(START).unwrap();
    sweep.failed(first, START);
    assert_ne!(sweep.next(START), Some(first), "others go first");
    let mut waits = Vec::new();
    let mut failed_at = START;
    for _ in 0..9 {
        let plan = sweep.plans[first.index()];
        waits.push(plan.retry_at - failed_at);
        failed_at = plan.retry_at;
        sweep.failed(first, failed_at);
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    sweep.finished(first, &first.prefix(), failed_at);
    assert_eq!(sweep.plans[first.index()].failures, 0);
}

#[test]
fn a_dead_network_is_tried_at_the_pace_of_a_catch_up() {
    let mut sweep = Sweep::new(SweepOptions::default(), None, START);
    let mut tries = 0;
    for now in START..START + HOUR {
        while let Some(cell) = sweep.next(now) {
            tries += 1;
            sweep.failed(cell, now);
        }
    }
    assert!((30..=37).contains(&tries), "{tries}");
    assert_eq!(sweep.status(START + HOUR).never, CELLS);
    assert!(!sweep.status(START + HOUR).is_behind);
    assert!(sweep.status(START + 36 * HOUR).is_behind);
}

#[test]
fn empty_cells_cost_nothing() {
    let mut sweep = Sweep::new(SweepOptions::default(), None, START);
    while let Some(cell) = sweep.next(START) {
        sweep.found_empty(cell, START);
    }
    assert_eq!(sweep.status(START).provided, CELLS);
}

#[test]
fn few_cids_take_few_look_ups() {
    for bits in [0, 2, 6, 8, 12] {
        let mut world = World::new(bits, SweepOptions { offset_seconds: 11 * HOUR, ..SweepOptions::default() });
        world.step = 400;
        world.run(26 * HOUR);
        let from = world.now;
        world.run(44 * HOUR);
        let (regions, begun) = (11.min(1 << bits), world.begun_between(from, world.now));
        assert!((2 * regions - 1..=2 * regions + 1).contains(&begun), "{bits} bits: {begun}");
        assert!(world.age_max < 22 * HOUR + 600, "{}", world.age_max);
    }
}

#[test]
fn what_covers_less_than_the_cell_is_no_success() {
    let mut sweep = Sweep::new(SweepOptions::default(), None, START);
    let cell = sweep.next(START).unwrap();
    sweep.finished(cell, &Prefix::of(&cell.prefix().first(), 13), START);
    assert_eq!(sweep.status(START).never, CELLS);
    assert!(sweep.plans[cell.index()].retry_at > START);
}

#[test]
fn a_clock_that_is_put_back_keeps_ages() {
    let mut world = World::new(8, SweepOptions::default());
    world.run(30 * HOUR);
    world.running.clear();
    world.sweep.running.clear();
    let oldest = world.sweep.status(world.now).oldest_seconds.unwrap();
    for back in [2 * HOUR, 400 * 24 * HOUR] {
        world.now -= back;
        assert_eq!(world.sweep.next_at(world.now), Some(world.now), "it must look at the clock");
        world.sweep.see(world.now);
        let now_oldest = world.sweep.status(world.now).oldest_seconds.unwrap();
        assert!(oldest.abs_diff(now_oldest) < 600, "{oldest} and {now_oldest}");
    }
    let from = world.now;
    world.run(22 * HOUR);
    assert!(world.begun_between(from, world.now) <= 2 * 256 + 26);
    assert!(world.age_max <= 22 * HOUR + 600);
}

#[test]
fn what_cannot_be_restored_is_done_again() {
    for restored in [vec![START; 7], vec![START + 2 * HOUR; CELLS]] {
        assert_eq!(Sweep::new(SweepOptions::default(), Some(restored), START).status(START).never, CELLS);
    }
}

proptest! {
    #[test]
    fn a_due_time_is_a_slot_or_the_interval(cell in 0..CELLS, at in START..3 * START, offset in any::<u64>()) {
        let options = SweepOptions { offset_seconds: offset, ..SweepOptions::default() };
        let due_at = options.due_at(Cell::at(cell), at);
        prop_assert!(due_at > at && due_at <= at + options.interval_seconds);
        prop_assert!(due_at >= at + options.interval_seconds / SLOT_TOLERANCE_DIVISOR);
        if due_at < at + options.interval_seconds {
            prop_assert_eq!(options.due_at(Cell::at(cell), due_at), due_at + options.interval_seconds, "slots stay");
        }
    }

    #[test]
    fn cells_are_ranges_of_places(key in any::<[u8; 32]>(), bits in 0u32..20) {
        let key = crate::provide::keyspace::Key(key);
        let cell = Cell::of(&key);
        prop_assert!(cell.prefix().contains(&key) && Cell::at(cell.index()) == cell);
        let prefix = Prefix::of(&key, bits);
        for other in Cell::all().step_by(97).chain([cell]) {
            let is_inside = prefix.contains(&other.prefix().first()) && prefix.contains(&other.prefix().last());
            prop_assert_eq!(Cell::range(&prefix).contains(&other.index()), is_inside);
        }
    }

    #[test]
    fn whatever_happens_bounds_hold(
        steps in prop::collection::vec((0u8..7, any::<prop::sample::Index>(), 0u64..8 * HOUR, 0u32..14), 1..120),
        interval in prop_oneof![Just(0u64), Just(1), Just(22 * HOUR)],
    ) {
        let options = SweepOptions { interval_seconds: interval, concurrent_max: 3, ..SweepOptions::default() };
        let mut sweep = Sweep::new(options, None, START);
        let mut now = START;
        let mut running: Vec<(Cell, u64, Option<Prefix>)> = Vec::new();
        for (kind, which, seconds, bits) in steps {
            let chosen = (!running.is_empty()).then(|| which.index(running.len()));
            match (kind, chosen) {
                (0, Some(chosen)) => {
                    let (cell, began_at, region) = running.remove(chosen);
                    let region = region.unwrap_or(cell.prefix());
                    sweep.finished(cell, &region, began_at);
                }
                (1, Some(chosen)) => sweep.failed(running.remove(chosen).0, now),
                (2, Some(chosen)) => sweep.found_empty(running.remove(chosen).0, now),
                (3, Some(chosen)) => {
                    let region = Prefix::of(&running[chosen].0.prefix().first(), bits);
                    sweep.looked_up(running[chosen].0, &region);
                    running[chosen].2 = Some(region);
                }
                (4, _) if seconds < HOUR => now -= seconds,
                (4 | 5, _) => now += seconds,
                _ => {
                    let next_at = sweep.next_at(now);
                    let next = sweep.next(now);
                    // While the clock is a little behind, what was due stays due.
                    if sweep.seen_at == now {
                        prop_assert!(next.is_none() || next_at == Some(now), "it was announced");
                        let went_back = next_at == Some(now) && next.is_none();
                        prop_assert!(!went_back || sweep.next_at(now) != Some(now), "it is found");
                    }
                    if let Some(cell) = next {
                        for (other, _, region) in &running {
                            let first = cell.prefix().first();
                            prop_assert!(*other != cell && !region.is_some_and(|region| region.contains(&first)));
                        }
                        running.push((cell, now, None));
                    }
                }
            }
            prop_assert!(running.len() <= 3);
            let status = sweep.status(now);
            prop_assert_eq!(status.provided + status.overdue + status.never, CELLS);
            prop_assert!(sweep.provided_at().iter().all(|at| *at <= sweep.seen_at));
        }
        let saved = sweep.provided_at().to_vec();
        let restored = Sweep::new(options, Some(saved.clone()), sweep.seen_at);
        prop_assert_eq!(restored.provided_at(), &saved);
    }
}
