//! What a token may do.

use pinnace::auth::Scopes;
use reqwest::Method;
use serde_json::json;

use crate::support::{Server, cid, id, path};

#[tokio::test]
async fn a_token_does_only_what_its_scopes_allow() {
    let server = Server::start().await;
    let user = server.accounts.authenticate(&server.token).unwrap().user;
    let token = |read, write| server.device(user, "device", Scopes { read, write });
    let (reader, writer) = (token(true, false).await, token(false, true).await);
    let pin = server.pin(json!({ "cid": cid(0) })).await;
    let check = format!("/api/pins/{}/check", id(&pin));
    let pin = path(&pin);
    let body = json!({ "cid": cid(1) });

    for (method, path) in [(Method::GET, "/api/psa/pins"), (Method::GET, &pin), (Method::GET, "/api/auth/me")] {
        server.send(server.request(method.clone(), path, &reader)).await.ok(200);
        let details = server.send(server.request(method, path, &writer)).await.error(403, "FORBIDDEN");
        assert!(details.contains("\"read\""), "{details}");
    }
    server.send(server.request(Method::GET, &check, &writer)).await.error(403, "FORBIDDEN");
    // This server has no node; which pins there are it knows.
    let (_, other) = server.other_account().await;
    let details = server.send(server.request(Method::GET, &check, &other)).await.error(404, "NOT_FOUND");
    assert!(details.contains("no pin with this requestid"), "{details}");
    let details = server.send(server.request(Method::GET, &check, &reader)).await.error(404, "NOT_FOUND");
    assert!(details.contains("no node"), "{details}");
    for (method, path) in [(Method::POST, "/api/psa/pins"), (Method::POST, &pin), (Method::DELETE, &pin)] {
        let details = server.send(server.request(method, path, &reader).json(&body)).await.error(403, "FORBIDDEN");
        assert!(details.contains("\"write\""), "{details}");
    }
    server.send(server.request(Method::POST, "/api/psa/pins", &writer).json(&body)).await.ok(202);
    server.send(server.request(Method::DELETE, &pin, &writer)).await.ok(202);
}
