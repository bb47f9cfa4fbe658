//! Makes one DAG local: walks it, takes what the store has, asks peers and gateways for the rest, and stores what comes.
//!
//! Children are wanted the moment their parent is decoded; storing goes on beside it. Memory is bounded: what is asked
//! for and what waits for its commit together stay below this fetch's share of `fetch.bytes_in_flight_max`. What to do next
//! is decided in [`core`]; this file carries it out.

pub mod core;
mod options;
mod surveys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cid::Cid;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use self::core::{CoreError, FetchCore, Held, TICK};
pub use self::core::{FetchLimits, FetchProgress, LocalDag};
pub use self::options::Options;
use self::surveys::Surveys;
use crate::dag::walk::WalkError;
use crate::denylist::Denylist;
use crate::model::{Block, Traffic, cids::codec};
use crate::net::{GatewayAddress, NodeGone, NodeHandle, PeerId, SessionEvent, SessionHandle};
use crate::retrieval::{GatewaySession, Gateways};
use crate::store::blocks::{BlockReader, BlockWriter, BlocksError, Ticket, WHOLE_BLOCKS_MIN, WholeDag};

/// Bytes of nodes, and of what is known to be below them, that one look-up reads; what is beyond waits for the next one.
const LOOKUP_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// After how many blocks a fetch has what it holds surveyed: so many are looked at one by one if it has to begin again.
const SURVEY_BLOCKS: u64 = 100_000;

/// Events that are taken in a row before anything else gets its turn.
const EVENTS_IN_A_ROW_MAX: usize = 1024;

/// Why a DAG didn't become local.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The DAG itself can't be fetched whole, whoever has it.
    #[error(transparent)]
    Dag(Box<WalkError>),
    /// The operator's denylist has a block of the DAG.
    #[error("the operator's denylist has {cid}")]
    Denied {
        /// The block.
        cid: Cid,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlocksError),
    /// No block came for the stall time-out.
    #[error("stalled")]
    Stalled {
        /// Whether any peer was known to have blocks of it.
        had_provider: bool,
        /// For each gateway that didn't give everything, a sentence that says why.
        gateways: Vec<String>,
    },
    /// The node has stopped.
    #[error(transparent)]
    Node(#[from] NodeGone),
    /// A blocking task was cancelled, because the program ends.
    #[error("the program is stopping")]
    Stopping,
}

impl From<CoreError> for FetchError {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Dag(error) => Self::Dag(error),
            CoreError::Stalled { had_provider } => Self::Stalled { had_provider, gateways: Vec::new() },
        }
    }
}

/// Who is named as having a DAG.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Peers, of whom some may be connected.
    pub peers: Vec<PeerId>,
    /// Gateways to ask over HTTP.
    pub gateways: Vec<GatewayAddress>,
}

impl Sources {
    /// These and no more, as [`Fetcher::fetch`] takes them.
    pub fn only(self) -> mpsc::UnboundedReceiver<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The receiver is at hand.
        let _ = sender.send(self);
        receiver
    }
}

/// What fetches share.
#[derive(Debug, Clone)]
pub struct Fetcher {
    reader: BlockReader,
    writer: BlockWriter,
    node: NodeHandle,
    gateways: Gateways,
    bytes_in_flight_max: u64,
    running: Arc<AtomicU64>,
    fetched: Arc<Traffic>,
    denylist: Denylist,
    surveys: Arc<Surveys>,
}

impl Fetcher {
    /// Fetches through `node` and `gateways` into the store. All fetches together keep `bytes_in_flight_max` bytes in
    /// memory.
    pub fn new(
        reader: BlockReader,
        writer: BlockWriter,
        node: NodeHandle,
        gateways: Gateways,
        bytes_in_flight_max: u64,
    ) -> Self {
        let (running, fetched, denylist) = (Arc::default(), Arc::default(), Denylist::default());
        let surveys = Arc::new(Surveys::new(writer.clone()));
        Self { reader, writer, node, gateways, bytes_in_flight_max, running, fetched, denylist, surveys }
    }

