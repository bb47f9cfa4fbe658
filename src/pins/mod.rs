//! The life of a pin: what clients ask for (`service`), what runs next (`schedule`), and who does it (`runner`).

pub mod board;
pub mod options;
pub mod origins;
pub mod runner;
pub mod schedule;
pub mod service;

pub use options::Options;
pub use service::{NetworkView, OriginUse, OwnedPage, OwnedPin, PinError, PinInput, PinService, PinView, StatusCounts};
