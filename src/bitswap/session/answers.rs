//! What each peer of a session did with what it was asked for: told to the owners of pins, decided upon nowhere.

use std::collections::BTreeMap;

use crate::bitswap::PeerNumber;

/// Peers whose answers are counted, the first that were asked.
const PEERS_MAX: usize = 64;

/// What one peer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// How often it was asked for a block.
    pub asked: u64,
    /// Blocks of it that were wanted when they came.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// How often it said that it doesn't have one.
    pub denied: u64,
    /// How often its answers were overdue.
    pub late: u64,
}

/// What each peer did, also of those that are gone.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<PeerNumber, Answers>);

impl Tally {
    /// A peer is asked for a block.
    pub(super) fn asked(&mut self, peer: PeerNumber) {
        if self.0.len() < PEERS_MAX || self.0.contains_key(&peer) {
            self.0.entry(peer).or_default().asked += 1;
        }
    }

    /// A wanted block came.
    pub(super) fn came(&mut self, from: PeerNumber, bytes: u64) {
        if let Some(answers) = self.0.get_mut(&from) {
            answers.blocks += 1;
            answers.bytes += bytes;
        }
    }

    /// A peer that was asked for a block doesn't have it.
    pub(super) fn denied(&mut self, from: PeerNumber) {
        if let Some(answers) = self.0.get_mut(&from) {
            answers.denied += 1;
        }
    }

    /// An answer is overdue.
    pub(super) fn late(&mut self, peer: PeerNumber) {
        if let Some(answers) = self.0.get_mut(&peer) {
            answers.late += 1;
        }
    }

    /// What is counted.
    pub(super) fn each(&self) -> impl Iterator<Item = (PeerNumber, Answers)> {
        self.0.iter().map(|(peer, answers)| (*peer, *answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_peers_are_counted_and_no_more() {
        let mut tally = Tally::default();
        for number in 0..2 * PEERS_MAX as u64 {
            tally.asked(PeerNumber(number));
            tally.came(PeerNumber(number), 10);
        }
        tally.asked(PeerNumber(0));
        tally.denied(PeerNumber(0));
        tally.late(PeerNumber(0));
        tally.denied(PeerNumber(u64::MAX));
        let each: Vec<_> = tally.each().collect();
        assert_eq!(each.len(), PEERS_MAX);
        assert_eq!(each[0], (PeerNumber(0), Answers { asked: 2, blocks: 1, bytes: 10, denied: 1, late: 1 }));
        assert_eq!(each[1].1, Answers { asked: 1, blocks: 1, bytes: 10, ..Answers::default() });
    }
}
