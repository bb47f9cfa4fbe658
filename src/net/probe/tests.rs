//! Every outcome against somebody who causes it, over real sockets on loopback.

use bytes::Bytes;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{NetworkBehaviour, dummy};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::model::Block;
use crate::net::address::loopback_tcp;

/// Long enough for a busy machine, short enough for a test that waits for its end.
const SHORT: Limits = Limits { connect: Duration::from_secs(1), all: Duration::from_secs(2) };

static LAN: Profile = Profile::Lan { subnets: Vec::new() };

fn block() -> Block {
    Block::new_sha256(0x55, Bytes::from_static(b"the root")).unwrap()
}

/// A node with that behaviour, and its address with its peer id.
async fn node<B: NetworkBehaviour>(behaviour: B, listen: &str) -> (Swarm<B>, PeerId, Multiaddr) {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let (transport, _) =
        transport::build(&keypair, LAN.clone(), &crate::net::bandwidth::Bandwidth::unbounded()).unwrap();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(LIMITS.all);
    let mut swarm = Swarm::new(transport, behaviour, peer, config);
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return (swarm, peer, address.with(Part::P2p(peer)));
        }
    }
}

/// A peer that answers each message of a stranger with that.
async fn answering(mut swarm: Swarm<Bitswap>, answer: Outgoing) {
    loop {
        if let SwarmEvent::Behaviour(Event::Message(peer, _)) = swarm.select_next_some().await {
            swarm.behaviour_mut().send(peer, Lane::Blocks, answer.clone());
        }
    }
}

async fn outcome_of(answer: Outgoing) -> Reached {
    let (swarm, peer, address) = node(Bitswap::default(), "/ip4/127.0.0.1/tcp/0").await;
    tokio::select! {
        () = answering(swarm, answer) => unreachable!("a peer that answers doesn't stop"),
        reached = look(peer, &address, &LAN, *block().cid(), LIMITS) => reached.unwrap(),
    }
}

#[tokio::test]
async fn the_root_comes_over_tcp_and_quic_and_is_verified() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (swarm, peer, address) = node(Bitswap::default(), listen).await;
        let answer = Outgoing { blocks: vec![block().into_parts()], ..Outgoing::default() };
        let reached = tokio::select! {
            () = answering(swarm, answer) => unreachable!("a peer that answers doesn't stop"),
            reached = look(peer, &address, &LAN, *block().cid(), LIMITS) => reached.unwrap(),
        };
        assert_eq!(reached.protocol, Some(Protocol::V1_2), "{address}");
        assert_eq!(reached.root.as_ref().unwrap().bytes, block().data().len(), "{reached:?}");
        assert!(reached.handshake > Duration::ZERO && reached.handshake < LIMITS.connect, "{reached:?}");
    }
}

#[tokio::test]
async fn a_peer_without_the_root_is_told_from_one_that_sends_something_else() {
    let (root, other) = (*block().cid(), Block::new_sha256(0x55, Bytes::from_static(b"another")).unwrap());
    let missing = Outgoing { presences: vec![(root, Presence::DontHave)], ..Outgoing::default() };
    assert_eq!(outcome_of(missing).await.root, Err(NoRoot::Missing));
    // Under the CID of the root, which is not believed.
    let wrong = Outgoing { blocks: vec![(root, other.data().clone())], ..Outgoing::default() };
    assert_eq!(outcome_of(wrong).await.root, Err(NoRoot::WrongBlock));
}

#[tokio::test]
async fn a_peer_that_speaks_no_bitswap_is_reached() {
    let (mut swarm, peer, address) = node(dummy::Behaviour, "/ip4/127.0.0.1/tcp/0").await;
    let reached = tokio::select! {
        never = async { loop { swarm.select_next_some().await; } } => never,
        reached = look(peer, &address, &LAN, *block().cid(), LIMITS) => reached.unwrap(),
    };
    assert_eq!((reached.protocol, reached.root), (None, Err(NoRoot::NoBitswap)));
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    let (mut swarm, peer, address) = node(Bitswap::default(), "/ip4/127.0.0.1/tcp/0").await;
    let reached = tokio::select! {
        never = async { loop { swarm.select_next_some().await; } } => never,
        reached = look(peer, &address, &LAN, *block().cid(), SHORT) => reached.unwrap(),
    };
    assert!(matches!(reached.root, Err(NoRoot::TimedOut(_))), "{reached:?}");
}

