//! Carries the pins out: gives each its turn, dials its origins, fetches its DAG, and records how it ended.
//!
//! One task owns the schedule. What it decides is durable before anyone hears of it; a restart finds every unfinished pin
//! in the records and goes on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, AbortHandle, JoinError, JoinHandle, JoinSet};

use super::Options;
use super::board::{Board, Live, PinChange, Place, Progress};
use super::origins::Origins;
use super::schedule::Schedule;
use crate::dag::walk::WalkError;
use crate::fetch::{FetchError, FetchLimits, FetchProgress, Fetcher, LocalDag, Sources};
use crate::model::{Failure, FailureCode, PinId, PinRecord, PinState};
use crate::net::{NodeEvent, NodeHandle};
use crate::store::blocks::{BlocksError, Shortage};
use crate::store::records::{Records, RecordsError};

/// Records that are read at a time when the unfinished pins are loaded.
const PAGE_RECORDS: usize = 1000;

/// How often running pins are looked at: progress for the board, origins to dial, waits that are over.
const TICK: Duration = Duration::from_millis(500);

/// Why the runner stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The unfinished pins can't be read.
    #[error("the unfinished pins can't be read: {0}")]
    Records(#[from] RecordsError),
    /// It has a bug.
    #[error("the task that carries out the pins has panicked; the log says where")]
    Panicked,
}

/// A running fetch.
struct Active {
    record: Arc<PinRecord>,
    progress: watch::Receiver<FetchProgress>,
    abort: AbortHandle,
    /// One of its origins connected, or a peer offered its root, since it was started.
    news: bool,
}

type Outcome = (PinId, Result<LocalDag, FetchError>);

/// The runner.
pub struct Runner {
    records: Arc<Records>,
    board: Arc<Board>,
    node: NodeHandle,
    fetcher: Fetcher,
    options: Options,
    schedule: Schedule,
    origins: Origins,
    active: HashMap<PinId, Active>,
    tasks: JoinSet<Outcome>,
    /// Since when each pin that was tried has found nobody who has what it lacks.
    hopeless_since: HashMap<PinId, Instant>,
    /// Pins that wait for room in the store.
    starved: HashSet<PinId>,
    shortage: watch::Receiver<Option<Shortage>>,
    /// Roots of waiting pins, which newly connected peers are asked for.
    watched: HashMap<PinId, Cid>,
}

/// The runner's task, to stop and join.
#[derive(Debug)]
pub struct RunnerTask {
    stop: oneshot::Sender<()>,
    /// Gone when its end was told.
    task: Option<JoinHandle<Result<(), RunnerError>>>,
}

impl RunnerTask {
    /// Waits until the runner ends by itself, which it shouldn't. Its end is told once; after that this waits for ever.
    pub async fn ended(&mut self) -> Result<(), RunnerError> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let outcome = task.await;
        self.task = None;
        joined(outcome)
    }

    /// Ends all fetches; what they stored stays. Returns the error that ended the runner before, unless it was told.
    pub async fn stop(self) -> Result<(), RunnerError> {
        let _ = self.stop.send(());
        match self.task {
            Some(task) => joined(task.await),
            None => Ok(()),
        }
    }
}

/// The outcome of the runner's task. It is cancelled only when the whole program ends.
fn joined(outcome: Result<Result<(), RunnerError>, JoinError>) -> Result<(), RunnerError> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => Err(RunnerError::Panicked),
        Err(_) => Ok(()),
    }
}

impl Runner {
    /// A runner without pins.
    pub fn new(
        records: Arc<Records>,
        board: Arc<Board>,
        node: NodeHandle,
        fetcher: Fetcher,
        shortage: watch::Receiver<Option<Shortage>>,
        options: Options,
    ) -> Self {
        let schedule = Schedule::new(options.active_max, options.retry_min, options.retry_max);
        let origins = Origins::new(node.profile().clone(), node.peer_id());
        Self {
            records,
            board,
            node,
            fetcher,
            options,
            schedule,
            origins,
            active: HashMap::new(),
            tasks: JoinSet::new(),
            hopeless_since: HashMap::new(),
            starved: HashSet::new(),
            shortage,
            watched: HashMap::new(),
        }
    }

