//! Memory that is used again.
//!
//! Memory that is new has to be found by the system, and filled with zeros where it is written through a slice. Where much of
//! it comes and goes, pieces of one length are kept for as long as they are needed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pieces of one length that nobody uses now.
#[derive(Debug)]
pub struct Spare {
    length: usize,
    pieces_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    pieces: Vec<Vec<u8>>,
    /// How many of them nobody has needed since the last [`Spare::rest`].
    unused: usize,
}

impl Spare {
    /// Keeps at most `pieces_max` pieces of `length` bytes.
    pub const fn new(length: usize, pieces_max: usize) -> Self {
        Self { length, pieces_max, kept: Mutex::new(Kept { pieces: Vec::new(), unused: 0 }) }
    }

    /// The length of a piece, in bytes.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// A piece. Its bytes are anything.
    pub fn take(&self) -> Vec<u8> {
        let again = {
            let mut kept = self.kept();
            let again = kept.pieces.pop();
            kept.unused = kept.unused.min(kept.pieces.len());
            again
        };
        again.unwrap_or_else(|| vec![0; self.length])
    }

    /// Takes a piece back.
    pub fn give_back(&self, piece: Vec<u8>) {
        let mut kept = self.kept();
        if piece.len() == self.length && kept.pieces.len() < self.pieces_max {
            kept.pieces.push(piece);
        }
    }

    /// Gives back to the system what nobody has needed since the last call.
    pub fn rest(&self) {
        let mut kept = self.kept();
        let count = kept.unused;
        let unused: Vec<Vec<u8>> = kept.pieces.drain(..count).collect();
        kept.unused = kept.pieces.len();
        // Freed after the lock is free.
        drop(kept);
        drop(unused);
    }

    /// Gives everything back to the system.
    pub fn empty(&self) {
        let mut kept = self.kept();
        kept.unused = 0;
        let pieces = std::mem::take(&mut kept.pieces);
        drop(kept);
        drop(pieces);
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.kept().pieces.len() * self.length
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_used_again_and_no_more_are_kept_than_may_be() {
        let spare = Spare::new(1000, 3);
        let mut piece = spare.take();
        assert_eq!(piece, [0; 1000]);
        piece.fill(7);
        spare.give_back(piece);
        let again = spare.take();
        assert_eq!(again, [7; 1000], "the piece that came back");
        let pieces: Vec<Vec<u8>> = (0..5).map(|_| spare.take()).collect();
        for piece in pieces {
            spare.give_back(piece);
        }
        assert_eq!(spare.kept_bytes(), 3 * 1000);
        spare.empty();
        assert_eq!(spare.kept_bytes(), 0);
        spare.give_back(vec![0; 999]);
        assert_eq!(spare.kept_bytes(), 0, "not of this length");
    }

    #[test]
    fn what_is_needed_stays_and_the_rest_goes() {
        let spare = Spare::new(10, 8);
        for _ in 0..5 {
            spare.give_back(vec![0; 10]);
        }
        spare.rest();
        assert_eq!(spare.kept_bytes(), 50, "they came since the last call");
        let needed = [spare.take(), spare.take()];
        for piece in needed {
            spare.give_back(piece);
        }
        spare.rest();
        assert_eq!(spare.kept_bytes(), 20);
        spare.rest();
        assert_eq!(spare.kept_bytes(), 0);
    }
}
