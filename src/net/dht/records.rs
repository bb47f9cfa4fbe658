//! The providers' records that others leave here while we are a server of the DHT, within bounds that no flood can push.
//!
//! A server keeps what lies near its own place in the keyspace, so when all is full what lies furthest goes first: records
//! under made-up keys displace none that this server is there for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};
use sha2::{Digest, Sha256};

use super::super::address::Network;

/// Records, all keys and providers together.
const RECORDS_MAX: usize = 256 * 1024;

/// Records under one key: more than any reader takes.
const RECORDS_PER_KEY_MAX: usize = 20;

/// Providers, whose addresses are most of what a record takes.
const PROVIDERS_MAX: usize = 32 * 1024;

/// Providers of one network, so that a flood of made-up peers from a few machines leaves room for all others.
const PROVIDERS_PER_NETWORK_MAX: usize = PROVIDERS_MAX / 32;

/// Addresses of one provider, and the bytes of each.
const ADDRESSES_MAX: usize = 8;
const ADDRESS_BYTES_MAX: usize = 128;

/// How long a record without an end of its own is kept, as the specification says.
const LIFETIME: Duration = Duration::from_hours(48);

/// How often records are looked for whose time is over.
const CLEANED_EVERY: Duration = Duration::from_mins(10);

#[derive(Debug)]
struct Provider {
    peer: PeerId,
    network: Option<Network>,
    addresses: Vec<Multiaddr>,
    records: usize,
}

/// A record under a key.
#[derive(Debug, Clone, Copy)]
struct Entry {
    provider: u32,
    /// Seconds after the store was made.
    ends_at: u32,
}

/// Providers' records, the nearest keys first. Values aren't kept.
#[derive(Debug)]
pub struct ProviderRecords {
    own_place: [u8; 32],
    made_at: Instant,
    cleaned_at: Instant,
    /// By how far the key is from our own place; no two keys are equally far.
    by_distance: BTreeMap<[u8; 32], Vec<Entry>>,
    providers: HashMap<u32, Provider>,
    numbers: HashMap<PeerId, u32>,
    of_networks: HashMap<Option<Network>, usize>,
    next_number: u32,
    records: usize,
    records_max: usize,
    providers_max: usize,
    per_network_max: usize,
}

impl ProviderRecords {
    /// Nothing is kept yet.
    pub(super) fn new(own: PeerId) -> Self {
        Self::with_bounds(own, RECORDS_MAX, PROVIDERS_MAX, PROVIDERS_PER_NETWORK_MAX)
    }

    fn with_bounds(own: PeerId, records_max: usize, providers_max: usize, per_network_max: usize) -> Self {
        let now = Instant::now();
        Self {
            own_place: Sha256::digest(own.to_bytes()).into(),
            made_at: now,
            cleaned_at: now,
            by_distance: BTreeMap::new(),
            providers: HashMap::new(),
            numbers: HashMap::new(),
            of_networks: HashMap::new(),
            next_number: 0,
            records: 0,
            records_max,
            providers_max,
            per_network_max,
        }
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.records
    }

    fn distance(&self, key: &RecordKey) -> [u8; 32] {
        let mut place: [u8; 32] = Sha256::digest(key).into();
        for (byte, own) in place.iter_mut().zip(self.own_place) {
            *byte ^= own;
        }
        place
    }

