//! Everything that is on disk.

pub mod options;

pub use options::Options;
