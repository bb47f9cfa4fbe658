//! Shared values without I/O: what a block, a pin and a CID are, and the bounds that everything keeps.
//!
//! Every other module may use this one; it uses none of them.

pub mod block;
pub mod cids;
pub mod limits;
pub mod pin;
pub mod protobuf;
pub mod query;
pub mod spare;
pub mod sub_dag;
pub mod time;
pub mod traffic;

pub use block::{Block, BlockError};
pub use cids::{CidError, ContentKey};
pub use pin::{Failure, FailureCode, PinId, PinRecord, PinState, UserId};
pub use sub_dag::SubDag;
pub use traffic::Traffic;
