//! Tells the DHT which blocks we have, for as long as they are pinned.
//!
//! The root of a new pin is provided at once ([`roots`]); everything, it as well, again and again by a sweep through the keyspace
//! ([`sweeping`]), region by region: one look-up finds the servers for all CIDs that fall near each other.
//!
//! The data's path: `pins` says which root has become whole → its place → the 20 closest servers → one message each. And the
//! sweep: when a cell of the keyspace is due ([`sweep`]) → the CIDs in that part of it, read from the pins and their nodes
//! ([`slice`]) → the servers of the region around it ([`explore`]) → which CIDs each is told of ([`regions`]) → one stream to each ([`region`]). When each
//! cell was done is written down ([`saved`]). Nothing here holds up a pin: roots that wait are bounded, and so is what a slice
//! takes of memory and of the disk's time.

mod counters;
mod explore;
mod keyspace;
pub mod options;
mod region;
mod regions;
mod roots;
mod saved;
#[cfg(test)]
mod simulation;
mod slice;
mod sweep;
mod sweeping;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cid::Cid;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use self::counters::Counters;
pub use self::options::{Options, Strategy};
use self::region::Announcer;
use self::slice::Source;
use self::sweep::{CELLS, SweepStatus};
use crate::denylist::Denylist;
use crate::model::block::IDENTITY_HASH;
use crate::net::NodeHandle;
use crate::store::blocks::BlockReader;
use crate::store::records::Records;

/// Roots that are on their way to where those wait that are provided at once; more are left to the sweep.
const ROOTS_QUEUED_MAX: usize = 4096;

/// Streams to servers that are open at the same time.
const STREAMS_MAX: usize = 16;

/// What is provided, and how it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvideStatus {
    /// Which blocks are provided.
    pub strategy: Strategy,
    /// Whether we take part in the DHT at all.
    pub dht: bool,
    /// Whether there is an address under which others reach us; without one nothing can be provided.
    pub reachable: bool,
    /// How many CIDs there are to provide, about; unknown until they were first read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cids: Option<u64>,
    /// Roots of new pins that wait for their turn.
    pub roots_waiting: usize,
    /// Parts of the keyspace, of 4,096, all CIDs of which were provided within the interval.
    pub cells_provided: usize,
    /// Those that weren't yet, or longer ago.
    pub cells_due: usize,
    /// Seconds since the part was provided that waits longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub oldest_seconds: Option<u64>,
    /// Whether records may expire before they are renewed.
    pub behind: bool,
    /// Look-ups of servers since the start.
    pub lookups: u64,
    /// Servers that were told, each time over one stream, since the start.
    pub streams: u64,
    /// Servers that couldn't be told, since the start.
    pub failures: u64,
    /// Records that servers were told, since the start.
    pub records: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// What the tasks tell of how it goes.
#[derive(Debug, Default)]
struct Progress {
    cids: Option<u64>,
    roots_waiting: usize,
    sweep: Option<SweepStatus>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    options: Options,
    node: NodeHandle,
    counters: Arc<Counters>,
    progress: Mutex<Progress>,
    denylist: Denylist,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether anything is provided at all.
    fn provides(&self) -> bool {
        self.options.strategy != Strategy::Off && self.node.has_dht()
    }

    /// Whether servers can be told anything now: they keep only records with an address.
    fn is_able(&self) -> bool {
        self.node.has_dht() && !self.node.delegates().1
    }
}

/// Who provides, for whoever pins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Provider {
    shared: Arc<Shared>,
    roots: mpsc::Sender<Cid>,
}

/// The tasks that provide.
#[derive(Debug)]
pub struct ProviderTask {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl ProviderTask {
    /// Ends them, and writes down how far they are.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            // They don't panic, and are cancelled only when the program ends.
            let _ = task.await;
        }
    }
}

impl Provider {
    /// Begins to provide what is pinned. `saved` is where it is written down how far that is.
    pub fn start(
        options: Options,
        node: NodeHandle,
        reader: BlockReader,
        records: Arc<Records>,
        denylist: Denylist,
        saved: PathBuf,
    ) -> (Self, ProviderTask) {
        let (roots, new_roots) = mpsc::channel(ROOTS_QUEUED_MAX);
        let (stop, stopped) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let announcer = Announcer::new(node.clone(), STREAMS_MAX, Arc::clone(&counters));
        let progress = Mutex::default();
        let source = Source { reader, records, denylist: denylist.clone(), strategy: options.strategy };
        let shared = Arc::new(Shared { options, node, counters, progress, denylist });
        let mut tasks = Vec::new();
        if shared.provides() {
            let rooting = roots::run(Arc::clone(&shared), announcer.clone(), new_roots);
            let mut ended = stopped.clone();
            tasks.push(tokio::spawn(async move {
                tokio::select! {
                    () = rooting => {}
                    _ = ended.wait_for(|stopped| *stopped) => {}
                }
            }));
            tasks.push(tokio::spawn(sweeping::run(Arc::clone(&shared), announcer, source, saved, stopped)));
        }
        (Self { shared, roots }, ProviderTask { stop, tasks })
    }

    /// A pin has become whole: its root is provided soon.
    pub fn pinned(&self, root: &Cid) {
        if self.shared.options.strategy != Strategy::Off && root.hash().code() != IDENTITY_HASH {
            // Where so many wait, the sweep is as quick.
            let _ = self.roots.try_send(*root);
        }
    }

    /// Cells that are due as far as is known before the sweep has read what was done: all, if there is one.
    fn cells_at_start(&self) -> usize {
        if self.shared.provides() { CELLS } else { 0 }
    }

    /// How it goes.
    pub fn status(&self) -> ProvideStatus {
        let shared = &self.shared;
        let progress = shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let sweep = progress.sweep;
        ProvideStatus {
            strategy: shared.options.strategy,
            dht: shared.node.has_dht(),
            reachable: !shared.node.delegates().1,
            cids: progress.cids,
            roots_waiting: progress.roots_waiting,
            cells_provided: sweep.map_or(0, |sweep| sweep.provided),
            cells_due: sweep.map_or_else(|| self.cells_at_start(), |sweep| sweep.overdue + sweep.never),
            oldest_seconds: sweep.and_then(|sweep| sweep.oldest_seconds),
            behind: sweep.is_some_and(|sweep| sweep.is_behind),
            lookups: shared.counters.lookups.get(),
            streams: shared.counters.streams.get(),
            failures: shared.counters.failures.get(),
            records: shared.counters.records.get(),
            bytes: shared.counters.bytes.get(),
        }
    }
}

/// Seconds of unix time.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
