//! What a pulled plug leaves behind, on a disk that is as bad as disks may be: what wasn't synced is lost or there, sector by
//! sector, in any order, and accesses fail now and then.
//!
//! Both files and their journals lie on simulated disks that share one clock, so the order between them is tested as well:
//! blocks are durable before the record that says so.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::blocks::{BlockStore, BlocksError};
use super::database::Opener;
use super::disk::{self, DiskFile, JournalFile};
use super::records::{NewPin, PinSet, Records};
use crate::model::cids::codec;
use crate::model::{Block, PinState, UserId};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What the pins of a run are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pins {
    /// A few blocks each, small ones, and now and then one that runs over several segments. One comes after the other.
    Small,
    /// More than a megabyte each, and several on their way at once, so that their commits fly.
    Large,
}

impl Pins {
    fn count(self) -> u64 {
        match self {
            Self::Small if cfg!(debug_assertions) => 60,
            Self::Small => 400,
            Self::Large => 16,
        }
    }

    /// How many are put before the first of them is waited for.
    fn at_once(self) -> usize {
        if self == Self::Small { 1 } else { 5 }
    }

    /// A crash comes after every so many writes, on average.
    fn writes_per_crash(self) -> u64 {
        if self == Self::Small { 20 } else { 12 }
    }

    /// When the disk fails at all, it does so after every so many accesses, on average.
    fn accesses_per_failure(self) -> u64 {
        if self == Self::Small { 150 } else { 40 }
    }

    /// The memory of redb for pages, in bytes. With little of it, redb writes before a commit, and nothing flies.
    fn cache_bytes(self) -> usize {
        if self == Self::Small { 1 << 20 } else { 16 << 20 }
    }

    /// The blocks of a pin. The first is the root.
    fn blocks(self, pin: u64, seed: u64) -> Vec<Block> {
        let mut random = Random(seed ^ pin.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let count = if self == Self::Small { 1 + random.next() % 6 } else { 6 };
        let block = |_| {
            let length = match self {
                Self::Large => 400_000,
                Self::Small if random.one_in(12) => 150_000,
                Self::Small => 3_000,
            };
            let length = 16 + random.next() % length;
            let data: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
            Block::new_sha256(codec::RAW, Bytes::from(data)).unwrap()
        };
        (0..count).map(block).collect()
    }
}

/// A small generator, so that a seed gives one run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}

/// What wasn't synced yet.
#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLength(usize),
}

/// One disk with one file.
#[derive(Debug, Default)]
struct Disk {
    /// What is there after a crash at the worst.
    durable: Vec<u8>,
    /// What is there while the machine runs.
    present: Vec<u8>,
    pending: Vec<Pending>,
}

fn write_at(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    image[offset..offset + data.len()].copy_from_slice(data);
}

impl Disk {
    /// One of the many files that a crash may leave now.
    fn crashed(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        // From nothing to everything.
        let share = random.next() % 5;
        for pending in &self.pending {
            match pending {
                Pending::SetLength(length) if random.next() % 4 < share => image.resize(*length, 0),
                Pending::SetLength(_) => {}
                Pending::Write(offset, data) => {
                    for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if random.next() % 4 < share {
                            write_at(&mut image, offset + number * SECTOR_BYTES, sector);
                        }
                    }
                }
            }
        }
        image
    }
}

/// The disks: each file, and its journal behind it.
const DISKS: usize = 4;
const BLOCKS: usize = 0;
const RECORDS: usize = 2;

/// All files after a crash, and what had been acknowledged before it.
struct Crash {
    number: u64,
    images: [Vec<u8>; DISKS],
    acknowledged_pins: u64,
}

struct World {
    pins: Pins,
    disks: [Disk; DISKS],
    random: Random,
    crashes: u64,
    /// Bounded: the run waits for the checks.
    send: mpsc::SyncSender<Crash>,
}

/// What the disks' users share.
struct Shared {
    world: Mutex<World>,
    acknowledged_pins: AtomicU64,
    /// Whether accesses fail now and then.
    is_failing: AtomicBool,
}

