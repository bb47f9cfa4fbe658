//! Runs garbage collections: the roots come from the records, the work is done in `blocks`.
//!
//! Every pin is a root, whatever its state, and so is what an unfinished pin replaced. One collection runs at a time; who
//! asks for one meanwhile gets the answer of the one that runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::blocks::{BlockCollector, BlocksError, Collection, GcPhase, GcReport};
use super::records::{Records, RecordsError};
use crate::model::PinId;

/// Pins whose roots are read at a time.
const ROOTS_PINS: usize = 1000;

/// Why a collection ended early. What it had removed stays removed; nothing that is needed is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GcError {
    /// The blocks failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The records failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The program stops.
    #[error("the garbage collection was cut off, because the program stops")]
    Stopped,
}

/// How far a collection is.
#[derive(Debug, Clone)]
pub enum GcState {
    /// It runs.
    Running(GcPhase, GcReport),
    /// It is over.
    Ended(Result<GcReport, GcError>),
}

/// Collects the garbage of one service.
#[derive(Debug)]
pub struct GarbageCollector {
    blocks: BlockCollector,
    records: Arc<Records>,
    /// The last collection, which may still run.
    last: Mutex<Option<watch::Receiver<GcState>>>,
    stopping: AtomicBool,
}

impl GarbageCollector {
    /// Nothing is collected until it is asked for.
    pub fn new(blocks: BlockCollector, records: Arc<Records>) -> Arc<Self> {
        Arc::new(Self { blocks, records, last: Mutex::default(), stopping: AtomicBool::new(false) })
    }

    /// How far the running collection is, or how the last one ended; `None` when there was none since the start.
    pub fn state(&self) -> Option<GcState> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|state| state.borrow().clone())
    }

    /// Collects, or waits for the collection that runs.
    pub async fn collect(self: &Arc<Self>) -> Result<GcReport, GcError> {
        let mut state = self.start_or_join();
        let ended = state.wait_for(|state| matches!(state, GcState::Ended(_))).await;
        match ended.as_deref() {
            Ok(GcState::Ended(result)) => result.clone(),
            // The thread went away without a word.
            _ => Err(GcError::Stopped),
        }
    }

    /// Begins a collection, unless one runs.
    pub fn request(self: &Arc<Self>) {
        self.start_or_join();
    }

    /// Lets a running collection end at its next step, waits for that, and begins no other.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut last) = last {
            // A thread that is gone has ended as well.
            let _ = last.wait_for(|state| matches!(state, GcState::Ended(_))).await;
        }
    }

    fn start_or_join(self: &Arc<Self>) -> watch::Receiver<GcState> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = last.as_ref().filter(|state| {
            // A thread that is gone has dropped its sender.
            matches!(*state.borrow(), GcState::Running(..)) && state.has_changed().is_ok()
        }) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(GcState::Running(GcPhase::Mark, GcReport::default()));
        *last = Some(receiver.clone());
        let collector = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let result = collector.run(&sender);
            match &result {
                Ok(report) => tracing::info!(
                    kept_blocks = report.kept_blocks,
                    removed_blocks = report.removed_blocks,
                    removed_bytes = report.removed_bytes,
                    "garbage collected"
                ),
                Err(error) => tracing::warn!(%error, "a garbage collection ended early"),
            }
            sender.send_replace(GcState::Ended(result));
        });
        receiver
    }

    fn run(&self, state: &watch::Sender<GcState>) -> Result<GcReport, GcError> {
        let mut collection = self.blocks.begin()?;
        let mut after: Option<PinId> = None;
        loop {
            let page = self.records.roots(after, ROOTS_PINS)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for root in page.iter().flat_map(|(_, roots)| roots) {
                collection.add_root(root);
            }
            while collection.has_unwalked_roots() {
                self.step(&mut collection, state)?;
            }
        }
        collection.seal_roots();
        while self.step(&mut collection, state)? != GcPhase::Done {}
        Ok(collection.report())
    }

    fn step(&self, collection: &mut Collection, state: &watch::Sender<GcState>) -> Result<GcPhase, GcError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(GcError::Stopped);
        }
        let phase = collection.step()?;
        state.send_replace(GcState::Running(phase, collection.report()));
        Ok(phase)
    }
}

#[cfg(test)]
mod tests {

    use bytes::Bytes;

    use super::*;
    use crate::model::cids::codec;
    use crate::model::{Block, Failure, FailureCode, PinState, UserId};
    use crate::store::blocks::BlockStore;
    use crate::store::records::NewPin;

    fn block(text: &str) -> Block {
        Block::new_sha256(codec::RAW, Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn new_pin(block: &Block) -> NewPin {
        NewPin::plain(UserId(1), *block.cid())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_pin_is_a_root_and_what_is_replaced_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 1 << 20, 1 << 20).unwrap();
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap());
        let [pinned, queued, failed, removed, old, new] =
            ["pinned", "queued", "failed", "removed", "old", "new"].map(block);
        let all = [&pinned, &queued, &failed, &removed, &old, &new];
        store.writer().put(all.map(Clone::clone).to_vec()).await.unwrap();
        let mut ids = Vec::new();
        for block in [&pinned, &queued, &failed, &removed, &old] {
            ids.push(records.add_pin(new_pin(block), None).await.unwrap().unwrap().id);
        }
        let done = PinState::Pinned { blocks: 1, bytes: 1 };
        let failure = Failure { code: FailureCode::BlockInvalid, sentence: "x".into(), tried: Vec::new() };
        records.finish(ids[0], done.clone()).await.unwrap();
        records.finish(ids[2], PinState::Failed(failure)).await.unwrap();
        records.remove_pin(UserId(1), ids[3]).await.unwrap();
        let replacing = records.add_pin(new_pin(&new), Some(ids[4])).await.unwrap().unwrap();

        let collector = GarbageCollector::new(store.collector(|_, _| Vec::new()), Arc::clone(&records));
        assert!(collector.state().is_none());
        let (first, second) = tokio::join!(collector.collect(), collector.collect());
        assert_eq!(first.unwrap().removed_blocks, 1);
        assert_eq!(second.unwrap().removed_blocks, 1, "the second request joins the first");
        let held = || all.map(|block| store.reader().has(block.cid()).unwrap());
        assert_eq!(held(), [true, true, true, false, true, true]);

        records.finish(replacing.id, done).await.unwrap();
        assert_eq!(collector.collect().await.unwrap().removed_blocks, 1);
        assert_eq!(held(), [true, true, true, false, false, true]);

        collector.stop().await;
        assert!(matches!(collector.collect().await, Err(GcError::Stopped)));
        assert!(matches!(collector.state(), Some(GcState::Ended(Err(GcError::Stopped)))));
    }
}