    fn seconds_at(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.made_at).as_secs()).unwrap_or(u32::MAX)
    }

    /// The number of a provider, with its newest addresses; `None` if there are too many, all of them or of its network.
    fn number(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, network: Option<Network>) -> Option<u32> {
        let mut addresses = addresses;
        addresses.retain(|address| address.len() <= ADDRESS_BYTES_MAX);
        addresses.truncate(ADDRESSES_MAX);
        addresses.shrink_to_fit();
        if let Some(number) = self.numbers.get(&peer) {
            if let Some(provider) = self.providers.get_mut(number) {
                provider.addresses = addresses;
            }
            return Some(*number);
        }
        let of_network = self.of_networks.get(&network).copied().unwrap_or(0);
        if self.providers.len() >= self.providers_max || of_network >= self.per_network_max {
            return None;
        }
        self.of_networks.insert(network, of_network + 1);
        // After four billion providers a number may still be that of a living one; then it is passed over.
        while self.providers.contains_key(&self.next_number) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        self.numbers.insert(peer, number);
        self.providers.insert(number, Provider { peer, network, addresses, records: 0 });
        Some(number)
    }

    fn forget(&mut self, entries: &[Entry]) {
        self.records -= entries.len();
        for entry in entries {
            let Some(provider) = self.providers.get_mut(&entry.provider) else { continue };
            provider.records -= 1;
            if provider.records == 0 {
                let (peer, network) = (provider.peer, provider.network);
                self.providers.remove(&entry.provider);
                self.numbers.remove(&peer);
                if let Some(count) = self.of_networks.get_mut(&network) {
                    *count -= 1;
                    if *count == 0 {
                        self.of_networks.remove(&network);
                    }
                }
            }
        }
    }

    fn clean(&mut self, now: Instant) {
        if now.saturating_duration_since(self.cleaned_at) < CLEANED_EVERY {
            return;
        }
        self.cleaned_at = now;
        let now = self.seconds_at(now);
        let mut over = Vec::new();
        self.by_distance.retain(|_, entries| {
            entries.retain(|entry| {
                let is_over = entry.ends_at <= now;
                if is_over {
                    over.push(*entry);
                }
                !is_over
            });
            !entries.is_empty()
        });
        self.forget(&over);
    }

    /// Keeps the record of a provider that is connected from that network, if it is known.
    pub(super) fn keep(&mut self, record: ProviderRecord, network: Option<Network>) -> Result<()> {
        self.insert(record, network, Instant::now())
    }

    fn insert(&mut self, record: ProviderRecord, network: Option<Network>, now: Instant) -> Result<()> {
        self.clean(now);
        let distance = self.distance(&record.key);
        let ends_at = self.seconds_at(record.expires.unwrap_or(now + LIFETIME));
        let is_full = self.records >= self.records_max;
        if is_full && self.by_distance.last_key_value().is_none_or(|(furthest, _)| *furthest <= distance) {
            return Err(Error::MaxProvidedKeys);
        }
        let number = self.number(record.provider, record.addresses, network).ok_or(Error::MaxProvidedKeys)?;
        let entries = self.by_distance.entry(distance).or_default();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.provider == number) {
            entry.ends_at = ends_at;
            return Ok(());
        }
        let displaced = if entries.len() >= RECORDS_PER_KEY_MAX {
            Some(entries.remove(dispensable(entries, &self.providers)))
        } else {
            None
        };
        entries.push(Entry { provider: number, ends_at });
        if let Some(provider) = self.providers.get_mut(&number) {
            provider.records += 1;
        }
        self.records += 1;
        if let Some(displaced) = displaced {
            self.forget(&[displaced]);
        } else if is_full && let Some((_, furthest)) = self.by_distance.pop_last() {
            self.forget(&furthest);
        }
        Ok(())
    }
}

/// The oldest entry of the network that has most of them: whoever makes up peers displaces those first.
fn dispensable(entries: &[Entry], providers: &HashMap<u32, Provider>) -> usize {
    let network = |entry: &Entry| providers.get(&entry.provider).and_then(|provider| provider.network);
    let of_same = |entry: &Entry| entries.iter().filter(|other| network(other) == network(entry)).count();
    let most = entries.iter().map(of_same).max();
    entries.iter().position(|entry| Some(of_same(entry)) == most).unwrap_or(0)
}

