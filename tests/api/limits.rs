//! What one client may take, and what every answer tells browsers.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

use crate::support::{EMAIL, PASSWORD, Server};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\"]";

/// Connections that one address may have.
const CONNECTIONS_MAX: usize = 256;

fn address(server: &Server) -> SocketAddr {
    server.url.trim_start_matches("http://").parse().unwrap()
}

/// Sends a request whose head is all of this, and returns the first line of the answer.
async fn status_line(server: &Server, head: &str) -> String {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    // The server may answer, and hang up, before it has read all of it.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

/// Whether the server answers on a connection.
async fn is_served(mut stream: TcpStream) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn one_address_has_a_bounded_number_of_connections() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(TcpStream::connect(address(&server)).await.unwrap());
    }
    assert!(!is_served(TcpStream::connect(address(&server)).await.unwrap()).await);
    #[cfg(target_os = "linux")]
    {
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        assert!(is_served(other.connect(address(&server)).await.unwrap()).await, "others are served");
    }
    for stream in held.drain(..10) {
        assert!(is_served(stream).await, "those that are open are served");
    }
    // The server ends each with its answer, so these have made room when the next one comes.
    assert!(is_served(TcpStream::connect(address(&server)).await.unwrap()).await);
}

#[tokio::test]
async fn connections_of_a_trusted_proxy_are_not_counted() {
    let server = Server::start_behind(TRUSTED).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(TcpStream::connect(address(&server)).await.unwrap());
    }
    assert!(is_served(TcpStream::connect(address(&server)).await.unwrap()).await);
}

/// A field of an HTTP/2 head whose name is in the static table (RFC 7541, section 6.2.2).
fn indexed(head: &mut Vec<u8>, name: &[u8], value: &str) {
    head.extend_from_slice(name);
    head.push(u8::try_from(value.len()).unwrap());
    head.extend_from_slice(value.as_bytes());
}

/// A HEADERS frame of an HTTP/2 stream (RFC 9113, section 6.2).
fn headers_frame(stream: u32, ends: bool, head: &[u8]) -> Vec<u8> {
    let length = u32::try_from(head.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], 0x01, if ends { 0x05 } else { 0x04 }];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(head);
    frame
}

/// Logins over one HTTP/2 connection that never send their bodies: they are waited for when this returns.
async fn stall_logins(server: &Server, client: &str) -> TcpStream {
    const STREAMS: u32 = 15;
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // The static table has POST as 3, GET as 2, the scheme http as 6, and the name of the path as 4.
    let mut login = vec![0x83, 0x86];
    indexed(&mut login, &[0x04], "/api/auth/login");
    indexed(&mut login, b"\x00\x0fx-forwarded-for", client);
    for number in 0..STREAMS {
        frames.extend(headers_frame(2 * number + 1, false, &login));
    }
    let mut health = vec![0x82, 0x86];
    indexed(&mut health, &[0x04], "/healthz");
    let last = 2 * STREAMS + 1;
    frames.extend(headers_frame(last, true, &health));
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    stream.write_all(&frames).await.unwrap();
    // The server takes the streams in their order, so it has seen all when it answers the last.
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.unwrap();
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let of_stream = u32::from_be_bytes(frame[5..].try_into().unwrap());
        if frame[3] == 0x01 {
            assert_eq!(of_stream, last, "a login was answered without its body");
            return stream;
        }
    }
}

#[tokio::test]
async fn stalled_logins_of_one_address_hold_up_no_others() {
    let server = Server::start_behind(TRUSTED).await;
    let mut stalled = Vec::new();
    // Enough to use up what all logins together may take, were it not for the bound of each address.
    for _ in 0..36 {
        stalled.push(stall_logins(&server, "203.0.113.1").await);
    }
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let login = |client: &str| {
        let request = server.client.post(format!("{}/api/auth/login", server.url)).json(&body);
        server.send(request.header("x-forwarded-for", client))
    };
    tokio::time::timeout(Duration::from_secs(15), login("203.0.113.2")).await.expect("the login waits").ok(200);
    drop(stalled);
    tokio::time::timeout(Duration::from_secs(15), login("203.0.113.1")).await.expect("the login waits").ok(200);
}

#[tokio::test]
async fn heads_have_bounds() {
    let server = Server::start().await;
    let fields = |count: usize| "x: y\r\n".repeat(count);
    let head = |fields: &str| format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
    assert_eq!(status_line(&server, &head(&fields(90))).await, "HTTP/1.1 200 OK");
    let too_many = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(status_line(&server, &head(&fields(100))).await, too_many);
    assert_eq!(status_line(&server, &head(&format!("x: {}\r\n", "y".repeat(70_000)))).await, too_many);

    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let ask = async |bytes: usize| {
        let request = client.get(format!("{}/healthz", server.url)).header("x", "y".repeat(bytes));
        request.send().await.map(|answer| answer.status().as_u16())
    };
    assert_eq!(ask(8 * 1024).await.unwrap(), 200);
    // A client that knows the server's bound doesn't even send it.
    assert!(ask(20 * 1024).await.map_or(true, |status| status == 431));
    assert_eq!(ask(8 * 1024).await.unwrap(), 200);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let server = Server::start().await;
    let ask = async |method: Method, path: &str| -> HeaderMap {
        let request = server.client.request(method, format!("{}{path}", server.url));
        request.header("origin", "https://example.org").send().await.unwrap().headers().clone()
    };
    for (method, path) in [
        (Method::GET, "/healthz"),
        (Method::GET, "/api/psa/pins"),
        (Method::PUT, "/api/psa/pins"),
        (Method::OPTIONS, "/api/psa/pins"),
        (Method::POST, "/api/auth/login"),
        (Method::GET, "/nothing/here"),
        (Method::GET, "/api/openapi.json"),
        (Method::GET, "/ipfs/nothing"),
    ] {
        let headers = ask(method, path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
        ] {
            let found = headers.get_all(name).iter().collect::<Vec<_>>();
            assert_eq!(found, [value], "{name} at {path}");
        }
        assert!(!headers.contains_key("strict-transport-security"), "there is no TLS");
    }
    // The page has a policy of its own.
    let policy = ask(Method::GET, "/api/docs/index.html").await["content-security-policy"].clone();
    assert!(policy.to_str().unwrap().contains("'self'"), "{policy:?}");
}
