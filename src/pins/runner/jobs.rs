//! The fetches that run: one for each DAG, for however many pins want it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use cid::Cid;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id};

use crate::dag::walk::KeyedHash;
use crate::fetch::{FetchProgress, Sources};
use crate::model::{PinId, PinRecord};
use crate::net::GatewayAddress;
use crate::pins::origins::Lead;

/// Peers that one fetch is told of beside those that its pins name: the session asks them all.
pub(super) const FOUND_MAX: usize = 64;

/// What stands for a DAG: its root without the version of the CID, in a few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DagKey(u128);

/// A running fetch.
pub(super) struct Job {
    /// The root, as the pin wrote it that it was begun for.
    pub(super) root: Cid,
    /// The pin that holds the slot; one of the members.
    pub(super) lead: PinId,
    /// The pins that it is for.
    pub(super) members: BTreeMap<PinId, Arc<PinRecord>>,
    pub(super) progress: watch::Receiver<FetchProgress>,
    /// Where sources go that pins bring which come later.
    pub(super) more: mpsc::UnboundedSender<Sources>,
    pub(super) abort: AbortHandle,
    /// Peers that were found to have the DAG, at most [`FOUND_MAX`].
    pub(super) found: Vec<Lead>,
    /// Gateways that were, at most as many.
    pub(super) gateways: Vec<GatewayAddress>,
    /// How the last look-up for those went.
    pub(super) asked: Option<Arc<str>>,
    /// Pins of which an origin connected, or a peer offered the root, since it was begun.
    pub(super) news: BTreeSet<PinId>,
}

/// All of them, and which unfinished pins have which DAG.
#[derive(Default)]
pub(super) struct Jobs {
    hash: KeyedHash,
    running: HashMap<DagKey, Job>,
    /// The DAG of each unfinished pin.
    dags: HashMap<PinId, DagKey>,
    unfinished: BTreeSet<(DagKey, PinId)>,
}

impl Jobs {
    /// A pin is unfinished.
    pub(super) fn add(&mut self, pin: PinId, root: &Cid) -> DagKey {
        let dag = DagKey(self.hash.hash(root));
        self.dags.insert(pin, dag);
        self.unfinished.insert((dag, pin));
        dag
    }

    /// A pin is finished or gone. When its fetch has no member any more, it is returned.
    pub(super) fn remove(&mut self, pin: PinId) -> Option<Job> {
        let dag = self.dags.remove(&pin)?;
        self.unfinished.remove(&(dag, pin));
        self.leave(pin, dag)
    }

    /// A pin is no longer one of those that its fetch is for. When none is left, the fetch is returned.
    fn leave(&mut self, pin: PinId, dag: DagKey) -> Option<Job> {
        let job = self.running.get_mut(&dag)?;
        job.members.remove(&pin)?;
        job.news.remove(&pin);
        if job.members.is_empty() { self.running.remove(&dag) } else { None }
    }

    /// A pin is taken out of its fetch, and stays unfinished; see [`Jobs::leave`].
    pub(super) fn take_out(&mut self, pin: PinId) -> Option<Job> {
        let dag = *self.dags.get(&pin)?;
        self.leave(pin, dag)
    }

    /// Who takes over the slot of a pin that leaves the fetch it leads; `None` when it leads none, or nobody is left.
    pub(super) fn successor(&mut self, pin: PinId) -> Option<PinId> {
        let job = self.of_mut(pin).filter(|job| job.lead == pin)?;
        let next = job.members.keys().copied().find(|member| *member != pin)?;
        job.lead = next;
        Some(next)
    }

    /// Unfinished pins with this DAG, at most `max`.
    pub(super) fn unfinished(&self, dag: DagKey, max: usize) -> Vec<PinId> {
        self.unfinished
            .range((dag, PinId::MIN)..)
            .take_while(|(of, _)| *of == dag)
            .take(max)
            .map(|(_, pin)| *pin)
            .collect()
    }

    /// What stands for a pin's DAG.
    pub(super) fn dag_of(&self, pin: PinId) -> Option<DagKey> {
        self.dags.get(&pin).copied()
    }

    /// The running fetch of a DAG.
    pub(super) fn get_mut(&mut self, dag: DagKey) -> Option<&mut Job> {
        self.running.get_mut(&dag)
    }

    /// The running fetch of which a pin is a member.
    pub(super) fn of_mut(&mut self, pin: PinId) -> Option<&mut Job> {
        let dag = self.dags.get(&pin)?;
        self.running.get_mut(dag).filter(|job| job.members.contains_key(&pin))
    }

    /// A fetch was begun.
    pub(super) fn begin(&mut self, dag: DagKey, job: Job) {
        self.running.insert(dag, job);
    }

    /// The fetch of this task has ended. `None` when it was begun anew or given up meanwhile.
    pub(super) fn end(&mut self, task: Id) -> Option<Job> {
        let dag = *self.running.iter().find(|(_, job)| job.abort.id() == task)?.0;
        self.running.remove(&dag)
    }

    /// Takes all running fetches.
    pub(super) fn drain(&mut self) -> Vec<(DagKey, Job)> {
        self.running.drain().collect()
    }

    /// All running fetches.
    pub(super) fn running(&self) -> impl Iterator<Item = &Job> {
        self.running.values()
    }

    /// When the first block came in the running fetch that a pin leads, if one did.
    pub(super) fn first_blocks(&self) -> Vec<(PinId, Instant)> {
        let first = |job: &Job| job.progress.borrow().first_block_at.map(|at| (job.lead, at));
        self.running.values().filter_map(first).collect()
    }
}