    /// The same, which makes no DAG local that has a block on this list.
    #[must_use]
    pub fn with_denylist(self, denylist: Denylist) -> Self {
        Self { denylist, ..self }
    }

    /// Fails if the operator doesn't want this block here.
    fn check(&self, cid: &Cid) -> Result<(), FetchError> {
        if self.denylist.denies(cid) { Err(FetchError::Denied { cid: *cid }) } else { Ok(()) }
    }

    /// Makes the DAG below `root` local, from `sources` first: those that are there already, and those that come while it
    /// runs. Progress is told through `progress`. Dropping the future ends the fetch; what is stored stays, and the next fetch
    /// finds it.
    pub async fn fetch(
        &self,
        root: Cid,
        mut sources: mpsc::UnboundedReceiver<Sources>,
        limits: FetchLimits,
        progress: &watch::Sender<FetchProgress>,
    ) -> Result<LocalDag, FetchError> {
        self.check(&root)?;
        let (generation, whole) = self.known(root).await?;
        // With a denylist every block is looked at: what was whole before may have a denied one.
        if !self.denylist.has_files()
            && let Some(WholeDag { blocks, bytes }) = whole
            && limits.dag.allow(blocks, bytes)
        {
            return Ok(LocalDag { blocks, bytes });
        }
        let _running = Running::new(&self.running);
        let core = FetchCore::new(root, limits, Instant::now())?;
        let mut first = Sources::default();
        while let Ok(Sources { peers, gateways }) = sources.try_recv() {
            first.peers.extend(peers);
            first.gateways.extend(gateways);
        }
        let peers = self.node.open_session(first.peers).await?;
        let gateways = self.gateways.open(first.gateways);
        let puts = FuturesUnordered::new();
        let mut run =
            Run { fetcher: self, core, sources, peers, gateways, lookup: None, puts, ticket: None, root, surveyed: 0 };
        let mut result = run.run(progress).await;
        if let Err(FetchError::Stalled { gateways, .. }) = &mut result {
            *gateways = run.gateways.remarks();
        }
        if let Ok(LocalDag { blocks, bytes }) = result {
            self.remember(root, WholeDag { blocks, bytes }, generation).await;
            if blocks >= WHOLE_BLOCKS_MIN {
                self.surveys.begin(root);
            }
        }
        result
    }

    /// What the store knows of the DAG as a whole, and the generation of that knowledge.
    async fn known(&self, root: Cid) -> Result<(u64, Option<WholeDag>), FetchError> {
        let reader = self.reader.clone();
        let look = tokio::task::spawn_blocking(move || Ok((reader.whole_generation()?, reader.whole(&root)?)));
        look.await.map_err(|_| FetchError::Stopping)?
    }

    /// Lets the next pin of the DAG find it whole. Without that it is walked again, which is all.
    async fn remember(&self, root: Cid, dag: WholeDag, generation: u64) {
        let writer = self.writer.clone();
        let marked = tokio::task::spawn_blocking(move || writer.mark_whole(&root, dag, generation));
        if let Ok(Err(error)) = marked.await {
            tracing::warn!(%root, %error, "that a DAG is whole can't be written down");
        }
    }

    /// Blocks that came and were stored, of all fetches since the start.
    pub fn fetched(&self) -> Arc<Traffic> {
        Arc::clone(&self.fetched)
    }

