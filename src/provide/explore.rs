//! Finds the servers of a region of the DHT.
//!
//! A look-up finds only the 20 servers closest to a place, and the region whose servers it found all has about half of them. For
//! the 20 closest servers to *every* CID of a region to be known, the region must hold 20, so a region is put together of several
//! look-ups, which together cost as much as if each were used for itself.

use std::collections::BTreeMap;

use super::keyspace::{Key, Prefix};
use super::regions::{REPLICATION, covered, is_exact};

/// Servers that a look-up finds, unless there are fewer.
pub(super) const FOUND_MAX: usize = 20;

/// Look-ups for one region, after which it is left as it is: a network of which so many look-ups find so little is broken.
const LOOKUPS_MAX: usize = 32;

/// Bits of a place that are looked for by trial: the network would need a hundred thousand servers before a region is smaller.
const GUESSED_BITS_MAX: u32 = 16;

/// The servers of a region, by their places.
#[derive(Debug)]
pub(super) struct Region<S> {
    /// All of its servers are known.
    pub(super) prefix: Prefix,
    /// Those, and some around.
    pub(super) servers: BTreeMap<Key, S>,
}

impl<S> Region<S> {
    /// The region of one look-up; `None` if it found nobody.
    pub(super) fn of(place: &Key, servers: BTreeMap<Key, S>) -> Option<Self> {
        let places: Vec<Key> = servers.keys().copied().collect();
        covered(place, &places, FOUND_MAX).map(|prefix| Self { prefix, servers })
    }

    /// The places of the servers, in order.
    pub(super) fn places(&self) -> Vec<Key> {
        self.servers.keys().copied().collect()
    }
}

/// Finds all servers of a region around a place, which is that of these bytes: enough of them for each place in it, if look-ups
/// succeed. `find` looks for the servers closest to a place; when the first finds nobody, this is `None`.
pub(super) async fn explore<S, F: Future<Output = BTreeMap<Key, S>>>(
    place: &Key,
    bytes: &[u8],
    mut find: impl FnMut(Key, Vec<u8>) -> F,
) -> Option<Region<S>> {
    let mut region = Region::of(place, find(*place, bytes.to_vec()).await)?;
    let mut explored = vec![region.prefix];
    let mut lookups = 1;
    while region.prefix.bits() > 0 && !is_exact(&region.prefix, &region.places(), REPLICATION) {
        let wider = Prefix::of(place, region.prefix.bits() - 1);
        while let Some(gap) = first_gap(wider, &explored) {
            if lookups == LOOKUPS_MAX || gap.bits() > GUESSED_BITS_MAX {
                return Some(region);
            }
            lookups += 1;
            let (place, bytes) = guess(&gap);
            let Some(found) = Region::of(&place, find(place, bytes).await) else { return Some(region) };
            explored.push(found.prefix);
            region.servers.extend(found.servers);
        }
        region.prefix = wider;
    }
    Some(region)
}

/// The largest part of `prefix`, the first in order, none of which is explored.
fn first_gap(prefix: Prefix, explored: &[Prefix]) -> Option<Prefix> {
    if explored.iter().any(|other| other.bits() <= prefix.bits() && other.contains(&prefix.first())) {
        return None;
    }
    if !explored.iter().any(|other| prefix.contains(&other.first())) {
        return Some(prefix);
    }
    let bits = prefix.bits() + 1;
    [prefix.first(), prefix.last()].iter().find_map(|end| first_gap(Prefix::of(end, bits), explored))
}

/// Some bytes whose place is in the prefix.
fn guess(prefix: &Prefix) -> (Key, Vec<u8>) {
    // Any bytes will do, as servers look at their hash only. A look-up at a known place would tell who looks.
    let mut number: u128 = rand::random();
    loop {
        let bytes = number.to_be_bytes();
        let place = Key::of(&bytes);
        if prefix.contains(&place) {
            return (place, bytes.to_vec());
        }
        number = number.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_until_all_is_explored() {
        let place = Key([0b1010_1010; 32]);
        let prefix = Prefix::of(&place, 3);
        let mut explored = vec![Prefix::of(&place, 7)];
        let mut gaps = Vec::new();
        while let Some(gap) = first_gap(prefix, &explored) {
            assert!(prefix.contains(&gap.first()) && gap.bits() <= 7);
            gaps.push(gap.bits());
            explored.push(gap);
        }
        gaps.sort_unstable();
        assert_eq!(gaps, [4, 5, 6, 7], "the siblings on the way up");
        assert_eq!(first_gap(Prefix::of(&place, 9), &explored), None, "a part of what is explored");
        assert_eq!(first_gap(Prefix::ALL, &[]), Some(Prefix::ALL));
    }

    #[test]
    fn guesses_are_where_they_should_be() {
        for bits in [0, 1, 8, 13] {
            let prefix = Prefix::of(&Key::of(b"anywhere"), bits);
            let (place, bytes) = guess(&prefix);
            assert!(prefix.contains(&place));
            assert_eq!(place, Key::of(&bytes));
        }
    }
}
