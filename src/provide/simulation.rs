//! A DHT on paper, from a seed: servers come and go, look-ups fail at times, the node is down for six hours, and the
//! real sweep provides a million CIDs for three days. Whoever asks the servers closest to a CID must always find a
//! record.
//!
//! Look-ups are ideal: they find exactly the closest servers. A server that leaves takes its records along, and one
//! that comes has none. How many messages there are is counted for all CIDs; records are kept for a sample.

use std::collections::{BTreeSet, HashSet};
use std::future::ready;

use futures::executor::block_on;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::provide::explore::{FOUND_MAX, explore};
use crate::provide::keyspace::{KEY_BITS, Key, Prefix};
use crate::provide::regions::{REPLICATION, allocate, is_exact};
use crate::provide::sweep::{CELL_BITS, Cell, Sweep, SweepOptions};

const HOUR: u64 = 3600;
const START: u64 = 1_750_000_000;
const SERVERS: usize = 10_000;
const CIDS: usize = 1_000_000;
/// How many of the CIDs have records.
const SAMPLE: usize = 4_000;
/// The part of the servers that come and go, and the half of whose sessions are over after three hours.
const RESTLESS_PERCENT: usize = 40;
const SESSION_MEDIAN_SECONDS: f64 = 3.0 * 3600.0;
const CHURN_SECONDS: u64 = 300;
const TICK_SECONDS: u64 = 30;
const LOOK_UP_FAILURES: f64 = 0.03;
/// How long a region takes: the look-up, and the messages.
const REGION_SECONDS: u64 = 90;
/// On its way to the place it looks up, a look-up asks about that many servers more than it returns.
const SERVERS_ON_THE_WAY: usize = 16;

fn seed() -> u64 {
    let seed = std::env::var("SWEEP_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("SWEEP_SEED={seed}");
    seed
}

fn random_key(random: &mut StdRng) -> Key {
    Key(random.random())
}

/// The living servers. The restless ones are listed once more.
struct Network {
    servers: BTreeSet<Key>,
    restless: Vec<Key>,
}

impl Network {
    fn new(count: usize, random: &mut StdRng) -> Self {
        let all: Vec<Key> = (0..count).map(|_| random_key(random)).collect();
        let restless = all.iter().take(count * RESTLESS_PERCENT / 100).copied().collect();
        Self { servers: all.into_iter().collect(), restless }
    }

    /// The closest living servers, in no order.
    fn closest(&self, at: &Key, n: usize) -> Vec<Key> {
        // The smallest prefix that holds enough of them.
        let mut bits = (self.servers.len() / n.max(1)).max(1).ilog2() + 2;
        let mut found: Vec<Key>;
        loop {
            let prefix = Prefix::of(at, bits.min(KEY_BITS));
            found = self.servers.range(prefix.first()..=prefix.last()).copied().collect();
            if found.len() >= n || bits == 0 {
                break;
            }
            bits -= 1;
        }
        if found.len() > n {
            found.select_nth_unstable_by_key(n, |server| at.distance(server));
            found.truncate(n);
        }
        found
    }

    /// Some minutes pass: some restless servers leave, and as many others come.
    fn churn(&mut self, seconds: u64, random: &mut StdRng) {
        let share = 1.0 - 0.5f64.powf(seconds as f64 / SESSION_MEDIAN_SECONDS);
        for server in &mut self.restless {
            if random.random_bool(share) {
                self.servers.remove(server);
                *server = random_key(random);
                self.servers.insert(*server);
            }
        }
    }
}

/// What it takes.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    look_ups: usize,
    /// Servers asked in look-ups.
    contacts: usize,
    /// Regions that hold fewer servers than a record is kept on.
    inexact: usize,
    /// Servers that a region's records were sent to, each on one stream.
    streams: usize,
    messages: usize,
}

/// The CIDs: the places of all in order, of which each so manieth is in the sample.
struct Cids(Vec<Key>);

impl Cids {
    fn new(random: &mut StdRng) -> Self {
        let mut keys: Vec<Key> = (0..CIDS).map(|_| random_key(random)).collect();
        keys.sort_unstable();
        Self(keys)
    }

