//! One fetch's view of its peers: which of them is asked for which block.
//!
//! Peers that a pin names as origins, and peers that had an earlier block, are asked for blocks straight away; all
//! others only whether they have one. Each provider has a window of outstanding wants that follows its pace, and a want goes
//! to whoever should deliver it soonest. A want whose answer is late goes to another provider, or to the same one again, and
//! strangers are asked about it too. A provider with nothing to do takes over what a slower one wouldn't deliver for long.
//!
//! Nothing here depends on the order of a hash table, so that a simulated run can be repeated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use cid::Cid;

pub use self::answers::Answers;
use self::answers::Tally;
use self::pace::{Mark, Pace};
use super::PeerNumber;
use super::wire::WantKind;

mod answers;
mod late;
mod moves;
mod pace;
#[cfg(test)]
mod tests;

/// How often the time that a peer is given doubles.
const DOUBLINGS_MAX: u32 = 4;

/// Wants that are passed over, because those who have them are busy, in search of one for somebody who isn't.
const PASSED_OVER_MAX: usize = 512;

/// What a block is taken to have before the first one came, in bytes: the default chunk of Kubo.
const BLOCK_BYTES_GUESS: u64 = 256 * 1024;

/// Wants for which peers without a known role are asked at the same time.
const SEARCHED_WANTS_MAX: usize = 32;

/// Wants that a peer denied and that stay on its list, so that it sends the block if it gets it later.
const DENIED_KEPT_MAX: usize = 64;

/// How long a denial counts that isn't kept on the peer's list; twice as long each time.
const DENIAL_MIN: Duration = Duration::from_secs(5);

/// What has to be told to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the peer.
    Ask {
        /// Whom.
        peer: PeerNumber,
        /// For what.
        cid: Cid,
        /// The block, or whether it has it.
        kind: WantKind,
    },
    /// Take the question back.
    Withdraw {
        /// From whom.
        peer: PeerNumber,
        /// For what.
        cid: Cid,
    },
}

#[derive(Debug)]
struct Peer {
    outstanding: usize,
    pace: Pace,
    /// When it last delivered, or was first asked after having nothing to deliver.
    active_at: Instant,
    /// How often it was late since it last delivered.
    late: u32,
    /// When a part of a block last came from it, or of something else that it was asked for.
    sending_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: PeerNumber,
    mark: Mark,
}

#[derive(Debug, Clone, Copy)]
struct Denial {
    peer: PeerNumber,
    /// When it may be asked again; `None` while the want is on its list.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Want {
    cid: Cid,
    /// The peer that is asked for the block now, and a second one that should be sooner.
    asked: Option<Asked>,
    second: Option<Asked>,
    /// Peers that don't have it.
    denied: Vec<Denial>,
    /// How many denials have run out.
    denials: u32,
    /// Peers that were late with it, once for each time.
    late: Vec<PeerNumber>,
    /// Peers that were asked whether they have it.
    searched: BTreeSet<PeerNumber>,
}

impl Want {
    fn is_denied_by(&self, peer: PeerNumber) -> bool {
        self.denied.iter().any(|denial| denial.peer == peer)
    }

    fn is_asked_of(&self, peer: PeerNumber) -> bool {
        self.asked.is_some_and(|asked| asked.peer == peer) || self.second.is_some_and(|asked| asked.peer == peer)
    }

    fn times_late(&self, peer: PeerNumber) -> usize {
        self.late.iter().filter(|late| **late == peer).count()
    }
}

/// The place of a want in the order of the DAG.
type Order = u64;

/// The session.
#[derive(Debug, Default)]
pub struct Session {
    peers: BTreeMap<PeerNumber, Peer>,
    /// Those of `peers` that are asked for blocks: named as origins, or had a block before.
    providers: BTreeSet<PeerNumber>,
    wants: BTreeMap<Order, Want>,
    orders: HashMap<Cid, Order>,
    next_order: Order,
    /// Wants without a peer that is asked for the block.
    unassigned: BTreeSet<Order>,
    /// Wants that no provider has (or is connected for), or that a provider was late with.
    searching: BTreeSet<Order>,
    denied_kept: usize,
    blocks: u64,
    bytes: u64,
    /// Bytes that were asked for a second time on purpose.
    second_bytes: u64,
    /// The largest block lately: it fades by a sixteenth with each further block.
    recent_bytes_max: u64,
    tally: Tally,
    actions: Vec<Action>,
}

impl Session {
    /// A session without peers and wants.
    pub fn new() -> Self {
        Self::default()
    }

    /// A peer is connected; `provider` says that it is named as an origin.
    pub fn peer_connected(&mut self, peer: PeerNumber, provider: bool, now: Instant) {
        let new = Peer { outstanding: 0, pace: Pace::new(now), active_at: now, late: 0, sending_at: None };
        self.peers.entry(peer).or_insert(new);
        if provider {
            self.providers.insert(peer);
        }
        self.retry_searching();
    }

