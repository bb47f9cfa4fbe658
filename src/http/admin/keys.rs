//! The keys that sign tokens.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AdminState;
use crate::auth;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;

/// How the keys are to be rotated.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Whether older keys are forgotten, so that all tokens stop. That is for a key that others may know.
    #[serde(default)]
    pub forget_old: bool,
}

/// What a rotation of the keys did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotation {
    /// The number of the key that signs from now on.
    pub key: u32,
    /// Older keys whose tokens stay valid until they expire.
    pub kept: usize,
    /// Older keys whose tokens have stopped.
    pub forgotten: usize,
}

/// Make a new key that signs tokens
///
/// Tokens that are out stay valid until they expire, unless older keys are forgotten.
#[utoipa::path(post, path = "/keys/rotate", operation_id = "rotate_keys", tag = "admin", request_body = Rotate,
    responses((status = 200, description = "what became of the keys", body = KeyRotation)))]
pub(in crate::http) async fn rotate(
    State(state): State<AdminState>,
    JsonBody(Rotate { forget_old }): JsonBody<Rotate>,
) -> Result<Json<KeyRotation>, ApiError> {
    let auth::KeyRotation { key, kept, forgotten } = state.accounts.rotate_keys(forget_old).await?;
    Ok(Json(KeyRotation { key, kept, forgotten }))
}
