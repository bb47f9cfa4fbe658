//! A chunk of a posting as it is stored: up to 65,536 ordinals, of which only the lower 16 bits are told apart here.
//!
//! Few ordinals are listed, more are a roaring bitmap in its portable format (`RoaringFormatSpec`) with one container. Counting is most of what
//! lists do with chunks, so a [`View`] counts, and counts what two chunks have in common, in the stored bytes.

use roaring::RoaringBitmap;

use super::RecordsError;

/// Ordinals that a chunk lists one by one; longer ones are bitmaps.
const LISTED_MAX: u64 = 8;

/// The first byte of a chunk: ordinals of two bytes each follow.
const LISTED: u8 = 0;
/// The first byte of a chunk: a roaring bitmap follows.
const BITMAP: u8 = 1;

/// How a roaring bitmap begins of which no container has runs.
const WITHOUT_RUNS: [u8; 4] = 12_346_u32.to_le_bytes();
/// How a roaring bitmap of one container begins if it may have runs. The upper half is the number of containers less one.
const WITH_RUNS: [u8; 4] = 12_347_u32.to_le_bytes();
/// A container with more ordinals is one bit for each that there may be.
const ARRAY_MAX: usize = 4096;

/// A chunk of one ordinal.
pub(super) fn of_one(low: u16) -> [u8; 3] {
    let [first, second] = low.to_le_bytes();
    [LISTED, first, second]
}

/// The ordinals in a chunk, without the part that they have in common.
pub(super) fn decode(bytes: &[u8]) -> Result<RoaringBitmap, RecordsError> {
    match bytes.split_first() {
        Some((&LISTED, listed)) => {
            Ok(listed.as_chunks().0.iter().map(|low| u32::from(u16::from_le_bytes(*low))).collect())
        }
        Some((&BITMAP, bitmap)) => {
            RoaringBitmap::deserialize_from(bitmap).map_err(|error| unreadable(&error.to_string()))
        }
        _ => Err(unreadable("a chunk is of an unknown form")),
    }
}

/// What [`decode`] reads.
pub(super) fn encode(ordinals: &mut RoaringBitmap) -> Result<Vec<u8>, RecordsError> {
    if ordinals.len() <= LISTED_MAX {
        return Ok(std::iter::once(LISTED)
            .chain(ordinals.iter().flat_map(|low| ((low & 0xffff) as u16).to_le_bytes()))
            .collect());
    }
    ordinals.optimize();
    let mut bytes = Vec::with_capacity(1 + ordinals.serialized_size());
    bytes.push(BITMAP);
    ordinals.serialize_into(&mut bytes).map_err(|error| unreadable(&error.to_string()))?;
    Ok(bytes)
}

/// How many ordinals [`decode`] finds.
pub(super) fn len(bytes: &[u8]) -> Result<u64, RecordsError> {
    // Whatever has another form, reading all of it tells what it is.
    View::of(bytes).map_or_else(|| Ok(decode(bytes)?.len()), |view| Ok(view.len()))
}

/// How many ordinals two chunks have in common.
pub(super) fn common_len(first: &[u8], second: &[u8]) -> Result<u64, RecordsError> {
    match (View::of(first), View::of(second)) {
        (Some(first), Some(second)) => Ok(first.common_len(&second)),
        _ => Ok(decode(first)?.intersection_len(&decode(second)?)),
    }
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "postings", reason: reason.to_owned() }
}

