//! Whether others can fetch a pin: the command and the route, against addresses that work and such that don't.

use std::process::{Command, Output, Stdio};

use cid::Cid;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::api::Api;
use crate::support::daemon::{Daemon, Home};
use crate::support::dag::{Dag, leaf};
use crate::support::provider::Provider;
use crate::support::{until, within};

const BITSWAP: &str = "/ipfs/bitswap/1.2.0";

/// Runs a command of pinnace on the data directory; the password is for who asks for one.
async fn pinnace(home: &Home, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PINNACE_")) {
        command.env_remove(name);
    }
    command.args(arguments).arg("--data").arg(home.data());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // Most of them don't read it.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a long password\n");
        child.wait_with_output().unwrap()
    });
    within("end of the command", 30, run).await.unwrap()
}

/// The JSON of `pinnace check`, which ends with that status.
async fn check(home: &Home, cid: &Cid, status: i32) -> Value {
    let output = pinnace(home, &["check", &cid.to_string(), "--json"]).await;
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What was found at the address over a transport (or with another part): one of them.
#[track_caller]
fn at<'a>(check: &'a Value, part: &str) -> &'a Value {
    let addresses = check["addresses"].as_array().unwrap();
    let found = addresses.iter().find(|address| address["address"].as_str().unwrap().contains(part));
    found.unwrap_or_else(|| panic!("no {part} in {check}"))
}

/// The address gave the root.
#[track_caller]
fn works(address: &Value) {
    assert_eq!((&address["reached"], &address["root_verified"]), (&json!(true), &json!(true)), "{address}");
    assert_eq!((&address["protocol"], &address["scope"]), (&json!(BITSWAP), &json!("loopback")));
    assert!(address["handshake_ms"].as_f64().unwrap() > 0.0 && address["block_ms"].as_f64().is_some(), "{address}");
    assert!(address.get("failure").is_none(), "{address}");
}

#[track_caller]
fn sentence<'a>(value: &'a Value, part: &str) -> &'a str {
    let text = value.as_str().unwrap();
    assert!(text.contains(part), "\"{part}\" is not in: {text}");
    text
}

