//! How the process is doing, for admins over the network. Commands on this machine get the same from `control`.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use crate::http::AppState;
use crate::http::control::{ControlState, NodeState, Status, status};
use crate::http::error::ApiError;

/// Show how the process is doing
#[utoipa::path(get, path = "/status", operation_id = "get_status", tag = "admin",
    responses((status = 200, description = "what it is and how it is doing", body = Status)))]
pub(in crate::http) async fn status(State(state): State<AppState>) -> Result<Json<Status>, ApiError> {
    status::get(State(process(state)?)).await
}

/// Show how the node stands among its peers
///
/// Whether others reach it, over which address, why not, and what to do.
#[utoipa::path(get, path = "/node", operation_id = "get_node", tag = "admin",
    responses((status = 200, description = "its addresses, and whether others reach it", body = NodeState)))]
pub(in crate::http) async fn node(State(state): State<AppState>) -> Result<Json<NodeState>, ApiError> {
    Ok(Json(status::node(&process(state)?).await?))
}

/// Show the configuration
///
/// Every key with its value and where that comes from, as the process was started with; secrets are hidden.
#[utoipa::path(get, path = "/config", operation_id = "get_config", tag = "admin",
    responses((status = 200, description = "every key", body = Value)))]
pub(in crate::http) async fn config(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    Ok(Json(process(state)?.process.config.clone()))
}

fn process(state: AppState) -> Result<ControlState, ApiError> {
    state
        .control
        .ok_or_else(|| ApiError::not_found("there is no node behind this API, so there is nothing to tell of it"))
}
