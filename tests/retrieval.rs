//! Gateways as a fetch sees them: real HTTP on loopback, from servers that behave and servers that don't.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this program is a test, helpers included")]

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{Method, Version};
use bytes::Bytes;
use cid::Cid;
use pinnace::bitswap::PeerNumber;
use pinnace::bitswap::session::Action;
use pinnace::bitswap::wire::WantKind;
use pinnace::model::limits::{BLOCK_BYTES_MAX, RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX, RETRIEVAL_GATEWAYS_MAX};
use pinnace::net::profile::Profile;
use pinnace::net::{GatewayAddress, SessionEvent};
use pinnace::retrieval::{GatewaySession, Gateways};

#[path = "support/mod.rs"]
mod support;

use support::dag::{Dag, leaf};
use support::trustless::{Conduct, PROBE, Trustless, blocks};
use support::{until, within};

const GATEWAY: u32 = 0;

fn lan() -> Gateways {
    Gateways::new(Profile::Lan { subnets: Vec::new() }, true)
}

fn address(origin: &str) -> GatewayAddress {
    GatewayAddress::parse(origin).unwrap().unwrap().0
}

fn ask(session: &mut GatewaySession, cids: &[Cid], kind: WantKind) {
    let peer = PeerNumber::of_gateway(GATEWAY);
    let rest = session.act(cids.iter().map(|cid| Action::Ask { peer, cid: *cid, kind }).collect());
    assert_eq!(rest, []);
}

async fn event(session: &mut GatewaySession) -> SessionEvent {
    within("event of the gateway", 60, session.next()).await
}

async fn connected(session: &mut GatewaySession) {
    let event = event(session).await;
    assert!(matches!(event, SessionEvent::PeerConnected { source: true, .. }), "{event:?} {:?}", session.remarks());
}

async fn gone(session: &mut GatewaySession) {
    let event = event(session).await;
    assert!(matches!(event, SessionEvent::PeerGone(_)), "{event:?}");
    assert_eq!(session.connected(), 0);
}

#[track_caller]
fn remarks(session: &GatewaySession, text: &str) {
    let remarks = session.remarks();
    assert!(remarks.len() == 1 && remarks[0].contains(text), "\"{text}\" is not what is said: {remarks:?}");
}

/// A gateway of that conduct with a DAG, and a fetch that may ask it.
async fn start(conduct: Conduct) -> (Dag, Trustless, GatewaySession) {
    let dag = Dag::wide("http", 30, 5_000);
    let gateway = Trustless::start(blocks(&dag, |_| true), conduct).await;
    let session = lan().open(vec![address(&gateway.plain_origin())]);
    (dag, gateway, session)
}

/// The remark about a gateway that never gets to be asked for a block.
async fn remark(session: &mut GatewaySession) -> String {
    until("remark", 20, async || {
        assert!(session.try_next().is_none());
        session.remarks().pop().filter(|remark| !remark.contains("not answered yet"))
    })
    .await
}

