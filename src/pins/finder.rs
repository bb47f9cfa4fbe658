//! Looks for peers and gateways that have a DAG beyond those that its pins name: in the DHT, and by asking routers, side by side.
//!
//! A look-up costs the network dozens of messages, so whoever is asked for less goes first: origins and connected peers have
//! [`HEAD_START`], and as long as blocks come nobody else is looked for. After that look-ups are repeated at growing intervals until
//! the fetch ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc, watch};

use super::origins::Lead;
use crate::fetch::FetchProgress;
use crate::net::{GatewayAddress, NodeHandle, ProviderNews};
use crate::routing::{Asked, Found, Routers};

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

/// Look-ups in the DHT that run at the same time, for all fetches.
const LOOKUPS_MAX: usize = 16;

/// What a look-up says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A peer is said to have the DAG.
    Peer(Lead),
    /// A gateway is.
    Gateway(GatewayAddress),
    /// How the last look-up went, in a sentence.
    Asked(Arc<str>),
}

/// Who looks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Finder {
    node: NodeHandle,
    routers: Option<Routers>,
    lookups: Arc<Semaphore>,
}

impl Finder {
    /// Looks through the node.
    pub fn new(node: NodeHandle) -> Self {
        Self { node, routers: None, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// Asks these as well.
    #[must_use]
    pub fn with_routers(self, routers: Routers) -> Self {
        Self { routers: Some(routers), ..self }
    }

    /// Looks for providers of `root` whenever the fetch with this progress gets nowhere, until it is dropped.
    pub async fn run(
        self,
        root: Cid,
        mut progress: watch::Receiver<FetchProgress>,
        findings: mpsc::Sender<Finding>,
    ) -> Infallible {
        let names: Vec<Arc<str>> = self.routers.iter().flat_map(Routers::names).collect();
        if !self.node.has_dht() && names.is_empty() {
            return std::future::pending().await;
        }
        let (mut pause, mut unheard_pause) = (REPEAT_MIN, UNHEARD_MIN);
        loop {
            wait_until_quiet(&mut progress).await;
            let mut asks: FuturesUnordered<BoxFuture<'_, Asked>> = FuturesUnordered::new();
            if self.node.has_dht() {
                asks.push(self.ask_dht(root, &findings).boxed());
            }
            for (place, name) in names.iter().enumerate() {
                asks.push(self.ask_router(place, name, root, &findings).boxed());
            }
            let (mut is_heard, mut sentences) = (false, Vec::new());
            while let Some(asked) = asks.next().await {
                is_heard |= asked.is_heard;
                sentences.push(asked.sentence);
                // The runner stops only with the program.
                let _ = findings.send(Finding::Asked(sentences.join("; ").into())).await;
            }
            let pause = if is_heard { &mut pause } else { &mut unheard_pause };
            tokio::time::sleep(*pause).await;
            *pause = (2 * *pause).min(REPEAT_MAX);
        }
    }

    async fn ask_dht(&self, root: Cid, findings: &mpsc::Sender<Finding>) -> Asked {
        let unheard = |sentence: &str| Asked { is_heard: false, sentence: sentence.to_owned() };
        // Nobody closes it.
        let _turn = self.lookups.acquire().await;
        let Ok(mut news) = self.node.find_providers(root).await else { return unheard("the node has stopped") };
        let by: Arc<str> = "the DHT".into();
        let mut providers = 0_usize;
        while let Some(next) = news.recv().await {
            match next {
                // Records of ours that were told before.
                ProviderNews::Found(peer) if peer == self.node.peer_id() => {}
                ProviderNews::Found(peer) => {
                    providers += 1;
                    // The node dials it at the addresses that the DHT has.
                    let lead = Lead { peer, addresses: Vec::new(), by: Arc::clone(&by) };
                    let _ = findings.send(Finding::Peer(lead)).await;
                }
                ProviderNews::Ended { servers, timed_out } => {
                    return Asked { is_heard: servers > 0, sentence: sentence(providers, servers, timed_out) };
                }
            }
        }
        unheard("the DHT: too many look-ups are running; it is asked later")
    }

    async fn ask_router(&self, place: usize, name: &Arc<str>, root: Cid, findings: &mpsc::Sender<Finding>) -> Asked {
        let unasked = Asked { is_heard: false, sentence: String::new() };
        let Some(routers) = &self.routers else { return unasked };
        let (sender, mut found) = mpsc::channel(1);
        let asking = async move { routers.ask(place, &root, &sender).await };
        let telling = async {
            while let Some(found) = found.recv().await {
                let finding = match found {
                    Found::Peer(peer, addresses) => Finding::Peer(Lead { peer, addresses, by: Arc::clone(name) }),
                    Found::Gateway(gateway) => Finding::Gateway(gateway),
                };
                let _ = findings.send(finding).await;
            }
        };
        futures::join!(asking, telling).0
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
