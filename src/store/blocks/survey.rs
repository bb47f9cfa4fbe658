//! A walk over a held DAG that finds the sub-DAGs which are whole, and writes down what is in them (see [`super::sub_dag`]).
//!
//! It goes depth first, and back from the leaves to the root: a node whose blocks are all there hands them to the node above it, until there
//! are enough for a list. So each block comes into one list, and what a DAG's versions share is surveyed once. Memory is bounded: what
//! would take too much is put off until the rest is done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use roaring::RoaringTreemap;

use super::BlocksError;
use super::file::{BlockFile, SEGMENTS};
use super::gc::distinct;
use super::pack::{self, Place};
use super::sub_dag::{Draft, Since};
use super::whole::BLOCKS_MIN;
use crate::model::cids::codec;

/// Blocks of a list at most, so that reading one takes little memory: 2.5 MB.
const LIST_BLOCKS_MAX: usize = if cfg!(test) { 64 } else { 65_536 };

/// Memory for what is being put together, in bytes.
const FRAMES_BYTES_MAX: usize = if cfg!(test) { 16 * 1024 } else { 32 * 1024 * 1024 };

/// Nodes between the root and where the survey is.
const DEPTH_MAX: usize = if cfg!(test) { 16 } else { 10_000 };

/// Nodes that are put off at most; what is below others isn't surveyed.
const LATER_MAX: usize = 100_000;

/// Nodes that one step looks at.
const STEP_NODES: usize = if cfg!(test) { 4 } else { 64 };

/// How long it goes on with them.
const STEP_TIME: Duration = Duration::from_millis(20);

/// Bytes of lists that are written down in one commit.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// What a node links to, all of it; `None` for one that no walk gets past.
pub type CheckedLinks = fn(&Cid, &Bytes) -> Option<Vec<Cid>>;

/// A node whose sub-DAG is being looked at.
#[derive(Debug)]
struct Frame {
    node: Cid,
    length: u32,
    /// Nodes that it links to and that haven't been looked at.
    rest: Vec<Cid>,
    draft: Draft,
    is_whole: bool,
}

impl Frame {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.rest.capacity() * size_of::<Cid>() + self.draft.bytes()
    }
}

/// What a look at a node says.
enum Seen {
    /// It isn't there, or no walk gets past it.
    Nothing,
    /// It was looked at before.
    Walked,
    /// It takes too much now.
    PutOff,
    /// It is there, and links to these.
    Node(Place, Vec<Cid>),
}

/// How a step of a survey ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurveyStep {
    /// There is more.
    More,
    /// Everything was looked at, and is written down.
    Done,
    /// Blocks were collected or damaged meanwhile: what it has seen counts no longer.
    Disturbed,
}

/// A survey that was begun. It blocks on the disk: call it where that is allowed.
#[derive(Debug)]
pub struct Survey {
    file: Arc<BlockFile>,
    links: CheckedLinks,
    since: Since,
    /// From the root to where it is.
    frames: Vec<Frame>,
    /// What is put off.
    later: Vec<Cid>,
    /// Nodes that were looked at, by codec: the same bytes have other links under another codec.
    walked: HashMap<u64, RoaringTreemap>,
    found: Vec<(Cid, Draft)>,
    found_bytes: usize,
    frames_bytes: usize,
}

impl Survey {
    pub(super) fn new(file: Arc<BlockFile>, root: &Cid, links: CheckedLinks) -> Result<Self, BlocksError> {
        let since = file.since_now()?;
        Ok(Self {
            file,
            links,
            since,
            frames: Vec::new(),
            later: vec![*root],
            walked: HashMap::new(),
            found: Vec::new(),
            found_bytes: 0,
            frames_bytes: 0,
        })
    }

    /// Looks at some nodes, for [`STEP_TIME`] at most or as long as one takes.
    pub fn step(&mut self) -> Result<SurveyStep, BlocksError> {
        let began_at = Instant::now();
        if self.file.is_disturbed(self.since) {
            return Ok(SurveyStep::Disturbed);
        }
        for _ in 0..STEP_NODES {
            if self.found_bytes >= COMMIT_BYTES && !self.write()? {
                return Ok(SurveyStep::Disturbed);
            }
            match self.frames.last_mut() {
                Some(frame) => match frame.rest.pop() {
                    Some(node) => self.enter(node)?,
                    None => self.leave(),
                },
                None => match self.later.pop() {
                    Some(root) => self.enter(root)?,
                    None => return Ok(if self.write()? { SurveyStep::Done } else { SurveyStep::Disturbed }),
                },
            }
            if began_at.elapsed() > STEP_TIME {
                break;
            }
        }
        Ok(SurveyStep::More)
    }

