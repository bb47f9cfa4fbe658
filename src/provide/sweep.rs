//! When which part of the DHT's keyspace is provided again: a pure state machine.
//!
//! Servers of the DHT forget a record after two days, so all CIDs are provided anew each
//! [`SweepOptions::interval_seconds`]. A look-up finds all servers of a region of the keyspace, and does for all CIDs
//! in it (see [`crate::provide::regions`]). How large regions are depends on how many servers there are, and changes; so what is
//! written down is when each of 4,096 equal *cells* was last provided, and a region that is done covers some of them.
//!
//! Each part of the keyspace has its own time within the interval, its slot, in the order of the keyspace; so work is
//! spread evenly. What was done at another time, as all is at the first start, is done again at the last slot before it
//! is due, so that the sweep is even again after one interval, at the cost of at most one sweep more. When much is
//! overdue, as after a downtime, [`SweepOptions::catch_up_cells_per_hour`] bounds the work, oldest first.
//!
//! What is in the cells, the look-ups and the messages are the caller's. New CIDs needn't wait for the sweep; the
//! caller provides them when they come.

mod cell;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use self::cell::{CELL_BITS, CELLS, Cell};
use crate::provide::keyspace::Prefix;

/// What was done this shortly before its slot, as a part of the interval, keeps the time that it has: regions become
/// larger and smaller, which moves their slots a little, and that is no reason to do them twice. It is half an hour of
/// 22.
const SLOT_TOLERANCE_DIVISOR: u64 = 44;

/// How far the clock may go back before all that is remembered goes back with it: less than that is callers who looked
/// at the clock at about the same time.
const CLOCK_STEP_SECONDS: u64 = 60;

/// What the pace allows to be made up for, when nothing was begun though it could have been, as callers look only now
/// and then.
const PACE_CREDIT_SECONDS: u64 = 60;

/// How far in the future a restored time may be; what is further can't be trusted.
const RESTORED_AHEAD_SECONDS_MAX: u64 = 3600;

/// What bounds the sweep. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepOptions {
    /// How old a record gets before it is provided anew.
    pub interval_seconds: u64,
    /// How long servers keep a record: 48 hours, by the specification of the DHT.
    pub record_lifetime_seconds: u64,
    /// Where in the interval the sweep is at the beginning of the keyspace: one's own, so that not all nodes in the
    /// world are at the same place at the same time.
    pub offset_seconds: u64,
    /// How many regions are being done at a time.
    pub concurrent_max: usize,
    /// How many of the 4,096 cells are done in an hour, at most. A steady sweep of 22 hours needs 187.
    pub catch_up_cells_per_hour: u64,
    /// The wait after a cell failed; it doubles with each further time.
    pub retry_min_seconds: u64,
    /// The longest wait.
    pub retry_max_seconds: u64,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            interval_seconds: 22 * 3600,
            record_lifetime_seconds: 48 * 3600,
            offset_seconds: 0,
            concurrent_max: 4,
            catch_up_cells_per_hour: 2048,
            retry_min_seconds: 60,
            retry_max_seconds: 3600,
        }
    }
}

impl SweepOptions {
    /// How old a cell gets when all is well. What is older has used up half of the time that is left until its records
    /// expire.
    pub fn age_max_seconds(&self) -> u64 {
        let reserve = self.record_lifetime_seconds.saturating_sub(self.interval_seconds);
        self.interval_seconds.saturating_add(reserve / 2)
    }

    /// When a region that begins with this cell is due again: at its last slot before it gets too old.
    fn due_at(&self, first: Cell, provided_at: u64) -> u64 {
        let interval = self.interval_seconds.max(1);
        let slot = (self.offset_seconds % interval + interval * first.index() as u64 / CELLS as u64) % interval;
        let latest = provided_at.saturating_add(interval);
        let early = (latest % interval + interval - slot) % interval;
        if early > interval - interval / SLOT_TOLERANCE_DIVISOR { latest } else { latest - early }
    }
}

/// How the sweep is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepStatus {
    /// How many of the 4,096 cells are provided, and not older than the interval.
    pub provided: usize,
    /// How many are older.
    pub overdue: usize,
    /// How many have never been provided.
    pub never: usize,
    /// The age of the oldest cell that has ever been provided.
    pub oldest_seconds: Option<u64>,
    /// Whether some cell is, or has been missing for, longer than [`SweepOptions::age_max_seconds`], so that records
    /// may expire.
    pub is_behind: bool,
}

/// When a cell is next looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    due_at: u64,
    /// Not before this, as it failed.
    retry_at: u64,
    /// Failures in a row.
    failures: u32,
}

impl Plan {
    fn ready_at(&self) -> u64 {
        self.due_at.max(self.retry_at)
    }
}

/// A region that is being done.
#[derive(Debug, Clone)]
struct Running {
    cell: Cell,
    /// The cells that it covers, for all that is known: they aren't given out.
    covered: Range<usize>,
}

