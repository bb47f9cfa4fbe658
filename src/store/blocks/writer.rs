//! Writing blocks: a bounded queue and one thread that commits.
//!
//! An idle thread commits a job at once. While it commits, jobs queue up, and all of them (up to [`COMMIT_BYTES_MAX`], more
//! of small blocks) share the next commit. The queue is bounded in bytes: who submits more waits.
//!
//! A commit of large blocks may [fly](Flight): while the disk has it, jobs queue up for the next one, which the thread packs as soon as it
//! can't take more. At most one flies, and its jobs are answered when it has landed.

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
use crate::store::disk::{self, Flight};

/// Bytes of blocks after which a commit takes no further job, unless the blocks are small.
const COMMIT_BYTES_MAX: usize = if cfg!(test) { 2 * 1024 * 1024 } else { 16 * 1024 * 1024 };

/// The same for blocks of [`SMALL_BLOCK_BYTES`] or less on average. Hashes fall anywhere in the index, so each such block
/// makes a commit write a page of it, and the more blocks share a commit, the more of them share a page.
const COMMIT_SMALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Blocks after which a commit takes no further job.
const COMMIT_BLOCKS_MAX: usize = 65_536;

/// Bytes of blocks from which on a commit may fly. A fetch at full speed hands over 4 MiB at a time.
const FLIGHT_BYTES_MIN: usize = COMMIT_BYTES_MAX / 8;

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
    /// The flight with this number has landed.
    Landed(u64),
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
    let committer =
        Committer { file, messages: receiver, sender: messages.clone(), flying: None, flights: 0, has_flown: false };
    let thread = thread::Builder::new()
        .name("block-writer".into())
        .spawn(move || committer.run())
        .map_err(|error| BlocksError::Storage(Arc::new(redb::Error::Io(error))))?;
    Ok((BlockWriter { messages, room: Arc::new(Semaphore::new(permits)), permits_max, file: writer_file }, thread))
}

/// Jobs whose commit flies.
struct Flying {
    group: Group,
    flight: Flight,
    number: u64,
}

/// The thread that commits.
struct Committer {
    file: Arc<BlockFile>,
    messages: mpsc::Receiver<Message>,
    /// Tells this thread itself that a flight has landed.
    sender: mpsc::Sender<Message>,
    flying: Option<Flying>,
    /// How many there were.
    flights: u64,
    /// Whether there was one since the store was last idle.
    has_flown: bool,
}

impl Committer {
    fn run(mut self) {
        let mut group = Group::default();
        let mut is_stopping = false;
        loop {
            while group.has_room() && !is_stopping {
                let Ok(message) = self.messages.try_recv() else { break };
                self.take(message, &mut group, &mut is_stopping);
            }
            // What isn't full yet waits, so that what comes meanwhile shares its wait for the disk.
            if self.flying.is_some() && (group.has_room() || !group.may_fly()) {
                if is_stopping {
                    self.land();
                } else if let Ok(message) = self.messages.recv() {
                    self.take(message, &mut group, &mut is_stopping);
                }
            } else if !group.jobs.is_empty() {
                self.commit(std::mem::take(&mut group));
            } else if is_stopping {
                break;
            } else {
                let Ok(message) = self.next() else { break };
                self.take(message, &mut group, &mut is_stopping);
            }
        }
        // A job that slipped in behind the stop is dropped with the receiver, which answers it with `Closed`.
    }

    fn take(&mut self, message: Message, group: &mut Group, is_stopping: &mut bool) {
        match message {
            Message::Put(job) => group.add(job),
            Message::Landed(number) => {
                if self.flying.as_ref().is_some_and(|flying| flying.number == number) {
                    self.land();
                }
            }
            Message::Stop => *is_stopping = true,
        }
    }

    /// Waits for the next message. Who has nothing else to do for a while gives memory back and tidies the index up, step by
    /// step, so that an idle store holds little in memory.
    fn next(&mut self) -> Result<Message, mpsc::RecvError> {
        while self.has_flown || self.file.has_to_settle() {
            match self.messages.recv_timeout(IDLE_MIN) {
                Ok(message) => return Ok(message),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(mpsc::RecvError),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if std::mem::take(&mut self.has_flown) {
                disk::rest();
                continue;
            }
            if let Err(error) = self.file.settle_fullest() {
                tracing::error!(%error, "the newest blocks can't be merged into the index");
                break;
            }
        }
        self.messages.recv()
    }

    fn commit(&mut self, group: Group) {
        let result = group.write(&self.file);
        if result.is_ok() {
            // Its entries show. This commit may fly by now, and is not waited for.
            self.answer_flying(Ok(()));
        } else {
            self.land();
        }
        match result {
            Ok(Some(flight)) => {
                self.flights += 1;
                self.has_flown = true;
                let (number, sender) = (self.flights, self.sender.clone());
                flight.when_landed(move || {
                    // The thread may have stopped.
                    let _ = sender.send(Message::Landed(number));
                });
                self.flying = Some(Flying { group, flight, number });
            }
            Ok(None) => group.answer(&Ok(())),
            Err(error) => group.answer(&Err(error)),
        }
    }

    /// Waits for the commit that flies, if there is one, and answers its jobs.
    fn land(&mut self) {
        if self.flying.is_some() {
            let shown = self.file.land();
            self.answer_flying(shown);
        }
    }

    /// Answers the jobs of the commit that flew, if there is one; `shown` says whether its entries show.
    fn answer_flying(&mut self, shown: Result<(), BlocksError>) {
        if let Some(Flying { group, flight, .. }) = self.flying.take() {
            // A file that failed was perhaps opened again already, and then nothing flies in it.
            let landed = flight.wait().map_err(|error| BlocksError::from(redb::Error::Io(error)));
            group.answer(&shown.and(landed));
        }
    }
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
        let bytes_max = if self.is_small() { COMMIT_SMALL_BYTES_MAX } else { COMMIT_BYTES_MAX };
        self.bytes < bytes_max && self.blocks < COMMIT_BLOCKS_MAX
    }

    /// Whether it is worth a flight. Small blocks are better off together.
    fn may_fly(&self) -> bool {
        self.bytes >= FLIGHT_BYTES_MIN && !self.is_small()
    }

    fn is_small(&self) -> bool {
        self.bytes <= self.blocks * SMALL_BLOCK_BYTES
    }

    fn write(&self, file: &BlockFile) -> Result<Option<Flight>, BlocksError> {
        let blocks: Vec<&Block> = self.jobs.iter().flat_map(|job| &job.blocks).collect();
        file.append(&blocks, self.may_fly())
    }

    fn answer(self, result: &Result<(), BlocksError>) {
        match result {
            // Each waiting pin says so, and the log has it once.
            Ok(()) | Err(BlocksError::NoSpace(_)) => {}
            Err(error) => tracing::error!("{} blocks could not be stored: {error}", self.blocks),
        }
        for job in self.jobs {
            // Nobody may be waiting any more; the blocks are stored all the same.
            let _ = job.reply.send(result.clone());
        }
    }
}
