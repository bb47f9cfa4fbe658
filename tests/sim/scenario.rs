//! What a seed stands for: DAGs, nodes, links between them, and what goes wrong when.
//!
//! Node 0 is the fetcher that everything is about. The others are linked with it; a last one may fetch from it what it is
//! fetching itself.

use std::time::Duration;

use pinnace::bitswap::wire::Protocol;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::dags::{self, Dag, DagPlan, Shape, Sizes};

/// What a node is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// Fetches, serves what it has, and begins with this share of the blocks.
    Fetcher {
        /// Of 1,000 blocks.
        held: u32,
    },
    /// Has this share of the blocks and serves them.
    Provider {
        /// Of 1,000 blocks.
        held: u32,
    },
    /// Breaks the rules.
    Liar(Lie),
}

/// How a node breaks the rules. Each has all the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Sends other bytes than those that were asked for.
    WrongBytes,
    /// Says that it has everything, and delivers nothing.
    PromisesOnly,
    /// Says that it doesn't have a block, and then sends it.
    DeniesThenSends,
    /// Sends blocks that nobody asked for, and no others.
    Unwanted,
    /// Sends each block three times.
    Repeats,
    /// Doesn't read what it is sent.
    StopsReading,
    /// Never answers.
    Silent,
    /// Sends what is no message at all, between messages that are.
    Garbage,
    /// Says that it has what it hasn't, and the other way round, again and again.
    Contradicts,
    /// Answers honestly for a while, and never again.
    FallsSilent,
    /// Wants more than anyone may, of everyone.
    Greedy,
}

impl Lie {
    const ALL: [Self; 11] = [
        Self::WrongBytes,
        Self::PromisesOnly,
        Self::DeniesThenSends,
        Self::Unwanted,
        Self::Repeats,
        Self::StopsReading,
        Self::Silent,
        Self::Garbage,
        Self::Contradicts,
        Self::FallsSilent,
        Self::Greedy,
    ];
}

/// How long a node takes for things.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Between its event loop and a fetch, each way.
    pub hop: Duration,
    /// Looking blocks up, or reading them.
    pub read: Duration,
    /// A commit without blocks.
    pub commit: Duration,
    /// Blocks in a commit, in bytes per second.
    pub disk: u64,
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub struct NodePlan {
    /// What it is like.
    pub role: Role,
    /// How long it takes.
    pub speed: Speed,
}

/// A link between two nodes.
#[derive(Debug, Clone, Copy)]
pub struct LinkPlan {
    /// The nodes.
    pub ends: [usize; 2],
    /// One way.
    pub latency: Duration,
    /// At most this is added to the latency.
    pub jitter: Duration,
    /// Bytes per second, each way.
    pub bandwidth: u64,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether fetches of either end name the other as a source.
    pub source: bool,
}

/// What a node shall have in the end.
#[derive(Debug, Clone, Copy)]
pub struct FetchPlan {
    /// Who.
    pub node: usize,
    /// Which DAG.
    pub dag: usize,
    /// From when on.
    pub at: Duration,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A link is cut, for so long.
    Outage(usize, Duration),
    /// One of the connections that make up a link is lost, with all that is on its way.
    Reset(usize),
    /// Nothing gets through a link for so long, and nothing is lost.
    Pause(usize, Duration),
    /// A node loses all but what it stored, and is back after so long.
    Restart(usize, Duration),
}

/// Everything that a run depends on.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// The DAGs.
    pub dags: Vec<DagPlan>,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The links.
    pub links: Vec<LinkPlan>,
    /// The fetches.
    pub fetches: Vec<FetchPlan>,
    /// The faults, in the order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// Bytes that all fetches of a node may have in flight.
    pub bytes_in_flight_max: u64,
    /// How long a fetch may go without a block.
    pub stall_timeout: Duration,
}

fn one_of<T: Copy>(choices: &[T], random: &mut StdRng) -> T {
    choices[random.random_range(0..choices.len())]
}

fn milliseconds(range: std::ops::Range<u64>, random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(range))
}

