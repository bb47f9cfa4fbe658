//! The peers that the operator wants to be connected with always.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::super::address;
use super::EventLoop;

/// The wait after a peer was dialled; it doubles until it is connected.
const REDIAL_MIN: Duration = Duration::from_secs(5);

/// The longest wait.
const REDIAL_MAX: Duration = Duration::from_mins(5);

/// A peer that is kept connected.
#[derive(Debug)]
pub(super) struct Kept {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    next_dial_at: Instant,
    wait: Duration,
}

impl Kept {
    /// The peers that these addresses name.
    pub(super) fn all(addresses: &[Multiaddr], now: Instant) -> Vec<Self> {
        let mut of_peers: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for address in addresses {
            if let Some(peer) = address::peer(address) {
                of_peers.entry(peer).or_default().push(address.clone());
            }
        }
        let kept = |(peer, addresses)| Self { peer, addresses, next_dial_at: now, wait: REDIAL_MIN };
        of_peers.into_iter().map(kept).collect()
    }

    /// Whether it is to be dialled now.
    fn is_due(&mut self, is_connected: bool, now: Instant) -> bool {
        if is_connected {
            self.wait = REDIAL_MIN;
            self.next_dial_at = now;
            return false;
        }
        if self.next_dial_at > now {
            return false;
        }
        self.next_dial_at = now + self.wait;
        self.wait = (2 * self.wait).min(REDIAL_MAX);
        true
    }
}

impl EventLoop {
    /// Dials those that aren't connected. To be called with every tick.
    pub(super) fn keep_peering(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for kept in &mut self.peering {
            if kept.is_due(self.swarm.is_connected(&kept.peer), now) {
                due.push((kept.peer, kept.addresses.clone()));
            }
        }
        for (peer, addresses) in due {
            self.dial(peer, addresses);
        }
    }

    /// How many of them are connected, and how many there are.
    pub(super) fn peering_status(&self) -> (usize, usize) {
        let connected = self.peering.iter().filter(|kept| self.swarm.is_connected(&kept.peer)).count();
        (connected, self.peering.len())
    }

    /// Whether a peer is one of them.
    pub(super) fn is_kept(&self, peer: &PeerId) -> bool {
        self.peering.iter().any(|kept| kept.peer == *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_dialled_with_growing_waits_until_it_is_connected() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let addresses = [1, 2].map(|port| format!("/ip4/10.0.0.1/tcp/{port}/p2p/{peer}").parse().unwrap());
        let mut all = Kept::all(&addresses, now);
        assert_eq!((all.len(), all[0].addresses.len()), (1, 2));
        let kept = &mut all[0];
        assert!(kept.is_due(false, now));
        assert!(!kept.is_due(false, now + REDIAL_MIN / 2));
        assert!(kept.is_due(false, now + REDIAL_MIN));
        assert!(!kept.is_due(false, now + 2 * REDIAL_MIN), "the wait has doubled");
        let later = now + REDIAL_MAX;
        assert!(!kept.is_due(true, later));
        assert!(kept.is_due(false, later), "at once when it goes");
        assert!(kept.is_due(false, later + REDIAL_MIN));
    }
}
