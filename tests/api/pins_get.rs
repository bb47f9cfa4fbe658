//! `GET /api/psa/pins/{requestid}`

use std::time::Instant;

use pinnace::model::{Failure, FailureCode, PinState};
use pinnace::pins::board::{Doing, LastTry, Progress};
use serde_json::json;

use crate::support::{Server, cid, id, path, progress};

#[tokio::test]
async fn shows_each_status_with_its_info() {
    let server = Server::start().await;
    let pin = server.pin(json!({ "cid": cid(1), "name": "x" })).await;
    let get = || async { server.get(&path(&pin)).await.ok(200) };
    assert_eq!(get().await, pin);

    let progress = Progress {
        blocks_fetched: 3,
        blocks_known: 7,
        bytes_fetched: 300,
        bytes_per_second: 10,
        peers: 1,
        last_block_at: Some(Instant::now()),
        ..progress()
    };
    server.set_fetching(id(&pin), progress.clone());
    let pinning = get().await;
    assert_eq!(pinning["status"], "pinning");
    assert_eq!(pinning["info"]["blocks_fetched"], "3");
    assert_eq!(pinning["info"]["blocks_known"], "7");
    assert_eq!(pinning["info"]["bytes_known"], "1000");
    assert!(pinning["info"]["status_details"].as_str().unwrap().starts_with("fetched 3 of 7 known blocks"));

    server.board.schedule().add(id(&pin), pinnace::model::UserId(1));
    let last_try = LastTry { sentence: "nobody has it".into(), progress: Some(progress) };
    server.board.set(id(&pin), Doing::Tried(last_try));
    let queued = get().await;
    assert_eq!(queued["status"], "queued");
    assert!(queued["info"]["status_details"].as_str().unwrap().ends_with("last try: nobody has it"));

    // The board may know an ended pin for a moment longer: the record decides.
    server.records.finish(id(&pin), PinState::Pinned { blocks: 7, bytes: 700 }).await.unwrap();
    for _ in 0..2 {
        let pinned = get().await;
        assert_eq!(pinned["status"], "pinned");
        assert_eq!(pinned["info"]["dag_size"], "700");
        assert_eq!(pinned["info"]["raw_size"], "700");
        assert_eq!(pinned["info"]["blocks_known"], "7");
        assert_eq!((&pinned["created"], &pinned["pin"]), (&pin["created"], &pin["pin"]));
        server.board.forget(&id(&pin));
    }

    let failure =
        Failure { code: FailureCode::NoProvider, sentence: "nobody has it; connect a peer".into(), tried: Vec::new() };
    server.records.finish(id(&pin), PinState::Failed(failure)).await.unwrap();
    let failed = get().await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["info"], json!({ "status_details": "nobody has it; connect a peer", "failure": "no_provider" }));
}

#[tokio::test]
async fn a_pin_that_is_unknown_or_of_another_user_is_not_found() {
    let server = Server::start().await;
    let (_, other) = server.other_account().await;
    let pin = server.pin(json!({ "cid": cid(1) })).await;
    let request = server.request(reqwest::Method::GET, &path(&pin), &other);
    server.send(request).await.error(404, "NOT_FOUND");
    for id in ["x", "00000000-0000-0000-0000-000000000000", "%ff", "0190a7a1-0000-7000-8000-000000000000"] {
        server.get(&format!("/api/psa/pins/{id}")).await.error(404, "NOT_FOUND");
    }
}
