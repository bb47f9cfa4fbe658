//! Carries the pins out: gives each its turn, dials its origins, fetches its DAG, and records how it ended.
//!
//! One task owns what runs. What it decides is durable before anyone hears of it; a restart finds every unfinished pin
//! in the records and goes on. Pins with the same DAG share one fetch (`jobs`), whoever made them.

mod jobs;
mod outcome;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinHandle, JoinSet};

use self::jobs::{DagKey, FOUND_MAX, Job, Jobs};
use super::Options;
use super::board::{Board, Doing, LastTry, PinChange, Place, Progress};
use super::finder::{Finder, Finding};
use super::origins::{Lead, Origins};
use super::schedule::{Schedule, ScheduleLimits};
use crate::fetch::{FetchError, FetchLimits, FetchProgress, Fetcher, LocalDag, Sources};
use crate::model::{Failure, FailureCode, PinId, PinRecord, PinState, UserId};
use crate::net::{NodeEvent, NodeHandle};
use crate::provide::Provider;
use crate::routing::Routers;
use crate::store::blocks::{BlocksError, Shortage};
use crate::store::records::{Finished, Quota, Records, RecordsError, over_quota};

/// Records that are read at a time when the unfinished pins are loaded.
const PAGE_RECORDS: usize = 1000;

/// How often running pins are looked at: progress for the board, origins to dial, turns, quotas and waits that are over.
const TICK: Duration = Duration::from_millis(500);

/// Pins that go along with a fetch at once when it begins; further ones with the same DAG follow as their turns come.
const JOINED_AT_ONCE_MAX: usize = 256;

/// Ends of pins that are being written down; no further fetch begins while there are more.
const ENDINGS_MAX: usize = 1024;

/// News of look-ups that wait; those who look wait then.
const FINDINGS_QUEUED_MAX: usize = 256;

/// Who knows how much an account may pin.
pub trait Quotas: Send + Sync {
    /// How much this account may pin, all its pins together.
    fn quota(&self, user: UserId) -> Quota;
}

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

/// A pin whose end was to be written down.
struct Ending {
    pin: PinId,
    root: cid::Cid,
    state: PinState,
    progress: Progress,
    outcome: Result<Finished, RecordsError>,
}

