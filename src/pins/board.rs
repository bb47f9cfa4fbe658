//! The live side of the pins: what each unfinished pin is doing right now, for whoever asks.
//!
//! The runner writes here, the service reads; nothing here is stored. The service tells the runner through here
//! what changed, always after the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::model::{PinId, PinRecord, UserId};
use crate::store::verify::Fetches;

/// Changes that wait for the runner.
const CHANGES_QUEUED_MAX: usize = 1024;

/// A committed change that the runner has to follow.
#[derive(Debug)]
pub enum PinChange {
    /// A new pin is queued.
    Added(Arc<PinRecord>),
    /// A pin is gone.
    Removed(PinId),
    /// A pinned pin is queued again, since blocks of it are gone.
    Requeued(Arc<PinRecord>),
    /// Blocks are gone that running fetches may have seen: each has to begin anew. Answered when none of the old ones
    /// can end well any more.
    RestartFetches(oneshot::Sender<()>),
}

/// How far a running fetch has come.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Distinct blocks of the DAG that are durable.
    pub blocks_fetched: u64,
    /// Distinct blocks of the DAG that are known to exist.
    pub blocks_known: u64,
    /// Bytes of the durable blocks.
    pub bytes_fetched: u64,
    /// Bytes per second, over the last seconds.
    pub bytes_per_second: u64,
    /// Peers that are asked for blocks.
    pub peers: usize,
    /// When the last block came, if one did.
    pub last_block_at: Option<Instant>,
    /// When this try began.
    pub began_at: Instant,
}

/// Where a pin is in the lists: an account has one with this `created_ms` at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Whose pin it is.
    pub user: UserId,
    /// When it was made.
    pub created_ms: i64,
}

impl From<&PinRecord> for Place {
    fn from(record: &PinRecord) -> Self {
        Self { user: record.user, created_ms: record.created_ms }
    }
}

/// What an unfinished pin is doing.
#[derive(Debug, Clone)]
pub enum Live {
    /// Holds no slot.
    Queued {
        /// Pins that start before it; `None` when it waits for its next try.
        ahead: Option<usize>,
        /// When it is tried next, if it was tried before.
        next_try_at: Option<Instant>,
        /// What the last try ended with.
        last_try: Option<String>,
        /// What the last try had reached.
        progress: Option<Progress>,
    },
    /// Holds no slot until the store has room; goes on by itself then.
    NoRoom {
        /// What is short, and what can be done.
        shortage: String,
        /// What the last try had reached.
        progress: Progress,
    },
    /// Is being fetched.
    Fetching(Place, Progress),
    /// Was whole until a damaged block was found. What it is doing now; `None` when the runner hasn't seen it yet.
    Mending(Option<Box<Live>>),
}

impl Live {
    /// Whether the pin holds a slot, which clients see as `pinning`.
    pub fn is_fetching(&self) -> bool {
        match self {
            Self::Queued { .. } | Self::NoRoom { .. } => false,
            Self::Fetching(..) => true,
            Self::Mending(live) => live.as_ref().is_some_and(|live| live.is_fetching()),
        }
    }

    /// Which pin is being fetched, if it is.
    fn fetching(&self) -> Option<Place> {
        match self {
            Self::Queued { .. } | Self::NoRoom { .. } => None,
            Self::Fetching(place, _) => Some(*place),
            Self::Mending(live) => live.as_ref().and_then(|live| live.fetching()),
        }
    }

