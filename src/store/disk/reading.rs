//! Keeps threads that only read from writing what others haven't committed yet.
//!
//! redb has one cache for pages that were read and pages that are to be written. When a reader needs room in it, redb lets the
//! reader write some of the latter. On a [`Disk`](super::Disk) that would mean to wait for whoever writes, who may be waiting for the
//! disk. redb asks for no more than an attempt there, so a reader's is refused: the page stays in the cache for the one whose
//! commit it belongs to, and other pages make room.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// How many of the thread's [`Reading`]s there are.
    static READINGS: Cell<usize> = const { Cell::new(0) };
}

/// While it exists, its thread writes nothing: no transaction may be committed, nor a database be opened or closed.
#[derive(Debug)]
pub(in crate::store) struct Reading(PhantomData<*const ()>);

impl Reading {
    /// From now on.
    pub(in crate::store) fn begin() -> Self {
        READINGS.set(READINGS.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READINGS.set(READINGS.get() - 1);
    }
}

/// Whether this thread only reads.
pub(super) fn is_reading() -> bool {
    READINGS.get() > 0
}