impl RecordStore for ProviderRecords {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.insert(record, None, Instant::now())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(entries) = self.by_distance.get(&self.distance(key)) else { return Vec::new() };
        let now = self.seconds_at(Instant::now());
        let living = entries.iter().filter(|entry| entry.ends_at > now);
        let record = |entry: &Entry| {
            let provider = self.providers.get(&entry.provider)?;
            Some(ProviderRecord {
                key: key.clone(),
                provider: provider.peer,
                expires: None,
                addresses: provider.addresses.clone(),
            })
        };
        living.filter_map(record).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        let distance = self.distance(key);
        let Some(number) = self.numbers.get(peer) else { return };
        let Some(entries) = self.by_distance.get_mut(&distance) else { return };
        let Some(position) = entries.iter().position(|entry| entry.provider == *number) else { return };
        let entry = entries.remove(position);
        if entries.is_empty() {
            self.by_distance.remove(&distance);
        }
        self.forget(&[entry]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::address;
    use super::*;

    fn key(number: u32) -> RecordKey {
        RecordKey::new(&number.to_be_bytes())
    }

    fn record(number: u32, provider: PeerId) -> ProviderRecord {
        ProviderRecord::new(key(number), provider, vec!["/ip4/8.8.8.8/tcp/4001".parse().unwrap()])
    }

    #[test]
    fn records_come_back_with_the_newest_addresses() {
        let (own, provider, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut records = ProviderRecords::new(own);
        assert!(records.providers(&key(1)).is_empty());
        for peer in [provider, other, provider] {
            records.add_provider(record(1, peer)).unwrap();
        }
        let mut moved = record(2, provider);
        moved.addresses = vec!["/ip4/9.9.9.9/tcp/4001".parse().unwrap(); 40];
        records.add_provider(moved).unwrap();
        let found = records.providers(&key(1));
        assert_eq!((found.len(), records.len()), (2, 3));
        let first = found.iter().find(|record| record.provider == provider).unwrap();
        assert_eq!(first.addresses.len(), ADDRESSES_MAX);
        assert!(first.addresses[0].to_string().contains("9.9.9.9"));
        for peer in [provider, other] {
            records.remove_provider(&key(1), &peer);
            records.remove_provider(&key(1), &peer);
        }
        assert_eq!((records.len(), records.providers.len(), records.numbers.len()), (1, 1, 1));
        assert!(records.providers(&key(1)).is_empty());
        assert!(records.get(&key(1)).is_none() && records.put(Record::new(key(1), vec![1])).is_err());
    }

    #[test]
    fn a_flood_displaces_what_is_furthest_only() {
        let own = PeerId::random();
        let mut records = ProviderRecords::with_bounds(own, 100, 50, 50);
        let flooder = PeerId::random();
        for number in 0..10_000 {
            let _ = records.add_provider(record(number, flooder));
            assert!(records.len() <= 100);
        }
        let mut nearest: Vec<u32> = (0..10_000).collect();
        nearest.sort_by_key(|number| records.distance(&key(*number)));
        for number in &nearest[..100] {
            assert_eq!(records.providers(&key(*number)).len(), 1, "{number} is among the nearest");
        }
        // Peers without end don't get further either, nor does one key take all room.
        for _ in 0..200 {
            let _ = records.add_provider(record(nearest[0], PeerId::random()));
        }
        assert_eq!(records.providers(&key(nearest[0])).len(), RECORDS_PER_KEY_MAX);
        assert!(records.providers.len() <= 50 && records.len() <= 100);
        let counted: usize = records.providers.values().map(|provider| provider.records).sum();
        let listed: usize = records.by_distance.values().map(Vec::len).sum();
        assert_eq!((counted, listed), (records.len(), records.len()));
        assert_eq!(records.providers.len(), records.numbers.len());
    }

    #[test]
    fn made_up_peers_of_one_network_leave_room_for_all_others() {
        let mut records = ProviderRecords::with_bounds(PeerId::random(), 10_000, 1_000, 100);
        let network = |number: u8| Some(address::network(std::net::IpAddr::from([number, 1, 1, 1])));
        let honest: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        for peer in &honest[..4] {
            records.keep(record(7, *peer), network(1)).unwrap();
        }
        let mut refused = 0;
        for number in 0..5_000 {
            refused += usize::from(records.keep(record(number % 10, PeerId::random()), network(2)).is_err());
        }
        assert!(refused >= 4_000 && records.providers.len() <= 104, "{refused} refused");
        records.keep(record(7, honest[4]), network(3)).unwrap();
        let told: Vec<PeerId> = records.providers(&key(7)).iter().map(|record| record.provider).collect();
        assert!(honest.iter().all(|peer| told.contains(peer)), "those of one network displace each other");
        assert_eq!(records.of_networks.values().sum::<usize>(), records.providers.len());
        for peer in &honest {
            records.remove_provider(&key(7), peer);
        }
        assert_eq!(records.of_networks.len(), 1);
    }

    #[test]
    fn what_is_over_is_neither_told_nor_kept() {
        let mut records = ProviderRecords::new(PeerId::random());
        let now = Instant::now();
        let mut over = record(1, PeerId::random());
        over.expires = Some(now);
        records.insert(over, None, now).unwrap();
        assert!(records.providers(&key(1)).is_empty());
        records.insert(record(2, PeerId::random()), None, now + CLEANED_EVERY).unwrap();
        assert_eq!((records.len(), records.providers.len(), records.by_distance.len()), (1, 1, 1));
        assert_eq!(records.providers(&key(2)).len(), 1);
    }
}