    /// The `info` of a PSA answer: strings only, `status_details` a sentence.
    pub fn info(&self, now: Instant) -> BTreeMap<String, String> {
        let mut info = BTreeMap::new();
        let sentence = match self {
            Self::Queued { ahead, next_try_at, last_try, .. } => {
                queued_sentence(*ahead, *next_try_at, last_try.as_deref(), now)
            }
            Self::NoRoom { shortage, .. } => {
                format!("waiting for room, and goes on by itself when there is some: {shortage}")
            }
            Self::Fetching(_, progress) => fetching_sentence(progress, now),
            Self::Mending(live) => {
                info = live.as_ref().map_or_else(BTreeMap::new, |live| live.info(now));
                let doing = info.get("status_details").map_or("waiting for its turn", String::as_str);
                format!("a damaged block was found in it and is being fetched again: {doing}")
            }
        };
        info.insert("status_details".into(), sentence);
        if let Self::Fetching(_, progress)
        | Self::NoRoom { progress, .. }
        | Self::Queued { progress: Some(progress), .. } = self
        {
            info.insert("blocks_fetched".into(), progress.blocks_fetched.to_string());
            info.insert("blocks_known".into(), progress.blocks_known.to_string());
            info.insert("raw_size".into(), progress.bytes_fetched.to_string());
        }
        info
    }
}

fn queued_sentence(ahead: Option<usize>, next_try_at: Option<Instant>, last_try: Option<&str>, now: Instant) -> String {
    let mut sentence = match (next_try_at, ahead) {
        (Some(at), _) => {
            let seconds = at.saturating_duration_since(now).as_secs().max(1);
            format!("waiting; next try in {seconds} s, or at once when a peer that has the content connects")
        }
        (None, Some(0)) => "next in the queue".to_owned(),
        (None, Some(ahead)) => format!("waiting for its turn; {ahead} ahead"),
        (None, None) => "waiting for its turn".to_owned(),
    };
    if let Some(last_try) = last_try {
        sentence.push_str("; last try: ");
        sentence.push_str(last_try);
    }
    sentence
}

fn fetching_sentence(progress: &Progress, now: Instant) -> String {
    let seconds = |at: Instant| now.saturating_duration_since(at).as_secs();
    let last_block = match progress.last_block_at {
        Some(at) => format!("last block {} s ago", seconds(at)),
        None => format!("no block has come yet in this try, which began {} s ago", seconds(progress.began_at)),
    };
    let peers = match progress.peers {
        0 => "no peer that has the content is connected yet".to_owned(),
        1 => "1 peer".to_owned(),
        peers => format!("{peers} peers"),
    };
    format!(
        "fetched {} of {} known blocks, {}; {}/s; {peers}; {last_block}",
        progress.blocks_fetched,
        progress.blocks_known,
        bytesize::ByteSize(progress.bytes_fetched),
        bytesize::ByteSize(progress.bytes_per_second),
    )
}

/// What the runner has said of pins.
#[derive(Debug, Default)]
struct Said {
    live: HashMap<PinId, Live>,
    /// Those of them that are being fetched.
    fetching: BTreeSet<(Place, PinId)>,
}

impl Said {
    fn set(&mut self, id: PinId, live: Live) {
        let now = live.fetching();
        let before = self.live.insert(id, live).and_then(|live| live.fetching());
        if now != before {
            self.fetching.extend(now.map(|place| (place, id)));
            if let Some(place) = before {
                self.fetching.remove(&(place, id));
            }
        }
    }

    fn clear(&mut self, id: &PinId) {
        if let Some(place) = self.live.remove(id).and_then(|live| live.fetching()) {
            self.fetching.remove(&(place, *id));
        }
    }
}

/// The shared board.
#[derive(Debug)]
pub struct Board {
    said: Mutex<Said>,
    /// Unfinished pins that were whole before.
    mending: Mutex<HashSet<PinId>>,
    changes: mpsc::Sender<PinChange>,
    removals: AtomicU64,
}

