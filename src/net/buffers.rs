//! Memory for messages that is used again.
//!
//! The blocks of a message are views of the memory that it was read into, and that comes back here when the last of them
//! is gone. Memory that is new has to be found by the system and filled with zeros, as what is read goes through a slice;
//! memory that comes back costs neither.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The lengths, in bytes, of what is kept: each takes a block of the usual lengths, 256 KiB and 1 MiB, and what is said about it.
const KEPT_LENGTHS: [usize; 2] = [264 * 1024, 1032 * 1024];

/// What is kept of each length at most, in bytes: what a fetch hands over to the store at a time comes back at once.
const KEPT_BYTES_MAX: usize = 6 * 1024 * 1024;

/// What nobody uses now, of each of [`KEPT_LENGTHS`].
static KEPT: Mutex<[Kept; KEPT_LENGTHS.len()]> =
    Mutex::new([const { Kept { memory: Vec::new(), unused: 0 } }; KEPT_LENGTHS.len()]);

struct Kept {
    memory: Vec<Vec<u8>>,
    /// How many of it nobody has needed since the last [`rest`].
    unused: usize,
}

fn kept() -> MutexGuard<'static, [Kept; KEPT_LENGTHS.len()]> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back to the system what nobody has needed since the last call.
pub(super) fn rest() {
    let mut unused: Vec<Vec<u8>> = Vec::new();
    for kept in kept().iter_mut() {
        unused.extend(kept.memory.drain(..kept.unused));
        kept.unused = kept.memory.len();
    }
    // Freed after the lock is free.
    drop(unused);
}

/// Which of [`KEPT_LENGTHS`] is right for so many bytes: one of which less than a quarter is wasted.
fn class_for(bytes: usize) -> Option<usize> {
    KEPT_LENGTHS.iter().position(|length| (length / 4 * 3..=*length).contains(&bytes))
}

/// Some memory. Its bytes are anything.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// At least so many bytes: [`Buffer::length_for`] them.
    pub(super) fn new(bytes: usize) -> Self {
        let again = class_for(bytes).and_then(|class| {
            let kept = &mut kept()[class];
            let again = kept.memory.pop();
            kept.unused = kept.unused.min(kept.memory.len());
            again
        });
        Self(again.unwrap_or_else(|| vec![0; Self::length_for(bytes)]))
    }

    /// How long a buffer for so many bytes is.
    pub(super) fn length_for(bytes: usize) -> usize {
        class_for(bytes).map_or(bytes, |class| KEPT_LENGTHS[class])
    }

    /// The first so many bytes, to be shared.
    pub(super) fn into_bytes(self, length: usize) -> Bytes {
        Bytes::from_owner(self).slice(..length)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(class) = KEPT_LENGTHS.iter().position(|length| *length == self.0.len()) else { return };
        let memory = &mut kept()[class].memory;
        if (memory.len() + 1) * self.0.len() <= KEPT_BYTES_MAX {
            memory.push(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process use the same memory, but none has messages of a megabyte.
    #[test]
    fn memory_is_used_again_within_its_bound() {
        for bytes in [0, 1, 100_000, 200_000, 264 * 1024, 270_337, 700_000, 1032 * 1024, 4 * 1024 * 1024] {
            let mut buffer = Buffer::new(bytes);
            assert!((bytes..=bytes + bytes / 3).contains(&buffer.len()), "{bytes}, and {}", buffer.len());
            buffer.fill(7);
            let message = buffer.into_bytes(bytes);
            let block = message.slice(bytes / 2..);
            drop(message);
            assert_eq!(block.len(), bytes - bytes / 2);
            assert!(block.iter().all(|byte| *byte == 7));
        }
        let many: Vec<Bytes> = (0..100).map(|_| Buffer::new(1_000_000).into_bytes(1)).collect();
        drop(many);
        let bytes = || kept()[1].memory.iter().map(Vec::len).sum::<usize>();
        assert!((1..=KEPT_BYTES_MAX).contains(&bytes()), "{}", bytes());
        // The first call forgets what was needed before it.
        rest();
        rest();
        assert_eq!(bytes(), 0);
    }
}