/// The runner.
pub struct Runner {
    records: Arc<Records>,
    board: Arc<Board>,
    node: NodeHandle,
    fetcher: Fetcher,
    finder: Finder,
    provider: Option<Provider>,
    quotas: Arc<dyn Quotas>,
    options: Options,
    origins: Origins,
    jobs: Jobs,
    tasks: JoinSet<Result<LocalDag, FetchError>>,
    endings: JoinSet<Ending>,
    /// Since when each pin that was tried has found nobody who has what it lacks, or no room.
    hopeless_since: HashMap<PinId, Instant>,
    /// Pins that wait for room in the store.
    starved: HashSet<PinId>,
    shortage: watch::Receiver<Option<Shortage>>,
    /// What look-ups for providers of each DAG say.
    findings: mpsc::Sender<(DagKey, Finding)>,
    found: mpsc::Receiver<(DagKey, Finding)>,
    /// Roots of waiting pins, which newly connected peers are asked for.
    watched: HashMap<PinId, cid::Cid>,
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
        quotas: Arc<dyn Quotas>,
        shortage: watch::Receiver<Option<Shortage>>,
        options: Options,
    ) -> Self {
        *board.schedule() = Schedule::new(ScheduleLimits::from(&options));
        let origins = Origins::new(node.profile().clone(), node.peer_id());
        let finder = Finder::new(node.clone());
        let (findings, found) = mpsc::channel(FINDINGS_QUEUED_MAX);
        Self {
            records,
            board,
            node,
            fetcher,
            finder,
            provider: None,
            findings,
            found,
            quotas,
            options,
            origins,
            jobs: Jobs::default(),
            tasks: JoinSet::new(),
            endings: JoinSet::new(),
            hopeless_since: HashMap::new(),
            starved: HashSet::new(),
            shortage,
            watched: HashMap::new(),
        }
    }

    /// Asks these for providers, beside the DHT.
    #[must_use]
    pub fn with_routers(mut self, routers: Routers) -> Self {
        self.finder = self.finder.with_routers(routers);
        self
    }

    /// Tells this one of each pin that is whole.
    #[must_use]
    pub fn with_provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
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
                    PinChange::Added(record) => self.add(record).await,
                    PinChange::Removed(pin) => self.remove(pin).await,
                    PinChange::Requeued(record) => {
                        self.board.set_mending(record.id);
                        self.add(record).await;
                    }
                    PinChange::RestartFetches(answer) => {
                        self.restart_fetches();
                        // Who asked may have stopped.
                        let _ = answer.send(());
                    }
                },
                Some(event) = events.recv() => self.handle_node_event(event),
                Some((dag, finding)) = self.found.recv() => self.handle_finding(dag, finding).await,
                Ok(()) = self.shortage.changed() => self.handle_space(),
                Some(outcome) = self.tasks.join_next_with_id() => self.handle_outcome(outcome).await,
                Some(ending) = self.endings.join_next() => self.handle_ending(ending).await,
                _ = tick.tick() => self.handle_tick().await,
            }
        }
        self.tasks.shutdown().await;
        // What has ended is written down; the records answer until they are closed.
        while self.endings.join_next().await.is_some() {}
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
            for record in page {
                self.add(Arc::new(record)).await;
            }
        }
        if count > 0 {
            tracing::info!(pins = count, "going on with unfinished pins");
        }
        Ok(())
    }

    async fn add(&mut self, record: Arc<PinRecord>) {
        let pin = record.id;
        self.board.schedule().add(pin, record.user);
        let dag = self.jobs.add(pin, &record.root);
        for peer in self.origins.add(&record, Instant::now()) {
            let _ = self.node.protect(peer).await;
        }
        if self.jobs.get_mut(dag).is_some() {
            self.join(dag, record).await;
        }
        self.dial_due().await;
    }

    /// A pin is finished or gone: nothing of it stays here. A fetch that nobody else needs ends.
    async fn remove(&mut self, pin: PinId) {
        self.leave_job(pin);
        if let Some(job) = self.jobs.remove(pin) {
            job.abort.abort();
        }
        self.board.schedule().remove(pin);
        self.hopeless_since.remove(&pin);
        self.starved.remove(&pin);
        for peer in self.origins.remove(pin) {
            let _ = self.node.unprotect(peer).await;
        }
        self.unwatch(pin).await;
        self.board.forget(&pin);
    }

    /// Takes a pin out of its fetch, which goes on for the others, or ends.
    fn leave_job(&mut self, pin: PinId) {
        if let Some(successor) = self.jobs.successor(pin) {
            self.board.schedule().hand_over(pin, successor);
        }
        if let Some(job) = self.jobs.take_out(pin) {
            job.abort.abort();
        }
    }

    /// Begins every running fetch anew. An old one that has ended just now isn't heard any more.
    fn restart_fetches(&mut self) {
        for (dag, job) in self.jobs.drain() {
            job.abort.abort();
            self.fetch(dag, job.root, job.lead, job.members);
        }
    }

    async fn unwatch(&mut self, pin: PinId) {
        if let Some(root) = self.watched.remove(&pin) {
            let _ = self.node.unwatch(root).await;
        }
    }

    async fn start_next(&mut self) {
        while self.endings.len() < ENDINGS_MAX {
            let next = self.board.schedule().start_next();
            let Some(pin) = next else { return };
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
        let (pin, root) = (record.id, record.root);
        let Some(dag) = self.jobs.dag_of(pin) else { return };
        if self.jobs.get_mut(dag).is_some() {
            self.join(dag, record).await;
            return;
        }
        self.prepare(pin).await;
        self.fetch(dag, root, pin, BTreeMap::from([(pin, record)]));
        for other in self.jobs.unfinished(dag, JOINED_AT_ONCE_MAX) {
            if other != pin
                && let Ok(Some(record)) = self.records.get(other)
                && record.state == PinState::Queued
            {
                self.join(dag, Arc::new(record)).await;
            }
        }
        self.dial_due().await;
    }

    /// A pin is tried: it waits for nothing any longer.
    async fn prepare(&mut self, pin: PinId) {
        self.unwatch(pin).await;
        self.forget_found(pin).await;
        self.starved.remove(&pin);
        self.hopeless_since.entry(pin).or_insert_with(Instant::now);
        self.origins.hurry(pin, Instant::now());
    }

    /// A pin goes along with the fetch of its DAG that runs, and brings its sources.
    async fn join(&mut self, dag: DagKey, record: Arc<PinRecord>) {
        let pin = record.id;
        self.prepare(pin).await;
        let sources = self.sources_of(pin);
        let Some(job) = self.jobs.get_mut(dag) else { return };
        if job.members.contains_key(&pin) {
            return;
        }
        // A fetch that has just ended doesn't need them.
        let _ = job.more.send(sources);
        let found = job.found.clone();
        let doing = Doing::Fetching(Place::from(&*record), shown(&job.progress.borrow()));
        job.members.insert(pin, record);
        self.board.schedule().join(pin);
        self.board.set(pin, doing);
        for lead in found {
            self.found_for(&[pin], &lead).await;
        }
    }

    /// A look-up for providers of a DAG says something.
    async fn handle_finding(&mut self, dag: DagKey, finding: Finding) {
        let Some(job) = self.jobs.get_mut(dag) else { return };
        match finding {
            Finding::Asked(sentence) => job.asked = Some(sentence),
            Finding::Peer(lead) => {
                // A fetch that has just ended needs neither.
                let is_full = job.found.len() >= FOUND_MAX;
                match job.found.iter_mut().find(|known| known.peer == lead.peer) {
                    Some(known) if lead.addresses.iter().all(|address| known.addresses.contains(address)) => return,
                    Some(known) => *known = lead.clone(),
                    None if is_full => return,
                    None => {
                        let _ = job.more.send(Sources { peers: vec![lead.peer], gateways: Vec::new() });
                        job.found.push(lead.clone());
                    }
                }
                let members: Vec<PinId> = job.members.keys().copied().collect();
                self.found_for(&members, &lead).await;
            }
            Finding::Gateway(gateway) => {
                if job.gateways.len() < FOUND_MAX && !job.gateways.contains(&gateway) {
                    job.gateways.push(gateway.clone());
                    let _ = job.more.send(Sources { peers: Vec::new(), gateways: vec![gateway] });
                }
            }
        }
    }

    /// A peer is said to have what these pins want.
    async fn found_for(&mut self, pins: &[PinId], lead: &Lead) {
        let mut is_new = false;
        for pin in pins {
            is_new |= self.origins.found(*pin, lead, Instant::now());
        }
        if is_new {
            let _ = self.node.protect(lead.peer).await;
            // Asked after it is known here, so that a connection in between is heard of in either way.
            if let Ok(Some(number)) = self.node.number_of(lead.peer).await {
                self.origins.connected(&lead.peer, number, Instant::now());
            }
        }
    }

    /// The peers that were found for a pin have had their time: another look-up finds those that are there by then.
    async fn forget_found(&mut self, pin: PinId) {
        for peer in self.origins.forget_found(pin) {
            let _ = self.node.unprotect(peer).await;
        }
    }

    fn sources_of(&self, pin: PinId) -> Sources {
        Sources { peers: self.origins.of(pin).to_vec(), gateways: self.origins.gateways_of(pin).to_vec() }
    }

    fn fetch(&mut self, dag: DagKey, root: cid::Cid, lead: PinId, members: BTreeMap<PinId, Arc<PinRecord>>) {
        let (sender, progress) = watch::channel(FetchProgress::new(Instant::now()));
        let (more, further) = mpsc::unbounded_channel();
        let limits = FetchLimits { dag: self.options.dag_limits(), stall_timeout: self.options.stall_timeout };
        for pin in members.keys() {
            let _ = more.send(self.sources_of(*pin));
        }
        let fetcher = self.fetcher.clone();
        let (findings, looking) = mpsc::channel(1);
        let finder = self.finder.clone().run(root, progress.clone(), findings);
        let forwarding = forward(dag, looking, self.findings.clone());
        let abort = self.tasks.spawn(async move {
            tokio::select! {
                outcome = fetcher.fetch(root, further, limits, &sender) => outcome,
                never = finder => match never {},
                never = forwarding => match never {},
            }
        });
        for (pin, record) in &members {
            self.board.set(*pin, Doing::Fetching(Place::from(&**record), shown(&progress.borrow())));
        }
        let news = BTreeSet::new();
        let (found, gateways, asked) = (Vec::new(), Vec::new(), None);
        self.jobs.begin(dag, Job { root, lead, members, progress, more, abort, found, gateways, asked, news });
    }

    async fn handle_outcome(&mut self, outcome: Result<(task::Id, Result<LocalDag, FetchError>), JoinError>) {
        let (id, result) = match outcome {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) if error.is_cancelled() => return,
            // A panic is a bug, but one pin's bug must not keep a slot for ever.
            Err(error) => (error.id(), Err(error)),
        };
        let Some(job) = self.jobs.end(id) else { return };
        let progress = shown(&job.progress.borrow());
        let members = job.members.into_values();
        match result {
            Ok(Ok(dag)) => {
                for record in members {
                    let state = PinState::Pinned { blocks: dag.blocks, bytes: dag.bytes };
                    self.finish(&record, state, progress.clone());
                }
            }
            Ok(Err(FetchError::Dag(error))) => {
                for record in members {
                    self.finish(&record, PinState::Failed(outcome::of_dag(&error)), progress.clone());
                }
            }
            Ok(Err(FetchError::Denied { cid })) => {
                for record in members {
                    let failure = outcome::of_denied(&record.root, &cid);
                    self.finish(&record, PinState::Failed(failure), progress.clone());
                }
            }
            Ok(Err(FetchError::Stalled { had_provider, gateways })) => {
                for record in members {
                    let news = job.news.contains(&record.id) && !had_provider;
                    self.handle_stall(&record, had_provider, news, &gateways, job.asked.as_deref(), progress.clone())
                        .await;
                }
            }
            Ok(Err(FetchError::Store(BlocksError::NoSpace(shortage)))) => {
                for record in members {
                    self.handle_no_space(&record, &shortage, progress.clone());
                }
                // The room may have come in between.
                self.handle_space();
            }
            Ok(Err(FetchError::Store(error))) => {
                tracing::error!(root = %job.root, %error, "a pin can't be stored");
                for record in members {
                    self.wait(record.id, format!("the block store can't take it: {error}"), Some(progress.clone()));
                }
            }
            Ok(Err(error @ (FetchError::Node(_) | FetchError::Stopping))) => {
                tracing::warn!(root = %job.root, %error, "a fetch was cut off");
                for record in members {
                    self.wait(record.id, "it was cut off; see the log".into(), Some(progress.clone()));
                }
            }
            Err(error) => {
                tracing::error!(root = %job.root, %error, "a fetch panicked");
                for record in members {
                    self.wait(record.id, "an internal error; see the log".into(), Some(progress.clone()));
                }
            }
        }
    }

    /// Writes down how a pin ended, beside everything else; [`Runner::handle_ending`] follows.
    fn finish(&mut self, record: &PinRecord, state: PinState, progress: Progress) {
        let (pin, root, records) = (record.id, record.root, Arc::clone(&self.records));
        // What was pinned once stays so, even where the account may pin less now.
        let quota = self.quotas.quota(record.user).bytes.filter(|_| !self.board.is_mending(&pin));
        self.board.schedule().ending(pin);
        self.endings.spawn(async move {
            let outcome = records.finish_within(pin, state.clone(), quota).await;
            Ending { pin, root, state, progress, outcome }
        });
    }

    async fn handle_ending(&mut self, ending: Result<Ending, JoinError>) {
        // Nothing in these tasks panics, and they are cancelled only when the program ends.
        let Ok(Ending { pin, root, state, progress, outcome }) = ending else { return };
        match outcome {
            Ok(Finished::Yes) => {
                match &state {
                    PinState::Pinned { blocks, bytes } => {
                        tracing::info!(%pin, blocks, bytes, "pinned");
                        if let Some(provider) = &self.provider {
                            provider.pinned(&root);
                        }
                    }
                    PinState::Failed(failure) => tracing::info!(%pin, reason = failure.sentence, "a pin failed"),
                    PinState::Queued => {}
                }
                self.forget_ended(pin).await;
            }
            Ok(Finished::OverQuota(failure)) => {
                tracing::info!(%pin, reason = failure.sentence, "a pin failed");
                self.forget_ended(pin).await;
            }
            Ok(Finished::Gone) => self.remove(pin).await,
            Err(error) => {
                tracing::error!(%pin, %error, "the end of a pin can't be recorded");
                self.wait(pin, "its record can't be written; see the log".into(), Some(progress));
            }
        }
    }

    /// A pin has ended, unless it was queued again since that was written down: then the news came while it was still known.
    async fn forget_ended(&mut self, pin: PinId) {
        let is_mending = self.board.is_mending(&pin);
        self.remove(pin).await;
        if let Ok(Some(record)) = self.records.get(pin)
            && record.state == PinState::Queued
        {
            if is_mending {
                self.board.set_mending(pin);
            }
            self.add(Arc::new(record)).await;
        }
    }

    async fn handle_stall(
        &mut self,
        record: &PinRecord,
        had_provider: bool,
        news: bool,
        gateways: &[String],
        asked: Option<&str>,
        progress: Progress,
    ) {
        let pin = record.id;
        let mut tried = self.origins.tried(pin, &progress.answers);
        tried.problems.extend_from_slice(gateways);
        tried.all.extend_from_slice(gateways);
        let failure = outcome::of_stall(record, had_provider, &tried, asked, &progress);
        let progress = Progress { tried: failure.tried.clone().into(), ..progress };
        // A pin that waits must not keep connections that were of no use.
        self.forget_found(pin).await;
        // A block that came is hope: only a pin that nobody could help for so long is given up.
        let since = self.hopeless_since.entry(pin).or_insert(progress.began_at);
        if let Some(last_block_at) = progress.last_block_at {
            *since = last_block_at;
        }
        if since.elapsed() >= self.options.give_up_after {
            self.finish(record, PinState::Failed(failure), progress);
            return;
        }
        tracing::debug!(%pin, reason = failure.sentence, "a pin stalled");
        self.wait(pin, failure.sentence, Some(progress));
        if news {
            // It came too late for this try, and just in time for the next.
            self.wake(pin);
            return;
        }
        self.watched.insert(pin, record.root);
        let _ = self.node.watch(record.root).await;
    }

    /// A pin waits for room; one that waits for too long fails.
    fn handle_no_space(&mut self, record: &PinRecord, shortage: &Shortage, progress: Progress) {
        let pin = record.id;
        let since = *self.hopeless_since.entry(pin).or_insert(progress.began_at);
        if since.elapsed() >= self.options.give_up_after {
            let sentence = format!("there was no room for it: {shortage}");
            let failure = Failure { code: FailureCode::NoRoom, sentence, tried: Vec::new() };
            self.finish(record, PinState::Failed(failure), progress);
            return;
        }
        self.board.schedule().stalled(pin, Instant::now(), rand::random(), progress.last_block_at.is_some());
        self.board.set(pin, Doing::NoRoom { shortage: shortage.to_string(), progress });
        self.starved.insert(pin);
    }

    /// Gives the slot back until the next try.
    fn wait(&mut self, pin: PinId, last_try: String, progress: Option<Progress>) {
        let progressed = progress.as_ref().is_some_and(|progress| progress.last_block_at.is_some());
        self.board.schedule().stalled(pin, Instant::now(), rand::random(), progressed);
        self.board.set(pin, Doing::Tried(LastTry { sentence: last_try, progress }));
    }

    /// Lets the pins that waited for room go on, if there is some.
    fn handle_space(&mut self) {
        if self.shortage.borrow_and_update().is_none() {
            for pin in std::mem::take(&mut self.starved) {
                self.wake(pin);
            }
        }
    }

    fn handle_node_event(&mut self, event: NodeEvent) {
        let pins = match event {
            NodeEvent::PeerConnected(peer, number) => {
                self.origins.connected(&peer, number, Instant::now());
                self.origins.pins_of(&peer)
            }
            NodeEvent::PeerGone(peer) => {
                self.origins.gone(&peer, Instant::now());
                return;
            }
            NodeEvent::DialFailed(peer, reason) => {
                self.origins.failed(&peer, reason);
                return;
            }
            NodeEvent::Offered(root) => {
                self.watched.iter().filter(|(_, watched)| **watched == root).map(|(pin, _)| *pin).collect()
            }
        };
        for pin in pins {
            self.wake(pin);
        }
    }

    fn wake(&mut self, pin: PinId) {
        if let Some(job) = self.jobs.of_mut(pin) {
            job.news.insert(pin);
        }
        self.board.schedule().wake(pin);
    }

    async fn handle_tick(&mut self) {
        let now = Instant::now();
        for job in self.jobs.running() {
            let progress = shown(&job.progress.borrow());
            for (pin, record) in &job.members {
                let mut tried = self.origins.tried(*pin, &progress.answers).all;
                tried.extend(job.asked.as_deref().map(str::to_owned));
                let progress = Progress { tried: tried.into(), asked: job.asked.clone(), ..progress.clone() };
                self.board.set(*pin, Doing::Fetching(Place::from(&**record), progress));
            }
        }
        {
            let mut schedule = self.board.schedule();
            for (lead, at) in self.jobs.first_blocks() {
                schedule.progressed(lead, at);
            }
            schedule.handle_timeout(now);
        }
        self.end_turns(now);
        self.keep_quotas();
        self.dial_due().await;
    }

    /// One whose turn is over makes place for the next one that waits.
    fn end_turns(&mut self, now: Instant) {
        let overdue = self.board.schedule().overdue(now);
        let Some(job) = overdue.and_then(|lead| self.jobs.of_mut(lead)) else { return };
        job.abort.abort();
        let progress = shown(&job.progress.borrow());
        for pin in job.members.keys().copied().collect::<Vec<_>>() {
            self.jobs.take_out(pin);
            self.board.schedule().yielded(pin);
            let sentence = "it made place for others, as it takes long, and goes on where it is".to_owned();
            self.board.set(pin, Doing::Tried(LastTry { sentence, progress: Some(progress.clone()) }));
        }
    }

    /// Ends the fetches of accounts that have as much as they may, the newest first.
    fn keep_quotas(&mut self) {
        let mut of_users: BTreeMap<UserId, BTreeMap<PinId, (Arc<PinRecord>, Progress)>> = BTreeMap::new();
        for job in self.jobs.running() {
            let progress = shown(&job.progress.borrow());
            for (pin, record) in &job.members {
                let pins = of_users.entry(record.user).or_default();
                pins.insert(*pin, (Arc::clone(record), progress.clone()));
            }
        }
        for (user, pins) in of_users {
            let Some(quota) = self.quotas.quota(user).bytes else { continue };
            let Ok(usage) = self.records.usage(user) else { continue };
            let mut bytes = usage.bytes;
            let mut counted = HashSet::new();
            for (pin, (record, progress)) in pins {
                let is_new = self.jobs.dag_of(pin).is_none_or(|dag| counted.insert(dag));
                bytes = bytes.saturating_add(if is_new { progress.bytes_fetched } else { 0 });
                if bytes <= quota
                    || self.board.is_mending(&pin)
                    || self.records.has_pinned(user, &record.root).unwrap_or(false)
                {
                    continue;
                }
                self.leave_job(pin);
                self.finish(&record, PinState::Failed(over_quota(quota)), progress);
            }
        }
    }

    async fn dial_due(&mut self) {
        for (peer, addresses) in self.origins.due(Instant::now()) {
            let _ = self.node.dial(peer, addresses).await;
        }
    }
}

/// Hands on what is found, with the DAG that it is for. It takes a piece only when there is room for it.
async fn forward(
    dag: DagKey,
    mut looking: mpsc::Receiver<Finding>,
    findings: mpsc::Sender<(DagKey, Finding)>,
) -> Infallible {
    while let Some(finding) = looking.recv().await {
        // The runner ends only with the program.
        let _ = findings.send((dag, finding)).await;
    }
    std::future::pending().await
}

fn shown(progress: &FetchProgress) -> Progress {
    Progress {
        blocks_fetched: progress.blocks_fetched,
        blocks_known: progress.blocks_known,
        bytes_fetched: progress.bytes_fetched,
        // What its root says may be wrong.
        bytes_known: progress.bytes_told.map(|told| told.max(progress.bytes_fetched)),
        bytes_per_second: progress.bytes_per_second,
        peers: progress.providers,
        last_block_at: progress.last_block_at,
        began_at: progress.began_at,
        answers: Arc::clone(&progress.answers),
        tried: Arc::default(),
        asked: None,
    }
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
