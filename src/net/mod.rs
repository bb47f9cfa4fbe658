//! The libp2p side: the node, its protocols, and which addresses it may dial and announce.
//!
//! The only module that uses libp2p. It holds a `BlockReader`, so nothing that comes from a peer can reach the disk
//! through it.

pub mod address;
pub mod bandwidth;
pub mod gateway_address;
pub mod memory;
pub mod options;
pub mod probe;
pub mod profile;
pub mod reachability;
pub mod websocket;

mod behaviour;
mod buffers;
mod corked;
mod crowding;
mod dht;
mod handle;
mod handler;
mod listening;
mod node;
mod pings;
mod port_mapping;
mod problem;
mod quota;
mod relays;
mod repolled;
mod security;
mod serve;
mod session;
mod tls;
mod transport;
#[cfg(target_os = "linux")]
mod udp_buffers;

pub use dht::announce::AnnounceError;
pub use dht::{DhtStatus, ProviderNews, Server};
pub use gateway_address::GatewayAddress;
pub use handle::{NodeEvent, NodeGone, NodeHandle, NodeStatus};
pub use libp2p::identity::Keypair;
pub use libp2p::{Multiaddr, PeerId};
pub use node::{Extras, Node, NodeError};
pub use options::{DhtChoice, Options};
pub use session::{SessionEvent, SessionHandle};
