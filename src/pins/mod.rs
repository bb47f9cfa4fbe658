//! The life of a pin: what clients ask for (`service`), what runs next (`schedule`), who does it (`runner`), when it goes by itself
//! (`expiry`), and who is told (`webhooks`).

pub mod board;
mod expiry;
mod finder;
pub mod options;
pub mod origins;
pub mod runner;
pub mod schedule;
pub mod service;
pub mod webhooks;

pub use options::Options;
pub use service::{
    NetworkView, OriginUse, OwnedPage, OwnedPin, Owner, PinError, PinInput, PinService, PinView, StatusCounts,
};