    /// How many bytes one fetch may have in flight.
    fn share_bytes(&self) -> u64 {
        core::share_bytes(self.bytes_in_flight_max, self.running.load(Ordering::Relaxed))
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

type Lookup = JoinHandle<Result<Vec<(Cid, Held)>, BlocksError>>;

struct Put {
    cids: Vec<Cid>,
    bytes: u64,
    result: Result<(), BlocksError>,
}

struct Run<'fetcher> {
    fetcher: &'fetcher Fetcher,
    core: FetchCore,
    sources: mpsc::UnboundedReceiver<Sources>,
    peers: SessionHandle,
    gateways: GatewaySession,
    lookup: Option<Lookup>,
    puts: FuturesUnordered<BoxFuture<'static, Put>>,
    /// Covers the blocks that came and aren't handed to the store yet.
    ticket: Option<Ticket>,
    root: Cid,
    /// How many blocks were there when they were last surveyed.
    surveyed: u64,
}

impl Run<'_> {
    async fn run(&mut self, progress: &watch::Sender<FetchProgress>) -> Result<LocalDag, FetchError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(cids) = self.core.poll_lookup() {
                cids.iter().try_for_each(|cid| self.fetcher.check(cid))?;
                let reader = self.fetcher.reader.clone();
                // With a denylist every block is looked at.
                let at_once = !self.fetcher.denylist.has_files();
                self.lookup = Some(tokio::task::spawn_blocking(move || look_up(&reader, &cids, at_once)));
            }
            let actions = self.core.poll_actions(Instant::now(), self.fetcher.share_bytes());
            if !actions.is_empty() {
                let of_peers = self.gateways.act(actions);
                if !of_peers.is_empty() {
                    self.peers.act(of_peers).await?;
                }
            }
            if let Some(dag) = self.core.result() {
                progress.send_replace(self.core.progress(Instant::now()));
                return Ok(dag);
            }
            let now = Instant::now();
            let put_due_at = self.core.put_due_at(now);
            if put_due_at.is_some_and(|at| at <= now) {
                self.put_waiting();
            }
            tokio::select! {
                event = self.peers.next() => {
                    self.handle_event(event.ok_or(NodeGone)?)?;
                    for _ in 1..EVENTS_IN_A_ROW_MAX {
                        if self.core.put_due_at(now).is_some_and(|at| at <= now) {
                            break;
                        }
                        let Some(event) = self.peers.try_next() else { break };
                        self.handle_event(event)?;
                    }
                }
                Some(Sources { peers, gateways }) = self.sources.recv() => {
                    self.gateways.add(&self.fetcher.gateways, gateways);
                    self.peers.add_sources(peers).await?;
                }
                event = self.gateways.next() => {
                    self.handle_gateway_event(event).await?;
                    for _ in 1..EVENTS_IN_A_ROW_MAX {
                        if self.core.put_due_at(now).is_some_and(|at| at <= now) {
                            break;
                        }
                        let Some(event) = self.gateways.try_next() else { break };
                        self.handle_gateway_event(event).await?;
                    }
                }
                () = tokio::time::sleep_until(put_due_at.unwrap_or(now).into()), if put_due_at.is_some_and(|at| at > now) => {}
                found = answer(self.lookup.as_mut()) => {
                    self.lookup = None;
                    let found = found.map_err(|_| FetchError::Stopping)??;
                    // What can't be stored isn't worth asking for.
                    if found.iter().any(|(_, held)| *held == Held::No)
                        && let Some(shortage) = self.fetcher.reader.shortage()
                    {
                        return Err(BlocksError::from(shortage).into());
                    }
                    self.core.handle_lookup(found)?;
                }
                Some(put) = self.puts.next(), if !self.puts.is_empty() => {
                    put.result?;
                    self.core.handle_put(put.cids.len(), put.bytes);
                    self.fetcher.node.stored(put.cids).await?;
                }
                _ = tick.tick() => {
                    let now = Instant::now();
                    // Before the end, if this is one: it tells what the peers answered.
                    let come = self.core.progress(now);
                    if come.blocks_fetched >= self.surveyed + SURVEY_BLOCKS {
                        self.surveyed = come.blocks_fetched;
                        self.fetcher.surveys.begin(self.root);
                    }
                    progress.send_replace(come);
                    self.core.handle_tick(now)?;
                }
            }
        }
    }

    /// What a gateway says. The peers that were asked for the same block needn't send it any more.
    async fn handle_gateway_event(&mut self, event: SessionEvent) -> Result<(), FetchError> {
        if let SessionEvent::Block { from, block } = &event
            && self.core.session().connected() > self.gateways.connected()
        {
            self.peers.came(*from, block.clone()).await?;
        }
        self.handle_event(event)
    }

    fn handle_event(&mut self, event: SessionEvent) -> Result<(), FetchError> {
        if let SessionEvent::Block { block, .. } = &event {
            // The list may have changed since it was asked for.
            self.fetcher.check(block.cid())?;
            self.gateways.forget(block.cid());
            // Before its links are followed: see `Ticket`.
            self.ticket.get_or_insert_with(|| self.fetcher.writer.ticket());
        }
        let now = Instant::now();
        self.core.handle_event(event, now)?;
        if self.core.put_due_at(now).is_none() {
            // It wasn't wanted any longer. A collection waits for tickets.
            self.ticket = None;
        }
        Ok(())
    }

    fn put_waiting(&mut self) {
        let ticket = self.ticket.take();
        let Some(batch) = self.core.take_blocks() else { return };
        let cids = batch.blocks.iter().map(|block| *block.cid()).collect();
        let (writer, fetched) = (self.fetcher.writer.clone(), Arc::clone(&self.fetcher.fetched));
        let put = async move {
            let blocks = batch.blocks.len() as u64;
            let result = writer.put(batch.blocks).await;
            if result.is_ok() {
                fetched.add(blocks, batch.bytes);
            }
            drop(ticket);
            Put { cids, bytes: batch.bytes, result }
        };
        self.puts.push(put.boxed());
    }
}

