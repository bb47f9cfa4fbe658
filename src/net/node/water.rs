//! Ends connections that nobody needs: those that have been quiet for a while, and more of them before there are so many that new ones
//! are refused, or when they take too much memory.
//!
//! A look-up in the DHT connects with dozens of servers. Both sides' libraries would keep each of those connections for as long as a
//! stream of the DHT is open on it, which Kubo never closes, and each costs packets that keep it alive.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::{EventLoop, IDLE_MAX};

/// How old a connection has to be: whoever has just come may be about to ask.
const AGE_MIN: Duration = Duration::from_secs(10);

/// With more connections than this, some are ended; in eighths of `network.connections_max`.
const HIGH_EIGHTHS: u32 = 6;

/// So many are left then.
const LOW_EIGHTHS: u32 = 4;

/// Nothing that is of use went over a quiet connection for so long.
const QUIET_MIN: Duration = IDLE_MAX;

/// Whoever comes back so soon was told by its operator to be connected with us: Kubo dials such peers again after 5 s, and pinnace within
/// 5 s. Few others come back by chance.
const RETURN_MAX: Duration = Duration::from_secs(20);

/// So long its connection isn't ended for being quiet: making it anew costs about as much as keeping it for half an hour.
const STAY: Duration = Duration::from_hours(1);

/// A peer that is connected.
#[derive(Debug)]
struct Peer {
    since: Instant,
    used_bytes: u64,
    /// When something of use was last seen to have gone over its connections.
    used_at: Instant,
    stays_until: Option<Instant>,
}

impl Peer {
    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used_at) >= QUIET_MIN && self.stays_until.is_none_or(|until| until <= now)
    }
}

/// Every connected peer, and what is known of its connections. Pure: it is given what peers have used, and says who may go.
#[derive(Debug, Default)]
pub(super) struct Connected {
    peers: HashMap<PeerId, Peer>,
    /// Whose connections were ended a short while ago for being quiet.
    ended: HashMap<PeerId, Instant>,
}

impl Connected {
    /// A peer has its first connection.
    fn came(&mut self, peer: PeerId, now: Instant) {
        let ended_at = self.ended.remove(&peer);
        let comes_back = ended_at.is_some_and(|at| now.saturating_duration_since(at) < RETURN_MAX);
        self.peers.entry(peer).or_insert(Peer {
            since: now,
            used_bytes: 0,
            used_at: now,
            stays_until: comes_back.then(|| now + STAY),
        });
    }

    /// A peer has lost its last connection.
    fn gone(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// So many bytes of use have gone over the connections of these peers, since each has come.
    fn used(&mut self, bytes: impl IntoIterator<Item = (PeerId, u64)>, now: Instant) {
        self.ended.retain(|_, at| now.saturating_duration_since(*at) < RETURN_MAX);
        for (peer, bytes) in bytes {
            if let Some(known) = self.peers.get_mut(&peer)
                && known.used_bytes != bytes
            {
                (known.used_bytes, known.used_at) = (bytes, now);
            }
        }
    }

    /// Up to so many peers that nobody needs, quiet or not; those that were quiet longest first.
    fn unneeded(&self, count: usize, is_needed: impl Fn(&PeerId) -> bool, now: Instant) -> Vec<PeerId> {
        let is_young = |known: &Peer| now.saturating_duration_since(known.since) < AGE_MIN;
        self.oldest(|peer, known| !is_young(known) && !is_needed(peer), |_| count)
    }

    /// The peers that nobody needs and that have been quiet for longer than `quiet_max` others that are.
    fn quiet(&self, quiet_max: usize, is_needed: impl Fn(&PeerId) -> bool, now: Instant) -> Vec<PeerId> {
        self.oldest(|peer, known| known.is_quiet(now) && !is_needed(peer), |quiet| quiet.saturating_sub(quiet_max))
    }

    /// Of the peers that may go, so many as `count` says for their number, those first that were quiet longest.
    fn oldest(&self, may_go: impl Fn(&PeerId, &Peer) -> bool, count: impl FnOnce(usize) -> usize) -> Vec<PeerId> {
        let going = self.peers.iter().filter(|(peer, known)| may_go(peer, known));
        let mut going: Vec<(Instant, PeerId)> = going.map(|(peer, known)| (known.used_at, *peer)).collect();
        let count = count(going.len());
        going.sort_unstable_by_key(|(used_at, _)| *used_at);
        going.truncate(count);
        going.into_iter().map(|(_, peer)| peer).collect()
    }

    /// These are ended for being quiet.
    fn note_ended(&mut self, peers: &[PeerId], now: Instant) {
        self.ended.extend(peers.iter().map(|peer| (*peer, now)));
    }
}

impl EventLoop {
    /// A peer has its first connection.
    pub(super) fn note_connected(&mut self, peer: PeerId) {
        self.connected.came(peer, Instant::now());
    }

    /// A peer has lost its last connection.
    pub(super) fn note_gone(&mut self, peer: &PeerId) {
        self.connected.gone(peer);
    }

