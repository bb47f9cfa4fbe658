//! What a pin goes through: it shares a fetch, makes place for others, ends with a reason, and is watched.

use std::net::TcpListener;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::api::{Api, details};
use crate::support::asker::Asker;
use crate::support::daemon::{Daemon, Home, run};
use crate::support::dag::Dag;
use crate::support::provider::{Provider, unreachable_origin};

/// A client of another account, which has the quota of the configuration.
async fn other_account(service: &Daemon) -> Api {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let auth = service.ready.endpoint.replace("/api/psa/", "/api/auth/");
    let who = json!({ "email": "other@example.org", "password": "a long password" });
    let made = client.post(format!("{auth}register")).json(&who).send().await.unwrap();
    assert_eq!(made.status().as_u16(), 201, "{}", made.text().await.unwrap());
    let login = client.post(format!("{auth}login")).json(&who).send().await.unwrap();
    service.api_with(login.json::<Value>().await.unwrap()["access_token"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_with_one_dag_are_fetched_once_and_end_one_by_one() {
    let dag = Dag::wide("wanted by many", 40, 50_000);
    let mut provider = Provider::start_allowing(&dag, 21).await;
    let home = Home::new();
    let service = home.serve().env("PINNACE_AUTH__REGISTRATION", "open").start().await;
    let (first, second) = (service.api(), other_account(&service).await);
    let lead = first.add(&dag.root, &[provider.origin()]).await;
    first.wait_blocks(&lead, 21, 15).await;
    // Neither names the provider.
    let (other, third) = (second.add(&dag.root, &[]).await, first.add(&dag.root, &[]).await);
    let shared = second.wait(&other, "pin that goes along", 10, |pin| pin["status"] == "pinning").await;
    assert_eq!(shared["info"]["blocks_fetched"], "21", "{shared}");

    // The one that it was begun for goes; the others still need it.
    first.remove(&lead).await;
    provider.allow(usize::MAX);
    let pinned = second.wait_pinned(&other, 15).await;
    assert_eq!(pinned["info"]["blocks_fetched"], "41");
    first.wait_pinned(&third, 15).await;
    provider.wait_sent(41).await;
    let mut asked = provider.asked();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 41);
    // A few may be asked for again when the machine is slow; two fetches would ask for all.
    assert!(provider.asked().len() < 60, "{} questions", provider.asked().len());
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_brings_the_provider_helps_the_one_that_waits() {
    let dag = Dag::wide("helped", 10, 10_000);
    let provider = Provider::start(&dag).await;
    let service = Home::new().serve().start().await;
    let api = service.api();
    let without = api.add(&dag.root, &[]).await;
    api.wait(&without, "pin without a provider", 10, |pin| pin["status"] == "pinning").await;
    let with = api.add(&dag.root, &[provider.origin()]).await;
    api.wait_pinned(&without, 10).await;
    api.wait_pinned(&with, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_pin_does_not_wait_for_a_huge_one() {
    let (huge, small) = (Dag::wide("huge", 60, 50_000), Dag::wide("small", 2, 1000));
    let mut huge_source = Provider::start_allowing(&huge, 21).await;
    let small_source = Provider::start(&small).await;
    let service =
        Home::new().serve().env("PINNACE_PINS__ACTIVE_MAX", "1").env("PINNACE_PINS__TURN", "1s").start().await;
    let api = service.api();
    let first = api.add(&huge.root, &[huge_source.origin()]).await;
    api.wait_blocks(&first, 21, 15).await;
    let second = api.add(&small.root, &[small_source.origin()]).await;
    assert_eq!(second["status"], "queued");
    let waiting = api.get(&second).await;
    assert_eq!(waiting["info"]["queue_position"], "1", "{waiting}");
    api.wait_pinned(&second, 15).await;
    assert_ne!(api.get(&first).await["status"], "pinned");
    // The huge one has lost nothing but its turn.
    huge_source.allow(usize::MAX);
    huge_source.wait_sent(61).await;
    api.wait_pinned(&first, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_code_and_says_who_was_tried() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let peer = pinnace::net::PeerId::random();
    let (wide, deep) = (Dag::wide("too much", 30, 50_000), Dag::shared("too deep", 12));
    let (wide_source, deep_source) = (Provider::start(&wide).await, Provider::start(&deep).await);
    let home = Home::new();
    let service = home
        .serve()
        .env("PINNACE_PINS__GIVE_UP_AFTER", "1s")
        .env("PINNACE_PINS__STALL_TIMEOUT", "2s")
        .env("PINNACE_PINS__BYTES_MAX", "1MB")
        .env("PINNACE_PINS__DEPTH_MAX", "10")
        .start()
        .await;
    let api = service.api();
    let nowhere = Dag::wide("nowhere", 1, 10);
    let cases = [
        (&nowhere, vec![format!("/ip4/127.0.0.1/tcp/{closed}/p2p/{peer}")], "unreachable", "refused"),
        (&nowhere, vec![], "no_provider", "no origins were given"),
        (&nowhere, vec![wide_source.origin()], "stalled", "nobody who was asked for the content sent any of it"),
        (&wide, vec![wide_source.origin()], "too_large", "pins.bytes_max"),
        (&deep, vec![deep_source.origin()], "too_deep", "pins.depth_max"),
    ];
    for (dag, origins, code, says) in cases {
        let pin = api.add(&dag.root, &origins).await;
        let failed = api.wait(&pin, code, 40, |pin| pin["status"] == "failed").await;
        assert_eq!(failed["info"]["failure"], code, "{failed}");
        assert!(details(&failed).contains(says), "{failed}");
        let shown = run(&["pin", "show", pin["requestid"].as_str().unwrap(), "--json"], &home.data());
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let tried = shown["tried"].as_array().unwrap();
        match code {
            "unreachable" => assert!(tried[0].as_str().unwrap().starts_with(&peer.to_string()), "{shown}"),
            "stalled" => {
                let says = ": connected; it says that it does not have what it was asked for";
                assert!(tried[0].as_str().unwrap().ends_with(says), "{shown}");
            }
            _ => assert!(tried.is_empty(), "{shown}"),
        }
        api.remove(&pin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_kept_while_the_pin_is_fetched() {
    let dag = Dag::wide("over the quota", 100, 50_000);
    let small = Dag::wide("within the quota", 4, 50_000);
    let provider = Provider::start_allowing(&dag, 60).await;
    let small_source = Provider::start(&small).await;
    let service = Home::new()
        .serve()
        .env("PINNACE_AUTH__REGISTRATION", "open")
        .env("PINNACE_AUTH__QUOTA_BYTES", "1MB")
        .start()
        .await;
    let api = other_account(&service).await;
    let pin = api.add(&dag.root, &[provider.origin()]).await;
    // The provider has more to give, and stands still: the pin fails before it is whole.
    let failed = api.wait(&pin, "failed pin", 15, |pin| pin["status"] == "failed").await;
    assert_eq!(failed["info"]["failure"], "quota", "{failed}");
    let within = api.add(&small.root, &[small_source.origin()]).await;
    api.wait_pinned(&within, 15).await;
    // The operator isn't bound.
    provider.allow(usize::MAX);
    let own = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_pinned(&own, 15).await;
    // What is held already counts too, and needs no fetching.
    let again = api.add(&dag.root, &[]).await;
    let failed = api.wait(&again, "failed pin", 15, |pin| pin["status"] == "failed").await;
    assert_eq!(failed["info"]["failure"], "quota", "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_whose_time_is_over_is_fetched_no_longer() {
    let (long, short) = (Dag::wide("for a while", 40, 50_000), Dag::wide("for ever", 2, 1000));
    let (mut long_source, short_source) = (Provider::start_allowing(&long, 21).await, Provider::start(&short).await);
    let service =
        Home::new().serve().env("PINNACE_PINS__ACTIVE_MAX", "1").env("PINNACE_PINS__TURN", "1h").start().await;
    let api = service.api();
    let at = (jiff::Timestamp::now() + Duration::from_secs(3)).to_string();
    let until = json!({ "pinnace.expires_at": at });
    let body = json!({ "cid": long.root.to_string(), "origins": [long_source.origin()], "meta": until });
    api.post(&body).await;
    long_source.wait_sent(1).await;
    // The only slot is taken for an hour, or until that time.
    let other = api.add(&short.root, &[short_source.origin()]).await;
    api.wait_pinned(&other, 15).await;
    assert_eq!(api.count("queued,pinning,pinned,failed").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_watched_until_it_ends() {
    let dag = Dag::wide("watched", 40, 50_000);
    let provider = Provider::start_allowing(&dag, 21).await;
    let unreachable = unreachable_origin(pinnace::net::PeerId::random());
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();
    let pin = api.add(&dag.root, &[provider.origin(), unreachable]).await;
    let id = pin["requestid"].as_str().unwrap();
    let url = service.ready.endpoint.replace("/api/psa/", &format!("/api/pins/{id}/events"));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let other = client.get(&url).bearer_auth("no token").send().await.unwrap();
    assert_eq!(other.status().as_u16(), 401);
    let answer = client.get(&url).bearer_auth(service.ready.token()).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut bytes = answer.bytes_stream();
    let (mut text, mut shown) = (String::new(), false);
    while let Some(chunk) = bytes.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        if text.contains("\"blocks_fetched\":\"21\"") && !shown {
            shown = true;
            let looked = run(&["pin", "show", id, "--json"], &home.data());
            let looked = String::from_utf8(looked.stdout).unwrap();
            assert!(looked.contains(": connected; it sent 21 blocks with "), "{looked}");
            provider.allow(usize::MAX);
        }
    }
    let statuses: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    assert!(statuses.iter().any(|status| status["status"] == "pinning"), "{text}");
    let last = statuses.last().unwrap();
    assert_eq!((&last["status"], &last["requestid"]), (&json!("pinned"), &pin["requestid"]), "{text}");

    let watch = run(&["pin", "show", id, "--watch"], &home.data());
    assert!(watch.status.success());
    assert!(String::from_utf8(watch.stdout).unwrap().starts_with("pinned: every block is stored"));
}
