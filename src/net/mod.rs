//! The libp2p side.

pub mod options;

pub use options::Options;