    /// Ends connections that nobody needs: the quiet ones beyond `network.quiet_connections_max`, and others if there are too many. To be
    /// called with every tick.
    pub(super) fn end_unneeded(&mut self) {
        let now = Instant::now();
        self.connected.used(self.shared.bandwidth.used(), now);
        let established = self.swarm.network_info().connection_counters().num_established();
        let max = self.connections_max;
        let is_memory_exceeded = self.swarm.behaviour_mut().crowding.is_memory_exceeded();
        let is_needed = |peer: &PeerId| match self.numbers.get(peer) {
            Some(number) => self.is_needed(*number, peer),
            None => self.is_wanted(peer),
        };
        let ended = if established > max / 8 * HIGH_EIGHTHS || is_memory_exceeded {
            let left = if is_memory_exceeded { established / 2 } else { max / 8 * LOW_EIGHTHS };
            self.connected.unneeded(established.saturating_sub(left) as usize, is_needed, now)
        } else {
            let quiet = self.connected.quiet(self.quiet_connections_max as usize, is_needed, now);
            self.connected.note_ended(&quiet, now);
            quiet
        };
        if !ended.is_empty() {
            tracing::debug!(
                established,
                is_memory_exceeded,
                ended = ended.len(),
                "ending connections that nobody needs"
            );
        }
        for peer in ended {
            // One that is gone already needs no end.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(_: &PeerId) -> bool {
        false
    }

    /// So many peers that came one second after the other, the last of them now.
    fn connected(count: u32) -> (Connected, Vec<PeerId>, Instant) {
        let (mut connected, start) = (Connected::default(), Instant::now());
        let peers: Vec<PeerId> = (0..count).map(|_| PeerId::random()).collect();
        for (second, peer) in (0..).zip(&peers) {
            connected.came(*peer, start + Duration::from_secs(second));
        }
        (connected, peers, start + Duration::from_secs(u64::from(count) - 1))
    }

    #[test]
    fn quiet_peers_beyond_the_mark_go_those_first_that_were_quiet_longest() {
        let (mut connected, peers, now) = connected(5);
        assert_eq!(connected.quiet(0, nobody, now + QUIET_MIN - Duration::from_secs(5)), []);
        let now = now + QUIET_MIN;
        assert_eq!(connected.quiet(5, nobody, now), []);
        assert_eq!(connected.quiet(2, nobody, now), peers[..3]);
        // What is used isn't quiet, and doesn't count as one that is.
        connected.used([(peers[0], 10), (peers[1], 0), (PeerId::random(), 7)], now);
        assert_eq!(connected.quiet(2, nobody, now), peers[1..3]);
        let later = now + QUIET_MIN;
        connected.used([(peers[0], 10)], later);
        assert_eq!(connected.quiet(1, nobody, later), peers[1..], "it has been quiet again, for the shortest time");
        connected.gone(&peers[1]);
        assert_eq!(connected.quiet(1, nobody, later), peers[2..]);
    }

    #[test]
    fn whoever_is_needed_stays_and_leaves_room_for_others() {
        let (connected, peers, now) = connected(5);
        let is_needed = |peer: &PeerId| peers[..2].contains(peer);
        let now = now + QUIET_MIN;
        assert_eq!(connected.quiet(0, is_needed, now), peers[2..]);
        assert_eq!(connected.quiet(2, is_needed, now), peers[2..3]);
        assert_eq!(connected.unneeded(5, is_needed, now), peers[2..]);
        assert_eq!(connected.unneeded(2, is_needed, now), peers[2..4]);
    }

    #[test]
    fn when_there_are_too_many_those_go_that_are_not_new() {
        let (mut connected, peers, now) = connected(20);
        // The eleventh came ten seconds ago.
        let mut gone = connected.unneeded(20, nobody, now + Duration::from_secs(1));
        assert_eq!(gone, peers[..11]);
        connected.used([(peers[0], 1)], now);
        gone.rotate_left(1);
        assert_eq!(
            connected.unneeded(20, nobody, now + Duration::from_secs(1)),
            gone,
            "the last that was used goes last"
        );
    }

    #[test]
    fn whoever_comes_back_at_once_stays_for_a_while() {
        let (mut connected, peers, now) = connected(3);
        let now = now + QUIET_MIN;
        let ended = connected.quiet(0, nobody, now);
        connected.note_ended(&ended, now);
        for peer in &peers {
            connected.gone(peer);
        }
        let [early, late, first] = [now + Duration::from_secs(5), now + RETURN_MAX, now + 2 * QUIET_MIN];
        connected.came(peers[0], early);
        connected.used([], late);
        connected.came(peers[1], late);
        assert!(connected.ended.is_empty(), "nobody is remembered for ever");
        assert_eq!(connected.quiet(0, nobody, first), [peers[1]]);
        assert_eq!(connected.unneeded(2, nobody, first), peers[..2], "unless there are too many");
        assert_eq!(connected.quiet(0, nobody, early + STAY), peers[..2]);
        // It comes again later, for reasons of its own.
        connected.gone(&peers[0]);
        connected.came(peers[0], early + STAY);
        assert_eq!(connected.quiet(1, nobody, early + STAY + QUIET_MIN), [peers[1]]);
    }
}
