//! What peers may make this process hold: so much on each connection, and so much on all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bounds of one kind of thing, and how much of it there is.
#[derive(Debug)]
pub(super) struct Quota {
    connection_max: usize,
    process_max: usize,
    process: AtomicUsize,
}

impl Quota {
    /// Nothing is held yet.
    pub(super) const fn new(connection_max: usize, process_max: usize) -> Self {
        Self { connection_max, process_max, process: AtomicUsize::new(0) }
    }

    /// Something on the connection that counts in `connection` what it holds.
    pub(super) fn share(&'static self, connection: &Arc<AtomicUsize>) -> Share {
        Share { quota: self, connection: Arc::clone(connection), held: 0 }
    }
}

/// What one holder has of a [`Quota`]; it is given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    quota: &'static Quota,
    connection: Arc<AtomicUsize>,
    held: usize,
}

impl Share {
    /// Takes more. When the answer is `false` it was too much, and the holder should end.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let connection = self.connection.fetch_add(more, Ordering::Relaxed) + more;
        let process = self.quota.process.fetch_add(more, Ordering::Relaxed) + more;
        self.held += more;
        // Nobody may hold more than is still free, so that those who hoard squeeze each other, not everyone.
        connection <= self.quota.connection_max && connection <= self.quota.process_max.saturating_sub(process)
    }

    /// Hands over what is held, to be given back by somebody else.
    pub(super) fn take(&mut self) -> Self {
        Self { quota: self.quota, connection: Arc::clone(&self.connection), held: std::mem::take(&mut self.held) }
    }

    /// Gives everything back.
    pub(super) fn release(&mut self) {
        self.connection.fetch_sub(self.held, Ordering::Relaxed);
        self.quota.process.fetch_sub(self.held, Ordering::Relaxed);
        self.held = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hoards_is_refused_and_who_is_modest_is_not() {
        static QUOTA: Quota = Quota::new(40, 100);
        let connections: [Arc<AtomicUsize>; 4] = Default::default();
        let mut hoards: Vec<Share> = connections[..3].iter().map(|connection| QUOTA.share(connection)).collect();
        assert!(hoards[0].grow(40) && !hoards[0].grow(1));
        hoards[0].release();
        for hoard in &mut hoards {
            while hoard.grow(1) {}
        }
        let mut modest = QUOTA.share(&connections[3]);
        assert!(modest.grow(5));
        drop(hoards);
        let taken = modest.take();
        drop(modest);
        assert_eq!(QUOTA.process.load(Ordering::Relaxed), 5, "somebody else holds it now");
        drop(taken);
        assert_eq!(QUOTA.process.load(Ordering::Relaxed), 0);
        assert!(connections.iter().all(|connection| connection.load(Ordering::Relaxed) == 0));
    }
}
