//! The server side: what each peer wants of us, and what it is answered next.
//!
//! A ledger for each peer holds its wants until they are answered or cancelled, also those for blocks that we don't hold
//! yet: when one arrives, the peer gets it. Reading the store is a [`ReadJob`] that the caller carries out away from
//! its event loop; one job and [`ANSWERS_AHEAD_PER_PEER_MAX`] messages for each peer bound the memory, and
//! peers take turns.
//!
//! Who only asks whether we have a block doesn't wait for blocks: such questions are looked up first, also when as many blocks
//! as may be are on their way, and presences have messages of their own.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;

use super::PeerNumber;
use super::wire::{Outgoing, Presence, WantEntry, WantKind};
use crate::model::limits::{ANSWERS_AHEAD_PER_PEER_MAX, WANTS_PER_PEER_MAX};

/// Wants that one job looks up.
const WANTS_PER_JOB_MAX: usize = 512;

/// Jobs that are read at the same time, all peers together. With the bytes of a job this bounds the memory of answers.
const JOBS_MAX: usize = 8;

/// Messages with presences that wait for the wire, for each peer; those of one job have a few bytes for each want.
const PRESENCES_AHEAD_MAX: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Is in `Ledger::questions` or `Ledger::queue`.
    Queued,
    /// A job looks it up; `again` when the block was stored meanwhile.
    Reading { again: bool },
    /// We don't hold it yet.
    Waiting,
}

#[derive(Debug, Clone, Copy)]
struct Want {
    kind: WantKind,
    send_dont_have: bool,
    state: State,
}

#[derive(Debug, Default)]
struct Ledger {
    wants: HashMap<Cid, Want>,
    /// What is looked up next: first those of which only the presence is wanted.
    questions: VecDeque<Cid>,
    queue: VecDeque<Cid>,
    /// Wants that became `Waiting`, oldest first. Those that are no longer so are passed over, and swept out when the
    /// list is twice as long as it can honestly be, so that making room costs little however a peer floods us.
    waiting: VecDeque<Cid>,
    /// CIDs of the blocks in each message that was handed out and isn't written yet, oldest first.
    answers: VecDeque<Vec<Cid>>,
    /// Messages with presences that were handed out and aren't written yet.
    presences_unsent: usize,
    reading: bool,
    /// Is in `Server::turns`.
    in_turns: bool,
}

/// What a job looks up, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadJob {
    /// For whom.
    pub peer: PeerNumber,
    /// Each CID, and whether the block is wanted or only its presence.
    pub wants: Vec<(Cid, WantKind)>,
    /// Whether blocks may be read: otherwise all that is wanted is presences, and they have to do.
    pub with_blocks: bool,
}

/// What a job found. Wants that it didn't get to, because the blocks before filled the message, are in neither list.
#[derive(Debug, Clone, Default)]
pub struct ReadResult {
    /// Blocks that are held, under the CID that was asked for.
    pub blocks: Vec<(Cid, Bytes)>,
    /// CIDs whose presence was wanted and that are held.
    pub present: Vec<Cid>,
    /// CIDs that aren't held.
    pub missing: Vec<Cid>,
}

/// What a peer is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// What we hold and what we don't; [`Server::sent_presences`] must follow.
    pub presences: Option<Outgoing>,
    /// Blocks; [`Server::sent`] must follow.
    pub blocks: Option<Outgoing>,
}

/// All ledgers.
#[derive(Debug, Default)]
pub struct Server {
    ledgers: HashMap<PeerNumber, Ledger>,
    /// Who wants a block, by multihash: a want of each ledger is here exactly once.
    wanted: HashMap<Multihash<64>, Vec<PeerNumber>>,
    turns: VecDeque<PeerNumber>,
    jobs: usize,
}

impl Server {
    /// A peer that may want something.
    pub fn peer_connected(&mut self, peer: PeerNumber) {
        self.ledgers.entry(peer).or_default();
    }

    /// A peer that is gone, and its wants with it.
    pub fn peer_gone(&mut self, peer: PeerNumber) {
        let Some(ledger) = self.ledgers.remove(&peer) else { return };
        for cid in ledger.wants.keys() {
            forget(&mut self.wanted, peer, cid);
        }
    }

