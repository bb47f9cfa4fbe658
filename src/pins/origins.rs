//! The peers that unfinished pins name as origins: dialled again and again until the pin ends, grouped by peer. The
//! gateways that they name are only remembered here; each try of a pin asks them. Peers that a look-up found are kept beside them.
//!
//! An origin whose address can't be dialled still counts: when that peer dials us, it is a source for the pin.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::bitswap::PeerNumber;
use crate::bitswap::session::Answers;
use crate::model::{PinId, PinRecord};
use crate::net::profile::{self, Profile, check_origin, origin_peer};
use crate::net::{GatewayAddress, Multiaddr, PeerId};

/// The wait before a peer is dialled a second time; it doubles.
const REDIAL_MIN: Duration = Duration::from_secs(2);

/// The longest wait between two dials of a peer.
const REDIAL_MAX: Duration = Duration::from_secs(300);

/// Addresses of one peer, whatever its pins name.
const ADDRESSES_PER_PEER_MAX: usize = 40;

/// Peers that are remembered as found for one pin; further ones are only asked.
const FOUND_PER_PIN_MAX: usize = 16;

#[derive(Debug)]
struct Origin {
    addresses: Vec<Multiaddr>,
    /// Pins that name it.
    pins: HashSet<PinId>,
    /// Pins for which it was found.
    found_for: HashSet<PinId>,
    /// Who was the last to say that it has something.
    named_by: Option<Arc<str>>,
    next_dial_at: Instant,
    wait: Duration,
    is_connected: bool,
    /// Under which number fetches knew it last.
    number: Option<PeerNumber>,
    /// Why it couldn't be dialled, when it was last tried.
    problem: Option<String>,
}

impl Origin {
    fn new(now: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            pins: HashSet::new(),
            found_for: HashSet::new(),
            named_by: None,
            next_dial_at: now,
            wait: REDIAL_MIN,
            is_connected: false,
            number: None,
            problem: None,
        }
    }
}

/// What is known of those whom a pin names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// For each peer, a sentence that says how it goes.
    pub all: Vec<String>,
    /// Those of them that aren't connected.
    pub problems: Vec<String>,
    /// How many peers are connected.
    pub connected: usize,
    /// How many peers there are.
    pub peers: usize,
    /// How many origins there are, peers and gateways.
    pub named: usize,
    /// How many further peers were found to have the content.
    pub found: usize,
    /// How many of those are connected.
    pub found_connected: usize,
}

/// A peer that is said to have a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// The peer.
    pub peer: PeerId,
    /// Where it may be dialled. None are needed if it is connected or being dialled.
    pub addresses: Vec<Multiaddr>,
    /// Who says so, as in a sentence.
    pub by: Arc<str>,
}

/// All origins of unfinished pins.
#[derive(Debug)]
pub struct Origins {
    profile: Profile,
    own_peer: PeerId,
    peers: HashMap<PeerId, Origin>,
    pins: HashMap<PinId, Vec<PeerId>>,
    /// The peers that were found for each pin.
    found: HashMap<PinId, Vec<PeerId>>,
    /// Only of pins that name some.
    gateways: HashMap<PinId, Vec<GatewayAddress>>,
    /// When each peer is dialled next, so that looking costs what is due, not what is known.
    dials: BTreeSet<(Instant, PeerId)>,
}

impl Origins {
    /// No origins yet.
    pub fn new(profile: Profile, own_peer: PeerId) -> Self {
        Self {
            profile,
            own_peer,
            peers: HashMap::new(),
            pins: HashMap::new(),
            found: HashMap::new(),
            gateways: HashMap::new(),
            dials: BTreeSet::new(),
        }
    }

