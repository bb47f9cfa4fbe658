//! The block store as its users see it, and the bounds that it promises.

use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use bytes::Bytes;
use cid::Cid;
use multihash_codetable::{Code, MultihashDigest};
use redb::backends::FileBackend;
use redb::{Database, StorageBackend, TableDefinition};
use tempfile::TempDir;

use super::pack::Place;
use super::*;
use crate::model::Block;
use crate::model::cids::codec;
use crate::model::limits::BLOCK_BYTES_MAX;

const CACHE_BYTES: usize = 8 * 1024 * 1024;
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

fn open(directory: &TempDir) -> BlockStore {
    BlockStore::open(&directory.path().join("blocks.redb"), CACHE_BYTES, BUFFER_BYTES).unwrap()
}

/// A block of `length` bytes that no compression or chance makes equal to another number's.
pub(super) fn block(number: u64, length: usize) -> Block {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut data: Vec<u8> = data.take(length.div_ceil(8)).flatten().collect();
    data.truncate(length);
    Block::new_sha256(codec::RAW, data.into()).unwrap()
}

fn assert_holds(reader: &BlockReader, blocks: &[Block]) {
    for block in blocks {
        assert_eq!(reader.get(block.cid()).unwrap().as_ref(), Some(block.data()));
    }
}

#[tokio::test]
async fn what_was_put_is_there_also_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let blocks: Vec<Block> = (0..50).map(|number| block(number, usize::try_from(number).unwrap() * 97)).collect();
    let missing = block(1000, 10);
    let mut store = open(&directory);
    store.writer().put(blocks.clone()).await.unwrap();
    for _ in 0..2 {
        let reader = store.reader();
        assert_holds(&reader, &blocks);
        assert_eq!(reader.get(missing.cid()).unwrap(), None);
        assert_eq!(reader.size(blocks[7].cid()).unwrap(), Some(7 * 97));
        assert!(reader.has(blocks[0].cid()).unwrap());
        assert!(!reader.has(missing.cid()).unwrap());
        assert_eq!(reader.stats().unwrap().blocks, 50);
        let cids = [*blocks[3].cid(), *missing.cid(), *blocks[1].cid()];
        assert_eq!(reader.sizes_many(&cids).unwrap(), [Some(291), None, Some(97)]);
        assert_eq!(
            reader.get_many(&cids).unwrap(),
            [Some(blocks[3].data().clone()), None, Some(blocks[1].data().clone())]
        );
        drop(reader);
        store.close();
        store = open(&directory);
    }
}

#[tokio::test]
async fn blocks_run_over_segments_wherever_they_begin_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let lengths = [
        1,
        SEGMENT_BYTES - 1,
        SEGMENT_BYTES,
        SEGMENT_BYTES + 1,
        0,
        2 * SEGMENT_BYTES,
        2 * SEGMENT_BYTES - 1,
        BLOCK_BYTES_MAX,
        5,
    ];
    let blocks: Vec<Block> = (1..).zip(lengths).map(|(number, length)| block(number, length)).collect();
    store.writer().put(blocks.clone()).await.unwrap();
    assert_holds(&store.reader(), &blocks);
    for block in &blocks {
        assert_eq!(store.reader().size(block.cid()).unwrap(), Some(u32::try_from(block.data().len()).unwrap()));
    }
    // An empty block at the very end names a segment that isn't there, and needs none.
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let blocks = [block(1, SEGMENT_BYTES), block(2, 0)];
    store.writer().put(blocks.to_vec()).await.unwrap();
    assert_holds(&store.reader(), &blocks);
}

