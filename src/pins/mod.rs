//! The life of a pin.

pub mod board;
pub mod options;

pub use options::Options;
