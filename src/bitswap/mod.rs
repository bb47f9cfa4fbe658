//! Bitswap as pure state machines: no sockets, no clock, no disk. `net` feeds them what arrives and carries out what
//! they ask for.
//!
//! Source of the protocol: the Bitswap specification of the IPFS standards (version 1.2.0) and boxo's implementation.

pub mod serve;
pub mod session;
pub mod wants;
pub mod wire;

/// A peer, as the cores see it: an opaque number that `net` gives to each connected peer.
///
/// Numbers aren't used again within a process, so a late event for a peer that is gone can't hit another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerNumber(pub u64);

impl PeerNumber {
    /// `net` counts from 1, and would need far longer than any process lives to get here.
    const GATEWAYS_FROM: u64 = 1 << 63;

    /// The number of a source that is no peer of `net` but a gateway; it is one fetch's own.
    pub fn of_gateway(index: u32) -> Self {
        Self(Self::GATEWAYS_FROM + u64::from(index))
    }

    /// The index of a gateway; `None` for the peers of `net`.
    pub fn gateway(self) -> Option<u32> {
        self.0.checked_sub(Self::GATEWAYS_FROM).and_then(|index| u32::try_from(index).ok())
    }
}