async fn pinned(service: &Daemon, dag: &Dag) -> Value {
    let provider = Provider::start(dag).await;
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pin, 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_can_be_fetched_over_every_address() {
    let dag = Dag::wide("checked", 3, 5_000);
    let home = Home::new();
    let service = home.start().await;
    let pin = pinned(&service, &dag).await;

    let answer = check(&home, &dag.root, 0).await;
    assert_eq!(answer["addresses"].as_array().unwrap().len(), 2, "{answer}");
    for transport in ["/tcp/", "/quic-v1"] {
        let address = at(&answer, transport);
        works(address);
        assert_eq!(address["address"], service.ready.multiaddr(transport));
        assert_eq!(address["source"], "listening");
    }
    let verdict = sentence(&answer["verdict"], "reachable over 2 of 2 addresses; the root came in ");
    // Loopback is for nobody else.
    assert!(verdict.contains("on other machines"), "{verdict}");
    assert_eq!((&answer["fetchable"], &answer["held"]), (&json!(true), &json!("whole")));
    assert_eq!((&answer["pin"]["id"], &answer["pin"]["status"]), (&pin["requestid"], &json!("pinned")));
    assert_eq!(answer["cid"], dag.root.to_string());
    sentence(&answer["provider_record"], "takes no part in the DHT");
    sentence(&answer["caveat"], "can't show that a firewall");
    sentence(&answer["caveat"], "public: none; loopback, for this machine only: /ip4/127.0.0.1/");

    let output = pinnace(&home, &["check", &dag.root.to_string()]).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("reachable over 2 of 2 addresses"), "{text}");
    assert_eq!(text.lines().skip(1).take(2).filter(|line| line.starts_with("  ok  /ip4/127.0.0.1/")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_held_is_said_not_to_be() {
    let home = Home::new();
    let service = home.start().await;
    let (absent, _) = leaf("nobody has this", 64);

    let answer = check(&home, &absent, 1).await;
    sentence(&answer["verdict"], "not held");
    assert_eq!((&answer["fetchable"], &answer["held"]), (&json!(false), &json!("nothing")));
    assert!(answer.get("pin").is_none(), "{answer}");
    for transport in ["/tcp/", "/quic-v1"] {
        let address = at(&answer, transport);
        assert_eq!((&address["reached"], &address["failure"]), (&json!(true), &json!("root_missing")), "{address}");
    }
    let output = pinnace(&home, &["check", &absent.to_string()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("not held"));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&absent.to_string()));

    // A pin that waits says why.
    service.api().add(&absent, &[]).await;
    let answer = check(&home, &absent, 1).await;
    sentence(&answer["verdict"], "not held: the pin is ");
    assert!(["queued", "pinning"].contains(&answer["pin"]["status"].as_str().unwrap()), "{answer}");

    // An identity CID is its own content, and nobody is dialled.
    let inline = Cid::new_v1(0x55, cid::multihash::Multihash::wrap(0, b"in the CID").unwrap());
    let answer = check(&home, &inline, 0).await;
    sentence(&answer["verdict"], "nothing needs to be fetched");
    assert_eq!((&answer["held"], &answer["addresses"]), (&json!("inline"), &json!([])));

    let output = pinnace(
        &home,
        &["check", &Cid::new_v1(0x55, cid::multihash::Multihash::wrap(0x9999, &[1; 32]).unwrap()).to_string()],
    )
    .await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("0x9999"));
}

/// `GET /api/pins/{id}/check`
async fn get(service: &Daemon, id: &str, token: &str) -> reqwest::Response {
    let url = service.ready.endpoint.replace("/api/psa/", &format!("/api/pins/{id}/check"));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(url);
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    within("answer", 30, request.send()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_check_their_pins_and_no_others() {
    let dag = Dag::wide("owned", 2, 1_000);
    let home = Home::new();
    let service = home.start().await;
    let pin = pinned(&service, &dag).await;
    let id = pin["requestid"].as_str().unwrap();
    assert!(pinnace(&home, &["user", "add", "other@example.org"]).await.status.success());
    let other = pinnace(&home, &["token", "create", "laptop", "--user", "other@example.org"]).await;
    let other = String::from_utf8(other.stdout).unwrap().trim().to_owned();

    let answer = get(&service, id, service.ready.token()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.unwrap();
    for transport in ["/tcp/", "/quic-v1"] {
        works(at(&answer, transport));
    }
    assert_eq!(
        (&answer["held"], &answer["pin"]["id"], &answer["cid"]),
        (&json!("whole"), &json!(id), &pin["pin"]["cid"])
    );

    assert_eq!(get(&service, id, &other).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&service, "none", &other).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&service, id, "").await.status(), StatusCode::UNAUTHORIZED);
    // The other account's pin of the same content is its own.
    let own = Api::new(&service.ready.endpoint, &other).add(&dag.root, &[]).await;
    let answer = get(&service, own["requestid"].as_str().unwrap(), &other).await;
    assert_eq!(answer.json::<Value>().await.unwrap()["pin"]["id"], own["requestid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_nowhere_are_named_with_the_reason() {
    let dag = Dag::wide("unreachable", 2, 1_000);
    // Bound, so that nobody else gets the port, but not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nobody = format!("/ip4/127.0.0.1/tcp/{}", socket.local_addr().unwrap().as_socket().unwrap().port());
    let stranger = Provider::start(&dag).await;
    let elsewhere = stranger.origin().rsplit_once("/p2p/").unwrap().0.to_owned();
    let external = format!("{nobody},{elsewhere}");

    let home = Home::new();
    let service = home.serve().env("PINNACE_NETWORK__EXTERNAL", &external).start().await;
    pinned(&service, &dag).await;
    let answer = check(&home, &dag.root, 0).await;
    sentence(&answer["verdict"], "reachable over 2 of 4 addresses");
    let refused = at(&answer, &nobody);
    assert_eq!(
        (&refused["reached"], &refused["failure"], &refused["source"]),
        (&json!(false), &json!("refused"), &json!("external"))
    );
    sentence(&refused["details"], "nothing listens there");
    let wrong = at(&answer, &elsewhere);
    assert_eq!((&wrong["reached"], &wrong["failure"]), (&json!(false), &json!("wrong_peer")));
    sentence(&wrong["details"], stranger.origin().rsplit_once('/').unwrap().1);
    for transport in ["/tcp/", "/quic-v1"] {
        let multiaddrs = service.ready.multiaddrs.iter();
        let own = multiaddrs.filter(|own| !own.contains(&nobody) && !own.contains(&elsewhere));
        let own = own.into_iter().find(|own| own.contains(transport)).unwrap();
        works(at(&answer, own));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_two_checks_run_and_those_that_nobody_waits_for_end() {
    // Who accepts and then says nothing holds a check up for ten seconds.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let external = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let home = Home::new();
    let service = home.serve().env("PINNACE_NETWORK__EXTERNAL", &external).start().await;
    let (absent, _) = leaf("nobody has this", 64);
    let pin = service.api().add(&absent, &[]).await;
    let id = pin["requestid"].as_str().unwrap();
    let accept = async || within("connection of a check", 10, listener.accept()).await.unwrap();

    let running = async {
        tokio::join!(get(&service, id, service.ready.token()), get(&service, id, service.ready.token()));
    };
    let refused = async {
        let _connections = (accept().await, accept().await);
        let output = pinnace(&home, &["check", &absent.to_string()]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("try again in 5 s"));
        let refused = get(&service, id, service.ready.token()).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "5");
    };
    tokio::select! {
        () = running => panic!("the checks ended before their time"),
        () = refused => {}
    }
    // Both hung up, so there is room again.
    let again = async || {
        tokio::select! {
            answer = get(&service, id, service.ready.token()) => {
                assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
                None
            }
            _connection = accept() => Some(()),
        }
    };
    until("room for a check", 10, again).await;
}
