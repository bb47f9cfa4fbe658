//! `POST /api/psa/pins`

use pinnace::pins::board::PinChange;
use reqwest::Method;
use serde_json::json;

use crate::support::{DELEGATES, Server, cid, id};

#[tokio::test]
async fn answers_with_exactly_what_the_schema_has() {
    let server = Server::start().await;
    let pin = json!({
        "cid": cid(1), "name": "a name", "origins": ["/ip4/192.0.2.2/tcp/4001/p2p/QmPeer"], "meta": { "app": "test" }
    });
    let status = server.pin(pin.clone()).await;
    assert_eq!(
        status,
        json!({
            "requestid": status["requestid"], "status": "queued", "created": status["created"], "pin": pin,
            "delegates": DELEGATES, "info": { "status_details": "waiting for its turn" }
        })
    );
    let created = status["created"].as_str().unwrap();
    assert_eq!(created.len(), "2026-01-31T12:00:00.000Z".len(), "{created}");
    assert!(created.ends_with('Z'));
    assert_eq!(id(&status).0.get_version_num(), 7);
}

#[tokio::test]
async fn absent_stays_absent_and_empty_is_absent() {
    let server = Server::start().await;
    let bare = json!({ "cid": cid(1) });
    assert_eq!(server.pin(bare.clone()).await["pin"], bare);
    assert_eq!(server.pin(json!({ "cid": cid(1), "name": "", "origins": [], "meta": {} })).await["pin"], bare);
    assert_eq!(server.pin(json!({ "cid": cid(1), "name": null, "origins": null, "meta": null })).await["pin"], bare);
}

#[tokio::test]
async fn the_same_content_again_is_another_pin_with_a_later_time() {
    let server = Server::start().await;
    let mut before = (String::new(), String::new());
    for _ in 0..20 {
        let status = server.pin(json!({ "cid": cid(1) })).await;
        let text = |field: &str| status[field].as_str().unwrap().to_owned();
        let now = (text("created"), text("requestid"));
        assert!(now.0 > before.0 && now.1 > before.1);
        before = now;
    }
}

