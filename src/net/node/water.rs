//! Ends connections that nobody needs before there are so many that new ones are refused, or when they take too much memory.
//!
//! A look-up in the DHT connects with dozens of servers, and each connection stays for a while in case it is of use again.

use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::EventLoop;

/// How old a connection has to be: whoever has just come may be about to ask.
const AGE_MIN: Duration = Duration::from_secs(10);

/// With more connections than this, some are ended; in eighths of `network.connections_max`.
const HIGH_EIGHTHS: u32 = 6;

/// So many are left then.
const LOW_EIGHTHS: u32 = 4;

impl EventLoop {
    /// A peer has its first connection.
    pub(super) fn note_connected(&mut self, peer: PeerId) {
        self.connected_since.entry(peer).or_insert_with(Instant::now);
    }

    /// A peer has lost its last connection.
    pub(super) fn note_gone(&mut self, peer: &PeerId) {
        self.connected_since.remove(peer);
    }

    /// Ends the oldest connections that nobody needs, if there are many. To be called with every tick.
    pub(super) fn keep_below_high_water(&mut self) {
        let established = self.swarm.network_info().connection_counters().num_established();
        let max = self.connections_max;
        let is_memory_exceeded = self.swarm.behaviour_mut().crowding.is_memory_exceeded();
        let left = if is_memory_exceeded { established / 2 } else { max / 8 * LOW_EIGHTHS };
        if established <= max / 8 * HIGH_EIGHTHS && !is_memory_exceeded {
            return;
        }
        let now = Instant::now();
        let unneeded = self.connected_since.iter().filter(|(peer, since)| {
            let is_needed = match self.numbers.get(peer) {
                Some(number) => self.is_needed(*number, peer),
                None => self.protected.contains_key(peer) || self.is_kept(peer) || self.is_our_relay(peer),
            };
            !is_needed && now.saturating_duration_since(**since) >= AGE_MIN
        });
        let mut oldest: Vec<(Instant, PeerId)> = unneeded.map(|(peer, since)| (*since, *peer)).collect();
        oldest.sort_unstable_by_key(|(since, _)| *since);
        oldest.truncate(established.saturating_sub(left) as usize);
        tracing::debug!(established, is_memory_exceeded, ended = oldest.len(), "ending connections that nobody needs");
        for (_, peer) in oldest {
            // One that is gone already needs no end.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}
