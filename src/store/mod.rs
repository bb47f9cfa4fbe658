//! Everything that is on disk.

pub mod blocks;
pub mod datadir;
pub mod options;
pub mod records;

pub use options::Options;
pub use records::{Records, RecordsError};