    /// Loads the unfinished pins and works until stopped.
    pub fn spawn(self, changes: mpsc::Receiver<PinChange>, events: mpsc::Receiver<NodeEvent>) -> RunnerTask {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(self.run(changes, events, stopped));
        RunnerTask { stop, task: Some(task) }
    }

    async fn run(
        mut self,
        mut changes: mpsc::Receiver<PinChange>,
        mut events: mpsc::Receiver<NodeEvent>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<(), RunnerError> {
        self.load().await?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_next().await;
            tokio::select! {
                _ = &mut stopped => break,
                Some(change) = changes.recv() => match change {
                    PinChange::Added(record) => self.add(&record).await,
                    PinChange::Removed(pin) => self.remove(pin).await,
                    PinChange::Requeued(record) => {
                        self.board.set_mending(record.id);
                        self.add(&record).await;
                    }
                    PinChange::RestartFetches(answer) => {
                        self.restart_fetches().await;
                        // Who asked may have stopped.
                        let _ = answer.send(());
                    }
                },
                Some(event) = events.recv() => self.handle_node_event(&event),
                Ok(()) = self.shortage.changed() => self.handle_space(),
                Some(outcome) = self.tasks.join_next_with_id() => self.handle_outcome(outcome).await,
                _ = tick.tick() => self.handle_tick().await,
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }

    async fn load(&mut self) -> Result<(), RunnerError> {
        let (mut after, mut count) = (None, 0usize);
        loop {
            let records = Arc::clone(&self.records);
            let page = tokio::task::spawn_blocking(move || records.unfinished(after, PAGE_RECORDS)).await;
            let Ok(page) = page else { return Ok(()) };
            let page = page?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            count += page.len();
            for record in &page {
                self.add(record).await;
            }
        }
        if count > 0 {
            tracing::info!(pins = count, "going on with unfinished pins");
        }
        Ok(())
    }

    async fn add(&mut self, record: &PinRecord) {
        self.schedule.add(record.id, record.user);
        for peer in self.origins.add(record, Instant::now()) {
            let _ = self.node.protect(peer).await;
        }
        self.dial_due().await;
    }

    /// A pin is finished or gone: nothing of it stays here.
    async fn remove(&mut self, pin: PinId) {
        if let Some(active) = self.active.remove(&pin) {
            active.abort.abort();
        }
        self.schedule.remove(pin);
        self.hopeless_since.remove(&pin);
        self.starved.remove(&pin);
        for peer in self.origins.remove(pin) {
            let _ = self.node.unprotect(peer).await;
        }
        self.unwatch(pin).await;
        self.board.forget(&pin);
    }

    /// Begins every running fetch anew. An old one that has ended just now isn't heard any more.
    async fn restart_fetches(&mut self) {
        let active: Vec<Active> = self.active.drain().map(|(_, active)| active).collect();
        for active in active {
            active.abort.abort();
            self.start(active.record).await;
        }
    }

    async fn unwatch(&mut self, pin: PinId) {
        if let Some(root) = self.watched.remove(&pin) {
            let _ = self.node.unwatch(root).await;
        }
    }

    async fn start_next(&mut self) {
        while let Some(pin) = self.schedule.start_next() {
            match self.records.get(pin) {
                Ok(Some(record)) if record.state == PinState::Queued => self.start(Arc::new(record)).await,
                Ok(_) => self.remove(pin).await,
                Err(error) => {
                    tracing::error!(%pin, %error, "a pin can't be read");
                    self.wait(pin, "its record can't be read; see the log".into(), None);
                }
            }
        }
    }

    async fn start(&mut self, record: Arc<PinRecord>) {
        let pin = record.id;
        self.unwatch(pin).await;
        self.starved.remove(&pin);
        self.hopeless_since.entry(pin).or_insert_with(Instant::now);
        self.origins.hurry(pin, Instant::now());
        self.dial_due().await;
        let (sender, progress) = watch::channel(FetchProgress::new(Instant::now()));
        let limits = FetchLimits { blocks_max: self.options.blocks_max, stall_timeout: self.options.stall_timeout };
        let (fetcher, root) = (self.fetcher.clone(), record.root);
        let (peers, gateways) = (self.origins.of(pin).to_vec(), self.origins.gateways_of(pin).to_vec());
        let sources = Sources { peers, gateways };
        let abort = self.tasks.spawn(async move { (pin, fetcher.fetch(root, sources, limits, &sender).await) });
        let live = Live::Fetching(Place::from(&*record), shown(&progress.borrow()));
        self.board.set(pin, live);
        self.active.insert(pin, Active { record, progress, abort, news: false });
    }

    async fn handle_outcome(&mut self, outcome: Result<(task::Id, Outcome), JoinError>) {
        let (pin, result) = match outcome {
            // Of a pin that was removed while its fetch ended, or whose fetch was begun anew, there is another one or none.
            Ok((id, (pin, _))) if self.active.get(&pin).is_none_or(|active| active.abort.id() != id) => return,
            Ok((_, outcome)) => outcome,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                // A panic is a bug, but one pin's bug must not keep a slot for ever.
                tracing::error!(%error, "a fetch panicked");
                let lost = self.active.iter().find(|(_, active)| active.abort.id() == error.id()).map(|(pin, _)| *pin);
                if let Some(pin) = lost {
                    let progress = self.active.remove(&pin).map(|active| shown(&active.progress.borrow()));
                    self.wait(pin, "an internal error; see the log".into(), progress);
                }
                return;
            }
        };
        let Some(active) = self.active.remove(&pin) else { return };
        let progress = shown(&active.progress.borrow());
        match result {
            Ok(dag) => {
                let state = PinState::Pinned { blocks: dag.blocks, bytes: dag.bytes };
                self.finish(pin, state, progress).await;
            }
            Err(FetchError::Dag(error)) => {
                let failure = Failure { code: failure_code(&error), sentence: error.to_string() };
                self.finish(pin, PinState::Failed(failure), progress).await;
            }
            Err(FetchError::Stalled { had_provider, gateways }) => {
                let news = active.news && !had_provider;
                let sentence = stall_sentence(&active.record, had_provider, &gateways, &progress);
                self.handle_stall(&active.record, had_provider, news, sentence, progress).await;
            }
            Err(FetchError::Store(BlocksError::NoSpace(shortage))) => {
                // It isn't hopeless: it goes on when there is room.
                self.hopeless_since.remove(&pin);
                self.schedule.stalled(pin, Instant::now(), rand::random());
                self.board.set(pin, Live::NoRoom { shortage: shortage.to_string(), progress });
                self.starved.insert(pin);
                // The room may have come in between.
                self.handle_space();
            }
            Err(FetchError::Store(error)) => {
                tracing::error!(%pin, %error, "a pin can't be stored");
                self.wait(pin, format!("the block store can't take it: {error}"), Some(progress));
            }
            Err(error @ (FetchError::Node(_) | FetchError::Stopping)) => {
                tracing::warn!(%pin, %error, "a fetch was cut off");
                self.wait(pin, "it was cut off; see the log".into(), Some(progress));
            }
        }
    }

    async fn finish(&mut self, pin: PinId, state: PinState, progress: Progress) {
        match self.records.finish(pin, state.clone()).await {
            Ok(true) => {
                match &state {
                    PinState::Pinned { blocks, bytes } => tracing::info!(%pin, blocks, bytes, "pinned"),
                    PinState::Failed(failure) => tracing::info!(%pin, reason = failure.sentence, "a pin failed"),
                    PinState::Queued => {}
                }
                self.remove(pin).await;
            }
            Ok(false) => self.remove(pin).await,
            Err(error) => {
                tracing::error!(%pin, %error, "the end of a pin can't be recorded");
                self.wait(pin, "its record can't be written; see the log".into(), Some(progress));
            }
        }
    }

    async fn handle_stall(
        &mut self,
        record: &PinRecord,
        had_provider: bool,
        news: bool,
        sentence: String,
        progress: Progress,
    ) {
        let pin = record.id;
        // A block that came is hope: only a pin that nobody could help for so long is given up.
        let since = self.hopeless_since.entry(pin).or_insert(progress.began_at);
        if let Some(last_block_at) = progress.last_block_at {
            *since = last_block_at;
        }
        if since.elapsed() >= self.options.give_up_after {
            let code = if had_provider { FailureCode::Stalled } else { FailureCode::NoProvider };
            self.finish(pin, PinState::Failed(Failure { code, sentence }), progress).await;
            return;
        }
        tracing::debug!(%pin, sentence, "a pin stalled");
        self.wait(pin, sentence, Some(progress));
        if news {
            // It came too late for this try, and just in time for the next.
            self.wake(pin);
            return;
        }
        self.watched.insert(pin, record.root);
        let _ = self.node.watch(record.root).await;
    }

    /// Gives the slot back until the next try.
    fn wait(&mut self, pin: PinId, last_try: String, progress: Option<Progress>) {
        let next_try_at = self.schedule.stalled(pin, Instant::now(), rand::random());
        let live = Live::Queued { ahead: None, next_try_at: Some(next_try_at), last_try: Some(last_try), progress };
        self.board.set(pin, live);
    }

    /// Lets the pins that waited for room go on, if there is some.
    fn handle_space(&mut self) {
        if self.shortage.borrow_and_update().is_none() {
            for pin in std::mem::take(&mut self.starved) {
                self.wake(pin);
            }
        }
    }

    fn handle_node_event(&mut self, event: &NodeEvent) {
        let pins = match event {
            NodeEvent::PeerConnected(peer) => {
                self.origins.connected(peer, Instant::now());
                self.origins.pins_of(peer)
            }
            NodeEvent::Offered(root) => {
                self.watched.iter().filter(|(_, watched)| *watched == root).map(|(pin, _)| *pin).collect()
            }
        };
        for pin in pins {
            self.wake(pin);
        }
    }

    fn wake(&mut self, pin: PinId) {
        if let Some(active) = self.active.get_mut(&pin) {
            active.news = true;
        }
        if self.schedule.wake(pin) {
            self.board.clear(&pin);
        }
    }

    async fn handle_tick(&mut self) {
        for (pin, active) in &self.active {
            let place = Place::from(&*active.record);
            self.board.set(*pin, Live::Fetching(place, shown(&active.progress.borrow())));
        }
        for pin in self.schedule.handle_timeout(Instant::now()) {
            self.board.clear(&pin);
        }
        self.dial_due().await;
    }

    async fn dial_due(&mut self) {
        for (peer, addresses) in self.origins.due(Instant::now()) {
            let _ = self.node.dial(peer, addresses).await;
        }
    }
}

fn shown(progress: &FetchProgress) -> Progress {
    Progress {
        blocks_fetched: progress.blocks_fetched,
        blocks_known: progress.blocks_known,
        bytes_fetched: progress.bytes_fetched,
        bytes_per_second: progress.bytes_per_second,
        peers: progress.providers,
        last_block_at: progress.last_block_at,
        began_at: progress.began_at,
    }
}

fn failure_code(error: &WalkError) -> FailureCode {
    match error {
        WalkError::Invalid { .. } => FailureCode::BlockInvalid,
        WalkError::Unsupported { .. } | WalkError::UnsupportedRoot { .. } => FailureCode::Unsupported,
        WalkError::TooLarge { .. } => FailureCode::TooLarge,
    }
}

fn stall_sentence(record: &PinRecord, had_provider: bool, gateways: &[String], progress: &Progress) -> String {
    let reached = format!("{} of {} known blocks are here", progress.blocks_fetched, progress.blocks_known);
    let mut sentence = if had_provider && progress.last_block_at.is_none() {
        format!("nobody who was asked for the content sent any of it; {reached}")
    } else if had_provider {
        format!("the peers that had the content stopped sending; {reached}")
    } else if record.origins.is_empty() {
        format!(
            "no origins were given and no connected peer has the content; {reached}. Keep a node that has it connected to one of the delegates"
        )
    } else if gateways.len() == record.origins.len() {
        format!("none of the origins could be asked and no other peer has the content; {reached}")
    } else {
        format!(
            "none of the origins is connected and no other peer has the content; {reached}. Keep the node that has it running, and connected to one of the delegates"
        )
    };
    for gateway in gateways {
        sentence.push_str("; ");
        sentence.push_str(gateway);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panicking() -> RunnerTask {
        let task = tokio::spawn(async { panic!("a panic that the test wants") });
        RunnerTask { stop: oneshot::channel().0, task: Some(task) }
    }

    #[tokio::test]
    async fn a_panic_is_told_once() {
        assert!(matches!(panicking().stop().await, Err(RunnerError::Panicked)));
        let mut runner = panicking();
        assert!(matches!(runner.ended().await, Err(RunnerError::Panicked)));
        assert!(futures::poll!(std::pin::pin!(runner.ended())).is_pending());
        runner.stop().await.unwrap();
    }
}