/// The running look-up's answer; never, when none runs.
async fn answer(lookup: Option<&mut Lookup>) -> Result<Result<Vec<(Cid, Held)>, BlocksError>, JoinError> {
    match lookup {
        Some(lookup) => lookup.await,
        None => std::future::pending().await,
    }
}

/// What the store has of these. What is known to be below a node comes with it if it may be taken `at_once`.
fn look_up(reader: &BlockReader, cids: &[Cid], at_once: bool) -> Result<Vec<(Cid, Held)>, BlocksError> {
    let is_leaf = |cid: &Cid| codec::is_leaf(cid.codec());
    let sizes = reader.hold_many(cids)?;
    let held = cids.iter().zip(&sizes).filter_map(|(cid, size)| Some((*cid, (*size)?)));
    let (mut nodes, node_sizes): (Vec<Cid>, Vec<u32>) = held.filter(|(cid, _)| !is_leaf(cid)).unzip();
    let lists = if at_once { reader.sub_dag_bytes(&nodes)? } else { vec![None; nodes.len()] };
    let mut bytes = 0;
    let fit = node_sizes.iter().zip(&lists).take_while(|(size, list)| {
        let is_first = bytes == 0;
        bytes += u64::from(**size) + u64::from(list.unwrap_or(0));
        is_first || bytes <= LOOKUP_BYTES_MAX
    });
    nodes.truncate(fit.count());
    let mut data = nodes.iter().zip(reader.get_many(&nodes)?).zip(lists);
    let mut found = Vec::with_capacity(cids.len());
    for (cid, size) in cids.iter().zip(sizes) {
        let held = match size {
            None => Held::No,
            Some(size) if is_leaf(cid) => Held::Leaf(size),
            Some(_) => match data.next() {
                // Links that rotted would make a pin fail, or seem whole.
                Some(((_, Some(data)), _)) if Block::verify(*cid, data.clone()).is_err() => {
                    return Err(BlocksError::Corrupt { cid: *cid });
                }
                Some(((_, Some(data)), list)) => match list.map(|_| reader.sub_dag(cid)).transpose()?.flatten() {
                    Some(sub_dag) => Held::SubDag(data, sub_dag),
                    None => Held::Node(data),
                },
                Some(((_, None), _)) => Held::No,
                None => Held::Later,
            },
        };
        found.push((*cid, held));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
