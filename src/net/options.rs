//! What an operator can set about the node: section `[network]` of the configuration.

use bytesize::ByteSize;
use libp2p::Multiaddr;
use serde::{Deserialize, Deserializer, de::Error};

/// Which addresses the node may dial and announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileChoice {
    /// Public when an interface or `external` has a globally routable address, else lan.
    Auto,
    /// Private addresses are neither dialled nor announced.
    Public,
    /// Private addresses are dialled inside the subnets of the own interfaces.
    Lan,
}

/// Whether the node takes part in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtChoice {
    /// In the public profile only.
    Auto,
    /// In every profile; addresses that the DHT names are dialled as if the operator named them.
    On,
    /// Never.
    Off,
}

/// Section `[network]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where the node listens for peers.
    #[serde(deserialize_with = "multiaddrs")]
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach the node, as the operator knows.
    #[serde(deserialize_with = "multiaddrs")]
    pub external: Vec<Multiaddr>,
    /// Which addresses may be dialled and announced.
    pub profile: ProfileChoice,
    /// Whether the node takes part in the DHT.
    pub dht: DhtChoice,
    /// The peers that the DHT is entered by, each with its `/p2p/` id.
    #[serde(deserialize_with = "multiaddrs")]
    pub bootstrap: Vec<Multiaddr>,
    /// Peers that are kept connected, by addresses that end in their `/p2p/` ids.
    #[serde(deserialize_with = "multiaddrs")]
    pub peering: Vec<Multiaddr>,
    /// Whether the router is asked to forward the ports, where this machine has no globally routable address.
    pub upnp: bool,
    /// Whether places at relays are used where nobody reaches this node directly.
    pub relays: bool,
    /// Bytes a second that are sent to peers, all together; 0 for no bound.
    pub upload_max: ByteSize,
    /// Bytes a second that are read from peers, all together; 0 for no bound.
    pub download_max: ByteSize,
    /// Memory of the process in bytes beyond which nobody comes in any more; 0 for no bound.
    pub memory_max: ByteSize,
    /// Established connections, all peers together.
    pub connections_max: u32,
    /// Peers that stay connected though nobody needs them and nothing goes over their connections.
    pub quiet_connections_max: u32,
}

/// Reads a list of multiaddrs and names the one that is none.
fn multiaddrs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Multiaddr>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .into_iter()
        .map(|text| text.parse().map_err(|error| D::Error::custom(format!("\"{text}\" is not a multiaddr: {error}"))))
        .collect()
}