    /// A peer is gone: what it was asked for goes to others.
    pub fn peer_gone(&mut self, peer: PeerNumber) {
        if self.peers.remove(&peer).is_none() {
            return;
        }
        self.providers.remove(&peer);
        for (order, want) in &mut self.wants {
            let kept = want.denied.iter().filter(|denial| denial.peer == peer && denial.until.is_none()).count();
            self.denied_kept -= kept;
            want.denied.retain(|denial| denial.peer != peer);
            want.late.retain(|late| *late != peer);
            want.searched.remove(&peer);
            if want.second.is_some_and(|asked| asked.peer == peer) {
                want.second = None;
            }
            if want.asked.is_some_and(|asked| asked.peer == peer) {
                want.asked = want.second.take();
                if want.asked.is_none() {
                    self.unassigned.insert(*order);
                }
            }
        }
    }

    /// Wants a block.
    pub fn want(&mut self, cid: Cid) {
        if self.orders.contains_key(&cid) {
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        self.orders.insert(cid, order);
        self.unassigned.insert(order);
        let (denied, late, searched) = (Vec::new(), Vec::new(), BTreeSet::new());
        self.wants.insert(order, Want { cid, asked: None, second: None, denied, denials: 0, late, searched });
    }

    /// A wanted block came, from whomever. Returns false when it wasn't wanted.
    pub fn handle_block(&mut self, from: PeerNumber, cid: &Cid, bytes: u64, now: Instant) -> bool {
        let Some(order) = self.orders.remove(cid) else { return false };
        let Some(want) = self.wants.remove(&order) else { return false };
        self.searching.remove(&order);
        self.unassigned.remove(&order);
        self.denied_kept -= want.denied.iter().filter(|denial| denial.until.is_none()).count();
        self.blocks += 1;
        self.bytes += bytes;
        self.tally.came(from, bytes);
        self.recent_bytes_max = bytes.max(self.recent_bytes_max - self.recent_bytes_max / 16);
        for asked in want.asked.into_iter().chain(want.second) {
            if let Some(peer) = self.peers.get_mut(&asked.peer) {
                peer.outstanding -= 1;
                if asked.peer == from {
                    peer.pace.handle_block(asked.mark, bytes, now);
                }
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.active_at = now;
            peer.late = 0;
            if self.providers.insert(from) {
                self.retry_searching();
            }
        }
        true
    }

    /// A part of something came from a peer; what it is isn't known yet.
    pub fn handle_part(&mut self, from: PeerNumber, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.outstanding > 0) {
            peer.active_at = now;
            peer.sending_at = Some(now);
        }
    }

    /// A peer says that it has a block: it is asked for it, and for others.
    pub fn handle_have(&mut self, from: PeerNumber, cid: &Cid) {
        if !self.peers.contains_key(&from) {
            return;
        }
        // A promise isn't a delivery: `active_at` and `late` stay.
        self.providers.insert(from);
        if let Some(want) = self.orders.get(cid).and_then(|order| self.wants.get_mut(order)) {
            let kept = |denial: &&Denial| denial.peer == from && denial.until.is_none();
            self.denied_kept -= want.denied.iter().filter(kept).count();
            want.denied.retain(|denial| denial.peer != from);
        }
        self.retry_searching();
    }

    /// A peer says that it doesn't have a block.
    pub fn handle_dont_have(&mut self, from: PeerNumber, cid: &Cid, now: Instant) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(order) = self.orders.get(cid).copied() else { return };
        let Some(want) = self.wants.get_mut(&order) else { return };
        if !want.is_denied_by(from) {
            // A gateway has no list from which it would send the block later.
            let until = if self.denied_kept < DENIED_KEPT_MAX && from.gateway().is_none() {
                self.denied_kept += 1;
                None
            } else {
                self.actions.push(Action::Withdraw { peer: from, cid: *cid });
                Some(now + DENIAL_MIN * (1 << want.denials.min(DOUBLINGS_MAX)))
            };
            want.denied.push(Denial { peer: from, until });
            self.tally.denied(from);
        }
        if want.is_asked_of(from) {
            peer.outstanding -= 1;
            peer.active_at = now;
            let remaining = want.asked.into_iter().chain(want.second).find(|asked| asked.peer != from);
            (want.asked, want.second) = (remaining, None);
            if remaining.is_none() {
                self.unassigned.insert(order);
            }
        }
    }

    /// How many blocks are wanted and not here yet.
    pub fn wanted(&self) -> usize {
        self.wants.len()
    }

    /// How many blocks a peer is asked for right now.
    pub fn outstanding(&self) -> usize {
        self.peers.values().map(|peer| peer.outstanding).sum()
    }

    /// How many peers are asked for blocks.
    pub fn providers(&self) -> usize {
        self.providers.len()
    }

    /// What the peers did that were asked for blocks, also those that are gone.
    pub fn answers(&self) -> impl Iterator<Item = (PeerNumber, Answers)> {
        self.tally.each()
    }

    /// How many peers are connected, providers or not.
    pub fn connected(&self) -> usize {
        self.peers.len()
    }