    /// Adds the origins of a pin; they are dialled with the next [`Origins::due`]. Returns peers that no other pin named.
    pub fn add(&mut self, record: &PinRecord, now: Instant) -> Vec<PeerId> {
        if self.pins.contains_key(&record.id) {
            return Vec::new();
        }
        let mut new = Vec::new();
        let mut peers = Vec::new();
        let mut gateways = Vec::new();
        for text in &record.origins {
            let address = match check_origin(&self.profile, text, self.own_peer) {
                Ok(profile::Origin::Peer(_, address)) => Some(address),
                Ok(profile::Origin::Gateway(gateway)) => {
                    if !gateways.contains(&gateway) {
                        gateways.push(gateway);
                    }
                    None
                }
                Err(_) => None,
            };
            // The peer of a gateway may dial us too.
            let Some(peer) = origin_peer(text) else { continue };
            if peer == self.own_peer {
                continue;
            }
            let origin = self.peers.entry(peer).or_insert_with(|| {
                new.push(peer);
                self.dials.insert((now, peer));
                Origin::new(now)
            });
            origin.pins.insert(record.id);
            if let Some(address) = address
                && origin.addresses.len() < ADDRESSES_PER_PEER_MAX
                && !origin.addresses.contains(&address)
            {
                origin.addresses.push(address);
                reschedule(&mut self.dials, peer, origin, now);
            }
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        self.pins.insert(record.id, peers);
        if !gateways.is_empty() {
            self.gateways.insert(record.id, gateways);
        }
        new
    }

    /// A peer was found to have what an unfinished pin wants. Returns whether nobody knew it before.
    pub fn found(&mut self, pin: PinId, lead: &Lead, now: Instant) -> bool {
        let Lead { peer, addresses, by } = lead;
        if *peer == self.own_peer || !self.pins.contains_key(&pin) {
            return false;
        }
        let found = self.found.entry(pin).or_default();
        if !found.contains(peer) {
            if found.len() >= FOUND_PER_PIN_MAX {
                return false;
            }
            found.push(*peer);
        }
        let is_new = !self.peers.contains_key(peer);
        let origin = self.peers.entry(*peer).or_insert_with(|| {
            self.dials.insert((now, *peer));
            Origin::new(now)
        });
        origin.found_for.insert(pin);
        origin.named_by = Some(Arc::clone(by));
        let known = origin.addresses.len();
        for address in addresses {
            if origin.addresses.len() < ADDRESSES_PER_PEER_MAX && !origin.addresses.contains(address) {
                origin.addresses.push(address.clone());
            }
        }
        if origin.addresses.len() > known && !origin.is_connected {
            reschedule(&mut self.dials, *peer, origin, now);
        }
        is_new
    }

    /// Forgets a pin. Returns peers that no pin names any longer.
    pub fn remove(&mut self, pin: PinId) -> Vec<PeerId> {
        self.gateways.remove(&pin);
        let mut gone = self.forget_found(pin);
        for peer in self.pins.remove(&pin).unwrap_or_default() {
            if let Some(origin) = self.peers.get_mut(&peer) {
                origin.pins.remove(&pin);
                gone.extend(self.forget_unneeded(peer));
            }
        }
        gone
    }

    /// Forgets the peers that were found for a pin: another look-up finds those that are there by then. Returns peers that no pin
    /// needs any longer.
    pub fn forget_found(&mut self, pin: PinId) -> Vec<PeerId> {
        let mut gone = Vec::new();
        for peer in self.found.remove(&pin).unwrap_or_default() {
            if let Some(origin) = self.peers.get_mut(&peer) {
                origin.found_for.remove(&pin);
                gone.extend(self.forget_unneeded(peer));
            }
        }
        gone
    }

    fn forget_unneeded(&mut self, peer: PeerId) -> Option<PeerId> {
        let origin = self.peers.get(&peer)?;
        if !origin.pins.is_empty() || !origin.found_for.is_empty() {
            return None;
        }
        self.dials.remove(&(origin.next_dial_at, peer));
        self.peers.remove(&peer);
        Some(peer)
    }

    /// The peers that a pin names.
    pub fn of(&self, pin: PinId) -> &[PeerId] {
        self.pins.get(&pin).map_or(&[], Vec::as_slice)
    }

    /// The gateways that a pin names.
    pub fn gateways_of(&self, pin: PinId) -> &[GatewayAddress] {
        self.gateways.get(&pin).map_or(&[], Vec::as_slice)
    }

    /// The pins that name a peer, or for which it was found.
    pub fn pins_of(&self, peer: &PeerId) -> Vec<PinId> {
        let Some(origin) = self.peers.get(peer) else { return Vec::new() };
        origin.pins.union(&origin.found_for).copied().collect()
    }

    /// A pin is tried (again): its peers are dialled with the next [`Origins::due`].
    pub fn hurry(&mut self, pin: PinId, now: Instant) {
        for peer in self.pins.get(&pin).into_iter().flatten() {
            if let Some(origin) = self.peers.get_mut(peer) {
                let at = origin.next_dial_at.min(now);
                reschedule(&mut self.dials, *peer, origin, at);
            }
        }
    }

    /// A peer is connected.
    pub fn connected(&mut self, peer: &PeerId, number: PeerNumber, now: Instant) {
        if let Some(origin) = self.peers.get_mut(peer) {
            origin.wait = REDIAL_MIN;
            origin.is_connected = true;
            origin.number = Some(number);
            origin.problem = None;
            reschedule(&mut self.dials, *peer, origin, now + REDIAL_MAX);
        }
    }

    /// A peer is connected no longer: it is dialled at once, and again soon, since it may only have been started anew.
    pub fn gone(&mut self, peer: &PeerId, now: Instant) {
        if let Some(origin) = self.peers.get_mut(peer) {
            origin.is_connected = false;
            origin.wait = REDIAL_MIN;
            origin.problem = Some("its connection was closed".to_owned());
            reschedule(&mut self.dials, *peer, origin, now);
        }
    }

    /// A peer couldn't be dialled.
    pub fn failed(&mut self, peer: &PeerId, problem: String) {
        if let Some(origin) = self.peers.get_mut(peer).filter(|origin| !origin.is_connected) {
            origin.problem = Some(problem);
        }
    }

    /// What is known of the peers that a pin names, and how many gateways it names beside them. `answers` are those that the pin's
    /// fetch got.
    pub fn tried(&self, pin: PinId, answers: &[(PeerNumber, Answers)]) -> Tried {
        let mut tried = Tried { named: self.gateways_of(pin).len(), ..Tried::default() };
        let named = self.of(pin);
        let found = self.found.get(&pin).map_or(&[][..], Vec::as_slice);
        let found = found.iter().filter(|peer| !named.contains(peer));
        for (peer, is_named) in named.iter().map(|peer| (peer, true)).chain(found.map(|peer| (peer, false))) {
            let Some(origin) = self.peers.get(peer) else { continue };
            tried.named += usize::from(is_named);
            tried.peers += usize::from(is_named);
            tried.found += usize::from(!is_named);
            let answer = answers.iter().find(|(number, _)| origin.number == Some(*number));
            let answer = answer.map_or_else(String::new, |(_, answers)| said(answers));
            let how = match &origin.named_by {
                Some(by) if !is_named => format!("named by {by}, "),
                _ => String::new(),
            };
            if origin.is_connected {
                tried.connected += usize::from(is_named);
                tried.found_connected += usize::from(!is_named);
                tried.all.push(format!("{peer}: {how}connected{answer}"));
                continue;
            }
            let problem = match &origin.problem {
                Some(problem) => problem.as_str(),
                None if origin.addresses.is_empty() && is_named => {
                    "it has no address that can be dialled, and hasn't connected itself"
                }
                None => "it has not answered yet",
            };
            let sentence = format!("{peer}: {how}{problem}{answer}");
            tried.all.push(sentence.clone());
            tried.problems.push(sentence);
        }
        tried
    }

    /// The peers to dial now, each with its addresses. Dialling a connected peer does nothing.
    pub fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut due = Vec::new();
        while let Some((_, peer)) = self.dials.first().copied().filter(|(at, _)| *at <= now) {
            let Some(origin) = self.peers.get_mut(&peer) else {
                self.dials.pop_first();
                continue;
            };
            let at = now + if origin.is_connected { REDIAL_MAX } else { origin.wait };
            reschedule(&mut self.dials, peer, origin, at);
            if !origin.is_connected {
                origin.wait = (2 * origin.wait).min(REDIAL_MAX);
            }
            if !origin.addresses.is_empty() {
                due.push((peer, origin.addresses.clone()));
            }
        }
        due
    }
}

