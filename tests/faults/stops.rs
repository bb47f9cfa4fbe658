//! Processes that end in the middle of a pin, gently or not.

use std::time::Duration;

use crate::support::asker::Asker;
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

#[tokio::test]
async fn an_orderly_stop_in_the_middle_of_a_pin_is_quick_and_loses_nothing() {
    let dag = Dag::wide("stopped", 30, 50_000);
    let provider = Provider::start_allowing(&dag, 11).await;
    let home = Home::new();
    let service = home.start().await;
    let token = service.ready.token().to_owned();
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_blocks(&pin, 11, 15).await;
    // A connection that is open and says nothing must not hold it up either.
    let http = service.ready.endpoint.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let _idle = tokio::net::TcpStream::connect(http).await.unwrap();
    let (status, took) = service.terminate_twice().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");

    provider.forget_asked();
    let service = home.start().await;
    assert!(service.ready.has_no_secret(), "{:?}", service.ready);
    provider.allow(usize::MAX);
    service.api_with(&token).wait_pinned(&pin, 15).await;
    assert_eq!(provider.asked().len(), 20, "what was stored is not asked for again");
}

#[tokio::test]
async fn one_signal_is_enough_for_an_idle_service() {
    let home = Home::new();
    let (status, took) = home.start().await.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn kills_at_any_time_lose_nothing_that_was_acknowledged() {
    let dag = Dag::wide("killed", 200, 20_000);
    let provider = Provider::start(&dag).await;
    let home = Home::new();
    let service = home.start().await;
    let token = service.ready.token().to_owned();
    let api = service.api();
    let pins = [api.add(&dag.root, &[provider.origin()]).await, api.add(&dag.blocks[0].0, &[]).await];
    // At once, and then after ever more of the pin.
    service.kill().await;
    for blocks in [1, 40, 80, 120] {
        let service = home.start().await;
        assert!(service.ready.has_no_secret(), "{:?}", service.ready);
        let api = service.api_with(&token);
        for pin in &pins {
            assert_eq!(api.get(pin).await["pin"]["cid"], pin["pin"]["cid"]);
        }
        let is_reached =
            |pin: &serde_json::Value| pin["status"] == "pinned" || crate::support::api::blocks_fetched(pin) >= blocks;
        api.wait(&pins[0], "progress", 15, is_reached).await;
        service.kill().await;
    }
    let service = home.start().await;
    service.api_with(&token).wait_pinned(&pins[0], 20).await;
    drop(provider);
    // The other pin is one of the same blocks, so it needs no peer.
    service.api_with(&token).wait_pinned(&pins[1], 20).await;
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
}
