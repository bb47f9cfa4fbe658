//! What users do with their accounts: register, tokens for devices, passwords, quotas, and how fast they may go.

use pinnace::auth::{AccountChange, Options, Registration, Role};
use pinnace::model::PinState;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{EMAIL, OTHER_PASSWORD, PASSWORD, Server, cid, id, options, path};

/// The status code and reason of the answer to a look at the own account.
async fn me(server: &Server, token: &str) -> Result<Value, String> {
    let answer = server.send(server.request(Method::GET, "/api/auth/me", token)).await;
    if answer.status == 200 { Ok(answer.body) } else { Err(answer.error(401, "UNAUTHORIZED")) }
}

#[tokio::test]
async fn registration_is_closed_unless_it_is_opened() {
    let server = Server::start().await;
    let new = json!({ "email": "New@example.org", "password": OTHER_PASSWORD });
    let details = server.post("/api/auth/register", new.clone()).await.error(403, "FORBIDDEN");
    assert!(details.contains("operator"), "{details}");

    let server = Server::start_with(Options { registration: Registration::Open, ..options() }).await;
    let account = server.post("/api/auth/register", new.clone()).await.ok(201);
    assert_eq!((account["email"].as_str(), account["role"].as_str()), (Some("new@example.org"), Some("user")));
    let (access, _) = server.login("new@example.org", OTHER_PASSWORD).await;
    assert_eq!(me(&server, &access).await.unwrap()["email"], "new@example.org");
    server.post("/api/auth/register", new).await.error(409, "CONFLICT");
    for (email, password) in [("a@b", "short"), ("nobody", OTHER_PASSWORD), ("", OTHER_PASSWORD)] {
        server
            .post("/api/auth/register", json!({ "email": email, "password": password }))
            .await
            .error(400, "BAD_REQUEST");
    }
    // Nobody makes accounts by the dozen.
    for number in 0..5 {
        let new = json!({ "email": format!("{number}@example.org"), "password": OTHER_PASSWORD });
        server.post("/api/auth/register", new).await.ok(201);
    }
    let more = server.post("/api/auth/register", json!({ "email": "6@example.org", "password": OTHER_PASSWORD })).await;
    assert!(more.headers.contains_key("retry-after"));
    more.error(429, "TOO_MANY_REQUESTS");
}

#[tokio::test]
async fn device_tokens_are_made_listed_and_revoked_one_by_one() {
    let server = Server::start().await;
    let (access, _) = server.login(EMAIL, PASSWORD).await;
    let make = |body: Value| server.send(server.request(Method::POST, "/api/auth/tokens", &access).json(&body));
    let laptop = make(json!({ "name": "laptop" })).await;
    assert_eq!(laptop.headers["cache-control"], "no-store");
    let laptop = laptop.ok(201);
    let reader = make(json!({ "name": "reader", "scopes": ["read"], "expires_in_days": 30 })).await.ok(201);
    assert_eq!((&laptop["scopes"], &reader["scopes"]), (&json!(["read", "write"]), &json!(["read"])));
    assert!(laptop["expires"].is_null() && reader["expires"].is_string());
    let token = |made: &Value| made["token"].as_str().unwrap().to_owned();
    me(&server, &token(&reader)).await.unwrap();
    let pin = json!({ "cid": cid(1) });
    let add = |token: String| server.send(server.request(Method::POST, "/api/psa/pins", &token).json(&pin));
    add(token(&laptop)).await.ok(202);
    add(token(&reader)).await.error(403, "FORBIDDEN");

    let listed = server.send(server.request(Method::GET, "/api/auth/tokens", &access)).await.ok(200);
    let names: Vec<&Value> = listed["tokens"].as_array().unwrap().iter().map(|token| &token["name"]).collect();
    assert_eq!(names, [&json!("reader"), &json!("laptop"), &Value::Null, &json!("first start")]);
    assert!(!listed.to_string().contains(&token(&laptop)), "a list shows no token");
    assert!(listed["tokens"][1]["last_used"].is_string());

    // A lost device can neither make tokens nor take others' away; it can give up its own.
    let of_laptop =
        |method, path: &str| server.send(server.request(method, path, &token(&laptop)).json(&json!({ "name": "x" })));
    let details = of_laptop(Method::POST, "/api/auth/tokens").await.error(403, "FORBIDDEN");
    assert!(details.contains("log in"), "{details}");
    let path_of = |made: &Value| format!("/api/auth/tokens/{}", made["id"].as_str().unwrap());
    of_laptop(Method::DELETE, &path_of(&reader)).await.error(403, "FORBIDDEN");
    of_laptop(Method::DELETE, &path_of(&laptop)).await.ok(204);
    me(&server, &token(&laptop)).await.unwrap_err();
    let revoke = |path: String| server.send(server.request(Method::DELETE, &path, &access));
    revoke(path_of(&reader)).await.ok(204);
    me(&server, &token(&reader)).await.unwrap_err();
    for path in [path_of(&reader), "/api/auth/tokens/none".to_owned()] {
        revoke(path).await.error(404, "NOT_FOUND");
    }
    for body in [
        json!({ "name": "" }),
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["admin"] }),
        json!({ "name": "x", "expires_in_days": 0 }),
        json!({ "name": "x", "expires": "soon" }),
        json!({}),
    ] {
        make(body).await.error(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn a_new_password_ends_other_logins_and_leaves_devices() {
    let server = Server::start().await;
    let (mine, my_refresh) = server.login(EMAIL, PASSWORD).await;
    let (other, other_refresh) = server.login(EMAIL, PASSWORD).await;
    let change = |token: &str, current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new });
        server.send(server.request(Method::POST, "/api/auth/password", token).json(&body))
    };
    change(&server.token, PASSWORD, "long enough now").await.error(403, "FORBIDDEN");
    let details = change(&mine, "not the password", "long enough now").await.error(403, "FORBIDDEN");
    assert!(details.contains("nothing was changed"), "{details}");
    change(&mine, PASSWORD, "short").await.error(400, "BAD_REQUEST");
    change(&mine, PASSWORD, "long enough now").await.ok(200);
    me(&server, &mine).await.unwrap();
    me(&server, &server.token).await.unwrap();
    me(&server, &other).await.unwrap_err();
    server.post("/api/auth/refresh", json!({ "refresh_token": other_refresh })).await.error(401, "UNAUTHORIZED");
    server.post("/api/auth/refresh", json!({ "refresh_token": my_refresh })).await.ok(200);
    server.post("/api/auth/login", json!({ "email": EMAIL, "password": PASSWORD })).await.error(401, "UNAUTHORIZED");
    server.login(EMAIL, "long enough now").await;
    // Whoever has a login's token guesses no faster than whoever logs in.
    for _ in 0..10 {
        change(&mine, "a guess", "long enough then").await.error(403, "FORBIDDEN");
    }
    change(&mine, "a guess", "long enough then").await.error(429, "TOO_MANY_REQUESTS");
}

