//! Attempts to get at what isn't one's own, and to harm the service by what is sent.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{EMAIL, OTHER_PASSWORD, PASSWORD, Server, cid};

/// Sends bytes as they are, and returns the status and the body of the answer.
async fn raw(server: &Server, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read all; what it said is there nevertheless.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
    (status, answer)
}

#[tokio::test]
async fn no_route_leads_to_another_accounts_pin() {
    let server = Server::start().await;
    let (_, stranger) = server.other_account().await;
    let pin = server.pin(json!({ "cid": cid(1), "name": "mine", "meta": { "a": "b" } })).await;
    let id = pin["requestid"].as_str().unwrap();
    let upper = id.to_uppercase();
    let simple = id.replace('-', "");
    let body = json!({ "cid": cid(2) });
    for id in
        [id, &upper, &simple, &format!("{{{id}}}"), &format!("urn:uuid:{id}"), &format!("{id}%00"), &format!("%20{id}")]
    {
        for path in [format!("/api/psa/pins/{id}"), format!("/api/psa//pins/{id}/"), format!("/api/psa/pins/./{id}")] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let answer = server.send(server.request(method.clone(), &path, &stranger).json(&body)).await;
                answer.error(404, "NOT_FOUND");
            }
        }
    }
    for query in [
        "status=queued,pinning,pinned,failed".to_owned(),
        "name=mine".to_owned(),
        "name=in&match=partial".to_owned(),
        format!("cid={}&status=queued", cid(1)),
        "meta[a]=b&status=queued".to_owned(),
        "after=1970-01-01T00:00:00.000Z&status=queued".to_owned(),
    ] {
        let page = server.send(server.request(Method::GET, &format!("/api/psa/pins?{query}"), &stranger)).await.ok(200);
        assert_eq!(page, json!({ "count": 0, "results": [] }), "{query}");
    }
    // Filters that would name an account are no filters.
    for query in ["user=1", "account=admin@example.org", "sub=1"] {
        let list = server.send(server.request(Method::GET, &format!("/api/psa/pins?{query}"), &stranger)).await;
        list.error(400, "BAD_REQUEST");
    }
    assert_eq!(server.get(&format!("/api/psa/pins/{id}")).await.ok(200)["pin"], pin["pin"]);
}

#[tokio::test]
async fn no_token_is_worth_more_than_its_record() {
    let server = Server::start().await;
    let (user, _) = server.other_account().await;
    let (access, refresh) = server.login("other@example.org", OTHER_PASSWORD).await;
    let me = async |token: &str| server.send(server.request(Method::GET, "/api/auth/me", token)).await;
    let own = me(&access).await.ok(200);
    let id = own["token"]["id"].as_str().unwrap().to_owned();
    let claims = |id: &str| json!({ "sub": "1", "jti": id, "iat": 1, "kind": "access", "scope": "read write admin" });
    // Signed by others, with every way to name a key.
    for kid in [None, Some("0"), Some("1"), Some("-1"), Some(""), Some("../0"), Some("4294967296"), Some("0 OR 1=1")] {
        for secret in [&[0; 32][..], b"", b"secret", id.as_bytes()] {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = kid.map(str::to_owned);
            header.jku = Some("https://attacker.example/keys".to_owned());
            let token = encode(&header, &claims(&id), &EncodingKey::from_secret(secret)).unwrap();
            me(&token).await.error(401, "UNAUTHORIZED");
        }
    }
    // What follows or precedes a token makes another one of it.
    for token in [
        format!("{access}."),
        format!("{access}.{access}"),
        format!(".{access}"),
        access.to_uppercase(),
        access[1..].to_owned(),
    ] {
        me(&token).await.error(401, "UNAUTHORIZED");
    }
    // Two that differ, or one in another place.
    let url = format!("{}/api/auth/me", server.url);
    for request in [
        server.client.get(&url).header("x-forwarded-user", EMAIL),
        server.client.get(&url).header("cookie", format!("token={access}")),
        server.client.get(format!("{url}?access_token={access}")),
        server.client.get(&url).basic_auth(EMAIL, Some(PASSWORD)),
    ] {
        server.send(request).await.error(401, "UNAUTHORIZED");
    }
    me(&refresh).await.error(401, "UNAUTHORIZED");
    // The record of the account says what it may, on the next request.
    server.send(server.request(Method::GET, "/api/admin/users", &access)).await.error(403, "FORBIDDEN");
    server.accounts.begin_delete("other@example.org").await.unwrap();
    me(&access).await.error(401, "UNAUTHORIZED");
    server.post("/api/auth/refresh", json!({ "refresh_token": refresh })).await.error(401, "UNAUTHORIZED");
    assert!(server.accounts.tokens(user).unwrap().is_empty());
}

