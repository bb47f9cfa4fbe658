//! Under which addresses others reach this node: what the operator says, and what AutoNAT v2 has shown.
//!
//! An address that may be ours (an interface has it, a router has mapped it, peers see us under it) is a candidate. Others that
//! offer it are asked to dial a candidate, one after the other, until enough of them could or couldn't; later they are asked again.
//! Pure: who is asked is decided here, asking is [`autonat`]'s.

pub(super) mod autonat;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::address::{self, Host, Network};
use super::profile::Profile;

/// Testers that have to reach an address before it counts as confirmed: a single one may lie.
const REACHED_ENOUGH: usize = 2;

/// Testers that couldn't reach an address before it counts as unreachable: some have no IPv6, or a broken network.
const MISSED_ENOUGH: usize = 3;

/// A round that was answered at all is decided after this time, with fewer testers than that.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// The wait until a confirmed address is tested again.
const AGAIN_CONFIRMED: Duration = Duration::from_mins(30);

/// The same for one that nobody reached: whoever has just opened a port in the router wants to see it soon.
const AGAIN_UNREACHABLE: Duration = Duration::from_mins(5);

/// The wait after a tester declined: what one doesn't do, such as to dial by UDP, the next ones may not do either.
const DECLINED_WAIT: Duration = Duration::from_secs(5);

/// Candidates that are kept.
const CANDIDATES_MAX: usize = 16;

/// Tests that run at the same time.
const TESTS_MAX: usize = 4;

/// Peers that are remembered as testers.
const TESTERS_MAX: usize = 64;

/// What peers said of our address, as far as it is remembered.
const OBSERVATIONS_MAX: usize = 64;

/// Observers in different networks that have to agree before an address is tested.
const OBSERVERS_ENOUGH: usize = 2;

/// Without any candidate after this time, nobody can reach us directly.
const CANDIDATE_WAIT: Duration = Duration::from_secs(20);

/// So long nobody may know whether we are reached; then places at relays are taken, which harms nothing.
const RELAY_WAIT: Duration = Duration::from_secs(30);

/// Why an address may be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The operator says so.
    Configured,
    /// An interface of this machine has it.
    Interface,
    /// The router has mapped it, by UPnP.
    Mapped,
    /// Peers see us under it.
    Observed,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Untested,
    /// Others have reached us there.
    Confirmed,
    /// Others have tried, and couldn't.
    Unreachable,
}

/// A look at an address that may be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The address, without our peer id.
    pub address: Multiaddr,
    /// Why it may be ours.
    pub source: Source,
    /// What the last round of tests has shown.
    pub state: State,
    /// What the last tester that couldn't reach it said.
    pub problem: Option<String>,
}

/// Whether others reach this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// At one of its addresses at least.
    Reachable,
    /// Only through relays.
    Relayed,
    /// At none.
    Unreachable,
    /// Nobody could be asked yet.
    Unknown,
}

/// What the router does for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterState {
    /// Nothing: it isn't asked.
    NotAsked,
    /// It is being looked for.
    Searched,
    /// None was found that forwards ports.
    Missing,
    /// It has no globally routable address itself.
    BehindAnother,
    /// It forwards ports to this node.
    Mapped,
}

/// A look at all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// Whether others reach this node.
    pub standing: Standing,
    /// Our addresses at relays that have a place for us.
    pub relayed: Vec<Multiaddr>,
    /// Addresses that may be ours.
    pub tested: Vec<Tested>,
    /// Peers known that test addresses.
    pub testers: usize,
    /// What the router does for us.
    pub router: RouterState,
    /// Relays known that offer places; `None` where they aren't used.
    pub relays: Option<usize>,
}

/// A test to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) tester: PeerId,
    pub(super) address: Multiaddr,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The tester reached us.
    Reached,
    /// It couldn't, and says why.
    Missed(String),
    /// It didn't try.
    Declined,
    /// It can't be asked.
    Gone,
}

#[derive(Debug)]
struct Candidate {
    address: Multiaddr,
    source: Source,
    state: State,
    problem: Option<String>,
    /// Whom this round has asked.
    asked: HashSet<PeerId>,
    reached: usize,
    missed: usize,
    is_running: bool,
    next_test_at: Instant,
    /// When the round began in which somebody was asked.
    asked_at: Option<Instant>,
    /// When the round is decided at the latest: some time after its first answer.
    decide_at: Option<Instant>,
}

impl Candidate {
    fn new(address: Multiaddr, source: Source, now: Instant) -> Self {
        Self {
            address,
            source,
            state: State::Untested,
            problem: None,
            asked: HashSet::new(),
            reached: 0,
            missed: 0,
            is_running: false,
            next_test_at: now,
            asked_at: None,
            decide_at: None,
        }
    }