impl Board {
    /// A board and the changes that the runner reads.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<PinChange>) {
        let (changes, receiver) = mpsc::channel(CHANGES_QUEUED_MAX);
        (
            Arc::new(Self { said: Mutex::default(), mending: Mutex::default(), changes, removals: AtomicU64::new(0) }),
            receiver,
        )
    }

    /// Tells the runner of a committed change; waits while its queue is full. A runner that has stopped is ignored:
    /// it reads the records again at the next start.
    pub async fn announce(&self, change: PinChange) {
        if matches!(change, PinChange::Removed(_)) {
            self.removals.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self.changes.send(change).await;
    }

    /// How many pins were removed or replaced since the start.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Relaxed)
    }

    /// What an unfinished pin is doing; `None` when the runner doesn't know it (finished, or not seen yet).
    pub fn live(&self, id: &PinId) -> Option<Live> {
        let live = self.lock().live.get(id).cloned();
        let is_mending = self.mending().contains(id);
        if is_mending { Some(Live::Mending(live.map(Box::new))) } else { live }
    }

    /// How many pins are being fetched.
    pub fn fetching(&self) -> usize {
        self.lock().fetching.len()
    }

    /// What the pins of an account are doing that are being fetched, by `created_ms`.
    pub fn fetching_of(&self, user: UserId) -> BTreeMap<i64, Live> {
        let fetching: Vec<(i64, PinId, Live)> = {
            let said = self.lock();
            let first = (Place { user, created_ms: i64::MIN }, PinId::MIN);
            let of_user = said.fetching.range(first..).take_while(|(place, _)| place.user == user);
            of_user
                .filter_map(|(place, id)| said.live.get(id).map(|live| (place.created_ms, *id, live.clone())))
                .collect()
        };
        let mending = self.mending();
        fetching
            .into_iter()
            .map(|(created_ms, id, live)| {
                let live = if mending.contains(&id) { Live::Mending(Some(Box::new(live))) } else { live };
                (created_ms, live)
            })
            .collect()
    }

    /// Says what a pin is doing.
    pub fn set(&self, id: PinId, live: Live) {
        self.lock().set(id, live);
    }

    /// Says that a pin was whole before.
    pub fn set_mending(&self, id: PinId) {
        self.mending().insert(id);
    }

    /// Forgets a pin that is finished or gone.
    pub fn forget(&self, id: &PinId) {
        self.clear(id);
        self.mending().remove(id);
    }

    /// Forgets what a pin is doing; it waits for its turn.
    pub fn clear(&self, id: &PinId) {
        self.lock().clear(id);
    }

    /// A poisoned lock is harmless: every entry is written whole.
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mending(&self) -> MutexGuard<'_, HashSet<PinId>> {
        self.mending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A runner that has stopped fetches nothing, and reads the records again at the next start.
impl Fetches for Board {
    fn restart(&self) {
        let (sender, answered) = oneshot::channel();
        if self.changes.blocking_send(PinChange::RestartFetches(sender)).is_ok() {
            let _ = answered.blocking_recv();
        }
    }

    fn requeued(&self, pins: Vec<PinRecord>) {
        for pin in pins {
            let _ = self.changes.blocking_send(PinChange::Requeued(Arc::new(pin)));
        }
    }
}

/// The rate over a window, for [`Progress::bytes_per_second`].
pub fn rate(bytes: u64, over: Duration) -> u64 {
    let milliseconds = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / milliseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_that_was_whole_says_so_until_it_is_whole_again() {
        let (board, _changes) = Board::new();
        let (id, now) = (PinId::new(), Instant::now());
        let details = |board: &Board| board.live(&id).map(|live| live.info(now)["status_details"].clone());
        assert_eq!(details(&board), None);
        board.set_mending(id);
        let mending = "a damaged block was found in it and is being fetched again: waiting for its turn";
        assert_eq!(details(&board).unwrap(), mending);
        board.set(id, Live::Queued { ahead: Some(0), next_try_at: None, last_try: None, progress: None });
        assert!(details(&board).unwrap().ends_with("fetched again: next in the queue"));
        board.clear(&id);
        assert_eq!(details(&board).unwrap(), mending);
        assert!(!board.live(&id).unwrap().is_fetching());
        board.forget(&id);
        assert_eq!(details(&board), None);
    }
}
