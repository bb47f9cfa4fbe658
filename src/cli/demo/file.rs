//! The demo's file: bytes made from a seed, cut into a `UnixFS` DAG, and compared again without holding them in memory.

use bytes::Bytes;
use cid::Cid;
use rust_unixfs::file::FileReadFailed;
use rust_unixfs::file::adder::{Chunker, FileAdder};
use rust_unixfs::file::visit::IdleFileVisit;

use crate::model::{Block, BlockError};

/// Bytes of one chunk: Kubo's default.
const CHUNK_BYTES: usize = 256 * 1024;

/// Bytes of the blocks that are handed on together.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The codec of blocks that are nothing but data.
const RAW_CODEC: u64 = 0x55;

/// Why the file isn't what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A block isn't there.
    #[error("block {0} is missing")]
    Missing(Cid),
    /// A block is no part of a `UnixFS` file.
    #[error("the blocks are no UnixFS file")]
    NoFile(#[from] FileReadFailed),
    /// A block that was just made doesn't match its CID.
    #[error("the file cannot be cut into blocks")]
    Block(#[from] BlockError),
    /// A byte differs.
    #[error("byte {offset} of the file is wrong")]
    Differs {
        /// Its position, from 0.
        offset: u64,
    },
    /// The file is longer or shorter.
    #[error("the file has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that came.
        found: u64,
        /// Bytes that were made.
        expected: u64,
    },
}

/// Bytes that look random and depend on nothing but the seed (`SplitMix64`, so that they stay the same in every version).
#[derive(Debug, Clone)]
struct Generator {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            if self.used == self.word.len() {
                self.word = self.next_word().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    /// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014).
    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// The file's root.
    pub(super) root: Cid,
    /// Blocks of the DAG.
    pub(super) blocks: u64,
    /// Bytes of those blocks; a little more than the file's.
    pub(super) dag_bytes: u64,
}

/// Makes the file and hands its blocks on in batches.
pub(super) async fn make<E: From<FileError>>(
    seed: u64,
    size: u64,
    mut take: impl AsyncFnMut(Vec<Block>) -> Result<(), E>,
) -> Result<Made, E> {
    let mut generator = Generator::new(seed);
    let mut adder = FileAdder::builder().with_chunker(Chunker::Size(CHUNK_BYTES)).build();
    let mut batch = Batch::default();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        generator.fill(&mut buffer[..length]);
        let mut pushed = 0;
        while pushed < length {
            let (blocks, consumed) = adder.push(&buffer[pushed..length]);
            batch.add(blocks)?;
            pushed += consumed;
        }
        left -= length as u64;
        if batch.bytes >= BATCH_BYTES {
            take(batch.take()).await?;
        }
    }
    batch.add(adder.finish())?;
    take(batch.take()).await?;
    // The tree is built from its leaves, so its root comes last; a DAG of any size has at least one block.
    Ok(Made { root: batch.last, blocks: batch.blocks_total, dag_bytes: batch.bytes_total })
}

/// Blocks that wait to be handed on.
#[derive(Default)]
struct Batch {
    blocks: Vec<Block>,
    bytes: usize,
    last: Cid,
    blocks_total: u64,
    bytes_total: u64,
}