    /// Ends the round if enough is known.
    fn decide(&mut self, now: Instant) {
        let is_over = self.decide_at.is_some_and(|at| at <= now);
        let decided = if self.reached >= REACHED_ENOUGH || (is_over && self.reached > self.missed) {
            State::Confirmed
        } else if self.missed >= MISSED_ENOUGH || (is_over && self.missed > 0) {
            State::Unreachable
        } else {
            // Nobody who was asked has tried: they may another time.
            if self.asked_at.is_some_and(|at| now.saturating_duration_since(at) >= AGAIN_UNREACHABLE) {
                self.asked_at = None;
                self.asked.clear();
            }
            return;
        };
        let again = if decided == State::Confirmed { AGAIN_CONFIRMED } else { AGAIN_UNREACHABLE };
        if decided == State::Confirmed {
            self.problem = None;
        }
        (self.state, self.next_test_at) = (decided, now + again);
        (self.asked_at, self.decide_at, self.reached, self.missed) = (None, None, 0, 0);
        self.asked.clear();
    }
}

#[derive(Debug)]
struct Tester {
    peer: PeerId,
    is_connected: bool,
    last_asked: Option<Instant>,
}

#[derive(Debug)]
struct Observation {
    by: PeerId,
    network: Network,
    address: Multiaddr,
}

/// What decides which addresses are tested, and by whom. For the public profile only: others don't need it.
#[derive(Debug)]
pub(super) struct Reach {
    started: Instant,
    candidates: Vec<Candidate>,
    testers: Vec<Tester>,
    observations: Vec<Observation>,
    listening: Vec<Multiaddr>,
    running: usize,
}

impl Reach {
    /// With the addresses that the operator names, which count whatever tests show.
    pub(super) fn new(configured: &[Multiaddr], now: Instant) -> Self {
        let mut reach = Self {
            started: now,
            candidates: Vec::new(),
            testers: Vec::new(),
            observations: Vec::new(),
            listening: Vec::new(),
            running: 0,
        };
        for address in configured {
            reach.add(&address::without_peer(address), Source::Configured, now);
        }
        reach
    }

    /// The node listens there now, and nowhere else.
    pub(super) fn listens_on(&mut self, addresses: &[Multiaddr], now: Instant) {
        self.listening = addresses.iter().map(address::without_peer).collect();
        let listening = &self.listening;
        self.candidates.retain(|each| each.source != Source::Interface || listening.contains(&each.address));
        for address in self.listening.clone() {
            self.add(&address, Source::Interface, now);
        }
    }

    /// The router forwards this address.
    pub(super) fn mapped(&mut self, address: &Multiaddr, now: Instant) {
        self.add(&address::without_peer(address), Source::Mapped, now);
    }

    /// It no longer does.
    pub(super) fn unmapped(&mut self, address: &Multiaddr) {
        self.candidates.retain(|each| each.source != Source::Mapped || each.address != address::without_peer(address));
    }

    /// A peer sees us under this address, and is itself connected from `from`.
    pub(super) fn observed(&mut self, by: PeerId, from: IpAddr, address: &Multiaddr, now: Instant) {
        let address = address::without_peer(address);
        if !Profile::Public.may_announce(&address) {
            return;
        }
        self.observations.retain(|each| each.by != by);
        if self.observations.len() >= OBSERVATIONS_MAX {
            self.observations.remove(0);
        }
        self.observations.push(Observation { by, network: address::network(from), address: address.clone() });
        if self.agree(|each| *each == address) {
            self.add(&address, Source::Observed, now);
        }
        // A router that forwards our ports may give other ones to what we dial.
        let host = address::parts(&address).map(|parts| parts.host);
        let Ok(Host::Ip(ip)) = host else { return };
        if self.agree(|each| address::parts(each).is_ok_and(|parts| parts.host == Host::Ip(ip))) {
            for listening in self.listening.clone() {
                if let Some(forwarded) = address::with_ip(&listening, ip) {
                    self.add(&forwarded, Source::Observed, now);
                }
            }
        }
    }

    /// Whether observers in enough different networks say such an address.
    fn agree(&self, is_such: impl Fn(&Multiaddr) -> bool) -> bool {
        let such = self.observations.iter().filter(|each| is_such(&each.address));
        such.map(|each| each.network).collect::<HashSet<_>>().len() >= OBSERVERS_ENOUGH
    }

    fn add(&mut self, address: &Multiaddr, source: Source, now: Instant) {
        if source != Source::Configured && !Profile::Public.may_announce(address) {
            return;
        }
        if let Some(known) = self.candidates.iter_mut().find(|each| each.address == *address) {
            known.source = known.source.min(source);
            return;
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            let is_weak = |each: &Candidate| {
                each.source == Source::Observed && each.state != State::Confirmed && !each.is_running
            };
            let Some(weak) = self.candidates.iter().position(is_weak) else { return };
            self.candidates.remove(weak);
        }
        self.candidates.push(Candidate::new(address.clone(), source, now));
    }

