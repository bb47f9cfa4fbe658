//! Servers of the DHT that want to hide who has something: they name peers of their own making, all nearer to it than any
//! honest server, which can be connected to and never say a word.

use std::time::Duration;

use futures::{AsyncReadExt, StreamExt};
use libp2p::kad::store::{MemoryStore, RecordStore};
use libp2p::kad::{self, KBucketKey, ProviderRecord, RecordKey};
use libp2p::swarm::{StreamProtocol, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::net::TcpListener;

use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::wire::{field, framed, write_bytes};
use crate::support::within;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// Honest servers, those of them that the service knows at first, and those that have the record: as many as a provider tells.
const HONEST: usize = 60;
const ENTRANCES: usize = 10;
const TOLD: usize = 20;

/// Liars, all of which the service knows, and the peers that each of them names.
const LIARS: usize = 10;
const MADE_UP: usize = 40;

/// Time enough for some connections that come to nothing, and less than it takes to try all that are made up.
const SECONDS: u64 = 45;

async fn listening<B: libp2p::swarm::NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    within("address", 10, async {
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                return address;
            }
        }
    })
    .await
}

fn run<B: libp2p::swarm::NetworkBehaviour<ToSwarm: Send> + Send>(mut swarm: Swarm<B>) {
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
}

/// A server that does as the specification says.
async fn honest() -> (Swarm<kad::Behaviour<MemoryStore>>, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|keypair| {
            let own = keypair.public().to_peer_id();
            kad::Behaviour::with_config(own, MemoryStore::new(own), kad::Config::new(PROTOCOL))
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    swarm.behaviour_mut().set_mode(Some(kad::Mode::Server));
    let address = listening(&mut swarm).await;
    (swarm, address)
}

/// A server that answers each question with these peers. Returns where it is.
async fn liar(answer: Vec<u8>) -> Multiaddr {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    let mut streams = swarm.behaviour().new_control().accept(PROTOCOL).unwrap();
    let address = listening(&mut swarm).await.with_p2p(*swarm.local_peer_id()).unwrap();
    run(swarm);
    tokio::spawn(async move {
        while let Some((_, mut stream)) = streams.next().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                while let Ok(1..) = stream.read(&mut question).await {
                    // The questions are short, so each comes whole; its kind is the answer's.
                    let kind = question.windows(2).find(|two| two[0] == 1 << 3).map_or(4, |two| two[1]);
                    let body = [&[1 << 3, kind][..], &answer].concat();
                    if write_bytes(&mut stream, &framed(&body)).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_around_a_cid_do_not_hide_who_has_it() {
    let dag = Dag::wide("surrounded", 3, 1_000);
    let provider = Provider::start(&dag).await;
    let place = RecordKey::new(&dag.root.hash().to_bytes());
    let target = KBucketKey::new(place.clone());
    let distance = |peer: &PeerId| KBucketKey::from(*peer).distance(&target);

    let mut servers = Vec::new();
    for _ in 0..HONEST {
        servers.push(honest().await);
    }
    servers.sort_by_cached_key(|(swarm, _)| distance(swarm.local_peer_id()));
    let known: Vec<(PeerId, Multiaddr)> =
        servers.iter().map(|(swarm, address)| (*swarm.local_peer_id(), address.clone())).collect();
    let nearest = distance(&known[0].0);
    for (index, (mut swarm, _)) in servers.into_iter().enumerate() {
        for (peer, address) in &known {
            swarm.behaviour_mut().add_address(peer, address.clone());
        }
        if index < TOLD {
            let (id, at) = (provider.peer.id, provider.peer.address.clone());
            let record = ProviderRecord { expires: None, ..ProviderRecord::new(place.clone(), id, vec![at]) };
            swarm.behaviour_mut().store_mut().add_provider(record).unwrap();
        }
        run(swarm);
    }

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port()).parse().unwrap();
    let nearer = std::iter::repeat_with(PeerId::random).filter(|peer| distance(peer) < nearest);
    let made_up: Vec<PeerId> = nearer.take(LIARS * MADE_UP).collect();
    // Those who have the record are asked only once others have named them.
    let honest = known.iter().rev().take(ENTRANCES).map(|(peer, at)| at.clone().with_p2p(*peer).unwrap());
    let mut entrances: Vec<String> = honest.map(|address| address.to_string()).collect();
    for named in made_up.chunks(MADE_UP) {
        let peer = |peer: &PeerId| field(8, &[field(1, &peer.to_bytes()), field(2, address.as_ref())].concat());
        entrances.push(liar(named.iter().flat_map(peer).collect()).await.to_string());
    }

    let home = Home::new();
    let service = home
        .serve()
        .env("PINNACE_NETWORK__DHT", "on")
        .env("PINNACE_NETWORK__BOOTSTRAP", &entrances.join(","))
        .start()
        .await;
    let pin = service.api().add(&dag.root, &[]).await;
    service.api().wait_pinned(&pin, SECONDS).await;
    drop(silent);
}
