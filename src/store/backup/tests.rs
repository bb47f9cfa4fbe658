//! Backups beside pins that go and collections that sweep, and what restores make of them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use cid::Cid;
use redb::{ReadableDatabase, ReadableTable};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::model::cids::codec;
use crate::model::{Block, PinId, PinState, UserId};
use crate::store::blocks::{Collection, GcPhase};
use crate::store::records::{NewPin, NewUser, PinSet, Quota, Role};
use crate::store::restore::{RestoreError, RestoreReport, restore};

const LEAVES: u64 = 60;

fn links(_: &Cid, data: &Bytes) -> Vec<Cid> {
    serde_ipld_dagcbor::from_slice(data).unwrap()
}

fn options() -> Options {
    Options {
        blocks_cache: ByteSize::mib(8),
        records_cache: ByteSize::mib(1),
        write_buffer: ByteSize::mib(4),
        max_bytes: ByteSize(0),
        min_free_bytes: ByteSize(0),
        gc_interval: Duration::ZERO,
        verify_interval: Duration::ZERO,
        verify_rate: ByteSize::mib(16),
    }
}

/// A data directory with open stores, an account, and a pin for each of some DAGs.
struct Fixture {
    stores: Stores,
    runtime: Runtime,
    pins: Vec<(PinId, Vec<Block>)>,
    directory: TempDir,
}

impl Fixture {
    fn new(pins: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(&directory.path().join("data")).unwrap();
        data.write_secret(&data.identity_path(), b"the identity").unwrap();
        let stores = Stores::open(data, &options()).unwrap();
        let runtime = Runtime::new().unwrap();
        let account = NewUser {
            email: "a@example.org".to_owned(),
            password_hash: "x".to_owned(),
            created_ms: 1,
            role: Role::User,
            quota: Quota::NONE,
            pin_lifetime_s: None,
        };
        let user = runtime.block_on(stores.records.write(|change| change.create_user(account))).unwrap().unwrap();
        let pins = (0..pins).map(|number| pin(&stores, &runtime, user.id, number)).collect();
        Self { stores, runtime, pins, directory }
    }

    fn source(&self) -> Source {
        Source::new(self.stores.blocks.reader(), Arc::clone(&self.stores.records), &self.stores.data)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("backup.redb")
    }

