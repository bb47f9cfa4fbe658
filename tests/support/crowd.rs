//! Many peers that are connected and want what isn't there, for benchmarks.
//!
//!     crowd MULTIADDR COUNT
//!
//! Each peer asks for a block of its own that nobody has. Prints how many are connected, and ends with its standard input.

use std::error::Error;
use std::io;

use libp2p::multiaddr::Protocol;
use pinnace::bitswap::session::Action;
use pinnace::bitswap::wire::WantKind;
use pinnace::config::{Config, Flags, Sources};
use pinnace::model::Block;
use pinnace::net::{Keypair, Multiaddr, Node, SessionEvent};
use pinnace::store::blocks::BlockStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, count] = arguments.as_slice() else { return Err("usage: crowd MULTIADDR COUNT".into()) };
    let address: Multiaddr = address.parse()?;
    let Some(Protocol::P2p(peer)) = address.iter().last() else { return Err("the address names no peer".into()) };
    let listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    let config =
        Config::load(&Sources { flags: Flags { lan: true, listen, ..Flags::default() }, ..Sources::default() })?;
    let directory = tempfile::tempdir()?;
    let store = BlockStore::open(&directory.path().join("blocks.redb"), 1024 * 1024, 1024 * 1024)?;
    let mut peers = Vec::new();
    for number in 0..count.parse::<u64>()? {
        let node = Node::start(Keypair::generate_ed25519(), &config.network, store.reader()).await?;
        node.handle.dial(peer, vec![address.clone()]).await?;
        let mut session = node.handle.open_session(vec![peer]).await?;
        let missing = Block::new_sha256(0x55, number.to_be_bytes().to_vec().into())?;
        loop {
            match session.next().await.ok_or("the node has stopped")? {
                SessionEvent::PeerConnected { peer, .. } => {
                    let ask = Action::Ask { peer, cid: *missing.cid(), kind: WantKind::Block };
                    session.act(vec![ask]).await?;
                }
                // It was asked, and remembers.
                SessionEvent::DontHave { .. } => break,
                _ => {}
            }
        }
        peers.push((node, session));
    }
    println!("{}", peers.len());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
