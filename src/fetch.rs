//! Makes one DAG local: walks it, takes what the store has, asks peers for the rest, and stores what comes.
//!
//! Children are wanted the moment their parent is decoded; storing goes on beside it. Memory is bounded: what is asked
//! for and what waits for its commit together stay below this fetch's share of `pins.bytes_in_flight_max`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::bitswap::session::Session;
use crate::dag::walk::{Walk, WalkError};
use crate::model::{Block, cids::codec};
use crate::net::{NodeGone, NodeHandle, PeerId, SessionEvent, SessionHandle};
use crate::store::blocks::{BlockReader, BlockWriter, BlocksError, Ticket};

/// CIDs that are looked up in the store at a time.
const LOOKUP_CIDS_MAX: usize = 512;

/// Bytes of nodes that one look-up reads; what is beyond waits for the next one.
const LOOKUP_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Wants that are listed while nobody can be asked for them: about 200 bytes of memory each.
const WANTS_AHEAD_MAX: usize = 4096;

/// Events that are taken in a row before anything else gets its turn.
const EVENTS_IN_A_ROW_MAX: usize = 1024;

/// Blocks that are handed to the store at a time.
const PUT_BLOCKS_MAX: usize = 64;

/// A fetch always may have this much in flight, however many others run: the largest block, and one more.
const SHARE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// How long a fetch keeps its slot while nobody is known to have what it wants.
const PROVIDER_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often overdue answers are looked for and the progress is told.
const TICK: Duration = Duration::from_millis(250);

/// Over how long the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Why a DAG didn't become local.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The DAG itself can't be fetched whole, whoever has it.
    #[error(transparent)]
    Dag(Box<WalkError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlocksError),
    /// No block came for the stall time-out.
    #[error("stalled")]
    Stalled {
        /// Whether any peer was known to have blocks of it.
        had_provider: bool,
    },
    /// The node has stopped.
    #[error(transparent)]
    Node(#[from] NodeGone),
    /// A blocking task was cancelled, because the program ends.
    #[error("the program is stopping")]
    Stopping,
}

impl From<WalkError> for FetchError {
    fn from(error: WalkError) -> Self {
        Self::Dag(Box::new(error))
    }
}

/// How far a fetch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchProgress {
    /// Distinct blocks that are durable.
    pub blocks_fetched: u64,
    /// Distinct blocks that are known to belong to the DAG.
    pub blocks_known: u64,
    /// Bytes of the durable blocks.
    pub bytes_fetched: u64,
    /// Bytes per second, lately.
    pub bytes_per_second: u64,
    /// Peers that are asked for blocks.
    pub providers: usize,
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
            bytes_per_second: 0,
            providers: 0,
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
    /// Distinct blocks of the DAG.
    pub blocks_max: u64,
    /// How long it may go without a block.
    pub stall_timeout: Duration,
}

/// What fetches share.
#[derive(Debug, Clone)]
pub struct Fetcher {
    reader: BlockReader,
    writer: BlockWriter,
    node: NodeHandle,
    bytes_in_flight_max: u64,
    running: Arc<AtomicU64>,
}

impl Fetcher {
    /// Fetches through `node` into the store. All fetches together keep `bytes_in_flight_max` bytes in memory.
    pub fn new(reader: BlockReader, writer: BlockWriter, node: NodeHandle, bytes_in_flight_max: u64) -> Self {
        Self { reader, writer, node, bytes_in_flight_max, running: Arc::default() }
    }

    /// Makes the DAG below `root` local, from `sources` first. Progress is told through `progress`. Dropping the future
    /// ends the fetch; what is stored stays, and the next fetch finds it.
    pub async fn fetch(
        &self,
        root: Cid,
        sources: Vec<PeerId>,
        limits: FetchLimits,
        progress: &watch::Sender<FetchProgress>,
    ) -> Result<LocalDag, FetchError> {
        let _running = Running::new(&self.running);
        let walk = Walk::new(root, limits.blocks_max)?;
        let peers = self.node.open_session(sources).await?;
        let now = Instant::now();
        let run = Run {
            fetcher: self,
            limits,
            walk,
            session: Session::new(),
            peers,
            lookup: None,
            puts: FuturesUnordered::new(),
            waiting_blocks: Vec::new(),
            ticket: None,
            unstored_bytes: 0,
            progress: FetchProgress::new(now),
            rates: VecDeque::new(),
            had_provider: false,
            quiet_since: now,
        };
        run.run(progress).await
    }

    /// How many bytes one fetch may have in flight.
    fn share_bytes(&self) -> u64 {
        let running = self.running.load(Ordering::Relaxed).max(1);
        (self.bytes_in_flight_max / running).max(SHARE_BYTES_MIN)
    }
}

/// Counts a running fetch until it is dropped.
struct Running(Arc<AtomicU64>);

