//! A peer that speaks nothing by itself: it opens streams of whatever protocol a test names.

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};

use super::within;

/// A new one that has connected with whoever is at this address, and who that is.
pub async fn connected(address: &str) -> (Swarm<libp2p_stream::Behaviour>, PeerId) {
    let address: Multiaddr = address.parse().unwrap();
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .build();
    swarm.dial(address).unwrap();
    let peer = within("connection", 10, async {
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
                return peer_id;
            }
        }
    });
    let peer = peer.await;
    (swarm, peer)
}
