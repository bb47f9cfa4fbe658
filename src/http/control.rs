//! What commands on the same machine ask of the running process, over a unix socket in the data directory.
//!
//! The socket's file permissions are the only authorisation: whoever may connect could read and write the data directory
//! as well. Errors have the shape of the API's. The paths begin with `/v1`, since the command and the process may be of
//! different versions while one is being upgraded: fields are only ever added.

mod backup;
mod car;
mod frames;
mod gc;
mod reachability;
#[cfg(unix)]
mod socket;
pub(super) mod status;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use tower_http::catch_panic::CatchPanicLayer;

pub use backup::Backup;
pub use car::{ImportedPin, Imports};
pub use frames::{Frame, FrameReader, NoFrame};
pub use gc::Gc;
pub use reachability::{ReachabilityState, RouterState, Standing, TestedAddress, TestedSource, TestedState};
#[cfg(unix)]
pub use socket::ControlSocket;
pub use status::{
    Addresses, DenylistState, DhtState, NodeState, PeeringState, PinNumbers, Status, StoreSizes, Verification,
};
pub use verify::{DamagedPin, Verify};

use super::admin::{self, AdminState};
use super::check;
use super::error::{self, ApiError};
use super::front::Front;
use super::router::panicked;
use crate::auth::Accounts;
use crate::denylist::Denylist;
use crate::model::Traffic;
use crate::net::NodeHandle;
use crate::net::probe::Prober;
use crate::pins::PinService;
use crate::provide::Provider;
use crate::store::backup::Backups;
use crate::store::blocks::{BlockReader, BlockWriter};
use crate::store::gc::GarbageCollector;
use crate::store::verify::Verifier;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct ControlState {
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// Blocks that were fetched.
    pub fetched: Arc<Traffic>,
    /// The pins.
    pub pins: PinService,
    /// The node.
    pub node: NodeHandle,
    /// What looks at the node from the outside.
    pub prober: Prober,
    /// The blocks.
    pub blocks: BlockReader,
    /// What stores blocks.
    pub writer: BlockWriter,
    /// What collects garbage.
    pub garbage: Arc<GarbageCollector>,
    /// What verifies the blocks.
    pub verifier: Arc<Verifier>,
    /// What writes backups.
    pub backups: Arc<Backups>,
    /// What the operator doesn't want here.
    pub denylist: Denylist,
    /// What tells the DHT what we have.
    pub provider: Provider,
    /// What stands between the API's socket and its handlers.
    pub front: Front,
    /// What doesn't change while the process runs.
    pub process: Arc<ProcessFacts>,
}

/// What doesn't change while the process runs.
#[derive(Debug)]
pub struct ProcessFacts {
    /// When the service was started.
    pub started: Timestamp,
    /// The PSA endpoint.
    pub endpoint: String,
    /// The data directory.
    pub data: PathBuf,
    /// The file of the blocks.
    pub blocks_file: PathBuf,
    /// The file of the records.
    pub records_file: PathBuf,
    /// The configuration that it was started with, as JSON without secrets.
    pub config: serde_json::Value,
}

impl FromRef<ControlState> for AdminState {
    fn from_ref(state: &ControlState) -> Self {
        Self { accounts: Arc::clone(&state.accounts), pins: state.pins.clone() }
    }
}

/// Every path that is served.
#[cfg_attr(not(unix), expect(dead_code, reason = "there is no socket to serve it on"))]
fn router(state: ControlState) -> Router {
    Router::new()
        .route("/v1/status", get(status::get))
        .route("/v1/gc", get(gc::get).post(gc::begin))
        .route("/v1/verify", get(verify::get).post(verify::begin))
        .route("/v1/backup", get(backup::get).post(backup::begin))
        .route("/v1/check/{cid}", get(check::of_cid))
        .route("/v1/export/{cid}", get(car::export))
        .route("/v1/import", post(car::import))
        .route("/v1/config", get(config))
        .nest("/v1", admin::routes::<ControlState>().into())
        .fallback(not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .with_state(state)
        .layer(CatchPanicLayer::custom(panicked))
}

/// The configuration that the process was started with.
async fn config(State(state): State<ControlState>) -> Json<serde_json::Value> {
    Json(state.process.config.clone())
}

/// Answers on every path that isn't served.
async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::not_found(format!(
        "the running pinnace {} knows nothing at {path}; it may be of another version than this command",
        env!("CARGO_PKG_VERSION")
    ))
}
