//! A block store in memory that takes its time: what is put counts when its commit is done, and only then survives.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use pinnace::bitswap::serve::{ReadJob, ReadResult};
use pinnace::bitswap::wants::SessionId;
use pinnace::bitswap::wire::WantKind;
use pinnace::fetch::core::{Batch, Held};
use pinnace::model::Block;
use pinnace::model::cids::codec;
use pinnace::model::limits::ANSWER_BYTES_TARGET;

use crate::dags::Key;
use crate::scenario::Speed;

/// Bytes of nodes that one look-up reads: few, so that the rest often has to wait.
const LOOKUP_BYTES_MAX: usize = 64 * 1024;

/// A block up to this size, in bytes, is sent to who asks whether it is there.
const HAVE_REPLACE_BYTES_MAX: usize = 1024;

/// Blocks that wait for a commit.
#[derive(Debug)]
pub struct Put {
    /// For which fetch.
    pub session: SessionId,
    /// Which blocks.
    pub batch: Batch,
}

/// The store.
#[derive(Debug, Default)]
pub struct Store {
    /// What is durable.
    pub held: BTreeMap<Key, Bytes>,
    queue: Vec<Put>,
    committing: bool,
}

impl Store {
    /// A store that begins with what an earlier one had made durable.
    pub fn new(held: BTreeMap<Key, Bytes>) -> Self {
        Self { held, ..Self::default() }
    }

    /// Queues blocks.
    pub fn put(&mut self, put: Put) {
        self.queue.push(put);
    }

    /// The next commit, and how long it takes; [`Store::commit`] must follow.
    pub fn poll_commit(&mut self, speed: &Speed) -> Option<(Duration, Vec<Put>)> {
        if self.committing || self.queue.is_empty() {
            return None;
        }
        self.committing = true;
        let puts = std::mem::take(&mut self.queue);
        let bytes: u64 = puts.iter().map(|put| put.batch.bytes).sum();
        Some((speed.commit + Duration::from_micros(bytes * 1_000_000 / speed.disk), puts))
    }

    /// A commit is done. Each block is hashed once more: what isn't what its CID says must never get here.
    pub fn commit(&mut self, puts: &[Put]) {
        self.committing = false;
        for block in puts.iter().flat_map(|put| &put.batch.blocks) {
            let proven = Block::verify(*block.cid(), block.data().clone());
            assert!(proven.is_ok(), "a block that doesn't match its CID is stored: {}", block.cid());
            self.held.insert(*block.cid().hash(), block.data().clone());
        }
    }

    /// What is held of these CIDs.
    pub fn look_up(&self, cids: Vec<Cid>) -> Vec<(Cid, Held)> {
        let mut bytes = 0;
        let look = |cid: Cid| {
            let held = match self.held.get(cid.hash()) {
                None => Held::No,
                Some(data) if codec::is_leaf(cid.codec()) => Held::Leaf(u32::try_from(data.len()).unwrap()),
                Some(data) => {
                    let first = bytes == 0;
                    bytes += data.len().max(1);
                    if first || bytes <= LOOKUP_BYTES_MAX { Held::Node(data.clone()) } else { Held::Later }
                }
            };
            (cid, held)
        };
        cids.into_iter().map(look).collect()
    }

    /// Carries out a job of the server, as `net` does.
    pub fn read(&self, job: &ReadJob) -> ReadResult {
        let (mut result, mut bytes) = (ReadResult::default(), 0);
        for (cid, kind) in &job.wants {
            match (self.held.get(cid.hash()), kind) {
                (None, _) => result.missing.push(*cid),
                (Some(data), WantKind::Have) if data.len() > HAVE_REPLACE_BYTES_MAX || !job.with_blocks => {
                    result.present.push(*cid);
                }
                (Some(data), _) if result.blocks.is_empty() || bytes + data.len() <= ANSWER_BYTES_TARGET => {
                    bytes += data.len();
                    result.blocks.push((*cid, data.clone()));
                }
                (Some(_), _) => {}
            }
        }
        result
    }
}