/// The sweep.
#[derive(Debug)]
pub struct Sweep {
    options: SweepOptions,
    /// When each cell was last provided, in seconds of unix time; 0 is never.
    provided_at: Vec<u64>,
    /// As many.
    plans: Vec<Plan>,
    running: Vec<Running>,
    /// How many bits the last region had, at most those of a cell: the next one will be about as large. As nothing is
    /// known at first, the first region is done alone.
    region_bits: u32,
    /// Before this, nothing more is begun, so that a lot of overdue work is done evenly. In milliseconds.
    paced_until_ms: u64,
    /// Since when cells that have never been provided are missing.
    began_at: u64,
    /// The latest time seen.
    seen_at: u64,
}

impl Sweep {
    /// A sweep that goes on from what [`Sweep::provided_at`] gave; whatever can't be that is forgotten. `now` is the
    /// unix time in seconds, here and everywhere.
    pub fn new(options: SweepOptions, restored: Option<Vec<u64>>, now: u64) -> Self {
        let mut provided_at = restored.filter(|times| times.len() == CELLS).unwrap_or_else(|| vec![0; CELLS]);
        for at in &mut provided_at {
            let is_plausible = *at <= now.saturating_add(RESTORED_AHEAD_SECONDS_MAX);
            *at = if is_plausible { (*at).min(now) } else { 0 };
        }
        let mut sweep = Self {
            options,
            provided_at,
            plans: vec![Plan::default(); CELLS],
            running: Vec::new(),
            region_bits: 0,
            paced_until_ms: 0,
            began_at: now,
            seen_at: now,
        };
        sweep.plan_restored();
        sweep
    }

    /// A cell that is due, the oldest first; it is running until [`Sweep::finished`], [`Sweep::found_empty`] or
    /// [`Sweep::failed`] is called for it, one of which must follow.
    pub fn next(&mut self, now: u64) -> Option<Cell> {
        self.see(now);
        if self.running.len() >= self.options.concurrent_max || self.seen_at.saturating_mul(1000) < self.paced_until_ms
        {
            return None;
        }
        let ready = self.free().filter(|(_, plan)| plan.ready_at() <= self.seen_at);
        let (cell, _) = ready.min_by_key(|(cell, plan)| (plan.due_at, *cell))?;
        // Regions next to each other may differ by a bit. Two look-ups of the same region would cost more than the
        // wait.
        let region = Prefix::of(&cell.prefix().first(), self.region_bits.saturating_sub(1));
        self.running.push(Running { cell, covered: Cell::range(&region) });
        Some(cell)
    }

    /// When [`Sweep::next`] will give a cell; `None` if not before one that is running has ended.
    pub fn next_at(&self, now: u64) -> Option<u64> {
        if self.running.len() >= self.options.concurrent_max {
            return None;
        }
        let ready_at = self.free().map(|(_, plan)| plan.ready_at()).min()?;
        if self.has_gone_back(now) {
            return Some(now);
        }
        Some(ready_at.max(self.paced_until_ms.div_ceil(1000)).max(now))
    }

    /// A look-up for a running cell has found which region it covers, or at least this.
    pub fn looked_up(&mut self, cell: Cell, covered: &Prefix) {
        self.region_bits = covered.bits().min(CELL_BITS);
        if let Some(running) = self.running.iter_mut().find(|running| running.cell == cell) {
            running.covered = Cell::range(covered);
        }
    }

    /// A running cell is done, and with it all that is `covered`: either the region of its look-up, or, if that was
    /// smaller than a cell, the cell's own prefix, when the caller has gone through all regions in it. `began_at` is
    /// when that was begun: the age of the oldest record.
    pub fn finished(&mut self, cell: Cell, covered: &Prefix, began_at: u64) {
        if !covered.contains(&cell.prefix().first()) || covered.bits() > CELL_BITS {
            // Part of the cell isn't provided, so it can't count as done.
            self.failed(cell, self.seen_at);
            return;
        }
        self.release(cell);
        self.region_bits = covered.bits();
        let (cells, began_at) = (Cell::range(covered), began_at.min(self.seen_at));
        self.charge(cells.len(), began_at);
        self.provided(cells, began_at);
    }

    /// There are no CIDs in a running cell, so that no look-up was needed.
    pub fn found_empty(&mut self, cell: Cell, now: u64) {
        self.see(now);
        self.release(cell);
        self.provided(cell.index()..cell.index() + 1, self.seen_at);
    }