impl Running {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the store has of a CID.
enum Held {
    No,
    /// A block without links.
    Leaf(u32),
    Node(Bytes),
    /// Not looked at, since the nodes before it are large.
    Later,
}

type Lookup = JoinHandle<Result<Vec<(Cid, Held)>, BlocksError>>;

struct Put {
    cids: Vec<Cid>,
    bytes: u64,
    result: Result<(), BlocksError>,
}

struct Run<'fetcher> {
    fetcher: &'fetcher Fetcher,
    limits: FetchLimits,
    walk: Walk,
    session: Session,
    peers: SessionHandle,
    lookup: Option<Lookup>,
    puts: FuturesUnordered<BoxFuture<'static, Put>>,
    /// Blocks that came and aren't handed to the store yet.
    waiting_blocks: Vec<Block>,
    /// Covers `waiting_blocks`.
    ticket: Option<Ticket>,
    unstored_bytes: u64,
    progress: FetchProgress,
    rates: VecDeque<(Instant, u64)>,
    had_provider: bool,
    /// Since when peers have had something to deliver and haven't.
    quiet_since: Instant,
}

impl Run<'_> {
    async fn run(mut self, progress: &watch::Sender<FetchProgress>) -> Result<LocalDag, FetchError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_lookup();
            let actions = self.session.poll(Instant::now(), self.asks_max());
            if !actions.is_empty() {
                self.peers.act(actions).await?;
            }
            if self.lookup.is_none() && self.walk.is_complete() && self.puts.is_empty() {
                self.tell(progress);
                return Ok(LocalDag { blocks: self.walk.done(), bytes: self.walk.bytes() });
            }
            tokio::select! {
                event = self.peers.next() => {
                    self.handle_event(event.ok_or(NodeGone)?)?;
                    for _ in 1..EVENTS_IN_A_ROW_MAX {
                        if self.waiting_blocks.len() >= PUT_BLOCKS_MAX {
                            break;
                        }
                        let Some(event) = self.peers.try_next() else { break };
                        self.handle_event(event)?;
                    }
                    self.put_waiting();
                }
                found = answer(self.lookup.as_mut()) => {
                    self.lookup = None;
                    self.handle_lookup(found.map_err(|_| FetchError::Stopping)??)?;
                }
                Some(put) = self.puts.next(), if !self.puts.is_empty() => self.handle_put(put).await?,
                _ = tick.tick() => {
                    self.session.handle_timeout(Instant::now());
                    self.check_stall()?;
                    self.tell(progress);
                }
            }
        }
    }

    /// How many blocks more may be asked for: as many as fit in this fetch's share of memory, going by the size of the
    /// blocks that came lately. One is always allowed when nothing is on its way.
    fn asks_max(&self) -> usize {
        let expected = self.session.block_bytes_expected();
        let outstanding = self.session.outstanding() as u64;
        let free = self.fetcher.share_bytes().saturating_sub(self.unstored_bytes + outstanding * expected);
        let idle = outstanding == 0 && self.unstored_bytes == 0;
        usize::try_from(free / expected).unwrap_or(usize::MAX).max(usize::from(idle))
    }

    /// Looks up the next CIDs of the walk, as far as there is room to want what the store doesn't have.
    fn start_lookup(&mut self) {
        if self.lookup.is_some() {
            return;
        }
        // While nobody can be asked, the walk goes on through what is held, so that the progress says what is held.
        let window = if self.session.providers() == 0 { WANTS_AHEAD_MAX } else { self.session.window() };
        let room = window.saturating_sub(self.session.wanted()).min(LOOKUP_CIDS_MAX);
        let cids: Vec<Cid> = std::iter::from_fn(|| self.walk.next()).take(room).collect();
        if !cids.is_empty() {
            let reader = self.fetcher.reader.clone();
            self.lookup = Some(tokio::task::spawn_blocking(move || look_up(&reader, &cids)));
        }
    }

    fn handle_lookup(&mut self, found: Vec<(Cid, Held)>) -> Result<(), FetchError> {
        for (cid, _) in found.iter().rev().filter(|(_, held)| matches!(held, Held::Later)) {
            self.walk.give_back(cid);
        }
        for (cid, held) in found {
            match held {
                Held::Later => {}
                Held::No => {
                    // What can't be stored isn't worth asking for.
                    if let Some(shortage) = self.fetcher.reader.shortage() {
                        return Err(BlocksError::from(shortage).into());
                    }
                    self.session.want(cid);
                }
                Held::Leaf(bytes) => {
                    self.walk.add_leaf(&cid, u64::from(bytes));
                    self.progress.blocks_fetched += 1;
                    self.progress.bytes_fetched += u64::from(bytes);
                }
                Held::Node(data) => {
                    self.walk.add_block(&cid, &data)?;
                    self.progress.blocks_fetched += 1;
                    self.progress.bytes_fetched += data.len() as u64;
                }
            }
        }
        Ok(())
    }

    fn handle_event(&mut self, event: SessionEvent) -> Result<(), FetchError> {
        let now = Instant::now();
        match event {
            SessionEvent::PeerConnected { peer, source } => self.session.peer_connected(peer, source, now),
            SessionEvent::PeerGone(peer) => self.session.peer_gone(peer),
            SessionEvent::Have { from, cid } => self.session.handle_have(from, &cid),
            SessionEvent::DontHave { from, cid } => self.session.handle_dont_have(from, &cid, now),
            SessionEvent::Block { from, block } => {
                let bytes = block.data().len() as u64;
                if self.session.handle_block(from, block.cid(), bytes, now) {
                    // Before its links are followed: see `Ticket`.
                    self.ticket.get_or_insert_with(|| self.fetcher.writer.ticket());
                    self.walk.add_block(block.cid(), block.data())?;
                    self.progress.last_block_at = Some(now);
                    self.quiet_since = now;
                    self.unstored_bytes += bytes;
                    self.waiting_blocks.push(block);
                }
            }
        }
        self.had_provider |= self.session.providers() > 0;
        Ok(())
    }

    fn put_waiting(&mut self) {
        if self.waiting_blocks.is_empty() {
            return;
        }
        let blocks = std::mem::take(&mut self.waiting_blocks);
        let cids = blocks.iter().map(|block| *block.cid()).collect();
        let bytes = blocks.iter().map(|block| block.data().len() as u64).sum();
        let writer = self.fetcher.writer.clone();
        let ticket = self.ticket.take();
        let put = async move {
            let result = writer.put(blocks).await;
            drop(ticket);
            Put { cids, bytes, result }
        };
        self.puts.push(put.boxed());
    }

    async fn handle_put(&mut self, put: Put) -> Result<(), FetchError> {
        put.result?;
        self.unstored_bytes -= put.bytes;
        self.progress.blocks_fetched += put.cids.len() as u64;
        self.progress.bytes_fetched += put.bytes;
        self.fetcher.node.stored(put.cids).await?;
        Ok(())
    }

    fn check_stall(&mut self) -> Result<(), FetchError> {
        // While the store is slow or the walk goes through what is held, no peer is late.
        if self.session.wanted() == 0 || self.lookup.is_some() || !self.puts.is_empty() {
            self.quiet_since = Instant::now();
        }
        let quiet = self.quiet_since.elapsed();
        let asked_in_vain = self.session.providers() == 0 && quiet >= PROVIDER_WAIT_MAX;
        if asked_in_vain || quiet >= self.limits.stall_timeout {
            return Err(FetchError::Stalled { had_provider: self.had_provider });
        }
        Ok(())
    }

    fn tell(&mut self, progress: &watch::Sender<FetchProgress>) {
        let now = Instant::now();
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
        self.progress.providers = self.session.providers();
        progress.send_replace(self.progress);
    }
}

