//! `/api/admin`: what admins do, and that nobody else does.

use pinnace::auth::{Role, Scopes};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, EMAIL, OTHER_PASSWORD, PASSWORD, Server, cid};

/// Every operation, with a body that would do.
fn operations(pin: &str, token: &str) -> Vec<(Method, String, Value)> {
    let user = "/api/admin/users/other@example.org";
    vec![
        (Method::GET, "/api/admin/users".into(), Value::Null),
        (Method::POST, "/api/admin/users".into(), json!({ "email": "n@example.org", "password": OTHER_PASSWORD })),
        (Method::GET, user.into(), Value::Null),
        (Method::PATCH, user.into(), json!({ "quota_pins": 3 })),
        (Method::GET, format!("{user}/tokens"), Value::Null),
        (Method::POST, format!("{user}/tokens"), json!({ "name": "by an admin" })),
        (Method::DELETE, format!("/api/admin/tokens/{token}"), Value::Null),
        (Method::GET, format!("{user}/webhook"), Value::Null),
        (Method::PUT, format!("{user}/webhook"), json!({ "url": "https://example.org/hook" })),
        (Method::DELETE, format!("{user}/webhook"), Value::Null),
        (Method::GET, "/api/admin/pins".into(), Value::Null),
        (Method::POST, "/api/admin/pins".into(), json!({ "cid": cid(9), "account": "other@example.org" })),
        (Method::GET, format!("/api/admin/pins/{pin}"), Value::Null),
        (Method::DELETE, format!("/api/admin/pins/{pin}"), Value::Null),
        (Method::DELETE, user.into(), Value::Null),
        (Method::POST, "/api/admin/keys/rotate".into(), json!({})),
    ]
}

async fn send(server: &Server, token: &str, (method, path, body): &(Method, String, Value)) -> Answer {
    let request = server.request(method.clone(), path, token);
    server.send(if body.is_null() { request } else { request.json(body) }).await
}

#[tokio::test]
async fn only_admins_who_have_logged_in_change_something() {
    let server = Server::start().await;
    let (user, device) = server.other_account().await;
    let (login, _) = server.login("other@example.org", OTHER_PASSWORD).await;
    let (admin, refresh) = server.login(EMAIL, PASSWORD).await;
    let writer = server
        .device(server.accounts.authenticate(&admin).unwrap().user, "w", Scopes { read: false, write: true })
        .await;
    let revoked = server.accounts.tokens(user).unwrap()[1].id.0.to_string();
    let pin = server
        .send(server.request(Method::POST, "/api/psa/pins", &device).json(&json!({ "cid": cid(1) })))
        .await
        .ok(202);
    let hook = server.records.write(move |change| change.set_hook(user, "https://example.org".into(), "x".into(), 0));
    hook.await.unwrap().unwrap();
    let operations = operations(pin["requestid"].as_str().unwrap(), &revoked);
    for operation in &operations {
        for token in [&device, &login] {
            let details = send(&server, token, operation).await.error(403, "FORBIDDEN");
            assert!(details.contains("only admins"), "{operation:?}: {details}");
        }
        for token in ["", "x", &refresh] {
            send(&server, token, operation).await.error(401, "UNAUTHORIZED");
        }
        // An admin's device may look, and no more.
        let status = if operation.0 == Method::GET { 200 } else { 403 };
        assert_eq!(send(&server, &server.token, operation).await.status, status, "{operation:?}");
        assert_eq!(send(&server, &writer, operation).await.status, 403, "{operation:?}");
    }
    for operation in &operations {
        let answer = send(&server, &admin, operation).await;
        assert!(answer.status.is_success(), "{operation:?}: {answer:?}");
    }
    // What an admin made anybody does not become one.
    server.login("n@example.org", OTHER_PASSWORD).await;
    let (made, _) = server.login("n@example.org", OTHER_PASSWORD).await;
    send(&server, &made, &operations[0]).await.error(403, "FORBIDDEN");
}

