//! Carries the sweep out: reads which CIDs are due, has their servers told, and writes down what is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::keyspace::{Key, Prefix};
use super::region::Announcer;
use super::saved;
use super::slice::{Slice, Source};
use super::sweep::{Cell, Sweep, SweepOptions};
use super::{Shared, unix_seconds};

/// Regions that are provided at the same time.
const REGIONS_MAX: usize = 2;

/// How long CIDs that were read are used: pins come and go.
const SLICE_AGE_MAX: Duration = Duration::from_mins(30);

/// Reading takes at most this part of the time.
const READING_DIVISOR: u32 = 10;

/// Cells that are begun before anything else gets its turn; with few CIDs most are empty.
const CELLS_IN_A_ROW_MAX: usize = 64;

/// How often it is written down what is done.
const SAVED_EVERY: Duration = Duration::from_mins(5);

/// How often it is looked whether anything can be done when nothing can.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The longest wait until it is looked at the clock again.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// A cell, and the part of the keyspace around it that is done with it. Not many at a time, as few cells run.
type Explored = (Cell, Prefix);

/// What is done of a cell.
#[derive(Clone, Copy)]
struct Done {
    cell: Cell,
    began_at: u64,
    /// What was provided around it; `None` if it has to be tried again.
    provided: Option<Prefix>,
}