async fn unreached(peer: PeerId, address: &str, profile: &Profile) -> Unreached {
    look(peer, &address.parse().unwrap(), profile, *block().cid(), SHORT).await.unwrap_err()
}

#[tokio::test]
async fn another_peer_is_not_taken_for_this_one() {
    let (mut swarm, peer, address) = node(Bitswap::default(), "/ip4/127.0.0.1/tcp/0").await;
    let expected = PeerId::random();
    let address = address::without_peer(&address).with(Part::P2p(expected));
    let outcome = tokio::select! {
        never = async { loop { swarm.select_next_some().await; } } => never,
        outcome = look(expected, &address, &LAN, *block().cid(), LIMITS) => outcome,
    };
    assert_eq!(outcome, Err(Unreached::WrongPeer(peer)));
}

#[tokio::test]
async fn why_an_address_is_not_reached_is_told() {
    let peer = PeerId::random();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", address.port());

    // Who accepts and says nothing.
    assert_eq!(unreached(peer, &text, &LAN).await, Unreached::TimedOut(SHORT.connect));
    // Who speaks something else.
    let web_server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    };
    let outcome = tokio::select! {
        never = web_server => never,
        outcome = unreached(peer, &text, &LAN) => outcome,
    };
    assert!(matches!(outcome, Unreached::Handshake(_)), "{outcome:?}");
    drop(listener);
    assert_eq!(unreached(peer, &text, &LAN).await, Unreached::Refused);
    // QUIC has no way to refuse.
    let quic = format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{peer}", address.port());
    assert_eq!(unreached(peer, &quic, &LAN).await, Unreached::TimedOut(SHORT.connect));

    let refused = unreached(peer, &text, &Profile::Public).await;
    assert!(matches!(&refused, Unreached::NotAllowed(reason) if reason.contains("not globally routable")), "{refused}");
    let elsewhere = unreached(peer, &format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}"), &LAN).await;
    assert!(matches!(elsewhere, Unreached::NotAllowed(_)), "{elsewhere}");
    let bare = unreached(peer, &format!("/p2p/{peer}"), &LAN).await;
    assert!(matches!(bare, Unreached::NotAllowed(_)), "{bare}");
}

#[test]
fn errors_of_the_transport_are_found_in_all_their_layers() {
    use libp2p::core::transport::TransportError;
    use libp2p::swarm::DialError;
    use std::io;

    let of = |error: io::Error| {
        let layered = io::Error::other(libp2p::dns::Error::Transport(io::Error::other(error)));
        let dial = DialError::Transport(vec![(loopback_tcp(), TransportError::Other(layered))]);
        Unreached::of(&dial, Duration::from_secs(7))
    };
    assert_eq!(of(io::ErrorKind::ConnectionRefused.into()), Unreached::Refused);
    assert_eq!(of(io::ErrorKind::TimedOut.into()), Unreached::TimedOut(Duration::from_secs(7)));
    assert!(matches!(of(io::ErrorKind::NetworkUnreachable.into()), Unreached::NoRoute(_)));
    assert!(matches!(of(io::Error::from_raw_os_error(1)), Unreached::Forbidden(_)));
    assert!(matches!(of(io::Error::new(io::ErrorKind::PermissionDenied, "the guard")), Unreached::NotAllowed(_)));
    assert_eq!(of(io::Error::other("something")), Unreached::Failed("something".to_owned()));
    let unresolved = libp2p::dns::Error::<io::Error>::ResolveError(libp2p::dns::ResolveError::from("no records"));
    assert!(matches!(of(io::Error::other(unresolved)), Unreached::Unresolved(_)));
}

#[test]
fn scopes_say_who_can_use_an_address() {
    for (text, expected) in [
        ("/ip4/1.1.1.1/tcp/1", Scope::Public),
        ("/ip4/10.0.0.1/udp/1/quic-v1", Scope::Private),
        ("/ip4/169.254.1.1/tcp/1", Scope::Private),
        ("/ip6/::1/tcp/1", Scope::Loopback),
        ("/ip4/192.0.2.1/tcp/1", Scope::Other),
        ("/dns4/example.org/tcp/1", Scope::Name),
        ("/dns4/nas.local/tcp/1", Scope::Private),
        ("/dns4/localhost/tcp/1", Scope::Loopback),
        ("/dns4/127.0.0.1/tcp/1", Scope::Loopback),
    ] {
        assert_eq!(Scope::of(&text.parse().unwrap()), expected, "{text}");
    }
    assert_eq!(Scope::of(&Multiaddr::empty()), Scope::Other);
}
