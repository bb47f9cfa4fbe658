//! Runs a scenario in virtual time: one queue of events, links with latency and bandwidth, and the rules that have to hold.

mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pinnace::bitswap::wire::{Outgoing, Presence, WantKind};
use pinnace::dag::walk::WalkLimits;
use pinnace::fetch::core::{CoreError, FetchLimits, LocalDag};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::links::{Link, Way};
use crate::dags::{Dag, Key};
use crate::liar::{Liar, Payload};
use crate::node::{Budget, Effect, Lane, Node, NodeEvent, Received};
use crate::scenario::{Fault, LinkPlan, Role, Scenario};
use crate::store::Store;

/// Events within one second of virtual time: more is a loop that feeds itself.
const EVENTS_PER_SECOND_MAX: u32 = 100_000;

/// How long a fetch that stalled waits for its next try.
const RETRY: Duration = Duration::from_secs(10);

/// How often a fetch is tried that can't succeed.
const HOPELESS_TRIES: u32 = 2;

#[derive(Debug)]
enum Event {
    Start(usize),
    Boot(usize),
    Connect(usize),
    Fault(Fault),
    /// Something inside a node, in one of its lives.
    Node(usize, u32, NodeEvent),
    /// A message is written, or given up.
    Written {
        link: usize,
        epoch: u32,
        way: usize,
        bytes: Option<Bytes>,
    },
    /// A part of a message that is being written arrives.
    Part {
        link: usize,
        epoch: u32,
        way: usize,
    },
    /// A message arrives at the other end.
    Arrives {
        link: usize,
        epoch: u32,
        way: usize,
        bytes: Bytes,
    },
    /// A liar sends something.
    Lies {
        link: usize,
        epoch: u32,
        way: usize,
        payload: Payload,
    },
}

enum Actor {
    Honest(Box<Node>),
    Liar(Liar),
}

struct Seat {
    actor: Actor,
    /// Counts restarts.
    life: u32,
    running: bool,
}

#[derive(Debug)]
struct Progress {
    /// Its time has come.
    asked_for: bool,
    tries: u32,
    /// Until when it has to be done; `None` when nobody may have all of it.
    until: Option<Instant>,
    /// It has no reason to stall.
    calm: bool,
    done: Option<Duration>,
}

/// How much came more than once.
#[derive(Debug, Default, Clone, Copy)]
pub struct Repeated {
    /// Bytes of the DAGs that were fetched.
    pub bytes: u64,
    /// Bytes of blocks that came and that nobody wanted any longer.
    pub duplicates: u64,
}

impl Repeated {
    /// Together with those of another run.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.duplicates += other.duplicates;
    }

    /// Of 1,000 bytes.
    pub fn per_thousand(self) -> u64 {
        self.duplicates * 1000 / self.bytes.max(1)
    }
}

/// What came out of a run.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Fetches that were done.
    pub done: u64,
    /// Fetches that rightly weren't.
    pub stalled: u64,
    /// Bytes of the DAGs that were fetched.
    pub dag_bytes: u64,
    /// What the nodes received.
    pub received: Vec<Received>,
    /// Where nobody lies, no connection is lost, all speak today's Bitswap, and every link carries a block in half a second.
    pub swift: Repeated,
    /// The same, where a block may take longer.
    pub slow: Repeated,
    /// The largest part of its time that a fetch took.
    pub time_used: f64,
    /// Events.
    pub events: u64,
    /// Virtual time.
    pub lasted: Duration,
}

/// A run.
pub struct World<'a> {
    scenario: &'a Scenario,
    dags: Vec<Dag>,
    budget: Budget,
    seats: Vec<Seat>,
    links: Vec<Link>,
    progress: Vec<Progress>,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    random: StdRng,
    began: Instant,
    now: Instant,
    trace: bool,
    report: Report,
}

