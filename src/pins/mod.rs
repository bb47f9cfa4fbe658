//! The life of a pin.

pub mod board;
pub mod options;
pub mod query;
pub mod service;

pub use options::Options;
pub use service::{NetworkView, PinError, PinInput, PinPage, PinService, PinView};
