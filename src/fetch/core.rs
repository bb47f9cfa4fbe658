//! What one fetch decides: which CIDs to look up, whom to ask for which block, what to store, when it is done or stalled.
//!
//! Pure: no clock, no task, no disk. [`super::Fetcher`] feeds it what the node and the store say and carries out what it
//! asks for; the simulation in `tests/sim` drives the same code.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;

use crate::bitswap::PeerNumber;
use crate::bitswap::session::{Action, Answers, Session};
use crate::dag::walk::{Walk, WalkError, WalkLimits};
use crate::model::{Block, SubDag};
use crate::net::SessionEvent;

/// CIDs that are looked up in the store at a time.
const LOOKUP_CIDS_MAX: usize = 512;

/// Wants that are listed while nobody can be asked for them: about 200 bytes of memory each.
const WANTS_AHEAD_MAX: usize = 4096;

/// Blocks, and bytes of blocks, that wait before the store gets them. Each commit writes parts of the index anew, so a commit
/// for each block would take longer than the block itself.
const PUT_BLOCKS: usize = 512;
const PUT_BYTES: u64 = 4 * 1024 * 1024;

/// What is asked for may turn out larger by this part of what is allowed before some of it is taken back.
const RETRACT_PART: u64 = 4;

/// How long a block waits at most for others to be stored with.
const PUT_WAIT_MAX: Duration = Duration::from_millis(50);

/// A look-up costs a wake-up of another thread, and what it finds missing a message: both wait until so much of the window
/// is free.
const LOOKUP_ROOM_PART: usize = 8;

/// A fetch always may have this much in flight, however many others run: the largest block, and one more.
const SHARE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// How long a fetch keeps its slot while nobody is known to have what it wants.
pub const PROVIDER_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often [`FetchCore::handle_tick`] is due.
pub const TICK: Duration = Duration::from_millis(250);

/// Over how long the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Why a fetch ends without its DAG.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The DAG itself can't be fetched whole, whoever has it.
    #[error(transparent)]
    Dag(Box<WalkError>),
    /// No block came for the stall time-out.
    #[error("stalled")]
    Stalled {
        /// Whether any peer was known to have blocks of it.
        had_provider: bool,
    },
}

impl From<WalkError> for CoreError {
    fn from(error: WalkError) -> Self {
        Self::Dag(Box::new(error))
    }
}

/// How far a fetch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress {
    /// Distinct blocks that are durable.
    pub blocks_fetched: u64,
    /// Distinct blocks that are known to belong to the DAG.
    pub blocks_known: u64,
    /// Bytes of the durable blocks.
    pub bytes_fetched: u64,
    /// Bytes of the whole DAG, as its root says, if it does.
    pub bytes_told: Option<u64>,
    /// Bytes per second, lately.
    pub bytes_per_second: u64,
    /// Peers that are asked for blocks.
    pub providers: usize,
    /// What those did that were asked, by their numbers.
    pub answers: Arc<[(PeerNumber, Answers)]>,
    /// When the first block came, if one did.
    pub first_block_at: Option<Instant>,
    /// When the last block came, if one did.
    pub last_block_at: Option<Instant>,
    /// When the fetch began.
    pub began_at: Instant,
}

impl FetchProgress {
    /// A fetch that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            blocks_fetched: 0,
            blocks_known: 1,
            bytes_fetched: 0,
            bytes_told: None,
            bytes_per_second: 0,
            providers: 0,
            answers: Arc::default(),
            first_block_at: None,
            last_block_at: None,
            began_at: now,
        }
    }
}

/// A DAG that is whole and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalDag {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
}

/// What bounds one fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// What the DAG may be.
    pub dag: WalkLimits,
    /// How long it may go without a block.
    pub stall_timeout: Duration,
}

/// What the store has of a CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    No,
    /// A block without links, of so many bytes.
    Leaf(u32),
    /// A block, verified.
    Node(Bytes),
    /// The same, and what is known to be below it.
    SubDag(Bytes, SubDag),
    /// Not looked at, since the nodes before it are large.
    Later,
}

/// Blocks for the store.
#[derive(Debug)]
pub struct Batch {
    /// The blocks, in the order in which they came.
    pub blocks: Vec<Block>,
    /// Their bytes.
    pub bytes: u64,
}

/// How many bytes each of `running` fetches may have in flight, when all together may have `bytes_in_flight_max`.
pub fn share_bytes(bytes_in_flight_max: u64, running: u64) -> u64 {
    (bytes_in_flight_max / running.max(1)).max(SHARE_BYTES_MIN)
}