    /// A running cell couldn't be provided. It waits, twice as long as the last time.
    pub fn failed(&mut self, cell: Cell, now: u64) {
        self.see(now);
        self.release(cell);
        // It took work as well: where nothing works, not more is tried than otherwise.
        self.charge(CELLS >> self.region_bits.max(CELL_BITS / 2), self.seen_at);
        if let Some(plan) = self.plans.get_mut(cell.index()) {
            let doubled = self.options.retry_min_seconds.saturating_mul(1 << plan.failures.min(20));
            plan.retry_at = self.seen_at.saturating_add(doubled.min(self.options.retry_max_seconds));
            plan.failures = plan.failures.saturating_add(1);
        }
    }

    /// How the sweep is doing.
    pub fn status(&self, now: u64) -> SweepStatus {
        let count = |is_counted: &dyn Fn(u64) -> bool| self.provided_at.iter().filter(|at| is_counted(**at)).count();
        let never = count(&|at| at == 0);
        let provided = count(&|at| at != 0 && now.saturating_sub(at) <= self.options.interval_seconds);
        let oldest_at = self.provided_at.iter().filter(|at| **at != 0).min();
        let missing_at = Some(&self.began_at).filter(|_| never > 0);
        let is_old = |at: &u64| now.saturating_sub(*at) > self.options.age_max_seconds();
        SweepStatus {
            provided,
            overdue: CELLS - never - provided,
            never,
            oldest_seconds: oldest_at.map(|at| now.saturating_sub(*at)),
            is_behind: oldest_at.is_some_and(is_old) || missing_at.is_some_and(is_old),
        }
    }

    /// When each cell was last provided, to be written down: seconds of unix time in the order of the keyspace, 0 for
    /// never.
    pub fn provided_at(&self) -> &[u64] {
        &self.provided_at
    }

    /// The cells that are in no region that is running.
    fn free(&self) -> impl Iterator<Item = (Cell, &Plan)> {
        Cell::all().zip(&self.plans).filter(|(cell, _)| {
            !self.running.iter().any(|running| running.cell == *cell || running.covered.contains(&cell.index()))
        })
    }

    fn release(&mut self, cell: Cell) {
        self.running.retain(|running| running.cell != cell);
    }

    /// Counts cells that were begun at this time, so that what comes next waits.
    fn charge(&mut self, cells: usize, began_at: u64) {
        let cost_ms = (cells as u64).saturating_mul(3_600_000) / self.options.catch_up_cells_per_hour.max(1);
        let earliest_ms = began_at.saturating_sub(PACE_CREDIT_SECONDS).saturating_mul(1000);
        self.paced_until_ms = self.paced_until_ms.max(earliest_ms).saturating_add(cost_ms);
    }

    /// All cells of a region were provided at this time.
    fn provided(&mut self, cells: Range<usize>, at: u64) {
        // 0 means never.
        let at = at.max(1);
        let due_at = self.options.due_at(Cell::at(cells.start), at);
        let (Some(times), Some(plans)) = (self.provided_at.get_mut(cells.clone()), self.plans.get_mut(cells)) else {
            return;
        };
        for (provided_at, plan) in times.iter_mut().zip(plans) {
            if *provided_at < at {
                *provided_at = at;
                *plan = Plan { due_at, ..Plan::default() };
            }
        }
    }

    /// Plans the cells that were restored. Those provided at the same time were most likely one region, and stay
    /// together.
    fn plan_restored(&mut self) {
        let mut parts: Vec<Range<usize>> = std::iter::once(0..CELLS).collect();
        while let Some(part) = parts.pop() {
            let Some((first, others)) = self.provided_at.get(part.clone()).and_then(<[u64]>::split_first) else {
                continue;
            };
            if others.iter().any(|at| at != first) {
                let middle = usize::midpoint(part.start, part.end);
                parts.extend([part.start..middle, middle..part.end]);
            } else if *first > 0 {
                let due_at = self.options.due_at(Cell::at(part.start), *first);
                if let Some(plans) = self.plans.get_mut(part) {
                    plans.fill(Plan { due_at, ..Plan::default() });
                }
            }
        }
    }

    fn has_gone_back(&self, now: u64) -> bool {
        now.saturating_add(CLOCK_STEP_SECONDS) < self.seen_at
    }

    /// Takes notice of the time. If the clock was put back, everything remembered goes back too, so that ages stay as
    /// they are: else what was provided before would count as new for as long as the clock has gone back.
    fn see(&mut self, now: u64) {
        if !self.has_gone_back(now) {
            self.seen_at = self.seen_at.max(now);
            return;
        }
        let back = self.seen_at - now;
        for at in self.provided_at.iter_mut().filter(|at| **at != 0) {
            // 0 means never.
            *at = at.saturating_sub(back).max(1);
        }
        for plan in &mut self.plans {
            plan.due_at = plan.due_at.saturating_sub(back);
            plan.retry_at = plan.retry_at.saturating_sub(back);
        }
        self.paced_until_ms = self.paced_until_ms.saturating_sub(back.saturating_mul(1000));
        self.began_at = self.began_at.saturating_sub(back);
        self.seen_at = now;
    }
}