    /// Those in the prefix, and the index of the first.
    fn within(&self, prefix: &Prefix) -> (&[Key], usize) {
        let start = self.0.partition_point(|key| *key < prefix.first());
        let end = self.0.partition_point(|key| *key <= prefix.last());
        (&self.0[start..end], start)
    }
}

/// Looks up one region and provides the CIDs in it. Returns the region.
fn provide_region(
    network: &Network,
    cids: &Cids,
    at: &Key,
    cost: &mut Cost,
    mut store: impl FnMut(usize, &[Key]),
) -> Prefix {
    let mut look_ups = 0;
    let find = |place: Key, _| {
        look_ups += 1;
        ready(network.closest(&place, FOUND_MAX).into_iter().map(|server| (server, ())).collect())
    };
    let region = block_on(explore(at, &[], find)).unwrap();
    let (servers, region) = (region.places(), region.prefix);
    cost.look_ups += look_ups;
    cost.contacts += look_ups * (FOUND_MAX + SERVERS_ON_THE_WAY);
    cost.inexact += usize::from(!is_exact(&region, &servers, REPLICATION));
    let (keys, first) = cids.within(&region);
    cost.messages += keys.len() * servers.len().min(REPLICATION);
    // To know which servers get any record, and for the sample, a part of the keys is enough.
    let step = CIDS / SAMPLE;
    let sampled = (first.next_multiple_of(step)..first + keys.len()).step_by(step);
    let others = (first..first + keys.len()).step_by((keys.len() / 100).max(1));
    let indices: Vec<usize> = sampled.clone().chain(others).collect();
    let allocated = allocate(indices.iter().map(|index| &cids.0[*index]), &servers, REPLICATION);
    cost.streams += allocated.iter().filter(|keys| !keys.is_empty()).count();
    let count = sampled.clone().count();
    let mut holders = vec![Vec::new(); count];
    for (server, keys) in servers.iter().zip(&allocated) {
        for key in keys.iter().filter(|key| **key < count) {
            holders[*key].push(*server);
        }
    }
    for (index, holders) in sampled.zip(holders) {
        store(index / step, &holders);
    }
    region
}

/// Provides the CIDs in a cell, and all others that the look-up does for. Returns what is done.
fn provide_cell(
    network: &Network,
    cids: &Cids,
    cell: Cell,
    cost: &mut Cost,
    mut store: impl FnMut(usize, &[Key]),
) -> Prefix {
    let mut at = cell.prefix().first();
    loop {
        let region = provide_region(network, cids, &at, cost, &mut store);
        if region.bits() <= CELL_BITS {
            return region;
        }
        match region.last().successor().filter(|next| cell.prefix().contains(next)) {
            Some(next) => at = next,
            None => return cell.prefix(),
        }
    }
}

/// The servers that were sent a record of a CID, and when.
type Records = Vec<(Key, u64)>;

struct Running {
    cell: Cell,
    began_at: u64,
    ends_at: u64,
    /// Nothing when its look-up fails.
    covered: Option<Prefix>,
}