/// One fetch.
///
/// After whatever happened, [`FetchCore::poll_lookup`] and [`FetchCore::poll_actions`] say what is to be done, and
/// [`FetchCore::result`] whether that was all. Blocks that came are taken with [`FetchCore::take_blocks`], at the latest
/// at [`FetchCore::put_due_at`].
#[derive(Debug)]
pub struct FetchCore {
    limits: FetchLimits,
    walk: Walk,
    session: Session,
    /// A look-up's answer is awaited.
    looking_up: bool,
    /// Batches that the store has and hasn't committed.
    putting: usize,
    /// Blocks that came and aren't handed to the store yet.
    waiting_blocks: Vec<Block>,
    waiting_bytes: u64,
    /// When the first of them came.
    waiting_since: Instant,
    /// Bytes that this fetch may have in flight, when that was last said.
    share_bytes: u64,
    /// Bytes of blocks that came and aren't durable, handed to the store or not.
    unstored_bytes: u64,
    progress: FetchProgress,
    rates: VecDeque<(Instant, u64)>,
    had_provider: bool,
    /// Since when peers have had something to deliver and haven't.
    quiet_since: Instant,
}

impl FetchCore {
    /// A fetch of the DAG below `root` that begins now.
    pub fn new(root: Cid, limits: FetchLimits, now: Instant) -> Result<Self, CoreError> {
        Ok(Self {
            limits,
            walk: Walk::new(root, limits.dag)?,
            session: Session::new(),
            looking_up: false,
            putting: 0,
            waiting_blocks: Vec::new(),
            waiting_bytes: 0,
            waiting_since: now,
            share_bytes: SHARE_BYTES_MIN,
            unstored_bytes: 0,
            progress: FetchProgress::new(now),
            rates: VecDeque::new(),
            had_provider: false,
            quiet_since: now,
        })
    }

    /// The next CIDs of the walk to look up in the store, as far as there is room to want what it doesn't have.
    /// [`FetchCore::handle_lookup`] must follow.
    pub fn poll_lookup(&mut self) -> Option<Vec<Cid>> {
        if self.looking_up {
            return None;
        }
        // While nobody can be asked, the walk goes on through what is held, so that the progress says what is held.
        let window = if self.session.providers() == 0 { WANTS_AHEAD_MAX } else { self.session.window() };
        let wanted = self.session.wanted();
        let room = window.saturating_sub(wanted).min(LOOKUP_CIDS_MAX);
        if room < (window / LOOKUP_ROOM_PART).min(LOOKUP_CIDS_MAX) && wanted > window / 2 {
            return None;
        }
        let cids: Vec<Cid> = std::iter::from_fn(|| self.walk.next()).take(room).collect();
        self.looking_up = !cids.is_empty();
        self.looking_up.then_some(cids)
    }

    /// What to tell the peers, when `share_bytes` may be in flight.
    pub fn poll_actions(&mut self, now: Instant, share_bytes: u64) -> Vec<Action> {
        self.share_bytes = share_bytes;
        let expected = self.session.block_bytes_expected();
        if self.unstored_bytes + self.session.outstanding() as u64 * expected > share_bytes + share_bytes / RETRACT_PART
        {
            let fit = share_bytes.saturating_sub(self.unstored_bytes) / expected;
            self.session.retract(usize::try_from(fit).unwrap_or(usize::MAX).max(1));
        }
        self.session.poll(now, self.asks_max(share_bytes))
    }

    /// The whole DAG, once all of it is durable.
    pub fn result(&self) -> Option<LocalDag> {
        let idle = !self.looking_up && self.putting == 0 && self.waiting_blocks.is_empty();
        (idle && self.walk.is_complete()).then(|| LocalDag { blocks: self.walk.done(), bytes: self.walk.bytes() })
    }

    /// How many blocks more may be asked for: as many as fit in this fetch's share of memory, going by the size of the
    /// blocks that came lately. One is always allowed when nothing is on its way.
    fn asks_max(&self, share_bytes: u64) -> usize {
        let expected = self.session.block_bytes_expected();
        let outstanding = self.session.outstanding() as u64;
        let free = share_bytes.saturating_sub(self.unstored_bytes + outstanding * expected);
        let idle = outstanding == 0 && self.unstored_bytes == 0;
        usize::try_from(free / expected).unwrap_or(usize::MAX).max(usize::from(idle))
    }

    /// What the store has of the CIDs that were last handed out.
    pub fn handle_lookup(&mut self, found: Vec<(Cid, Held)>) -> Result<(), CoreError> {
        self.looking_up = false;
        for (cid, _) in found.iter().rev().filter(|(_, held)| matches!(held, Held::Later)) {
            self.walk.give_back(cid);
        }
        let (blocks, bytes) = (self.walk.done(), self.walk.bytes());
        for (cid, held) in found {
            match held {
                Held::Later => {}
                Held::No => self.session.want(cid),
                Held::Leaf(bytes) => self.walk.add_leaf(&cid, u64::from(bytes))?,
                Held::Node(data) => self.walk.add_block(&cid, &data).map(|_| ())?,
                Held::SubDag(data, sub_dag) => self.walk.add_sub_dag(&cid, &data, &sub_dag)?,
            }
        }
        self.progress.blocks_fetched += self.walk.done() - blocks;
        self.progress.bytes_fetched += self.walk.bytes() - bytes;
        Ok(())
    }