    /// Changes of a peer's wantlist, or all of it.
    pub fn handle_wants(&mut self, peer: PeerNumber, entries: Vec<WantEntry>, full: bool) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else { return };
        if full {
            for (cid, _) in ledger.wants.drain() {
                forget(&mut self.wanted, peer, &cid);
            }
            ledger.queue.clear();
            ledger.questions.clear();
        }
        for entry in entries {
            if entry.cancel {
                if ledger.wants.remove(&entry.cid).is_some() {
                    forget(&mut self.wanted, peer, &entry.cid);
                }
                continue;
            }
            if !ledger.wants.contains_key(&entry.cid) {
                if ledger.wants.len() >= WANTS_PER_PEER_MAX && !ledger.evict_waiting(&mut self.wanted, peer) {
                    continue;
                }
                let peers = self.wanted.entry(*entry.cid.hash()).or_default();
                peers.push(peer);
            }
            let want = Want { kind: entry.kind, send_dont_have: entry.send_dont_have, state: State::Queued };
            let before = ledger.wants.insert(entry.cid, want);
            if !before.is_some_and(|before| before.state == State::Queued && before.kind == entry.kind) {
                ledger.enqueue(entry.cid, entry.kind);
            }
        }
        ledger.sweep_queues();
        self.take_turn(peer);
    }

    /// Blocks became readable; whoever waits for one is looked after.
    pub fn handle_stored<'a>(&mut self, cids: impl IntoIterator<Item = &'a Cid>) {
        for cid in cids {
            let Some(peers) = self.wanted.get(cid.hash()).cloned() else { continue };
            for peer in peers {
                let Some(ledger) = self.ledgers.get_mut(&peer) else { continue };
                let mut ready = Vec::new();
                for (wanted, want) in ledger.wants.iter_mut().filter(|(wanted, _)| wanted.hash() == cid.hash()) {
                    match &mut want.state {
                        State::Queued => {}
                        State::Reading { again } => *again = true,
                        State::Waiting => {
                            want.state = State::Queued;
                            ready.push((*wanted, want.kind));
                        }
                    }
                }
                // In an order that doesn't depend on the keys of the hash, so that a simulation replays.
                ready.sort_unstable_by_key(|(cid, _)| *cid);
                for (cid, kind) in ready {
                    ledger.enqueue(cid, kind);
                }
                self.take_turn(peer);
            }
        }
    }

    /// The next job to read. [`Server::handle_read`] must follow for each.
    pub fn poll_job(&mut self) -> Option<ReadJob> {
        while self.jobs < JOBS_MAX {
            let peer = self.turns.pop_front()?;
            let Some(ledger) = self.ledgers.get_mut(&peer) else { continue };
            ledger.in_turns = false;
            let with_blocks = ledger.answers.len() < ANSWERS_AHEAD_PER_PEER_MAX;
            let mut wants = Vec::new();
            while wants.len() < WANTS_PER_JOB_MAX {
                let Some((cid, kind)) = ledger.next_queued(with_blocks) else { break };
                // A cancelled want may still be in a queue, in both if it was wanted again in another way, and twice.
                let queued = |want: &&mut Want| want.state == State::Queued && want.kind == kind;
                if let Some(want) = ledger.wants.get_mut(&cid).filter(queued) {
                    want.state = State::Reading { again: false };
                    wants.push((cid, kind));
                }
            }
            if !wants.is_empty() {
                ledger.reading = true;
                self.jobs += 1;
                return Some(ReadJob { peer, wants, with_blocks });
            }
        }
        None
    }

    /// What a job found; returns the messages that answer it, if there is anything to say.
    pub fn handle_read(&mut self, job: &ReadJob, result: ReadResult) -> Answer {
        self.jobs -= 1;
        let Some(ledger) = self.ledgers.get_mut(&job.peer) else { return Answer::default() };
        ledger.reading = false;
        let (mut blocks, mut presences) = (Vec::new(), Vec::new());
        for (cid, data) in result.blocks {
            // Cancelled meanwhile, or asked again in another way: then the queue has it.
            if ledger.is_being_read(&cid) {
                ledger.wants.remove(&cid);
                forget(&mut self.wanted, job.peer, &cid);
                blocks.push((cid, data));
            }
        }
        for cid in result.present {
            if ledger.is_being_read(&cid) {
                ledger.wants.remove(&cid);
                forget(&mut self.wanted, job.peer, &cid);
                presences.push((cid, Presence::Have));
            }
        }
        for cid in result.missing {
            let Some(want) = ledger.wants.get_mut(&cid) else { continue };
            match want.state {
                State::Reading { again: true } => {
                    want.state = State::Queued;
                    let kind = want.kind;
                    ledger.enqueue(cid, kind);
                }
                State::Reading { again: false } => {
                    want.state = State::Waiting;
                    ledger.waiting.push_back(cid);
                    if want.send_dont_have {
                        presences.push((cid, Presence::DontHave));
                    }
                }
                State::Queued | State::Waiting => {}
            }
        }
        ledger.sweep_waiting();
        // What the job didn't get to goes first next time, in its order.
        for (cid, kind) in job.wants.iter().rev() {
            if let Some(want) = ledger.wants.get_mut(cid).filter(|want| matches!(want.state, State::Reading { .. })) {
                want.state = State::Queued;
                ledger.queue_of(*kind).push_front(*cid);
            }
        }
        let mut answer = Answer::default();
        if !presences.is_empty() {
            ledger.presences_unsent += 1;
            answer.presences = Some(Outgoing { presences, ..Outgoing::default() });
        }
        if !blocks.is_empty() {
            ledger.answers.push_back(blocks.iter().map(|(cid, _)| *cid).collect());
            answer.blocks = Some(Outgoing { blocks, ..Outgoing::default() });
        }
        self.take_turn(job.peer);
        answer
    }

    /// The oldest message with presences for a peer was written, or lost. Nothing makes up for a lost one: who asked
    /// asks again on the next connection.
    pub fn sent_presences(&mut self, peer: PeerNumber) {
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            ledger.presences_unsent = ledger.presences_unsent.saturating_sub(1);
            self.take_turn(peer);
        }
    }

    /// The oldest message with blocks for a peer was written, or lost: then its blocks are wanted as before.
    pub fn sent(&mut self, peer: PeerNumber, delivered: bool) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else { return };
        let cids = ledger.answers.pop_front().unwrap_or_default();
        if !delivered {
            let entry =
                |cid| WantEntry { cid, priority: 1, cancel: false, kind: WantKind::Block, send_dont_have: true };
            self.handle_wants(peer, cids.into_iter().map(entry).collect(), false);
        }
        self.take_turn(peer);
    }

    /// How many wants of a peer are remembered.
    pub fn wants_of(&self, peer: PeerNumber) -> usize {
        self.ledgers.get(&peer).map_or(0, |ledger| ledger.wants.len())
    }

    /// Whether a peer waits for an answer, or for a block to arrive.
    pub fn wanted_by(&self, peer: PeerNumber) -> bool {
        self.ledgers
            .get(&peer)
            .is_some_and(|ledger| !ledger.wants.is_empty() || !ledger.answers.is_empty() || ledger.presences_unsent > 0)
    }

    fn take_turn(&mut self, peer: PeerNumber) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else { return };
        let may_send = ledger.answers.len() < ANSWERS_AHEAD_PER_PEER_MAX && !ledger.queue.is_empty();
        let may = !ledger.reading && ledger.presences_unsent < PRESENCES_AHEAD_MAX;
        if may && (may_send || !ledger.questions.is_empty()) && !ledger.in_turns {
            ledger.in_turns = true;
            self.turns.push_back(peer);
        }
    }
}

