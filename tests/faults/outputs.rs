//! Outputs that take nothing.

use std::fs::OpenOptions;
use std::process::Stdio;

use pinnace::bitswap::wire::WantKind;

use crate::support::asker::{Answer, Asker};
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

/// A device that is always full is a file system that is.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_standard_output_at_the_first_start_is_told() {
    let home = Home::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let failure = home.serve().fail_writing_to(full.into()).await;
    failure.says(&["standard output", "No space left on device", "remove the data directory"]);
}

#[tokio::test]
async fn whoever_read_the_log_may_leave() {
    let dag = Dag::wide("unlogged", 20, 10_000);
    let provider = Provider::start(&dag).await;
    let home = Home::new();
    let mut service =
        home.serve().env("PINNACE_LOG__FILTER", "warn,pinnace=trace").start_logging_to(Stdio::piped()).await;
    service.close_log_pipe();
    let api = service.api();
    let pin = api.add(&dag.root, &[provider.origin()]).await;
    api.wait_pinned(&pin, 10).await;
    let mut asker = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    assert_eq!(asker.ask(dag.root, WantKind::Block).await, Answer::Block(dag.data(&dag.root).clone()));
    let (status, _) = service.terminate().await;
    assert!(status.success(), "{status}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_under_the_log_ends_nothing() {
    let home = Home::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let service = home.serve().env("PINNACE_LOG__FILTER", "trace").start_logging_to(full.into()).await;
    assert_eq!(service.api().count("queued").await, 0);
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.check().await;
    let (status, _) = service.terminate().await;
    assert!(status.success(), "{status}");
}
