//! What commands on the same machine ask of the running process, over a unix socket in the data directory.
//!
//! The socket's file permissions are the only authorisation: whoever may connect could read and write the data directory
//! as well. Errors have the shape of the API's. The paths begin with `/v1`, since the command and the process may be of
//! different versions while one is being upgraded: fields are only ever added.

mod backup;
mod car;
mod frames;
mod gc;
mod pins;
#[cfg(unix)]
mod socket;
mod status;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::routing::{get, post};
use jiff::Timestamp;
use tower_http::catch_panic::CatchPanicLayer;

pub use backup::Backup;
pub use car::{ImportedPin, Imports};
pub use frames::{Frame, FrameReader, NoFrame};
pub use gc::Gc;
pub use pins::{Pin, PinList};
#[cfg(unix)]
pub use socket::ControlSocket;
pub use status::{Addresses, PinNumbers, Status, StoreSizes, Verification};
pub use verify::{DamagedPin, Verify};

use super::error::{self, ApiError};
use super::router::panicked;
use crate::net::NodeHandle;
use crate::pins::PinService;
use crate::store::backup::Backups;
use crate::store::blocks::{BlockReader, BlockWriter};
use crate::store::gc::GarbageCollector;
use crate::store::verify::Verifier;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct ControlState {
    /// The pins.
    pub pins: PinService,
    /// The node.
    pub node: NodeHandle,
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
}

/// Every path that is served.
#[cfg_attr(not(unix), expect(dead_code, reason = "there is no socket to serve it on"))]
fn router(state: ControlState) -> Router {
    Router::new()
        .route("/v1/status", get(status::get))
        .route("/v1/gc", get(gc::get).post(gc::begin))
        .route("/v1/verify", get(verify::get).post(verify::begin))
        .route("/v1/backup", get(backup::get).post(backup::begin))
        .route("/v1/export/{cid}", get(car::export))
        .route("/v1/import", post(car::import))
        .route("/v1/pins", get(pins::list))
        .route("/v1/pins/{id}", get(pins::get).delete(pins::remove))
        .route("/v1/pins/{id}/retry", post(pins::retry))
        .fallback(not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .with_state(state)
        .layer(CatchPanicLayer::custom(panicked))
}

/// Answers on every path that isn't served.
async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::not_found(format!(
        "the running pinnace {} knows nothing at {path}; it may be of another version than this command",
        env!("CARGO_PKG_VERSION")
    ))
}
