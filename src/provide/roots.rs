//! Provides the roots of new pins at once: who asks for a pin shows its CID to others soon after.
//!
//! When many wait, one look-up does for all that are near the one that it is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Shared;
use super::explore::Region;
use super::keyspace::{Key, Prefix};
use super::region::{Announcer, Provided};
use crate::net::Server;

/// Roots that wait; the sweep brings those that don't fit.
const WAITING_MAX: usize = 100_000;

/// Look-ups, and rounds of telling servers, that run at the same time.
const RUNNING_MAX: usize = 8;

/// The pause when nobody could be told; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// What one of the tasks has done.
enum Done {
    /// The servers around a root are known, unless none answered.
    LookedUp(Provided, Option<Region<Server>>),
    /// Servers were told; these CIDs none of them.
    Told(Vec<Provided>),
}

/// The roots that wait.
struct Roots {
    announcer: Announcer,
    waiting: BTreeMap<Key, Box<[u8]>>,
    running: JoinSet<Done>,
    pause: Duration,
    paused_until: Instant,
}

/// Provides what comes, for ever.
pub(super) async fn run(shared: Arc<Shared>, announcer: Announcer, mut new_roots: mpsc::Receiver<Cid>) {
    let mut roots = Roots {
        announcer,
        waiting: BTreeMap::new(),
        running: JoinSet::new(),
        pause: PAUSE_MIN,
        paused_until: Instant::now(),
    };
    loop {
        let wait = if shared.is_able() { roots.begin() } else { PAUSE_MIN };
        let count = roots.waiting.len() + roots.running.len();
        shared.tell(|progress| progress.roots_waiting = count);
        tokio::select! {
            Some(root) = new_roots.recv() => {
                if !shared.denylist.denies(&root) {
                    let multihash = root.hash().to_bytes();
                    roots.wait((Key::of(&multihash), multihash.into()));
                }
            }
            // Nothing in there panics.
            Some(Ok(done)) = roots.running.join_next() => roots.handle(done),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Roots {
    fn wait(&mut self, (place, multihash): Provided) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(place, multihash);
        }
    }

    /// Begins as much as may run; returns after which time to come again.
    fn begin(&mut self) -> Duration {
        let pause = self.paused_until.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            return pause;
        }
        while self.running.len() < RUNNING_MAX
            && let Some((place, multihash)) = self.take_any()
        {
            let announcer = self.announcer.clone();
            self.running.spawn(async move {
                let region = announcer.look_up(&place, &multihash).await;
                Done::LookedUp((place, multihash), region)
            });
        }
        PAUSE_MAX
    }

    /// Takes any of those that wait: two next to each other would be near the same servers.
    fn take_any(&mut self) -> Option<Provided> {
        let from = Key(rand::random());
        let place = self.waiting.range(from..).next().or_else(|| self.waiting.first_key_value())?.0;
        self.waiting.remove_entry(&{ *place })
    }

    fn take_within(&mut self, prefix: &Prefix) -> Vec<Provided> {
        self.waiting.extract_if(prefix.first()..=prefix.last(), |_, _| true).collect()
    }

    fn handle(&mut self, done: Done) {
        match done {
            Done::LookedUp(root, None) => {
                self.wait(root);
                self.pause();
            }
            Done::LookedUp(root, Some(region)) => {
                let mut cids = self.take_within(&region.prefix);
                cids.push(root);
                let announcer = self.announcer.clone();
                self.running.spawn(async move {
                    let untold = announcer.announce(&region, &cids).await;
                    Done::Told(untold.into_iter().filter_map(|index| cids.get(index).cloned()).collect())
                });
            }
            Done::Told(untold) if untold.is_empty() => self.pause = PAUSE_MIN,
            Done::Told(untold) => {
                for cid in untold {
                    self.wait(cid);
                }
                self.pause();
            }
        }
    }

    fn pause(&mut self) {
        self.paused_until = Instant::now() + self.pause;
        self.pause = (2 * self.pause).min(PAUSE_MAX);
    }
}