    /// A connected peer offers to test addresses.
    pub(super) fn found_tester(&mut self, peer: PeerId) {
        if let Some(known) = self.testers.iter_mut().find(|each| each.peer == peer) {
            known.is_connected = true;
            return;
        }
        if self.testers.len() >= TESTERS_MAX {
            let Some(gone) = self.testers.iter().position(|each| !each.is_connected) else { return };
            self.testers.remove(gone);
        }
        self.testers.push(Tester { peer, is_connected: true, last_asked: None });
    }

    /// A peer is connected no longer. It is still known, and may be dialled for a test.
    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(known) = self.testers.iter_mut().find(|each| each.peer == *peer) {
            known.is_connected = false;
        }
    }

    /// The next test to be made now, if there is any; [`Reach::tested`] has to follow.
    pub(super) fn next_test(&mut self, now: Instant) -> Option<Test> {
        for candidate in &mut self.candidates {
            candidate.decide(now);
        }
        if self.running >= TESTS_MAX {
            return None;
        }
        for candidate in &mut self.candidates {
            if candidate.is_running || candidate.next_test_at > now {
                continue;
            }
            let unasked = self.testers.iter_mut().filter(|tester| !candidate.asked.contains(&tester.peer));
            // Those who are connected first, and whoever was asked longest ago.
            let Some(tester) = unasked.min_by_key(|tester| (!tester.is_connected, tester.last_asked)) else {
                continue;
            };
            tester.last_asked = Some(now);
            candidate.asked.insert(tester.peer);
            candidate.asked_at.get_or_insert(now);
            candidate.is_running = true;
            self.running += 1;
            return Some(Test { tester: tester.peer, address: candidate.address.clone() });
        }
        None
    }

    /// What came of a test.
    pub(super) fn tested(&mut self, test: &Test, outcome: Outcome, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if outcome == Outcome::Gone {
            self.testers.retain(|each| each.peer != test.tester);
        }
        let Some(candidate) = self.candidates.iter_mut().find(|each| each.address == test.address) else { return };
        candidate.is_running = false;
        match outcome {
            Outcome::Reached => candidate.reached += 1,
            Outcome::Missed(problem) => {
                candidate.missed += 1;
                candidate.problem = Some(problem);
            }
            Outcome::Declined | Outcome::Gone => {
                candidate.next_test_at = now + DECLINED_WAIT;
                return;
            }
        }
        candidate.decide_at.get_or_insert(now + ROUND_MAX);
        candidate.decide(now);
    }

    /// The addresses that tests have confirmed; those that the operator names count besides.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &Multiaddr> {
        self.candidates.iter().filter(|each| each.state == State::Confirmed).map(|each| &each.address)
    }

    /// Whether this node should have a place at a relay: nobody reaches it, or nobody can tell since a while.
    pub(super) fn needs_relay(&self, now: Instant) -> bool {
        match self.standing(&[], now) {
            Standing::Reachable => false,
            Standing::Unreachable | Standing::Relayed => true,
            Standing::Unknown => now.saturating_duration_since(self.started) >= RELAY_WAIT,
        }
    }

    /// Whether others reach this node, which has these addresses at relays.
    pub(super) fn standing(&self, relayed: &[Multiaddr], now: Instant) -> Standing {
        let counts = |each: &Candidate| each.state == State::Confirmed || each.source == Source::Configured;
        if self.candidates.iter().any(counts) {
            return Standing::Reachable;
        }
        if !relayed.is_empty() {
            return Standing::Relayed;
        }
        let is_early = now.saturating_duration_since(self.started) < CANDIDATE_WAIT;
        // One that testers have declined to dial may stay open for ever.
        let is_open = self
            .candidates
            .iter()
            .any(|each| each.state == State::Untested && (each.is_running || each.asked.is_empty()));
        let has_nobody = self.candidates.is_empty() && (is_early || self.observations.is_empty());
        if is_open || has_nobody { Standing::Unknown } else { Standing::Unreachable }
    }

    /// A look at the part of it that is decided here.
    pub(super) fn look(&self, relayed: Vec<Multiaddr>, now: Instant) -> Reachability {
        let tested = self.candidates.iter().map(|each| Tested {
            address: each.address.clone(),
            source: each.source,
            state: each.state,
            problem: each.problem.clone(),
        });
        let standing = self.standing(&relayed, now);
        Reachability {
            standing,
            relayed,
            tested: tested.collect(),
            testers: self.testers.len(),
            router: RouterState::NotAsked,
            relays: None,
        }
    }
}

#[cfg(test)]
mod tests;
