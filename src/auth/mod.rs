//! Accounts.

pub mod options;

pub use options::Options;