impl Ledger {
    fn is_being_read(&self, cid: &Cid) -> bool {
        matches!(self.wants.get(cid), Some(Want { state: State::Reading { .. }, .. }))
    }

    fn is_waiting(&self, cid: &Cid) -> bool {
        matches!(self.wants.get(cid), Some(Want { state: State::Waiting, .. }))
    }

    /// Makes room by forgetting the oldest want that we can't answer, as boxo does when a wantlist overflows.
    fn evict_waiting(&mut self, wanted: &mut HashMap<Multihash<64>, Vec<PeerNumber>>, peer: PeerNumber) -> bool {
        while let Some(cid) = self.waiting.pop_front() {
            if self.is_waiting(&cid) {
                self.wants.remove(&cid);
                forget(wanted, peer, &cid);
                return true;
            }
        }
        false
    }

    fn queue_of(&mut self, kind: WantKind) -> &mut VecDeque<Cid> {
        match kind {
            WantKind::Have => &mut self.questions,
            WantKind::Block => &mut self.queue,
        }
    }

    fn enqueue(&mut self, cid: Cid, kind: WantKind) {
        self.queue_of(kind).push_back(cid);
    }

    /// What is to be looked up next; who wants blocks has to wait unless `with_blocks`.
    fn next_queued(&mut self, with_blocks: bool) -> Option<(Cid, WantKind)> {
        let question = self.questions.pop_front().map(|cid| (cid, WantKind::Have));
        if question.is_some() || !with_blocks {
            return question;
        }
        self.queue.pop_front().map(|cid| (cid, WantKind::Block))
    }