    /// What the node says.
    pub fn handle_event(&mut self, event: SessionEvent, now: Instant) -> Result<(), CoreError> {
        match event {
            SessionEvent::PeerConnected { peer, source } => self.session.peer_connected(peer, source, now),
            SessionEvent::PeerGone(peer) => self.session.peer_gone(peer),
            SessionEvent::Have { from, cid } => self.session.handle_have(from, &cid),
            SessionEvent::DontHave { from, cid } => self.session.handle_dont_have(from, &cid, now),
            SessionEvent::Part(from) => self.session.handle_part(from, now),
            SessionEvent::Block { from, block } => {
                let bytes = block.data().len() as u64;
                if self.session.handle_block(from, block.cid(), bytes, now) {
                    self.walk.add_block(block.cid(), block.data())?;
                    self.progress.first_block_at.get_or_insert(now);
                    self.progress.last_block_at = Some(now);
                    self.quiet_since = now;
                    self.unstored_bytes += bytes;
                    if self.waiting_blocks.is_empty() {
                        self.waiting_since = now;
                    }
                    self.waiting_bytes += bytes;
                    self.waiting_blocks.push(block);
                }
            }
        }
        self.had_provider |= self.session.providers() > 0;
        Ok(())
    }

    /// When the store should get the blocks that wait, if any do; that may be at once.
    pub fn put_due_at(&self, now: Instant) -> Option<Instant> {
        if self.waiting_blocks.is_empty() {
            return None;
        }
        // With little memory a batch must not hold up what could be asked for meanwhile.
        let enough =
            self.waiting_blocks.len() >= PUT_BLOCKS || self.waiting_bytes >= PUT_BYTES.min(self.share_bytes / 4);
        let last = self.session.wanted() == 0 && !self.looking_up && self.walk.pending_len() == 0;
        Some(if enough || last { now } else { self.waiting_since + PUT_WAIT_MAX })
    }

    /// The blocks that wait for the store, if any do. [`FetchCore::handle_put`] must follow when they are durable.
    pub fn take_blocks(&mut self) -> Option<Batch> {
        if self.waiting_blocks.is_empty() {
            return None;
        }
        self.putting += 1;
        let blocks = std::mem::take(&mut self.waiting_blocks);
        Some(Batch { blocks, bytes: std::mem::take(&mut self.waiting_bytes) })
    }

    /// A batch is durable.
    pub fn handle_put(&mut self, blocks: usize, bytes: u64) {
        self.putting -= 1;
        self.unstored_bytes -= bytes;
        self.progress.blocks_fetched += blocks as u64;
        self.progress.bytes_fetched += bytes;
    }

    /// Looks for overdue answers and whether the fetch has stalled; to be called every [`TICK`].
    pub fn handle_tick(&mut self, now: Instant) -> Result<(), CoreError> {
        self.session.handle_timeout(now);
        // While the store is slow or the walk goes through what is held, no peer is late.
        if self.session.wanted() == 0 || self.looking_up || self.putting > 0 {
            self.quiet_since = now;
        }
        let quiet = now.saturating_duration_since(self.quiet_since);
        let asked_in_vain = self.session.providers() == 0 && quiet >= PROVIDER_WAIT_MAX;
        if asked_in_vain || quiet >= self.limits.stall_timeout {
            return Err(CoreError::Stalled { had_provider: self.had_provider });
        }
        Ok(())
    }

    /// How far it has come; the rate is measured from one call to the next.
    pub fn progress(&mut self, now: Instant) -> FetchProgress {
        self.rates.push_back((now, self.progress.bytes_fetched));
        while self.rates.len() > 2 && self.rates.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW) {
            self.rates.pop_front();
        }
        if let Some((at, bytes)) = self.rates.front() {
            let milliseconds = now.duration_since(*at).as_millis().max(1);
            let rate = u128::from(self.progress.bytes_fetched - bytes) * 1000 / milliseconds;
            self.progress.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        self.progress.blocks_known = self.walk.known();
        self.progress.bytes_told = self.walk.bytes_told();
        self.progress.providers = self.session.providers();
        self.progress.answers = self.session.answers().collect();
        self.progress.clone()
    }

    /// The peers' side of the fetch.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Bytes of blocks that came and aren't durable.
    pub fn unstored_bytes(&self) -> u64 {
        self.unstored_bytes
    }
}
