//! An honest node: the real cores, put together as `net::node` and `fetch` do it, over a store in memory.
//!
//! What would go through a channel or to another thread takes its time here too, so that the event loop and a fetch know
//! different things for a moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use cid::Cid;
use pinnace::bitswap::PeerNumber;
use pinnace::bitswap::serve::{Answer, ReadJob, ReadResult, Server};
use pinnace::bitswap::session::Action;
use pinnace::bitswap::wants::{SessionId, Wants};
use pinnace::bitswap::wire::{Incoming, Outgoing, Presence, WantEntry};
use pinnace::fetch::core::{CoreError, FetchCore, FetchLimits, Held, LocalDag, TICK, share_bytes};
use pinnace::model::limits::WANTS_PER_PEER_MAX;
use pinnace::net::SessionEvent;

use crate::scenario::Speed;
use crate::store::{Put, Store};

/// Events that a fetch takes in a row.
const EVENTS_IN_A_ROW_MAX: usize = 1024;

/// What a fetch takes a block to have before the first one came.
const BLOCK_BYTES_GUESS: u64 = 256 * 1024;

/// The queues of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Our wants.
    Wants,
    /// What we answer about having blocks.
    Presences,
    /// Blocks.
    Blocks,
}

/// What happens inside a node, later.
#[derive(Debug)]
pub enum NodeEvent {
    /// A fetch has events to take.
    Wake(SessionId),
    /// A fetch looks after what is overdue.
    Tick(SessionId),
    /// Blocks have waited long enough for others to be stored with.
    PutDue(SessionId),
    /// What a fetch wants the peers to be told.
    Act(SessionId, Vec<Action>),
    /// A fetch is over.
    Close(SessionId),
    /// What the store has.
    LookedUp(SessionId, Vec<(Cid, Held)>),
    /// A commit is done.
    Committed(Vec<Put>),
    /// Blocks became readable.
    Stored(Vec<Cid>),
    /// A job of the server is done.
    Read(ReadJob, ReadResult),
}

/// What a node does to the world.
#[derive(Debug)]
pub enum Effect {
    /// A message goes out on a link.
    Send(usize, Lane, Outgoing),
    /// Something happens inside later.
    After(Duration, NodeEvent),
    /// The fetch of a plan ended.
    Ended(usize, Result<LocalDag, CoreError>),
}

/// What was received.
#[derive(Debug, Default, Clone, Copy)]
pub struct Received {
    /// Bytes of blocks that somebody wanted.
    pub wanted_bytes: u64,
    /// Bytes of blocks that nobody wanted, any longer or ever.
    pub unwanted_bytes: u64,
    /// Questions for blocks.
    pub asks: u64,
}

/// What bounds the memory of a node's fetches.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// As in the configuration.
    pub bytes_in_flight_max: u64,
    /// The largest block that there is.
    pub largest: u64,
}

impl Budget {
    /// The most bytes that may wait to be durable, for so many fetches: what they may have in flight, and one block more
    /// for each. A fetch counts what it asks for by the size of what came before: by 256 KiB at first, and half of that after a
    /// small root. Where blocks are larger, as many times more can come.
    fn allowed(&self, fetches: u64) -> u64 {
        let misjudged = self.largest.div_ceil(BLOCK_BYTES_GUESS / 2).max(1);
        fetches * (share_bytes(self.bytes_in_flight_max, fetches) * misjudged + self.largest)
    }
}

struct Fetch {
    plan: usize,
    core: FetchCore,
    inbox: VecDeque<SessionEvent>,
    /// A `Wake` is on its way.
    waking: bool,
    /// When a `PutDue` comes.
    put_due_at: Option<Instant>,
    blocks_fetched: u64,
}

/// A node.
pub struct Node {
    speed: Speed,
    budget: Budget,
    /// What it holds.
    pub store: Store,
    wants: Wants,
    server: Server,
    /// Which links its peers are behind.
    links: BTreeMap<PeerNumber, usize>,
    numbers: BTreeMap<usize, PeerNumber>,
    next_number: u64,
    next_session: u64,
    /// The event loop's side of each fetch: the links to its sources.
    sessions: BTreeMap<SessionId, BTreeSet<usize>>,
    fetches: BTreeMap<SessionId, Fetch>,
    /// What each peer has told us that it wants and was not answered, as an outsider would count it.
    wanted_by: BTreeMap<PeerNumber, BTreeSet<Cid>>,
    effects: Vec<Effect>,
    /// For the bounds.
    pub received: Received,
}