#[tokio::test]
async fn the_same_bytes_are_stored_once_under_every_cid() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let data = Bytes::from(vec![7; 100_000]);
    let hash = Code::Sha2_256.digest(&data);
    let cids = [Cid::new_v0(hash).unwrap(), Cid::new_v1(codec::DAG_PB, hash), Cid::new_v1(codec::RAW, hash)];
    let blocks: Vec<Block> = cids.iter().map(|cid| Block::verify(*cid, data.clone()).unwrap()).collect();
    let segments = || store.reader().segment_bytes();
    store.writer().put(vec![blocks[0].clone(), blocks[1].clone()]).await.unwrap();
    assert_eq!(segments(), 100_000);
    store.writer().put(blocks.clone()).await.unwrap();
    assert_eq!(segments(), 100_000);
    assert_eq!(store.reader().stats().unwrap().blocks, 1);
    assert_holds(&store.reader(), &blocks);
}

#[tokio::test]
async fn identity_cids_are_answered_and_never_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let cid: Cid = "bafkqac3imvwgy3zao5xxe3de".parse().unwrap();
    store.writer().put(vec![Block::from_identity(cid).unwrap()]).await.unwrap();
    assert_eq!(store.reader().stats().unwrap().blocks, 0);
    assert_eq!(store.reader().get(&cid).unwrap(), Some(Bytes::from_static(b"hello world")));
    assert_eq!(store.reader().size(&cid).unwrap(), Some(11));
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_little_larger_than_its_blocks() {
    // (bytes of a block, blocks, blocks of a put, the most that the file may be larger)
    for (length, count, per_put, ratio_max) in [(256 * 1024, 128, 16, 1.03), (1024, 32 * 1024, 1024, 1.2)] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let writer = store.writer();
        let numbers: Vec<u64> = (0..count).collect();
        let mut pending = Vec::new();
        for numbers in numbers.chunks(per_put) {
            let blocks = numbers.iter().map(|number| block(*number, length)).collect();
            pending.push(writer.submit(blocks).await.unwrap());
        }
        for put in pending {
            put.committed().await.unwrap();
        }
        store.close();
        // redb doubles the file's length when it grows, but what isn't used of that takes no room on the disk.
        let file = std::fs::metadata(directory.path().join("blocks.redb")).unwrap();
        let file_bytes = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
        let ratio = file_bytes as f64 / (count * length as u64) as f64;
        println!("{count} blocks of {length} bytes: the file is {ratio:.3} times as large");
        assert!(ratio < ratio_max, "{ratio}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_blocks_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let written = Arc::new(AtomicU64::new(0));
    let finished = Arc::new(AtomicBool::new(false));
    let reading = {
        let (reader, written, finished) = (store.reader(), Arc::clone(&written), Arc::clone(&finished));
        std::thread::spawn(move || {
            let mut reads = 0;
            // One more after the last commit, so that every block is read at least once.
            loop {
                let last = finished.load(Ordering::Acquire);
                let blocks: Vec<Block> =
                    (0..written.load(Ordering::Acquire)).map(|number| block(number, 5000)).collect();
                assert_holds(&reader, &blocks);
                reads += blocks.len();
                if last {
                    return reads;
                }
            }
        })
    };
    for number in 0..100 {
        store.writer().put(vec![block(number, 5000)]).await.unwrap();
        written.store(number + 1, Ordering::Release);
    }
    finished.store(true, Ordering::Release);
    assert!(reading.join().unwrap() >= 100);
}

/// A store whose disk can be made to stand still or to fail.
pub(super) struct FaultyDisk {
    pub(super) store: BlockStore,
    faults: Arc<Faults>,
    directory: TempDir,
}

#[derive(Debug, Default)]
struct Faults {
    /// Writing or growing the file fails.
    full: AtomicBool,
    /// Opening fails.
    gone: AtomicBool,
    /// While this is locked, nothing becomes durable.
    gate: std::sync::Mutex<()>,
    /// Reads of these bytes of the file fail, but not while it is being opened: where redb is compiled for debugging, it
    /// reads all of the file then.
    bad: std::sync::Mutex<std::ops::Range<u64>>,
    opening: AtomicBool,
    syncs: AtomicU64,
}

#[derive(Debug)]
struct FaultyBackend {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl FaultyBackend {
    fn check_full(&self) -> Result<(), io::Error> {
        if self.faults.full.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let bad = self.faults.bad.lock().unwrap();
        let is_bad = offset < bad.end && bad.start < offset + out.len() as u64;
        if is_bad && !self.faults.opening.load(Ordering::Acquire) {
            return Err(io::Error::other("an unreadable sector"));
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check_full()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        drop(self.faults.gate.lock());
        self.faults.syncs.fetch_add(1, Ordering::AcqRel);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check_full()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

impl FaultyDisk {
    /// From now on the disk doesn't read the place where these bytes are.
    pub(super) fn refuse_reads_of(&self, data: &[u8]) {
        let file = std::fs::read(self.directory.path().join("blocks.redb")).unwrap();
        let start = file.windows(64).position(|bytes| bytes == &data[..64]).unwrap() as u64;
        *self.faults.bad.lock().unwrap() = start..start + 64;
        // What is in the cache would hide it.
        self.store.reader().file().reopen();
    }

    pub(super) fn new(write_buffer_bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let faults = Arc::new(Faults::default());
        let opener_faults = Arc::clone(&faults);
        let opener = move || {
            if opener_faults.gone.load(Ordering::Acquire) {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let backend = FaultyBackend { file: FileBackend::new(file)?, faults: Arc::clone(&opener_faults) };
            opener_faults.opening.store(true, Ordering::Release);
            let opened = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
            opener_faults.opening.store(false, Ordering::Release);
            opened
        };
        let file = file::BlockFile::open_with("a faulty disk".as_ref(), SpaceLimits::NONE, Box::new(opener)).unwrap();
        Self { store: BlockStore::start(file, write_buffer_bytes).unwrap(), faults, directory }
    }
}

#[tokio::test]
async fn a_full_disk_fails_its_batch_and_writing_goes_on_when_there_is_room() {
    let disk = FaultyDisk::new(BUFFER_BYTES);
    let (writer, reader) = (disk.store.writer(), disk.store.reader());
    writer.put(vec![block(1, 100_000)]).await.unwrap();
    for _ in 0..2 {
        disk.faults.full.store(true, Ordering::Release);
        let error = writer.put(vec![block(2, 3_000), block(3, 100)]).await.unwrap_err();
        assert!(matches!(error, BlocksError::Storage(_)), "{error}");
        disk.faults.full.store(false, Ordering::Release);
        writer.put(vec![block(4, 100)]).await.unwrap();
        assert_holds(&reader, &[block(1, 100_000), block(4, 100)]);
        assert!(!reader.has(block(2, 3_000).cid()).unwrap());
    }
    writer.put(vec![block(2, 3_000)]).await.unwrap();
    assert_holds(&reader, &[block(2, 3_000)]);
}

#[tokio::test]
async fn a_disk_that_does_not_come_back_is_named_and_one_that_does_is_used() {
    let disk = FaultyDisk::new(BUFFER_BYTES);
    let (writer, reader) = (disk.store.writer(), disk.store.reader());
    disk.faults.gone.store(true, Ordering::Release);
    disk.faults.full.store(true, Ordering::Release);
    assert!(matches!(writer.put(vec![block(1, 10)]).await, Err(BlocksError::Storage(_))));
    assert!(matches!(writer.put(vec![block(1, 10)]).await, Err(BlocksError::OutOfService(_))));
    assert!(matches!(reader.has(block(1, 10).cid()), Err(BlocksError::OutOfService(_))));
    disk.faults.gone.store(false, Ordering::Release);
    disk.faults.full.store(false, Ordering::Release);
    writer.put(vec![block(1, 10)]).await.unwrap();
    assert_holds(&reader, &[block(1, 10)]);
}

/// A sweep that waited for the file to be opened again once held what those wait for who have the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_whose_commit_fails_holds_nobody_up() {
    let disk = FaultyDisk::new(BUFFER_BYTES);
    let blocks: Vec<Block> = (0..50).map(|number| block(number, 1000)).collect();
    disk.store.writer().put(blocks.clone()).await.unwrap();
    let mut collection = disk.store.collector(|_, _| Vec::new()).begin().unwrap();
    collection.seal_roots();
    while collection.phase() != GcPhase::Sweep {
        collection.step().unwrap();
    }
    disk.faults.full.store(true, Ordering::Release);
    let stop = AtomicBool::new(false);
    let reader = disk.store.reader();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                // It may fail while the file is opened again.
                let _ = reader.snapshot();
            }
        });
        for _ in 0..200 {
            assert!(collection.step().is_err());
        }
        stop.store(true, Ordering::Release);
    });
    disk.faults.full.store(false, Ordering::Release);
    // A file that couldn't be opened again is tried once more.
    reader.look_for_space().unwrap();
    assert_holds(&reader, &blocks);
    while collection.step().unwrap() != GcPhase::Done {}
    assert_eq!(collection.report().removed_blocks, 50);
}

