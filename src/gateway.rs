//! What the trustless gateway answers from: blocks and CAR files of what is held, and of nothing else. Nothing is fetched.
//!
//! It knows no HTTP. Every read runs on the blocking pool, a few at a time; an answer that waits for its client holds
//! neither a thread nor a snapshot of the store, only the piece that was read ahead and what its walk remembers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cid::Cid;
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::car;
use crate::dag::unixfs::file_bytes;
use crate::dag::{ByteRange, LinkError, PathError, PathWalk, Resolved, Scope, Selection, SelectionError, Target};
use crate::denylist::Denylist;
use crate::model::limits::{
    GATEWAY_ANSWERS_MAX, GATEWAY_PIECE_BYTES, GATEWAY_PIECES_AHEAD_MAX, GATEWAY_READS_RUNNING_MAX,
    GATEWAY_WALK_BYTES_FREE, GATEWAY_WALK_BYTES_MAX, GATEWAY_WALKS_BYTES_MAX,
};
use crate::store::blocks::{BlockReader, BlocksError};

/// The unit in which memory of walks is counted, in bytes.
const WALK_UNIT_BYTES: usize = 64 * 1024;

/// Why there is no answer, or why one ends early.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A block isn't held.
    #[error("{missing} is not held here")]
    Missing {
        /// The block.
        missing: Cid,
    },
    /// The operator's denylist has it.
    #[error("{denied} is on the denylist of this service's operator, and isn't served")]
    Denied {
        /// The block, or the path with its root.
        denied: String,
    },
    /// The path leads nowhere.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What the path names can't be walked.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// What the path names can't be read.
    #[error("block {node} is invalid: {source}")]
    Invalid {
        /// The block.
        node: String,
        /// What is wrong with it.
        source: LinkError,
    },
    /// The file has none of the bytes that are asked for.
    #[error("the file has {file_bytes} bytes, and none of those that \"entity-bytes\" asks for")]
    OutOfRange {
        /// The length of the file.
        file_bytes: u64,
    },
    /// The walk would have to remember more than there is room for.
    #[error("the DAG has too many blocks to remember which were sent; with dups=y nothing has to be remembered")]
    TooLarge,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlocksError),
    /// The program stops.
    #[error("the program is stopping")]
    Stopping,
}

/// Bytes of a file as a client asks for them, before the length of the file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedBytes {
    /// The first one; below 0 it counts from the end.
    pub from: i64,
    /// The last one, likewise; none for the end of the file.
    pub to: Option<i64>,
}

impl AskedBytes {
    /// The scope of these bytes in a file of this length.
    fn within(self, file_bytes: u64) -> Result<Scope, GatewayError> {
        let length = i128::from(file_bytes);
        let place = |place: i64| if place < 0 { length + i128::from(place) } else { i128::from(place) };
        let (from, to) = (place(self.from), self.to.map_or(length - 1, place));
        if length == 0 {
            return Ok(Scope::Block);
        }
        if from >= length || to < 0 {
            return Err(GatewayError::OutOfRange { file_bytes });
        }
        let (first, last) = (from.max(0), to.min(length - 1));
        match (u64::try_from(first), u64::try_from(last)) {
            (Ok(0), Ok(last)) if last == file_bytes - 1 => Ok(Scope::Entity(None)),
            (Ok(first), Ok(last)) if first <= last => Ok(Scope::Entity(Some(ByteRange { first, last }))),
            _ => Ok(Scope::Block),
        }
    }
}

/// What of a DAG a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedScope {
    /// Its first block.
    Block,
    /// The file or directory that it begins with; of a file perhaps only some bytes.
    Entity(Option<AskedBytes>),
    /// Everything.
    All,
}

/// The gateway's side of the store. Clones share the bounds.
#[derive(Debug, Clone)]
pub struct Gateway {
    reader: BlockReader,
    denylist: Denylist,
    answers: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    walks: Arc<Semaphore>,
}