struct World {
    network: Network,
    cids: Cids,
    records: Vec<Records>,
    random: StdRng,
    now: u64,
    running: Vec<Running>,
    cost: Cost,
    /// When look-ups were made.
    look_ups_at: Vec<u64>,
    failures: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            network: Network::new(SERVERS, &mut random),
            cids: Cids::new(&mut random),
            records: vec![Vec::new(); SAMPLE],
            random,
            now: START,
            running: Vec::new(),
            cost: Cost::default(),
            look_ups_at: Vec::new(),
            failures: 0,
        }
    }

    fn pass(&mut self) {
        self.now += TICK_SECONDS;
        if (self.now - START).is_multiple_of(CHURN_SECONDS) {
            self.network.churn(CHURN_SECONDS, &mut self.random);
        }
    }

    /// Begins with a cell that the sweep gave.
    fn begin(&mut self, cell: Cell) -> Running {
        let running = Running { cell, began_at: self.now, ends_at: self.now + REGION_SECONDS, covered: None };
        if self.random.random_bool(LOOK_UP_FAILURES) {
            self.failures += 1;
            self.cost.contacts += SERVERS_ON_THE_WAY;
            return running;
        }
        let (records, now, before) = (&mut self.records, self.now, self.cost.look_ups);
        let covered = provide_cell(&self.network, &self.cids, cell, &mut self.cost, |sample, servers| {
            let records = &mut records[sample];
            records.retain(|(server, at)| at + 48 * HOUR > now && !servers.contains(server));
            records.extend(servers.iter().map(|server| (*server, now)));
        });
        self.look_ups_at.extend((before..self.cost.look_ups).map(|_| now));
        Running { covered: Some(covered), ..running }
    }

    /// Runs the sweep for some hours. Returns the greatest age of a cell.
    fn run(&mut self, sweep: &mut Sweep, hours: u64, mut each_hour: impl FnMut(&Self)) -> u64 {
        let end_at = self.now + hours * HOUR;
        let (mut next_at, mut age_max) = (Some(self.now), 0);
        while self.now < end_at {
            let now = self.now;
            for ended in self.running.extract_if(.., |running| running.ends_at <= now) {
                match ended.covered {
                    Some(covered) => sweep.finished(ended.cell, &covered, ended.began_at),
                    None => sweep.failed(ended.cell, now),
                }
                next_at = sweep.next_at(now);
            }
            while next_at.is_some_and(|at| at <= now) {
                if let Some(cell) = sweep.next(now) {
                    let begun = self.begin(cell);
                    if let Some(covered) = &begun.covered {
                        sweep.looked_up(cell, covered);
                    }
                    self.running.push(begun);
                }
                next_at = sweep.next_at(now);
            }
            self.pass();
            if (self.now - START).is_multiple_of(HOUR) {
                age_max = age_max.max(sweep.status(self.now).oldest_seconds.unwrap_or_default());
                each_hour(self);
            }
        }
        age_max
    }

    /// Of the records that the closest servers should have, the part that they do; every CID must be found.
    fn check(&self) -> f64 {
        let step = CIDS / SAMPLE;
        let mut held = 0;
        for (sample, records) in self.records.iter().enumerate() {
            let fresh = records.iter().filter(|(_, at)| at + 48 * HOUR > self.now).map(|(server, _)| *server);
            let holders: HashSet<Key> = fresh.collect();
            let asked = self.network.closest(&self.cids.0[sample * step], REPLICATION);
            let found = asked.iter().filter(|server| holders.contains(server)).count();
            assert!(found > 0, "nobody who is asked for CID {sample} at {} h knows it", (self.now - START) / HOUR);
            held += found;
        }
        held as f64 / (SAMPLE * REPLICATION) as f64
    }

    fn most_in_an_hour(&self, from: u64, to: u64) -> usize {
        let within = |at: u64| self.look_ups_at.iter().filter(|other| (at..at + HOUR).contains(other)).count();
        (from..to).step_by(600).map(within).max().unwrap_or_default()
    }
}

