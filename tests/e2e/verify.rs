//! Blocks that the disk damaged: found, fetched again from the origin, and whole again.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::process::Output;

use serde_json::Value;

use crate::support::api::details;
use crate::support::asker::Asker;
use crate::support::daemon::{Daemon, Home, run};
use crate::support::dag::Dag;
use crate::support::provider::Provider;

/// Runs a command for the pinnace of this home.
fn pinnace(home: &Home, arguments: &[&str]) -> Output {
    run(arguments, &home.data())
}

/// The JSON of a command that ends with this status.
#[track_caller]
fn json(home: &Home, arguments: &[&str], status: i32) -> Value {
    let output = pinnace(home, &[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Flips a bit in each copy of these bytes in the file of the blocks.
#[track_caller]
fn damage(home: &Home, data: &[u8]) {
    let path = home.data().join("blocks.redb");
    let bytes = std::fs::read(&path).unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    let pattern = &data[..64.min(data.len())];
    let places: Vec<usize> = bytes
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, window)| *window == pattern)
        .map(|(at, _)| at)
        .step_by(100)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[bytes[at] ^ 4]).unwrap();
    }
}

/// Two services, of which the second has pinned a DAG from the first, and stopped then.
struct Damaged {
    dag: Dag,
    homes: [Home; 2],
    origin: Daemon,
    token: String,
    pin: Value,
}

impl Damaged {
    /// A leaf and the root are damaged.
    async fn new(name: &str) -> Self {
        let dag = Dag::wide(name, 20, 60_000);
        let homes = [Home::new(), Home::new()];
        let (origin, second) = (homes[0].start().await, homes[1].start().await);
        let provider = Provider::start(&dag).await;
        let pin = origin.api().add(&dag.root, &[provider.origin()]).await;
        origin.api().wait_pinned(&pin, 20).await;
        let pin = second.api().add(&dag.root, &[origin.ready.multiaddr("/tcp/")]).await;
        second.api().wait_pinned(&pin, 20).await;
        let token = second.ready.token().to_owned();
        assert!(second.terminate().await.0.success());
        damage(&homes[1], &dag.blocks[7].1);
        damage(&homes[1], dag.data(&dag.root));
        Self { dag, homes, origin, token, pin }
    }

    #[track_caller]
    fn assert_names(&self, verify: &Value) {
        assert_eq!(verify["damaged_blocks"], 2, "{verify}");
        assert_eq!(verify["blocks"], 21, "{verify}");
        let leaf = self.dag.blocks[7].0.to_string();
        assert!(verify["damaged"].as_array().unwrap().iter().any(|cid| *cid == leaf), "{verify}");
        assert_eq!(verify["damaged_pins"], 1, "{verify}");
        assert_eq!(verify["pins"][0]["id"], self.pin["requestid"], "{verify}");
        assert_eq!(verify["pins"][0]["cid"], self.dag.root.to_string(), "{verify}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_fetched_again_when_the_origin_is_back() {
    let damaged = Damaged::new("damaged").await;
    let home = &damaged.homes[1];
    let listen = damaged.origin.ready.multiaddr("/tcp/");
    let listen = listen.split("/p2p/").next().unwrap();
    let service = home.serve().env("PINNACE_PINS__RETRY_MIN", "1s").start().await;
    let api = service.api_with(&damaged.token);

    damaged.assert_names(&json(home, &["verify"], 1));
    api.wait_pinned(&damaged.pin, 1).await;
    let gc = pinnace(home, &["gc"]);
    assert!(String::from_utf8_lossy(&gc.stderr).contains("garbage is not collected"), "{gc:?}");

    // The origin is away.
    let Damaged { dag, homes, origin, pin, .. } = damaged;
    let home = &homes[1];
    origin.terminate().await;
    let verify = json(home, &["verify", "--repair", "--rate", "0"], 0);
    assert_eq!((&verify["quarantined_blocks"], &verify["not_replaced_blocks"]), (&2.into(), &2.into()), "{verify}");
    assert_eq!(verify["pins"][0]["requeued"], true, "{verify}");
    let waiting = api.wait(&pin, "word of the damage", 5, |pin| details(pin).contains("damaged block")).await;
    assert!(waiting["status"] == "queued" || waiting["status"] == "pinning", "{waiting}");
    let status = json(home, &["status"], 0);
    assert_eq!(status["verification"]["damaged_blocks"], 2, "{status}");
    assert!(status["warnings"].to_string().contains("2 damaged blocks"), "{status}");
    let gc = pinnace(home, &["gc"]);
    assert!(String::from_utf8_lossy(&gc.stderr).contains("have not been replaced yet"), "{gc:?}");
    let text = String::from_utf8(pinnace(home, &["verify"]).stdout).unwrap();
    assert!(text.contains("2 blocks were found damaged before and not replaced yet"), "{text}");

    let _origin = homes[0].serve().listen(&[listen]).start().await;
    let whole = api.wait_pinned(&pin, 40).await;
    assert!(!details(&whole).contains("damaged"), "{whole}");
    let status = json(home, &["status"], 0);
    assert_eq!(status["verification"]["damaged_blocks"], 0, "{status}");
    assert!(status["verification"]["finished"].is_string(), "{status}");
    assert!(pinnace(home, &["gc"]).status.success());
    assert_eq!(json(home, &["verify"], 0)["blocks"], 21);
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_while_the_service_is_stopped_is_fetched_at_its_start() {
    let damaged = Damaged::new("stopped").await;
    let home = &damaged.homes[1];
    damaged.assert_names(&json(home, &["verify"], 1));
    let output = pinnace(home, &["verify"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(damaged.pin["requestid"].as_str().unwrap()), "{text}");
    assert!(text.contains("Nothing was changed"), "{text}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "error: 2 blocks are damaged; `pinnace verify --repair` has what pins need fetched again\n");

    damaged.assert_names(&json(home, &["verify", "--repair"], 0));
    let service = home.start().await;
    service.api_with(&damaged.token).wait_pinned(&damaged.pin, 20).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&damaged.dag).await;
    assert!(damaged.origin.terminate().await.0.success());
}

/// A running fetch has found a block that goes into quarantine then: it must not end without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_relied_on_a_damaged_block_begins_anew() {
    let dag = Dag::wide("unfinished", 30, 60_000);
    let provider = Provider::start_allowing(&dag, 21).await;
    let home = Home::new();
    let service = home.start().await;
    let token = service.ready.token().to_owned();
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_blocks(&pin, 21, 20).await;
    assert!(service.terminate().await.0.success());
    let bytes = std::fs::read(home.data().join("blocks.redb")).unwrap();
    let holds = |data: &[u8]| bytes.windows(64).any(|window| window == &data[..64]);
    let (_, stored) = dag.blocks.iter().find(|(_, data)| holds(data)).unwrap();
    damage(&home, stored);

    let service = home.start().await;
    let api = service.api_with(&token);
    api.wait_blocks(&pin, 21, 20).await;
    let verify = json(&home, &["verify", "--repair"], 0);
    assert_eq!((&verify["damaged_blocks"], &verify["damaged_pins"]), (&1.into(), &1.into()), "{verify}");
    assert_eq!((&verify["pins"][0]["status"], &verify["pins"][0]["requeued"]), (&"queued".into(), &false.into()));
    provider.allow(usize::MAX);
    api.wait_pinned(&pin, 40).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
    assert!(json(&home, &["verify"], 0)["blocks"] == 31);
}
