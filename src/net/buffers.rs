//! Memory for messages that is used again.
//!
//! The blocks of a message are views of the memory that it was read into, and that comes back here when the last of them
//! is gone.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::model::spare::Spare;

/// A message with a block of 256 KiB, as most are, fits in so many bytes.
pub(super) const USUAL_BYTES: usize = 264 * 1024;

/// The same for a block of 1 MiB.
const LARGE_BYTES: usize = 1032 * 1024;

/// What is kept of each length at most, in bytes: what a fetch hands over to the store at a time comes back at once.
const KEPT_BYTES_MAX: usize = 6 * 1024 * 1024;

/// What nobody uses now.
static SPARES: [Spare; 2] =
    [Spare::new(USUAL_BYTES, KEPT_BYTES_MAX / USUAL_BYTES), Spare::new(LARGE_BYTES, KEPT_BYTES_MAX / LARGE_BYTES)];

/// Gives back to the system what nobody has needed since the last call.
pub(super) fn rest() {
    SPARES.iter().for_each(Spare::rest);
}

/// Where memory for so many bytes is kept: such of which less than a quarter is wasted.
fn spare_for(bytes: usize) -> Option<&'static Spare> {
    SPARES.iter().find(|spare| (spare.length() / 4 * 3..=spare.length()).contains(&bytes))
}

/// Some memory. Its bytes are anything.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// At least so many bytes: [`Buffer::length_for`] them.
    pub(super) fn new(bytes: usize) -> Self {
        Self(spare_for(bytes).map_or_else(|| vec![0; bytes], Spare::take))
    }

    /// How long a buffer for so many bytes is.
    pub(super) fn length_for(bytes: usize) -> usize {
        spare_for(bytes).map_or(bytes, Spare::length)
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
        if let Some(spare) = spare_for(self.0.len()) {
            spare.give_back(std::mem::take(&mut self.0));
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
        let bytes = SPARES[1].kept_bytes();
        assert!((1..=KEPT_BYTES_MAX).contains(&bytes), "{bytes}");
        // The first call forgets what was needed before it.
        rest();
        rest();
        assert_eq!(SPARES[1].kept_bytes(), 0);
    }
}
