//! Connections that nobody needs end when they are quiet, though streams of the DHT are open on them, as Kubo leaves its own.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{StreamProtocol, SwarmEvent};
use libp2p::{PeerId, Stream};
use pinnace::bitswap::wire::WantKind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::asker::Asker;
use crate::support::daemon::Home;
use crate::support::dag::leaf;
use crate::support::{streams, wire, within};

/// A node of the DHT that has asked something and leaves its stream open.
struct Neighbour {
    streams: libp2p_stream::Control,
    service: PeerId,
    /// Tells of the connection's end.
    ended: mpsc::UnboundedReceiver<()>,
    _stream: Stream,
    task: JoinHandle<()>,
}

impl Neighbour {
    async fn start(address: &str) -> Self {
        let (mut swarm, service) = streams::connected(address).await;
        let mut streams = swarm.behaviour().new_control();
        let (sender, ended) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                if let SwarmEvent::ConnectionClosed { .. } = swarm.select_next_some().await {
                    let _ = sender.send(());
                }
            }
        });
        let mut stream = streams.open_stream(service, StreamProtocol::new("/ipfs/kad/1.0.0")).await.unwrap();
        ask(&mut stream).await;
        Self { streams, service, ended, _stream: stream, task }
    }

    fn is_connected(&mut self) -> bool {
        self.ended.try_recv().is_err()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks who is near some place (`FIND_NODE`), and waits for the beginning of the answer.
async fn ask(stream: &mut Stream) {
    let question = [vec![1 << 3, 4], wire::field(2, b"a place")].concat();
    stream.write_all(&[wire::varint(question.len() as u64), question].concat()).await.unwrap();
    stream.flush().await.unwrap();
    within("an answer of the DHT", 10, stream.read_exact(&mut [0])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_peers_are_disconnected_beyond_the_mark_and_others_stay() {
    let home = Home::new();
    let service = home
        .serve()
        .env("PINNACE_NETWORK__QUIET_CONNECTIONS_MAX", "1")
        .env("PINNACE_NETWORK__DHT", "on")
        .env("PINNACE_NETWORK__BOOTSTRAP", "")
        // With an address that others know it answers them as a server.
        .env("PINNACE_NETWORK__EXTERNAL", "/ip4/127.0.0.1/udp/9/quic-v1")
        .start()
        .await;
    let address = service.ready.multiaddr("/tcp/");
    // It waits for something that nobody has, so it is needed however quiet it is.
    let mut asker = Asker::connect(&address).await;
    let mut wants = asker.open().await;
    let (missing, _) = leaf("nobody has this yet", 64);
    wire::write(&mut wants, &wire::want(missing, WantKind::Block)).await.unwrap();
    let mut quiet = [Neighbour::start(&address).await, Neighbour::start(&address).await];
    // Two minutes of quiet, and what passes until it is noticed. Which of the two was quiet longer is a matter of chance.
    let [first, second] = &mut quiet;
    let gone = within("end of a quiet connection", 150, async {
        tokio::select! {
            _ = first.ended.recv() => 0,
            _ = second.ended.recv() => 1,
        }
    });
    let left = &mut quiet[1 - gone.await];
    assert!(left.is_connected());
    // The quiet one that may stay can be used as before.
    let again = left.streams.open_stream(left.service, StreamProtocol::new("/ipfs/kad/1.0.0"));
    ask(&mut within("stream", 10, again).await.unwrap()).await;
    // And so can that of whoever waits: a connection that had ended would have taken its stream with it.
    asker.sync(&mut wants).await;
    assert!(service.terminate().await.0.success());
}
