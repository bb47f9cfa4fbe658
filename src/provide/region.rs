//! Tells the servers of a region of the DHT which CIDs in it we have.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::counters::Counters;
use super::explore::{self, Region};
use super::keyspace::Key;
use super::regions::{REPLICATION, allocate};
use crate::net::{NodeHandle, Server};

/// CIDs that are told on one stream, so that those on their way take little memory. In a network of 10,000 servers, and with ten million
/// CIDs, a server is told of no more at a time.
const STREAM_CIDS_MAX: usize = 20_000;

/// A CID to provide: its place, and its multihash, which is what servers are told.
pub(super) type Provided = (Key, Box<[u8]>);

/// Who tells the servers.
#[derive(Debug, Clone)]
pub(super) struct Announcer {
    node: NodeHandle,
    /// Bounds the streams that are open at the same time.
    streams: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Announcer {
    pub(super) fn new(node: NodeHandle, streams_max: usize, counters: Arc<Counters>) -> Self {
        Self { node, streams: Arc::new(Semaphore::new(streams_max)), counters }
    }

    /// Looks up the servers around the place of a multihash; `None` if none answers.
    pub(super) async fn look_up(&self, place: &Key, multihash: &[u8]) -> Option<Region<Server>> {
        Region::of(place, self.find(multihash.to_vec()).await)
    }

    /// The same, for a whole region; see [`explore::explore`].
    pub(super) async fn explore(&self, place: &Key, multihash: &[u8]) -> Option<Region<Server>> {
        let find = |_, bytes| {
            let announcer = self.clone();
            async move { announcer.find(bytes).await }
        };
        explore::explore(place, multihash, find).await
    }

    async fn find(&self, bytes: Vec<u8>) -> BTreeMap<Key, Server> {
        self.counters.lookups.add(1);
        // A node that has stopped finds nobody; the program ends.
        let servers = self.node.find_servers(bytes).await.unwrap_or_default();
        servers.into_iter().map(|server| (Key::of(&server.peer.to_bytes()), server)).collect()
    }

    /// Tells the servers of a region of CIDs in it, each of those closest to it. Returns the places in the list of those that none
    /// was told of.
    pub(super) async fn announce(&self, region: &Region<Server>, cids: &[Provided]) -> Vec<usize> {
        let places = region.places();
        let allocated = allocate(cids.iter().map(|(key, _)| key), &places, REPLICATION);
        let mut telling: FuturesUnordered<_> = region
            .servers
            .values()
            .zip(allocated)
            .filter(|(_, cids)| !cids.is_empty())
            .map(|(server, own)| self.tell(server.clone(), cids, own))
            .collect();
        let mut is_provided = vec![false; cids.len()];
        while let Some(told) = telling.next().await {
            for index in told {
                if let Some(provided) = is_provided.get_mut(index) {
                    *provided = true;
                }
            }
        }
        is_provided.iter().enumerate().filter(|(_, provided)| !**provided).map(|(index, _)| index).collect()
    }

    /// Tells one server; returns which CIDs it was told of.
    async fn tell(&self, server: Server, cids: &[Provided], mut own: Vec<usize>) -> Vec<usize> {
        let Ok(_stream) = self.streams.acquire().await else { return Vec::new() };
        let mut told = 0;
        for next in own.chunks(STREAM_CIDS_MAX) {
            let multihashes: Arc<[Vec<u8>]> =
                next.iter().filter_map(|index| cids.get(*index)).map(|(_, multihash)| multihash.to_vec()).collect();
            match self.node.announce(server.clone(), multihashes).await {
                Ok(bytes) => {
                    self.counters.streams.add(1);
                    self.counters.records.add(next.len() as u64);
                    self.counters.bytes.add(bytes);
                    told += next.len();
                }
                Err(error) => {
                    tracing::debug!(peer = %server.peer, %error, "a server wasn't told what is provided");
                    self.counters.failures.add(1);
                    break;
                }
            }
        }
        own.truncate(told);
        own
    }
}
