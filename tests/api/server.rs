//! What all paths share: slashes, CORS, protocols, and the way it stops.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, cid};

#[tokio::test]
async fn is_healthy_without_a_token() {
    let server = Server::start().await;
    let request = server.client.get(format!("{}/healthz", server.url));
    assert_eq!(server.send(request).await.ok(200), json!({ "status": "ok" }));
}

#[tokio::test]
async fn slashes_too_many_are_forgiven() {
    let server = Server::start().await;
    let pin = server.post("/api/psa//pins", json!({ "cid": cid(0) })).await.ok(202);
    let id = pin["requestid"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/psa//pins/{id}/")).await.ok(200), pin);
    assert_eq!(server.get("//api/psa/pins/?status=queued").await.ok(200)["count"], 1);
}

#[tokio::test]
async fn browsers_may_ask_without_a_token_and_call_from_everywhere() {
    let server = Server::start().await;
    for method in ["GET", "POST", "DELETE"] {
        let preflight = server
            .client
            .request(Method::OPTIONS, format!("{}/api/psa/pins", server.url))
            .header("origin", "https://example.org")
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "authorization,content-type");
        let answer = server.send(preflight).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains(method));
        let headers = answer.headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
        assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    }
    // A page must be able to read errors, too.
    let refused = server.client.get(format!("{}/api/psa/pins", server.url)).header("origin", "https://example.org");
    let answer = server.send(refused).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    answer.error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn speaks_http_2_with_prior_knowledge() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    // The client's preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 0x04, "the server's first frame is its SETTINGS");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.unwrap();
    let setting = |id| {
        let found = settings.chunks_exact(6).find(|setting| setting[..2] == [0, id]).expect("it is set");
        u32::from_be_bytes(found[2..].try_into().unwrap())
    };
    assert_eq!(setting(3), 16, "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(4), 64 * 1024, "SETTINGS_INITIAL_WINDOW_SIZE");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_does_not_wait_for_them() {
    let server = Server::start().await;
    let mut idle = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let server = tokio::time::timeout(Duration::from_secs(1), server.restart()).await.expect("the stop waited");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    server.get("/healthz").await.ok(200);
}
