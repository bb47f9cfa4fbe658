//! Origins that lie, leave, or don't exist.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::identity::Keypair;
use pinnace::bitswap::wire::{Incoming, Outgoing, Protocol, WantKind, encode};

use crate::support::api::{blocks_fetched, details};
use crate::support::asker::{Answer, Asker};
use crate::support::daemon::Home;
use crate::support::dag::{Dag, leaf};
use crate::support::link::Link;
use crate::support::peer::Peer;
use crate::support::provider::{Provider, read_all, unreachable_origin};
use crate::support::{wire, within};

const FREE_PORT: &str = "/ip4/127.0.0.1/tcp/0";

#[tokio::test]
async fn blocks_that_do_not_match_their_cid_never_count() {
    let dag = Dag::wide("contested", 5, 10_000);
    let lies: HashMap<_, _> = dag.blocks.iter().map(|(cid, data)| (*cid, data.slice(1..))).collect();
    let mut liar = Provider::start_as(Keypair::generate_ed25519(), FREE_PORT.parse().unwrap(), lies, usize::MAX).await;
    let honest = Provider::start(&dag).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let pin = api.add(&dag.root, &[liar.origin(), honest.unreachable_origin()]).await;
    liar.wait_sent(1).await;

    // A stranger's lie, which comes unasked, does no more.
    let mut asker = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    let mut stream = asker.open().await;
    let lie = Outgoing { blocks: vec![(dag.root, dag.data(&dag.root).slice(1..))], ..Outgoing::default() };
    wire::write(&mut stream, &lie).await.unwrap();
    asker.sync(&mut stream).await;
    assert_eq!(asker.ask_through(&mut stream, dag.root, WantKind::Block).await, Answer::DontHave);
    let state = api.get(&pin).await;
    assert_eq!((state["status"].as_str(), blocks_fetched(&state)), (Some("pinning"), 0), "{state}");

    honest.dial(&service.ready.multiaddr("/tcp/")).await;
    api.wait_pinned(&pin, 25).await;
    asker.compare(&dag).await;
}

#[tokio::test]
async fn a_block_that_comes_slowly_is_not_asked_of_another_as_well() {
    let (root, data) = leaf("slowly", 300_000);
    let (slow, inbound) = Peer::start().await;
    let mut wants = read_all(inbound);
    let other = Provider::start(&Dag { root, blocks: vec![(root, data.clone())] }).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let pin = api.add(&root, &[slow.address.to_string(), other.unreachable_origin()]).await;
    let asks = |message: &Incoming| message.wants.iter().any(|want| want.cid == root && want.kind == WantKind::Block);
    let asker = within("the want", 20, async {
        loop {
            match wants.recv().await.expect("the peer runs") {
                (from, Some(message)) if asks(&message) => return from,
                _ => {}
            }
        }
    });
    let asker = asker.await;
    other.dial(&service.ready.multiaddr("/tcp/")).await;
    // For eight seconds: a peer that sends nothing loses its wants to another after five.
    let message = encode(&Outgoing { blocks: vec![(root, data)], ..Outgoing::default() }, Protocol::V1_2);
    let mut stream = slow.open(asker).await;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for part in message.chunks(message.len().div_ceil(40)) {
        pace.tick().await;
        wire::write_bytes(&mut stream, part).await.unwrap();
    }
    api.wait_pinned(&pin, 10).await;
    assert!(other.asked().is_empty(), "{:?}", other.asked());
}

#[tokio::test]
async fn content_that_nobody_has_waits_with_a_sentence() {
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let (missing, _) = leaf("nobody has this", 100);
    let nowhere = unreachable_origin(Keypair::generate_ed25519().public().to_peer_id());
    let pins = [api.add(&missing, &[]).await, api.add(&missing, &[nowhere]).await];

    // Others aren't held up by it.
    let dag = Dag::wide("present", 3, 1_000);
    let provider = Provider::start(&dag).await;
    let present = api.add(&dag.root, &[provider.origin()]).await;
    api.wait_pinned(&present, 10).await;

    for (pin, sentence) in pins.iter().zip(["no origins were given", "none of the origins can be reached"]) {
        let waits = |pin: &serde_json::Value| pin["status"] == "queued" && details(pin).contains("last try");
        let pin = api.wait(pin, "pin that waits", 20, waits).await;
        assert!(details(&pin).contains(sentence), "{pin}");
        assert!(details(&pin).contains("next try in"), "{pin}");
    }
    assert_eq!(api.count("queued").await, 2);

    // Whoever brings it ends the wait, origin or not.
    let bringer = Dag { root: missing, blocks: vec![leaf("nobody has this", 100)] };
    let bringer = Provider::start(&bringer).await;
    bringer.dial(&service.ready.multiaddr("/tcp/")).await;
    for pin in &pins {
        api.wait_pinned(pin, 8).await;
    }
}

#[tokio::test]
async fn a_peer_that_vanishes_and_comes_back_is_asked_for_the_rest() {
    let dag = Dag::wide("vanishing", 40, 50_000);
    let mut provider = Provider::start_allowing(&dag, 15).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let pin = api.add(&dag.root, &[provider.origin()]).await;
    provider.wait_sent(15).await;
    api.wait_blocks(&pin, 15, 10).await;
    let come_back = provider.vanish().await;
    api.wait(&pin, "pin without peers", 10, |pin| details(pin).contains("no peer that has the content")).await;

    let provider = come_back(usize::MAX).await;
    api.wait_pinned(&pin, 20).await;
    assert_eq!(provider.asked().len(), 26, "what was stored is not asked for again");
}

#[tokio::test]
async fn a_transfer_survives_the_loss_of_one_of_two_connections() {
    let dag = Dag::wide("two ways", 40, 50_000);
    let mut provider = Provider::start_allowing(&dag, 15).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let direct = service.ready.multiaddr("/tcp/");
    let link = Link::to(&direct).await;
    // The first connection is the one that is used.
    provider.dial(&link.address).await;
    provider.dial(&direct).await;
    let pin = api.add(&dag.root, &[provider.origin()]).await;
    provider.wait_sent(15).await;
    api.wait_blocks(&pin, 15, 10).await;
    link.cut().await;
    provider.allow(usize::MAX);
    // Before a peer counts as silent, which is after ten seconds.
    api.wait_pinned(&pin, 8).await;
}
