//! Pins whose blocks come over HTTP from trustless gateways.

use axum::http::Version;

use crate::support::api::details;
use crate::support::asker::Asker;
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::trustless::{Conduct, PROBE, Trustless, blocks};

fn port(endpoint: &str) -> &str {
    endpoint.trim_start_matches("http://127.0.0.1:").split('/').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_comes_from_a_gateway_alone_over_tls() {
    let dag = Dag::wide("over tls", 200, 20_000);
    let home = Home::new();
    let authority = home.path("authority.pem");
    let gateway = Trustless::start_secure(blocks(&dag, |_| true), Conduct::Sound, &authority).await;
    let service = home.serve().env("SSL_CERT_FILE", authority.to_str().unwrap()).start().await;
    let pin = service.api().add(&dag.root, &[gateway.secure_origin()]).await;
    assert!(pin["info"]["origins_skipped"].is_null(), "{pin}");
    service.api().wait_pinned(&pin, 20).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;

    let seen = gateway.seen();
    assert_eq!(seen.len(), dag.blocks.len() + 1, "each block is asked for once, after one probe");
    assert_eq!(seen[0].path, format!("/ipfs/{PROBE}?format=raw"));
    for request in &seen {
        assert_eq!(request.version, Version::HTTP_2, "{request:?}");
        assert_eq!(request.accept, "application/vnd.ipld.raw", "{request:?}");
        assert!(request.user_agent.starts_with("pinnace/"), "{request:?}");
    }
    assert_eq!(gateway.connections(), 1);
    // The next pin finds the connection and knows the gateway.
    let second = Dag::wide("over tls", 3, 20_000);
    let pin = service.api().add(&second.root, &[gateway.secure_origin()]).await;
    service.api().wait(&pin, "an answer of the gateway", 20, |_| gateway.seen().len() > seen.len()).await;
    assert_eq!(gateway.seen()[seen.len()].path, format!("/ipfs/{}?format=raw", second.root));
    assert_eq!(gateway.connections(), 1);
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let dag = Dag::wide("untrusted", 2, 1_000);
    let home = Home::new();
    let gateway = Trustless::start_secure(blocks(&dag, |_| true), Conduct::Sound, &home.path("authority.pem")).await;
    // An authority that has nothing to do with it.
    let other = home.path("other.pem");
    Trustless::start_secure(blocks(&dag, |_| true), Conduct::Sound, &other).await;
    let service = home.serve().env("SSL_CERT_FILE", other.to_str().unwrap()).start().await;
    let pin = service.api().add(&dag.root, &[gateway.secure_origin()]).await;
    let tried = |pin: &serde_json::Value| details(pin).contains("last try");
    let pin = service.api().wait(&pin, "end of the first try", 30, tried).await;
    assert!(details(&pin).contains("https://gateway.example:"), "{pin}");
    assert!(details(&pin).contains("certificate"), "{pin}");
    assert!(gateway.seen().is_empty(), "nothing is asked before the certificate is checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_lacks_comes_from_a_peer() {
    let dag = Dag::wide("half", 60, 20_000);
    let home = Home::new();
    // The root is the last block; the peer has only what the gateway doesn't have.
    let gateway = Trustless::start(blocks(&dag, |number| number % 2 == 0), Conduct::Sound).await;
    let rest = Dag { root: dag.root, blocks: dag.blocks.iter().skip(1).step_by(2).cloned().collect() };
    assert!(!blocks(&rest, |_| true).contains_key(&dag.root));
    let provider = Provider::start(&rest).await;
    let service = home.start().await;
    let pin = service.api().add(&dag.root, &[gateway.plain_origin(), provider.origin()]).await;
    service.api().wait_pinned(&pin, 30).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_and_a_peer_that_have_all_share_the_work() {
    let dag = Dag::wide("both", 300, 20_000);
    let home = Home::new();
    let gateway = Trustless::start(blocks(&dag, |_| true), Conduct::Sound).await;
    let provider = Provider::start(&dag).await;
    let service = home.start().await;
    let pin = service.api().add(&dag.root, &[gateway.plain_origin(), provider.origin()]).await;
    service.api().wait_pinned(&pin, 30).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
    let asked = gateway.seen().len() - 1 + provider.asked().len();
    assert!(asked >= dag.blocks.len() && asked < dag.blocks.len() + 50, "{asked} requests");
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stands_still_does_not_hold_up_a_peer() {
    let dag = Dag::wide("stalling", 40, 20_000);
    let home = Home::new();
    let gateway = Trustless::start(blocks(&dag, |_| true), Conduct::Stalling).await;
    let provider = Provider::start(&dag).await;
    let service = home.start().await;
    let pin = service.api().add(&dag.root, &[gateway.plain_origin(), provider.origin()]).await;
    service.api().wait_pinned(&pin, 45).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_is_wrong_with_the_gateways() {
    let dag = Dag::wide("wrong", 3, 1_000);
    let home = Home::new();
    let lying = Trustless::start(blocks(&dag, |_| true), Conduct::Lying).await;
    let site = Trustless::start(blocks(&dag, |_| true), Conduct::WebSite).await;
    let service = home.start().await;
    let origins = [lying.plain_origin(), site.plain_origin(), "/dns/example.org/tcp/443/tls/ws/http".to_owned()];
    let pin = service.api().add(&dag.root, &origins).await;
    let skipped = pin["info"]["origins_skipped"].as_str().unwrap();
    assert!(skipped.contains("/tls/ws/http (as the address of an HTTP gateway only"), "{skipped}");
    let tried = |pin: &serde_json::Value| details(pin).contains("last try");
    let pin = service.api().wait(&pin, "end of the first try", 30, tried).await;
    for text in [
        format!("http://{}: it sent something else than {}", lying.address, dag.root),
        format!("http://{}: it is not a trustless gateway", site.address),
        "0 of 1 known blocks are here".to_owned(),
    ] {
        assert!(details(&pin).contains(&text), "\"{text}\" is not in: {pin}");
    }
    assert_eq!(site.seen().len(), 1, "a web site costs one request");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_pins_over_http_from_another() {
    let dags = [Dag::wide("wide over http", 40, 250_000), Dag::shared("shared over http", 40)];
    let (first_home, second_home) = (Home::new(), Home::new());
    let (first, second) = (first_home.start().await, second_home.start().await);
    for dag in &dags {
        let provider = Provider::start(dag).await;
        let pin = first.api().add(&dag.root, &[provider.origin()]).await;
        first.api().wait_pinned(&pin, 20).await;
    }
    let origin = format!("/dns4/localhost/tcp/{}/http", port(&first.ready.endpoint));
    for dag in &dags {
        let pin = second.api().add(&dag.root, std::slice::from_ref(&origin)).await;
        second.api().wait_pinned(&pin, 20).await;
    }
    let mut asker = Asker::connect(&second.ready.multiaddr("/tcp/")).await;
    for dag in &dags {
        asker.compare(dag).await;
    }
    assert!(first.terminate().await.0.success());
    assert!(second.terminate().await.0.success());
}
