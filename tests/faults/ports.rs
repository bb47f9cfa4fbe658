//! Ports that another process has. A first start that fails for one keeps its secrets for the next.

use std::net::{TcpListener, UdpSocket};

use crate::support::daemon::{Home, Serve};

/// Checks that the address is named with what to do, and that the next start is still the first.
async fn assert_told(home: &Home, blocked: Serve, texts: &[&str]) {
    blocked.fail().await.says(texts);
    let service = home.start().await;
    let ready = &service.ready;
    assert!(ready.email.is_some() && ready.password.is_some(), "{ready:?}");
    assert_eq!(service.api().count("queued").await, 0);
}

#[tokio::test]
async fn the_http_port_is_in_use() {
    let home = Home::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    assert_told(&home, home.serve().http(&address), &["HTTP", &address, "in use", "--http"]).await;
}

#[tokio::test]
async fn the_tcp_port_for_peers_is_in_use() {
    let home = Home::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", other.local_addr().unwrap().port());
    assert_told(&home, home.serve().listen(&[&address]), &[&address, "in use", "--listen"]).await;
}

#[tokio::test]
async fn the_udp_port_for_peers_is_in_use() {
    let home = Home::new();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", other.local_addr().unwrap().port());
    assert_told(&home, home.serve().listen(&[&address]), &[&address, "in use", "--listen"]).await;
}

#[tokio::test]
async fn another_pinnace_has_the_tcp_port() {
    let (home, other_home) = (Home::new(), Home::new());
    let other = other_home.serve().listen(&["/ip4/127.0.0.1/tcp/0"]).start().await;
    let address = other.ready.multiaddr("/tcp/");
    let (address, _) = address.split_once("/p2p/").unwrap();
    assert_told(&home, home.serve().listen(&[address]), &[address, "in use", "--listen"]).await;
    // All interfaces are that one too.
    let everywhere = format!("/ip4/0.0.0.0/tcp/{}", address.rsplit('/').next().unwrap());
    let home = Home::new();
    assert_told(&home, home.serve().listen(&[&everywhere]), &[&everywhere, "in use", "--listen"]).await;
}
