//! Our wantlists: what is asked of each peer, on behalf of which session.
//!
//! Several sessions may want the same block; a peer is asked for it once. One message at a time is on its way to a
//! peer; what changes meanwhile goes into the next one. Which peer to ask is the sessions' business, not this module's.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry};

use cid::Cid;
use cid::multihash::Multihash;

use super::PeerNumber;
use super::wire::{Outgoing, Presence, WantEntry, WantKind};
use crate::model::Block;
use crate::model::limits::WANTS_PER_PEER_MAX;

/// Wants in one message: about 24 KiB.
const WANTS_PER_MESSAGE_MAX: usize = 512;

/// Wants of a peer that are remembered for having been taken back: about 100 bytes of memory each.
const TAKEN_BACK_MAX: usize = 1024;

/// Who wants something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A want of one peer.
#[derive(Debug)]
struct PeerWant {
    kind: WantKind,
    /// Grows from want to want of a peer, so that all of them can be told again in their order.
    order: u64,
    sessions: Vec<SessionId>,
    /// What the peer was last told; `None` before the first message.
    sent: Option<WantKind>,
    /// Is in `PeerWants::changed`.
    queued: bool,
    /// What the peer said since it was last asked: saying it again is no news.
    presence: Option<Presence>,
    /// Whether the peer was told of it more than once. What comes may answer the first time, and then it would come again.
    again: bool,
}

#[derive(Debug, Default)]
struct PeerWants {
    wants: HashMap<Cid, PeerWant>,
    /// How many wants there were.
    orders: u64,
    /// Wants that the peer has to be told of, in order.
    changed: VecDeque<Cid>,
    /// Wants to take back.
    cancels: Vec<Cid>,
    /// What was taken back, lately: the peer may have sent it before it knew.
    taken_back: HashSet<Cid>,
    /// How many of `wants` the peer was told of: it forgets those above its limit, so no more are sent.
    sent_count: usize,
    /// A message is on its way.
    in_flight: bool,
    /// The next message has to hold all wants, because an earlier one may be lost.
    resend: bool,
    /// Is in `Wants::ready`.
    ready: bool,
}

#[derive(Debug, Default)]
struct Interest {
    sessions: Vec<(SessionId, Cid)>,
    peers: Vec<(PeerNumber, Cid)>,
}

/// All wantlists.
#[derive(Debug, Default)]
pub struct Wants {
    peers: HashMap<PeerNumber, PeerWants>,
    interests: HashMap<Multihash<64>, Interest>,
    sessions: HashMap<SessionId, HashSet<(PeerNumber, Cid)>>,
    /// What each session has asked and taken back, and takes all the same: it may be on its way.
    released: HashMap<SessionId, BTreeSet<Cid>>,
    ready: VecDeque<PeerNumber>,
}

impl Wants {
    /// A peer that can be asked.
    pub fn peer_connected(&mut self, peer: PeerNumber) {
        self.peers.entry(peer).or_default();
    }

    /// A peer that is gone; its wants go with it.
    pub fn peer_gone(&mut self, peer: PeerNumber) {
        let Some(gone) = self.peers.remove(&peer) else { return };
        for (cid, want) in gone.wants {
            for session in want.sessions {
                if let Some(asked) = self.sessions.get_mut(&session) {
                    asked.remove(&(peer, cid));
                }
                self.drop_interest(session, peer, &cid);
            }
        }
    }

