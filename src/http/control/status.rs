//! `/v1/status`: what the running process is and how it is doing.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ControlState;
use super::reachability::ReachabilityState;
use crate::http::error::ApiError;
use crate::net::Multiaddr;
use crate::net::profile::Profile;
use crate::provide::ProvideStatus;
use crate::store::verify::VerifyState;

/// What the running process is and how it is doing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ProcessStatus)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// When it was started, as in RFC 3339.
    pub started: String,
    /// The data directory.
    pub data: String,
    /// The PSA endpoint.
    pub endpoint: String,
    /// The peer's id.
    pub peer_id: String,
    /// `public` or `lan`.
    pub profile: String,
    /// Where peers and clients reach it.
    pub addresses: Addresses,
    /// Whether others reach it; absent in the lan profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reachability: Option<ReachabilityState>,
    /// Connected peers.
    pub peers: u64,
    /// Established connections.
    pub connections: u64,
    /// Peers that are to be kept connected; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub peering: Option<PeeringState>,
    /// Our part in the DHT; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub dht: Option<DhtState>,
    /// What the DHT is told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub provide: Option<ProvideStatus>,
    /// Pins of all accounts.
    pub pins: PinNumbers,
    /// What is stored.
    pub store: StoreSizes,
    /// Whether what is stored is what it should be.
    #[serde(default)]
    pub verification: Verification,
    /// What the operator doesn't want here; absent without a file of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub denylist: Option<DenylistState>,
    /// What the operator should mend: sentences.
    pub warnings: Vec<String>,
}

/// How the node stands among its peers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeState {
    /// The peer's id.
    pub peer_id: String,
    /// `public` or `lan`.
    pub profile: String,
    /// Where peers and clients reach it.
    pub addresses: Addresses,
    /// Whether others reach it; absent in the lan profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reachability: Option<ReachabilityState>,
    /// Connected peers.
    pub peers: u64,
    /// Established connections.
    pub connections: u64,
    /// Peers that are to be kept connected; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub peering: Option<PeeringState>,
    /// Our part in the DHT; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub dht: Option<DhtState>,
    /// What the operator should mend about it: sentences.
    pub warnings: Vec<String>,
}

/// Where peers and clients reach the node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Addresses {
    /// The addresses that clients get as `delegates`.
    pub announced: Vec<String>,
    /// Whether none of those is known to be reachable from other machines.
    pub last_resort: bool,
    /// The addresses that it listens on.
    pub listening: Vec<String>,
}

/// The peers that are to be kept connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeeringState {
    /// Those that are.
    pub connected: u64,
    /// All of them.
    pub peers: u64,
}

/// Our part in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DhtState {
    /// Whether others ask us, too.
    pub server: bool,
    /// Servers that we know.
    pub servers: u64,
    /// Providers' records that others left here.
    pub records: u64,
}

/// How many pins are in each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinNumbers {
    /// Wait for their turn or for their next try.
    pub queued: u64,
    /// Are being fetched.
    pub pinning: u64,
    /// Are whole.
    pub pinned: u64,
    /// Won't become whole by waiting.
    pub failed: u64,
}

/// What is stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StoreSizes {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of them, and of removed ones whose space isn't given back yet.
    #[serde(default)]
    pub segment_bytes: u64,
    /// Parts of DAGs that are known to be whole, so that a pin with one of them needn't look at each of its blocks.
    #[serde(default)]
    pub whole_sub_dags: u64,
    /// Bytes that the file of the blocks takes on the disk.
    pub blocks_bytes_on_disk: u64,
    /// Bytes that the file of the records takes on the disk.
    pub records_bytes_on_disk: u64,
}

/// Whether what is stored is what it should be.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// When every block had been verified last, as in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub finished: Option<String>,
    /// Whether a verification runs.
    pub running: bool,
    /// Damaged blocks that have not been replaced yet.
    pub damaged_blocks: u64,
}

/// What the operator doesn't want here.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DenylistState {
    /// The rules of all files.
    pub rules: u64,
    /// When they were read last, as in RFC 3339.
    pub read: String,
}

const LAST_RESORT: &str = "no address of this node is known to be reachable from other machines, so clients get the listen \
addresses as they are; if others should reach it, start it with --external MULTIADDR, or set the key network.external";

const BEHIND: &str = "the DHT is told of our blocks more slowly than it forgets them, so some may not be found: `pinnace provide status` says \
how far it is. provide.strategy = \"entities\" has far less to tell; see also whether the network is slow";

const NO_SERVERS: &str = "no server of the DHT is known, so nothing is found by its CID alone: is this machine online, and network.bootstrap right? \
Without the DHT on purpose, set network.dht = \"off\"";

const MEMORY_EXCEEDED: &str = "this process takes more memory than network.memory_max, so peers that come by themselves are refused: set it higher, \
or caches, denylists and network.connections_max lower";

/// `GET /v1/status`
pub(in crate::http) async fn get(State(state): State<ControlState>) -> Result<Json<Status>, ApiError> {
    Ok(Json(read(&state).await?))
}