/// What a peer did with what it was asked for, to be put after how its connection is.
fn said(answers: &Answers) -> String {
    let Answers { asked, blocks, bytes, denied, late } = *answers;
    let mut said = match (asked, blocks, denied) {
        (0, ..) => return String::new(),
        (_, 0, 0) => "; it was asked for blocks, and has not answered".to_owned(),
        (_, 0, _) => "; it says that it does not have what it was asked for".to_owned(),
        _ => format!("; it sent {} blocks with {}", blocks, ByteSize(bytes)),
    };
    if blocks > 0 && denied > 0 {
        said.push_str(", and says of others that it does not have them");
    }
    if late > 0 && blocks + denied > 0 {
        said.push_str(", and was late with some");
    }
    said
}

fn reschedule(dials: &mut BTreeSet<(Instant, PeerId)>, peer: PeerId, origin: &mut Origin, at: Instant) {
    dials.remove(&(origin.next_dial_at, peer));
    origin.next_dial_at = at;
    dials.insert((at, peer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PinState, UserId};
    use std::collections::BTreeMap;

    const FIRST: &str = "12D3KooWGRUhFGu3hKQdVHzPP1LqTiFyBhVgfhZr2VfJvhzm8wDY";

    fn record(origins: &[&str]) -> PinRecord {
        PinRecord {
            id: PinId::new(),
            user: UserId(1),
            cid_text: "bafkqaaa".into(),
            root: "bafkqaaa".parse().unwrap(),
            name: None,
            origins: origins.iter().map(|text| (*text).to_owned()).collect(),
            origins_skipped: Vec::new(),
            meta: BTreeMap::new(),
            created_ms: 0,
            expires_ms: None,
            state: PinState::Queued,
            retained_roots: Vec::new(),
        }
    }

    #[test]
    fn origins_are_dialled_grouped_by_peer_and_with_growing_waits() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let peer = PeerId::random();
        let texts = [format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}"), format!("/ip4/8.8.4.4/tcp/1/p2p/{peer}")];
        let record = record(&[&texts[0], &texts[1], "nonsense"]);
        assert_eq!(origins.add(&record, now), [peer]);
        let due = origins.due(now);
        assert_eq!((due.len(), due[0].1.len()), (1, 2));
        assert!(origins.due(now + REDIAL_MIN - Duration::from_millis(1)).is_empty());
        assert_eq!(origins.due(now + REDIAL_MIN).len(), 1);
        assert!(origins.due(now + 2 * REDIAL_MIN).is_empty(), "the wait has doubled");
        origins.hurry(record.id, now + 2 * REDIAL_MIN);
        assert_eq!(origins.due(now + 2 * REDIAL_MIN).len(), 1);
        assert_eq!(origins.remove(record.id), [peer]);
        assert!(origins.due(now + REDIAL_MAX).is_empty());
    }

    #[test]
    fn an_origin_that_went_away_is_dialled_at_once() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let record = record(&[&format!("/ip4/8.8.8.8/tcp/1/p2p/{FIRST}")]);
        let peer: PeerId = FIRST.parse().unwrap();
        origins.add(&record, now);
        // Each try of the pin, and however long the peer is connected, must cost nothing when it goes.
        for _ in 0..5 {
            assert_eq!(origins.due(now).len(), 1);
            origins.hurry(record.id, now);
        }
        origins.connected(&peer, PeerNumber(1), now);
        let gone = now + Duration::from_hours(5);
        for _ in 0..5 {
            origins.hurry(record.id, gone);
            origins.due(gone);
        }
        origins.gone(&peer, gone);
        assert_eq!(origins.due(gone).len(), 1);
        assert!(origins.due(gone).is_empty());
        assert_eq!(origins.due(gone + REDIAL_MIN).len(), 1);
        assert!(origins.due(gone + 2 * REDIAL_MIN).is_empty(), "the wait has doubled");
        assert_eq!(origins.due(gone + 3 * REDIAL_MIN).len(), 1);
    }

    #[test]
    fn a_peer_that_cannot_be_dialled_is_still_a_source() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let record = record(&[&format!("/ip4/192.168.1.2/tcp/4001/p2p/{FIRST}")]);
        let peer: PeerId = FIRST.parse().unwrap();
        assert_eq!(origins.add(&record, now), [peer]);
        assert!(origins.due(now).is_empty());
        assert_eq!(origins.pins_of(&peer), [record.id]);
        assert_eq!(origins.of(record.id), [peer]);
    }

    #[test]
    fn gateways_are_remembered_and_their_peers_awaited() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let with_peer = format!("/dns/example.org/tcp/443/tls/http/p2p/{FIRST}");
        let record = record(&["/dns/example.org/https", &with_peer, "/dns/other.example/https", "/ip4/10.0.0.1/https"]);
        let peer: PeerId = FIRST.parse().unwrap();
        assert_eq!(origins.add(&record, now), [peer]);
        assert!(origins.due(now).is_empty(), "gateways aren't dialled");
        let urls: Vec<String> = origins.gateways_of(record.id).iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["https://example.org", "https://other.example"]);
        assert_eq!(origins.remove(record.id), [peer]);
        assert!(origins.gateways_of(record.id).is_empty());
    }

    #[test]
    fn a_peer_of_two_pins_stays_until_both_end() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let text = format!("/ip4/8.8.8.8/tcp/1/p2p/{FIRST}");
        let (first, second) = (record(&[&text]), record(&[&text]));
        assert_eq!(origins.add(&first, now).len(), 1);
        assert!(origins.add(&second, now).is_empty());
        assert!(origins.remove(first.id).is_empty());
        assert_eq!(origins.remove(second.id).len(), 1);
    }

    #[test]
    fn how_each_origin_goes_is_told() {
        let (mut origins, now) = (Origins::new(Profile::Public, PeerId::random()), Instant::now());
        let (first, second, third) = (PeerId::random(), PeerId::random(), PeerId::random());
        let texts = [
            format!("/ip4/8.8.8.8/tcp/1/p2p/{first}"),
            format!("/ip4/8.8.4.4/tcp/1/p2p/{second}"),
            format!("/ip4/10.0.0.1/tcp/1/p2p/{third}"),
            "/dns/example.org/https".to_owned(),
        ];
        let record = record(&texts.each_ref().map(String::as_str));
        origins.add(&record, now);
        let tried = origins.tried(record.id, &[]);
        assert_eq!((tried.named, tried.connected, tried.problems.len()), (4, 0, 3));
        assert!(tried.problems[0].ends_with("it has not answered yet"), "{tried:?}");
        assert!(tried.problems[2].contains("no address that can be dialled"), "{tried:?}");

        origins.failed(&first, "refused".to_owned());
        origins.connected(&second, PeerNumber(2), now);
        origins.failed(&second, "a late failure of another address".to_owned());
        let tried = origins.tried(record.id, &[]);
        assert_eq!(tried.connected, 1);
        assert_eq!(tried.problems[0], format!("{first}: refused"));
        assert!(tried.all.contains(&format!("{second}: connected")), "{tried:?}");

        let silent = (PeerNumber(2), Answers { asked: 3, late: 1, ..Answers::default() });
        let tried = origins.tried(record.id, &[silent]);
        assert!(
            tried.all.contains(&format!("{second}: connected; it was asked for blocks, and has not answered")),
            "{tried:?}"
        );

        origins.gone(&second, now);
        origins.connected(&first, PeerNumber(1), now);
        let tried = origins.tried(record.id, &[]);
        assert_eq!(tried.problems[0], format!("{second}: its connection was closed"));
        let sent = (PeerNumber(2), Answers { asked: 9, blocks: 2, bytes: 100, denied: 1, late: 1 });
        let tried = origins.tried(record.id, &[silent, sent][1..]);
        let says = "its connection was closed; it sent 2 blocks with 100 B, and says of others that it does not have them, and was late with some";
        assert_eq!(tried.problems[0], format!("{second}: {says}"));
        origins.remove(record.id);
        assert_eq!(origins.tried(record.id, &[]), Tried::default());
    }
}
