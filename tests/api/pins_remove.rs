//! `DELETE /api/psa/pins/{requestid}`

use pinnace::pins::board::PinChange;
use serde_json::{Value, json};

use crate::support::{Server, cid, id, path};

#[tokio::test]
async fn the_pin_is_gone_and_the_runner_is_told() {
    let mut server = Server::start().await;
    let pin = server.pin(json!({ "cid": cid(0) })).await;
    assert_eq!(server.delete(&path(&pin)).await.ok(202), Value::Null);
    server.get(&path(&pin)).await.error(404, "NOT_FOUND");
    server.delete(&path(&pin)).await.error(404, "NOT_FOUND");
    assert_eq!(server.list("status=queued").await, (vec![], 0));
    assert!(matches!(server.changes.recv().await, Some(PinChange::Added(_))));
    assert!(matches!(server.changes.recv().await, Some(PinChange::Removed(removed)) if removed == id(&pin)));
}

#[tokio::test]
async fn a_pin_of_another_user_stays() {
    let server = Server::start().await;
    let (_, other) = server.other_account().await;
    let pin = server.pin(json!({ "cid": cid(0) })).await;
    server.send(server.request(reqwest::Method::DELETE, &path(&pin), &other)).await.error(404, "NOT_FOUND");
    server.get(&path(&pin)).await.ok(200);
}
