//! A backup of a service that goes on pinning, restored elsewhere.

use std::path::Path;

use serde_json::Value;

use crate::support::asker::Asker;
use crate::support::daemon::{Home, Serve, run};
use crate::support::dag::Dag;
use crate::support::provider::Provider;

#[track_caller]
fn json(arguments: &[&str], data: &Path) -> Value {
    let output = run(&[arguments, &["--json"]].concat(), data);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], data: &Path) -> String {
    let output = run(arguments, data);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_goes_on_as_the_same_service() {
    let (whole, unfinished) = (Dag::wide("whole", 30, 50_000), Dag::wide("unfinished", 60, 20_000));
    let home = Home::new();
    let service = home.start().await;
    let token = service.ready.token().to_owned();
    let provider = Provider::start(&whole).await;
    let pinned = service.api().add(&whole.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pinned, 15).await;
    let mut slow = Provider::start_allowing(&unfinished, 21).await;
    let pinning = service.api().add(&unfinished.root, &[slow.origin()]).await;
    service.api().wait_blocks(&pinning, 21, 15).await;

    // Beside a pin that is being fetched.
    let file = home.path("backup");
    let path = file.to_str().unwrap();
    let written = json(&["backup", path], &home.data());
    assert_eq!(
        (&written["running"], &written["blocks"], &written["damaged_blocks"]),
        (&false.into(), &52.into(), &0.into())
    );
    let exists = refused(&["backup", path], &home.data());
    assert!(exists.contains("is there already") && exists.contains("--force"), "{exists}");
    json(&["backup", path, "--force"], &home.data());
    let nowhere = refused(&["backup", "/nowhere/backup"], &home.data());
    assert!(nowhere.contains("/nowhere"), "{nowhere}");
    let in_use = refused(&["restore", path], &home.data());
    assert!(in_use.contains("in use"), "{in_use}");
    slow.allow(usize::MAX);
    slow.wait_sent(61).await;
    service.api().wait_pinned(&pinning, 15).await;
    let peer_id = service.ready.peer_id.clone();
    assert!(service.terminate().await.0.success());

    let other = home.path("elsewhere");
    let restored = json(&["restore", path], &other);
    assert_eq!(
        (&restored["pins"], &restored["blocks"], &restored["requeued_pins"]),
        (&2.into(), &52.into(), &0.into())
    );
    let not_empty = refused(&["restore", path], &other);
    assert!(not_empty.contains("has accounts or pins already"), "{not_empty}");

    drop(provider);
    let service = Serve::new(&other, home.path("elsewhere.log")).start().await;
    assert_eq!(service.ready.peer_id, peer_id);
    assert!(service.ready.has_no_secret());
    let api = service.api_with(&token);
    assert_eq!(api.get(&pinned).await["status"], "pinned");
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&whole).await;
    // The other one was not whole then, and becomes so now.
    api.wait_pinned(&pinning, 30).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&unfinished).await;
    assert!(service.terminate().await.0.success());

    // While nothing runs, too.
    let stopped = json(&["backup", path, "--force"], &other);
    assert_eq!(stopped["blocks"], 92);
    let third = home.path("third");
    assert_eq!(json(&["restore", path], &third)["blocks"], 92);
    let nothing = refused(&["backup", path, "--force"], &home.path("missing"));
    assert!(nothing.contains("no pinnace is running"), "{nothing}");
}