#[tokio::test]
async fn a_block_that_the_disk_refuses_to_read_leaves_the_others_readable() {
    let disk = FaultyDisk::new(BUFFER_BYTES);
    let (writer, reader) = (disk.store.writer(), disk.store.reader());
    // More than the cache holds: opening fills it, where redb is compiled for debugging.
    let blocks: Vec<Block> = (0..250).map(|number| block(number, 100_000)).collect();
    writer.put(blocks.clone()).await.unwrap();
    let [bad, good] = [20, 200].map(|number| &blocks[number]);
    disk.refuse_reads_of(bad.data());
    for _ in 0..3 {
        let refused = reader.get(bad.cid());
        assert!(matches!(refused, Err(BlocksError::Storage(_))), "{refused:?}");
        assert_holds(&reader, std::slice::from_ref(good));
    }
}

#[expect(clippy::await_holding_lock, reason = "nothing that is awaited while the disk stands still needs the disk")]
#[tokio::test]
async fn the_queue_is_bounded_in_bytes_and_what_queued_up_shares_a_commit() {
    let disk = FaultyDisk::new(64 * 1024);
    let writer = disk.store.writer();
    let syncs_of_one_commit = {
        let before = disk.faults.syncs.load(Ordering::Acquire);
        writer.put(vec![block(0, 100)]).await.unwrap();
        disk.faults.syncs.load(Ordering::Acquire) - before
    };
    let before = disk.faults.syncs.load(Ordering::Acquire);
    let gate = disk.faults.gate.lock().unwrap();
    // Each takes 8 KiB of the queue.
    let job = |number| vec![block(number, 8 * 1024 - 256)];
    let mut pending = Vec::new();
    for number in 1..=8 {
        pending.push(writer.submit(job(number)).await.unwrap());
    }
    let mut ninth = pin!(writer.submit(job(9)));
    assert!(ninth.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "the queue is full");
    drop(gate);
    for put in pending {
        put.committed().await.unwrap();
    }
    ninth.await.unwrap().committed().await.unwrap();
    let commits = (disk.faults.syncs.load(Ordering::Acquire) - before) / syncs_of_one_commit;
    assert!((2..=5).contains(&commits), "nine jobs took {commits} commits");

    // One larger than the whole queue goes alone.
    let blocks: Vec<Block> = (20..30).map(|number| block(number, 20_000)).collect();
    writer.put(blocks.clone()).await.unwrap();
    assert_holds(&disk.store.reader(), &blocks);
}

