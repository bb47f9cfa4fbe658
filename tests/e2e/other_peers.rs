//! Content goes from one rust-ipfs node through pinnace to another, which never meets the first.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use rust_ipfs::builder::DefaultIpfsBuilder;
use rust_ipfs::unixfs::AddOpt;
use rust_ipfs::{Block, Ipfs, IpfsPath, Multiaddr, PeerId};

use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::{until, within};

/// A running rust-ipfs node.
struct Node {
    ipfs: Ipfs,
    peer: PeerId,
}

impl Node {
    async fn start() -> Self {
        let ipfs = DefaultIpfsBuilder::new()
            .with_identify(rust_ipfs::p2p::IdentifyConfiguration::default())
            .with_bitswap()
            .enable_tcp()
            .add_listening_addr("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .start()
            .await
            .unwrap();
        let peer = ipfs.keypair().public().to_peer_id();
        Self { ipfs, peer }
    }

    /// Its address, as a pin's origin.
    async fn origin(&self) -> String {
        let address = until("listen address", 10, async || self.ipfs.listening_addresses().await.unwrap().pop()).await;
        let text = address.to_string();
        if text.contains("/p2p/") { text } else { format!("{text}/p2p/{}", self.peer) }
    }

    async fn connect(&self, address: &str) -> PeerId {
        let address: Multiaddr = address.parse().unwrap();
        let peer = address.to_string().rsplit('/').next().unwrap().parse().unwrap();
        within("connection", 10, self.ipfs.connect(address)).await.unwrap();
        peer
    }

    async fn add_file(&self, content: &Bytes) -> Cid {
        let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(content.slice_ref(piece))).collect();
        let file = AddOpt::Stream(futures::stream::iter(pieces).boxed());
        let path: IpfsPath = self.ipfs.add_unixfs(file).await.unwrap();
        *path.root().cid().unwrap()
    }

    async fn add_dag(&self, dag: &Dag) {
        for (cid, data) in &dag.blocks {
            self.ipfs.put_block(&Block::new(*cid, data.clone()).unwrap()).await.unwrap();
        }
    }

    async fn compare_file(&self, root: Cid, content: &Bytes, from: PeerId) {
        let cat = self.ipfs.cat_unixfs(IpfsPath::from(root)).provider(from).timeout(Duration::from_secs(20));
        assert!(cat.await.unwrap() == *content, "the file differs");
    }

    async fn compare_dag(&self, dag: &Dag, from: PeerId) {
        for (cid, data) in &dag.blocks {
            let block = self.ipfs.get_block(cid).provider(from).timeout(Duration::from_secs(20)).await.unwrap();
            assert_eq!(block.data(), data, "{cid}");
        }
    }

    async fn stop(self) {
        self.ipfs.exit_daemon().await;
    }
}

fn content(bytes: usize) -> Bytes {
    (0..bytes as u64 / 8).flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_passes_through_to_another_peer() {
    let (file, dag) = (content(5_000_000), Dag::shared("shared", 20));
    let source = Node::start().await;
    let file_root = source.add_file(&file).await;
    source.add_dag(&dag).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();

    let origins = [source.origin().await];
    let pins = [api.add(&file_root, &origins).await, api.add(&dag.root, &origins).await];
    for pin in &pins {
        api.wait_pinned(pin, 25).await;
    }
    source.stop().await;

    let sink = Node::start().await;
    let peer = sink.connect(&service.ready.multiaddr("/tcp/")).await;
    sink.compare_file(file_root, &file, peer).await;
    sink.compare_dag(&dag, peer).await;
    sink.stop().await;
    assert!(service.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_can_only_dial_is_a_source() {
    let dag = Dag::shared("behind NAT", 5);
    let source = Node::start().await;
    source.add_dag(&dag).await;
    let home = Home::new();
    let service = home.start().await;
    let api = service.api();

    let pin = api.add(&dag.root, &[format!("/ip4/127.0.0.1/tcp/1/p2p/{}", source.peer)]).await;
    assert_eq!(pin["status"], "queued");
    let delegates = pin["delegates"].as_array().unwrap().iter().map(|delegate| delegate.as_str().unwrap());
    let delegate = delegates.into_iter().find(|delegate| delegate.contains("/tcp/")).expect("a delegate over TCP");
    let peer = source.connect(delegate).await;
    assert_eq!(peer.to_string(), service.ready.peer_id);
    api.wait_pinned(&pin, 20).await;
    source.stop().await;
}