impl Node {
    /// A node that holds what is in the store.
    pub fn new(speed: Speed, budget: Budget, store: Store) -> Self {
        Self {
            speed,
            budget,
            store,
            wants: Wants::default(),
            server: Server::default(),
            links: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_number: 0,
            next_session: 1,
            sessions: BTreeMap::new(),
            fetches: BTreeMap::new(),
            wanted_by: BTreeMap::new(),
            effects: Vec::new(),
            received: Received::default(),
        }
    }

    /// What it does; to be asked after each call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Begins to fetch.
    pub fn start(&mut self, plan: usize, root: Cid, sources: BTreeSet<usize>, limits: FetchLimits, now: Instant) {
        let core = FetchCore::new(root, limits, now).expect("a root that can be fetched");
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let mut inbox = VecDeque::new();
        for (link, peer) in &self.numbers {
            inbox.push_back(SessionEvent::PeerConnected { peer: *peer, source: sources.contains(link) });
        }
        self.sessions.insert(session, sources);
        self.fetches.insert(session, Fetch { plan, core, inbox, waking: true, put_due_at: None, blocks_fetched: 0 });
        self.after(self.speed.hop, NodeEvent::Wake(session));
        self.after(TICK, NodeEvent::Tick(session));
        self.step(session, now);
    }

    /// Whether a plan is being carried out.
    pub fn is_fetching(&self, plan: usize) -> bool {
        self.fetches.values().any(|fetch| fetch.plan == plan)
    }

    /// A link is up.
    pub fn connected(&mut self, link: usize) {
        self.next_number += 1;
        let peer = PeerNumber(self.next_number);
        self.numbers.insert(link, peer);
        self.links.insert(peer, link);
        self.wants.peer_connected(peer);
        self.server.peer_connected(peer);
        self.wanted_by.insert(peer, BTreeSet::new());
        let sessions: Vec<(SessionId, bool)> =
            self.sessions.iter().map(|(session, sources)| (*session, sources.contains(&link))).collect();
        for (session, source) in sessions {
            self.tell(session, SessionEvent::PeerConnected { peer, source });
        }
        self.pump();
    }

