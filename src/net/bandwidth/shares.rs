//! Who may transfer next where the rate is bounded.
//!
//! Pure. How much a stream will read or write isn't known before it does, so it transfers first, up to a quantum, and its
//! peer owes that. A peer that owes something transfers nothing until its debt is paid. Debts are paid out of what the
//! rate allows, a quantum at a time and each peer in turn, so peers that want more than there is get the same, however
//! many streams and connections they have (deficit round robin: <https://doi.org/10.1145/217382.217453>). A peer that
//! hasn't waited for a while comes before those that always do, in every other turn, so that short questions and answers
//! don't queue behind long transfers. When the debt of a peer is paid, each of its streams that wait may transfer once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::Waker;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// The most that is transferred at a time.
const QUANTUM_MAX: u64 = 16 * 1024;

/// The least, at low rates.
const QUANTUM_MIN: u64 = 1024;

/// A peer whose debt was last paid before this comes first.
const RESTED: Duration = Duration::from_secs(1);

/// Names a stream among all.
pub(super) type StreamNumber = u64;

#[derive(Debug, Default)]
struct Peer {
    connections: usize,
    debt: u64,
    waiting: HashMap<StreamNumber, Waker>,
    /// Streams that waited, and may transfer once whatever the peer owes.
    called: HashSet<StreamNumber>,
    is_queued: bool,
    paid_at: Option<Instant>,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Shares {
    /// Bytes in a second.
    rate: u64,
    quantum: u64,
    /// What may be saved up.
    saved_max: u64,
    /// What may be transferred now.
    saved: u64,
    /// Owed by peers that went away with debts.
    lost: u64,
    saved_at: Instant,
    peers: HashMap<PeerId, Peer>,
    /// Peers that wait, and rested before; those that do all the time.
    rested: VecDeque<PeerId>,
    busy: VecDeque<PeerId>,
    turn_of_busy: bool,
}

impl Shares {
    /// `rate` is in bytes a second.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        let quantum = (rate / 64).clamp(QUANTUM_MIN, QUANTUM_MAX);
        let saved_max = (rate / 20).max(2 * quantum);
        Self {
            rate,
            quantum,
            saved_max,
            saved: saved_max,
            lost: 0,
            saved_at: now,
            peers: HashMap::new(),
            rested: VecDeque::new(),
            busy: VecDeque::new(),
            turn_of_busy: true,
        }
    }

    /// The most that is transferred at a time.
    pub(super) fn quantum(&self) -> usize {
        usize::try_from(self.quantum).unwrap_or(usize::MAX)
    }

    /// A connection to a peer is there.
    pub(super) fn join(&mut self, peer: PeerId) {
        self.peers.entry(peer).or_default().connections += 1;
    }

    /// It is gone, with all its streams.
    pub(super) fn leave(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.connections -= 1;
        if state.connections > 0 {
            return;
        }
        // Coming back doesn't wipe a debt out: all pay for it.
        self.lost = (self.lost + state.debt).min(self.saved_max);
        if state.is_queued {
            self.rested.retain(|queued| *queued != peer);
            self.busy.retain(|queued| *queued != peer);
        }
        self.peers.remove(&peer);
    }

    /// Whether the stream may transfer up to a quantum now. If not, the waker is woken when it may.
    pub(super) fn may_transfer(&mut self, peer: PeerId, stream: StreamNumber, waker: &Waker, now: Instant) -> bool {
        self.save(now);
        let nobody_waits = self.nobody_waits();
        let Some(state) = self.peers.get_mut(&peer) else { return true };
        // While some of its streams have been called and didn't come yet, the others don't get ahead of them.
        if nobody_waits && state.called.is_empty() {
            let paid = state.debt.min(self.saved);
            state.debt -= paid;
            self.saved -= paid;
        }
        if state.debt == 0 || state.called.contains(&stream) {
            state.waiting.remove(&stream);
            return true;
        }
        state.waiting.insert(stream, waker.clone());
        if !state.is_queued {
            state.is_queued = true;
            let has_rested = state.paid_at.is_none_or(|paid| now.saturating_duration_since(paid) >= RESTED);
            if has_rested { &mut self.rested } else { &mut self.busy }.push_back(peer);
        }
        false
    }

    /// The stream transferred bytes.
    pub(super) fn transferred(&mut self, peer: PeerId, stream: StreamNumber, bytes: u64) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.called.remove(&stream);
            state.debt += bytes;
        }
    }

    /// The stream is gone.
    pub(super) fn forget(&mut self, peer: PeerId, stream: StreamNumber) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.waiting.remove(&stream);
            state.called.remove(&stream);
        }
    }

    /// Pays debts as far as the rate allows, and returns those to be woken.
    pub(super) fn pay(&mut self, now: Instant) -> Vec<Waker> {
        self.save(now);
        let mut woken = Vec::new();
        while self.saved > 0
            && let Some(peer) = self.next()
        {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            let paid = state.debt.min(self.saved).min(self.quantum);
            state.debt -= paid;
            self.saved -= paid;
            state.paid_at = Some(now);
            if state.debt > 0 {
                self.busy.push_back(peer);
                continue;
            }
            state.is_queued = false;
            for (stream, waker) in state.waiting.drain() {
                state.called.insert(stream);
                woken.push(waker);
            }
        }
        woken
    }

    /// When to pay again, if anyone waits.
    pub(super) fn next_pay_in(&self) -> Option<Duration> {
        if self.nobody_waits() {
            return None;
        }
        let missing = (self.quantum + self.lost).saturating_sub(self.saved).max(1);
        Some(Duration::from_secs_f64(missing as f64 / self.rate as f64).max(Duration::from_millis(1)))
    }

    fn nobody_waits(&self) -> bool {
        self.rested.is_empty() && self.busy.is_empty()
    }

    fn next(&mut self) -> Option<PeerId> {
        self.turn_of_busy = !self.turn_of_busy;
        if self.turn_of_busy {
            self.busy.pop_front().or_else(|| self.rested.pop_front())
        } else {
            self.rested.pop_front().or_else(|| self.busy.pop_front())
        }
    }

    /// Adds what the rate allowed since the last time.
    fn save(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.saved_at).as_nanos();
        let allowed = since * u128::from(self.rate) / 1_000_000_000;
        if allowed == 0 {
            return;
        }
        // What is left of a byte is kept for the next time.
        let taken = (allowed * 1_000_000_000).div_ceil(u128::from(self.rate));
        self.saved_at += Duration::from_nanos(u64::try_from(taken).unwrap_or(u64::MAX));
        let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
        let repaid = self.lost.min(allowed);
        self.lost -= repaid;
        self.saved = self.saved.saturating_add(allowed - repaid).min(self.saved_max);
    }
}
