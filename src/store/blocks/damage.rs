//! Which DAGs have damaged blocks.
//!
//! A walk in depth ends at the first damaged block. What was walked to its end is known to be whole from then on, and
//! what is on the way to a damaged block to be not, so that any number of DAGs that share blocks cost one look at each node.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use redb::{ReadOnlyTable, ReadTransaction};
use roaring::RoaringTreemap;

use super::file::{BlockFile, INDEX, Newest, QUARANTINE, Quarantine, SEGMENTS};
use super::gc::distinct;
use super::pack::{self, Place, PlaceBytes};
use super::scrub::{BlockVerifier, Scrub};
use super::{BlocksError, Links};
use crate::model::block::IDENTITY_HASH;
use crate::model::cids::codec;

/// Blocks that are looked up in one transaction.
const STEP_BLOCKS: usize = if cfg!(test) { 8 } else { 1024 };

/// Tells which DAGs have damaged blocks, after a scrub.
#[derive(Debug)]
pub struct DamageFinder {
    file: Arc<BlockFile>,
    links: Links,
    /// Damaged blocks that aren't in quarantine.
    damaged: HashSet<Box<[u8]>>,
    /// For DAGs of which every block has to be there, and for others.
    known: [Known; 2],
}

/// What is known of nodes, by codec and [`Place::number`]. Another place for the same node only means to walk it again.
#[derive(Debug, Default)]
struct Known {
    whole: HashMap<u64, RoaringTreemap>,
    /// Nodes with damage at or below them, and those that are being walked.
    others: HashMap<u64, RoaringTreemap>,
}

/// A node on the way from the root.
struct Step {
    /// `None` for one that is within its CID.
    node: Option<(u64, u64)>,
    /// Children that weren't visited yet.
    children: Vec<Cid>,
}

/// What a visited block means for the walk.
enum Visit {
    /// It is whole, and so is what is below it.
    Whole,
    /// There is damage at or below it.
    Damaged,
    /// Its children have to be visited.
    Enter(Step),
}

/// The tables that a walk reads.
struct Tables {
    index: ReadOnlyTable<&'static [u8], &'static PlaceBytes>,
    segments: ReadOnlyTable<u64, &'static [u8]>,
    quarantine: Quarantine,
}

impl Tables {
    fn open(transaction: &ReadTransaction) -> Result<Self, BlocksError> {
        Ok(Self {
            index: transaction.open_table(INDEX)?,
            segments: transaction.open_table(SEGMENTS)?,
            quarantine: transaction.open_table(QUARANTINE)?,
        })
    }
}

impl BlockVerifier {
    /// Begins to tell which DAGs have blocks that this pass found damaged, or that are in quarantine.
    pub fn damage(&self, scrub: &Scrub) -> DamageFinder {
        DamageFinder { damaged: scrub.unrepaired().map(Into::into).collect(), ..self.finder() }
    }

    /// The same without a pass: of blocks that aren't there, or are in quarantine.
    pub fn finder(&self) -> DamageFinder {
        DamageFinder {
            file: Arc::clone(&self.file),
            links: self.links,
            damaged: HashSet::new(),
            known: Default::default(),
        }
    }
}

impl DamageFinder {
    /// Whether the DAG below `root` has a damaged block. One that isn't there at all counts if `is_pinned`, since then
    /// all of them have to be there. `None` when `go_on` said no.
    pub fn is_damaged(
        &mut self,
        root: &Cid,
        is_pinned: bool,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<bool>, BlocksError> {
        let mut way = vec![Step { node: None, children: vec![*root] }];
        let file = Arc::clone(&self.file);
        while !way.is_empty() {
            if !go_on() {
                // What is on the way isn't known to be damaged.
                self.known = Default::default();
                return Ok(None);
            }
            let is_damaged = file.with_newest(|newest| {
                let tables = Tables::open(&newest.begin_read()?)?;
                for _ in 0..STEP_BLOCKS {
                    let Some(last) = way.last_mut() else { break };
                    let Some(child) = last.children.pop() else {
                        if let Some((codec, number)) = way.pop().and_then(|step| step.node) {
                            let known = &mut self.known[usize::from(is_pinned)];
                            known.others.entry(codec).or_default().remove(number);
                            known.whole.entry(codec).or_default().insert(number);
                        }
                        continue;
                    };
                    match self.visit(newest, &tables, &child, is_pinned)? {
                        Visit::Whole => {}
                        Visit::Damaged => return Ok(true),
                        Visit::Enter(step) => way.push(step),
                    }
                }
                Ok(false)
            })?;
            if is_damaged {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    fn visit(
        &mut self,
        newest: &Newest<'_>,
        tables: &Tables,
        cid: &Cid,
        is_pinned: bool,
    ) -> Result<Visit, BlocksError> {
        if cid.hash().code() == IDENTITY_HASH {
            let children = (self.links)(cid, &Bytes::copy_from_slice(cid.hash().digest()));
            return Ok(Visit::Enter(Step { node: None, children }));
        }
        let Some(key) = pack::key(cid) else { return Ok(Visit::Whole) };
        let indexed = tables.index.get(&*key)?.map(|place| (Place::from_bytes(place.value()), None));
        let found = match indexed {
            Some(found) => Some(found),
            None => find_newest(newest, &key)?,
        };
        let Some((place, data)) = found else {
            let is_quarantined = tables.quarantine.get(&*key)?.is_some();
            return Ok(if is_quarantined || is_pinned { Visit::Damaged } else { Visit::Whole });
        };
        if self.damaged.contains(&*key) {
            return Ok(Visit::Damaged);
        }
        if place.length == 0 || codec::is_leaf(cid.codec()) {
            return Ok(Visit::Whole);
        }
        let known = &mut self.known[usize::from(is_pinned)];
        if known.whole.get(&cid.codec()).is_some_and(|whole| whole.contains(place.number())) {
            return Ok(Visit::Whole);
        }
        // One that is being walked can only come again where damage made a circle.
        if !known.others.entry(cid.codec()).or_default().insert(place.number()) {
            return Ok(Visit::Damaged);
        }
        match data.map_or_else(|| pack::read(&tables.segments, place), Ok) {
            Ok(data) => {
                let children = distinct((self.links)(cid, &data));
                Ok(Visit::Enter(Step { node: Some((cid.codec(), place.number())), children }))
            }
            Err(BlocksError::Damaged { .. }) => Ok(Visit::Damaged),
            Err(error) => Err(error),
        }
    }
}

/// A block whose entry stands in front of the index, or came since the walk's transaction began.
fn find_newest(newest: &Newest<'_>, key: &[u8]) -> Result<Option<(Place, Option<Bytes>)>, BlocksError> {
    newest.read_places(&[Some(key)], |transaction, places| {
        let [Some(place)] = places.as_slice() else { return Ok(None) };
        let data = pack::read(&transaction.open_table(SEGMENTS)?, *place);
        match data {
            Ok(data) => Ok(Some((*place, Some(data)))),
            // To be met again where it is needed.
            Err(BlocksError::Damaged { .. }) => Ok(Some((*place, None))),
            Err(error) => Err(error),
        }
    })
}
