//! The HTTP side.

pub mod options;

pub use options::Options;
