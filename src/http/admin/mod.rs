//! What an operator does: accounts, tokens, keys and pins of all, and how the process is doing.
//!
//! The same handlers answer commands on this machine (`control`, below `/v1`), admins over the network (below `/api/admin`), and
//! commands that work on the data directory while no process has it ([`Offline`]).

pub mod accounts;
pub mod keys;
mod offline;
pub mod pins;
pub(super) mod process;
pub mod tokens;
pub mod webhooks;

use std::sync::Arc;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use offline::Offline;

use crate::auth::Accounts;
use crate::pins::PinService;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// The pins.
    pub pins: PinService,
}

/// Every path of it, without what comes before.
pub(super) fn routes<S>() -> OpenApiRouter<S>
where
    AdminState: FromRef<S>,
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::new()
        .routes(routes!(accounts::list, accounts::create))
        .routes(routes!(accounts::get, accounts::change, accounts::delete))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(webhooks::get, webhooks::set, webhooks::remove))
        .routes(routes!(keys::rotate))
        .routes(routes!(pins::list, pins::add))
        .routes(routes!(pins::get, pins::remove))
        .routes(routes!(pins::retry))
}