/// Sweeps until stopped.
pub(super) async fn run(
    shared: Arc<Shared>,
    announcer: Announcer,
    source: Source,
    saved: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    let sweeping = Sweeping::new(&shared, announcer, source, &saved).await;
    let mut sweeping = sweeping;
    let mut saved_at = Instant::now();
    loop {
        let wait = if shared.is_able() {
            tokio::select! {
                wait = sweeping.begin() => wait,
                // What is being begun needs no end any more.
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        } else {
            LOOK_EVERY
        };
        sweeping.tell(&shared);
        if saved_at.elapsed() >= SAVED_EVERY {
            sweeping.save(&saved).await;
            saved_at = Instant::now();
        }
        tokio::select! {
            // Nothing in there panics.
            Some(Ok(done)) = sweeping.running.join_next() => sweeping.handle(done),
            Some((cell, prefix)) = sweeping.explored.recv() => sweeping.sweep.looked_up(cell, &prefix),
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    sweeping.save(&saved).await;
}

struct Sweeping {
    announcer: Announcer,
    source: Source,
    sweep: Sweep,
    slice: Option<Arc<Slice>>,
    running: JoinSet<Done>,
    /// Which part of the keyspace the look-ups for running cells have found to be done with them.
    explored: mpsc::UnboundedReceiver<Explored>,
    explorers: mpsc::UnboundedSender<Explored>,
    /// What was last written down.
    written: Vec<u64>,
}

impl Sweeping {
    async fn new(shared: &Shared, announcer: Announcer, source: Source, path: &Path) -> Self {
        let (path, strategy) = (path.to_owned(), source.strategy);
        let loaded = tokio::task::spawn_blocking(move || saved::load(&path, strategy)).await;
        let restored = match loaded {
            Ok(Ok(restored)) => restored,
            Ok(Err(error)) => {
                tracing::warn!(%error, "it can't be read what was provided before; all is provided anew");
                None
            }
            Err(_) => None,
        };
        let place = Key::of(&shared.node.peer_id().to_bytes());
        let interval_seconds = shared.options.interval.as_secs();
        let offset = u64::from(u16::from_be_bytes([place.0[0], place.0[1]])) * interval_seconds / (1 << 16);
        let options = SweepOptions {
            interval_seconds,
            offset_seconds: offset,
            concurrent_max: REGIONS_MAX,
            ..SweepOptions::default()
        };
        let sweep = Sweep::new(options, restored, unix_seconds());
        let (explorers, explored) = mpsc::unbounded_channel();
        let written = sweep.provided_at().to_vec();
        Self { announcer, source, sweep, slice: None, running: JoinSet::new(), explored, explorers, written }
    }

    /// Begins what is due; returns how long there is nothing more.
    async fn begin(&mut self) -> Duration {
        let now = unix_seconds();
        for begun in 0..=CELLS_IN_A_ROW_MAX {
            if begun == CELLS_IN_A_ROW_MAX {
                return Duration::ZERO;
            }
            let Some(cell) = self.sweep.next(now) else { break };
            let Some(slice) = self.slice_of(cell).await else {
                self.sweep.failed(cell, now);
                break;
            };
            let Some((place, multihash)) = slice.within(&cell.prefix()).first().cloned() else {
                self.sweep.found_empty(cell, now);
                continue;
            };
            let (announcer, explored) = (self.announcer.clone(), self.explorers.clone());
            self.running.spawn(async move {
                let provided = provide(&announcer, &slice, cell, (place, &multihash), &explored).await;
                Done { cell, began_at: now, provided }
            });
        }
        let next_at = self.sweep.next_at(now).unwrap_or(now + WAIT_MAX.as_secs());
        Duration::from_secs(next_at.saturating_sub(now)).clamp(Duration::from_millis(100), WAIT_MAX)
    }

    /// The CIDs that a cell belongs to, read anew if those at hand are others or old.
    async fn slice_of(&mut self, cell: Cell) -> Option<Arc<Slice>> {
        let first = cell.prefix().first();
        if let Some(slice) = &self.slice {
            let rest = slice.took * READING_DIVISOR;
            let age = slice.read_at.elapsed();
            let is_its = slice.prefix.contains(&first);
            if is_its && age < SLICE_AGE_MAX.max(rest) {
                return Some(Arc::clone(slice));
            }
            if age < rest {
                tokio::time::sleep(rest.saturating_sub(age)).await;
            }
        }
        let source = self.source.clone();
        let read = tokio::task::spawn_blocking(move || {
            let prefix = Prefix::of(&first, source.slice_bits()?);
            source.read(prefix)
        });
        match read.await {
            Ok(Ok(slice)) => {
                let slice = Arc::new(slice);
                self.slice = Some(Arc::clone(&slice));
                Some(slice)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "it can't be read what is to be provided");
                None
            }
            Err(_) => None,
        }
    }

    fn handle(&mut self, done: Done) {
        match done.provided {
            Some(prefix) => self.sweep.finished(done.cell, &prefix, done.began_at),
            None => self.sweep.failed(done.cell, unix_seconds()),
        }
    }

    fn tell(&self, shared: &Shared) {
        let status = self.sweep.status(unix_seconds());
        let cids = self.slice.as_ref().map(|slice| slice.total());
        shared.tell(|progress| {
            if status.is_behind && !progress.sweep.is_some_and(|before| before.is_behind) {
                tracing::warn!("providing falls behind, and records may expire; `pinnace provide status` says more");
            }
            progress.sweep = Some(status);
            progress.cids = cids;
        });
    }

    async fn save(&mut self, path: &Path) {
        let times = self.sweep.provided_at().to_vec();
        if times == self.written {
            return;
        }
        let (path, strategy) = (path.to_owned(), self.source.strategy);
        let saving = {
            let times = times.clone();
            tokio::task::spawn_blocking(move || saved::save(&path, strategy, &times))
        };
        match saving.await {
            Ok(Ok(())) => self.written = times,
            Ok(Err(error)) => tracing::warn!(%error, "it can't be written down what was provided"),
            Err(_) => {}
        }
    }
}

/// Provides the CIDs around a cell; returns the part of the keyspace that was done, at least the cell.
async fn provide(
    announcer: &Announcer,
    slice: &Slice,
    cell: Cell,
    (mut place, multihash): (Key, &[u8]),
    explored: &mpsc::UnboundedSender<Explored>,
) -> Option<Prefix> {
    let own = cell.prefix();
    // Regions that are smaller than the cell follow one another until its end; a larger one holds all of it.
    let mut multihash = multihash.to_vec();
    loop {
        let region = announcer.explore(&place, &multihash).await?;
        let prefix = if region.prefix.bits() < slice.prefix.bits() { slice.prefix } else { region.prefix };
        // Whoever would listen ends only with the program.
        let _ = explored.send((cell, prefix));
        let cids = slice.within(&prefix);
        let untold = announcer.announce(&region, cids).await;
        // One CID whose servers all are gone, among many, is no reason to tell all others again.
        if 2 * untold.len() > cids.len() {
            return None;
        }
        if prefix.bits() <= own.bits() {
            return Some(prefix);
        }
        let next = prefix.last().successor().filter(|next| own.contains(next));
        let rest = next.and_then(|next| {
            let rest = slice.within(&own);
            rest.get(rest.partition_point(|(place, _)| *place < next))
        });
        match rest {
            Some((next_place, next_multihash)) => (place, multihash) = (*next_place, next_multihash.to_vec()),
            None => return Some(own),
        }
    }
}
