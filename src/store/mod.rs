//! Everything that is on disk.

pub mod options;
pub mod records;

pub use options::Options;
pub use records::{Records, RecordsError};