    /// Asks a peer for something, or asks again for what it was already asked.
    pub fn ask(&mut self, session: SessionId, peer: PeerNumber, cid: Cid, kind: WantKind) {
        let Some(list) = self.peers.get_mut(&peer) else { return };
        let want = match list.wants.entry(cid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let cancels = list.cancels.len();
                list.cancels.retain(|cancelled| *cancelled != cid);
                // The peer was never told that it was taken back, so it has it still.
                let sent = (list.cancels.len() < cancels).then_some(kind);
                list.sent_count += usize::from(sent.is_some());
                let again = list.taken_back.remove(&cid);
                list.orders += 1;
                let (order, sessions) = (list.orders, Vec::new());
                entry.insert(PeerWant { kind, order, sessions, sent, queued: false, presence: None, again })
            }
        };
        want.again |= want.sent.is_some();
        if kind == WantKind::Block {
            want.kind = WantKind::Block;
        }
        if !want.sessions.contains(&session) {
            want.sessions.push(session);
        }
        want.presence = None;
        if !want.queued {
            want.queued = true;
            list.changed.push_back(cid);
        }
        self.sessions.entry(session).or_default().insert((peer, cid));
        let interest = self.interests.entry(*cid.hash()).or_default();
        if !interest.sessions.contains(&(session, cid)) {
            interest.sessions.push((session, cid));
        }
        if !interest.peers.contains(&(peer, cid)) {
            interest.peers.push((peer, cid));
        }
        self.mark_ready(peer);
    }

    /// A session doesn't ask this peer any longer. It still wants the block: what the peer has sent already isn't for nothing.
    pub fn release(&mut self, session: SessionId, peer: PeerNumber, cid: &Cid) {
        if self.sessions.get(&session).is_some_and(|asked| asked.contains(&(peer, *cid))) {
            self.released.entry(session).or_default().insert(*cid);
        }
        self.withdraw(session, peer, cid);
    }

    /// A session doesn't want this of this peer any longer.
    pub fn withdraw(&mut self, session: SessionId, peer: PeerNumber, cid: &Cid) {
        if let Some(asked) = self.sessions.get_mut(&session) {
            asked.remove(&(peer, *cid));
        }
        if let Some(want) = self.peers.get_mut(&peer).and_then(|list| list.wants.get_mut(cid)) {
            want.sessions.retain(|other| *other != session);
            if want.sessions.is_empty() {
                self.remove_want(peer, cid, false);
            }
        }
        self.drop_interest(session, peer, cid);
    }

    /// A session is over; all that only it wanted is taken back.
    pub fn close_session(&mut self, session: SessionId) {
        let released = self.released.remove(&session).unwrap_or_default();
        let mut asked: Vec<_> = self.sessions.remove(&session).unwrap_or_default().into_iter().collect();
        // In an order that doesn't depend on the keys of the hash, so that a simulation replays.
        asked.sort_unstable();
        for (peer, cid) in asked {
            self.withdraw(session, peer, &cid);
        }
        self.sessions.remove(&session);
        for cid in released {
            let Some(interest) = self.interests.get_mut(cid.hash()) else { continue };
            interest.sessions.retain(|interested| *interested != (session, cid));
            if interest.sessions.is_empty() && interest.peers.is_empty() {
                self.interests.remove(cid.hash());
            }
        }
    }

    /// A block came. Returns who wants it, under which CID; nobody means that it was not wanted (any longer).
    pub fn handle_block(&mut self, from: PeerNumber, block: &Block) -> Vec<(SessionId, Cid)> {
        let Some(interest) = self.interests.remove(block.cid().hash()) else { return Vec::new() };
        for (peer, cid) in interest.peers {
            for (session, _) in &interest.sessions {
                if let Some(asked) = self.sessions.get_mut(session) {
                    asked.remove(&(peer, cid));
                }
            }
            self.remove_want(peer, &cid, peer == from);
        }
        for (session, cid) in &interest.sessions {
            if let Some(released) = self.released.get_mut(session) {
                released.remove(cid);
            }
        }
        interest.sessions
    }

    /// A peer says whether it has something. Returns the sessions that asked it.
    pub fn handle_presence(&mut self, from: PeerNumber, cid: &Cid, presence: Presence) -> Vec<SessionId> {
        match self.peers.get_mut(&from).and_then(|list| list.wants.get_mut(cid)) {
            Some(want) if want.sent.is_some() && want.presence != Some(presence) => {
                want.presence = Some(presence);
                want.sessions.clone()
            }
            _ => Vec::new(),
        }
    }

    /// Whether anything is wanted of the peer.
    pub fn wants_of(&self, peer: PeerNumber) -> bool {
        self.peers.get(&peer).is_some_and(|list| !list.wants.is_empty() || list.in_flight)
    }

    /// Who asked the peer for something that hasn't come yet.
    pub fn sessions_asking(&self, peer: PeerNumber) -> BTreeSet<SessionId> {
        let wants = self.peers.get(&peer).into_iter().flat_map(|list| list.wants.values());
        wants.flat_map(|want| want.sessions.iter().copied()).collect()
    }

    /// Whether nothing is wanted of anyone, and nobody is remembered to want anything.
    pub fn is_idle(&self) -> bool {
        self.interests.is_empty()
            && self.sessions.values().all(HashSet::is_empty)
            && self.released.values().all(BTreeSet::is_empty)
            && self.peers.keys().all(|peer| !self.wants_of(*peer))
    }

    /// The next message that can be sent, and to whom. [`Wants::sent`] must follow for each.
    pub fn poll_message(&mut self) -> Option<(PeerNumber, Outgoing)> {
        while let Some(peer) = self.ready.pop_front() {
            let Some(list) = self.peers.get_mut(&peer) else { continue };
            list.ready = false;
            if let Some(message) = list.next_message() {
                return Some((peer, message));
            }
        }
        None
    }

    /// The last message for a peer was written, or lost.
    pub fn sent(&mut self, peer: PeerNumber, delivered: bool) {
        if let Some(list) = self.peers.get_mut(&peer) {
            list.in_flight = false;
            list.resend |= !delivered;
            self.mark_ready(peer);
        }
    }

    fn mark_ready(&mut self, peer: PeerNumber) {
        let Some(list) = self.peers.get_mut(&peer) else { return };
        if !list.ready && !list.in_flight && list.has_news() {
            list.ready = true;
            self.ready.push_back(peer);
        }
    }

    /// The want needn't be taken back from a peer that has answered it, and not twice.
    fn remove_want(&mut self, peer: PeerNumber, cid: &Cid, is_answered: bool) {
        let Some(list) = self.peers.get_mut(&peer) else { return };
        let Some(want) = list.wants.remove(cid) else { return };
        if want.queued {
            list.changed.retain(|other| other != cid);
        }
        if want.sent.is_some() {
            list.sent_count -= 1;
            if !is_answered || want.again {
                list.cancels.push(*cid);
                if list.taken_back.len() == TAKEN_BACK_MAX {
                    list.taken_back.clear();
                }
                list.taken_back.insert(*cid);
            }
        }
        self.mark_ready(peer);
    }

    fn drop_interest(&mut self, session: SessionId, peer: PeerNumber, cid: &Cid) {
        let Entry::Occupied(mut entry) = self.interests.entry(*cid.hash()) else { return };
        let wanted_by = |peer: &PeerNumber, cid: &Cid| self.peers.get(peer).and_then(|list| list.wants.get(cid));
        let interest = entry.get_mut();
        if wanted_by(&peer, cid).is_none() {
            interest.peers.retain(|asked| *asked != (peer, *cid));
        }
        let still = interest.peers.iter().any(|(peer, asked)| {
            asked == cid && wanted_by(peer, asked).is_some_and(|want| want.sessions.contains(&session))
        });
        let released = self.released.get(&session).is_some_and(|released| released.contains(cid));
        if !still && !released {
            interest.sessions.retain(|interested| *interested != (session, *cid));
        }
        if interest.sessions.is_empty() && interest.peers.is_empty() {
            entry.remove();
        }
    }
}

