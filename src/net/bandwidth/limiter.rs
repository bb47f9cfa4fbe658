//! A bound on one direction: the shares, and a task that pays debts when their time comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use libp2p::PeerId;
use tokio::sync::Notify;

use super::shares::{Shares, StreamNumber};

/// Bounds one direction.
#[derive(Debug)]
pub(super) struct Limiter {
    shares: Mutex<Shares>,
    someone_waits: Arc<Notify>,
    /// The most that is transferred at a time.
    pub(super) quantum: usize,
}

impl Limiter {
    /// So many bytes in a second. Its task ends when nobody holds it any longer.
    pub(super) fn start(rate: u64) -> Arc<Self> {
        let shares = Shares::new(rate, Instant::now());
        let someone_waits = Arc::new(Notify::new());
        let quantum = shares.quantum();
        let limiter = Arc::new(Self { shares: Mutex::new(shares), someone_waits: Arc::clone(&someone_waits), quantum });
        let held = Arc::downgrade(&limiter);
        tokio::spawn(async move {
            loop {
                someone_waits.notified().await;
                loop {
                    let Some(limiter) = held.upgrade() else { return };
                    let (woken, next) = limiter.pay();
                    drop(limiter);
                    woken.into_iter().for_each(Waker::wake);
                    let Some(next) = next else { break };
                    tokio::time::sleep(next).await;
                }
            }
        });
        limiter
    }

    pub(super) fn join(&self, peer: PeerId) {
        self.shares().join(peer);
    }

    pub(super) fn leave(&self, peer: PeerId) {
        self.shares().leave(peer);
    }

    pub(super) fn may_transfer(&self, peer: PeerId, stream: StreamNumber, waker: &Waker) -> bool {
        let may = self.shares().may_transfer(peer, stream, waker, Instant::now());
        if !may {
            self.someone_waits.notify_one();
        }
        may
    }

    pub(super) fn transferred(&self, peer: PeerId, stream: StreamNumber, bytes: usize) {
        self.shares().transferred(peer, stream, bytes as u64);
    }

    pub(super) fn forget(&self, peer: PeerId, stream: StreamNumber) {
        self.shares().forget(peer, stream);
    }

    fn pay(&self) -> (Vec<Waker>, Option<std::time::Duration>) {
        let mut shares = self.shares();
        (shares.pay(Instant::now()), shares.next_pay_in())
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.someone_waits.notify_one();
    }
}