    fn write(&self) -> BackupReport {
        write(&self.source(), &self.file(), true, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn restored_path(&self) -> PathBuf {
        self.directory.path().join("restored")
    }

    fn restore(&self) -> Result<RestoreReport, RestoreError> {
        restore(&self.file(), &self.restored_path(), &options(), links, &mut |_, _| ())
    }

    /// What was restored, with its pins.
    fn restored(&self) -> (Stores, Vec<PinId>) {
        let stores = Stores::open_stopped(&self.restored_path(), &options()).unwrap();
        assert_eq!(fs::read(stores.data.identity_path()).unwrap(), b"the identity");
        assert!(stores.records.user_by_email("a@example.org").unwrap().is_some());
        let mut pinned = Vec::new();
        let scan = stores.records.scan_all_pins(&[PinSet::Pinned], |record| {
            pinned.push(record.id);
            ControlFlow::Continue(())
        });
        scan.unwrap();
        (stores, pinned)
    }

    #[track_caller]
    fn assert_whole(&self, stores: &Stores, pins: &[PinId]) {
        for (id, blocks) in self.pins.iter().filter(|(id, _)| pins.contains(id)) {
            for block in blocks {
                let data = stores.blocks.reader().get(block.cid()).unwrap();
                assert_eq!(data.as_ref(), Some(block.data()), "a block of pin {id}");
            }
        }
    }
}

/// Stores a root with its leaves, and a pin that says so. Neighbours share a leaf.
fn pin(stores: &Stores, runtime: &Runtime, user: UserId, number: u64) -> (PinId, Vec<Block>) {
    let leaf = |number: u64| Block::new_sha256(codec::RAW, number.to_string().repeat(40).into()).unwrap();
    let mut blocks: Vec<Block> = (number * LEAVES..=(number + 1) * LEAVES).map(leaf).collect();
    let cids: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    let root = serde_ipld_dagcbor::to_vec(&cids).unwrap();
    blocks.push(Block::new_sha256(codec::DAG_CBOR, root.into()).unwrap());
    let root = *blocks.last().unwrap().cid();
    let new = NewPin::plain(user, root);
    let id = runtime.block_on(async {
        stores.blocks.writer().put(blocks.clone()).await.unwrap();
        let id = stores.records.add_pin(new, None).await.unwrap().unwrap().id;
        stores.records.finish(id, PinState::Pinned { blocks: LEAVES + 2, bytes: 1 }).await.unwrap();
        id
    });
    (id, blocks)
}

/// Ends a collection, with all pins as its roots if it has none yet.
fn finish(collection: &mut Collection, records: &Records, has_roots: bool) {
    if !has_roots {
        for (_, roots) in records.roots(None, 1000).unwrap() {
            for root in &roots {
                collection.add_root(root);
            }
        }
        collection.seal_roots();
    }
    while collection.step().unwrap() != GcPhase::Done {}
}

/// A collection is at each of its steps when the snapshots are taken. Between the two snapshots a pin is removed and
/// everything that is garbage then is swept, as far as that is possible.
#[test]
fn every_pin_in_a_backup_is_whole_whatever_a_collection_does_meanwhile() {
    for at in 0.. {
        let fixture = Fixture::new(6);
        let source = fixture.source();
        let records = Arc::clone(&fixture.stores.records);
        let remove = |index: usize| {
            let (id, _) = fixture.pins[index];
            assert!(futures::executor::block_on(records.remove_pin(UserId(1), id)).unwrap());
        };
        remove(0);
        let collector = fixture.stores.blocks.collector(links);
        let mut collection = collector.begin().unwrap();
        let mut steps = 0;
        if at > 0 {
            records.roots(None, 10).unwrap().iter().flat_map(|(_, roots)| roots).for_each(|root| {
                collection.add_root(root);
            });
            collection.seal_roots();
            while steps < at && collection.step().unwrap() != GcPhase::Done {
                steps += 1;
            }
        }
        let (go, gone) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let (collection, collector, records, remove) = (&mut collection, &collector, &records, &remove);
            scope.spawn(move || {
                gone.recv().unwrap();
                remove(1);
                finish(collection, records, at > 0);
                // The first one keeps what was a root when it began.
                let mut second = collector.begin().unwrap();
                finish(&mut second, records, false);
            });
            let snapshots = source.blocks.snapshot_with(|| {
                let snapshot = source.records.snapshot()?;
                go.send(()).unwrap();
                // Time for the other thread to sweep, if nothing kept it from that.
                let until = Instant::now() + Duration::from_millis(20);
                while Instant::now() < until {
                    std::thread::yield_now();
                }
                Ok::<_, BackupError>(snapshot)
            });
            write_new(&source, snapshots.unwrap(), &fixture.file(), &mut |_| ControlFlow::Continue(())).unwrap();
        });
        let leaf_of_removed = fixture.pins[1].1[5].cid();
        assert!(!fixture.stores.blocks.reader().has(leaf_of_removed).unwrap(), "the removed pin was swept");

        let report = fixture.restore().unwrap();
        assert_eq!((report.pins, report.requeued_pins, report.copied.damaged_blocks), (5, 0, 0), "at step {at}");
        let (stores, pinned) = fixture.restored();
        assert_eq!(pinned.len(), 5);
        fixture.assert_whole(&stores, &pinned);
        if steps < at {
            assert!(at > 5, "the collection has several steps");
            break;
        }
    }
}

