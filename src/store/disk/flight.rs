//! A commit on its way to the disk, while the thread that made it packs the next one.
//!
//! What flies is in memory until it has landed, and everything that comes behind it waits for that before it touches the file:
//! the order in which redb wants its writes stays. Whoever relies on the commit waits for the landing as well.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;

use super::file::DiskFile;
use super::pages::Layers;

/// A commit on its way. When it fails, the file has to be opened again: redb believes in what isn't there.
#[derive(Debug, Clone)]
pub(in crate::store) struct Flight(Arc<State>);

#[derive(Debug)]
struct State {
    outcome: Mutex<Outcome>,
    landed: Condvar,
}

type Callback = Box<dyn FnOnce() + Send>;

enum Outcome {
    /// It isn't there yet; who wants to be called then.
    Flying(Option<Callback>),
    Landed(Result<(), Arc<io::Error>>),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flying(_) => formatter.write_str("Flying"),
            Self::Landed(result) => formatter.debug_tuple("Landed").field(result).finish(),
        }
    }
}

/// How many there were, for tests that want some.
#[cfg(test)]
pub(in crate::store) static STARTED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl Flight {
    /// Writes what is in `layers.flying` into the file, each of both parts durably before what follows.
    pub(super) fn start(file: Arc<dyn DiskFile>, layers: Arc<RwLock<Layers>>) -> Self {
        #[cfg(test)]
        STARTED.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let flight = Self(Arc::new(State { outcome: Mutex::new(Outcome::Flying(None)), landed: Condvar::new() }));
        let landing =
            Landing { flight: flight.clone(), result: Err(io::Error::other("a commit was not written to the disk")) };
        let fly = move || {
            let result = fly(&*file, &layers);
            // The file may be opened again from now on.
            drop(file);
            landing.end(result);
        };
        let spawned = thread::Builder::new().name("block-disk".into()).spawn(fly);
        if let Err(error) = spawned {
            // The job is gone with its landing, which says that it failed.
            tracing::error!(%error, "there is no thread to write blocks to the disk");
        }
        flight
    }

    /// Waits until it has landed.
    pub(in crate::store) fn wait(&self) -> io::Result<()> {
        let mut outcome = self.outcome();
        loop {
            if let Outcome::Landed(result) = &*outcome {
                return result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            }
            outcome = self.0.landed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `callback` when it has landed, which may be now.
    pub(in crate::store) fn when_landed(&self, callback: impl FnOnce() + Send + 'static) {
        let mut outcome = self.outcome();
        if let Outcome::Flying(waiting) = &mut *outcome {
            *waiting = Some(Box::new(callback));
        } else {
            drop(outcome);
            callback();
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says how a flight ended, whatever happens to it.
struct Landing {
    flight: Flight,
    result: io::Result<()>,
}

impl Landing {
    fn end(mut self, result: io::Result<()>) {
        self.result = result;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(())).map_err(Arc::new);
        let before = std::mem::replace(&mut *self.flight.outcome(), Outcome::Landed(result));
        self.flight.0.landed.notify_all();
        if let Outcome::Flying(Some(callback)) = before {
            callback();
        }
    }
}

fn fly(file: &dyn DiskFile, layers: &RwLock<Layers>) -> io::Result<()> {
    let flying = layers.read().unwrap_or_else(PoisonError::into_inner).flying.clone();
    for pages in &flying {
        pages.write(file, 0..)?;
        file.sync_data()?;
    }
    let landed = std::mem::take(&mut layers.write().unwrap_or_else(PoisonError::into_inner).flying);
    // Freed after the lock is free.
    drop(landed);
    Ok(())
}
