//! Everything that is on disk.

pub mod blocks;
pub mod datadir;
pub mod options;

pub use options::Options;