impl Batch {
    fn add(&mut self, blocks: impl Iterator<Item = (Cid, Vec<u8>)>) -> Result<(), FileError> {
        for (cid, data) in blocks {
            self.bytes += data.len();
            self.bytes_total += data.len() as u64;
            self.blocks_total += 1;
            self.last = cid;
            self.blocks.push(Block::verify(cid, Bytes::from(data))?);
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Block> {
        self.bytes = 0;
        std::mem::take(&mut self.blocks)
    }
}

/// Reads the file in its order and compares every byte with what was made.
pub(super) async fn compare<E: From<FileError>>(
    seed: u64,
    size: u64,
    root: Cid,
    get: impl AsyncFn(&Cid) -> Result<Option<Block>, E>,
) -> Result<(), E> {
    let mut expected = Expected { generator: Generator::new(seed), offset: 0, scratch: Vec::new() };
    let block = get(&root).await?.ok_or(FileError::Missing(root))?;
    let mut visit = if root.codec() == RAW_CODEC {
        let (content, _, _, visit) = IdleFileVisit::default().start_from_raw(block.data());
        expected.compare(content, size)?;
        visit
    } else {
        let (content, _, _, visit) = IdleFileVisit::default().start(block.data()).map_err(FileError::from)?;
        expected.compare(content, size)?;
        visit
    };
    let mut cache = None;
    while let Some(current) = visit {
        let next = *current.pending_links().0;
        let block = get(&next).await?.ok_or(FileError::Missing(next))?;
        let (content, rest) = current.continue_walk(block.data(), &mut cache).map_err(FileError::from)?;
        expected.compare(content, size)?;
        visit = rest;
    }
    if expected.offset != size {
        return Err(FileError::Length { found: expected.offset, expected: size }.into());
    }
    Ok(())
}

/// The made bytes, once more.
struct Expected {
    generator: Generator,
    offset: u64,
    scratch: Vec<u8>,
}

impl Expected {
    fn compare(&mut self, content: &[u8], size: u64) -> Result<(), FileError> {
        self.scratch.resize(content.len(), 0);
        self.generator.fill(&mut self.scratch);
        if let Some(at) = content.iter().zip(&self.scratch).position(|(found, expected)| found != expected) {
            return Err(FileError::Differs { offset: self.offset + at as u64 });
        }
        self.offset += content.len() as u64;
        if self.offset > size {
            return Err(FileError::Length { found: self.offset, expected: size });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SEED: u64 = 7;
    const CHUNK: u64 = CHUNK_BYTES as u64;

    async fn made(size: u64) -> (Made, HashMap<Cid, Block>) {
        let mut store = HashMap::new();
        let made = make::<FileError>(SEED, size, async |blocks| {
            assert!(blocks.iter().map(|block| block.data().len()).sum::<usize>() < BATCH_BYTES + 2 * CHUNK_BYTES);
            store.extend(blocks.into_iter().map(|block| (*block.cid(), block)));
            Ok(())
        });
        (made.await.unwrap(), store)
    }

    async fn compared(size: u64, root: Cid, store: &HashMap<Cid, Block>) -> Result<(), FileError> {
        compare(SEED, size, root, async |cid| Ok(store.get(cid).cloned())).await
    }

    #[tokio::test]
    async fn what_is_made_compares_equal() {
        for (size, blocks) in [
            (1, 1),
            (CHUNK - 1, 1),
            (CHUNK, 1),
            (CHUNK + 1, 3),
            (2 * CHUNK, 3),
            (80 * CHUNK, 81),
            (174 * CHUNK, 175),
            (174 * CHUNK + 1, 178),
        ] {
            let (made, store) = made(size).await;
            assert_eq!(made.blocks, blocks, "{size}");
            assert_eq!(store.len() as u64, blocks, "{size}");
            assert_eq!(made.dag_bytes, store.values().map(|block| block.data().len() as u64).sum::<u64>(), "{size}");
            compared(size, made.root, &store).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_same_seed_makes_the_same_file_and_another_another() {
        let take = async |_| Ok::<_, FileError>(());
        let first = make(SEED, 3 * CHUNK, take).await.unwrap();
        assert_eq!(make(SEED, 3 * CHUNK, take).await.unwrap(), first);
        assert_ne!(make(SEED + 1, 3 * CHUNK, take).await.unwrap().root, first.root);
    }

    #[tokio::test]
    async fn differences_are_found() {
        let size = 3 * CHUNK;
        let (made, mut store) = made(size).await;
        let other_seed = compare(SEED + 1, size, made.root, async |cid| Ok(store.get(cid).cloned())).await;
        assert!(matches!(other_seed, Err(FileError::Differs { offset: 0 })), "{other_seed:?}");
        for wrong in [size - 1, size + 1] {
            let compared = compared(wrong, made.root, &store).await;
            assert!(matches!(compared, Err(FileError::Length { found, .. }) if found == size), "{compared:?}");
        }
        let leaf = *store.keys().find(|cid| **cid != made.root).unwrap();
        store.remove(&leaf);
        let missing = compared(size, made.root, &store).await;
        assert!(matches!(missing, Err(FileError::Missing(cid)) if cid == leaf), "{missing:?}");
    }

    #[test]
    fn pieces_are_filled_as_the_whole() {
        let mut whole = [0; 100];
        Generator::new(SEED).fill(&mut whole);
        let mut generator = Generator::new(SEED);
        let mut pieces = [0; 100];
        let (first, rest) = pieces.split_at_mut(13);
        generator.fill(first);
        generator.fill(rest);
        assert_eq!(whole, pieces);
        // The first output for the seed 1234567 in the generator's published test vectors.
        assert_eq!(Generator::new(1_234_567).next_word(), 6_457_827_717_110_365_317);
    }
}