impl PeerWants {
    fn has_news(&self) -> bool {
        self.resend || !self.cancels.is_empty() || (!self.changed.is_empty() && self.sent_count < WANTS_PER_PEER_MAX)
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        if self.in_flight || !self.has_news() {
            return None;
        }
        let mut message = Outgoing::default();
        if std::mem::take(&mut self.resend) {
            message.full = true;
            self.cancels.clear();
            self.sent_count = 0;
            for want in self.wants.values_mut() {
                want.again |= want.sent.is_some();
                want.sent = None;
                want.queued = true;
            }
            let mut all: Vec<(u64, Cid)> = self.wants.iter().map(|(cid, want)| (want.order, *cid)).collect();
            all.sort_unstable();
            self.changed = all.into_iter().map(|(_, cid)| cid).collect();
        }
        for cid in self.cancels.drain(..) {
            message.wants.push(WantEntry {
                cid,
                priority: 0,
                cancel: true,
                kind: WantKind::Block,
                send_dont_have: false,
            });
        }
        while message.wants.len() < WANTS_PER_MESSAGE_MAX && self.sent_count < WANTS_PER_PEER_MAX {
            let Some(cid) = self.changed.pop_front() else { break };
            let Some(want) = self.wants.get_mut(&cid) else { continue };
            want.queued = false;
            if want.sent.replace(want.kind).is_none() {
                self.sent_count += 1;
            }
            message.wants.push(WantEntry { cid, priority: 1, cancel: false, kind: want.kind, send_dont_have: true });
        }
        self.in_flight = true;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const PEER: PeerNumber = PeerNumber(1);
    const OTHER: PeerNumber = PeerNumber(2);
    const SESSION: SessionId = SessionId(1);

    fn block(number: usize) -> Block {
        Block::new_sha256(0x55, Bytes::from(number.to_string())).unwrap()
    }

    fn connected() -> Wants {
        let mut wants = Wants::default();
        wants.peer_connected(PEER);
        wants.peer_connected(OTHER);
        wants
    }

    fn messages(wants: &mut Wants) -> Vec<(PeerNumber, Outgoing)> {
        std::iter::from_fn(|| wants.poll_message()).collect()
    }

    #[test]
    fn two_sessions_ask_once_and_both_get_the_block() {
        let mut wants = connected();
        let block = block(1);
        wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        wants.ask(SessionId(2), PEER, *block.cid(), WantKind::Block);
        let sent = messages(&mut wants);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1.wants.len(), 1);
        let sessions = wants.handle_block(PEER, &block);
        assert_eq!(sessions, [(SESSION, *block.cid()), (SessionId(2), *block.cid())]);
        assert!(wants.handle_block(PEER, &block).is_empty(), "a second copy is not wanted");
        wants.sent(PEER, true);
        assert!(!wants.wants_of(PEER));
        assert!(wants.is_idle());
    }

