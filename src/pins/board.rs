//! The live side of the pins: what each unfinished pin is doing right now, for whoever asks.
//!
//! The runner writes here, the service reads; nothing here is stored. The service tells the runner through here
//! what changed, always after the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::schedule::{Schedule, ScheduleLimits, Standing};
use crate::bitswap::PeerNumber;
use crate::bitswap::session::Answers;
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
    /// Bytes of the whole DAG, as its root says, if it does.
    pub bytes_known: Option<u64>,
    /// Bytes per second, over the last seconds.
    pub bytes_per_second: u64,
    /// Peers that are asked for blocks.
    pub peers: usize,
    /// When the last block came, if one did.
    pub last_block_at: Option<Instant>,
    /// When this try began.
    pub began_at: Instant,
    /// What the peers did that were asked, by their numbers.
    pub answers: Arc<[(PeerNumber, Answers)]>,
    /// Whom the pin names, a sentence for each of how that goes.
    pub tried: Arc<[String]>,
    /// How the last look-up for further peers went, in a sentence.
    pub asked: Option<Arc<str>>,
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

/// How a try ended that didn't bring everything.
#[derive(Debug, Clone)]
pub struct LastTry {
    /// What it ended with.
    pub sentence: String,
    /// What it had reached.
    pub progress: Option<Progress>,
}

/// What the runner says of an unfinished pin; where it stands, the schedule knows.
#[derive(Debug, Clone)]
pub enum Doing {
    /// Was tried, and will be again.
    Tried(LastTry),
    /// Goes on when the store has room.
    NoRoom {
        /// What is short, and what can be done.
        shortage: String,
        /// What the last try had reached.
        progress: Progress,
    },
    /// Is being fetched.
    Fetching(Place, Progress),
}

/// What an unfinished pin is doing.
#[derive(Debug, Clone)]
pub enum Live {
    /// Waits for its turn.
    Ready {
        /// Pins that start before it.
        ahead: usize,
        /// The try before, if there was one.
        last: Option<LastTry>,
    },
    /// Waits for its next try.
    Waiting {
        /// When that is.
        next_try_at: Instant,
        /// The try before.
        last: Option<LastTry>,
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
    fn of(doing: Option<Doing>, standing: Option<Standing>) -> Option<Self> {
        let last = match doing {
            Some(Doing::Fetching(place, progress)) => return Some(Self::Fetching(place, progress)),
            Some(Doing::NoRoom { shortage, progress }) => match standing {
                Some(Standing::Ready(_)) => Some(LastTry { sentence: shortage, progress: Some(progress) }),
                _ => return Some(Self::NoRoom { shortage, progress }),
            },
            Some(Doing::Tried(last)) => Some(last),
            None => None,
        };
        Some(match standing {
            Some(Standing::Waiting(next_try_at)) => Self::Waiting { next_try_at, last },
            Some(Standing::Ready(ahead)) => Self::Ready { ahead, last },
            // It has just been taken up.
            Some(Standing::Active | Standing::Ending) => Self::Ready { ahead: 0, last },
            None => return None,
        })
    }

    /// Whether the pin is being fetched, which clients see as `pinning`.
    pub fn is_fetching(&self) -> bool {
        match self {
            Self::Ready { .. } | Self::Waiting { .. } | Self::NoRoom { .. } => false,
            Self::Fetching(..) => true,
            Self::Mending(live) => live.as_ref().is_some_and(|live| live.is_fetching()),
        }
    }

    /// How far it has come, if it was ever tried.
    pub fn progress(&self) -> Option<&Progress> {
        match self {
            Self::Ready { last, .. } | Self::Waiting { last, .. } => last.as_ref()?.progress.as_ref(),
            Self::NoRoom { progress, .. } | Self::Fetching(_, progress) => Some(progress),
            Self::Mending(live) => live.as_ref()?.progress(),
        }
    }

    fn sentence(&self, now: Instant) -> String {
        match self {
            Self::Ready { ahead, last } => {
                let first = match ahead {
                    0 => "next in the queue".to_owned(),
                    ahead => format!("waiting for its turn; {ahead} ahead"),
                };
                with_last(first, last.as_ref())
            }
            Self::Waiting { next_try_at, last } => {
                let seconds = next_try_at.saturating_duration_since(now).as_secs().max(1);
                let first =
                    format!("waiting; next try in {seconds} s, or at once when a peer that has the content connects");
                with_last(first, last.as_ref())
            }
            Self::NoRoom { shortage, .. } => {
                format!("waiting for room, and goes on by itself when there is some: {shortage}")
            }
            Self::Fetching(_, progress) => fetching_sentence(progress, now),
            Self::Mending(live) => {
                let doing = live.as_ref().map(|live| live.sentence(now));
                let doing = doing.as_deref().unwrap_or("waiting for its turn");
                format!("a damaged block was found in it and is being fetched again: {doing}")
            }
        }
    }

    /// The `info` of a PSA answer: strings only, `status_details` a sentence.
    pub fn info(&self, now: Instant) -> BTreeMap<String, String> {
        let mut info = BTreeMap::from([("status_details".to_owned(), self.sentence(now))]);
        let innermost = match self {
            Self::Mending(Some(live)) => live,
            other => other,
        };
        if let Self::Ready { ahead, .. } = innermost {
            info.insert("queue_position".into(), (ahead + 1).to_string());
        }
        if let Some(progress) = self.progress() {
            info.insert("blocks_fetched".into(), progress.blocks_fetched.to_string());
            info.insert("blocks_known".into(), progress.blocks_known.to_string());
            info.insert("raw_size".into(), progress.bytes_fetched.to_string());
            if let Some(bytes) = progress.bytes_known {
                info.insert("bytes_known".into(), bytes.to_string());
            }
        }
        if let Self::Fetching(_, progress) = innermost {
            info.insert("bytes_per_second".into(), progress.bytes_per_second.to_string());
            info.insert("peers".into(), progress.peers.to_string());
            if let Some(at) = progress.last_block_at {
                let seconds = now.saturating_duration_since(at).as_secs();
                info.insert("seconds_since_last_block".into(), seconds.to_string());
            }
        }
        info
    }
}

fn with_last(mut sentence: String, last: Option<&LastTry>) -> String {
    if let Some(last) = last {
        sentence.push_str("; last try: ");
        sentence.push_str(&last.sentence);
    }
    sentence
}

fn fetching_sentence(progress: &Progress, now: Instant) -> String {
    let seconds = |at: Instant| now.saturating_duration_since(at).as_secs();
    let last_block = match progress.last_block_at {
        Some(at) => format!("last block {} s ago", seconds(at)),
        None => format!("no block has come yet in this try, which began {} s ago", seconds(progress.began_at)),
    };
    let peers = match (progress.peers, &progress.asked) {
        (0, None) => "no peer that has the content is connected yet".to_owned(),
        (0, Some(asked)) => format!("no peer that has the content is connected yet; {asked}"),
        (1, _) => "1 peer".to_owned(),
        (peers, _) => format!("{peers} peers"),
    };
    format!(
        "fetched {} of {} known blocks, {}; {}/s; {peers}; {last_block}",
        progress.blocks_fetched,
        progress.blocks_known,
        bytesize::ByteSize(progress.bytes_fetched),
        bytesize::ByteSize(progress.bytes_per_second),
    )
}

impl Doing {
    /// Which pin is being fetched, if it is.
    fn fetching(&self) -> Option<Place> {
        match self {
            Self::Tried(_) | Self::NoRoom { .. } => None,
            Self::Fetching(place, _) => Some(*place),
        }
    }
}

/// What the runner has said of pins.
#[derive(Debug, Default)]
struct Said {
    doing: HashMap<PinId, Doing>,
    /// Those of them that are being fetched.
    fetching: BTreeSet<(Place, PinId)>,
}

impl Said {
    fn set(&mut self, id: PinId, doing: Doing) {
        let now = doing.fetching();
        let before = self.doing.insert(id, doing).and_then(|doing| doing.fetching());
        if now != before {
            self.fetching.extend(now.map(|place| (place, id)));
            if let Some(place) = before {
                self.fetching.remove(&(place, id));
            }
        }
    }

