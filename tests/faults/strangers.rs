//! Strangers who want all the room that there is: places for connections, streams, and records of the DHT.

use std::net::SocketAddr;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::asker::Asker;
use crate::support::daemon::{Daemon, Home, run};
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::{streams, wire, within};

/// Connections that are made at once: more than there are places for half-open ones.
const HALF_OPEN: usize = 600;

/// Half of the places, which one machine may have.
const HALF_OPEN_OF_ONE_MACHINE: usize = 128;

/// Streams of the DHT's protocol, and records on each: more than are kept.
const STREAMS: usize = 30;
const RECORDS_PER_STREAM: u32 = 10_000;

/// More than a debug build with all its caches and 262,144 records takes.
#[cfg(target_os = "linux")]
const MEMORY_MAX: u64 = 400 * 1024 * 1024;

/// Others notice nothing: a bystander is answered, and a pin is made.
async fn check(service: Daemon) {
    let mut bystander = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    bystander.check().await;
    let dag = Dag::wide("beside a flood", 3, 1_000);
    let provider = Provider::start(&dag).await;
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pin, 10).await;
    bystander.compare(&dag).await;
    #[cfg(target_os = "linux")]
    assert!(service.memory_peak() < MEMORY_MAX, "{} bytes at the peak", service.memory_peak());
    let (status, _) = service.terminate().await;
    assert!(status.success(), "{status}");
}

/// The socket address of a multiaddr.
fn socket(multiaddr: &str) -> SocketAddr {
    let parts: Vec<&str> = multiaddr.split('/').collect();
    format!("{}:{}", parts[2], parts[4]).parse().unwrap()
}

// Other systems have only one address for this machine.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_crowd_of_half_open_connections_of_one_machine_leaves_room_for_others() {
    let home = Home::new();
    let service = home.start().await;
    let to = socket(&service.ready.multiaddr("/tcp/"));
    let mut waiting = Vec::new();
    for _ in 0..HALF_OPEN {
        let from = TcpSocket::new_v4().unwrap();
        from.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        waiting.push(within("connection", 10, from.connect(to)).await.unwrap());
    }
    // None of them says anything. Those beyond the bound are ended at once, so all were looked at when enough have ended.
    let mut ended: futures::stream::FuturesUnordered<_> = waiting
        .into_iter()
        .map(|mut each: TcpStream| async move {
            let mut said = [0; 256];
            while matches!(each.read(&mut said).await, Ok(1..)) {}
            each
        })
        .collect();
    for _ in HALF_OPEN_OF_ONE_MACHINE..HALF_OPEN {
        within("end of a connection", 5, ended.next()).await.unwrap();
    }
    check(service).await;
    drop(ended);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nobody_comes_in_while_too_much_memory_is_taken_and_pins_go_on() {
    let home = Home::new();
    // Less than it takes in any case.
    let service = home.serve().env("PINNACE_NETWORK__MEMORY_MAX", "16MiB").start().await;
    let mut refused = TcpStream::connect(socket(&service.ready.multiaddr("/tcp/"))).await.unwrap();
    let mut said = Vec::new();
    // It may be ended without a farewell.
    within("end of a connection", 5, refused.read_to_end(&mut said)).await.ok();
    assert_eq!(said, b"", "somebody answered");
    let dag = Dag::wide("with little memory", 3, 1_000);
    let provider = Provider::start(&dag).await;
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pin, 10).await;
    let status = run(&["status", "--json"], &home.data());
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("network.memory_max"), "{status}");
}

/// An `ADD_PROVIDER` message, with its length.
fn add_provider(number: u32, provider: &PeerId, address: &Multiaddr) -> Vec<u8> {
    // SHA2-256, as many bytes, and a hash that nothing has.
    let key = [&[0x12, 32][..], &[7; 28], &number.to_be_bytes()].concat();
    let peer = [wire::field(1, &provider.to_bytes()), wire::field(2, address.as_ref())].concat();
    let body = [vec![1 << 3, 2], wire::field(2, &key), wire::field(9, &peer)].concat();
    [wire::varint(body.len() as u64), body].concat()
}

#[tokio::test]
async fn a_flood_of_provider_records_and_streams_is_bounded() {
    let home = Home::new();
    let service = home
        .serve()
        .env("PINNACE_NETWORK__DHT", "on")
        .env("PINNACE_NETWORK__BOOTSTRAP", "")
        // With an address that others know it answers them as a server.
        .env("PINNACE_NETWORK__EXTERNAL", "/ip4/127.0.0.1/udp/9/quic-v1")
        .start()
        .await;
    let (mut swarm, server) = streams::connected(&service.ready.multiaddr("/tcp/")).await;
    let own = *swarm.local_peer_id();
    let mut streams = swarm.behaviour().new_control();
    let swarm = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let address: Multiaddr = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
    let mut open = Vec::new();
    for stream in 0..u32::try_from(STREAMS).unwrap() {
        let mut stream_of_records = streams.open_stream(server, StreamProtocol::new("/ipfs/kad/1.0.0")).await.unwrap();
        let first = stream * RECORDS_PER_STREAM;
        let mut records = Vec::new();
        for number in first..first + RECORDS_PER_STREAM {
            records.extend(add_provider(number, &own, &address));
        }
        within("a stream of records", 60, stream_of_records.write_all(&records)).await.unwrap();
        stream_of_records.flush().await.unwrap();
        open.push(stream_of_records);
    }
    // A question on the last stream is answered after all that came before it.
    let mut last = open.pop().unwrap();
    let question = [vec![1 << 3, 4], wire::field(2, b"a place")].concat();
    last.write_all(&[wire::varint(question.len() as u64), question].concat()).await.unwrap();
    last.flush().await.unwrap();
    within("an answer of the DHT", 60, last.read_exact(&mut [0])).await.unwrap();
    // As many streams as the service lets one peer open, of whatever it speaks; those that it refuses don't come to be.
    for protocol in ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/bitswap/1.2.0", "/ipfs/kad/1.0.0"] {
        for _ in 0..100 {
            let opened = tokio::time::timeout(
                std::time::Duration::from_secs(2),
                streams.open_stream(server, StreamProtocol::new(protocol)),
            );
            match opened.await {
                Ok(Ok(stream)) => open.push(stream),
                _ => break,
            }
        }
    }
    check(service).await;
    swarm.abort();
}