#[tokio::test]
async fn accounts_are_made_listed_changed_and_disabled() {
    let server = Server::start().await;
    let (admin, _) = server.login(EMAIL, PASSWORD).await;
    let call = async |method, path: &str, body: Value| {
        send(&server, &admin, &(method, format!("/api/admin/users{path}"), body)).await
    };
    for number in 0..3 {
        let body = json!({ "email": format!("U{number}@example.org"), "password": OTHER_PASSWORD, "quota_bytes": 5 });
        let made = call(Method::POST, "", body).await.ok(201);
        assert_eq!((&made["quota"], &made["status"]), (&json!({ "bytes": 5 }), &json!("active")));
    }
    call(Method::POST, "", json!({ "email": "u0@example.org", "password": OTHER_PASSWORD }))
        .await
        .error(409, "CONFLICT");
    let page = call(Method::GET, "?limit=2&after=1", Value::Null).await.ok(200);
    let emails =
        |page: &Value| page["users"].as_array().unwrap().iter().map(|user| user["email"].clone()).collect::<Vec<_>>();
    assert_eq!(emails(&page), ["u0@example.org", "u1@example.org"]);
    assert_eq!(page["more"], true);
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?page=1", "?after=-1"] {
        call(Method::GET, query, Value::Null).await.error(400, "BAD_REQUEST");
    }

    let (token, _) = server.login("u0@example.org", OTHER_PASSWORD).await;
    let list = |token: &str| server.send(server.request(Method::GET, "/api/psa/pins", token));
    list(&token).await.ok(200);
    let changed =
        call(Method::PATCH, "/u0@example.org", json!({ "disabled": true, "quota_bytes": null, "quota_pins": 7 }))
            .await
            .ok(200);
    assert_eq!((&changed["status"], &changed["quota"]), (&json!("disabled"), &json!({ "pins": 7 })));
    assert!(list(&token).await.error(401, "UNAUTHORIZED").contains("disabled"));
    call(Method::PATCH, "/u0@example.org", json!({ "disabled": false })).await.ok(200);
    list(&token).await.ok(200);
    call(Method::PATCH, "/u0@example.org", json!({ "quota": 7 })).await.error(400, "BAD_REQUEST");
    call(Method::PATCH, "/nobody@example.org", json!({})).await.error(404, "NOT_FOUND");
    let me = format!("/{EMAIL}");
    for body in [json!({ "disabled": true }), json!({ "role": "user" })] {
        call(Method::PATCH, &me, body).await.error(409, "CONFLICT");
    }
    call(Method::DELETE, &me, Value::Null).await.error(409, "CONFLICT");
}

#[tokio::test]
async fn a_deleted_account_is_gone_at_once_and_its_pins_soon() {
    let server = Server::start().await;
    let (admin, _) = server.login(EMAIL, PASSWORD).await;
    let (user, token) = server.other_account().await;
    let kept = server.pin(json!({ "cid": cid(0) })).await;
    // More than go in one commit.
    let pins: u64 = 300;
    let added = server.records.write(move |change| {
        for number in 0..pins {
            let root = pinnace::model::Block::new_sha256(0x55, number.to_string().into()).unwrap();
            let new = pinnace::store::records::NewPin::plain(user, *root.cid());
            let now_ms = jiff::Timestamp::now().as_millisecond() - 1000;
            change.add_pin(new, None, now_ms)?.unwrap();
        }
        Ok(())
    });
    added.await.unwrap();
    let operation = (Method::DELETE, "/api/admin/users/other@example.org".to_owned(), Value::Null);
    assert_eq!(send(&server, &admin, &operation).await.status, 202);
    let list = server.send(server.request(Method::GET, "/api/psa/pins", &token)).await;
    list.error(401, "UNAUTHORIZED");
    send(&server, &admin, &operation).await.error(404, "NOT_FOUND");
    let mut server = server;
    let mut removed = 0;
    while removed < pins {
        let change = server.changes.recv().await.unwrap();
        removed += u64::from(matches!(change, pinnace::pins::board::PinChange::Removed(_)));
    }
    // The account itself goes in the commit after that, of which nobody is told.
    let gone = async {
        while server.records.user(user).unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.unwrap();
    assert_eq!((server.records.count_pins_of(user).unwrap(), server.records.count_pins().unwrap().total()), (0, 1));
    assert!(server.records.get(crate::support::id(&kept)).unwrap().is_some());
    // Whoever gets the address next gets nothing of the old one.
    assert!(server.account("other@example.org", Role::User).await > user);
}