#[tokio::test]
async fn a_quota_of_pins_is_full_until_one_goes() {
    let server = Server::start().await;
    let (_, token) = server.other_account().await;
    let quota = AccountChange { quota_pins: Some(Some(2)), ..AccountChange::default() };
    server.accounts.change_account("other@example.org", quota).await.unwrap();
    let send = |method, path: &str, number: usize| {
        server.send(server.request(method, path, &token).json(&json!({ "cid": cid(number) })))
    };
    let first = send(Method::POST, "/api/psa/pins", 0).await.ok(202);
    send(Method::POST, "/api/psa/pins", 1).await.ok(202);
    let details = send(Method::POST, "/api/psa/pins", 2).await.error(409, "INSUFFICIENT_FUNDS");
    assert!(details.contains("2 pins"), "{details}");
    // One in the place of another needs no more room.
    let replaced = send(Method::POST, &path(&first), 3).await.ok(202);
    send(Method::POST, "/api/psa/pins", 4).await.error(409, "INSUFFICIENT_FUNDS");
    send(Method::DELETE, &path(&replaced), 0).await.ok(202);
    send(Method::POST, "/api/psa/pins", 4).await.ok(202);
    assert_eq!(me(&server, &token).await.unwrap()["pins"], 2);
    // Others have their own.
    server.pin(json!({ "cid": cid(5) })).await;
}

#[tokio::test]
async fn a_quota_of_bytes_counts_what_is_pinned() {
    let server = Server::start_with(Options { quota_bytes: bytesize::ByteSize(100), ..options() }).await;
    let (_, token) = server.other_account().await;
    let send = |path: &str, number: usize| {
        server.send(server.request(Method::POST, path, &token).json(&json!({ "cid": cid(number) })))
    };
    let first = send("/api/psa/pins", 0).await.ok(202);
    send("/api/psa/pins", 1).await.ok(202);
    server.records.finish(id(&first), PinState::Pinned { blocks: 1, bytes: 100 }).await.unwrap();
    let details = send("/api/psa/pins", 2).await.error(409, "INSUFFICIENT_FUNDS");
    assert!(details.contains("100 bytes of the 100"), "{details}");
    // The one that goes makes room for the one that comes.
    send(&path(&first), 3).await.ok(202);
    send("/api/psa/pins", 4).await.ok(202);
    // The configuration's quota isn't for admins.
    let of_admin = server.pin(json!({ "cid": cid(5) })).await;
    server.records.finish(id(&of_admin), PinState::Pinned { blocks: 1, bytes: 1000 }).await.unwrap();
    server.pin(json!({ "cid": cid(6) })).await;
    assert_eq!(me(&server, &server.token).await.unwrap()["quota"], json!({}));
    assert_eq!(me(&server, &token).await.unwrap()["quota"], json!({ "bytes": 100 }));
}

#[tokio::test]
async fn a_token_that_goes_too_fast_has_to_wait_and_no_other() {
    let server = Server::start_with(Options { requests_per_second: 1, ..options() }).await;
    let user = server.account("other@example.org", Role::User).await;
    let token = server.device(user, "fast", pinnace::auth::Scopes::ALL).await;
    let list = |token: &str| server.send(server.request(Method::GET, "/api/psa/pins", token));
    let mut answered = 0;
    let limited = loop {
        let answer = list(&token).await;
        if answer.status == 429 {
            break answer;
        }
        answer.ok(200);
        answered += 1;
        assert!(answered < 100, "nothing is limited");
    };
    assert!(answered >= 3, "{answered} requests at once");
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(limited.headers["x-ratelimit-remaining"], "0");
    assert!(limited.error(429, "TOO_MANY_REQUESTS").contains("1 requests a second"));
    list(&server.token).await.ok(200);
}