#[tokio::test]
async fn blocks_presences_and_absences_come() {
    let (dag, gateway, mut session) = start(Conduct::Sound).await;
    connected(&mut session).await;
    assert_eq!(session.connected(), 1);
    let (missing, _) = leaf("missing", 10);
    let (cid, data) = &dag.blocks[7];
    ask(&mut session, &[*cid], WantKind::Block);
    let SessionEvent::Block { from, block } = event(&mut session).await else { panic!("no block") };
    assert_eq!((from, block.cid(), block.data()), (PeerNumber::of_gateway(GATEWAY), cid, data));
    ask(&mut session, &[missing], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::DontHave { cid, .. } if cid == missing));
    ask(&mut session, &[*cid], WantKind::Have);
    assert!(matches!(event(&mut session).await, SessionEvent::Have { cid: had, .. } if had == *cid));
    ask(&mut session, &[missing], WantKind::Have);
    assert!(matches!(event(&mut session).await, SessionEvent::DontHave { .. }));
    remarks(&session, "it does not have 2 blocks that it was asked for");

    let seen = gateway.seen();
    let asked: Vec<(Method, String)> = seen.iter().map(|seen| (seen.method.clone(), seen.path.clone())).collect();
    let path = |what: &str| format!("/ipfs/{what}?format=raw");
    let expected = [
        (Method::GET, path(PROBE)),
        (Method::GET, path(&cid.to_string())),
        (Method::GET, path(&missing.to_string())),
        (Method::HEAD, path(&cid.to_string())),
        (Method::HEAD, path(&missing.to_string())),
    ];
    assert_eq!(asked, expected);
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_11 && seen.accept == "application/vnd.ipld.raw"));
    assert!(seen.iter().all(|seen| seen.user_agent == concat!("pinnace/", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn a_gateway_below_a_path_is_asked_there() {
    let (cid, data) = leaf("deep", 100);
    let gateway = Trustless::start(HashMap::from([(cid, data)]), Conduct::Sound).await;
    let mut session = lan().open(vec![address(&format!("{}/http-path/deep%2Fdown", gateway.plain_origin()))]);
    connected(&mut session).await;
    ask(&mut session, &[cid], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::Block { .. }));
    assert_eq!(gateway.seen()[1].path, format!("/deep/down/ipfs/{cid}?format=raw"));
}

#[tokio::test]
async fn two_fetches_share_a_gateway_and_its_connections() {
    let dag = Dag::wide("shared http", 60, 1_000);
    let gateway = Trustless::start(blocks(&dag, |_| true), Conduct::Held).await;
    let gateways = lan();
    let mut sessions = [(); 2].map(|()| gateways.open(vec![address(&gateway.plain_origin())]));
    let cids: Vec<Cid> = dag.blocks.iter().map(|(cid, _)| *cid).collect();
    for (session, cids) in sessions.iter_mut().zip(cids.chunks(30)) {
        connected(session).await;
        ask(session, cids, WantKind::Block);
    }
    gateway.wait_seen(1 + RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX).await;
    gateway.release();
    for (session, cids) in sessions.iter_mut().zip(cids.chunks(30)) {
        for _ in cids {
            assert!(matches!(event(session).await, SessionEvent::Block { block, .. } if cids.contains(block.cid())));
        }
    }
    assert_eq!(gateway.seen().len(), 61, "one probe, and each block once");
    assert_eq!(gateway.at_once_max(), RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX);
    assert!(gateway.connections() <= RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX, "{}", gateway.connections());
}

#[tokio::test]
async fn who_goes_away_asks_for_nothing_more() {
    let (dag, gateway, mut session) = start(Conduct::Held).await;
    connected(&mut session).await;
    let cids: Vec<Cid> = dag.blocks.iter().map(|(cid, _)| *cid).collect();
    ask(&mut session, &cids[..2], WantKind::Block);
    gateway.wait_seen(3).await;
    session.forget(&cids[0]);
    until("end of a request", 10, async || (gateway.at_once() == 1).then_some(())).await;
    drop(session);
    until("end of all requests", 10, async || (gateway.at_once() == 0).then_some(())).await;
    assert_eq!(gateway.seen().len(), 3);
}

#[tokio::test]
async fn other_bytes_end_it() {
    let (dag, _gateway, mut session) = start(Conduct::Lying).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    gone(&mut session).await;
    remarks(&session, &format!("it sent something else than {}", dag.root));
}

#[tokio::test]
async fn a_body_without_end_ends_it() {
    let (dag, gateway, mut session) = start(Conduct::Endless).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    gone(&mut session).await;
    remarks(&session, "it sent more than the 2097152 bytes that a block may have");
    until("end of the request", 10, async || (gateway.at_once() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_length_that_no_block_has_ends_it_before_anything_is_read() {
    let (cid, _) = leaf("long", 10);
    let long = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
    let gateway = Trustless::start(HashMap::from([(cid, long)]), Conduct::Sound).await;
    let mut session = lan().open(vec![address(&gateway.plain_origin())]);
    connected(&mut session).await;
    ask(&mut session, &[cid], WantKind::Block);
    gone(&mut session).await;
    remarks(&session, "it sent more than the 2097152 bytes");
}

#[tokio::test]
async fn the_largest_block_comes() {
    let (cid, data) = leaf("largest", BLOCK_BYTES_MAX);
    let gateway = Trustless::start(HashMap::from([(cid, data)]), Conduct::Sound).await;
    let mut session = lan().open(vec![address(&gateway.plain_origin())]);
    connected(&mut session).await;
    ask(&mut session, &[cid], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::Block { .. }));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (dag, _gateway, mut session) = start(Conduct::Status(302)).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    gone(&mut session).await;
    remarks(&session, "it redirects (302 Found), and redirects are not followed");

    let (_, gateway, mut session) = start(Conduct::Always(301)).await;
    assert!(remark(&mut session).await.contains("it redirects (301 Moved Permanently)"));
    assert_eq!(gateway.seen().len(), 1);
}

#[tokio::test]
async fn what_is_no_gateway_costs_one_request() {
    for (conduct, text) in [
        (Conduct::WebSite, "it is not a trustless gateway: it has an answer of its own for an empty block"),
        (Conduct::Always(404), "it is not a trustless gateway: it answers 404 Not Found for an empty block"),
        (Conduct::Always(401), "it answers 401 Unauthorized"),
        (Conduct::Always(500), "it answers 500 Internal Server Error"),
        (Conduct::Always(429), "it answers 429 Too Many Requests"),
    ] {
        let (_, gateway, mut session) = start(conduct.clone()).await;
        let remark = remark(&mut session).await;
        assert!(remark.starts_with(&format!("http://{}: ", gateway.address)), "{remark}");
        assert!(remark.ends_with(text), "{conduct:?}: {remark}");
        assert_eq!(gateway.seen().len(), 1, "{conduct:?}");
    }
}

#[tokio::test]
async fn blocks_that_may_not_be_told_are_missing() {
    for status in [403, 404, 410, 451] {
        let (dag, _gateway, mut session) = start(Conduct::Status(status)).await;
        connected(&mut session).await;
        ask(&mut session, &[dag.root], WantKind::Block);
        assert!(matches!(event(&mut session).await, SessionEvent::DontHave { .. }), "{status}");
        assert_eq!(session.connected(), 1);
    }
}

#[tokio::test]
async fn an_error_of_the_server_is_tried_again_and_then_counts_as_missing() {
    let (dag, gateway, mut session) = start(Conduct::Status(500)).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::DontHave { cid, .. } if cid == dag.root));
    let seen = gateway.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[2].at - seen[1].at >= Duration::from_secs(1), "there is a pause between");
}

#[tokio::test]
async fn a_gateway_gets_the_pause_that_it_asks_for() {
    let (dag, gateway, mut session) = start(Conduct::Busy { times: 1, retry_after: "2" }).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::Block { .. }));
    let seen = gateway.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[2].at - seen[1].at >= Duration::from_secs(2));
}