/// Asks the node alone.
pub(in crate::http) async fn node(state: &ControlState) -> Result<NodeState, ApiError> {
    let node = state.node.status().await.map_err(|_| ApiError::stopping())?;
    let (announced, last_resort) = state.node.delegates();
    let reachability = node.reachability.map(ReachabilityState::from);
    let mut warnings = Vec::new();
    if node.dht.is_some_and(|dht| dht.servers == 0) {
        warnings.push(NO_SERVERS.to_owned());
    }
    match &reachability {
        Some(reachability) => warnings.extend(reachability.warnings()),
        None if last_resort => warnings.push(LAST_RESORT.to_owned()),
        None => {}
    }
    if node.is_memory_exceeded {
        warnings.push(MEMORY_EXCEEDED.to_owned());
    }
    let texts = |addresses: Vec<Multiaddr>| addresses.iter().map(Multiaddr::to_string).collect();
    Ok(NodeState {
        peer_id: state.node.peer_id().to_string(),
        profile: match state.node.profile() {
            Profile::Public => "public".to_owned(),
            Profile::Lan { .. } => "lan".to_owned(),
        },
        addresses: Addresses { announced: texts(announced), last_resort, listening: texts(state.node.listening()) },
        reachability,
        peers: node.peers as u64,
        connections: u64::from(node.connections),
        peering: (node.peering.1 > 0)
            .then_some(PeeringState { connected: node.peering.0 as u64, peers: node.peering.1 as u64 }),
        dht: node.dht.map(|dht| DhtState {
            server: dht.is_server,
            servers: dht.servers as u64,
            records: dht.records as u64,
        }),
        warnings,
    })
}

/// Asks all parts. It reads a few bytes of both stores, whatever their size.
pub(in crate::http) async fn read(state: &ControlState) -> Result<Status, ApiError> {
    let NodeState {
        peer_id,
        profile,
        addresses,
        reachability,
        peers,
        connections,
        peering,
        dht,
        warnings: node_warnings,
    } = node(state).await?;
    let counts = state.pins.counts().await?;
    let (blocks, process) = (state.blocks.clone(), state.process.clone());
    let store = tokio::task::spawn_blocking(move || {
        let held = blocks.stats();
        let (blocks_file, records_file) = (bytes_on_disk(&process.blocks_file), bytes_on_disk(&process.records_file));
        held.and_then(|held| {
            let whole_sub_dags = blocks.sub_dag_lists()?;
            let sizes = StoreSizes {
                blocks: held.blocks,
                segment_bytes: held.segment_bytes,
                whole_sub_dags,
                blocks_bytes_on_disk: blocks_file,
                records_bytes_on_disk: records_file,
            };
            Ok((sizes, blocks.scrub_record()?))
        })
    });
    let (store, scrubbed) = store.await.map_err(|_| ApiError::stopping())?.map_err(|error| {
        tracing::error!(%error, "the blocks can't be counted");
        ApiError::internal()
    })?;
    let verification = Verification {
        finished: scrubbed.finished.map(|finished| format!("{finished:.3}")),
        running: matches!(state.verifier.state(), Some(VerifyState::Running(..))),
        damaged_blocks: scrubbed.quarantined_blocks,
    };
    let provide = state.provider.status();
    let mut warnings = Vec::new();
    if provide.behind {
        warnings.push(BEHIND.to_owned());
    }
    warnings.extend(node_warnings);
    warnings.extend(state.front.warnings());
    warnings.extend(state.denylist.warning());
    warnings.extend(state.blocks.shortage().map(|shortage| shortage.to_string()));
    warnings.extend(damage_warning(scrubbed.quarantined_blocks));
    let text = |path: &PathBuf| path.display().to_string();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: format!("{:.3}", state.process.started),
        data: text(&state.process.data),
        endpoint: state.process.endpoint.clone(),
        peer_id,
        profile,
        addresses,
        reachability,
        peers,
        connections,
        peering,
        dht,
        provide: Some(provide),
        pins: PinNumbers {
            queued: counts.queued,
            pinning: counts.pinning,
            pinned: counts.pinned,
            failed: counts.failed,
        },
        store,
        verification,
        denylist: state.denylist.state().map(|(rules, read)| DenylistState { rules, read: format!("{read:.3}") }),
        warnings,
    })
}

/// What to do about damaged blocks, if there are any.
fn damage_warning(blocks: u64) -> Option<String> {
    (blocks > 0).then(|| {
        format!(
            "{blocks} damaged {} not been replaced yet; `pinnace verify --repair` names the pins that need them and has them fetched again, and `pinnace gc` forgets those that no pin needs. Have a look at the disk and the memory of this machine",
            if blocks == 1 { "block has" } else { "blocks have" }
        )
    })
}

/// The bytes that a file takes on the disk: the stores' files have holes. Zero for one that can't be looked at.
fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    #[cfg(unix)]
    // The unit is 512 bytes, whatever the file system's blocks are (POSIX, sys/stat.h as Linux and the BSDs have it).
    return std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    #[cfg(not(unix))]
    return metadata.len();
}
