//! Memory of pages: as long as they are, or aligned so that the disk can take it as it is.
//!
//! Memory that is touched for the first time costs more than the copy into it. So whole segments lie in memory that is used
//! again and again while blocks come in, and given back by [`rest`] when they don't.

use std::ops::Deref;

use super::HELD_BYTES_MAX;
use crate::model::spare::Spare;
use crate::store::blocks::SEGMENT_BYTES;

/// Where aligned memory begins, and what its length is a multiple of, in bytes: enough for any disk.
pub(super) const ALIGNMENT: usize = 4096;

/// A segment with what redb adds to it, in bytes.
const SEGMENT_PAGE_BYTES: usize = SEGMENT_BYTES.next_multiple_of(ALIGNMENT);

/// What nobody uses now: at most the pieces of a commit that flies, and of the next.
static SPARE: Spare = Spare::new(SEGMENT_PAGE_BYTES + ALIGNMENT, 2 * HELD_BYTES_MAX / SEGMENT_PAGE_BYTES);

/// Gives back what nobody uses.
pub(in crate::store) fn rest() {
    SPARE.empty();
}

/// The bytes of a page.
#[derive(Debug)]
pub(super) enum Page {
    Plain(Box<[u8]>),
    Aligned(Aligned),
}

impl Page {
    /// A copy in aligned memory, if the page has the length of a segment, and in other memory otherwise.
    pub(super) fn aligned(data: &[u8]) -> Self {
        if data.len() == SEGMENT_PAGE_BYTES { Self::Aligned(Aligned::new(data)) } else { data.into() }
    }

    /// Whether the disk can take it from where it is.
    pub(super) fn is_aligned(&self) -> bool {
        matches!(self, Self::Aligned(_))
    }
}

impl From<&[u8]> for Page {
    fn from(data: &[u8]) -> Self {
        Self::Plain(data.into())
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Plain(data) => data,
            Self::Aligned(aligned) => &aligned.memory[aligned.start..aligned.start + SEGMENT_PAGE_BYTES],
        }
    }
}

/// [`SEGMENT_PAGE_BYTES`] in memory that is used again.
#[derive(Debug)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(data: &[u8]) -> Self {
        let mut memory = SPARE.take();
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory[start..start + SEGMENT_PAGE_BYTES].copy_from_slice(data);
        Self { memory, start }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        SPARE.give_back(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_aligned_also_in_memory_that_is_used_again() {
        for round in 0..3 {
            let pages: Vec<Page> =
                (0..8).map(|number| Page::aligned(&vec![round * 8 + number; SEGMENT_PAGE_BYTES])).collect();
            for (number, page) in pages.iter().enumerate() {
                assert!(page.is_aligned() && page.as_ptr().addr().is_multiple_of(ALIGNMENT));
                assert!(
                    page.len() == SEGMENT_PAGE_BYTES
                        && page.iter().all(|byte| usize::from(*byte) == usize::from(round) * 8 + number)
                );
            }
        }
        rest();
        assert!(!Page::aligned(&vec![0; ALIGNMENT]).is_aligned());
    }
}