impl<'a> World<'a> {
    /// A run that begins.
    pub fn new(scenario: &'a Scenario, trace: bool) -> Self {
        let mut random = StdRng::seed_from_u64(scenario.seed ^ 0x5eed);
        let began = Instant::now();
        let dags = scenario.build_dags();
        let all: BTreeMap<Key, Bytes> = dags.iter().flat_map(|dag| dag.held.clone()).collect();
        let largest = dags.iter().map(|dag| dag.largest).max().unwrap_or_default();
        let budget = Budget { bytes_in_flight_max: scenario.bytes_in_flight_max, largest };
        let mut share = |held: u32| {
            let kept = all.iter().filter(|_| random.random_range(0..1000) < held);
            Store::new(kept.map(|(key, data)| (*key, data.clone())).collect())
        };
        let seat = |plan: &crate::scenario::NodePlan| {
            let actor = match plan.role {
                Role::Fetcher { held } | Role::Provider { held } => {
                    Actor::Honest(Box::new(Node::new(plan.speed, budget, share(held))))
                }
                Role::Liar(lie) => Actor::Liar(Liar::new(lie, all.clone())),
            };
            Seat { actor, life: 0, running: true }
        };
        let seats: Vec<Seat> = scenario.nodes.iter().map(seat).collect();
        let link = |plan: &LinkPlan| Link {
            plan: *plan,
            up: false,
            epoch: 0,
            down_until: began,
            paused_until: began,
            ways: [Way::default(), Way::default()],
        };
        let links = scenario.links.iter().map(link).collect();
        let report = Report::default();
        let queue = BTreeMap::new();
        let mut world = Self {
            scenario,
            dags,
            budget,
            seats,
            links,
            progress: vec![],
            queue,
            sequence: 0,
            random,
            began,
            now: began,
            trace,
            report,
        };
        for plan in 0..scenario.fetches.len() {
            let progress = world.prospect(plan);
            world.progress.push(progress);
        }
        for link in 0..world.links.len() {
            let delay = Duration::from_millis(world.random.random_range(0..1000));
            world.after(delay, Event::Connect(link));
        }
        for (plan, fetch) in scenario.fetches.iter().enumerate() {
            world.after(fetch.at, Event::Start(plan));
        }
        for (at, fault) in &scenario.faults {
            world.after(*at, Event::Fault(*fault));
        }
        world
    }

