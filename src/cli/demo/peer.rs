//! A peer of the demo: a node of its own with a store of its own, and nothing else of the service.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use cid::Cid;
use libp2p::Multiaddr;

use crate::model::Block;

/// A running peer.
#[derive(Debug)]
pub(super) struct Peer {
    multiaddrs: Vec<Multiaddr>,
}

/// Why a peer can't do its part.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// This build has no node.
    #[error("this build has no node for the demo's peers")]
    NoNode,
}

impl Peer {
    /// Starts a peer on a free TCP port of 127.0.0.1, in the lan profile, with its store in an empty directory.
    pub(super) async fn start(_directory: &Path) -> Result<Self, PeerError> {
        std::future::ready(Err(PeerError::NoNode)).await
    }

    /// The peer's addresses, each ending in `/p2p/` and its id.
    pub(super) fn multiaddrs(&self) -> &[Multiaddr] {
        &self.multiaddrs
    }

    /// Stores blocks, which the peer serves from then on.
    pub(super) async fn add_blocks(&self, _blocks: Vec<Block>) -> Result<(), PeerError> {
        std::future::ready(Err(PeerError::NoNode)).await
    }

    /// A block from the peer's own store; nobody is asked for it.
    pub(super) async fn block(&self, _cid: &Cid) -> Result<Option<Block>, PeerError> {
        std::future::ready(Err(PeerError::NoNode)).await
    }

    /// Fetches a whole DAG from one peer into the own store, and adds the bytes of each block that arrives to `bytes`.
    pub(super) async fn fetch(&self, _root: Cid, _from: Multiaddr, _bytes: Arc<AtomicU64>) -> Result<(), PeerError> {
        std::future::ready(Err(PeerError::NoNode)).await
    }

    /// Closes the connections and the store, and ends every task of the peer.
    pub(super) async fn stop(self) -> Result<(), PeerError> {
        std::future::ready(Ok(())).await
    }
}