#[tokio::test]
async fn echoes_the_cid_as_it_was_written() {
    let server = Server::start().await;
    for text in [
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "bafybeie5nqv6kd3qnfjupgvz34woh3oksc3iau6abmyajn7qvtf6d2ho34",
        "zdj7Wk1JPErKkCFugrzhQspLMnfFfS5LXzX3FFRYstxgAwHu5",
        "bafkqaaa",
    ] {
        match server.post("/api/psa/pins", json!({ "cid": text })).await {
            answer if answer.status == 202 => assert_eq!(answer.body["pin"]["cid"], text),
            answer => panic!("{text}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn tells_the_runner_after_the_commit() {
    let mut server = Server::start().await;
    let status = server.pin(json!({ "cid": cid(1), "name": "x" })).await;
    let Some(PinChange::Added(record)) = server.changes.recv().await else { panic!("not announced") };
    assert_eq!(record.id, id(&status));
    assert_eq!(server.records.get(record.id).unwrap().unwrap(), *record);
}

#[tokio::test]
async fn bad_origins_are_named_and_the_good_ones_used() {
    let server = Server::start().await;
    let good = |number: usize| format!("/ip4/192.0.2.2/tcp/{number}/p2p/QmPeer");
    let mut origins = vec![good(0), "nonsense".to_owned(), good(0), format!("/p2p/{}", "x".repeat(2000))];
    origins.extend((1..=60).map(good));
    let status = server.pin(json!({ "cid": cid(1), "origins": origins })).await;
    let used: Vec<String> = (0..20).map(good).collect();
    assert_eq!(status["pin"]["origins"], json!(used));
    let skipped = status["info"]["origins_skipped"].as_str().unwrap();
    assert!(
        skipped.starts_with("nonsense (names no peer); /ip4/192.0.2.2/tcp/0/p2p/QmPeer (given twice); /p2p/xxx"),
        "{skipped}"
    );
    assert!(skipped.contains("(longer than 1024 bytes)"), "{skipped}");
    assert!(skipped.contains("/ip4/192.0.2.2/tcp/20/p2p/QmPeer (at most 20 are used)"), "{skipped}");
    assert!(skipped.ends_with("; and 24 more"), "{skipped}");
    assert_eq!(server.get(&crate::support::path(&status)).await.ok(200)["info"]["origins_skipped"], skipped);
}

#[tokio::test]
async fn lengths_are_counted_in_characters_and_bounded() {
    let server = Server::start().await;
    server.pin(json!({ "cid": cid(1), "name": "é".repeat(255) })).await;
    let meta = |pairs: usize| (0..pairs).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>();
    server.pin(json!({ "cid": cid(1), "meta": meta(1000) })).await;
    for body in [
        json!({ "cid": cid(1), "name": "é".repeat(256) }),
        json!({ "cid": cid(1), "meta": meta(1001) }),
        json!({ "cid": cid(1), "meta": { "key": "x".repeat(64 * 1024) } }),
    ] {
        server.post("/api/psa/pins", body).await.error(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn refuses_what_cannot_be_pinned_with_the_reason() {
    let server = Server::start().await;
    let git = "baf4bcfhwbyi5eiqvfqrfsoqp2z7ffntbtjxjjey";
    for (body, part) in [
        (json!({}), "\"cid\" is missing"),
        (json!({ "cid": "" }), "is not a CID"),
        (json!({ "cid": "hello" }), "is not a CID"),
        (json!({ "cid": format!("https://example.org/ipfs/{}", cid(1)) }), "path or URL"),
        (json!({ "cid": "b".repeat(2000) }), "is not a CID"),
        (json!({ "cid": format!("f01551220{}deadbeef", "ab".repeat(32)) }), "bytes follow it"),
        (json!({ "cid": format!("f01551230{}", "ab".repeat(48)) }), "longer than the 32 that hash function 0x12 makes"),
        (json!({ "cid": format!("f01550041{}", "ab".repeat(65)) }), "an identity CID of 65 bytes can't be a root"),
        (json!({ "cid": git }), "codec 0x78 is not supported"),
        (json!({ "cid": 1 }), "expected a string"),
        (json!({ "cid": cid(1), "name": 1 }), "expected a string"),
        (json!({ "cid": cid(1), "origins": "x" }), "expected a sequence"),
        (json!({ "cid": cid(1), "meta": { "a": 1 } }), "expected a string"),
        (json!([]), "must be a JSON object"),
        (json!([cid(1), "name", [], {}]), "must be a JSON object"),
        (json!("text"), "must be a JSON object"),
    ] {
        let details = server.post("/api/psa/pins", body.clone()).await.error(400, "BAD_REQUEST");
        assert!(details.contains(part), "{body}: {details}");
    }
    assert_eq!(server.records.unfinished(None, 10).unwrap(), []);
}

#[tokio::test]
async fn refuses_bodies_that_are_no_json_or_too_large() {
    let server = Server::start().await;
    let post = || server.request(Method::POST, "/api/psa/pins", &server.token);
    server.send(post()).await.error(400, "BAD_REQUEST");
    server.send(post().body("{")).await.error(400, "BAD_REQUEST");
    server
        .send(post().body("cid=x").header("content-type", "application/x-www-form-urlencoded"))
        .await
        .error(400, "BAD_REQUEST");
    server.send(post().header("content-type", "text/plain").body("{}")).await.error(400, "BAD_REQUEST");
    let body = json!({ "cid": cid(1) }).to_string();
    server.send(post().body(body.clone())).await.ok(202);
    server.send(post().header("content-type", "Application/JSON; charset=utf-8").body(body)).await.ok(202);
    for bytes in [256 * 1024 + 1, 4 * 256 * 1024] {
        server.send(post().body(" ".repeat(bytes))).await.error(413, "PAYLOAD_TOO_LARGE");
    }
}