#[tokio::test]
async fn blocks_that_are_there_are_not_written_again() {
    let disk = FaultyDisk::new(BUFFER_BYTES);
    let blocks = vec![block(1, 100), block(2, 100_000)];
    disk.store.writer().put(blocks.clone()).await.unwrap();
    let before = disk.faults.syncs.load(Ordering::Acquire);
    disk.store.writer().put(blocks.clone()).await.unwrap();
    assert_eq!(disk.faults.syncs.load(Ordering::Acquire), before);
    assert_holds(&disk.store.reader(), &blocks);
}

#[test]
fn keys_tell_hashes_apart() {
    let cid = |code, digest: &[u8]| Cid::new_v1(codec::RAW, cid::multihash::Multihash::wrap(code, digest).unwrap());
    let digest = [0x12; 64];
    let cids = [
        cid(0x12, &digest[..32]),
        // Truncated so that the multihash is as long as a digest, or one byte longer.
        cid(0x12, &digest[..30]),
        cid(0x12, &digest[..31]),
        cid(0x12, &digest[..29]),
        cid(0x16, &digest[..30]),
        cid(0x1b, &digest[..32]),
        cid(0x13, &digest),
    ];
    let keys: std::collections::HashSet<Vec<u8>> =
        cids.iter().map(|cid| pack::key(cid).unwrap().into_owned()).collect();
    assert_eq!(keys.len(), cids.len());
    assert_eq!(keys.iter().filter(|key| key.len() == 32).count(), 1);
    for cid in cids {
        assert_eq!(pack::cid(&pack::key(&cid).unwrap()), Some(cid));
    }
    for damaged in [&[][..], &[0x12], &[0x80; 40], &[0x12; 33], &[0x12; 5000]] {
        assert_eq!(pack::cid(damaged), None);
    }
}