/// The ordinals of a chunk where they are stored.
#[derive(Debug, Clone, Copy)]
enum View<'a> {
    /// One after another, in order.
    Array(&'a [[u8; 2]]),
    /// A bit for each, from the lowest of the first byte up.
    Bits { words: &'a [[u8; 8]], len: u64 },
    /// The first of each run, and how many more are in it, in order.
    Runs { runs: &'a [[u8; 4]], len: u64 },
}

impl<'a> View<'a> {
    /// `None` if the chunk isn't one of the forms that [`encode`] writes.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (form, rest) = bytes.split_first()?;
        match *form {
            LISTED => Some(Self::Array(rest.as_chunks().0)),
            BITMAP => Self::of_bitmap(rest),
            _ => None,
        }
    }

    fn of_bitmap(bytes: &'a [u8]) -> Option<Self> {
        let (cookie, rest) = bytes.split_first_chunk()?;
        match *cookie {
            // The number of containers, the key of the only one, its length less one, and where it begins.
            WITHOUT_RUNS => match rest {
                [1, 0, 0, 0, _, _, low, high, _, _, _, _, container @ ..] => {
                    let len = usize::from(u16::from_le_bytes([*low, *high])) + 1;
                    if len <= ARRAY_MAX {
                        let array = container.as_chunks().0;
                        (array.len() == len).then_some(Self::Array(array))
                    } else {
                        let words = container.as_chunks().0;
                        (words.len() == 1024).then_some(Self::Bits { words, len: len as u64 })
                    }
                }
                _ => None,
            },
            // A bit for each container that tells whether it has runs, the key, the length less one, and the number of runs.
            WITH_RUNS => match rest {
                [1, _, _, low, high, few, many, container @ ..] => {
                    let len = u64::from(u16::from_le_bytes([*low, *high])) + 1;
                    let runs = container.as_chunks().0;
                    (runs.len() == usize::from(u16::from_le_bytes([*few, *many]))).then_some(Self::Runs { runs, len })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Array(array) => array.len() as u64,
            Self::Bits { len, .. } | Self::Runs { len, .. } => *len,
        }
    }

    fn common_len(&self, other: &Self) -> u64 {
        match (*self, *other) {
            (Self::Runs { runs, .. }, any) | (any, Self::Runs { runs, .. }) => {
                runs.iter().map(|run| any.len_of_run(*run)).sum()
            }
            (Self::Array(first), Self::Array(second)) => common_len_of_arrays(first, second),
            (Self::Array(array), Self::Bits { words, .. }) | (Self::Bits { words, .. }, Self::Array(array)) => {
                array.iter().filter(|low| has(words, u16::from_le_bytes(**low))).count() as u64
            }
            (Self::Bits { words: first, .. }, Self::Bits { words: second, .. }) => first
                .iter()
                .zip(second)
                .map(|(first, second)| {
                    u64::from((u64::from_le_bytes(*first) & u64::from_le_bytes(*second)).count_ones())
                })
                .sum(),
        }
    }

    /// How many ordinals are in a run.
    fn len_of_run(&self, run: [u8; 4]) -> u64 {
        let (first, last) = ends(run);
        match self {
            Self::Array(array) => {
                let from = array.partition_point(|low| u16::from_le_bytes(*low) < first);
                let to = array.partition_point(|low| u16::from_le_bytes(*low) <= last);
                to.saturating_sub(from) as u64
            }
            Self::Bits { words, len } => {
                if (first, last) == (0, u16::MAX) {
                    *len
                } else {
                    bits_between(words, first, last)
                }
            }
            Self::Runs { runs, .. } => {
                let from = runs.partition_point(|run| ends(*run).1 < first);
                let run_len = |run: &[u8; 4]| {
                    let (other_first, other_last) = ends(*run);
                    u64::from(last.min(other_last)) + 1 - u64::from(first.max(other_first))
                };
                runs.iter().skip(from).take_while(|run| ends(**run).0 <= last).map(run_len).sum()
            }
        }
    }
}

/// The first and the last ordinal of a run.
fn ends([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    let first = u16::from_le_bytes([a, b]);
    (first, first.saturating_add(u16::from_le_bytes([c, d])))
}

fn has(words: &[[u8; 8]], low: u16) -> bool {
    words.get(usize::from(low >> 6)).is_some_and(|word| u64::from_le_bytes(*word) >> (low & 63) & 1 == 1)
}

fn bits_between(words: &[[u8; 8]], first: u16, last: u16) -> u64 {
    let (first_word, last_word) = (usize::from(first >> 6), usize::from(last >> 6));
    let mut count = 0;
    for (place, word) in words.iter().enumerate().take(last_word + 1).skip(first_word) {
        let mut word = u64::from_le_bytes(*word);
        if place == first_word {
            word &= u64::MAX << (first & 63);
        }
        if place == last_word {
            word &= u64::MAX >> (63 - (last & 63));
        }
        count += u64::from(word.count_ones());
    }
    count
}

fn common_len_of_arrays(first: &[[u8; 2]], second: &[[u8; 2]]) -> u64 {
    let (mut first, mut second) = (first.iter().peekable(), second.iter().peekable());
    let mut count = 0;
    while let (Some(left), Some(right)) = (first.peek(), second.peek()) {
        let order = u16::from_le_bytes(**left).cmp(&u16::from_le_bytes(**right));
        count += u64::from(order.is_eq());
        if order.is_le() {
            first.next();
        }
        if order.is_ge() {
            second.next();
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_come_back_and_stay_small() {
        let listed: RoaringBitmap = [0, 7, 65_535].into_iter().collect();
        let run: RoaringBitmap = (0..65_536).collect();
        let scattered: RoaringBitmap = (0..65_536).filter(|low| low % 3 == 0).collect();
        for (ordinals, bytes_max) in [(RoaringBitmap::new(), 1), (listed, 7), (run, 32), (scattered, 8 * 1024 + 32)] {
            let bytes = encode(&mut ordinals.clone()).unwrap();
            assert!(bytes.len() <= bytes_max, "{} bytes", bytes.len());
            assert_eq!(decode(&bytes).unwrap(), ordinals);
            assert_eq!(len(&bytes).unwrap(), ordinals.len());
        }
        assert_eq!(decode(&of_one(515)).unwrap(), RoaringBitmap::from([515]));
        for broken in [&[][..], &[2, 0], &[BITMAP, 1, 2]] {
            assert!(matches!(decode(broken), Err(RecordsError::Codec { .. })));
            assert!(matches!(len(broken), Err(RecordsError::Codec { .. })));
            assert!(matches!(common_len(broken, &of_one(0)), Err(RecordsError::Codec { .. })));
        }
    }

    /// A set of every form that a chunk can have.
    fn any_ordinals() -> impl Strategy<Value = RoaringBitmap> {
        let few = prop::collection::vec(0_u32..65_536, 0..12).prop_map(|lows| lows.into_iter().collect());
        let array = prop::collection::vec(0_u32..65_536, 12..3000).prop_map(|lows| lows.into_iter().collect());
        let bits = (2_u32..12, 0_u32..12)
            .prop_map(|(step, first)| (0..65_536).filter(|low| low % step == first % step).collect());
        let runs = prop::collection::vec((0_u32..65_536, 0_u32..20_000), 1..20).prop_map(|runs| {
            let mut ordinals = RoaringBitmap::new();
            for (first, more) in runs {
                ordinals.insert_range(first..=(first + more).min(65_535));
            }
            ordinals
        });
        prop_oneof![few, array, bits, runs, Just((0..65_536).collect())]
    }

    proptest! {
        #[test]
        fn what_is_stored_is_counted_as_what_is_read(first in any_ordinals(), second in any_ordinals()) {
            let chunks = [&first, &second].map(|ordinals| encode(&mut ordinals.clone()).unwrap());
            for (bytes, ordinals) in chunks.iter().zip([&first, &second]) {
                prop_assert_eq!(View::of(bytes).expect("a form of its own").len(), ordinals.len());
            }
            prop_assert_eq!(common_len(&chunks[0], &chunks[1]).unwrap(), first.intersection_len(&second));
            prop_assert_eq!(common_len(&chunks[1], &chunks[0]).unwrap(), first.intersection_len(&second));
        }

        #[test]
        fn no_bytes_are_too_much(mut first: Vec<u8>, second: Vec<u8>, is_bitmap: bool, has_runs: bool) {
            if is_bitmap {
                let cookie = if has_runs { WITH_RUNS } else { WITHOUT_RUNS };
                first.splice(..0, [BITMAP].into_iter().chain(cookie).chain([1, 0, 0, 0]));
            }
            let _ = (len(&first), common_len(&first, &second));
        }
    }
}
