//! What a session does about answers that don't come, and about denials that run out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Action, Asked, DOUBLINGS_MAX, Order, Session, Want};
use crate::bitswap::PeerNumber;

/// Whoever else is connected is asked about a want that is this old, and other providers that were late themselves.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// When the only provider is asked again that has never sent anything; twice as long each time. It remembers what it was
/// asked, and what it is sending would come twice.
pub(super) const AGAIN_MIN: Duration = Duration::from_secs(40);

/// When the only provider is asked again, after it stopped sending for so much longer than a block takes; twice as long each
/// time. Then nothing is on its way, and what it was asked was lost, or the answer was.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(5);

/// How long a peer that hasn't shown its rate yet may take when another could be asked.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(5);

/// How many times as long as expected, and how much longer, an answer may take when another peer could be asked.
const PATIENCE: u32 = 3;
pub(super) const PATIENCE_MIN: Duration = Duration::from_secs(2);
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// For how long after a part of something came from a peer it is taken to be sending still.
pub(super) const SENDING_MAX: Duration = Duration::from_secs(2);

impl Session {
    /// Looks for answers that are overdue, and for denials that have run out; to be called several times a second.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_denials(now);
        let old = self.wants.iter().filter(|(_, want)| {
            want.asked.is_some_and(|asked| now.saturating_duration_since(asked.mark.at) >= SILENCE_MAX)
        });
        // Whoever else is connected may have it.
        self.searching.extend(old.map(|(order, _)| *order));
        let overdue: Vec<(Order, PeerNumber)> = self
            .wants
            .iter()
            .filter_map(|(order, want)| {
                want.asked.filter(|asked| self.is_overdue(want, *asked, now)).map(|asked| (*order, asked.peer))
            })
            .collect();
        let mut late = BTreeSet::new();
        for (order, slow) in overdue {
            late.insert(slow);
            self.release(order, slow);
            if let Some(want) = self.wants.get_mut(&order) {
                want.late.push(slow);
            }
            let best = self.best_provider(order, |_| true);
            if best != Some(slow)
                && let Some(want) = self.wants.get(&order)
            {
                self.actions.push(Action::Withdraw { peer: slow, cid: want.cid });
            }
            if self.wants.get(&order).is_some_and(|want| want.asked.is_none())
                && let Some(peer) = best
            {
                self.ask(peer, order, now);
            }
            self.searching.insert(order);
        }
        for peer in late {
            self.tally.late(peer);
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.late += 1;
            }
        }
    }

    /// Whether a peer took too long for a want: soon, when there is another who could have it sooner.
    fn is_overdue(&self, want: &Want, asked: Asked, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&asked.peer) else { return false };
        let waited = now.saturating_duration_since(asked.mark.at);
        if waited < PATIENCE_MIN {
            return false;
        }
        let expected = peer.pace.expected(asked.mark, self.block_bytes_expected());
        let times = want.times_late(asked.peer);
        let doubled = 1 << u32::try_from(times).unwrap_or(u32::MAX).min(DOUBLINGS_MAX);
        let (mut fresh, mut others) = (false, false);
        for (number, other) in self.providing() {
            if !want.is_asked_of(number) && !want.is_denied_by(number) {
                others = true;
                fresh |= other.late == 0 && want.times_late(number) == 0;
            }
        }
        let patience = if fresh && times > 0 {
            PATIENCE_MIN
        } else if fresh && (!peer.pace.is_known() || peer.late > 0) {
            FIRST_ANSWER_MAX
        } else if fresh {
            (PATIENCE * expected + PATIENCE_MIN).min(PATIENCE_MAX)
        } else if others {
            (SILENCE_MAX * doubled).min(PATIENCE_MAX)
        } else if peer.pace.is_known() {
            // As long as it sends other blocks, this one may still be in its queue.
            let quiet = now.saturating_duration_since(peer.active_at.max(asked.mark.at));
            let next = PATIENCE * peer.pace.time_for(self.block_bytes_expected());
            return waited >= PATIENCE * expected && quiet >= (QUIET_MAX + next) * doubled;
        } else {
            AGAIN_MIN * doubled
        };
        // What comes slowly comes all the same, and from another peer it would come twice. But not for as long as it likes.
        let is_sending = peer.sending_at.is_some_and(|at| now.saturating_duration_since(at) < SENDING_MAX);
        waited >= if is_sending { PATIENCE_MAX } else { patience }
    }

    fn expire_denials(&mut self, now: Instant) {
        for (order, want) in &mut self.wants {
            let before = want.denied.len();
            let Want { denied, searched, .. } = want;
            denied.retain(|denial| {
                let over = denial.until.is_some_and(|until| until <= now);
                if over {
                    searched.remove(&denial.peer);
                }
                !over
            });
            if denied.len() < before {
                want.denials += 1;
                if want.asked.is_none() {
                    self.searching.remove(order);
                    self.unassigned.insert(*order);
                }
            }
        }
    }
}