#[tokio::test]
async fn closing_commits_what_was_submitted_and_refuses_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (writer, reader) = (store.writer(), store.reader());
    let mut pending = Vec::new();
    for number in 0..20 {
        pending.push(writer.submit(vec![block(number, 1000)]).await.unwrap());
    }
    store.close();
    for put in pending {
        put.committed().await.unwrap();
    }
    assert!(matches!(writer.put(vec![block(99, 10)]).await, Err(BlocksError::Closed)));
    assert_eq!(reader.stats().unwrap().blocks, 20);
}

#[tokio::test]
async fn a_put_that_nobody_waits_for_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    drop(store.writer().submit(vec![block(1, 10)]).await.unwrap());
    {
        let writer = store.writer();
        let mut abandoned = pin!(writer.put(vec![block(2, 10)]));
        // The first poll submits; the commit may or may not be done by then.
        let _ = abandoned.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    drop(store);
    assert_holds(&open(&directory).reader(), &[block(1, 10), block(2, 10)]);
}

#[test]
fn a_newer_layout_and_garbage_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(&directory).close();
    let path = directory.path().join("blocks.redb");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("schema", SCHEMA_VERSION + 1)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = BlockStore::open(&path, CACHE_BYTES, BUFFER_BYTES).unwrap_err();
    let BlocksError::NewerSchema { found, .. } = error else { panic!("{error}") };
    assert_eq!(found, SCHEMA_VERSION + 1);

    let garbage = directory.path().join("garbage.redb");
    std::fs::write(&garbage, vec![7; 100_000]).unwrap();
    let error = BlockStore::open(&garbage, CACHE_BYTES, BUFFER_BYTES).unwrap_err();
    assert!(error.to_string().contains("garbage.redb"), "{error}");
    assert!(BlockStore::open(&directory.path().join("no/such/folder"), CACHE_BYTES, BUFFER_BYTES).is_err());
}

#[tokio::test]
async fn a_missing_segment_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks.redb");
    let store = open(&directory);
    let long = block(1, 3 * SEGMENT_BYTES);
    store.writer().put(vec![long.clone()]).await.unwrap();
    drop(store);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(file::SEGMENTS).unwrap().remove(1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(open(&directory).reader().get(long.cid()), Err(BlocksError::Damaged { segment: 1 })));
}

#[test]
fn places_read_back() {
    for place in [
        Place { segment: 0, offset: 0, length: 0 },
        Place { segment: (1 << 40) - 1, offset: 1, length: u32::try_from(BLOCK_BYTES_MAX).unwrap() },
        Place { segment: 1 << 39, offset: u32::try_from(SEGMENT_BYTES).unwrap(), length: 7 },
    ] {
        assert_eq!(Place::from_bytes(&place.to_bytes()), place);
    }
}
