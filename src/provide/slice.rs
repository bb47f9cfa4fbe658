//! Reads which CIDs are to be provided in a part of the keyspace: so much of it that they fit into a bounded piece of memory.
//!
//! Nothing is written down for this. The DAGs of whole pins are walked, which reads their nodes but no leaf, and CIDs outside the
//! part are passed over; so writing blocks costs nothing more, and a pin that goes takes its CIDs along.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;

use super::keyspace::{Key, Prefix};
use super::options::Strategy;
use super::region::Provided;
use crate::dag::entity_links;
use crate::denylist::Denylist;
use crate::model::PinId;
use crate::model::block::IDENTITY_HASH;
use crate::store::blocks::{BlockReader, BlocksError};
use crate::store::records::{Records, RecordsError};

/// CIDs that a slice should have. Each takes about 180 bytes with what telling servers of it needs, and there may be two slices at a time: one
/// that is told, and the next.
const CIDS_WANTED: u64 = 100_000;

/// CIDs that a slice may have: those beyond, should hashes or the guess be that uneven, wait for the next one.
const CIDS_MAX: usize = 400_000;

/// Pins whose roots are read at a time.
const ROOTS_PINS: usize = 1000;

/// Why CIDs can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SliceError {
    /// The blocks failed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The records failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Where CIDs are read from. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) reader: BlockReader,
    pub(super) records: Arc<Records>,
    pub(super) denylist: Denylist,
    pub(super) strategy: Strategy,
}

/// The CIDs of a part of the keyspace, in the order of their places.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) prefix: Prefix,
    cids: Vec<Provided>,
    pub(super) read_at: Instant,
    pub(super) took: Duration,
}

impl Source {
    /// How many bits all places of a slice should have in common.
    pub(super) fn slice_bits(&self) -> Result<u32, SliceError> {
        let count = match self.strategy {
            Strategy::All => self.reader.stats()?.blocks,
            // At most; entities are mostly far fewer than blocks.
            Strategy::Entities => self.reader.stats()?.blocks / 4,
            Strategy::Roots => self.records.count_pins()?.pinned,
            Strategy::Off => 0,
        };
        Ok(count.div_ceil(CIDS_WANTED).next_power_of_two().trailing_zeros())
    }

    /// Reads the slice; not for the event loop.
    pub(super) fn read(&self, prefix: Prefix) -> Result<Slice, SliceError> {
        let began_at = Instant::now();
        let mut cids: Vec<Provided> = Vec::new();
        let mut show = |cid: &Cid| {
            if cid.hash().code() == IDENTITY_HASH {
                return;
            }
            let multihash = cid.hash().to_bytes();
            let place = Key::of(&multihash);
            if prefix.contains(&place) && cids.len() < CIDS_MAX && !self.denylist.denies(cid) {
                cids.push((place, multihash.into()));
                // The leaf of many nodes is shown with each.
                if cids.len() == CIDS_MAX {
                    sort(&mut cids);
                }
            }
        };
        let mut walk = self.reader.held_walk(match self.strategy {
            Strategy::All => all_links,
            _ => entity_links,
        });
        let mut after: Option<PinId> = None;
        loop {
            let (roots, last) = self.records.whole_roots(after, ROOTS_PINS)?;
            if last.is_none() {
                break;
            }
            after = last;
            for root in &roots {
                if self.strategy == Strategy::Roots { show(root) } else { walk.add_root(root) }
            }
            while walk.step(&mut show)? {}
        }
        sort(&mut cids);
        cids.shrink_to_fit();
        Ok(Slice { prefix, cids, read_at: Instant::now(), took: began_at.elapsed() })
    }
}

fn sort(cids: &mut Vec<Provided>) {
    cids.sort_unstable();
    cids.dedup();
}

fn all_links(cid: &Cid, data: &Bytes) -> Vec<Cid> {
    // A node that can't be read has no links that anyone could follow.
    crate::dag::links::links(cid, data).unwrap_or_default()
}

impl Slice {
    /// The CIDs within a prefix.
    pub(super) fn within(&self, prefix: &Prefix) -> &[Provided] {
        let from = self.cids.partition_point(|(place, _)| *place < prefix.first());
        let to = self.cids.partition_point(|(place, _)| *place <= prefix.last());
        self.cids.get(from..to).unwrap_or_default()
    }

    /// How many CIDs all of the keyspace has, by what is here.
    pub(super) fn total(&self) -> u64 {
        (self.cids.len() as u64) << self.prefix.bits().min(16)
    }
}