    /// A cancel leaves its entry in a queue; wanting and cancelling again and again must not let it grow.
    fn sweep_queues(&mut self) {
        let wants = &self.wants;
        for (queue, kind) in [(&mut self.questions, WantKind::Have), (&mut self.queue, WantKind::Block)] {
            if queue.len() > 2 * WANTS_PER_PEER_MAX {
                let mut seen = HashSet::new();
                let is_queued =
                    |cid: &Cid| wants.get(cid).is_some_and(|want| want.state == State::Queued && want.kind == kind);
                queue.retain(|cid| is_queued(cid) && seen.insert(*cid));
            }
        }
    }

    fn sweep_waiting(&mut self) {
        if self.waiting.len() > 2 * WANTS_PER_PEER_MAX {
            let mut seen = HashSet::new();
            let all = std::mem::take(&mut self.waiting);
            self.waiting = all.into_iter().filter(|cid| self.is_waiting(cid) && seen.insert(*cid)).collect();
        }
    }
}

fn forget(wanted: &mut HashMap<Multihash<64>, Vec<PeerNumber>>, peer: PeerNumber, cid: &Cid) {
    if let Some(peers) = wanted.get_mut(cid.hash()) {
        if let Some(index) = peers.iter().position(|other| *other == peer) {
            peers.swap_remove(index);
        }
        if peers.is_empty() {
            wanted.remove(cid.hash());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Block;

    const PEER: PeerNumber = PeerNumber(1);

    fn block(number: usize) -> Block {
        Block::new_sha256(0x55, Bytes::from(number.to_string())).unwrap()
    }

    fn want(cid: &Cid, kind: WantKind) -> WantEntry {
        WantEntry { cid: *cid, priority: 1, cancel: false, kind, send_dont_have: true }
    }

    fn server() -> Server {
        let mut server = Server::default();
        server.peer_connected(PEER);
        server
    }

    fn is_nothing(answer: &Answer) -> bool {
        answer.presences.is_none() && answer.blocks.is_none()
    }

    fn found(block: &Block) -> ReadResult {
        ReadResult { blocks: vec![block.clone().into_parts()], ..ReadResult::default() }
    }

    #[test]
    fn a_block_that_arrives_later_is_sent_to_who_asked_before() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        let missing = ReadResult { missing: vec![*block.cid()], ..ReadResult::default() };
        let message = server.handle_read(&job, missing).presences.unwrap();
        assert_eq!(message.presences, [(*block.cid(), Presence::DontHave)]);
        server.sent_presences(PEER);
        assert!(server.poll_job().is_none());
        assert!(server.wanted_by(PEER));
        server.handle_stored([block.cid()]);
        let job = server.poll_job().unwrap();
        assert_eq!(server.handle_read(&job, found(&block)).blocks.unwrap().blocks.len(), 1);
        server.sent(PEER, true);
        assert!(!server.wanted_by(PEER));
        assert!(server.wanted.is_empty());
    }

    #[test]
    fn a_block_stored_while_the_job_misses_it_is_looked_up_again() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        server.handle_stored([block.cid()]);
        let missing = ReadResult { missing: vec![*block.cid()], ..ReadResult::default() };
        assert!(is_nothing(&server.handle_read(&job, missing)));
        assert_eq!(server.poll_job().unwrap().wants, [(*block.cid(), WantKind::Block)]);
    }

    #[test]
    fn a_want_cancelled_while_it_is_read_is_not_answered() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        server.handle_wants(PEER, vec![WantEntry { cancel: true, ..want(block.cid(), WantKind::Block) }], false);
        assert!(is_nothing(&server.handle_read(&job, found(&block))));
        assert!(server.wanted.is_empty());
    }

    #[test]
    fn answers_ahead_are_bounded_and_resume() {
        let mut server = server();
        let blocks: Vec<Block> = (0..5).map(block).collect();
        server.handle_wants(PEER, blocks.iter().map(|block| want(block.cid(), WantKind::Block)).collect(), false);
        let mut answered = 0;
        while let Some(job) = server.poll_job() {
            // Each job gets one block only, as when blocks fill a message.
            let cid = job.wants[0].0;
            let block = blocks.iter().find(|block| *block.cid() == cid).unwrap();
            assert!(server.handle_read(&job, found(block)).blocks.is_some());
            answered += 1;
        }
        assert_eq!(answered, ANSWERS_AHEAD_PER_PEER_MAX);
        server.sent(PEER, true);
        assert!(server.poll_job().is_some());
    }

    #[test]
    fn questions_do_not_wait_for_blocks() {
        let mut server = server();
        let blocks: Vec<Block> = (0..5).map(block).collect();
        server.handle_wants(PEER, blocks.iter().map(|block| want(block.cid(), WantKind::Block)).collect(), false);
        for _ in 0..ANSWERS_AHEAD_PER_PEER_MAX {
            let job = server.poll_job().unwrap();
            assert!(job.with_blocks);
            let block = blocks.iter().find(|block| *block.cid() == job.wants[0].0).unwrap();
            server.handle_read(&job, found(block));
        }
        assert!(server.poll_job().is_none());
        let asked = block(10);
        server.handle_wants(PEER, vec![want(asked.cid(), WantKind::Have)], false);
        let job = server.poll_job().unwrap();
        assert_eq!((job.wants.as_slice(), job.with_blocks), ([(*asked.cid(), WantKind::Have)].as_slice(), false));
        let present = ReadResult { present: vec![*asked.cid()], ..ReadResult::default() };
        let answer = server.handle_read(&job, present);
        assert_eq!(answer.presences.unwrap().presences, [(*asked.cid(), Presence::Have)]);
        assert!(answer.blocks.is_none());
        // When blocks may follow, questions still come first.
        server.sent(PEER, true);
        server.handle_wants(PEER, vec![want(block(11).cid(), WantKind::Have)], false);
        assert_eq!(server.poll_job().unwrap().wants[0], (*block(11).cid(), WantKind::Have));
    }

    #[test]
    fn answers_to_questions_are_bounded_too() {
        let mut server = server();
        let mut answered = 0;
        for number in 0..10 {
            server.handle_wants(PEER, vec![want(block(number).cid(), WantKind::Have)], false);
            if let Some(job) = server.poll_job() {
                let missing = job.wants.iter().map(|(cid, _)| *cid).collect();
                answered += usize::from(
                    server.handle_read(&job, ReadResult { missing, ..ReadResult::default() }).presences.is_some(),
                );
            }
        }
        assert_eq!(answered, PRESENCES_AHEAD_MAX);
        server.sent_presences(PEER);
        assert_eq!(server.poll_job().unwrap().wants.len(), 10 - PRESENCES_AHEAD_MAX);
    }

    #[test]
    fn a_question_that_becomes_a_want_is_answered_once_with_the_block() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Have)], false);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        assert_eq!(job.wants, [(*block.cid(), WantKind::Block)]);
        assert_eq!(server.handle_read(&job, found(&block)).blocks.unwrap().blocks.len(), 1);
        assert!(server.poll_job().is_none());
    }

    #[test]
    fn a_lost_answer_is_wanted_again() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        server.handle_read(&job, found(&block)).blocks.unwrap();
        assert!(server.poll_job().is_none());
        server.sent(PEER, false);
        assert_eq!(server.poll_job().unwrap().wants.len(), 1);
    }

    #[test]
    fn a_full_wantlist_replaces_the_old_one() {
        let mut server = server();
        let (old, new) = (block(1), block(2));
        server.handle_wants(PEER, vec![want(old.cid(), WantKind::Block)], false);
        server.handle_wants(PEER, vec![want(new.cid(), WantKind::Have)], true);
        assert_eq!(server.poll_job().unwrap().wants, [(*new.cid(), WantKind::Have)]);
        assert_eq!(server.wanted.len(), 1);
    }

    #[test]
    fn a_flood_of_wants_is_bounded_and_evicts_what_waits() {
        let mut server = server();
        let entries: Vec<WantEntry> =
            (0..WANTS_PER_PEER_MAX + 50).map(|n| want(block(n).cid(), WantKind::Block)).collect();
        server.handle_wants(PEER, entries, false);
        assert_eq!(server.ledgers[&PEER].wants.len(), WANTS_PER_PEER_MAX);
        while let Some(job) = server.poll_job() {
            let missing = job.wants.iter().map(|(cid, _)| *cid).collect();
            server.handle_read(&job, ReadResult { missing, ..ReadResult::default() });
            server.sent_presences(PEER);
        }
        let late = block(1_000_000);
        server.handle_wants(PEER, vec![want(late.cid(), WantKind::Block)], false);
        assert_eq!(server.poll_job().unwrap().wants, [(*late.cid(), WantKind::Block)]);
        assert_eq!(server.ledgers[&PEER].wants.len(), WANTS_PER_PEER_MAX);
    }

    #[test]
    fn asking_again_and_again_does_not_grow_the_ledger() {
        let mut server = server();
        for _ in 0..3 * WANTS_PER_PEER_MAX {
            server.handle_wants(PEER, vec![want(block(1).cid(), WantKind::Have)], false);
            let job = server.poll_job().unwrap();
            server.handle_read(&job, ReadResult { missing: vec![*block(1).cid()], ..ReadResult::default() });
            server.sent_presences(PEER);
        }
        let ledger = &server.ledgers[&PEER];
        assert_eq!(ledger.wants.len(), 1);
        assert!(ledger.waiting.len() <= 2 * WANTS_PER_PEER_MAX + 1);
        assert_eq!(server.wanted[block(1).cid().hash()].len(), 1);
    }

    #[test]
    fn wanting_and_cancelling_again_and_again_does_not_grow_the_queue() {
        let mut server = server();
        let entry = want(block(1).cid(), WantKind::Block);
        for _ in 0..5 * WANTS_PER_PEER_MAX {
            server.handle_wants(PEER, vec![entry.clone(), WantEntry { cancel: true, ..entry.clone() }], false);
        }
        assert!(server.ledgers[&PEER].queue.len() <= 2 * WANTS_PER_PEER_MAX + 1);
        server.handle_wants(PEER, vec![entry], false);
        assert_eq!(server.poll_job().unwrap().wants.len(), 1);
    }

    #[test]
    fn peers_take_turns() {
        let mut server = server();
        server.peer_connected(PeerNumber(2));
        for number in 0..=WANTS_PER_JOB_MAX {
            server.handle_wants(PEER, vec![want(block(number).cid(), WantKind::Have)], false);
        }
        server.handle_wants(PeerNumber(2), vec![want(block(1).cid(), WantKind::Have)], false);
        let first = server.poll_job().unwrap();
        assert_eq!((first.peer, first.wants.len()), (PEER, WANTS_PER_JOB_MAX));
        assert_eq!(server.poll_job().unwrap().peer, PeerNumber(2));
        assert!(server.poll_job().is_none(), "one job for each peer at a time");
    }

    #[test]
    fn a_gone_peer_leaves_nothing_behind() {
        let mut server = server();
        let block = block(1);
        server.handle_wants(PEER, vec![want(block.cid(), WantKind::Block)], false);
        let job = server.poll_job().unwrap();
        server.peer_gone(PEER);
        assert!(is_nothing(&server.handle_read(&job, found(&block))));
        assert!(server.wanted.is_empty());
        assert_eq!(server.jobs, 0);
    }
}