#[test]
fn everything_is_found_for_three_days() {
    let mut world = World::new(seed());
    let options = SweepOptions { offset_seconds: world.random.random(), ..SweepOptions::default() };
    let mut sweep = Sweep::new(options, None, world.now);
    let report = |name: &str, world: &World, before: &Cost, from: u64| {
        let now = &world.cost;
        println!(
            "{name}: {} look-ups asking {} servers, {} inexact; {} streams, {} messages; \
             at most {} look-ups in an hour, mean {:.1}",
            now.look_ups - before.look_ups,
            now.contacts - before.contacts,
            now.inexact - before.inexact,
            now.streams - before.streams,
            now.messages - before.messages,
            world.most_in_an_hour(from, world.now),
            (now.look_ups - before.look_ups) as f64 / ((world.now - from) as f64 / HOUR as f64),
        );
    };
    let (before, from) = (world.cost, world.now);
    world.run(&mut sweep, 2, |_| {});
    report("first 2 h", &world, &before, from);
    let (before, from) = (world.cost, world.now);
    let age_max = world.run(&mut sweep, 22, |_| {});
    report("next 22 h", &world, &before, from);
    assert!(age_max <= 22 * HOUR + 1800, "{age_max} s");

    // Down for six hours, and back with what was written down.
    let saved = sweep.provided_at().to_vec();
    world.running.clear();
    for _ in 0..6 * HOUR / TICK_SECONDS {
        world.pass();
    }
    let mut sweep = Sweep::new(options, Some(saved), world.now);
    println!("after a downtime of 6 h: {:?}", sweep.status(world.now));
    let (before, from) = (world.cost, world.now);
    let age_max = world.run(&mut sweep, 18, |_| {});
    report("18 h after it", &world, &before, from);
    assert!(age_max <= 28 * HOUR + 1800, "{age_max} s");

    let (before, from) = (world.cost, world.now);
    let mut held = Vec::new();
    let age_max = world.run(&mut sweep, 24, |world| held.push(world.check()));
    report("last 24 h", &world, &before, from);
    let (held_min, mean) = (held.iter().copied().fold(1.0, f64::min), held.iter().sum::<f64>() / held.len() as f64);
    println!(
        "records held by the closest servers: {:.1} % on average, {:.1} % at worst",
        mean * 100.0,
        held_min * 100.0
    );
    println!("failed look-ups: {}; oldest cell {age_max} s", world.failures);
    assert!(age_max <= 22 * HOUR + 1800, "{age_max} s");

    let in_22_hours = |from: u64| world.look_ups_at.iter().filter(|at| (from..from + 22 * HOUR).contains(at)).count();
    let most = (START..world.now).step_by(1800).map(in_22_hours).max().unwrap();
    println!("most look-ups in 22 h: {most}");
    assert!(most <= CIDS / 500, "0.2 % of one for each CID");
    let steady = (world.cost.look_ups - before.look_ups) / 24;
    assert!(world.most_in_an_hour(from, world.now) <= 2 * steady + 2);
}

#[test]
fn every_cid_comes_to_the_closest_servers() {
    let mut random = StdRng::seed_from_u64(seed());
    let cids = Cids::new(&mut random);
    for servers in [SERVERS * 3 / 4, SERVERS, SERVERS * 5 / 4, SERVERS * 2] {
        let network = Network::new(servers, &mut random);
        let (mut cost, mut exact) = (Cost::default(), HashSet::new());
        let mut next = Some(Prefix::ALL.first());
        while let Some(at) = next {
            let region = provide_region(&network, &cids, &at, &mut cost, |sample, servers| {
                let wanted = network.closest(&cids.0[sample * CIDS / SAMPLE], REPLICATION);
                if servers.iter().filter(|server| wanted.contains(server)).count() == REPLICATION {
                    exact.insert(sample);
                }
            });
            next = region.last().successor();
        }
        println!(
            "{servers} servers: {} look-ups asking {} servers; {} streams, {} messages; {} regions inexact, {:.2} % of CIDs exact",
            cost.look_ups,
            cost.contacts,
            cost.streams,
            cost.messages,
            cost.inexact,
            exact.len() as f64 / SAMPLE as f64 * 100.0,
        );
        assert_eq!((cost.inexact, exact.len()), (0, SAMPLE));
        // Some regions reach back into those before.
        assert!((CIDS * REPLICATION..CIDS * REPLICATION * 5 / 4).contains(&cost.messages), "{}", cost.messages);
        assert!(cost.look_ups <= servers / 8, "{}", cost.look_ups);
    }
}

#[test]
fn a_crowded_cell_takes_many_look_ups() {
    let mut random = StdRng::seed_from_u64(seed());
    let (cids, mut network) = (Cids::new(&mut random), Network::new(1000, &mut random));
    let cell = Cell::of(&cids.0[0]);
    network.servers.extend((0..1000).map(|_| {
        let mut key = random_key(&mut random);
        key.0[..2].copy_from_slice(&[0, random.random_range(0..16)]);
        key
    }));
    let mut cost = Cost::default();
    assert_eq!(provide_cell(&network, &cids, cell, &mut cost, |_, _| {}), cell.prefix());
    assert_eq!(cost.messages, cids.within(&cell.prefix()).0.len() * REPLICATION);
    // Regions are so small there that no place in their gaps is guessed, so each is that of one look-up.
    assert!((16..256).contains(&cost.look_ups), "{}", cost.look_ups);
}
