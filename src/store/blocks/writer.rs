//! Writing blocks: a bounded queue and one thread that commits.
//!
//! An idle thread commits a job at once. While it commits, jobs queue up, and all of them (up to [`COMMIT_BYTES_MAX`], more
//! of small blocks) share the next commit. The queue is bounded in bytes: who submits more waits.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cid::Cid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::BlocksError;
use super::file::BlockFile;
use super::guard::Ticket;
use super::survey::{CheckedLinks, Survey};
use super::whole::WholeDag;
use crate::model::Block;

/// Bytes of blocks after which a commit takes no further job, unless the blocks are small.
const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The same for blocks of [`SMALL_BLOCK_BYTES`] or less on average. Hashes fall anywhere in the index, so each such block
/// makes a commit write a page of it, and the more blocks share a commit, the more of them share a page.
const COMMIT_SMALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Blocks after which a commit takes no further job.
const COMMIT_BLOCKS_MAX: usize = 65_536;

/// Up to this length, in bytes, a block costs a commit at least as much for its page of the index as for its data.
const SMALL_BLOCK_BYTES: usize = 4096;

/// After this long without a job the store counts as idle.
const IDLE_MIN: Duration = Duration::from_millis(200);

/// What one permit of the queue stands for, in bytes.
const PERMIT_BYTES: usize = 1024;

/// What a waiting block costs beside its data, in bytes.
const BLOCK_OVERHEAD_BYTES: usize = 256;

enum Message {
    Put(Job),
    Stop,
}

struct Job {
    blocks: Vec<Block>,
    reply: oneshot::Sender<Result<(), BlocksError>>,
    /// The job's share of the queue, until it is committed.
    _permit: OwnedSemaphorePermit,
}

/// A handle that writes blocks.
#[derive(Debug, Clone)]
pub struct BlockWriter {
    messages: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    permits_max: u32,
    file: Arc<BlockFile>,
}

/// A put that is queued. Dropping it doesn't take the blocks back.
#[derive(Debug)]
#[must_use = "the blocks are durable only when `committed` has returned"]
pub struct PendingPut {
    reply: oneshot::Receiver<Result<(), BlocksError>>,
}

impl PendingPut {
    /// Waits until the blocks are durable.
    pub async fn committed(self) -> Result<(), BlocksError> {
        self.reply.await.unwrap_or(Err(BlocksError::Closed))
    }
}

impl BlockWriter {
    /// To be held by who has received blocks, from before their links are followed until their put has returned: so long a
    /// garbage collection waits with looking at what is reachable.
    pub fn ticket(&self) -> Ticket {
        self.file.guard.ticket()
    }

    /// Stores blocks; when this returns they are durable. Blocks that the store has are skipped.
    pub async fn put(&self, blocks: Vec<Block>) -> Result<(), BlocksError> {
        self.submit(blocks).await?.committed().await
    }

    /// Remembers that a DAG is whole, which a pin keeps; `generation` is from before its blocks were looked at. Small DAGs aren't worth it.
    /// It writes to the disk: not for the runtime's threads.
    pub fn mark_whole(&self, root: &Cid, dag: WholeDag, generation: u64) -> Result<(), BlocksError> {
        self.file.mark_whole(root, dag, generation)
    }

    /// A survey of what is held below `root`, so that the next walk knows which sub-DAGs are whole. `links` says what a node links to.
    pub fn survey(&self, root: &Cid, links: CheckedLinks) -> Result<Survey, BlocksError> {
        Survey::new(Arc::clone(&self.file), root, links)
    }

