//! Verifies what is stored: every block against its hash, and which pins need those that are damaged.
//!
//! One pass runs at a time. Who asks for one meanwhile joins it: it then repairs if either of them wanted that, and reads as
//! fast as the faster one may. With repair, a damaged block is put in quarantine and the pins that need it are queued again,
//! so that whoever fetches (told through [`Fetches`]) brings it back.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::blocks::{BlockVerifier, BlocksError, Scrub, ScrubRecord, ScrubReport, ScrubStep};
use super::records::{Records, RecordsError};
use crate::model::{PinId, PinRecord, PinState};

/// Pins that are read, and queued again, at a time.
const PAGE_PINS: usize = 256;

/// Pins that a pass names; further ones are only counted.
pub const PINS_NAMED_MAX: usize = 1000;

/// How often a pass notes in the file how far it is.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How long a repair goes on between two looks for the pins that need damaged blocks, which read every node of them. The
/// first look follows the first damaged block.
const PINS_EVERY: Duration = Duration::from_secs(900);

/// How long the background rests after a pass that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(3600);

/// Who fetches pins, as far as a verification has to tell them. Called on a thread that may block.
pub trait Fetches: Debug + Send + Sync {
    /// Begins every running fetch anew, as it may rely on blocks that are gone since; returns when no older one goes on.
    fn restart(&self);

    /// These pins were pinned and are queued again.
    fn requeued(&self, pins: Vec<PinRecord>);
}

/// Nobody fetches, as while the service is stopped.
#[derive(Debug)]
pub struct NoFetches;

impl Fetches for NoFetches {
    fn restart(&self) {}

    fn requeued(&self, _: Vec<PinRecord>) {}
}

/// Why a pass ended early. What it had repaired stays repaired.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The blocks failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The records failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Reading a file panicked.
    #[error(
        "blocks.redb or records.redb is damaged in its own structure, which can't be mended: stop pinnace and restore the data directory from a backup; the log says where reading failed"
    )]
    Structure,
    /// The program stops.
    #[error("the verification was cut off, because the program stops")]
    Stopped,
}

/// What is wanted of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Whether damaged blocks are put in quarantine and their pins queued again.
    pub repair: bool,
    /// Bytes of blocks per second; zero for as many as the disk gives.
    pub rate: u64,
    /// Whether to go on where a pass was cut off.
    pub resume: bool,
}

impl VerifyRequest {
    /// A pass that does what both want.
    fn join(&mut self, other: Self) {
        self.repair |= other.repair;
        self.rate = if self.rate == 0 || other.rate == 0 { 0 } else { self.rate.max(other.rate) };
    }
}

/// A pin that needs a damaged block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPin {
    /// The pin, as it was when it was looked at.
    pub record: PinRecord,
    /// The e-mail address of its account; `None` when the account is gone.
    pub account: Option<String>,
    /// Whether this pass queued it again.
    pub requeued: bool,
}

/// What a pass has found up to now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The blocks.
    pub blocks: ScrubReport,
    /// Whether it repairs.
    pub repairs: bool,
    /// How many pins need damaged blocks, those that were damaged before this pass too.
    pub damaged_pins: u64,
    /// The first [`PINS_NAMED_MAX`] of them.
    pub pins: Vec<DamagedPin>,
    /// Blocks that were in quarantine when the pass ended.
    pub quarantined_blocks: u64,
}

/// Where a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyPhase {
    /// Hashes the blocks.
    Blocks,
    /// Looks for the pins that need damaged blocks.
    Pins,
}

impl VerifyPhase {
    /// The phase in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Pins => "pins",
        }
    }
}

/// How far a pass is.
#[derive(Debug, Clone)]
pub enum VerifyState {
    /// It runs.
    Running(VerifyPhase, VerifyReport),
    /// It is over.
    Ended(Result<VerifyReport, VerifyError>),
}

/// Verifies the stores of one service.
#[derive(Debug)]
pub struct Verifier {
    blocks: BlockVerifier,
    records: Arc<Records>,
    fetches: Arc<dyn Fetches>,
    shared: Mutex<Shared>,
    /// Something in `shared` has changed that the running pass waits for.
    changed: Condvar,
}

