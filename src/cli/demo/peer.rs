//! A peer of the demo: a node of its own with a store of its own, and nothing else of the service.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cid::Cid;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::dag::walk::WalkLimits;
use crate::fetch::{FetchError, FetchLimits, FetchProgress, Fetcher, Sources};
use crate::model::{Block, BlockError};
use crate::net::address;
use crate::net::options::{DhtChoice, ProfileChoice};
use crate::net::profile::origin_peer;
use crate::net::{Keypair, Multiaddr, Node, NodeError, NodeGone, NodeHandle, Options};
use crate::retrieval::Gateways;
use crate::store::blocks::{BlockStore, BlocksError};

/// Memory for cached pages of a peer's store, in bytes.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of blocks that may wait for their commit.
const WRITE_BUFFER_BYTES: usize = 32 * 1024 * 1024;

/// Bytes that a fetch keeps in memory.
const IN_FLIGHT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bounds of the demo's own DAG, with room: 256 GiB in chunks of 256 KiB.
const LIMITS: FetchLimits = FetchLimits { dag: WalkLimits::NONE, stall_timeout: Duration::from_secs(60) };

/// A running peer.
#[derive(Debug)]
pub(super) struct Peer {
    store: BlockStore,
    node: NodeHandle,
    task: JoinHandle<()>,
    multiaddrs: Vec<Multiaddr>,
}

/// Why a peer can't do its part.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its directory can't be made.
    #[error("its directory can't be made: {0}")]
    Directory(#[source] std::io::Error),
    /// Its store failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// Its node can't start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its node has stopped.
    #[error(transparent)]
    Gone(#[from] NodeGone),
    /// It couldn't fetch the DAG.
    #[error("the DAG could not be fetched: {0}")]
    Fetch(#[from] FetchError),
    /// The address to fetch from names no peer.
    #[error("{0} names no peer")]
    NoPeer(Multiaddr),
    /// A block in the store doesn't match its CID.
    #[error("a stored block is damaged: {0}")]
    Damaged(#[from] BlockError),
    /// A blocking task was cancelled.
    #[error("a task of the peer ended early: {0}")]
    Task(#[from] JoinError),
}

impl Peer {
    /// Starts a peer on a free TCP port of 127.0.0.1, in the lan profile, with its store in an empty directory.
    pub(super) async fn start(directory: &Path) -> Result<Self, PeerError> {
        tokio::fs::create_dir_all(directory).await.map_err(PeerError::Directory)?;
        let path = directory.join("blocks.redb");
        let open = move || BlockStore::open(&path, CACHE_BYTES, WRITE_BUFFER_BYTES);
        let store = tokio::task::spawn_blocking(open).await??;
        let options = Options {
            listen: vec![address::loopback_tcp()],
            external: Vec::new(),
            profile: ProfileChoice::Lan,
            dht: DhtChoice::Off,
            bootstrap: Vec::new(),
            peering: Vec::new(),
            upnp: false,
            relays: false,
            upload_max: bytesize::ByteSize(0),
            download_max: bytesize::ByteSize(0),
            memory_max: bytesize::ByteSize(0),
            connections_max: 64,
            quiet_connections_max: 64,
        };
        let node = Node::start(Keypair::generate_ed25519(), &options, store.reader()).await?;
        let (multiaddrs, _) = node.handle.delegates();
        Ok(Self { store, node: node.handle, task: node.task, multiaddrs })
    }

    /// The peer's addresses, each ending in `/p2p/` and its id.
    pub(super) fn multiaddrs(&self) -> &[Multiaddr] {
        &self.multiaddrs
    }

    /// Stores blocks, which the peer serves from then on.
    pub(super) async fn add_blocks(&self, blocks: Vec<Block>) -> Result<(), PeerError> {
        let cids = blocks.iter().map(|block| *block.cid()).collect();
        self.store.writer().put(blocks).await?;
        Ok(self.node.stored(cids).await?)
    }

    /// A block from the peer's own store; nobody is asked for it.
    pub(super) async fn block(&self, cid: &Cid) -> Result<Option<Block>, PeerError> {
        let (reader, cid) = (self.store.reader(), *cid);
        let data = tokio::task::spawn_blocking(move || reader.get(&cid)).await??;
        Ok(data.map(|data| Block::verify(cid, data)).transpose()?)
    }

    /// Fetches a whole DAG from one peer into the own store, and adds the bytes of each block that arrives to `bytes`.
    pub(super) async fn fetch(&self, root: Cid, from: Multiaddr, bytes: Arc<AtomicU64>) -> Result<(), PeerError> {
        let source = origin_peer(&from.to_string()).ok_or_else(|| PeerError::NoPeer(from.clone()))?;
        self.node.dial(source, vec![from]).await?;
        let gateways = Gateways::new(self.node.profile().clone(), true);
        let (reader, writer) = (self.store.reader(), self.store.writer());
        let fetcher = Fetcher::new(reader, writer, self.node.clone(), gateways, IN_FLIGHT_BYTES_MAX);
        let (sender, mut progress) = watch::channel(FetchProgress::new(std::time::Instant::now()));
        let sources = Sources { peers: vec![source], gateways: Vec::new() };
        let fetching = fetcher.fetch(root, sources.only(), LIMITS, &sender);
        tokio::pin!(fetching);
        loop {
            tokio::select! {
                result = &mut fetching => {
                    bytes.store(result?.bytes, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(()) = progress.changed() => {
                    bytes.store(progress.borrow_and_update().bytes_fetched, Ordering::Relaxed);
                }
            }
        }
    }

    /// Closes the connections and the store, and ends every task of the peer.
    pub(super) async fn stop(self) -> Result<(), PeerError> {
        self.node.stop().await;
        self.task.await?;
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close()).await?;
        Ok(())
    }
}