    /// Queues blocks, as soon as the queue has room for them. Jobs are committed in the order of their submission, and
    /// each as a whole or not at all.
    pub async fn submit(&self, blocks: Vec<Block>) -> Result<PendingPut, BlocksError> {
        let bytes: usize = blocks.iter().map(|block| block.data().len() + BLOCK_OVERHEAD_BYTES).sum();
        // A job larger than the whole queue waits until the queue is empty and then goes alone.
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.permits_max);
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| BlocksError::Closed)?;
        let (reply, receiver) = oneshot::channel();
        let message = Message::Put(Job { blocks, reply, _permit: permit });
        self.messages.send(message).map_err(|_| BlocksError::Closed)?;
        Ok(PendingPut { reply: receiver })
    }

    /// Lets the thread end after what is queued; nothing is accepted afterwards.
    pub(super) fn stop(&self) {
        self.room.close();
        let _ = self.messages.send(Message::Stop);
    }
}

/// Starts the thread that commits to `file`.
pub(super) fn start(
    file: Arc<BlockFile>,
    write_buffer_bytes: usize,
) -> Result<(BlockWriter, JoinHandle<()>), BlocksError> {
    let permits = (write_buffer_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let permits_max = u32::try_from(permits).unwrap_or(u32::MAX);
    let (messages, receiver) = mpsc::channel();
    let writer_file = Arc::clone(&file);
    let thread = thread::Builder::new()
        .name("block-writer".into())
        .spawn(move || run(&file, &receiver))
        .map_err(|error| BlocksError::Storage(Arc::new(redb::Error::Io(error))))?;
    Ok((BlockWriter { messages, room: Arc::new(Semaphore::new(permits)), permits_max, file: writer_file }, thread))
}

fn run(file: &BlockFile, messages: &mpsc::Receiver<Message>) {
    let mut stopping = false;
    while !stopping {
        let Ok(Message::Put(first)) = next(file, messages) else { break };
        let mut group = Group::default();
        group.add(first);
        while group.has_room() {
            match messages.try_recv() {
                Ok(Message::Put(job)) => group.add(job),
                Ok(Message::Stop) => {
                    stopping = true;
                    break;
                }
                Err(_) => break,
            }
        }
        group.commit(file);
    }
    // A job that slipped in behind the stop is dropped with the receiver, which answers it with `Closed`.
}

/// Waits for the next message. Who has nothing else to do for a while tidies the index up, step by step, so that an idle
/// store holds little in memory.
fn next(file: &BlockFile, messages: &mpsc::Receiver<Message>) -> Result<Message, mpsc::RecvError> {
    while file.has_to_settle() {
        match messages.recv_timeout(IDLE_MIN) {
            Ok(message) => return Ok(message),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(mpsc::RecvError),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Err(error) = file.settle_fullest() {
            tracing::error!(%error, "the newest blocks can't be merged into the index");
            break;
        }
    }
    messages.recv()
}

/// Jobs that share a commit.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    bytes: usize,
    blocks: usize,
}

impl Group {
    fn add(&mut self, job: Job) {
        self.bytes += job.blocks.iter().map(|block| block.data().len()).sum::<usize>();
        self.blocks += job.blocks.len();
        self.jobs.push(job);
    }

    fn has_room(&self) -> bool {
        let is_small = self.bytes <= self.blocks * SMALL_BLOCK_BYTES;
        let bytes_max = if is_small { COMMIT_SMALL_BYTES_MAX } else { COMMIT_BYTES_MAX };
        self.bytes < bytes_max && self.blocks < COMMIT_BLOCKS_MAX
    }

    fn commit(self, file: &BlockFile) {
        let result = self.write(file);
        match &result {
            // Each waiting pin says so, and the log has it once.
            Ok(()) | Err(BlocksError::NoSpace(_)) => {}
            Err(error) => tracing::error!("{} blocks could not be stored: {error}", self.blocks),
        }
        for job in self.jobs {
            // Nobody may be waiting any more; the blocks are stored all the same.
            let _ = job.reply.send(result.clone());
        }
    }

    fn write(&self, file: &BlockFile) -> Result<(), BlocksError> {
        let blocks: Vec<&Block> = self.jobs.iter().flat_map(|job| &job.blocks).collect();
        file.append(&blocks)
    }
}