/// The pass that runs.
#[derive(Debug)]
struct Pass {
    scrub: Scrub,
    report: VerifyReport,
    /// When the pins were looked at last, and how many blocks this pass had put in quarantine by then.
    pins_checked: Option<(Instant, u64)>,
}

impl Pass {
    /// Whether blocks went into quarantine since the pins were looked at.
    fn has_pins_due(&self) -> bool {
        self.pins_checked.map_or(0, |(_, blocks)| blocks) < self.scrub.report().quarantined_blocks
    }
}

#[derive(Debug)]
struct Shared {
    /// What the running pass has to do; `None` when none runs.
    running: Option<VerifyRequest>,
    stopping: bool,
    state: watch::Sender<Option<VerifyState>>,
    /// The thread of the last pass. It holds the stores open for a moment longer than `state` says.
    thread: Option<JoinHandle<()>>,
}

impl Verifier {
    /// Nothing is verified until it is asked for.
    pub fn new(blocks: BlockVerifier, records: Arc<Records>, fetches: Arc<dyn Fetches>) -> Arc<Self> {
        let shared = Shared { running: None, stopping: false, state: watch::Sender::new(None), thread: None };
        Arc::new(Self { blocks, records, fetches, shared: Mutex::new(shared), changed: Condvar::new() })
    }

    /// How far the running pass is, or how the last one ended; `None` when there was none since the start.
    pub fn state(&self) -> Option<VerifyState> {
        self.lock().state.borrow().clone()
    }

    /// Verifies, or joins the pass that runs, and waits for its end.
    pub async fn verify(self: &Arc<Self>, request: VerifyRequest) -> Result<VerifyReport, VerifyError> {
        let mut state = self.request(request);
        match state.wait_for(|state| matches!(state, Some(VerifyState::Ended(_)))).await.as_deref() {
            Ok(Some(VerifyState::Ended(result))) => result.clone(),
            _ => Err(VerifyError::Stopped),
        }
    }

    /// Begins a pass, or joins the one that runs. To be called in a runtime, on whose blocking threads it runs.
    pub fn request(self: &Arc<Self>, request: VerifyRequest) -> watch::Receiver<Option<VerifyState>> {
        let mut shared = self.lock();
        let receiver = shared.state.subscribe();
        if let Some(running) = &mut shared.running {
            running.join(request);
            self.changed.notify_all();
            return receiver;
        }
        if shared.stopping {
            shared.state.send_replace(Some(VerifyState::Ended(Err(VerifyError::Stopped))));
            return receiver;
        }
        shared.running = Some(request);
        let report = VerifyReport { repairs: request.repair, ..VerifyReport::default() };
        shared.state.send_replace(Some(VerifyState::Running(VerifyPhase::Blocks, report)));
        let verifier = Arc::clone(self);
        shared.thread = Some(tokio::task::spawn_blocking(move || verifier.run(request)));
        receiver
    }

