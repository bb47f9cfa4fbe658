//! The libp2p side.

pub mod address;
pub mod options;
pub mod profile;

pub use options::Options;
