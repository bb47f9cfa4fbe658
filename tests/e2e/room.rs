//! A store that is full: pins wait with a reason, everything else goes on, and they go on when there is room.

use std::fs::File;

use crate::support::api::details;
use crate::support::asker::Asker;
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_finds_the_store_full_goes_on_when_another_is_removed() {
    let (first, second) = (Dag::wide("first", 20, 200_000), Dag::wide("second", 20, 200_000));
    let (first_source, second_source) = (Provider::start(&first).await, Provider::start(&second).await);
    let home = Home::new();
    let service = home.serve().env("PINNACE_STORE__MAX_BYTES", "6MB").start().await;
    let api = service.api();
    let first_pin = api.add(&first.root, &[first_source.origin()]).await;
    api.wait_pinned(&first_pin, 20).await;

    let second_pin = api.add(&second.root, &[second_source.origin()]).await;
    let waiting =
        api.wait(&second_pin, "pin that waits for room", 20, |pin| details(pin).contains("store.max_bytes")).await;
    assert_eq!(waiting["status"], "queued", "{waiting}");
    // What is there is served all the same, and what is held already is pinned at once.
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&first).await;
    let again = api.add(&first.root, &[]).await;
    api.wait_pinned(&again, 20).await;

    api.remove(&first_pin).await;
    api.remove(&again).await;
    api.wait_pinned(&second_pin, 30).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&second).await;
    assert!(service.terminate().await.0.success());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_waits_while_the_disk_is_full() {
    const BALLAST: u64 = 2 << 30;
    let dag = Dag::wide("waits for the disk", 20, 100_000);
    let source = Provider::start(&dag).await;
    let home = Home::new();
    // The floor is in the middle of what a large file takes away and gives back.
    let disk = rustix::fs::statvfs(home.path(".").as_path()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let floor = free.checked_sub(BALLAST / 2).expect("the test needs 2 GiB of free disk");
    let ballast_path = home.path("ballast");
    let ballast = File::create(&ballast_path).unwrap();
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, BALLAST).unwrap();

    let service = home.serve().env("PINNACE_STORE__MIN_FREE_BYTES", &format!("{floor}B")).start().await;
    let api = service.api();
    let pin = api.add(&dag.root, &[source.origin()]).await;
    let waiting =
        api.wait(&pin, "pin that waits for room", 20, |pin| details(pin).contains("store.min_free_bytes")).await;
    assert_eq!(waiting["status"], "queued", "{waiting}");

    drop(ballast);
    std::fs::remove_file(ballast_path).unwrap();
    api.wait_pinned(&pin, 30).await;
}