    /// Verifies again and again, `interval` after each whole pass, and goes on where a pass was cut off. With an interval
    /// of zero it only ends a repair that was cut off.
    pub async fn run_regularly(self: Arc<Self>, interval: Duration, rate: u64) {
        loop {
            let blocks = self.blocks.clone();
            let record = tokio::task::spawn_blocking(move || blocks.record()).await;
            let Ok(record) = record else { return };
            let wait = match record {
                Ok(record) => due_in(&record, interval, Timestamp::now()),
                Err(_) => Some(FAILED_PAUSE),
            };
            match wait {
                None => return,
                Some(Duration::ZERO) => {
                    let result = self.verify(VerifyRequest { repair: true, rate, resume: true }).await;
                    match result {
                        Ok(_) => {}
                        Err(VerifyError::Stopped) => return,
                        Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
                    }
                }
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Lets a running pass end at its next step, waits for that, and begins no other. The next process can go on there.
    pub async fn stop(&self) {
        let thread = {
            let mut shared = self.lock();
            shared.stopping = true;
            self.changed.notify_all();
            shared.thread.take()
        };
        if let Some(thread) = thread {
            // A panic is caught and told where it happens.
            let _ = thread.await;
        }
    }

    fn run(&self, request: VerifyRequest) {
        let mut pass = None;
        loop {
            // redb panics where it finds its pages damaged.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.pass(request, &mut pass)));
            let result = match outcome {
                Ok(Err(VerifyError::Blocks(BlocksError::Storage(error))))
                    if matches!(*error, redb::Error::Corrupted(_)) =>
                {
                    tracing::error!(%error, "blocks.redb can't be read through");
                    Err(VerifyError::Structure)
                }
                Ok(result) => result,
                Err(_) => Err(VerifyError::Structure),
            };
            if matches!(result, Err(VerifyError::Blocks(BlocksError::Storage(_)) | VerifyError::Structure)) {
                // The next access finds a file that works, if there is one to be had.
                self.blocks.reopen();
            }
            let mut shared = self.lock();
            let repairs = pass.as_ref().is_some_and(|pass: &Pass| pass.scrub.repairs());
            if result.is_ok() && !repairs && shared.running.is_some_and(|running| running.repair) {
                // Somebody asked for it at the last moment.
                continue;
            }
            match &result {
                Ok(report) => told(report),
                Err(VerifyError::Stopped) => tracing::debug!("a verification was cut off by the stop"),
                Err(error) => tracing::error!(%error, "a verification ended early"),
            }
            shared.running = None;
            shared.state.send_replace(Some(VerifyState::Ended(result)));
            return;
        }
    }

    /// One pass over everything, or what is left of it.
    fn pass(&self, request: VerifyRequest, pass: &mut Option<Pass>) -> Result<VerifyReport, VerifyError> {
        let pass = match pass {
            Some(pass) => pass,
            None => {
                let scrub = self.blocks.scrub(request.repair, request.resume)?;
                let report = VerifyReport { repairs: request.repair, ..VerifyReport::default() };
                let pass = pass.insert(Pass { scrub, report, pins_checked: None });
                // A repair that was cut off is ended first: the blocks may take days.
                if request.repair && self.blocks.record()?.pins_due {
                    self.check_pins(pass)?;
                }
                pass
            }
        };
        self.check_blocks(pass)?;
        let is_damaged = pass.scrub.has_unrepaired() || self.blocks.record()?.quarantined_blocks > 0;
        if pass.has_pins_due() || is_damaged && (pass.pins_checked.is_none() || pass.scrub.has_unrepaired()) {
            self.check_pins(pass)?;
        }
        pass.scrub.finish()?;
        pass.report.quarantined_blocks = self.blocks.record()?.quarantined_blocks;
        Ok(pass.report.clone())
    }

    fn check_blocks(&self, pass: &mut Pass) -> Result<(), VerifyError> {
        let mut saved = Instant::now();
        loop {
            let Some(request) = self.wanted() else {
                pass.scrub.save()?;
                return Err(VerifyError::Stopped);
            };
            if request.repair {
                pass.scrub.repair();
                pass.report.repairs = true;
            }
            let began = Instant::now();
            let step = pass.scrub.step(&|| self.wanted().is_some())?;
            pass.report.blocks.clone_from(pass.scrub.report());
            self.show(VerifyPhase::Blocks, &pass.report);
            match step {
                ScrubStep::Done => return Ok(()),
                ScrubStep::Looked(bytes) => self.pace(began, bytes),
            }
            if saved.elapsed() >= SAVE_EVERY {
                pass.scrub.save()?;
                saved = Instant::now();
            }
            // A pin must not seem whole for the days that the blocks may take.
            if pass.has_pins_due() && pass.pins_checked.is_none_or(|(at, _)| at.elapsed() >= PINS_EVERY) {
                self.check_pins(pass)?;
            }
        }
    }

    /// Finds the pins that need damaged blocks, and queues them again if this repairs.
    fn check_pins(&self, pass: &mut Pass) -> Result<(), VerifyError> {
        let Pass { scrub, report, pins_checked } = pass;
        let blocks = scrub.report().quarantined_blocks;
        self.show(VerifyPhase::Pins, report);
        if scrub.repairs() {
            // One that saw a block before it went into quarantine may end without it.
            self.fetches.restart();
        }
        let mut finder = self.blocks.damage(scrub);
        let go_on = || self.wanted().is_some();
        let (mut after, mut count): (Option<PinId>, u64) = (None, 0);
        loop {
            let page = self.records.pins(after, PAGE_PINS)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let mut damaged = Vec::new();
            for record in page {
                let is_pinned = matches!(record.state, PinState::Pinned { .. });
                let mut needs = false;
                for root in record.retained_roots.iter().chain([&record.root]) {
                    needs |= finder.is_damaged(root, is_pinned, &go_on)?.ok_or(VerifyError::Stopped)?;
                }
                if needs {
                    damaged.push(record);
                }
            }
            let requeued = if scrub.repairs() { self.requeue(&damaged)? } else { Vec::new() };
            count += damaged.len() as u64;
            for record in damaged {
                let requeued = requeued.contains(&record.id);
                if let Some(named) = report.pins.iter_mut().find(|named| named.record.id == record.id) {
                    named.requeued |= requeued;
                } else if report.pins.len() < PINS_NAMED_MAX {
                    let account = self.records.user(record.user)?.map(|user| user.email);
                    report.pins.push(DamagedPin { record, account, requeued });
                }
            }
            // Those that an earlier look of this pass named may be whole again.
            report.damaged_pins = count.max(report.pins.len() as u64);
            self.show(VerifyPhase::Pins, report);
        }
        *pins_checked = Some((Instant::now(), blocks));
        Ok(())
    }

    fn requeue(&self, damaged: &[PinRecord]) -> Result<Vec<PinId>, VerifyError> {
        let pinned = damaged.iter().filter(|record| matches!(record.state, PinState::Pinned { .. }));
        let ids: Vec<PinId> = pinned.map(|record| record.id).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let queued = Handle::current().block_on(self.records.requeue_pins(ids))?;
        let ids = queued.iter().map(|record| record.id).collect();
        self.fetches.requeued(queued);
        Ok(ids)
    }

    fn show(&self, phase: VerifyPhase, report: &VerifyReport) {
        self.lock().state.send_replace(Some(VerifyState::Running(phase, report.clone())));
    }

    /// What the running pass has to do; `None` when it has to end.
    fn wanted(&self) -> Option<VerifyRequest> {
        let shared = self.lock();
        shared.running.filter(|_| !shared.stopping)
    }

    /// Waits until so many bytes may have been read since `began`.
    fn pace(&self, began: Instant, bytes: u64) {
        let mut shared = self.lock();
        while !shared.stopping {
            let rate = shared.running.map_or(0, |running| running.rate);
            if rate == 0 {
                return;
            }
            let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
            let Some(wait) = due.checked_sub(began.elapsed()).filter(|wait| !wait.is_zero()) else { return };
            shared = self.changed.wait_timeout(shared, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A poisoned lock is harmless here: nothing is left half-way under it.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long until the next pass by itself; `None` for never.
fn due_in(record: &ScrubRecord, interval: Duration, now: Timestamp) -> Option<Duration> {
    if record.pins_due {
        return Some(Duration::ZERO);
    }
    if interval.is_zero() {
        return None;
    }
    if record.is_cut_off {
        return Some(Duration::ZERO);
    }
    let Some(finished) = record.finished else { return Some(Duration::ZERO) };
    // A clock that was set back must not hold it up for longer than that.
    let since = Duration::try_from(now.duration_since(finished)).unwrap_or_default();
    Some(interval.saturating_sub(since))
}

/// Tells the log.
fn told(report: &VerifyReport) {
    let VerifyReport { blocks, damaged_pins, quarantined_blocks, .. } = report;
    let ScrubReport { blocks, bytes, damaged_blocks, .. } = blocks;
    if *damaged_blocks > 0 || *quarantined_blocks > 0 {
        tracing::error!(
            blocks,
            bytes,
            damaged_blocks,
            damaged_pins,
            not_replaced_blocks = quarantined_blocks,
            "blocks are damaged: the disk or the memory of this machine may be failing"
        );
        for pin in &report.pins {
            tracing::warn!(pin = %pin.record.id, cid = pin.record.cid_text, "a pin needs damaged blocks");
        }
    } else if *blocks > 0 {
        tracing::info!(blocks, bytes, "every block was verified");
    }
}

#[cfg(test)]
mod tests;