    /// Writes down what was found; says whether it counts.
    fn write(&mut self) -> Result<bool, BlocksError> {
        self.found_bytes = 0;
        self.file.remember_sub_dags(&std::mem::take(&mut self.found), self.since)
    }

    /// Looks at a node that the last frame's links to, or at one from which the survey begins.
    fn enter(&mut self, node: Cid) -> Result<(), BlocksError> {
        let is_full = self.frames.len() >= DEPTH_MAX || self.frames_bytes >= FRAMES_BYTES_MAX;
        let is_below = !self.frames.is_empty();
        let seen = self.file.read_places(&[pack::key(&node)], |transaction, places| {
            let Some(place) = places.first().copied().flatten() else { return Ok(Seen::Nothing) };
            // An empty block must not stand for the one behind it, whose number it has.
            let walked = self.walked.get(&node.codec());
            if place.length > 0 && walked.is_some_and(|numbers| numbers.contains(place.number())) {
                return Ok(Seen::Walked);
            }
            if is_full && is_below {
                return Ok(Seen::PutOff);
            }
            let data = pack::read(&transaction.open_table(SEGMENTS)?, place)?;
            let is_right = pack::key(&node).is_some_and(|key| pack::matches(&key, data.clone()));
            let links = if is_right { (self.links)(&node, &data) } else { None };
            Ok(links.map_or(Seen::Nothing, |links| Seen::Node(place, links)))
        });
        match seen {
            // Who needs it will find it to be damaged.
            Ok(Seen::Nothing) | Err(BlocksError::Damaged { .. }) => self.change_last(|frame| frame.is_whole = false),
            Ok(Seen::Walked) => self.leave_to_others(&node),
            Ok(Seen::PutOff) => {
                if self.later.len() < LATER_MAX {
                    self.later.push(node);
                }
                self.leave_to_others(&node);
            }
            Ok(Seen::Node(place, links)) => {
                self.walked.entry(node.codec()).or_default().insert(place.number());
                // What was surveyed before has lists all the way down.
                if self.file.sub_dag_bytes(&[node])?.first().is_some_and(Option::is_some) {
                    self.leave_to_others(&node);
                } else {
                    self.push(node, place, distinct(links))?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn change_last(&mut self, change: impl FnOnce(&mut Frame)) {
        if let Some(frame) = self.frames.last_mut() {
            self.frames_bytes -= frame.bytes();
            change(frame);
            self.frames_bytes += frame.bytes();
        }
    }

    /// The last frame's list doesn't have what is below this node, nor the node.
    fn leave_to_others(&mut self, node: &Cid) {
        self.change_last(|frame| frame.draft.below.push(node, 1));
    }

    /// Begins with a node, whose leaves are counted at once.
    fn push(&mut self, node: Cid, place: Place, links: Vec<Cid>) -> Result<(), BlocksError> {
        let (leaves, rest): (Vec<Cid>, Vec<Cid>) = links.into_iter().partition(|cid| codec::is_leaf(cid.codec()));
        let mut draft = Draft { height: u32::from(!leaves.is_empty()), ..Draft::default() };
        let keys: Vec<_> = leaves.iter().map(pack::key).collect();
        let places = self.file.read_places(&keys, |_, places| Ok(places))?;
        let is_whole = places.iter().all(Option::is_some);
        for (leaf, place) in leaves.iter().zip(places) {
            if let Some(place) = place {
                draft.blocks.push(leaf, place.length);
            }
        }
        let frame = Frame { node, length: place.length, rest, draft, is_whole };
        self.frames_bytes += frame.bytes();
        self.frames.push(frame);
        Ok(())
    }

    /// The last frame's node is done.
    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        self.frames_bytes -= frame.bytes();
        let Frame { node, length, draft, is_whole, .. } = frame;
        if !is_whole {
            self.change_last(|above| above.is_whole = false);
        } else if draft.blocks.len() as u64 >= BLOCKS_MIN {
            self.leave_to_others(&node);
            self.found_bytes += draft.bytes();
            self.found.push((node, draft));
        } else {
            self.change_last(|above| {
                let all = &mut above.draft;
                if all.blocks.len() + draft.blocks.len() >= LIST_BLOCKS_MAX {
                    all.below.push(&node, 1);
                    return;
                }
                all.blocks.push(&node, length);
                all.blocks.append(&draft.blocks);
                for (cid, links) in draft.below.entries() {
                    all.below.push(&cid, links.saturating_add(1));
                }
                all.height = all.height.max(draft.height.saturating_add(1));
            });
        }
    }
}
