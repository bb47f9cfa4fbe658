//! The HTTP side: the Pinning Services API, the accounts and the gateway, and the only user of axum. `control` is what
//! commands on the same machine use instead.
//!
//! `router` has the whole route table, `error` everything that clients see when a request fails. What requests mean
//! is decided in `pins` and `auth`.

mod auth;
mod body;
pub mod control;
mod error;
mod gateway;
mod idle;
mod list_query;
pub mod options;
mod pins;
mod router;
mod serve;

use std::sync::Arc;

pub use options::Options;
pub use serve::serve;

use crate::auth::Accounts;
use crate::gateway::Gateway;
use crate::pins::PinService;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// The pins.
    pub pins: PinService,
    /// What the gateway answers from; none where it is turned off.
    pub gateway: Option<Gateway>,
}
