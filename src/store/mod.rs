//! Everything that is on disk: blocks, records, and the directory that holds both.

pub mod backup;
pub mod blocks;
mod database;
pub mod datadir;
mod disk;
pub mod gc;
pub mod options;
pub mod records;
pub mod restore;
mod room;
mod stores;
pub mod upkeep;
pub mod verify;

pub use options::Options;
pub use records::{Records, RecordsError};
pub use room::NoRoom;
pub use stores::{StoppedRecords, Stores, StoresError};

#[cfg(test)]
mod power_tests;