/// The right to give one answer, to be held until its client has taken it.
#[derive(Debug)]
pub struct Slot(#[expect(dead_code, reason = "it counts as long as it is there")] OwnedSemaphorePermit);

impl Gateway {
    /// Answers from this store.
    pub fn new(reader: BlockReader) -> Self {
        Self {
            reader,
            denylist: Denylist::default(),
            answers: Arc::new(Semaphore::new(GATEWAY_ANSWERS_MAX)),
            reads: Arc::new(Semaphore::new(GATEWAY_READS_RUNNING_MAX)),
            walks: Arc::new(Semaphore::new(GATEWAY_WALKS_BYTES_MAX / WALK_UNIT_BYTES)),
        }
    }

    /// The same, which serves nothing that is on this list.
    #[must_use]
    pub fn with_denylist(self, denylist: Denylist) -> Self {
        Self { denylist, ..self }
    }

    /// A slot for an answer, unless all are taken.
    pub fn slot(&self) -> Option<Slot> {
        Arc::clone(&self.answers).try_acquire_owned().ok().map(Slot)
    }

    /// Follows a path. All of its blocks are held, and so is the one that it ends at.
    pub async fn resolve(&self, root: Cid, parts: Vec<Vec<u8>>) -> Result<Resolved, GatewayError> {
        let denylist = self.denylist.clone();
        if denylist.denies_path(&root, &parts) {
            let path = String::from_utf8_lossy(&parts.join(&b'/')).into_owned();
            return Err(GatewayError::Denied { denied: format!("/ipfs/{root}/{path}") });
        }
        self.read(move |reader| {
            check(&denylist, &root)?;
            let mut walk = PathWalk::new(root, parts)?;
            while let Some(cid) = walk.wants() {
                check(&denylist, &cid)?;
                let data = reader.get(&cid)?.ok_or(GatewayError::Missing { missing: cid })?;
                walk.add_block(&data)?;
            }
            let resolved = walk.finish();
            if let Target::Block(cid) = &resolved.end {
                check(&denylist, cid)?;
            }
            match resolved.end {
                Target::Block(cid) if !reader.has(&cid)? => Err(GatewayError::Missing { missing: cid }),
                _ => Ok(resolved),
            }
        })
        .await
    }

    /// The length of a block in bytes.
    pub async fn block_bytes(&self, target: Target) -> Result<u64, GatewayError> {
        match target {
            Target::Inline { data, .. } => Ok(data.len() as u64),
            Target::Block(cid) => {
                self.read(move |reader| match reader.size(&cid)? {
                    Some(bytes) => Ok(u64::from(bytes)),
                    None => Err(GatewayError::Missing { missing: cid }),
                })
                .await
            }
        }
    }

    /// A block.
    pub async fn block(&self, target: Target) -> Result<Bytes, GatewayError> {
        self.read(move |reader| data(reader, &target)).await
    }

    /// A CAR file of what is asked for, with the blocks of the path before it. Nothing of it is read yet but for what says
    /// which bytes of a file are asked for. With `repeats`, blocks come as often as they are met.
    pub async fn car(
        &self,
        root: Cid,
        resolved: Resolved,
        scope: AskedScope,
        repeats: bool,
    ) -> Result<Car, GatewayError> {
        let Resolved { blocks, end, .. } = resolved;
        let (end, scope) = match scope {
            AskedScope::Block => (end, Scope::Block),
            AskedScope::All => (end, Scope::All),
            AskedScope::Entity(None) => (end, Scope::Entity(None)),
            AskedScope::Entity(Some(asked)) => {
                self.read(move |reader| {
                    let length = file_bytes(end.codec(), &data(reader, &end)?);
                    let length = length.map_err(|source| GatewayError::Invalid { node: end.text(), source })?;
                    let scope = length.map_or(Ok(Scope::Entity(None)), |length| asked.within(length))?;
                    Ok((end, scope))
                })
                .await?
            }
        };
        Ok(Car {
            reader: self.reader.clone(),
            denylist: self.denylist.clone(),
            start: car::header(&[root]).into(),
            selection: Selection::new(&blocks, &end, scope, repeats)?,
            walks: Arc::clone(&self.walks),
            memory: None,
            failure: None,
        })
    }

    /// The bytes of a CAR file, read as they are taken. An error ends them early.
    pub fn stream(&self, car: Car, slot: Slot) -> impl Stream<Item = Result<Bytes, GatewayError>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(GATEWAY_PIECES_AHEAD_MAX);
        tokio::spawn(self.clone().read_ahead(car, sender));
        stream::unfold((receiver, Some(slot)), |(mut receiver, slot)| async move {
            // Without a slot the stream has told of its end.
            slot.as_ref()?;
            match receiver.recv().await {
                Some(Ok(Some(piece))) => Some((Ok(piece), (receiver, slot))),
                Some(Ok(None)) => None,
                Some(Err(error)) => Some((Err(error), (receiver, None))),
                None => Some((Err(GatewayError::Stopping), (receiver, None))),
            }
        })
    }

    /// Reads one piece for each that can be handed over; ends when nobody takes them any more.
    async fn read_ahead(self, mut car: Car, sender: mpsc::Sender<Result<Option<Bytes>, GatewayError>>) {
        while let Ok(place) = sender.reserve().await {
            let read = self.read(move |_| {
                let piece = car.next_piece();
                Ok((car, piece))
            });
            let (rest, piece) = match read.await {
                Ok(read) => read,
                Err(error) => return place.send(Err(error)),
            };
            car = rest;
            let is_last = !matches!(piece, Ok(Some(_)));
            place.send(piece);
            if is_last {
                return;
            }
        }
    }

    /// Runs a read where that may block.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&BlockReader) -> Result<T, GatewayError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| GatewayError::Stopping)?;
        let reader = self.reader.clone();
        let job = tokio::task::spawn_blocking(move || {
            let outcome = job(&reader);
            drop(permit);
            outcome
        });
        job.await.map_err(|_| GatewayError::Stopping)?
    }
}