#[tokio::test]
async fn one_that_asks_to_be_left_alone_is_left_alone_by_later_fetches_too() {
    let dag = Dag::wide("busy", 3, 100);
    let conduct = Conduct::Busy { times: usize::MAX - 1, retry_after: "3600" };
    let gateway = Trustless::start(blocks(&dag, |_| true), conduct).await;
    let gateways = lan();
    let mut session = gateways.open(vec![address(&gateway.plain_origin())]);
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    gone(&mut session).await;
    remarks(&session, "it answers 429 Too Many Requests and asks to wait 3600 s");
    drop(session);
    let mut later = gateways.open(vec![address(&gateway.plain_origin())]);
    let remark = remark(&mut later).await;
    assert!(remark.contains("it is left alone for another ") && remark.contains("asks to wait 3600 s"), "{remark}");
    assert_eq!(gateway.seen().len(), 2);
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let (dag, _gateway, mut session) = start(Conduct::Stalling).await;
    connected(&mut session).await;
    ask(&mut session, &[dag.root], WantKind::Block);
    assert!(matches!(event(&mut session).await, SessionEvent::DontHave { cid, .. } if cid == dag.root));
}

#[tokio::test]
async fn nobody_there_is_said_and_tried_again() {
    let gateway = Trustless::start(HashMap::new(), Conduct::Sound).await;
    let address = address(&gateway.plain_origin());
    drop(gateway);
    let mut session = until("free port", 10, async || {
        std::net::TcpListener::bind(("127.0.0.1", address.port)).is_ok().then(|| lan().open(vec![address.clone()]))
    })
    .await;
    assert!(remark(&mut session).await.contains("it can't be connected to: Connection refused"));
}

#[tokio::test]
async fn forbidden_addresses_are_never_connected_to() {
    let gateway = Trustless::start(HashMap::new(), Conduct::Sound).await;
    let port = gateway.address.port();
    let public = Gateways::new(Profile::Public, true);
    for (origin, text) in [
        (format!("/ip4/127.0.0.1/tcp/{port}/https"), "not globally routable"),
        (format!("/ip4/127.0.0.1/tcp/{port}/tls/sni/gateway.example/http"), "not globally routable"),
        (format!("/ip6/::ffff:127.0.0.1/tcp/{port}/https"), "not globally routable"),
        (format!("/dns4/localhost/tcp/{port}/https"), "not globally routable"),
        (format!("/dns4/gateway.example/tcp/{port}/http"), "plain HTTP"),
    ] {
        let remark = remark(&mut public.open(vec![address(&origin)])).await;
        assert!(remark.contains(text), "{origin}: {remark}");
    }
    assert_eq!(gateway.connections(), 0);
}

#[tokio::test]
async fn more_gateways_than_allowed_are_refused_until_others_are_done() {
    let gateways = lan();
    let many: Vec<GatewayAddress> = (0..RETRIEVAL_GATEWAYS_MAX)
        .map(|number| address(&format!("/ip4/127.0.0.1/tcp/1/http/http-path/{number}")))
        .collect();
    let one_more = address("/ip4/127.0.0.1/tcp/1/http");
    let holders = gateways.open(many);
    let mut refused = gateways.open(vec![one_more.clone()]);
    assert!(remark(&mut refused).await.contains("asks too many other gateways"));
    drop((holders, refused));
    let mut taken = gateways.open(vec![one_more]);
    assert!(remark(&mut taken).await.contains("can't be connected to"));
}

#[tokio::test]
async fn an_operator_who_wants_none_has_none_asked() {
    let gateways = Gateways::new(Profile::Lan { subnets: Vec::new() }, false);
    let mut session = gateways.open(vec![address("/ip4/127.0.0.1/tcp/1/http")]);
    // Asked, it would say that nobody is there.
    assert!(remark(&mut session).await.contains("fetch.gateways is false"));
}

#[tokio::test]
async fn without_gateways_there_is_nothing_to_hear() {
    let mut session = lan().open(Vec::new());
    let actions = vec![Action::Withdraw { peer: PeerNumber(1), cid: leaf("x", 1).0 }];
    assert_eq!(session.act(actions.clone()), actions);
    assert!(futures::poll!(std::pin::pin!(session.next())).is_pending());
    assert!(session.try_next().is_none());
    assert_eq!(session.remarks(), Vec::<String>::new());
}