    #[test]
    fn the_other_peer_is_told_to_stop() {
        let mut wants = connected();
        let block = block(1);
        wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        wants.ask(SESSION, OTHER, *block.cid(), WantKind::Have);
        messages(&mut wants);
        wants.sent(OTHER, true);
        wants.handle_block(PEER, &block);
        let sent = messages(&mut wants);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, OTHER);
        assert!(sent[0].1.wants[0].cancel);
    }

    #[test]
    fn a_block_under_another_cid_version_is_wanted() {
        let mut wants = connected();
        let data = Bytes::from_static(b"node");
        let v1 = Block::new_sha256(0x70, data.clone()).unwrap();
        let v0 = Cid::new_v0(*v1.cid().hash()).unwrap();
        wants.ask(SESSION, PEER, v0, WantKind::Block);
        messages(&mut wants);
        assert_eq!(wants.handle_block(PEER, &v1), [(SESSION, v0)]);
        assert!(wants.sessions[&SESSION].is_empty());
    }

    #[test]
    fn no_more_wants_are_outstanding_than_the_peer_remembers() {
        let mut wants = connected();
        let blocks: Vec<Block> = (0..WANTS_PER_PEER_MAX + 10).map(block).collect();
        for block in &blocks {
            wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        }
        let mut sent = 0;
        while let Some((_, message)) = wants.poll_message() {
            sent += message.wants.len();
            wants.sent(PEER, true);
        }
        assert_eq!(sent, WANTS_PER_PEER_MAX);
        wants.handle_block(PEER, &blocks[0]);
        assert_eq!(wants.poll_message().unwrap().1.wants.len(), 1);
    }

    #[test]
    fn what_is_taken_back_twice_before_the_peer_was_told_is_taken_back_in_the_end() {
        let mut wants = connected();
        let cid = *block(1).cid();
        wants.ask(SESSION, PEER, cid, WantKind::Block);
        assert_eq!(messages(&mut wants).len(), 1);
        // All while that message is being written.
        wants.withdraw(SESSION, PEER, &cid);
        wants.ask(SESSION, PEER, cid, WantKind::Block);
        wants.withdraw(SESSION, PEER, &cid);
        wants.sent(PEER, true);
        let (_, message) = wants.poll_message().unwrap();
        assert_eq!((message.wants.len(), message.wants[0].cid, message.wants[0].cancel), (1, cid, true));
    }

    #[test]
    fn an_answer_that_was_on_its_way_takes_the_second_question_back() {
        let mut wants = connected();
        let block = block(1);
        for _ in 0..2 {
            wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
            let (_, message) = wants.poll_message().unwrap();
            assert!(!message.wants[0].cancel);
            wants.sent(PEER, true);
            wants.release(SESSION, PEER, block.cid());
            let (_, message) = wants.poll_message().unwrap();
            assert!(message.wants[0].cancel);
            wants.sent(PEER, true);
        }
        wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        messages(&mut wants);
        wants.sent(PEER, true);
        assert_eq!(wants.handle_block(PEER, &block), [(SESSION, *block.cid())]);
        let (_, message) = wants.poll_message().unwrap();
        assert!(message.wants[0].cancel, "it would send it once more");
    }

    #[test]
    fn a_lost_message_is_followed_by_the_full_list() {
        let mut wants = connected();
        let (first, second) = (block(1), block(2));
        wants.ask(SESSION, PEER, *first.cid(), WantKind::Block);
        messages(&mut wants);
        wants.sent(PEER, false);
        wants.ask(SESSION, PEER, *second.cid(), WantKind::Block);
        let (_, message) = wants.poll_message().unwrap();
        assert!(message.full);
        assert_eq!(message.wants.len(), 2);
    }

    #[test]
    fn a_full_list_keeps_the_order() {
        let mut wants = connected();
        let blocks: Vec<Block> = (0..100).map(block).collect();
        for block in &blocks {
            wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        }
        messages(&mut wants);
        wants.sent(PEER, false);
        let (_, message) = wants.poll_message().unwrap();
        let told: Vec<Cid> = message.wants.iter().map(|entry| entry.cid).collect();
        assert_eq!(told, blocks.iter().map(|block| *block.cid()).collect::<Vec<_>>());
    }

    #[test]
    fn closing_a_session_cancels_only_what_nobody_else_wants() {
        let mut wants = connected();
        let (shared, own) = (block(1), block(2));
        wants.ask(SESSION, PEER, *shared.cid(), WantKind::Block);
        wants.ask(SESSION, PEER, *own.cid(), WantKind::Block);
        wants.ask(SessionId(2), PEER, *shared.cid(), WantKind::Block);
        messages(&mut wants);
        wants.sent(PEER, true);
        wants.close_session(SESSION);
        let (_, message) = wants.poll_message().unwrap();
        assert_eq!(message.wants.len(), 1);
        assert_eq!((message.wants[0].cid, message.wants[0].cancel), (*own.cid(), true));
        assert_eq!(wants.handle_block(PEER, &shared), [(SessionId(2), *shared.cid())]);
    }

    #[test]
    fn a_block_that_was_sent_before_it_was_taken_back_is_taken() {
        let mut wants = connected();
        let (sent, never) = (block(1), block(2));
        for block in [&sent, &never] {
            wants.ask(SESSION, PEER, *block.cid(), WantKind::Block);
        }
        messages(&mut wants);
        wants.sent(PEER, true);
        for block in [&sent, &never] {
            wants.release(SESSION, PEER, block.cid());
        }
        assert_eq!(wants.poll_message().unwrap().1.wants.iter().filter(|entry| entry.cancel).count(), 2);
        wants.sent(PEER, true);
        assert_eq!(wants.handle_block(PEER, &sent), [(SESSION, *sent.cid())]);
        assert!(wants.handle_block(PEER, &sent).is_empty());
        wants.close_session(SESSION);
        assert!(wants.is_idle());
        assert!(wants.handle_block(PEER, &never).is_empty());
    }

    #[test]
    fn a_gone_peer_leaves_nothing_behind() {
        let mut wants = connected();
        wants.ask(SESSION, PEER, *block(1).cid(), WantKind::Block);
        messages(&mut wants);
        wants.peer_gone(PEER);
        assert!(wants.interests.is_empty());
        assert!(wants.sessions[&SESSION].is_empty());
        assert!(wants.handle_block(OTHER, &block(1)).is_empty());
    }

    #[test]
    fn presences_reach_only_sessions_that_asked_this_peer() {
        let mut wants = connected();
        wants.ask(SESSION, PEER, *block(1).cid(), WantKind::Have);
        messages(&mut wants);
        assert_eq!(wants.handle_presence(PEER, block(1).cid(), Presence::DontHave), [SESSION]);
        assert!(wants.handle_presence(PEER, block(1).cid(), Presence::DontHave).is_empty(), "no news");
        assert_eq!(wants.handle_presence(PEER, block(1).cid(), Presence::Have), [SESSION]);
        assert!(wants.handle_presence(OTHER, block(1).cid(), Presence::Have).is_empty());
    }
}
