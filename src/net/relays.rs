//! Places at relays, for a node that nobody reaches directly: which relays are asked for one, and when.
//!
//! Pure. The protocol is `libp2p-relay`'s: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId};

use super::address;

/// What a relay speaks.
pub(super) const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");

/// Places that are held: one may go at any time.
const PLACES_MAX: usize = 2;

/// Relays that are remembered.
const RELAYS_MAX: usize = 32;

/// The wait before a relay is asked again that gave no place, or whose place was lost; it doubles with every time.
const AGAIN_MIN: Duration = Duration::from_secs(30);

/// The longest wait.
const AGAIN_MAX: Duration = Duration::from_mins(30);

/// A request for a place that got no answer in this time is given up.
const ANSWER_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    None,
    Asked { since: Instant },
    Held,
}

#[derive(Debug)]
struct Relay {
    peer: PeerId,
    address: Multiaddr,
    place: Place,
    next_try_at: Instant,
    wait: Duration,
}

/// The relays that are known.
#[derive(Debug, Default)]
pub(super) struct Relays(Vec<Relay>);

impl Relays {
    /// A peer that is connected at this address offers places.
    pub(super) fn found(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) {
        let address = address::without_peer(address);
        if let Some(known) = self.0.iter_mut().find(|relay| relay.peer == peer) {
            if known.place == Place::None {
                known.address = address;
            }
            return;
        }
        if self.0.len() >= RELAYS_MAX {
            let is_spare = |relay: &Relay| relay.place == Place::None && relay.wait > AGAIN_MIN;
            let Some(spare) = self.0.iter().position(is_spare) else { return };
            self.0.remove(spare);
        }
        self.0.push(Relay { peer, address, place: Place::None, next_try_at: now, wait: AGAIN_MIN });
    }

    /// The relay that should be asked for a place now, and the address to listen on for it; [`Relays::got`] or
    /// [`Relays::lost`] follows.
    pub(super) fn next(&mut self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        let taken = self.0.iter().filter(|relay| relay.place != Place::None).count();
        if taken >= PLACES_MAX {
            return None;
        }
        let due = self.0.iter_mut().filter(|relay| relay.place == Place::None && relay.next_try_at <= now);
        let relay = due.min_by_key(|relay| (relay.wait, relay.next_try_at))?;
        relay.place = Place::Asked { since: now };
        Some((relay.peer, relay.address.clone().with(Protocol::P2p(relay.peer)).with(Protocol::P2pCircuit)))
    }

    /// A relay has a place for us.
    pub(super) fn got(&mut self, peer: &PeerId) {
        if let Some(relay) = self.0.iter_mut().find(|relay| relay.peer == *peer) {
            (relay.place, relay.wait) = (Place::Held, AGAIN_MIN);
        }
    }

    /// A relay gives none, or its place is gone.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.0.iter_mut().find(|relay| relay.peer == *peer && relay.place != Place::None) {
            (relay.place, relay.next_try_at) = (Place::None, now + relay.wait);
            relay.wait = (2 * relay.wait).min(AGAIN_MAX);
        }
    }

    /// The relays that don't answer.
    pub(super) fn silent(&self, now: Instant) -> Vec<PeerId> {
        let is_silent = |relay: &&Relay| match relay.place {
            Place::Asked { since } => now.saturating_duration_since(since) >= ANSWER_MAX,
            Place::None | Place::Held => false,
        };
        self.0.iter().filter(is_silent).map(|relay| relay.peer).collect()
    }

    /// How many are known.
    pub(super) fn known(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Multiaddr {
        format!("/ip4/1.1.1.{number}/tcp/4001").parse().unwrap()
    }

    #[test]
    fn two_places_are_held_and_a_lost_one_is_replaced() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        assert_eq!(relays.next(now), None);
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        for (number, peer) in peers.iter().enumerate() {
            relays.found(*peer, &address(number), now);
            relays.found(*peer, &address(number), now);
        }
        assert_eq!(relays.known(), 3);
        let (first, listen) = relays.next(now).unwrap();
        assert_eq!(listen.to_string(), format!("{}/p2p/{first}/p2p-circuit", address(0)));
        let (second, _) = relays.next(now).unwrap();
        assert_eq!(relays.next(now), None, "two are asked already");
        relays.got(&first);
        assert_eq!(relays.silent(now + ANSWER_MAX), [second]);
        relays.lost(&second, now);
        let (third, _) = relays.next(now).unwrap();
        assert_eq!(third, peers[2]);
        relays.lost(&third, now);
        assert_eq!(relays.next(now), None, "both have to be left alone for a while");
        assert!(relays.next(now + AGAIN_MIN).is_some());
    }

    #[test]
    fn a_relay_that_gives_no_place_is_asked_ever_more_seldom_and_forgotten_first() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peer = PeerId::random();
        relays.found(peer, &address(1), now);
        let mut at = now;
        for _ in 0..20 {
            assert_eq!(relays.next(at).map(|(peer, _)| peer), Some(peer));
            relays.lost(&peer, at);
            relays.lost(&peer, at);
            at += AGAIN_MAX;
        }
        assert_eq!(relays.0[0].wait, AGAIN_MAX);
        for number in 0..2 * RELAYS_MAX {
            relays.found(PeerId::random(), &address(number), now);
        }
        assert_eq!(relays.known(), RELAYS_MAX);
        assert!(relays.0.iter().all(|relay| relay.peer != peer));
    }
}