#[tokio::test]
async fn paths_and_headers_have_no_second_meaning() {
    let server = Server::start().await;
    for path in [
        "/api/admin/users/../../psa/pins",
        "/api/psa/pins/../../admin/users",
        "/api/psa/pins/%2e%2e/%2e%2e/admin/users",
        "/api/psa/pins%2f..%2f..%2fadmin%2fusers",
        "/API/ADMIN/USERS",
        "/api/admin;x/users",
        "/api/admin/users\\..",
        "/v1/users",
        "/v1/status",
        "/api/docs/..%2f..%2fetc%2fpasswd",
        "/api/docs/%2fetc%2fpasswd",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (status, answer) = raw(&server, request.as_bytes()).await;
        assert!(matches!(status, 400 | 401 | 404), "{path}: {answer}");
        assert!(answer.contains("\"error\"") || status == 400, "{path}: {answer}");
    }
    for header in
        ["x-http-method-override: DELETE", "x-original-url: /api/admin/users", "x-rewrite-url: /api/admin/users"]
    {
        let request = format!("GET /api/psa/pins HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(&server, request.as_bytes()).await.0, 401, "{header}");
    }
    // Two lengths, or a length and chunks: what one reads as a body the other reads as a request.
    for smuggled in [
        "content-length: 4\r\ncontent-length: 5\r\n\r\n{}{}{",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        "transfer-encoding: identity, chunked, identity\r\n\r\n{}",
    ] {
        let request = format!("POST /api/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{smuggled}");
        let (status, answer) = raw(&server, request.as_bytes()).await;
        assert!((400..500).contains(&status), "{smuggled:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{smuggled:?}: {answer}");
    }
}

#[tokio::test]
async fn deep_large_and_broken_bodies_are_refused_in_words() {
    let server = Server::start().await;
    let send = |path: &str, body: Vec<u8>| {
        let request = server.request(Method::POST, path, &server.token).header("content-type", "application/json");
        server.send(request.body(body))
    };
    let deep =
        |open: &str, times: usize| format!("{{\"cid\":\"bafkqaaa\",\"meta\":{}", open.repeat(times)).into_bytes();
    let wide: Value =
        (0..10_000).map(|number| (number.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    for body in [
        deep("[", 100_000),
        deep("{\"a\":", 40_000),
        b"{\"cid\":\"\xff\xfe\"}".to_vec(),
        b"{\"cid\":\"\\ud800\"}".to_vec(),
        b"\xef\xbb\xbf{\"cid\":\"bafkqaaa\"}".to_vec(),
        b"{\"cid\":\"bafkqaaa\",\"cid\":\"bafkqaaa\"}".to_vec(),
        b"{\"cid\":\"bafkqaaa\"} {\"cid\":\"bafkqaaa\"}".to_vec(),
        b"{\"cid\":1e400}".to_vec(),
        json!({ "cid": "bafkqaaa", "meta": wide }).to_string().into_bytes(),
        json!({ "cid": "b".repeat(200_000) }).to_string().into_bytes(),
        Vec::new(),
    ] {
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let details = send("/api/psa/pins", body).await.error(400, "BAD_REQUEST");
        assert!(details.len() < 1000, "{start}: {details}");
    }
    for path in ["/api/psa/pins", "/api/auth/tokens", "/api/auth/password", "/api/admin/users", "/api/auth/login"] {
        let answer = send(path, vec![b'['; 8 * 1024 * 1024]).await;
        assert!(matches!(answer.status.as_u16(), 403 | 413), "{path}: {answer:?}");
    }
    // Queries and paths that are no UTF-8 either.
    for path in ["/api/psa/pins?name=%ff%fe", "/api/psa/pins?meta=%7b%ff%7d"] {
        server.get(path).await.error(400, "BAD_REQUEST");
    }
    server.get("/api/psa/pins/%ff").await.error(404, "NOT_FOUND");
    let deep_filter = format!("/api/psa/pins?meta={}", "[".repeat(20_000));
    server.get(&deep_filter).await.error(400, "BAD_REQUEST");
    assert_eq!(server.list("status=queued,pinning,pinned,failed").await.1, 0);
}