    /// Runs to the end, and checks that it ended as it has to.
    pub fn run(mut self) -> Report {
        let (mut second, mut events_in_second) = (0, 0);
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.report.events += 1;
            let this_second = self.elapsed().as_secs();
            if this_second != second {
                (second, events_in_second) = (this_second, 0);
            }
            events_in_second += 1;
            assert!(events_in_second < EVENTS_PER_SECOND_MAX, "the events never end: {event:?}");
            self.handle(event);
            for (plan, progress) in self.progress.iter().enumerate() {
                let late = progress.done.is_none() && progress.until.is_some_and(|until| self.now > until);
                assert!(!late, "plan {plan} isn't done after {:?}: {}", self.elapsed(), self.describe());
            }
        }
        self.finish()
    }

    fn elapsed(&self) -> Duration {
        self.now - self.began
    }

    fn describe(&self) -> String {
        let honest = self.seats.iter().enumerate().filter_map(|(index, seat)| match &seat.actor {
            Actor::Honest(node) => Some(format!("\n  node {index}: {:?}", node.describe())),
            Actor::Liar(_) => None,
        });
        honest.collect()
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", self.elapsed().as_secs_f64(), text());
        }
    }

    /// By when a fetch has to be done, if the honest nodes have all of its DAG between them.
    fn prospect(&self, plan: usize) -> Progress {
        let fetch = &self.scenario.fetches[plan];
        let dag = &self.dags[fetch.dag];
        let mut missing: BTreeSet<&Key> = dag.held.keys().collect();
        for seat in &self.seats {
            if let Actor::Honest(node) = &seat.actor {
                missing.retain(|key| !node.store.held.contains_key(*key));
            }
        }
        // A source that has everything, and a link that stays.
        let is_calm_source = |link: &LinkPlan| {
            let other = link.ends.iter().find(|end| **end != fetch.node).copied().unwrap_or_default();
            let has_all = |node: &Node| dag.held.keys().all(|key| node.store.held.contains_key(key));
            link.source
                && link.ends.contains(&fetch.node)
                && matches!(&self.seats[other].actor, Actor::Honest(node) if has_all(node))
        };
        let quiet = self.scenario.faults.is_empty();
        // The last node's source gets all of it in time, when nobody lies to it.
        let follows =
            fetch.node != 0 && !self.scenario.has_liars() && self.progress.first().is_some_and(|first| first.calm);
        let calm = quiet && (follows || self.scenario.links.iter().any(is_calm_source));
        let until = missing.is_empty().then(|| self.began + self.time_allowed(dag, calm));
        Progress { asked_for: false, tries: 0, until, calm, done: None }
    }

    /// What a fetch may take, from the start of the run: generous, so that only what is stuck is late.
    fn time_allowed(&self, dag: &Dag, calm: bool) -> Duration {
        let honest = |link: &&Link| link.plan.ends.iter().all(|end| matches!(self.seats[*end].actor, Actor::Honest(_)));
        let links = || self.links.iter().filter(honest).map(|link| &link.plan);
        let slowest = links().map(|link| link.bandwidth).min().unwrap_or(1);
        let trip = links().map(|link| 2 * (link.latency + link.jitter)).max().unwrap_or_default();
        let disk = self.scenario.nodes.iter().map(|node| node.speed.disk).min().unwrap_or(1);
        let step = self.scenario.nodes.iter().map(|node| 2 * node.speed.read + 6 * node.speed.hop + node.speed.commit);
        let step = step.max().unwrap_or_default();
        // Through every link and onto every disk, twice over: the last node fetches from the first.
        let all_bytes: u64 = self.dags.iter().map(|dag| dag.bytes + 300 * dag.blocks).sum();
        let transfer =
            Duration::from_secs_f64(4.0 * all_bytes as f64 / slowest as f64 + 4.0 * all_bytes as f64 / disk as f64);
        let messages = u32::try_from(dag.blocks / 64 + all_bytes / 262_144).unwrap_or(u32::MAX);
        let trips = 4 * (trip + step) * (2 * dag.depth + messages);
        let liars = self.seats.iter().filter(|seat| matches!(seat.actor, Actor::Liar(_))).count();
        let liars = u32::try_from(liars).unwrap_or(u32::MAX) * Duration::from_secs(60);
        let stalls =
            if calm { Duration::ZERO } else { self.scenario.faults_end() + 3 * (self.scenario.stall_timeout + RETRY) };
        Duration::from_secs(40) + transfer + trips + liars + stalls
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(plan) => self.start(plan),
            Event::Boot(node) => self.boot(node),
            Event::Connect(link) => self.connect(link),
            Event::Fault(fault) => self.fault(fault),
            Event::Node(index, life, event) => {
                let seat = &mut self.seats[index];
                if seat.running
                    && seat.life == life
                    && let Actor::Honest(node) = &mut seat.actor
                {
                    node.handle(event, self.now);
                    self.carry_out(index);
                }
            }
            Event::Written { link, epoch, way, bytes } => self.written(link, epoch, way, bytes),
            Event::Part { link, epoch, way } => self.part(link, epoch, way),
            Event::Arrives { link, epoch, way, bytes } => self.arrives(link, epoch, way, bytes),
            Event::Lies { link, epoch, way, payload } => {
                if self.links[link].up && self.links[link].epoch == epoch {
                    self.links[link].ways[way].blocks.push_back(payload);
                    self.write(link, way);
                }
            }
        }
    }

    fn start(&mut self, plan: usize) {
        let fetch = &self.scenario.fetches[plan];
        let seat = &mut self.seats[fetch.node];
        self.progress[plan].asked_for = true;
        if !seat.running || self.progress[plan].done.is_some() {
            return;
        }
        let ends = self.scenario.links.iter().enumerate();
        let sources = ends.filter(|(_, link)| link.source && link.ends.contains(&fetch.node)).map(|(link, _)| link);
        let limits = FetchLimits { dag: WalkLimits::NONE, stall_timeout: self.scenario.stall_timeout };
        if let Actor::Honest(node) = &mut seat.actor
            && !node.is_fetching(plan)
        {
            self.progress[plan].tries += 1;
            node.start(plan, self.dags[fetch.dag].root, sources.collect(), limits, self.now);
            self.say(|| format!("node {} begins plan {plan}", fetch.node));
            self.carry_out(fetch.node);
        }
    }

    /// Does what a node asks for.
    fn carry_out(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        let life = seat.life;
        let Actor::Honest(node) = &mut seat.actor else { return };
        for effect in node.take_effects() {
            match effect {
                Effect::After(delay, event) => self.after(delay, Event::Node(index, life, event)),
                Effect::Send(link, lane, message) => {
                    let way = usize::from(self.links[link].plan.ends[0] != index);
                    self.say(|| format!("node {index} link {link}: {}", summary(&message)));
                    let state = &mut self.links[link].ways[way];
                    match lane {
                        Lane::Wants => state.wants.push_back(message),
                        Lane::Presences => state.presences.push_back(message),
                        Lane::Blocks => state.blocks.push_back(Payload::Message(message)),
                    }
                    self.write(link, way);
                }
                Effect::Ended(plan, result) => self.ended(plan, result),
            }
        }
    }

    /// A fetch is over, one way or the other.
    fn ended(&mut self, plan: usize, result: Result<LocalDag, CoreError>) {
        self.say(|| format!("plan {plan} ends: {result:?}"));
        let fetch = &self.scenario.fetches[plan];
        let dag = &self.dags[fetch.dag];
        let possible = self.progress[plan].until.is_some();
        match result {
            Ok(local) => {
                let expected = LocalDag { blocks: dag.blocks, bytes: dag.bytes };
                assert_eq!(local, expected, "plan {plan} counts what isn't there");
                if let Actor::Honest(node) = &self.seats[fetch.node].actor {
                    let missing = dag.held.keys().filter(|key| !node.store.held.contains_key(*key)).count();
                    assert_eq!(missing, 0, "plan {plan} says that it is done, and {missing} blocks aren't durable");
                }
                self.progress[plan].done = Some(self.elapsed());
                self.report.done += 1;
                self.report.dag_bytes += dag.bytes;
            }
            Err(CoreError::Dag(error)) => panic!("plan {plan}: a sound DAG is refused: {error}"),
            Err(CoreError::Stalled { .. }) if possible && self.progress[plan].calm => {
                panic!("plan {plan} stalls after {:?}, though an honest source has all of it", self.elapsed());
            }
            Err(CoreError::Stalled { .. }) if possible || self.progress[plan].tries < HOPELESS_TRIES => {
                self.after(RETRY, Event::Start(plan));
            }
            Err(CoreError::Stalled { .. }) => self.report.stalled += 1,
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.say(|| format!("{fault:?}"));
        match fault {
            Fault::Outage(link, lasts) => {
                self.disconnect(link);
                self.links[link].down_until = self.links[link].down_until.max(self.now + lasts);
                self.after(lasts, Event::Connect(link));
            }
            Fault::Reset(link) => self.reset(link),
            Fault::Pause(link, lasts) => {
                self.links[link].paused_until = self.links[link].paused_until.max(self.now + lasts);
            }
            Fault::Restart(index, lasts) => {
                if !self.seats[index].running {
                    return;
                }
                self.seats[index].running = false;
                self.seats[index].life += 1;
                for link in self.links_of(index) {
                    self.disconnect(link);
                }
                self.after(lasts, Event::Boot(index));
            }
        }
    }

    fn links_of(&self, index: usize) -> Vec<usize> {
        (0..self.links.len()).filter(|link| self.links[*link].plan.ends.contains(&index)).collect()
    }

    fn boot(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        seat.running = true;
        if let Actor::Honest(node) = &mut seat.actor {
            let store = Store::new(std::mem::take(&mut node.store.held));
            let received = node.received;
            **node = Node::new(self.scenario.nodes[index].speed, self.budget, store);
            node.received = received;
        }
        for link in self.links_of(index) {
            self.connect(link);
        }
        for plan in 0..self.scenario.fetches.len() {
            // What would begin later anyway isn't begun twice.
            if self.scenario.fetches[plan].node == index && self.progress[plan].asked_for {
                self.start(plan);
            }
        }
    }

    /// Everything is over: compares with what was to come out.
    fn finish(mut self) -> Report {
        for (plan, progress) in self.progress.iter().enumerate() {
            let Some(until) = progress.until else { continue };
            let done = progress.done.unwrap_or_else(|| panic!("plan {plan} was given up: {}", self.describe()));
            let used = done.as_secs_f64() / (until - self.began).as_secs_f64();
            self.report.time_used = self.report.time_used.max(used);
        }
        let honest: BTreeSet<usize> = (0..self.links.len())
            .filter(|link| {
                let ends = &self.links[*link].plan.ends;
                ends.iter().all(|end| matches!(self.seats[*end].actor, Actor::Honest(_)))
            })
            .collect();
        for (index, seat) in self.seats.iter().enumerate() {
            let Actor::Honest(node) = &seat.actor else { continue };
            node.assert_idle(&honest);
            self.report.received.push(node.received);
            let plans = self.scenario.fetches.iter().enumerate().filter(|(_, fetch)| fetch.node == index);
            let expected: BTreeSet<_> = plans.flat_map(|(_, fetch)| &self.dags[fetch.dag].held).collect();
            if index == 0 {
                for (key, data) in &node.store.held {
                    assert!(expected.contains(&(key, data)), "a block is stored that belongs to nothing");
                }
            }
        }
        if self.scenario.is_orderly() {
            // Where a single block takes long, it is asked of somebody else before it can be known that it is on its way.
            let slowest = self.scenario.links.iter().map(|link| link.bandwidth).min().unwrap_or(1);
            let kind = if self.budget.largest <= slowest / 2 { &mut self.report.swift } else { &mut self.report.slow };
            kind.bytes = self.report.dag_bytes;
            kind.duplicates = self.report.received.iter().map(|received| received.unwanted_bytes).sum();
        }
        self.report.lasted = self.elapsed();
        self.report
    }
}

/// What a message says, in a few words.
fn summary(message: &Outgoing) -> String {
    let cancels = message.wants.iter().filter(|want| want.cancel).count();
    let haves = message.wants.iter().filter(|want| !want.cancel && want.kind == WantKind::Have).count();
    let wants = message.wants.len() - cancels - haves;
    let full = if message.full { "all wants: " } else { "" };
    let bytes: usize = message.blocks.iter().map(|(_, data)| data.len()).sum();
    let has = message.presences.iter().filter(|(_, presence)| *presence == Presence::Have).count();
    let lacks = message.presences.len() - has;
    let parts = [(wants, "wanted"), (haves, "asked for"), (cancels, "cancelled"), (has, "there"), (lacks, "not there")];
    let mut words: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !message.blocks.is_empty() {
        words.push(format!("{} blocks of {bytes} bytes", message.blocks.len()));
    }
    format!("{full}{}", words.join(", "))
}