    /// A link is down.
    pub fn gone(&mut self, link: usize) {
        let Some(peer) = self.numbers.remove(&link) else { return };
        self.links.remove(&peer);
        self.wanted_by.remove(&peer);
        self.wants.peer_gone(peer);
        self.server.peer_gone(peer);
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.tell(session, SessionEvent::PeerGone(peer));
        }
        self.pump();
    }

    /// The oldest message of a lane was written, or lost.
    pub fn sent(&mut self, link: usize, lane: Lane, delivered: bool) {
        let Some(peer) = self.numbers.get(&link).copied() else { return };
        match lane {
            Lane::Wants => self.wants.sent(peer, delivered),
            Lane::Presences => self.server.sent_presences(peer),
            Lane::Blocks => self.server.sent(peer, delivered),
        }
        self.pump();
    }

    /// A part of a message came.
    pub fn part(&mut self, link: usize) {
        let Some(from) = self.numbers.get(&link).copied() else { return };
        for session in self.wants.sessions_asking(from) {
            self.tell(session, SessionEvent::Part(from));
        }
    }

    /// A message came.
    pub fn received(&mut self, link: usize, message: Incoming, honest: bool) {
        let Some(from) = self.numbers.get(&link).copied() else { return };
        self.note_wants(from, &message.wants, message.full, honest);
        if message.full || !message.wants.is_empty() {
            self.server.handle_wants(from, message.wants, message.full);
            assert!(self.server.wants_of(from) <= WANTS_PER_PEER_MAX, "a ledger has no bound");
        }
        for (cid, presence) in message.presences {
            for session in self.wants.handle_presence(from, &cid, presence) {
                self.tell(
                    session,
                    match presence {
                        Presence::Have => SessionEvent::Have { from, cid },
                        Presence::DontHave => SessionEvent::DontHave { from, cid },
                    },
                );
            }
        }
        for block in message.blocks {
            let interested = self.wants.handle_block(from, &block);
            let bytes = block.data().len() as u64;
            if interested.is_empty() {
                self.received.unwanted_bytes += bytes;
            } else {
                self.received.wanted_bytes += bytes;
            }
            for (session, cid) in interested {
                if let Some(block) = block.relabel(cid) {
                    self.tell(session, SessionEvent::Block { from, block });
                }
            }
        }
        self.pump();
    }

    /// Something happens inside.
    pub fn handle(&mut self, event: NodeEvent, now: Instant) {
        match event {
            NodeEvent::Wake(session) => self.wake(session, now),
            NodeEvent::Tick(session) => {
                let Some(fetch) = self.fetches.get_mut(&session) else { return };
                if let Err(error) = fetch.core.handle_tick(now) {
                    return self.end(session, Err(error));
                }
                let progress = fetch.core.progress(now);
                assert!(progress.blocks_fetched >= fetch.blocks_fetched, "the progress goes back");
                assert!(progress.blocks_fetched <= progress.blocks_known, "{progress:?}");
                fetch.blocks_fetched = progress.blocks_fetched;
                self.after(TICK, NodeEvent::Tick(session));
                self.step(session, now);
            }
            NodeEvent::PutDue(session) => {
                if let Some(fetch) = self.fetches.get_mut(&session) {
                    fetch.put_due_at = None;
                }
                self.step(session, now);
            }
            NodeEvent::Act(session, actions) => {
                if self.sessions.contains_key(&session) {
                    for action in actions {
                        match action {
                            Action::Ask { peer, cid, kind } => self.wants.ask(session, peer, cid, kind),
                            Action::Withdraw { peer, cid } => self.wants.release(session, peer, &cid),
                        }
                    }
                }
            }
            NodeEvent::Close(session) => {
                self.sessions.remove(&session);
                self.wants.close_session(session);
            }
            NodeEvent::LookedUp(session, found) => {
                let Some(fetch) = self.fetches.get_mut(&session) else { return };
                if let Err(error) = fetch.core.handle_lookup(found) {
                    return self.end(session, Err(error));
                }
                self.step(session, now);
            }
            NodeEvent::Committed(puts) => {
                self.store.commit(&puts);
                for put in puts {
                    let cids: Vec<Cid> = put.batch.blocks.iter().map(|block| *block.cid()).collect();
                    if let Some(fetch) = self.fetches.get_mut(&put.session) {
                        fetch.core.handle_put(cids.len(), put.batch.bytes);
                        self.after(self.speed.hop, NodeEvent::Stored(cids));
                        self.step(put.session, now);
                    }
                }
                self.begin_commit();
            }
            NodeEvent::Stored(cids) => self.server.handle_stored(&cids),
            NodeEvent::Read(job, result) => {
                let Answer { presences, blocks } = self.server.handle_read(&job, result);
                for (lane, message) in [(Lane::Presences, presences), (Lane::Blocks, blocks)] {
                    let (Some(message), Some(link)) = (message, self.links.get(&job.peer)) else { continue };
                    let wanted = self.wanted_by.entry(job.peer).or_default();
                    let answered = message.blocks.iter().map(|(cid, _)| cid);
                    let had = message.presences.iter().filter(|(_, presence)| *presence == Presence::Have);
                    for cid in answered.chain(had.map(|(cid, _)| cid)) {
                        wanted.remove(cid);
                    }
                    self.effects.push(Effect::Send(*link, lane, message));
                }
            }
        }
        self.pump();
    }

    /// What has to be so when all fetches are over and all messages delivered.
    pub fn assert_idle(&self, links_of_honest: &BTreeSet<usize>) {
        assert!(self.fetches.is_empty(), "a fetch still runs");
        assert!(self.wants.is_idle(), "something is still wanted, though no fetch runs");
        for (link, peer) in self.numbers.iter().filter(|(link, _)| links_of_honest.contains(link)) {
            assert!(!self.server.wanted_by(*peer), "the ledger of link {link} still has a want that nobody has");
            assert!(self.wanted_by[peer].is_empty(), "a want of link {link} was neither answered nor taken back");
        }
    }

    /// Bytes that came and aren't durable, for all fetches.
    pub fn unstored_bytes(&self) -> u64 {
        self.fetches.values().map(|fetch| fetch.core.unstored_bytes()).sum()
    }

    /// One line about each fetch, for traces and failures.
    pub fn describe(&self) -> Vec<String> {
        let line = |(session, fetch): (&SessionId, &Fetch)| {
            let session_state = fetch.core.session();
            format!(
                "plan {} session {}: wanted {}, outstanding {}, providers {}, connected {}, unstored {}, inbox {}",
                fetch.plan,
                session.0,
                session_state.wanted(),
                session_state.outstanding(),
                session_state.providers(),
                session_state.connected(),
                fetch.core.unstored_bytes(),
                fetch.inbox.len()
            )
        };
        self.fetches.iter().map(line).collect()
    }

    fn after(&mut self, delay: Duration, event: NodeEvent) {
        self.effects.push(Effect::After(delay, event));
    }

    fn tell(&mut self, session: SessionId, event: SessionEvent) {
        let Some(fetch) = self.fetches.get_mut(&session) else { return };
        fetch.inbox.push_back(event);
        if !std::mem::replace(&mut fetch.waking, true) {
            self.after(self.speed.hop, NodeEvent::Wake(session));
        }
    }

    fn wake(&mut self, session: SessionId, now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&session) else { return };
        fetch.waking = false;
        for _ in 0..EVENTS_IN_A_ROW_MAX {
            if fetch.core.put_due_at(now).is_some_and(|at| at <= now) {
                break;
            }
            let Some(event) = fetch.inbox.pop_front() else { break };
            if let Err(error) = fetch.core.handle_event(event, now) {
                return self.end(session, Err(error));
            }
        }
        if !fetch.inbox.is_empty() {
            fetch.waking = true;
            self.after(Duration::ZERO, NodeEvent::Wake(session));
        }
        self.step(session, now);
    }

    fn begin_commit(&mut self) {
        if let Some((lasts, puts)) = self.store.poll_commit(&self.speed) {
            self.after(lasts, NodeEvent::Committed(puts));
        }
    }

    /// Does what a fetch has ready.
    fn step(&mut self, session: SessionId, now: Instant) {
        let (unstored, allowed) = (self.unstored_bytes(), self.budget.allowed(self.fetches.len() as u64));
        assert!(unstored <= allowed, "{unstored} bytes wait for the store, and only {allowed} may");
        let share = share_bytes(self.budget.bytes_in_flight_max, self.fetches.len() as u64);
        let Some(fetch) = self.fetches.get_mut(&session) else { return };
        if let Some(cids) = fetch.core.poll_lookup() {
            let found = self.store.look_up(cids);
            self.effects.push(Effect::After(self.speed.read, NodeEvent::LookedUp(session, found)));
        }
        let outstanding = fetch.core.session().outstanding();
        let actions = fetch.core.poll_actions(now, share);
        let session_state = fetch.core.session();
        if session_state.outstanding() > outstanding {
            let expected = session_state.block_bytes_expected();
            let in_flight = fetch.core.unstored_bytes() + session_state.outstanding() as u64 * expected;
            assert!(
                in_flight <= share.max(expected),
                "{in_flight} bytes are asked for or unstored, and {share} may be"
            );
        }
        if !actions.is_empty() {
            self.received.asks += actions.len() as u64;
            self.effects.push(Effect::After(self.speed.hop, NodeEvent::Act(session, actions)));
        }
        if let Some(dag) = fetch.core.result() {
            assert_eq!(fetch.core.session().wanted(), 0, "a fetch is done and still wants something");
            return self.end(session, Ok(dag));
        }
        match fetch.core.put_due_at(now) {
            Some(at) if at <= now => {
                if let Some(batch) = fetch.core.take_blocks() {
                    self.store.put(Put { session, batch });
                    self.begin_commit();
                }
            }
            Some(at) if fetch.put_due_at.is_none_or(|due| due > at) => {
                fetch.put_due_at = Some(at);
                self.effects.push(Effect::After(at - now, NodeEvent::PutDue(session)));
            }
            _ => {}
        }
    }

    fn end(&mut self, session: SessionId, result: Result<LocalDag, CoreError>) {
        if let Some(fetch) = self.fetches.remove(&session) {
            self.effects.push(Effect::Ended(fetch.plan, result));
            self.after(self.speed.hop, NodeEvent::Close(session));
        }
    }

    fn pump(&mut self) {
        while let Some(job) = self.server.poll_job() {
            let result = self.store.read(&job);
            self.effects.push(Effect::After(self.speed.read, NodeEvent::Read(job, result)));
        }
        while let Some((peer, message)) = self.wants.poll_message() {
            match self.links.get(&peer) {
                Some(link) => self.effects.push(Effect::Send(*link, Lane::Wants, message)),
                None => self.wants.sent(peer, true),
            }
        }
    }

    fn note_wants(&mut self, from: PeerNumber, wants: &[WantEntry], full: bool, honest: bool) {
        if !honest {
            return;
        }
        let wanted = self.wanted_by.entry(from).or_default();
        if full {
            wanted.clear();
        }
        for entry in wants {
            if entry.cancel {
                wanted.remove(&entry.cid);
            } else {
                wanted.insert(entry.cid);
            }
        }
        assert!(wanted.len() <= WANTS_PER_PEER_MAX, "{} wants at once at one peer", wanted.len());
    }
}
