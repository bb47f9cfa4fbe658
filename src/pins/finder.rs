//! Looks for peers that have a DAG beyond those that its pins name.
//!
//! A look-up costs the network dozens of messages, so whoever is asked for less goes first: origins and connected peers have
//! [`HEAD_START`], and as long as blocks come nobody else is looked for. After that look-ups are repeated at growing intervals until
//! the fetch ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::fetch::FetchProgress;
use crate::net::{NodeHandle, PeerId, ProviderNews};

/// What origins and connected peers have before anyone else is asked.
const HEAD_START: Duration = Duration::from_millis(500);

/// How long no block has to have come until further peers are looked for.
const QUIET: Duration = Duration::from_secs(10);

/// The pause after a look-up that servers answered; it doubles.
const REPEAT_MIN: Duration = Duration::from_secs(15);

/// The pause after one that none answered, as at the start, before any server is known; it doubles.
const UNHEARD_MIN: Duration = Duration::from_secs(1);

/// The longest pause after a look-up.
const REPEAT_MAX: Duration = Duration::from_mins(10);

/// Look-ups that run at the same time, for all fetches.
const LOOKUPS_MAX: usize = 16;

/// What a look-up says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// This peer is said to have the DAG. It is connected or being dialled.
    Provider(PeerId),
    /// How the last look-up went, in a sentence.
    Asked(Arc<str>),
}

/// Who looks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Finder {
    node: NodeHandle,
    lookups: Arc<Semaphore>,
}

impl Finder {
    /// Looks through the node.
    pub fn new(node: NodeHandle) -> Self {
        Self { node, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// Looks for providers of `root` whenever the fetch with this progress gets nowhere, until it is dropped.
    pub async fn run(
        self,
        root: Cid,
        mut progress: watch::Receiver<FetchProgress>,
        findings: mpsc::Sender<Finding>,
    ) -> Infallible {
        if !self.node.has_dht() {
            return std::future::pending().await;
        }
        let (mut pause, mut unheard_pause) = (REPEAT_MIN, UNHEARD_MIN);
        loop {
            wait_until_quiet(&mut progress).await;
            let Ok(turn) = self.lookups.acquire().await else { return std::future::pending().await };
            let (asked, is_heard) = self.ask_dht(root, &findings).await;
            drop(turn);
            // The runner stops only with the program.
            let _ = findings.send(Finding::Asked(asked.into())).await;
            let pause = if is_heard { &mut pause } else { &mut unheard_pause };
            tokio::time::sleep(*pause).await;
            *pause = (2 * *pause).min(REPEAT_MAX);
        }
    }

    /// Says how it went, and whether any server answered.
    async fn ask_dht(&self, root: Cid, findings: &mpsc::Sender<Finding>) -> (String, bool) {
        let Ok(mut news) = self.node.find_providers(root).await else {
            return ("the node has stopped".to_owned(), false);
        };
        let mut providers = 0_usize;
        while let Some(next) = news.recv().await {
            match next {
                // Records of ours that were told before.
                ProviderNews::Found(peer) if peer == self.node.peer_id() => {}
                ProviderNews::Found(peer) => {
                    providers += 1;
                    let _ = findings.send(Finding::Provider(peer)).await;
                }
                ProviderNews::Ended { servers, timed_out } => {
                    return (sentence(providers, servers, timed_out), servers > 0);
                }
            }
        }
        ("the DHT: too many look-ups are running; it is asked later".to_owned(), false)
    }
}

fn sentence(providers: usize, servers: u32, timed_out: bool) -> String {
    match (providers, servers) {
        (0, 0) => "the DHT: no server of it answers; is this machine online, and network.bootstrap right?".to_owned(),
        (0, _) if timed_out => {
            format!("the DHT: {servers} servers answered in time, and none of them knows who has it")
        }
        (0, _) => format!("the DHT: {servers} servers answered, and none of them knows who has it"),
        (1, _) => "the DHT names one peer that has it".to_owned(),
        (_, _) => format!("the DHT names {providers} peers that have it"),
    }
}

/// Waits until neither the beginning of the fetch nor its last block is recent.
async fn wait_until_quiet(progress: &mut watch::Receiver<FetchProgress>) {
    loop {
        let quiet_at = {
            let progress = progress.borrow_and_update();
            progress.last_block_at.map_or(progress.began_at + HEAD_START, |last| last + QUIET)
        };
        let Some(wait) = quiet_at.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) else { return };
        tokio::time::sleep(wait).await;
    }
}
