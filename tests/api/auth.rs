//! `/api/auth`, and which tokens are accepted.

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, EMAIL, PASSWORD, Server, cid, options};

async fn login(server: &Server) -> Value {
    server.post("/api/auth/login", json!({ "email": EMAIL, "password": PASSWORD })).await.ok(200)
}

async fn with_token(server: &Server, token: &str) -> Answer {
    server.send(server.request(Method::GET, "/api/psa/pins", token)).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn a_login_gives_two_tokens_as_json_and_as_form() {
    let server = Server::start().await;
    let tokens = login(&server).await;
    let pair = json!({ "access_token": tokens["access_token"], "refresh_token": tokens["refresh_token"], "status": "success" });
    assert_eq!(tokens, pair);
    with_token(&server, text(&tokens["access_token"])).await.ok(200);

    let form = server
        .client
        .post(format!("{}/api/auth/login", server.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("email=ADMIN%40example.org&password=a+long+password");
    let tokens = server.send(form).await;
    assert_eq!(tokens.headers["cache-control"], "no-store");
    with_token(&server, text(&tokens.ok(200)["access_token"])).await.ok(200);
}

#[tokio::test]
async fn a_wrong_address_and_a_wrong_password_are_answered_alike_and_then_have_to_wait() {
    let server = Server::start().await;
    let mut answers = Vec::new();
    for email in [EMAIL, "nobody@example.org"] {
        let body = json!({ "email": email, "password": "wrong password" });
        for _ in 0..9 {
            server.post("/api/auth/login", body.clone()).await.error(401, "UNAUTHORIZED");
        }
        answers.push(server.post("/api/auth/login", body.clone()).await.error(401, "UNAUTHORIZED"));
        let waiting = server.post("/api/auth/login", body).await;
        assert_eq!(waiting.headers["retry-after"], "1");
        waiting.error(429, "TOO_MANY_REQUESTS");
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn bodies_of_a_login_that_lack_something_are_refused() {
    let server = Server::start().await;
    let post = || server.client.post(format!("{}/api/auth/login", server.url));
    server.send(post()).await.error(400, "BAD_REQUEST");
    server.send(post().json(&json!({ "email": EMAIL }))).await.error(400, "BAD_REQUEST");
    server.send(post().json(&json!({ "email": EMAIL, "password": 1 }))).await.error(400, "BAD_REQUEST");
    let form = post().header("content-type", "application/x-www-form-urlencoded").body("email=x");
    server.send(form).await.error(400, "BAD_REQUEST");
    server.send(post().header("content-type", "text/xml").body("<x/>")).await.error(400, "BAD_REQUEST");
}

#[tokio::test]
async fn bodies_without_a_token_are_small() {
    let server = Server::start().await;
    for path in ["/api/auth/login", "/api/auth/refresh"] {
        for bytes in [8 * 1024 + 1, 256 * 1024] {
            let request = server.client.post(format!("{}{path}", server.url)).body(" ".repeat(bytes));
            let details = server.send(request).await.error(413, "PAYLOAD_TOO_LARGE");
            assert!(details.contains("8192 bytes"), "{details}");
        }
    }
    // The longest password with every byte escaped.
    let escaped = "\\u0061".repeat(1024);
    let request = server.client.post(format!("{}/api/auth/login", server.url));
    let body = format!("{{\"email\":\"{EMAIL}\",\"password\":\"{escaped}\"}}");
    server.send(request.body(body)).await.error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn refreshing_rotates_and_keeps_the_old_access_token() {
    let server = Server::start().await;
    let first = login(&server).await;
    let refresh = |token: &Value| server.post("/api/auth/refresh", json!({ "refresh_token": token }));
    let second = refresh(&first["refresh_token"]).await.ok(200);
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(refresh(&first["refresh_token"]).await.ok(200), second);
    for tokens in [&first, &second] {
        with_token(&server, text(&tokens["access_token"])).await.ok(200);
    }
    refresh(&first["access_token"]).await.error(401, "UNAUTHORIZED");
    refresh(&json!("nonsense")).await.error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_logout_revokes_both_tokens_on_the_next_request() {
    let server = Server::start().await;
    let tokens = login(&server).await;
    let access = text(&tokens["access_token"]);
    server.send(server.request(Method::POST, "/api/auth/logout", access)).await.ok(200);
    with_token(&server, access).await.error(401, "UNAUTHORIZED");
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    server.post("/api/auth/refresh", refresh).await.error(401, "UNAUTHORIZED");
    with_token(&server, &server.token).await.ok(200);
}

#[tokio::test]
async fn me_tells_whose_token_it_is() {
    let server = Server::start().await;
    let me = server.get("/api/auth/me").await.ok(200);
    let id = &me["token"]["id"];
    let token = json!({ "id": id, "kind": "device", "name": "first start", "scopes": ["read", "write"] });
    let pinned = json!({ "roots": 0, "bytes": 0 });
    let account = json!({
        "email": EMAIL, "role": "admin", "created": me["created"], "quota": {}, "pinned": pinned, "pins": 0, "token": token,
    });
    assert_eq!(me, account);
    let access = login(&server).await;
    let me = server.send(server.request(Method::GET, "/api/auth/me", text(&access["access_token"]))).await.ok(200);
    assert_eq!(me["token"]["kind"], "access");
    assert!(me["token"]["expires"].is_string());
}

#[tokio::test]
async fn tokens_that_are_missing_tampered_with_or_of_the_wrong_kind_are_refused() {
    let server = Server::start().await;
    let tokens = login(&server).await;
    let access = text(&tokens["access_token"]);
    let parts: Vec<&str> = access.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { panic!("{access}") };
    // {"alg":"none","typ":"JWT"} and {"typ":"JWT","alg":"HS512"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let other_algorithm = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzUxMiJ9";
    let swapped = if signature.starts_with('A') { 'B' } else { 'A' };
    let id = uuid::Uuid::now_v7();
    let claims_of_another_key = json!({ "sub": "1", "jti": id, "iat": 1, "kind": "access", "scope": "read write" });
    let foreign = encode(&Header::default(), &claims_of_another_key, &EncodingKey::from_secret(&[7; 32])).unwrap();
    for token in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{other_algorithm}.{claims}.{signature}"),
        format!("{header}.{claims}.{swapped}{}", &signature[1..]),
        format!("{header}.{}.{signature}", claims.replacen('e', "f", 1)),
        format!("{header}.{claims}"),
        foreign,
        text(&tokens["refresh_token"]).to_owned(),
        "nonsense".to_owned(),
        "..".to_owned(),
    ] {
        let answer = with_token(&server, &token).await;
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        answer.error(401, "UNAUTHORIZED");
    }
    for header in ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", access] {
        let request = server.client.get(format!("{}/api/psa/pins", server.url)).header("authorization", header);
        server.send(request).await.error(401, "UNAUTHORIZED");
    }
    let lower_case =
        server.client.get(format!("{}/api/psa/pins", server.url)).header("authorization", format!("bearer {access}"));
    server.send(lower_case).await.ok(200);
}

#[tokio::test]
async fn expired_tokens_are_refused() {
    let server = Server::start_with(pinnace::auth::Options { access_token_days: 0, ..options() }).await;
    let tokens = login(&server).await;
    let details = with_token(&server, text(&tokens["access_token"])).await.error(401, "UNAUTHORIZED");
    assert!(details.contains("expired"), "{details}");
}

#[tokio::test]
async fn a_restart_keeps_accounts_tokens_and_pins() {
    let server = Server::start().await;
    let tokens = login(&server).await;
    let revoked = login(&server).await;
    let logout = server.request(Method::POST, "/api/auth/logout", text(&revoked["access_token"]));
    server.send(logout).await.ok(200);
    let pin = server.pin(json!({ "cid": cid(0), "name": "x", "meta": { "a": "b" } })).await;

    let server = server.restart().await;
    assert_eq!(server.get(&crate::support::path(&pin)).await.ok(200), pin);
    with_token(&server, text(&tokens["access_token"])).await.ok(200);
    with_token(&server, text(&revoked["access_token"])).await.error(401, "UNAUTHORIZED");
    login(&server).await;
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    server.post("/api/auth/refresh", refresh).await.ok(200);
    let later = server.pin(json!({ "cid": cid(0) })).await;
    assert!(later["created"].as_str() > pin["created"].as_str());
}
