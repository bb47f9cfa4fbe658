//! The DHT's keyspace: places in it, how far they are from each other, and prefixes, which are the parts of it that are
//! swept.
//!
//! The DHT of libp2p is a Kademlia: CIDs and servers have a place in the same space of 256 bits, and a record belongs
//! on the servers that are closest to it by XOR (<https://github.com/libp2p/specs/blob/master/kad-dht/README.md>).

use sha2::{Digest, Sha256};

/// How many bits a place has.
pub const KEY_BITS: u32 = 256;

/// A place in the keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// The place of a CID, by the bytes of its multihash, or of a server, by those of its peer id: their SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// With how many equal bits the two begin, from 0 to 256.
    pub fn common_bits(&self, other: &Self) -> u32 {
        let mut bits = 0;
        for (own, others) in self.0.iter().zip(&other.0) {
            let equal = (own ^ others).leading_zeros();
            bits += equal;
            if equal < u8::BITS {
                break;
            }
        }
        bits
    }

    /// How far the two are apart, as a number in big-endian order: their XOR.
    pub fn distance(&self, other: &Self) -> [u8; 32] {
        let mut distance = self.0;
        for (byte, others) in distance.iter_mut().zip(&other.0) {
            *byte ^= others;
        }
        distance
    }

    /// The next place, if this isn't the last one.
    pub fn successor(&self) -> Option<Self> {
        let mut next = self.0;
        for byte in next.iter_mut().rev() {
            let (sum, is_carried) = byte.overflowing_add(1);
            *byte = sum;
            if !is_carried {
                return Some(Self(next));
            }
        }
        None
    }
}

/// All places that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// All bits behind the prefix are zero.
    key: Key,
    bits: u32,
}

impl Prefix {
    /// The whole keyspace.
    pub const ALL: Self = Self { key: Key([0; 32]), bits: 0 };

    /// The places that begin with the first bits of this one. A prefix has at most 256 bits.
    pub fn of(key: &Key, bits: u32) -> Self {
        let bits = bits.min(KEY_BITS);
        let mut first = *key;
        for (byte, mask) in first.0.iter_mut().zip(masks(bits)) {
            *byte &= mask;
        }
        Self { key: first, bits }
    }

    /// How many bits are the same in all its places: the more, the smaller it is.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether the place begins with the prefix.
    pub fn contains(&self, key: &Key) -> bool {
        self.key.common_bits(key) >= self.bits
    }

    /// The lowest place in it.
    pub fn first(&self) -> Key {
        self.key
    }

    /// The highest place in it.
    pub fn last(&self) -> Key {
        let mut last = self.key;
        for (byte, mask) in last.0.iter_mut().zip(masks(self.bits)) {
            *byte |= !mask;
        }
        last
    }
}

/// Of each byte of a place, the bits that belong to a prefix.
fn masks(bits: u32) -> impl Iterator<Item = u8> {
    (0..KEY_BITS).step_by(8).map(move |before| {
        let own = bits.saturating_sub(before);
        u8::MAX.checked_shr(own).map_or(u8::MAX, |others| !others)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Key> {
        any::<[u8; 32]>().prop_map(Key)
    }

    /// Bit by bit, from the front.
    fn bits_of(key: &Key) -> Vec<bool> {
        key.0.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
    }

    #[test]
    fn a_place_is_the_hash() {
        let expected = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(Key::of(b"abc").0[..8], expected);
    }

    #[test]
    fn the_last_place_has_no_successor() {
        assert_eq!(Prefix::ALL.last().successor(), None);
        assert_eq!(Prefix::ALL.last(), Key([0xff; 32]));
        let mut carried = [0; 32];
        carried[30] = 1;
        let mut key = [0; 32];
        key[31] = 0xff;
        assert_eq!(Key(key).successor(), Some(Key(carried)));
    }

    proptest! {
        #[test]
        fn common_bits_are_those_of_the_naive_count(a in keys(), b in keys(), shared in 0u32..=256) {
            let near = Key(std::array::from_fn(|byte| {
                let mask = masks(shared).nth(byte).unwrap();
                a.0[byte] & mask | b.0[byte] & !mask
            }));
            let naive = bits_of(&a).iter().zip(bits_of(&near)).take_while(|(a, b)| **a == *b).count();
            prop_assert_eq!(a.common_bits(&near) as usize, naive);
            prop_assert!(a.common_bits(&near) >= shared);
            prop_assert_eq!(a.distance(&near), near.distance(&a));
        }

        #[test]
        fn a_prefix_is_a_range(key in keys(), other in keys(), bits in 0u32..=256) {
            let prefix = Prefix::of(&key, bits);
            prop_assert!(prefix.contains(&key) && prefix.contains(&prefix.first()) && prefix.contains(&prefix.last()));
            for place in [other, Key(key.distance(&Key([0xff; 32])))] {
                prop_assert_eq!(prefix.contains(&place), (prefix.first()..=prefix.last()).contains(&place));
            }
            if let Some(next) = prefix.last().successor() {
                prop_assert!(!prefix.contains(&next) && next > prefix.last());
            }
        }
    }
}
