//! How a session moves questions that were asked already: to providers with nothing to do, and back.

use std::time::{Duration, Instant};

use super::{Action, Session};
use crate::bitswap::PeerNumber;

/// A block is taken over when the other peer would need so much longer for it than twice our time.
const TAKE_OVER_MIN: Duration = Duration::from_millis(100);

/// The part of what came that may be asked for a second time on purpose: 1 / 100. The first time it may be more, to spare a
/// small DAG some seconds.
const DUPLICATES_PART: u64 = 100;
const FIRST_DUPLICATE_MIN: Duration = Duration::from_secs(3);

/// Questions to a peer that aren't taken back when blocks turn out larger: it reads two answers ahead of the one that it is
/// sending.
const BEGUN_KEPT: usize = 3;

impl Session {
    /// Providers without anything to do take what another would deliver much later than they.
    pub(super) fn take_over(&mut self, now: Instant, asks_max: usize) {
        let idle: Vec<PeerNumber> = self
            .providing()
            .filter(|(_, peer)| peer.outstanding == 0 && peer.late == 0)
            .map(|(number, _)| number)
            .collect();
        let mut asks = 0;
        for number in idle {
            while asks < asks_max && self.take_over_one(number, now) {
                asks += 1;
            }
        }
    }

    /// One want for a provider that has time. Returns false when there is none.
    fn take_over_one(&mut self, number: PeerNumber, now: Instant) -> bool {
        let block_bytes = self.block_bytes_expected();
        let Some(peer) = self.peers.get(&number) else { return false };
        // Of a peer that hasn't shown what it can, one block is enough.
        let window = if peer.pace.is_known() { peer.pace.window(block_bytes) } else { 1 };
        if peer.outstanding >= window {
            return false;
        }
        let own = peer.pace.time_for((peer.outstanding as u64 + 1) * block_bytes);
        let latest = self
            .wants
            .iter()
            .filter(|(_, want)| want.second.is_none() && !want.is_denied_by(number) && !want.is_asked_of(number))
            .filter_map(|(order, want)| {
                let asked = want.asked?;
                let slow = self.peers.get(&asked.peer)?;
                let remaining = slow.pace.remaining(asked.mark, block_bytes, now);
                let begun = slow.pace.has_begun(asked.mark);
                // A rate that is only guessed isn't worth sending a block twice.
                let may = !begun || (peer.pace.is_known() && self.may_duplicate(block_bytes, remaining));
                may.then_some((remaining, *order, asked.peer, begun))
            })
            .max();
        let Some((_, order, slow, begun)) = latest.filter(|latest| latest.0 > 2 * own + TAKE_OVER_MIN) else {
            return false;
        };
        if begun {
            self.second_bytes += block_bytes;
        } else {
            self.release(order, slow);
            if let Some(want) = self.wants.get(&order) {
                self.actions.push(Action::Withdraw { peer: slow, cid: want.cid });
            }
        }
        self.ask(number, order, now);
        true
    }

    fn may_duplicate(&self, block_bytes: u64, remaining: Duration) -> bool {
        let first = self.second_bytes == 0 && remaining >= FIRST_DUPLICATE_MIN;
        first || self.second_bytes + block_bytes <= self.bytes / DUPLICATES_PART
    }

    /// Takes questions back, the last ones first, until only so many blocks are asked for, or only those that are on their way:
    /// they turned out larger than they were taken for. The wants stay.
    pub fn retract(&mut self, keep: usize) {
        let mut surplus = self.outstanding().saturating_sub(keep);
        for (order, want) in self.wants.iter_mut().rev() {
            if surplus == 0 {
                break;
            }
            // What two peers are asked for will be here soonest.
            let Some(asked) = want.asked.filter(|_| want.second.is_none()) else { continue };
            let Some(peer) = self.peers.get_mut(&asked.peer).filter(|peer| peer.outstanding > BEGUN_KEPT) else {
                continue;
            };
            surplus -= 1;
            peer.outstanding -= 1;
            want.asked = None;
            self.unassigned.insert(*order);
            self.actions.push(Action::Withdraw { peer: asked.peer, cid: want.cid });
        }
    }
}
