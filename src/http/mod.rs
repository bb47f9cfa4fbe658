//! The HTTP side: the Pinning Services API, the accounts and the gateway, and the only user of axum. `control` is what
//! commands on the same machine use instead.
//!
//! `router` has the whole route table, `error` everything that clients see when a request fails. What requests mean
//! is decided in `pins` and `auth`.

mod access;
mod activity;
pub mod admin;
mod auth;
mod body;
pub mod check;
pub mod control;
mod error;
mod events;
mod forwarded;
mod front;
mod gateway;
mod health;
mod idle;
mod list_query;
pub mod metrics;
mod openapi;
pub mod options;
mod pins;
mod router;
mod security;
mod serve;
mod shares;
mod tls;
mod tokens;
mod webhook;
mod websocket;

use std::sync::Arc;

use axum::extract::FromRef;

pub use forwarded::Network;
pub use front::{Front, is_base_url, reachable};
pub use openapi::document;
pub use options::{MetricsOptions, Options};
pub use serve::serve;
pub use tls::TlsError;
pub use tokens::{Kind, MadeToken, NewToken, Scope, Token, TokenList};
pub use webhook::{LastTry, MadeWebhook, NewWebhook, Webhook};

use crate::auth::Accounts;
use crate::gateway::Gateway;
use crate::net::NodeHandle;
use crate::pins::PinService;
use admin::AdminState;
use control::ControlState;
use metrics::Requests;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// The pins.
    pub pins: PinService,
    /// What the gateway answers from; none where it is turned off.
    pub gateway: Option<Gateway>,
    /// The node to which WebSockets go; none where they are turned off.
    pub web_sockets: Option<NodeHandle>,
    /// What admins are told of the process; none where there is no node.
    pub control: Option<ControlState>,
    /// What requests are counted in.
    pub requests: Arc<Requests>,
}

impl FromRef<AppState> for Arc<Accounts> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.accounts)
    }
}

impl FromRef<AppState> for AdminState {
    fn from_ref(state: &AppState) -> Self {
        Self { accounts: Arc::clone(&state.accounts), pins: state.pins.clone() }
    }
}
