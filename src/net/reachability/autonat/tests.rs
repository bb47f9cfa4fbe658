//! Against the AutoNAT v2 server of `libp2p-autonat`, and against peers that lie.

use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p_autonat::v2::server;

use super::super::super::profile::Profile;
use super::super::super::transport;
use super::*;

static LAN: Profile = Profile::Lan { subnets: Vec::new() };

async fn node<B: NetworkBehaviour>(behaviour: B) -> (Swarm<B>, PeerId, Multiaddr) {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let (transport, _) =
        transport::build(&keypair, LAN.clone(), &crate::net::bandwidth::Bandwidth::unbounded()).unwrap();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(transport, behaviour, peer, config);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return (swarm, peer, address);
        }
    }
}

async fn run<B: NetworkBehaviour>(mut swarm: Swarm<B>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// A client that is connected with a peer of that behaviour: what opens its streams, the peer, and its own address.
async fn connected<B>(behaviour: B) -> (libp2p_stream::Control, PeerId, Multiaddr, Nonces)
where
    B: NetworkBehaviour + Send + 'static,
    B::ToSwarm: Send,
{
    let (tester, peer, at) = node(behaviour).await;
    let (mut client, _, own) = node(libp2p_stream::Behaviour::new()).await;
    tokio::spawn(run(tester));
    client.dial(DialOpts::peer_id(peer).addresses(vec![at]).build()).unwrap();
    while !client.is_connected(&peer) {
        client.select_next_some().await;
    }
    let (mut streams, nonces) = (client.behaviour().new_control(), Nonces::default());
    tokio::spawn(take_dial_backs(streams.accept(DIAL_BACK).unwrap(), nonces.clone()));
    tokio::spawn(run(client));
    (streams, peer, own, nonces)
}

#[tokio::test]
async fn a_tester_reaches_us_where_we_listen_and_nowhere_else() {
    let (streams, tester, own, nonces) = connected(server::Behaviour::default()).await;
    assert_eq!(test(streams, tester, own, nonces).await, Outcome::Reached);
    // Another one, as this tester's new connection to us is none on which it takes requests.
    let (streams, tester, _, nonces) = connected(server::Behaviour::default()).await;
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
    assert_eq!(
        test(streams, tester, closed, nonces.clone()).await,
        Outcome::Missed("it could not be dialled".to_owned())
    );
    assert!(nonces.lock().is_empty(), "no nonce is kept");
}

#[tokio::test]
async fn a_peer_that_is_no_tester_is_gone() {
    let (streams, peer, own, nonces) = connected(libp2p_stream::Behaviour::new()).await;
    assert_eq!(test(streams, peer, own, nonces).await, Outcome::Gone);
}

#[tokio::test]
async fn a_tester_that_only_says_so_has_not_reached_us() {
    let behaviour = libp2p_stream::Behaviour::new();
    let mut requests = behaviour.new_control().accept(DIAL_REQUEST).unwrap();
    let (streams, tester, own, nonces) = connected(behaviour).await;
    let liar = tokio::spawn(async move {
        let answers = [
            wire::Body::Response(wire::DialResponse { status: 200, index: 0, dial_status: 200 }),
            // More than anybody may ask for.
            wire::Body::DataRequest(wire::DialDataRequest { index: 0, bytes: DIAL_DATA_MAX + 1 }),
        ];
        for answer in answers {
            let (_, stream) = requests.next().await.unwrap();
            let mut framed = Framed::new(stream, Codec::<wire::Message, wire::Message>::new(MESSAGE_BYTES_MAX));
            framed.next().await.unwrap().unwrap();
            framed.send(answer.into()).await.unwrap();
        }
        // Neither is anything that is no message.
        let (_, mut stream) = requests.next().await.unwrap();
        stream.write_all(&[0xff; 64]).await.unwrap();
        stream.close().await.unwrap();
    });
    for _ in 0..3 {
        assert_eq!(test(streams.clone(), tester, own.clone(), nonces.clone()).await, Outcome::Declined);
    }
    liar.await.unwrap();
    assert!(!nonces.came(7), "a nonce that nobody gave");
}