/// The running look-up's answer; never, when none runs.
async fn answer(lookup: Option<&mut Lookup>) -> Result<Result<Vec<(Cid, Held)>, BlocksError>, JoinError> {
    match lookup {
        Some(lookup) => lookup.await,
        None => std::future::pending().await,
    }
}

fn look_up(reader: &BlockReader, cids: &[Cid]) -> Result<Vec<(Cid, Held)>, BlocksError> {
    let is_leaf = |cid: &Cid| codec::is_leaf(cid.codec());
    let sizes = reader.hold_many(cids)?;
    let (mut nodes, mut bytes) = (Vec::new(), 0);
    for (cid, size) in cids.iter().zip(&sizes) {
        if let Some(size) = size.filter(|_| !is_leaf(cid)) {
            bytes += u64::from(size);
            if bytes > LOOKUP_BYTES_MAX && !nodes.is_empty() {
                break;
            }
            nodes.push(*cid);
        }
    }
    let mut data = nodes.iter().zip(reader.get_many(&nodes)?);
    let mut found = Vec::with_capacity(cids.len());
    for (cid, size) in cids.iter().zip(sizes) {
        let held = match size {
            None => Held::No,
            Some(size) if is_leaf(cid) => Held::Leaf(size),
            Some(_) => match data.next() {
                // Links that rotted would make a pin fail, or seem whole.
                Some((_, Some(data))) if Block::verify(*cid, data.clone()).is_err() => {
                    return Err(BlocksError::Corrupt { cid: *cid });
                }
                Some((_, Some(data))) => Held::Node(data),
                Some((_, None)) => Held::No,
                None => Held::Later,
            },
        };
        found.push((*cid, held));
    }
    Ok(found)
}
