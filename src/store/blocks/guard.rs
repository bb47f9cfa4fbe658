//! What keeps a garbage collection from taking blocks that somebody has just begun to rely on.
//!
//! From the start of a collection, every block that a fetch finds or that is put joins the *marks*; each sweep
//! transaction holds the marks from its look at them to its commit. What was found before the start is covered by the
//! roots, once every block that was received before the start is durable: a [`Ticket`] stands for such a block, and
//! a collection waits for the tickets that are older than itself before it walks the roots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use roaring::RoaringTreemap;

use super::pack::Place;

/// Marks by [`Place::number`]; `None` while nothing is collected.
pub(super) type Marks = Option<RoaringTreemap>;

/// The epoch of a ticket: how many of its tickets are left.
#[derive(Debug, Default)]
struct Epoch {
    tickets: Mutex<usize>,
    returned: Condvar,
}

/// Stands for blocks that were received and are not durable yet. To be held from before their links are followed
/// until their commit.
#[derive(Debug)]
pub struct Ticket(Arc<Epoch>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut tickets = lock(&self.0.tickets);
        *tickets -= 1;
        if *tickets == 0 {
            self.0.returned.notify_all();
        }
    }
}

/// The guard of one block store.
#[derive(Debug, Default)]
pub(super) struct Guard {
    marks: Mutex<Marks>,
    epoch: Mutex<Arc<Epoch>>,
    /// How often a collection began or ended.
    turns: AtomicU64,
}

impl Guard {
    /// A ticket of the present epoch.
    pub(super) fn ticket(&self) -> Ticket {
        let epoch = lock(&self.epoch);
        *lock(&epoch.tickets) += 1;
        Ticket(Arc::clone(&epoch))
    }

    /// Begins a collection: from now on marks are kept. Then waits until all older tickets are returned.
    pub(super) fn begin(&self) {
        {
            let mut marks = lock(&self.marks);
            *marks = Some(RoaringTreemap::new());
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
        let old = std::mem::take(&mut *lock(&self.epoch));
        let mut tickets = lock(&old.tickets);
        while *tickets > 0 {
            tickets = old.returned.wait(tickets).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the time in which marks matter.
    pub(super) fn end(&self) {
        let mut marks = lock(&self.marks);
        *marks = None;
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    /// How often a collection has begun or ended: where two looks see the same, none did in between.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// What `look` sees, if no collection ran meanwhile, nor began nor ended.
    pub(super) fn undisturbed<T, E>(&self, look: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        let turns = self.turns();
        let seen = look()?;
        Ok((self.turns() == turns && self.marks().is_none()).then_some(seen))
    }

    /// The marks, for a look and a change in one.
    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        lock(&self.marks)
    }

    /// Marks places if a collection runs; says whether one does.
    pub(super) fn mark(&self, places: impl Iterator<Item = Place>) -> bool {
        let mut marks = lock(&self.marks);
        if let Some(marks) = marks.as_mut() {
            marks.extend(places.map(Place::number));
        }
        marks.is_some()
    }
}

/// A poisoned lock is harmless here: nothing is left half-way under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