/// Fails if the operator doesn't want this block here.
fn check(denylist: &Denylist, cid: &Cid) -> Result<(), GatewayError> {
    if denylist.denies(cid) { Err(GatewayError::Denied { denied: cid.to_string() }) } else { Ok(()) }
}

/// The bytes of a block.
fn data(reader: &BlockReader, target: &Target) -> Result<Bytes, GatewayError> {
    match target {
        Target::Inline { data, .. } => Ok(data.clone()),
        Target::Block(cid) => reader.get(cid)?.ok_or(GatewayError::Missing { missing: *cid }),
    }
}

/// A CAR file on its way out.
#[derive(Debug)]
pub struct Car {
    reader: BlockReader,
    denylist: Denylist,
    /// The header, until it is told.
    start: Bytes,
    selection: Selection,
    walks: Arc<Semaphore>,
    /// What of the memory for all walks this one has taken.
    memory: Option<OwnedSemaphorePermit>,
    /// What comes after the last piece.
    failure: Option<GatewayError>,
}

impl Car {
    /// The next bytes; none at the end. Blocks on the disk. What comes before an error is told first, as it is sound.
    fn next_piece(&mut self) -> Result<Option<Bytes>, GatewayError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let mut piece = BytesMut::from(std::mem::take(&mut self.start));
        while piece.len() < GATEWAY_PIECE_BYTES {
            match self.next_section() {
                Ok(Some(section)) => piece.extend_from_slice(&section),
                Ok(None) => break,
                Err(error) if piece.is_empty() => return Err(error),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }

    /// The next block with its CID.
    fn next_section(&mut self) -> Result<Option<Vec<u8>>, GatewayError> {
        while let Some(wanted) = self.selection.next() {
            check(&self.denylist, &wanted.cid)?;
            let missing = GatewayError::Missing { missing: wanted.cid };
            let data = self.reader.get(&wanted.cid)?.ok_or(missing)?;
            self.selection.add_block(&data)?;
            self.claim_memory()?;
            if wanted.is_told {
                return Ok(Some(car::section(&wanted.cid, &data)));
            }
        }
        Ok(None)
    }

    /// Sees that what the walk remembers is within the bounds.
    fn claim_memory(&mut self) -> Result<(), GatewayError> {
        let over = self.selection.memory_bytes().saturating_sub(GATEWAY_WALK_BYTES_FREE);
        if over > GATEWAY_WALK_BYTES_MAX {
            return Err(GatewayError::TooLarge);
        }
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(over.div_ceil(WALK_UNIT_BYTES).saturating_sub(held)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let taken = Arc::clone(&self.walks).try_acquire_many_owned(more).map_err(|_| GatewayError::TooLarge)?;
        match &mut self.memory {
            Some(memory) => memory.merge(taken),
            None => self.memory = Some(taken),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
