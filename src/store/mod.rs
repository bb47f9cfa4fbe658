//! Everything that is on disk: blocks, records, and the directory that holds both.

pub mod blocks;
mod database;
pub mod datadir;
pub mod gc;
pub mod options;
pub mod records;
mod room;
mod stores;

pub use options::Options;
pub use records::{Records, RecordsError};
pub use stores::{Stores, StoresError};