    /// What the next block may be expected to have, in bytes: the average, or more when a larger one came lately, so that a few
    /// large blocks after many small ones don't come by the hundreds.
    pub fn block_bytes_expected(&self) -> u64 {
        // The guess counts like one block, then fades.
        let average = (self.bytes + BLOCK_BYTES_GUESS) / (self.blocks + 1);
        average.max(self.recent_bytes_max).max(1)
    }

    /// How many blocks are worth wanting at once from all providers together.
    pub fn window(&self) -> usize {
        let block_bytes = self.block_bytes_expected();
        self.providing().map(|(_, peer)| peer.pace.window(block_bytes)).sum::<usize>().max(1)
    }

    fn providing(&self) -> impl Iterator<Item = (PeerNumber, &Peer)> {
        self.providers.iter().filter_map(|number| Some((*number, self.peers.get(number)?)))
    }

    /// Gives each want without a peer to one, and lets who has nothing to do take over. Returns what to tell the peers. At most
    /// `asks_max` blocks are asked for.
    pub fn poll(&mut self, now: Instant, asks_max: usize) -> Vec<Action> {
        let asks = self.assign(now, asks_max);
        self.search();
        if self.unassigned.is_empty() {
            self.take_over(now, asks_max - asks);
        }
        std::mem::take(&mut self.actions)
    }

    /// Returns how many blocks were asked for.
    fn assign(&mut self, now: Instant, asks_max: usize) -> usize {
        let (mut asks, mut passed_over, mut from) = (0, 0, 0);
        let block_bytes = self.block_bytes_expected();
        while asks < asks_max && passed_over < PASSED_OVER_MAX {
            let has_room = |peer: &Peer| peer.outstanding < peer.pace.window(block_bytes);
            if !self.providers.is_empty() && !self.providing().any(|(_, peer)| has_room(peer)) {
                break;
            }
            let Some(order) = self.unassigned.range(from..).next().copied() else { break };
            from = order + 1;
            if let Some(peer) = self.best_provider(order, has_room) {
                self.unassigned.remove(&order);
                self.ask(peer, order, now);
                asks += 1;
            } else if self.best_provider(order, |_| true).is_some() {
                passed_over += 1;
            } else {
                self.unassigned.remove(&order);
                self.searching.insert(order);
            }
        }
        asks
    }

    fn ask(&mut self, number: PeerNumber, order: Order, now: Instant) {
        let block_bytes = self.block_bytes_expected();
        let (Some(peer), Some(want)) = (self.peers.get_mut(&number), self.wants.get_mut(&order)) else { return };
        if peer.outstanding == 0 {
            peer.active_at = now;
        }
        let asked = Asked { peer: number, mark: peer.pace.mark(peer.outstanding as u64 * block_bytes, now) };
        if want.asked.is_none() {
            want.asked = Some(asked);
        } else {
            want.second = Some(asked);
        }
        peer.outstanding += 1;
        self.tally.asked(number);
        if want.late.is_empty() {
            self.searching.remove(&order);
        }
        self.actions.push(Action::Ask { peer: number, cid: want.cid, kind: WantKind::Block });
    }

    /// A peer isn't waited for any longer.
    fn release(&mut self, order: Order, number: PeerNumber) {
        let Some(want) = self.wants.get_mut(&order) else { return };
        if want.asked.is_some_and(|asked| asked.peer == number) {
            want.asked = want.second.take();
            if let Some(peer) = self.peers.get_mut(&number) {
                peer.outstanding -= 1;
            }
        }
    }

    /// The provider that should deliver a want soonest, among those that `may`: who wasn't late is preferred.
    fn best_provider(&self, order: Order, may: impl Fn(&Peer) -> bool) -> Option<PeerNumber> {
        let want = self.wants.get(&order)?;
        let block_bytes = self.block_bytes_expected();
        self.providing()
            .filter(|(number, peer)| may(peer) && !want.is_denied_by(*number) && !want.is_asked_of(*number))
            .min_by_key(|(number, peer)| {
                let soonest = peer.pace.time_for((peer.outstanding as u64 + 1) * block_bytes);
                (peer.late, want.times_late(*number), soonest)
            })
            .map(|(number, _)| number)
    }

    fn retry_searching(&mut self) {
        let wants = &self.wants;
        let idle = |order: &Order| wants.get(order).is_some_and(|want| want.asked.is_none());
        self.unassigned.extend(self.searching.extract_if(.., |order| idle(order)));
    }

    /// Asks everyone whether they have what no provider has.
    fn search(&mut self) {
        if self.searching.is_empty() {
            return;
        }
        let strangers: Vec<PeerNumber> =
            self.peers.keys().filter(|number| !self.providers.contains(number)).copied().collect();
        let mut searched = 0;
        for order in &self.searching {
            let Some(want) = self.wants.get_mut(order) else { continue };
            let before = self.actions.len();
            for number in &strangers {
                if want.searched.insert(*number) {
                    self.actions.push(Action::Ask { peer: *number, cid: want.cid, kind: WantKind::Have });
                }
            }
            searched += usize::from(self.actions.len() > before);
            if searched == SEARCHED_WANTS_MAX {
                break;
            }
        }
    }
}