impl Shared {
    fn with<T>(&self, job: impl FnOnce(&mut World) -> T) -> T {
        job(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Before a write or a sync: perhaps the machine crashes here, perhaps the disk fails.
    fn happen(&self, world: &mut World) -> io::Result<()> {
        if world.random.one_in(world.pins.writes_per_crash()) {
            world.crashes += 1;
            let acknowledged_pins = self.acknowledged_pins.load(Ordering::Acquire);
            let images = std::array::from_fn(|disk| world.disks[disk].crashed(&mut world.random));
            let _ = world.send.send(Crash { number: world.crashes, images, acknowledged_pins });
        }
        if self.is_failing.load(Ordering::Acquire) && world.random.one_in(world.pins.accesses_per_failure()) {
            return Err(io::Error::other("the disk fails, as the test wants"));
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Backend {
    shared: Arc<Shared>,
    disk: usize,
}

impl DiskFile for Backend {}

/// A file that is there from the start; an empty one counts as missing.
#[derive(Debug)]
struct Journal<B>(B);

impl<B: StorageBackend + Clone> JournalFile for Journal<B> {
    fn open(&self) -> io::Result<Option<Box<dyn StorageBackend>>> {
        Ok(if self.0.len()? == 0 { None } else { Some(Box::new(self.0.clone())) })
    }

    fn make(&self, length: usize) -> io::Result<Box<dyn StorageBackend>> {
        self.0.set_len(length as u64)?;
        self.0.write(0, &vec![0; length])?;
        self.0.sync_data()?;
        Ok(Box::new(self.0.clone()))
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "disk {}", self.disk)
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.shared.with(|world| Ok(world.disks[self.disk].present.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.shared.with(|world| {
            let present = &world.disks[self.disk].present;
            let data = present.get(at(offset)..at(offset) + out.len());
            out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.shared.with(|world| {
            self.shared.happen(world)?;
            let disk = &mut world.disks[self.disk];
            disk.present.resize(at(length), 0);
            disk.pending.push(Pending::SetLength(at(length)));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.with(|world| {
            self.shared.happen(world)?;
            let disk = &mut world.disks[self.disk];
            for pending in std::mem::take(&mut disk.pending) {
                match pending {
                    Pending::Write(offset, data) => write_at(&mut disk.durable, offset, &data),
                    Pending::SetLength(length) => disk.durable.resize(length, 0),
                }
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.shared.with(|world| {
            let result = self.shared.happen(world);
            // A write that fails may have done a part of its work.
            let data = if result.is_ok() { data } else { &data[..data.len() / 2] };
            let disk = &mut world.disks[self.disk];
            write_at(&mut disk.present, at(offset), data);
            disk.pending.push(Pending::Write(at(offset), data.to_vec()));
            result
        })
    }
}

fn database<B: DiskFile + Clone>([file, journal]: [B; 2], pins: Pins) -> Result<Database, DatabaseError> {
    let disk = disk::Disk::new(Box::new(file), Box::new(Journal(journal)));
    let disk = disk.map_err(|error| DatabaseError::Storage(redb::StorageError::Io(error)))?;
    // Opening must not need a walk over the file: redb would ask here before it began one.
    Builder::new()
        .set_cache_size(pins.cache_bytes())
        .set_repair_callback(redb::RepairSession::abort)
        .create_with_backend(disk)
}

/// Stores that can be opened again and again on what `disk` gives.
fn open<B: DiskFile + Clone>(
    disk: impl Fn(usize) -> B + Clone + Send + Sync + 'static,
    pins: Pins,
) -> Result<(BlockStore, Records), String> {
    let opener = |first: usize| -> Opener {
        let disk = disk.clone();
        Box::new(move || database([disk(first), disk(first + 1)], pins))
    };
    let blocks = BlockStore::open_backend(opener(BLOCKS)).map_err(|error| error.to_string())?;
    let records = Records::open_with("records", opener(RECORDS));
    Ok((blocks, records.map_err(|error| error.to_string())?))
}

fn new_pin(number: u64, root: &Block) -> NewPin {
    NewPin { name: Some(number.to_string()), ..NewPin::plain(UserId(1), *root.cid()) }
}

/// Opens what a crash left and looks whether it keeps the promises.
fn check(crash: Crash, pins: Pins, seed: u64) {
    let Crash { number, images, acknowledged_pins } = crash;
    let images = images.map(|image| Image(Arc::new(Mutex::new(image))));
    let opened = open(move |disk| images[disk].clone(), pins);
    let (blocks, records) = opened.unwrap_or_else(|error| panic!("crash {number}: {error}"));
    let reader = blocks.reader();
    let mut pinned = std::collections::BTreeSet::new();
    let visit = |record: crate::model::PinRecord| {
        pinned.insert(record.name.unwrap().parse::<u64>().unwrap());
        std::ops::ControlFlow::Continue(())
    };
    records.scan_all_pins(&[PinSet::Pinned], visit).unwrap();
    for pin in 0..acknowledged_pins {
        assert!(pinned.contains(&pin), "crash {number}: pin {pin} was acknowledged");
    }
    for pin in 0..pins.count() {
        for block in pins.blocks(pin, seed) {
            match reader.get(block.cid()).unwrap_or_else(|error| panic!("crash {number}: {error}")) {
                Some(data) => assert_eq!(&data, block.data(), "crash {number}: a block of pin {pin} is not whole"),
                None => assert!(!pinned.contains(&pin), "crash {number}: pin {pin} is pinned and lacks a block"),
            }
        }
    }
    // It isn't only readable: work goes on with it.
    let more = Block::new_sha256(codec::RAW, Bytes::from_static(b"after the crash")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(blocks.writer().put(vec![more.clone()])).unwrap();
    assert_eq!(reader.get(more.cid()).unwrap().as_ref(), Some(more.data()));
}

/// A file in memory that never fails.
#[derive(Debug, Clone)]
struct Image(Arc<Mutex<Vec<u8>>>);

impl DiskFile for Image {}

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock().unwrap();
        out.copy_from_slice(image.get(at(offset)..at(offset) + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(at(length), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_at(&mut self.0.lock().unwrap(), at(offset), data);
        Ok(())
    }
}

/// Puts the blocks of the pins, records each as pinned, and acknowledges it.
async fn pin_all(blocks: &BlockStore, records: &Records, shared: &Shared, pins: Pins, seed: u64) {
    let mut coming = VecDeque::new();
    let mut next = 0;
    for pin in 0..pins.count() {
        while coming.len() < pins.at_once() && next < pins.count() {
            coming.push_back(blocks.writer().submit(pins.blocks(next, seed)).await.unwrap());
            next += 1;
        }
        let wanted = pins.blocks(pin, seed);
        let root = wanted[0].clone();
        let mut put = coming.pop_front().unwrap();
        // Failures of the disk pass; nothing was promised then.
        while let Err(error) = put.committed().await {
            assert!(matches!(error, BlocksError::Storage(_) | BlocksError::OutOfService(_)), "{error}");
            put = blocks.writer().submit(wanted.clone()).await.unwrap();
        }
        let state = PinState::Pinned { blocks: wanted.len() as u64, bytes: 1 };
        loop {
            let (new, state) = (new_pin(pin, &root), state.clone());
            let written = records.write(move |change| {
                let record = change.add_pin(new, None, i64::try_from(pin).unwrap_or(0))?.ok();
                record.map_or(Ok(false), |record| change.finish(record.id, state))
            });
            if matches!(written.await, Ok(true)) {
                break;
            }
        }
        shared.acknowledged_pins.store(pin + 1, Ordering::Release);
        if pin % 20 == 19 {
            // The index changes in other ways too.
            let _ = blocks.settle();
        }
    }
}

fn run(pins: Pins, is_failing: bool) {
    let seed: u64 = std::env::var("PINNACE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("PINNACE_TEST_SEED={seed}");
    let (sender, crashes) = mpsc::sync_channel::<Crash>(4);
    let world = World { pins, disks: Default::default(), random: Random(seed), crashes: 0, send: sender };
    let shared = Arc::new(Shared {
        world: Mutex::new(world),
        acknowledged_pins: AtomicU64::new(0),
        is_failing: AtomicBool::new(false),
    });
    let checks = std::thread::spawn(move || {
        let mut count = 0;
        for crash in crashes {
            // A file that is being made has another name until it is whole (`store::database`), so it is never opened.
            if [BLOCKS, RECORDS].iter().all(|file| !crash.images[*file].is_empty()) && crash.acknowledged_pins > 0 {
                check(crash, pins, seed);
                count += 1;
            }
        }
        count
    });
    let flights = disk::FLIGHTS_STARTED.load(Ordering::Acquire);
    let disks = Arc::clone(&shared);
    let (blocks, records) = open(move |disk| Backend { shared: Arc::clone(&disks), disk }, pins).unwrap();
    shared.is_failing.store(is_failing, Ordering::Release);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(pin_all(&blocks, &records, &shared, pins, seed));
    shared.is_failing.store(false, Ordering::Release);
    blocks.close();
    records.close();
    drop((records, runtime));
    let flights = disk::FLIGHTS_STARTED.load(Ordering::Acquire) - flights;
    assert!(pins == Pins::Small || flights > 3, "only {flights} commits flew");
    let Ok(shared) = Arc::try_unwrap(shared) else { panic!("the disks are still in use") };
    drop(shared);
    let count = checks.join().expect("every crash leaves a sound state");
    assert!(count >= if pins == Pins::Small { 20 } else { 8 }, "only {count} crashes were looked at");
}

#[test]
fn whatever_a_pulled_plug_leaves_of_both_files_keeps_what_was_promised() {
    run(Pins::Small, false);
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing_that_was_promised() {
    run(Pins::Small, true);
}

#[test]
fn a_pulled_plug_takes_no_commit_that_had_landed() {
    run(Pins::Large, false);
}

#[test]
fn a_disk_that_fails_below_commits_that_fly_loses_nothing_that_was_promised() {
    run(Pins::Large, true);
}