#[test]
fn damaged_blocks_are_left_out_and_their_pins_queued_again() {
    let fixture = Fixture::new(4);
    let written = fixture.write();
    assert_eq!(written.file_bytes, fs::metadata(fixture.file()).unwrap().len());
    {
        // The leaf that the second and the third pin share.
        let (shared, _) = fixture.pins[2].1[0].clone().into_parts();
        let database = Database::open(fixture.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let table = TableDefinition::<u64, &[u8]>::new("segments");
            let mut segments = transaction.open_table(table).unwrap();
            let (number, mut segment) = {
                let (number, segment) = segments.first().unwrap().unwrap();
                (number.value(), segment.value().to_vec())
            };
            let text = (2 * LEAVES).to_string().repeat(40);
            let at = segment.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
            assert_eq!(Block::new_sha256(codec::RAW, text.into()).unwrap().cid(), &shared);
            segment[at] ^= 1;
            segments.insert(number, segment.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let report = fixture.restore().unwrap();
    assert_eq!((report.pins, report.requeued_pins, report.copied.damaged_blocks), (4, 2, 1));
    assert_eq!(report.copied.blocks + 1, written.copied.blocks);
    let (stores, pinned) = fixture.restored();
    assert_eq!(pinned.len(), 2);
    fixture.assert_whole(&stores, &pinned);
    let queued = stores.records.unfinished(None, 10).unwrap();
    assert_eq!(queued.iter().map(|pin| pin.id).collect::<Vec<_>>(), [fixture.pins[1].0, fixture.pins[2].0]);
    drop(stores);

    // What is there isn't replaced, and what is half there is.
    assert!(matches!(fixture.restore(), Err(RestoreError::NotEmpty { .. })));
    fs::write(fixture.restored_path().join("restore.unfinished"), "").unwrap();
    assert!(Stores::open_stopped(&fixture.restored_path(), &options()).is_err());
    assert_eq!(fixture.restore().unwrap(), report);
}

#[test]
fn what_can_not_be_restored_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new(1);
    let refused = || {
        let error = fixture.restore().unwrap_err();
        assert!(!fixture.restored_path().exists());
        error
    };
    assert!(matches!(refused(), RestoreError::Open { .. }));
    fs::write(fixture.file(), "no backup").unwrap();
    assert!(matches!(refused(), RestoreError::Open { .. }));
    fs::remove_file(fixture.file()).unwrap();
    drop(Database::create(fixture.file()).unwrap());
    assert!(matches!(refused(), RestoreError::Foreign { .. }));

    fixture.write();
    let whole = fs::read(fixture.file()).unwrap();
    let change = |job: &dyn Fn(&redb::WriteTransaction)| {
        fs::write(fixture.file(), &whole).unwrap();
        let database = Database::open(fixture.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        job(&transaction);
        transaction.commit().unwrap();
    };
    change(&|transaction| {
        let header = br#"{"format":2,"made":"x","made_by":"9.9","blocks":1,"bytes":1,"more":[]}"#;
        transaction.open_table(BACKUP).unwrap().insert(HEADER_KEY, &header[..]).unwrap();
    });
    let newer = refused();
    assert!(matches!(newer, RestoreError::Newer { .. }) && newer.to_string().contains("pinnace 9.9"), "{newer}");
    change(&|transaction| {
        let table = TableDefinition::<u64, u64>::new("records.teams");
        transaction.open_table(table).unwrap().insert(1, 1).unwrap();
    });
    let error = fixture.restore().unwrap_err();
    assert!(matches!(&error, RestoreError::Newer { what, .. } if what.contains("teams")), "{error}");
    // A cut-off file: whatever redb makes of it is an error.
    for length in [whole.len() / 3, whole.len() - 4096] {
        fs::write(fixture.file(), &whole[..length]).unwrap();
        fixture.restore().unwrap_err();
    }
    assert!(matches!(
        Stores::open_stopped(&fixture.restored_path(), &options()),
        Err(StoresError::DataDir(crate::store::datadir::DataDirError::HalfRestored { .. }))
    ));
}

#[test]
fn a_backup_is_private_replaces_only_by_force_and_says_what_is_wrong_with_a_path() {
    let fixture = Fixture::new(1);
    let source = fixture.source();
    let check = |path: &Path, force| check_target(&source, path, force);
    check(&fixture.file(), false).unwrap();
    fixture.write();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(fixture.file()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let names = fs::read_dir(fixture.directory.path()).unwrap().count();
    assert_eq!(names, 2, "the data and the backup");
    let exists = write(&source, &fixture.file(), false, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(exists, BackupError::Exists { .. }));
    assert!(matches!(check(&fixture.file(), false), Err(BackupError::Exists { .. })));
    check(&fixture.file(), true).unwrap();
    let data = fixture.stores.data.path();
    for path in [Path::new("relative"), Path::new("/"), fixture.directory.path(), &data.join("blocks.redb")] {
        assert!(matches!(check(path, true), Err(BackupError::BadPath { .. })), "{}", path.display());
    }
    let missing = check(&fixture.directory.path().join("missing/backup"), false).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    // One that is cut off leaves nothing.
    fs::remove_file(fixture.file()).unwrap();
    let stopped = write(&source, &fixture.file(), false, &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(stopped, BackupError::Stopped));
    assert_eq!(fs::read_dir(fixture.directory.path()).unwrap().count(), 1);
}

#[test]
fn a_service_writes_one_backup_at_a_time() {
    let fixture = Fixture::new(1);
    let backups =
        Backups::new(fixture.stores.blocks.reader(), Arc::clone(&fixture.stores.records), &fixture.stores.data);
    assert!(backups.state().is_none());
    fixture.runtime.block_on(async {
        backups.begin(fixture.file(), false).unwrap();
        let mut state = backups.last.lock().unwrap().as_ref().unwrap().1.clone();
        state.wait_for(|state| matches!(state, BackupState::Ended(_))).await.unwrap();
        let Some((path, BackupState::Ended(Ok(report)))) = backups.state() else { panic!("{:?}", backups.state()) };
        assert_eq!((path, report.copied.blocks), (fixture.file(), LEAVES + 2));
        let (running, receiver) = watch::channel(BackupState::Running(BackupProgress::default()));
        *backups.last.lock().unwrap() = Some((fixture.file(), receiver));
        assert!(matches!(backups.begin(fixture.file(), true), Err(BackupError::Running { .. })));
        drop(running);
        backups.stop().await;
        assert!(backups.begin(fixture.file(), true).is_err());
    });
    let database = Database::open(fixture.file()).unwrap();
    let read = database.begin_read().unwrap();
    assert!(read.open_table(BACKUP).unwrap().get(HEADER_KEY).unwrap().is_some());
}
