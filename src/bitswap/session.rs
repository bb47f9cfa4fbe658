//! One fetch's view of its peers: which of them is asked for which block.
//!
//! Peers that a pin names as origins, and peers that had an earlier block, are asked for blocks straight away; all
//! others only whether they have one. Each peer has a window of outstanding wants. A want whose answer doesn't come
//! goes to another peer, or to the same one again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cid::Cid;

use super::PeerNumber;
use super::wire::WantKind;
use crate::model::limits::WANTS_PER_PEER_MAX;

/// A peer that was silent for this long has lost what it was asked for.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A want that is older than this, while its peer answers others, is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Bytes of blocks that one peer is asked for at a time: more than any link's bandwidth × delay that one fetch can use.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Wants that one peer is asked for at a time, whatever the blocks' size.
const WINDOW_WANTS: std::ops::RangeInclusive<u64> = 16..=900;

/// What a block is taken to have before the first one came, in bytes: the default chunk of Kubo.
const BLOCK_BYTES_GUESS: u64 = 256 * 1024;

/// Wants for which peers without a known role are asked at the same time.
const SEARCHED_WANTS_MAX: usize = 32;

/// Wants that a peer denied and that stay on its list, so that it sends the block if it gets it later.
const DENIED_KEPT_MAX: usize = 64;

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
    /// Is asked for blocks: named as an origin, or had a block before.
    provider: bool,
    outstanding: usize,
    delivered: u64,
    /// When it last delivered, or was first asked after having nothing to deliver.
    active_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: PeerNumber,
    at: Instant,
    /// Blocks that the peer had delivered when it was asked.
    delivered: u64,
    /// Blocks that it was asked for before this one.
    ahead: usize,
}

#[derive(Debug, Default)]
struct Want {
    /// The one peer that is asked for the block now.
    asked: Option<Asked>,
    /// Peers that don't have it.
    denied: Vec<PeerNumber>,
    /// Peers that were asked whether they have it.
    searched: HashSet<PeerNumber>,
}

/// The session.
#[derive(Debug)]
pub struct Session {
    peers: BTreeMap<PeerNumber, Peer>,
    wants: HashMap<Cid, Want>,
    /// Wants without a peer that is asked for the block, in the order of the DAG.
    unassigned: VecDeque<Cid>,
    /// Wants that no provider has (or is connected for).
    searching: HashSet<Cid>,
    denied_kept: usize,
    blocks: u64,
    bytes: u64,
    /// The largest block lately: it fades by a sixteenth with each further block.
    recent_bytes_max: u64,
    actions: Vec<Action>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session without peers and wants.
    pub fn new() -> Self {
        Self {
            peers: BTreeMap::new(),
            wants: HashMap::new(),
            unassigned: VecDeque::new(),
            searching: HashSet::new(),
            denied_kept: 0,
            blocks: 0,
            bytes: 0,
            recent_bytes_max: 0,
            actions: Vec::new(),
        }
    }

    /// A peer is connected; `provider` says that it is named as an origin.
    pub fn peer_connected(&mut self, peer: PeerNumber, provider: bool, now: Instant) {
        let state = self.peers.entry(peer).or_insert(Peer { provider, outstanding: 0, delivered: 0, active_at: now });
        state.provider |= provider;
        self.retry_searching();
    }

    /// A peer is gone: what it was asked for goes to others.
    pub fn peer_gone(&mut self, peer: PeerNumber) {
        if self.peers.remove(&peer).is_none() {
            return;
        }
        for (cid, want) in &mut self.wants {
            let denials = want.denied.len();
            want.denied.retain(|denied| *denied != peer);
            self.denied_kept = self.denied_kept.saturating_sub(denials - want.denied.len());
            want.searched.remove(&peer);
            if want.asked.is_some_and(|asked| asked.peer == peer) {
                want.asked = None;
                self.unassigned.push_back(*cid);
            }
        }
    }

