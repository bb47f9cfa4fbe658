//! DAGs that come and go as CAR files: what a file has goes into the store, what the store has becomes a file.
//!
//! Pins are the caller's matter, and so is where the bytes come from and go to.

use std::collections::VecDeque;

use bytes::Bytes;
use cid::Cid;

use crate::car::{self, CarError, Decoder, Item};
use crate::dag::walk::{Walk, WalkError, WalkLimits};
use crate::model::{Block, CidError, cids};
use crate::store::blocks::{BlockReader, BlockSnapshot, BlockWriter, BlocksError, PendingPut, Ticket};

/// Bytes of blocks that are handed to the store at a time.
const PUT_BYTES: usize = 4 * 1024 * 1024;

/// Blocks that are handed to the store at a time.
const PUT_BLOCKS: usize = 4096;

/// Puts that may wait for their commit; who feeds waits then.
const PUTS_AHEAD_MAX: usize = 4;

/// Why a file can't be imported. Blocks that were put before stay until garbage is collected.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is wrong.
    #[error(transparent)]
    Car(#[from] CarError),
    /// A root can't be pinned.
    #[error("the root {root} can't be pinned: {source}")]
    Root {
        /// The root.
        root: Cid,
        /// Why not.
        source: CidError,
    },
    /// The file names no root.
    #[error("the CAR file names no root, so nothing says what to pin: name it with --root CID")]
    NoRoot,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlocksError),
    /// The program stops.
    #[error("the import was cut off, because the program stops")]
    Stopping,
}

/// What was imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Blocks in the files.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks among them that the store had already.
    pub held_blocks: u64,
}

/// An import of one or several files, one after the other.
///
/// It holds a ticket from before the first block to its end, so no collection that begins meanwhile looks at what is
/// reachable before the pins are there; one that runs already marks what is put.
#[derive(Debug)]
pub struct Import {
    reader: BlockReader,
    writer: BlockWriter,
    decoder: Decoder,
    roots: Vec<Cid>,
    batch: Vec<Block>,
    batch_bytes: usize,
    pending: VecDeque<PendingPut>,
    report: ImportReport,
    ticket: Ticket,
}

/// An import whose blocks are all durable. They are safe from collections for as long as this is held.
#[derive(Debug)]
pub struct Imported {
    /// What is to be pinned: what was asked for, or else the roots that the files name.
    pub roots: Vec<Cid>,
    /// What was imported.
    pub report: ImportReport,
    _ticket: Ticket,
}

impl Import {
    /// Nothing is imported yet.
    pub fn new(reader: BlockReader, writer: BlockWriter) -> Self {
        let ticket = writer.ticket();
        Self {
            reader,
            writer,
            decoder: Decoder::new(),
            roots: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            pending: VecDeque::new(),
            report: ImportReport::default(),
            ticket,
        }
    }

    /// Takes the next bytes of a file. Returns when there is room for more.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.decoder.feed(bytes);
        while let Some(item) = self.decoder.next_item()? {
            match item {
                Item::Roots(roots) => {
                    for root in roots {
                        cids::check(&root).map_err(|source| ImportError::Root { root, source })?;
                        if !self.roots.contains(&root) {
                            self.roots.push(root);
                        }
                    }
                }
                Item::Block(block) => {
                    self.batch_bytes += block.data().len();
                    self.batch.push(block);
                    if self.batch_bytes >= PUT_BYTES || self.batch.len() >= PUT_BLOCKS {
                        self.put().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The file ends here; another may follow.
    pub fn end_file(&mut self) -> Result<(), ImportError> {
        self.decoder.finish()?;
        self.decoder = Decoder::new();
        Ok(())
    }

    /// Waits until everything is durable. `root` takes the place of the roots that the files name.
    pub async fn finish(mut self, root: Option<Cid>) -> Result<Imported, ImportError> {
        let roots = match root {
            Some(root) => vec![root],
            None => std::mem::take(&mut self.roots),
        };
        if roots.is_empty() {
            return Err(ImportError::NoRoot);
        }
        self.put().await?;
        while let Some(put) = self.pending.pop_front() {
            put.committed().await?;
        }
        Ok(Imported { roots, report: self.report, _ticket: self.ticket })
    }

    async fn put(&mut self) -> Result<(), ImportError> {
        let blocks = std::mem::take(&mut self.batch);
        self.report.blocks += blocks.len() as u64;
        self.report.bytes += std::mem::take(&mut self.batch_bytes) as u64;
        let (reader, cids) = (self.reader.clone(), blocks.iter().map(|block| *block.cid()).collect::<Vec<_>>());
        let held = tokio::task::spawn_blocking(move || reader.sizes_many(&cids)).await;
        let held = held.map_err(|_| ImportError::Stopping)??;
        self.report.held_blocks += held.iter().flatten().count() as u64;
        if self.pending.len() >= PUTS_AHEAD_MAX
            && let Some(oldest) = self.pending.pop_front()
        {
            oldest.committed().await?;
        }
        self.pending.push_back(self.writer.submit(blocks).await?);
        Ok(())
    }
}

/// Why a DAG can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A block isn't there.
    #[error("{missing} is missing, so {root} can't be exported whole; pin it and wait until it is pinned")]
    Missing {
        /// The DAG's root.
        root: Cid,
        /// The block.
        missing: Cid,
    },
    /// The DAG can't be walked.
    #[error(transparent)]
    Dag(#[from] WalkError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlocksError),
}

/// A DAG on its way out, depth first, each block once. Blocks on the disk: call it where that is allowed.
///
/// It reads one snapshot of the store from the first block to the last, so what a collection or anyone else changes
/// meanwhile doesn't touch it. While it lasts, space that is freed can't be used again.
#[derive(Debug)]
pub struct Export {
    root: Cid,
    snapshot: BlockSnapshot,
    walk: Walk,
    /// What was looked up to see that the DAG is there at all.
    first: Option<Bytes>,
}

impl Export {
    /// Begins; fails at once when the root isn't held.
    pub fn begin(reader: &BlockReader, root: Cid) -> Result<Self, ExportError> {
        let mut export =
            Self { root, snapshot: reader.snapshot()?, walk: Walk::new(root, WalkLimits::NONE)?, first: None };
        let mut first = car::header(&[root]);
        if let Some(section) = export.section()? {
            first.extend_from_slice(&section);
        }
        export.first = Some(first.into());
        Ok(export)
    }

    /// The next bytes of the file, up to a block at a time; none at its end.
    pub fn next_bytes(&mut self) -> Result<Option<Bytes>, ExportError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.section(),
        }
    }

    fn section(&mut self) -> Result<Option<Bytes>, ExportError> {
        let Some(cid) = self.walk.next() else { return Ok(None) };
        let data = self.snapshot.get(&cid)?.ok_or(ExportError::Missing { root: self.root, missing: cid })?;
        self.walk.add_block(&cid, &data)?;
        Ok(Some(car::section(&cid, &data).into()))
    }
}

#[cfg(test)]
mod tests;
