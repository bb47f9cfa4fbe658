//! A chunk of a posting as it is stored: the ordinals of up to 32,000 neighbouring pins, told apart by their places in the chunk.
//!
//! redb keeps what is longer than a page of 4 KiB in a run of two, four or more pages, and each read of a part of it that isn't in the cache
//! reads all of it. Its cache evicts from one of many small shares, page by page, so a run that comes back finds
//! less and less room among single pages, and is read from the file each time in the end. A chunk therefore has as many ordinals as fit in one page as bits,
//! with its key.
//!
//! Few ordinals are listed, many in a row are runs, and others are bits. Counting is most of what lists do with chunks, so a
//! [`View`] counts, and counts what two chunks have in common, in the stored bytes.

use roaring::RoaringBitmap;

use super::RecordsError;

/// Ordinals that a chunk may have.
pub(super) const ORDINALS: u16 = 32_000;

/// Words of the bits of a chunk.
const WORDS: usize = ORDINALS as usize / 64;

/// What would take more as a list or as runs is stored as bits: those are the quickest to count, and two of such a length have no room in one page.
const BYTES_MAX_UNLESS_BITS: usize = 2_000;

/// The first byte of a chunk: ordinals of two bytes each follow, in order.
const LISTED: u8 = 0;
/// The first byte of a chunk: how many ordinals it has, and a bit for each that there may be.
const BITS: u8 = 1;
/// The first byte of a chunk: how many ordinals it has, then the first of each run and how many more are in it, in order.
const RUNS: u8 = 2;

/// A chunk of one ordinal.
pub(super) fn of_one(low: u16) -> [u8; 3] {
    let [first, second] = low.to_le_bytes();
    [LISTED, first, second]
}

/// The ordinals in a chunk, by their places in it.
pub(super) fn decode(bytes: &[u8]) -> Result<RoaringBitmap, RecordsError> {
    match View::of(bytes)? {
        View::Array(array) => {
            let lows = array.iter().map(|low| u32::from(u16::from_le_bytes(*low)));
            RoaringBitmap::from_sorted_iter(lows).map_err(|error| unreadable(&error.to_string()))
        }
        View::Bits { words, .. } => Ok(RoaringBitmap::from_lsb0_bytes(0, words.as_flattened())),
        // Bits are quicker to read than to put one run after the other into what is there.
        View::Runs { .. } => {
            Ok(RoaringBitmap::from_lsb0_bytes(0, Chunk::of(bytes)?.words.map(u64::to_le_bytes).as_flattened()))
        }
    }
}

/// How many ordinals [`decode`] finds.
pub(super) fn len(bytes: &[u8]) -> Result<u64, RecordsError> {
    Ok(View::of(bytes)?.len())
}

/// How many ordinals two chunks have in common.
pub(super) fn common_len(first: &[u8], second: &[u8]) -> Result<u64, RecordsError> {
    Ok(View::of(first)?.common_len(&View::of(second)?))
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "posting_chunks", reason: reason.to_owned() }
}

/// A chunk that is being changed.
#[derive(Debug)]
pub(super) struct Chunk {
    words: [u64; WORDS],
}

impl Chunk {
    /// A chunk without ordinals.
    pub(super) fn empty() -> Self {
        Self { words: [0; WORDS] }
    }

