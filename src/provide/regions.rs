//! What a look-up in the DHT tells: the part of the keyspace of which it found all servers, its region, and which CIDs
//! of the region belong on which of them.
//!
//! A look-up finds the servers closest to one place. CIDs near that place belong on servers that it found as well, so
//! one look-up does for all of them. How near they must be: if the region holds at least as many servers as a record is
//! kept on (20), the closest servers to any place in it are all in it, hence known, and the allocation is exact. If it
//! holds fewer, some records go to servers outside, of which only those closest to the place that was looked up are
//! known: near misses.
//!
//! Of the servers that a look-up finds, half to all are in the region, depending on how their number compares with
//! powers of two, and on chance. So it should ask for well over twice 20. A sweep of 10,000 servers takes this, in the
//! simulation:
//!
//! | asked for | look-ups | servers asked in them | streams for records | CIDs on exactly the 20 closest |
//! |---|---|---|---|---|
//! | 20 | 766 | 27,600 | 15,300 | 21 % (89 % of the records) |
//! | 40 | 372 | 20,800 | 11,300 | 98.5 % |
//! | 64 | 254 | 20,300 | 10,000 | all |
//! | 96 | 132 | 14,800 | 10,000 | all |
//!
//! As `libp2p-kad` finds 20 at a time, regions are put together of several look-ups instead, see
//! [`explore`](super::explore). The records themselves are as many in any case: 20 for each CID.

use super::keyspace::{Key, Prefix};

/// On how many servers a record is kept: the `k` of the DHT.
pub const REPLICATION: usize = 20;

/// The region of a look-up: a part of the keyspace around `at`, all servers of which are among those found.
///
/// `servers` are the `asked` servers closest to `at`, in any order; or fewer, when there are no more. `None` when there
/// are none at all.
///
/// A server that begins with more bits of `at` than the furthest one found is closer than that, hence was found too. So
/// the region has one bit more than the furthest one has in common with `at`.
pub fn covered(at: &Key, servers: &[Key], asked: usize) -> Option<Prefix> {
    let furthest_bits = servers.iter().map(|server| at.common_bits(server)).min()?;
    Some(if servers.len() < asked { Prefix::ALL } else { Prefix::of(at, furthest_bits + 1) })
}

/// Whether a region holds enough of the servers for [`allocate`] to be exact for all places in it.
pub fn is_exact(region: &Prefix, servers: &[Key], replication: usize) -> bool {
    *region == Prefix::ALL || servers.iter().filter(|server| region.contains(server)).count() >= replication
}

/// For each server, which of the keys it should have a record of: those to which it is among the `replication` closest.
///
/// The keys are named by their place in the iteration. Takes time in proportion to keys times servers.
pub fn allocate<'a>(keys: impl Iterator<Item = &'a Key>, servers: &[Key], replication: usize) -> Vec<Vec<usize>> {
    let mut allocated = vec![Vec::new(); servers.len()];
    let mut by_distance: Vec<([u8; 32], usize)> = Vec::with_capacity(servers.len());
    for (index, key) in keys.enumerate() {
        by_distance.clear();
        by_distance.extend(servers.iter().enumerate().map(|(server, place)| (key.distance(place), server)));
        if (1..by_distance.len()).contains(&replication) {
            by_distance.select_nth_unstable(replication);
        }
        for (_, server) in by_distance.iter().take(replication) {
            if let Some(own) = allocated.get_mut(*server) {
                own.push(index);
            }
        }
    }
    allocated
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys of which many have bits in common, as few of their bits vary.
    fn keys() -> impl Strategy<Value = Key> {
        (any::<u16>(), 0u8..3).prop_map(|(front, back)| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&(front & 0xff0f).to_be_bytes());
            key[31] = back;
            Key(key)
        })
    }

    fn distinct(mut keys: Vec<Key>) -> Vec<Key> {
        keys.sort();
        keys.dedup();
        keys
    }

    fn closest(at: &Key, servers: &[Key], n: usize) -> Vec<Key> {
        let mut servers = servers.to_vec();
        servers.sort_by_key(|server| at.distance(server));
        servers.truncate(n);
        servers
    }

    #[test]
    fn nobody_there_is_no_region() {
        assert_eq!(covered(&Key([7; 32]), &[], 20), None);
    }

    #[test]
    fn fewer_than_asked_for_are_all() {
        assert_eq!(covered(&Key([7; 32]), &[Key([7; 32])], 2), Some(Prefix::ALL));
        assert_eq!(covered(&Key([7; 32]), &[Key([7; 32])], 1).map(|region| region.bits()), Some(256));
    }

    #[test]
    fn many_keys_are_quickly_allocated() {
        let keys: Vec<Key> = (0..5_000u32).map(|i| Key::of(&i.to_be_bytes())).collect();
        let servers: Vec<Key> = (0..64u8).map(|i| Key::of(&[i])).collect();
        let began_at = Instant::now();
        let allocated = allocate(keys.iter(), &servers, REPLICATION);
        println!("5,000 keys on 64 servers: {:?}", began_at.elapsed());
        assert_eq!(allocated.iter().map(Vec::len).sum::<usize>(), keys.len() * REPLICATION);
    }

    proptest! {
        #[test]
        fn all_servers_of_a_region_are_known(at in keys(), servers in vec(keys(), 1..80), asked in 1usize..40) {
            let servers = distinct(servers);
            let found = closest(&at, &servers, asked);
            let region = covered(&at, &found, asked).unwrap();
            prop_assert!(region.contains(&at));
            prop_assert!(servers.iter().all(|server| !region.contains(server) || found.contains(server)));
            // It couldn't be larger, for all that is known: the furthest one found is the first that isn't in it.
            if found.len() == asked && region.bits() > 0 && !region.contains(found.last().unwrap()) {
                prop_assert!(Prefix::of(&at, region.bits() - 1).contains(found.last().unwrap()));
            }
        }

        #[test]
        fn allocation_is_that_of_the_naive_model(
            wanted in vec(keys(), 0..40), servers in vec(keys(), 0..60), replication in 0usize..30,
        ) {
            let servers = distinct(servers);
            let allocated = allocate(wanted.iter(), &servers, replication);
            prop_assert_eq!(allocated.len(), servers.len());
            for (server, own) in servers.iter().zip(&allocated) {
                let naive: Vec<usize> = (0..wanted.len())
                    .filter(|index| closest(&wanted[*index], &servers, replication).contains(server))
                    .collect();
                prop_assert_eq!(own, &naive);
            }
        }

        #[test]
        fn an_exact_region_is_exact(at in keys(), servers in vec(keys(), 1..120), wanted in vec(keys(), 40)) {
            let servers = distinct(servers);
            let found = closest(&at, &servers, 32);
            let region = covered(&at, &found, 32).unwrap();
            if is_exact(&region, &found, 10) {
                for key in wanted.iter().filter(|key| region.contains(key)) {
                    prop_assert_eq!(closest(key, &found, 10), closest(key, &servers, 10));
                }
            }
        }
    }
}