impl Scenario {
    /// What a seed stands for.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        let mut dags: Vec<DagPlan> = (0..one_of(&[1, 1, 1, 2, 3], random)).map(|_| dag_plan(random)).collect();
        if random.random_range(0..30) == 0 {
            // Together they want more than one peer may be asked for.
            let wide = |blocks| DagPlan { shape: Shape::Wide, sizes: Sizes::Tiny, blocks };
            dags = (0..3).map(|_| wide(random.random_range(1000..2500))).collect();
        }
        let largest = dags.iter().map(|dag| dag.sizes).any(|sizes| matches!(sizes, Sizes::Chunk | Sizes::Large));
        // Quiet ones are for the bounds that lies and faults would blur.
        let quiet = random.random_range(0..3) == 0;
        let mut nodes = vec![NodePlan { role: Role::Fetcher { held: 0 }, speed: speed(random) }];
        if random.random_range(0..4) == 0 {
            nodes[0].role = Role::Fetcher { held: random.random_range(1..1000) };
        }
        let providers = one_of(&[1, 1, 1, 2, 2, 3, 5], random);
        for _ in 0..providers {
            let held = if random.random_range(0..4) == 0 { random.random_range(0..1000) } else { 1000 };
            nodes.push(NodePlan { role: Role::Provider { held }, speed: speed(random) });
        }
        if !quiet {
            for _ in 0..one_of(&[0, 0, 1, 1, 2, 4], random) {
                nodes.push(NodePlan { role: Role::Liar(one_of(&Lie::ALL, random)), speed: speed(random) });
            }
        }
        let mut links: Vec<LinkPlan> = (1..nodes.len()).map(|node| link_plan([0, node], largest, random)).collect();
        let mut fetches = Vec::new();
        for dag in 0..dags.len() {
            let at = if random.random() { Duration::ZERO } else { milliseconds(0..5000, random) };
            fetches.push(FetchPlan { node: 0, dag, at });
        }
        if random.random_range(0..5) == 0 {
            let node = nodes.len();
            nodes.push(NodePlan { role: Role::Fetcher { held: 0 }, speed: speed(random) });
            links.push(LinkPlan { source: true, protocol: Protocol::V1_2, ..link_plan([0, node], largest, random) });
            fetches.push(FetchPlan { node, dag: 0, at: milliseconds(0..5000, random) });
        }
        let faults = if quiet { Vec::new() } else { faults(nodes.len(), links.len(), random) };
        let bytes_in_flight_max = one_of(&[4, 4, 8, 32], random) * 1024 * 1024;
        let stall_timeout = Duration::from_secs(random.random_range(60..120));
        Self { seed, dags, nodes, links, fetches, faults, bytes_in_flight_max, stall_timeout }
    }

    /// The DAGs; those after the first may share blocks with it, as they come from the same random numbers only by chance.
    pub fn build_dags(&self) -> Vec<Dag> {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0xda65);
        self.dags.iter().map(|plan| dags::build(plan, &mut random)).collect()
    }

    /// Whether somebody breaks the rules.
    pub fn has_liars(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.role, Role::Liar(_)))
    }

    /// Whether there is no reason why a block should come twice: nobody lies, what was sent isn't lost, and all speak a Bitswap
    /// in which one can ask whether a block is there without getting it.
    pub fn is_orderly(&self) -> bool {
        let loses = |(_, fault): &(Duration, Fault)| !matches!(fault, Fault::Pause(..));
        let is_old = |link: &LinkPlan| link.protocol != Protocol::V1_2;
        !self.has_liars() && !self.faults.iter().any(loses) && !self.links.iter().any(is_old)
    }

    /// When the last fault is over.
    pub fn faults_end(&self) -> Duration {
        let ends = self.faults.iter().map(|(at, fault)| match fault {
            Fault::Outage(_, lasts) | Fault::Pause(_, lasts) | Fault::Restart(_, lasts) => *at + *lasts,
            Fault::Reset(_) => *at,
        });
        ends.max().unwrap_or_default()
    }
}

fn dag_plan(random: &mut StdRng) -> DagPlan {
    let shapes = [
        Shape::Single,
        Shape::Wide,
        Shape::Wide,
        Shape::File,
        Shape::File,
        Shape::Chain,
        Shape::Diamonds,
        Shape::Tangle,
    ];
    let sizes = [
        Sizes::Tiny,
        Sizes::Small,
        Sizes::Small,
        Sizes::Medium,
        Sizes::Medium,
        Sizes::Chunk,
        Sizes::Large,
        Sizes::Mixed,
        Sizes::Mixed,
    ];
    let (shape, sizes) = (one_of(&shapes, random), one_of(&sizes, random));
    // Small ones are the rule: they cost little, and most of what can go wrong happens in them too.
    let most = if random.random_range(0..5) == 0 { sizes.blocks_max() } else { sizes.blocks_max().min(120) };
    DagPlan { shape, sizes, blocks: random.random_range(1..=most) }
}

fn speed(random: &mut StdRng) -> Speed {
    Speed {
        hop: Duration::from_micros(random.random_range(0..2000)),
        read: Duration::from_micros(random.random_range(50..20_000)),
        commit: milliseconds(1..80, random),
        disk: one_of(&[5, 50, 300], random) * 1_000_000,
    }
}

fn link_plan(ends: [usize; 2], large: bool, random: &mut StdRng) -> LinkPlan {
    let slow = if large { 1000 } else { 100 };
    LinkPlan {
        ends,
        latency: one_of(
            &[Duration::from_micros(100), milliseconds(1..30, random), milliseconds(30..300, random)],
            random,
        ),
        jitter: one_of(&[Duration::ZERO, milliseconds(0..20, random)], random),
        bandwidth: one_of(&[slow, 1000, 10_000, 100_000], random) * 1000,
        protocol: one_of(&[Protocol::V1_2, Protocol::V1_2, Protocol::V1_2, Protocol::V1_1, Protocol::V1_0], random),
        source: random.random_range(0..4) > 0,
    }
}

fn faults(nodes: usize, links: usize, random: &mut StdRng) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    for _ in 0..one_of(&[0, 0, 1, 2, 4, 8], random) {
        let at = milliseconds(0..one_of(&[300, 3000, 30_000], random), random);
        let lasts = milliseconds(0..one_of(&[100, 5000, 40_000], random), random);
        let link = random.random_range(0..links);
        faults.push((
            at,
            match random.random_range(0..6) {
                0 | 1 => Fault::Outage(link, lasts),
                2 => Fault::Reset(link),
                3 => Fault::Pause(link, lasts.min(Duration::from_secs(15))),
                4 => Fault::Restart(0, lasts),
                _ => Fault::Restart(random.random_range(0..nodes), lasts),
            },
        ));
    }
    if random.random_range(0..6) == 0 {
        // A link that loses one connection after the other.
        let link = random.random_range(0..links);
        for _ in 0..random.random_range(5..60) {
            faults.push((milliseconds(0..8000, random), Fault::Reset(link)));
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
