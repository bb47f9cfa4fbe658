//! Fetches a DAG as pinnace does and stores nothing, for benchmarks: what is left is the network, and the other side.
//!
//!     drain WARM_CID CID MULTIADDR
//!
//! The first, small DAG makes the connection. Prints the seconds that the second took.

use std::error::Error;
use std::time::Instant;

use cid::Cid;
use libp2p::multiaddr::Protocol;
use pinnace::config::{Config, Flags, Sources};
use pinnace::dag::walk::WalkLimits;
use pinnace::fetch::core::{FetchCore, FetchLimits, Held, TICK};
use pinnace::net::{Keypair, Multiaddr, Node, NodeHandle, PeerId};
use pinnace::store::blocks::BlockStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [warm, root, address] = arguments.as_slice() else {
        return Err("usage: drain WARM_CID CID MULTIADDR".into());
    };
    let address: Multiaddr = address.parse()?;
    let Some(Protocol::P2p(peer)) = address.iter().last() else { return Err("the address names no peer".into()) };
    let listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    let config =
        Config::load(&Sources { flags: Flags { lan: true, listen, ..Flags::default() }, ..Sources::default() })?;
    let in_flight = config.fetch.bytes_in_flight_max.as_u64();
    let directory = tempfile::tempdir()?;
    // The node serves from a store; this one stays empty.
    let store = BlockStore::open(&directory.path().join("blocks.redb"), 1024 * 1024, 1024 * 1024)?;
    let node = Node::start(Keypair::generate_ed25519(), &config.network, store.reader()).await?;
    node.handle.dial(peer, vec![address]).await?;
    fetch(&node.handle, warm.parse()?, peer, in_flight).await?;
    let began = Instant::now();
    fetch(&node.handle, root.parse()?, peer, in_flight).await?;
    println!("{:.3}", began.elapsed().as_secs_f64());
    Ok(())
}

async fn fetch(node: &NodeHandle, root: Cid, peer: PeerId, in_flight: u64) -> Result<(), Box<dyn Error>> {
    let limits = FetchLimits { dag: WalkLimits::NONE, stall_timeout: std::time::Duration::from_secs(60) };
    let mut core = FetchCore::new(root, limits, Instant::now())?;
    let mut events = node.open_session(vec![peer]).await?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        while let Some(cids) = core.poll_lookup() {
            core.handle_lookup(cids.into_iter().map(|cid| (cid, Held::No)).collect())?;
        }
        let actions = core.poll_actions(Instant::now(), in_flight);
        if !actions.is_empty() {
            events.act(actions).await?;
        }
        tokio::select! {
            event = events.next() => core.handle_event(event.ok_or("the node has stopped")?, Instant::now())?,
            _ = tick.tick() => core.handle_tick(Instant::now())?,
        }
        if let Some(batch) = core.take_blocks() {
            core.handle_put(batch.blocks.len(), batch.bytes);
        }
        if core.result().is_some() {
            return Ok(());
        }
    }
}