    /// The chunk that was stored as these bytes.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, RecordsError> {
        let mut chunk = Self::empty();
        match View::of(bytes)? {
            View::Array(array) => {
                for low in array {
                    chunk.set(u16::from_le_bytes(*low), true);
                }
            }
            View::Bits { words, .. } => {
                for (to, from) in chunk.words.iter_mut().zip(words) {
                    *to = u64::from_le_bytes(*from);
                }
            }
            View::Runs { runs, .. } => {
                for run in runs {
                    let (first, last) = ends(*run);
                    for (word, mask) in masks(first, last) {
                        if let Some(word) = chunk.words.get_mut(word) {
                            *word |= mask;
                        }
                    }
                }
            }
        }
        Ok(chunk)
    }

    /// Has an ordinal come into the chunk, or go.
    pub(super) fn set(&mut self, low: u16, is_in: bool) {
        // Nobody passes one that is past the end, and stored bytes that have one are damaged.
        if let Some(word) = self.words.get_mut(usize::from(low >> 6)) {
            let bit = 1 << (low & 63);
            if is_in { *word |= bit } else { *word &= !bit }
        }
    }

    /// What is stored; `None` when there are no ordinals.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let len: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        let len = u16::try_from(len).ok().filter(|len| *len > 0)?;
        let (listed_bytes, runs_bytes) = (2 * usize::from(len), 4 * self.runs_len());
        let mut bytes = Vec::with_capacity(3 + listed_bytes.min(runs_bytes).min(8 * WORDS));
        if listed_bytes <= runs_bytes.min(BYTES_MAX_UNLESS_BITS) {
            bytes.push(LISTED);
            self.lows().for_each(|low| bytes.extend(low.to_le_bytes()));
        } else if runs_bytes <= BYTES_MAX_UNLESS_BITS {
            bytes.push(RUNS);
            bytes.extend(len.to_le_bytes());
            let mut lows = self.lows().peekable();
            while let Some(first) = lows.next() {
                let mut last = first;
                while let Some(next) = lows.next_if_eq(&(last + 1)) {
                    last = next;
                }
                bytes.extend(first.to_le_bytes());
                bytes.extend((last - first).to_le_bytes());
            }
        } else {
            bytes.push(BITS);
            bytes.extend(len.to_le_bytes());
            self.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
        Some(bytes)
    }

    /// How many runs there are: each begins with an ordinal whose neighbour below isn't there.
    fn runs_len(&self) -> usize {
        let mut carry = 0;
        let mut runs = 0;
        for word in &self.words {
            runs += (word & !(word << 1 | carry)).count_ones() as usize;
            carry = word >> 63;
        }
        runs
    }

    fn lows(&self) -> impl Iterator<Item = u16> {
        (0_u16..).step_by(64).zip(self.words).flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let low = (word != 0).then(|| first + (word.trailing_zeros() & 63) as u16)?;
                word &= word - 1;
                Some(low)
            })
        })
    }
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
    fn of(bytes: &'a [u8]) -> Result<Self, RecordsError> {
        match bytes {
            [LISTED, listed @ ..] => Ok(Self::Array(listed.as_chunks().0)),
            [BITS, few, many, bits @ ..] if bits.len() == 8 * WORDS => {
                Ok(Self::Bits { words: bits.as_chunks().0, len: u16::from_le_bytes([*few, *many]).into() })
            }
            [RUNS, few, many, runs @ ..] => {
                Ok(Self::Runs { runs: runs.as_chunks().0, len: u16::from_le_bytes([*few, *many]).into() })
            }
            _ => Err(unreadable("a chunk is of an unknown form")),
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
                // A sum, not a filter: whether an ordinal is there can't be foreseen.
                array.iter().map(|low| bit(words, u16::from_le_bytes(*low))).sum()
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
                if (first, last) == (0, ORDINALS - 1) {
                    *len
                } else {
                    bits_between(words, first, last)
                }
            }
            Self::Runs { runs, .. } => {
                let from = runs.partition_point(|run| ends(*run).1 < first);
                // Of damaged bytes, whose runs are in no order, some may lie elsewhere.
                let run_len = |run: &[u8; 4]| {
                    let (other_first, other_last) = ends(*run);
                    (u64::from(last.min(other_last)) + 1).saturating_sub(first.max(other_first).into())
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

/// 1 if the ordinal is there, else 0.
fn bit(words: &[[u8; 8]], low: u16) -> u64 {
    words.get(usize::from(low >> 6)).map_or(0, |word| u64::from_le_bytes(*word) >> (low & 63) & 1)
}

fn bits_between(words: &[[u8; 8]], first: u16, last: u16) -> u64 {
    masks(first, last)
        .map(|(word, mask)| {
            words.get(word).map_or(0, |word| u64::from((u64::from_le_bytes(*word) & mask).count_ones()))
        })
        .sum()
}

/// The words that have bits of a run, and which bits those are.
fn masks(first: u16, last: u16) -> impl Iterator<Item = (usize, u64)> {
    let (first_word, last_word) = (usize::from(first >> 6), usize::from(last >> 6));
    (first_word..=last_word).map(move |word| {
        let from = if word == first_word { u64::MAX << (first & 63) } else { u64::MAX };
        let to = if word == last_word { u64::MAX >> (63 - (last & 63)) } else { u64::MAX };
        (word, from & to)
    })
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

    const END: u32 = ORDINALS as u32;

    fn stored(ordinals: &RoaringBitmap) -> Vec<u8> {
        let mut chunk = Chunk::empty();
        for low in ordinals {
            chunk.set(u16::try_from(low).unwrap(), true);
        }
        chunk.encode().unwrap()
    }

    #[test]
    fn chunks_come_back_and_fit_in_a_page_with_their_keys() {
        // What redb adds to a lone entry of a leaf, and the longest key: an account, a kind, two digests and a byte between, a chunk.
        let bytes_max = 4096 - (4 + 4 + 4) - (8 + 1 + 16 + 1 + 16 + 4);
        let listed: RoaringBitmap = [0, 7, END - 1].into_iter().collect();
        let run: RoaringBitmap = (0..END).collect();
        let halves: RoaringBitmap = (0..END).filter(|low| low % 2 == 0).collect();
        let scattered: RoaringBitmap = (0..END).filter(|low| low % 3 == 0).collect();
        let sparse: RoaringBitmap = (0..END).filter(|low| low % 33 == 0).collect();
        let cases = [(listed, 7), (run, 7), (halves, bytes_max), (scattered, bytes_max), (sparse, 2000)];
        for (ordinals, bytes_max) in cases {
            let bytes = stored(&ordinals);
            assert!(bytes.len() <= bytes_max, "{} bytes", bytes.len());
            assert_eq!(decode(&bytes).unwrap(), ordinals);
            assert_eq!(len(&bytes).unwrap(), ordinals.len());
        }
        assert_eq!(decode(&of_one(515)).unwrap(), RoaringBitmap::from([515]));
        assert_eq!(Chunk::empty().encode(), None);
        for broken in [&[][..], &[3, 0], &[BITS, 1, 0], &[RUNS]] {
            assert!(matches!(decode(broken), Err(RecordsError::Codec { .. })));
            assert!(matches!(len(broken), Err(RecordsError::Codec { .. })));
            assert!(matches!(common_len(broken, &of_one(0)), Err(RecordsError::Codec { .. })));
            assert!(matches!(Chunk::of(broken), Err(RecordsError::Codec { .. })));
        }
    }

    /// A set of every form that a chunk can have.
    fn any_ordinals() -> impl Strategy<Value = RoaringBitmap> {
        let few = prop::collection::vec(0..END, 1..12).prop_map(|lows| lows.into_iter().collect());
        let array = prop::collection::vec(0..END, 12..3000).prop_map(|lows| lows.into_iter().collect());
        let bits = (2_u32..12, 0_u32..12)
            .prop_map(|(step, first)| (0..END).filter(|low| low % step == first % step).collect());
        let runs = prop::collection::vec((0..END, 0_u32..20_000), 1..20).prop_map(|runs| {
            let mut ordinals = RoaringBitmap::new();
            for (first, more) in runs {
                ordinals.insert_range(first..=(first + more).min(END - 1));
            }
            ordinals
        });
        prop_oneof![few, array, bits, runs, Just((0..END).collect())]
    }

    #[test]
    fn damaged_runs_that_are_in_no_order_are_counted_somehow() {
        let run = |first: u16| [first.to_le_bytes(), [0, 0]].concat();
        let runs = |firsts: &[u16]| [vec![RUNS, 1, 0], firsts.iter().flat_map(|first| run(*first)).collect()].concat();
        for damaged in [&[183, 0][..], &[0, 183, 0], &[0, 0, 0, 0, 0, 0, 0, 183, 0]] {
            for first in [0, 100, 183, 200] {
                assert!(common_len(&runs(&[first]), &runs(damaged)).unwrap() <= damaged.len() as u64);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_is_counted_as_what_is_read(first in any_ordinals(), second in any_ordinals()) {
            let chunks = [&first, &second].map(stored);
            for (bytes, ordinals) in chunks.iter().zip([&first, &second]) {
                prop_assert_eq!(&decode(bytes).unwrap(), ordinals);
                prop_assert_eq!(len(bytes).unwrap(), ordinals.len());
                prop_assert_eq!(&Chunk::of(bytes).unwrap().encode().unwrap(), bytes);
            }
            prop_assert_eq!(common_len(&chunks[0], &chunks[1]).unwrap(), first.intersection_len(&second));
            prop_assert_eq!(common_len(&chunks[1], &chunks[0]).unwrap(), first.intersection_len(&second));
        }

        #[test]
        fn changes_are_those_of_a_set(
            mut ordinals in any_ordinals(),
            changes in prop::collection::vec((0..ORDINALS, any::<bool>()), 0..2000),
        ) {
            let mut chunk = Chunk::of(&stored(&ordinals)).unwrap();
            for (low, is_in) in changes {
                chunk.set(low, is_in);
                if is_in { ordinals.insert(low.into()) } else { ordinals.remove(low.into()) };
            }
            match chunk.encode() {
                Some(bytes) => prop_assert_eq!(decode(&bytes).unwrap(), ordinals),
                None => prop_assert!(ordinals.is_empty()),
            }
        }

        #[test]
        fn no_bytes_are_too_much(mut first: Vec<u8>, second: Vec<u8>, form in 0_u8..4) {
            first.insert(0, form);
            let _ = (len(&first), common_len(&first, &second), decode(&first), Chunk::of(&first).map(|chunk| chunk.encode()));
            let bits = [&[BITS, 1, 0][..], &[0xa5; 8 * WORDS]].concat();
            let _ = (common_len(&first, &bits), common_len(&bits, &first));
        }
    }
}