    fn clear(&mut self, id: &PinId) {
        if let Some(place) = self.doing.remove(id).and_then(|doing| doing.fetching()) {
            self.fetching.remove(&(place, *id));
        }
    }
}

/// The shared board.
#[derive(Debug)]
pub struct Board {
    said: Mutex<Said>,
    /// The runner's; here others see where a pin stands.
    schedule: Mutex<Schedule>,
    /// Unfinished pins that were whole before.
    mending: Mutex<HashSet<PinId>>,
    changes: mpsc::Sender<PinChange>,
    removals: AtomicU64,
    ended: watch::Sender<u64>,
}

impl Board {
    /// A board and the changes that the runner reads.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<PinChange>) {
        let (changes, receiver) = mpsc::channel(CHANGES_QUEUED_MAX);
        (
            Arc::new(Self {
                said: Mutex::default(),
                schedule: Mutex::new(Schedule::new(ScheduleLimits::NONE)),
                mending: Mutex::default(),
                changes,
                removals: AtomicU64::new(0),
                ended: watch::Sender::new(0),
            }),
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
        let doing = self.lock().doing.get(id).cloned();
        let standing = match &doing {
            Some(Doing::Fetching(..)) => None,
            _ => self.schedule().standing(id),
        };
        let live = Live::of(doing, standing);
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
                .filter_map(|(place, id)| {
                    let live = Live::of(said.doing.get(id).cloned(), None)?;
                    Some((place.created_ms, *id, live))
                })
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
    pub fn set(&self, id: PinId, doing: Doing) {
        self.lock().set(id, doing);
    }

    /// The schedule, for the runner. It is held only for a moment, and never while the rest of the board is.
    pub fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a pin was whole before.
    pub fn set_mending(&self, id: PinId) {
        self.mending().insert(id);
    }

    /// Forgets a pin that is finished or gone.
    pub fn forget(&self, id: &PinId) {
        self.lock().clear(id);
        self.mending().remove(id);
        self.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }

    /// Changes whenever a pin was forgotten.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Whether a pin was whole before.
    pub fn is_mending(&self, id: &PinId) -> bool {
        self.mending().contains(id)
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
        board.schedule().add(id, UserId(1));
        assert!(details(&board).unwrap().ends_with("fetched again: next in the queue"));
        board.schedule().remove(id);
        assert_eq!(details(&board).unwrap(), mending);
        assert!(!board.live(&id).unwrap().is_fetching());
        board.forget(&id);
        assert_eq!(details(&board), None);
    }
}
