//! Webhooks of any account.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::AdminState;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::webhook::{self, MadeWebhook, NewWebhook, Webhook};

/// Show the webhook of an account
#[utoipa::path(get, path = "/users/{email}/webhook", operation_id = "get_webhook_of", tag = "admin",
    params(("email" = String, Path)),
    responses((status = 200, description = "the webhook, and how it is going", body = Webhook)))]
pub(in crate::http) async fn get(
    State(state): State<AdminState>,
    Path(email): Path<String>,
) -> Result<Json<Webhook>, ApiError> {
    let account = state.accounts.account(&email)?;
    webhook::of(state.pins.webhooks(), account.id)
}

/// Set the webhook of an account
#[utoipa::path(put, path = "/users/{email}/webhook", operation_id = "set_webhook_of", tag = "admin",
    params(("email" = String, Path)), request_body = NewWebhook,
    responses((status = 200, description = "the webhook; its secret is shown only now", body = MadeWebhook)))]
pub(in crate::http) async fn set(
    State(state): State<AdminState>,
    Path(email): Path<String>,
    JsonBody(new): JsonBody<NewWebhook>,
) -> Result<Response, ApiError> {
    let account = state.accounts.account(&email)?;
    webhook::put(state.pins.webhooks(), account.id, new).await
}

/// Remove the webhook of an account
///
/// The events that wait go with it.
#[utoipa::path(delete, path = "/users/{email}/webhook", operation_id = "remove_webhook_of", tag = "admin",
    params(("email" = String, Path)),
    responses((status = 204, description = "it is removed")))]
pub(in crate::http) async fn remove(
    State(state): State<AdminState>,
    Path(email): Path<String>,
) -> Result<StatusCode, ApiError> {
    let account = state.accounts.account(&email)?;
    webhook::take(state.pins.webhooks(), account.id).await
}
