//! Peers come over WebSocket to the port of the HTTP side, as browsers have to.

use std::net::SocketAddr;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::api::details;
use crate::support::daemon::{Daemon, Home};
use crate::support::dag::Dag;
use crate::support::provider::Provider;

/// Where the HTTP side is.
fn http(service: &Daemon) -> SocketAddr {
    service.ready.endpoint.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap()
}

/// Where peers come over WebSocket.
fn address(service: &Daemon) -> String {
    format!("/ip4/127.0.0.1/tcp/{}/ws/p2p/{}", http(service).port(), service.ready.peer_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_comes_over_websocket_alone() {
    let dag = Dag::wide("over websocket", 24, 250_000);
    let (first_home, second_home) = (Home::new(), Home::new());
    let first = first_home.start().await;
    let second = second_home.serve().env("PINNACE_METRICS__LISTEN", "127.0.0.1:0").start().await;
    let provider = Provider::start(&dag).await;
    let pin = first.api().add(&dag.root, &[provider.origin()]).await;
    first.api().wait_pinned(&pin, 20).await;

    let pin = second.api().add(&dag.root, &[address(&first)]).await;
    second.api().wait_pinned(&pin, 30).await;
    let bytes: usize = dag.blocks.iter().map(|(_, data)| data.len()).sum();
    let count = crate::bandwidth::transferred(&second, "download", "websocket", "bitswap").await;
    assert!((bytes as u64..bytes as u64 * 5 / 4).contains(&count), "{count} bytes of {bytes}");
    assert_eq!(crate::bandwidth::transferred(&second, "download", "tcp", "bitswap").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off_and_the_pin_says_what_is_wrong() {
    let dag = Dag::wide("without websocket", 2, 1000);
    let (first_home, second_home) = (Home::new(), Home::new());
    let first = first_home.serve().env("PINNACE_HTTP__WEBSOCKET", "false").start().await;
    let second = second_home.start().await;
    let pin = second.api().add(&dag.root, &[address(&first)]).await;
    let is_said = |pin: &Value| details(pin).contains("/ws: ") && details(pin).contains("404");
    second.api().wait(&pin, "reason", 30, is_said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_find_nothing_there() {
    let home = Home::new();
    let service = home.start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/", http(&service));
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for (method, headers) in [
        (Method::GET, &[][..]),
        (Method::POST, &[]),
        (Method::GET, &upgrade),
        (Method::GET, &[upgrade[0], upgrade[1], key, ("sec-websocket-version", "7")]),
        (Method::POST, &[upgrade[0], upgrade[1], key, ("sec-websocket-version", "13")]),
    ] {
        let mut request = client.request(method.clone(), &url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method} {headers:?}");
        assert!(answer.text().await.unwrap().contains("NOT_FOUND"), "{method} {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_domain_that_the_operator_names_is_announced() {
    let home = Home::new();
    let service = home.serve().env("PINNACE_HTTP__PUBLIC_URL", "https://pins.example.org").start().await;
    let expected = format!("/dns/pins.example.org/tcp/443/tls/ws/p2p/{}", service.ready.peer_id);
    assert!(service.ready.multiaddrs.contains(&expected), "{:?}", service.ready.multiaddrs);
}
