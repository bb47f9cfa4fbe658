//! Routers of the tests' own, which answer well and badly.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const PEER: &str = "12D3KooWGRUhFGu3hKQdVHzPP1LqTiFyBhVgfhZr2VfJvhzm8wDY";

/// A server that answers each request, of which it gets the head, with a status and headers, and with a body.
async fn serve(answer: fn(&str) -> (&'static str, String)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let (status, body) = answer(std::str::from_utf8(&head).unwrap());
            let length = body.len();
            let text = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    address
}

fn routers(urls: &[&str]) -> Routers {
    Routers::new(urls, Profile::Public, PeerId::random())
}

async fn ask(routers: &Routers, root: &Cid) -> (Asked, Vec<Found>) {
    let (sender, mut found) = mpsc::channel(100);
    let asked = routers.ask(0, root, &sender).await;
    drop(sender);
    (asked, std::iter::from_fn(|| found.try_recv().ok()).collect())
}

fn root() -> Cid {
    "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n".parse().unwrap()
}

#[test]
fn an_endpoint_is_what_comes_before_the_version() {
    for (text, expected) in [
        ("https://a.example", Some("https://a.example/routing/v1/providers/")),
        ("https://a.example/", Some("https://a.example/routing/v1/providers/")),
        ("http://10.0.0.1:8080/deep/", Some("http://10.0.0.1:8080/deep/routing/v1/providers/")),
        ("https://a.example/routing/v1", Some("https://a.example/routing/v1/providers/")),
        ("https://a.example/?key=1", None),
        ("ftp://a.example", None),
        ("a.example", None),
        ("", None),
    ] {
        assert_eq!(base(text).map(|url| url.to_string()).as_deref(), expected, "{text}");
        assert_eq!(is_endpoint(text), expected.is_some(), "{text}");
    }
    assert!(is_endpoint(options::AUTO));
}

#[tokio::test]
async fn whoever_is_named_at_addresses_of_the_public_network_is_found() {
    let address = serve(|head| {
        let cid = Cid::new_v1(root().codec(), *root().hash());
        assert!(head.starts_with(&format!("GET /deep/routing/v1/providers/{cid}?")), "version 1: {head}");
        assert!(head.lines().next().unwrap().contains("transport-ipfs-gateway-http"), "{head}");
        assert!(head.contains("accept: application/x-ndjson"), "{head}");
        let other = PeerId::random();
        let lines = [
            format!(r#"{{"Schema":"peer","ID":"{PEER}","Addrs":["/ip4/8.8.8.8/tcp/4001","/ip4/10.0.0.1/tcp/4001","/ip4/8.8.8.8/tcp/1/p2p/{other}"]}}"#),
            format!(r#"{{"Schema":"peer","ID":"{PEER}"}}"#),
            format!(r#"{{"Schema":"peer","ID":"{other}","Addrs":["/ip4/192.168.1.1/tcp/4001"]}}"#),
            format!(r#"{{"Schema":"peer","ID":"{PEER}","Addrs":["/dns4/gateway.example.org/tcp/443/https"],"Protocols":["transport-ipfs-gateway-http"]}}"#),
        ];
        ("200 OK\r\ncontent-type: application/x-ndjson", lines.join("\n"))
    })
    .await;
    let (asked, found) = ask(&routers(&[&format!("http://{address}/deep")]), &root()).await;
    let peer: PeerId = PEER.parse().unwrap();
    let dialled: Multiaddr = format!("/ip4/8.8.8.8/tcp/4001/p2p/{PEER}").parse().unwrap();
    let gateway = GatewayAddress::parse("/dns4/gateway.example.org/tcp/443/https").unwrap().unwrap().0;
    assert_eq!(found, [Found::Peer(peer, vec![dialled]), Found::Peer(peer, Vec::new()), Found::Gateway(gateway)]);
    assert_eq!(asked, Asked { is_heard: true, sentence: "127.0.0.1 names 3 who have it".to_owned() });
}

#[tokio::test]
async fn who_names_nobody_is_heard_and_who_fails_is_left_alone() {
    let address = serve(|head| {
        let path = head.split(['/', ' ']).nth(2).unwrap();
        match path {
            "none" => ("404 Not Found", String::new()),
            "empty" => ("200 OK\r\ncontent-type: application/json", r#"{"Providers":null}"#.to_owned()),
            "page" => ("200 OK\r\ncontent-type: text/html", "<p>hello".to_owned()),
            "broken" => ("200 OK\r\ncontent-type: application/json", "{".to_owned()),
            "busy" => ("429 Too Many Requests\r\nretry-after: 100", String::new()),
            "away" => ("308 Permanent Redirect\r\nlocation: /none", String::new()),
            path => panic!("{path} was asked for"),
        }
    })
    .await;
    for (path, is_heard, says) in [
        ("none", true, "127.0.0.1 answered, and knows nobody who has it"),
        ("empty", true, "127.0.0.1 answered, and knows nobody who has it"),
        ("page", false, "neither JSON nor lines"),
        ("broken", false, "isn't what the Delegated Routing"),
        ("busy", false, "it answers 429 Too Many Requests"),
        ("away", false, "it answers 308 Permanent Redirect"),
    ] {
        let routers = routers(&[&format!("http://{address}/{path}")]);
        let (asked, found) = ask(&routers, &root()).await;
        assert!(asked.is_heard == is_heard && asked.sentence.contains(says), "{path}: {asked:?}");
        assert_eq!(found, []);
        let (again, _) = ask(&routers, &root()).await;
        assert_eq!(again.sentence.ends_with("it is asked again later"), !is_heard, "{path}: {again:?}");
        let until = routers.all[0].rest.lock().unwrap().until;
        let waits = until.map(|until| until.saturating_duration_since(Instant::now()));
        assert_eq!(waits.is_some_and(|wait| wait > 2 * REST_MIN), path == "busy", "{path}: {waits:?}");
    }
    let gone = routers(&["http://127.0.0.1:9"]);
    let (asked, _) = ask(&gone, &root()).await;
    assert!(asked.sentence.starts_with("127.0.0.1: it can't be connected to"), "{asked:?}");
}

#[test]
fn a_router_that_goes_on_failing_is_asked_less_and_less() {
    let routers = routers(&["http://127.0.0.1:9"]);
    let router = &routers.all[0];
    let mut waits = Vec::new();
    for _ in 0..8 {
        router.has_failed(Trouble::new("no".to_owned()));
        router.has_failed(Trouble::new("another that was asked meanwhile".to_owned()));
        let mut rest = router.rest.lock().unwrap();
        waits.push(rest.lately.as_secs());
        rest.until = None;
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    router.has_answered();
    assert_eq!(router.rests(), None);
    router.has_failed(Trouble { reason: "busy".to_owned(), after: Some(Duration::from_hours(9)) });
    let until = router.rest.lock().unwrap().until.unwrap();
    assert!(until <= Instant::now() + REST_MAX);
}
