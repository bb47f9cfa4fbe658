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