    /// Wants a block.
    pub fn want(&mut self, cid: Cid) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.wants.entry(cid) {
            entry.insert(Want::default());
            self.unassigned.push_back(cid);
        }
    }

    /// A wanted block came, from whomever. Returns false when it wasn't wanted.
    pub fn handle_block(&mut self, from: PeerNumber, cid: &Cid, bytes: u64, now: Instant) -> bool {
        let Some(want) = self.wants.remove(cid) else { return false };
        self.searching.remove(cid);
        if let Some(asked) = want.asked {
            if let Some(peer) = self.peers.get_mut(&asked.peer) {
                peer.outstanding -= 1;
            }
        } else {
            self.unassigned.retain(|unassigned| unassigned != cid);
        }
        self.denied_kept = self.denied_kept.saturating_sub(want.denied.len());
        self.blocks += 1;
        self.bytes += bytes;
        self.recent_bytes_max = bytes.max(self.recent_bytes_max - self.recent_bytes_max / 16);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.delivered += 1;
            peer.active_at = now;
            let first = !std::mem::replace(&mut peer.provider, true);
            if first {
                self.retry_searching();
            }
        }
        true
    }

    /// A peer says that it has a block: it is asked for it, and for others.
    pub fn handle_have(&mut self, from: PeerNumber, cid: &Cid) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        // A promise isn't a delivery: `active_at` stays.
        peer.provider = true;
        if let Some(want) = self.wants.get_mut(cid) {
            want.denied.retain(|denied| *denied != from);
        }
        self.retry_searching();
    }

    /// A peer says that it doesn't have a block.
    pub fn handle_dont_have(&mut self, from: PeerNumber, cid: &Cid, now: Instant) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(want) = self.wants.get_mut(cid) else { return };
        if !want.denied.contains(&from) {
            want.denied.push(from);
            if self.denied_kept < DENIED_KEPT_MAX {
                self.denied_kept += 1;
            } else {
                self.actions.push(Action::Withdraw { peer: from, cid: *cid });
            }
        }
        if want.asked.is_some_and(|asked| asked.peer == from) {
            want.asked = None;
            peer.outstanding -= 1;
            peer.active_at = now;
            self.unassigned.push_front(*cid);
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
        self.peers.values().filter(|peer| peer.provider).count()
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
        self.window_of_one().saturating_mul(self.providers().max(1))
    }

    fn window_of_one(&self) -> usize {
        let wants = WINDOW_BYTES_MAX / self.block_bytes_expected();
        let wants = wants.clamp(*WINDOW_WANTS.start(), *WINDOW_WANTS.end());
        usize::try_from(wants).unwrap_or(WANTS_PER_PEER_MAX).min(WANTS_PER_PEER_MAX)
    }

    /// When [`Session::poll`] has something to do without any event, at the earliest.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.wants.values().any(|want| want.asked.is_some()).then(|| now + Duration::from_secs(1))
    }

    /// Gives each want without a peer to one, and moves those whose answer doesn't come. Returns what to tell the peers.
    /// At most `asks_max` blocks are asked for.
    pub fn poll(&mut self, now: Instant, asks_max: usize) -> Vec<Action> {
        self.assign(now, asks_max);
        self.search();
        std::mem::take(&mut self.actions)
    }

    /// Looks for answers that are overdue; to be called about once a second.
    pub fn handle_timeout(&mut self, now: Instant) {
        let peers = &mut self.peers;
        let mut overdue = Vec::new();
        for (cid, want) in &mut self.wants {
            let Some(asked) = want.asked else { continue };
            let Some(peer) = peers.get(&asked.peer) else { continue };
            let silent = now.saturating_duration_since(peer.active_at.max(asked.at)) >= SILENCE_MAX;
            let passed_over = now.saturating_duration_since(asked.at) >= ANSWER_MAX
                && peer.delivered.saturating_sub(asked.delivered) > 2 * asked.ahead as u64 + 64;
            let waited = now.saturating_duration_since(asked.at) >= ANSWER_MAX;
            let free_provider = waited
                && peers.iter().any(|(other, state)| {
                    *other != asked.peer && state.provider && state.outstanding == 0 && !want.denied.contains(other)
                });
            if silent || passed_over || free_provider {
                want.asked = None;
                // Not a denial: the peer is asked again when there is no other.
                let others = peers
                    .iter()
                    .any(|(other, state)| *other != asked.peer && state.provider && !want.denied.contains(other));
                if others {
                    self.actions.push(Action::Withdraw { peer: asked.peer, cid: *cid });
                }
                if let Some(peer) = peers.get_mut(&asked.peer) {
                    peer.outstanding -= 1;
                }
                overdue.push((*cid, asked.peer));
            }
        }
        for (cid, slow) in overdue {
            self.unassigned.push_front(cid);
            if let Some(peer) = self.best_provider(&cid, Some(slow)).or_else(|| self.best_provider(&cid, None)) {
                self.unassigned.pop_front();
                self.ask(peer, cid, now);
            }
        }
    }

    fn assign(&mut self, now: Instant, asks_max: usize) {
        let mut asks = 0;
        for _ in 0..self.unassigned.len() {
            if asks == asks_max {
                break;
            }
            let Some(cid) = self.unassigned.pop_front() else { break };
            if !self.wants.contains_key(&cid) {
                continue;
            }
            if let Some(peer) = self.best_provider(&cid, None) {
                self.ask(peer, cid, now);
                asks += 1;
                continue;
            }
            if self.has_candidate(&cid) {
                // Every provider's window is full, so it is for the wants behind this one.
                self.unassigned.push_front(cid);
                break;
            }
            self.searching.insert(cid);
        }
    }

    fn ask(&mut self, number: PeerNumber, cid: Cid, now: Instant) {
        let (Some(peer), Some(want)) = (self.peers.get_mut(&number), self.wants.get_mut(&cid)) else { return };
        if peer.outstanding == 0 {
            peer.active_at = now;
        }
        want.asked = Some(Asked { peer: number, at: now, delivered: peer.delivered, ahead: peer.outstanding });
        peer.outstanding += 1;
        self.searching.remove(&cid);
        self.actions.push(Action::Ask { peer: number, cid, kind: WantKind::Block });
    }

    fn has_candidate(&self, cid: &Cid) -> bool {
        let Some(want) = self.wants.get(cid) else { return false };
        self.peers.iter().any(|(number, peer)| peer.provider && !want.denied.contains(number))
    }

    /// The provider that should deliver soonest: the one with the most free room in proportion to what it delivers.
    fn best_provider(&self, cid: &Cid, except: Option<PeerNumber>) -> Option<PeerNumber> {
        let want = self.wants.get(cid)?;
        let window = self.window_of_one();
        self.peers
            .iter()
            .filter(|(number, peer)| {
                peer.provider && peer.outstanding < window && Some(**number) != except && !want.denied.contains(number)
            })
            .min_by_key(|(_, peer)| (peer.outstanding as u64 + 1) * 1_000_000 / (peer.delivered + 1))
            .map(|(number, _)| *number)
    }

    fn retry_searching(&mut self) {
        for cid in self.searching.drain() {
            self.unassigned.push_front(cid);
        }
    }

    /// Asks everyone whether they have what no provider has.
    fn search(&mut self) {
        let strangers: Vec<PeerNumber> =
            self.peers.iter().filter(|(_, peer)| !peer.provider).map(|(number, _)| *number).collect();
        let mut searched = 0;
        for cid in &self.searching {
            let Some(want) = self.wants.get_mut(cid).filter(|want| want.searched.len() < strangers.len()) else {
                continue;
            };
            for number in &strangers {
                if want.searched.insert(*number) {
                    self.actions.push(Action::Ask { peer: *number, cid: *cid, kind: WantKind::Have });
                }
            }
            searched += 1;
            if searched == SEARCHED_WANTS_MAX {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Block;
    use bytes::Bytes;

    const ORIGIN: PeerNumber = PeerNumber(1);
    const OTHER: PeerNumber = PeerNumber(2);

    fn cid(number: usize) -> Cid {
        *Block::new_sha256(0x55, Bytes::from(number.to_string())).unwrap().cid()
    }

    fn asks(actions: &[Action], of: PeerNumber, wanted: WantKind) -> Vec<Cid> {
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Ask { peer, cid, kind } if *peer == of && *kind == wanted => Some(*cid),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn an_origin_is_asked_for_the_block_and_a_stranger_only_whether_it_has_it() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.want(cid(1));
        assert!(session.poll(now, usize::MAX).is_empty());
        session.peer_connected(OTHER, false, now);
        assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Have), [cid(1)]);
        assert!(session.poll(now, usize::MAX).is_empty(), "a stranger is asked once");
        session.peer_connected(ORIGIN, true, now);
        assert_eq!(asks(&session.poll(now, usize::MAX), ORIGIN, WantKind::Block), [cid(1)]);
    }

    #[test]
    fn a_stranger_that_has_it_becomes_a_provider() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(OTHER, false, now);
        session.want(cid(1));
        session.poll(now, usize::MAX);
        session.handle_have(OTHER, &cid(1));
        assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Block), [cid(1)]);
        assert!(session.handle_block(OTHER, &cid(1), 10, now));
        session.want(cid(2));
        assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Block), [cid(2)]);
    }

    #[test]
    fn a_denied_want_goes_to_the_other_provider() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        session.peer_connected(OTHER, true, now);
        session.want(cid(1));
        let actions = session.poll(now, usize::MAX);
        let first = if asks(&actions, ORIGIN, WantKind::Block).is_empty() { OTHER } else { ORIGIN };
        let second = if first == ORIGIN { OTHER } else { ORIGIN };
        session.handle_dont_have(first, &cid(1), now);
        assert_eq!(asks(&session.poll(now, usize::MAX), second, WantKind::Block), [cid(1)]);
        session.handle_dont_have(second, &cid(1), now);
        assert!(session.poll(now, usize::MAX).is_empty());
        // It was never taken back, so a block that comes after all is taken.
        assert!(session.handle_block(first, &cid(1), 10, now));
        assert_eq!(session.wanted(), 0);
    }

    #[test]
    fn a_silent_peer_loses_its_wants_to_another_or_is_asked_again() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        session.want(cid(1));
        session.poll(now, usize::MAX);
        let later = now + SILENCE_MAX;
        session.handle_timeout(later);
        assert_eq!(asks(&session.poll(later, usize::MAX), ORIGIN, WantKind::Block), [cid(1)]);
        session.peer_connected(OTHER, true, later);
        let latest = later + SILENCE_MAX;
        session.handle_timeout(latest);
        let actions = session.poll(latest, usize::MAX);
        assert_eq!(asks(&actions, OTHER, WantKind::Block), [cid(1)]);
        assert!(actions.contains(&Action::Withdraw { peer: ORIGIN, cid: cid(1) }));
    }

    #[test]
    fn a_gone_peer_gives_its_wants_back() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        for number in 0..10 {
            session.want(cid(number));
        }
        assert_eq!(session.poll(now, usize::MAX).len(), 10);
        session.peer_gone(ORIGIN);
        assert!(session.poll(now, usize::MAX).is_empty());
        session.peer_connected(PeerNumber(3), true, now);
        assert_eq!(session.poll(now, usize::MAX).len(), 10);
    }

    #[test]
    fn the_window_follows_the_size_of_the_blocks() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        for number in 0..2000 {
            session.want(cid(number));
        }
        let first = session.poll(now, usize::MAX).len() as u64;
        assert_eq!(first, WINDOW_BYTES_MAX / BLOCK_BYTES_GUESS);
        for number in 0..64 {
            session.handle_block(ORIGIN, &cid(number), 1024, now);
        }
        let actions = session.poll(now, usize::MAX).len();
        assert!(actions > 800, "small blocks open the window: {actions}");
    }

    #[test]
    fn faster_peers_get_more() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        session.peer_connected(OTHER, true, now);
        let mut next = 0;
        let mut total = HashMap::new();
        for _ in 0..200 {
            while session.wanted() < session.window() {
                session.want(cid(next));
                next += 1;
            }
            for action in session.poll(now, usize::MAX) {
                let Action::Ask { peer, cid, .. } = action else { continue };
                total.entry(peer).or_insert_with(VecDeque::new).push_back(cid);
            }
            for (peer, blocks) in [(ORIGIN, 9), (OTHER, 1)] {
                for _ in 0..blocks {
                    if let Some(cid) = total.get_mut(&peer).and_then(VecDeque::pop_front) {
                        session.handle_block(peer, &cid, 256 * 1024, now);
                    }
                }
            }
        }
        assert!(session.peers[&ORIGIN].delivered > 5 * session.peers[&OTHER].delivered);
    }

    #[test]
    fn a_block_nobody_wanted_is_refused() {
        let (mut session, now) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, now);
        assert!(!session.handle_block(ORIGIN, &cid(1), 10, now));
    }
}
