//! `POST /api/psa/pins/{requestid}`

use pinnace::model::PinState;
use pinnace::pins::board::PinChange;
use serde_json::json;

use crate::support::{Server, cid, id, path};

#[tokio::test]
async fn the_old_pin_goes_and_its_content_is_kept_until_the_new_one_is_whole() {
    let mut server = Server::start().await;
    let old = server.pin(json!({ "cid": cid(0), "name": "old" })).await;
    server.records.finish(id(&old), PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
    let new = server.post(&path(&old), json!({ "cid": cid(1), "name": "new" })).await.ok(202);
    assert_ne!(new["requestid"], old["requestid"]);
    assert!(new["created"].as_str() > old["created"].as_str());
    assert_eq!(new["pin"], json!({ "cid": cid(1), "name": "new" }));
    server.get(&path(&old)).await.error(404, "NOT_FOUND");
    assert_eq!(server.list("status=queued,pinning,pinned,failed").await, (vec![cid(1)], 1));
    let retained = server.records.get(id(&new)).unwrap().unwrap().retained_roots;
    assert_eq!(retained, [cid(0).parse().unwrap()]);

    assert!(matches!(server.changes.recv().await, Some(PinChange::Added(record)) if record.id == id(&old)));
    assert!(matches!(server.changes.recv().await, Some(PinChange::Removed(removed)) if removed == id(&old)));
    assert!(matches!(server.changes.recv().await, Some(PinChange::Added(record)) if record.id == id(&new)));

    server.records.finish(id(&new), PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
    assert_eq!(server.records.get(id(&new)).unwrap().unwrap().retained_roots, []);
}

#[tokio::test]
async fn nothing_changes_when_it_is_refused() {
    let server = Server::start().await;
    let (_, other) = server.other_account().await;
    let pin = server.pin(json!({ "cid": cid(0) })).await;
    let body = json!({ "cid": cid(1) });
    let request = server.request(reqwest::Method::POST, &path(&pin), &other).json(&body);
    server.send(request).await.error(404, "NOT_FOUND");
    server.post("/api/psa/pins/0190a7a1-0000-7000-8000-000000000000", body.clone()).await.error(404, "NOT_FOUND");
    server.post("/api/psa/pins/nonsense", body).await.error(404, "NOT_FOUND");
    server.post(&path(&pin), json!({ "cid": "hello" })).await.error(400, "BAD_REQUEST");
    assert_eq!(server.get(&path(&pin)).await.ok(200), pin);
    assert_eq!(server.records.unfinished(None, 10).unwrap().len(), 1);
}
