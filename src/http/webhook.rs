//! `/api/auth/webhook`: where the owner of an account wants to be told what becomes of its pins. `admin` does the same for others.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::access::LoggedIn;
use super::auth::uncached;
use super::body::JsonBody;
use super::error::ApiError;
use crate::model::UserId;
use crate::model::time::rfc3339;
use crate::pins::webhooks::{WebhookView, Webhooks};
use crate::store::records::Attempt;

/// A webhook, without the secret that signs its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Where events go.
    #[schema(format = "uri")]
    pub url: String,
    /// When it was set.
    #[schema(format = DateTime)]
    pub set: String,
    /// Events that wait.
    pub waiting: u64,
    /// How the last try went; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last: Option<LastTry>,
}

/// How an event was told, or why it wasn't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LastDelivery)]
pub struct LastTry {
    /// When that ended.
    #[schema(format = DateTime)]
    pub at: String,
    /// The status of the answer, if one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<u16>,
    /// What was wrong; absent if the event was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
}

impl From<Attempt> for LastTry {
    fn from(Attempt { at_ms, status, error }: Attempt) -> Self {
        Self { at: rfc3339(at_ms), status, error }
    }
}

impl From<WebhookView> for Webhook {
    fn from(WebhookView { url, set_ms, waiting, last }: WebhookView) -> Self {
        Self { url, set: rfc3339(set_ms), waiting, last: last.map(LastTry::from) }
    }
}

/// A webhook that is to be set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where events are to go.
    #[schema(format = "uri", max_length = 2048, example = "https://example.org/hook")]
    pub url: String,
}

/// A webhook that was set, with the secret that signs its events: it is shown only now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeWebhook {
    /// The key of the signatures, as it stands here.
    pub secret: String,
    /// What it is.
    #[serde(flatten)]
    pub about: Webhook,
}

/// The webhook of an account.
pub(super) fn of(webhooks: &Webhooks, user: UserId) -> Result<Json<Webhook>, ApiError> {
    Ok(Json(webhooks.get(user)?.ok_or_else(ApiError::no_webhook)?.into()))
}

/// Sets the webhook of an account.
pub(super) async fn put(webhooks: &Webhooks, user: UserId, new: NewWebhook) -> Result<Response, ApiError> {
    let (view, secret) = webhooks.set(user, &new.url).await?;
    Ok(uncached(MadeWebhook { secret, about: view.into() }))
}

/// Removes the webhook of an account.
pub(super) async fn take(webhooks: &Webhooks, user: UserId) -> Result<StatusCode, ApiError> {
    if webhooks.remove(user).await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::no_webhook()) }
}

/// Show the webhook of the account
///
/// Only with the token of a login, as its URL may be secret.
#[utoipa::path(get, path = "/webhook", operation_id = "get_webhook", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, description = "the webhook, and how it is going", body = Webhook)))]
pub(super) async fn get(
    State(state): State<AppState>,
    LoggedIn(identity): LoggedIn,
) -> Result<Json<Webhook>, ApiError> {
    of(state.pins.webhooks(), identity.user)
}

/// Set the webhook of the account
///
/// Only with the token of a login. From now on each pin that is `pinned`, `failed` or `expired` is told with a `POST` of
/// `{"id", "event", "created", "pin": {"requestid", "status", "created", "cid", "name", "meta", "info"}}`, one after the other,
/// until the answer is a 2xx; for 24 hours, with pauses from 10 seconds to an hour. An event may come twice, with the same `id`. The
/// header `Pinnace-Signature: t=SECONDS,v1=HEX` has the HMAC-SHA256 of the seconds, a dot and the body, with the secret
/// as its key. Redirects aren't followed. A webhook that is set anew gets a new secret, and the events that wait.
#[utoipa::path(put, path = "/webhook", operation_id = "set_webhook", tag = "accounts", security(("bearer" = [])), request_body = NewWebhook,
    responses((status = 200, description = "the webhook; its secret is shown only now", body = MadeWebhook)))]
pub(super) async fn set(
    State(state): State<AppState>,
    LoggedIn(identity): LoggedIn,
    JsonBody(new): JsonBody<NewWebhook>,
) -> Result<Response, ApiError> {
    put(state.pins.webhooks(), identity.user, new).await
}

/// Remove the webhook of the account
///
/// Only with the token of a login. The events that wait go with it.
#[utoipa::path(delete, path = "/webhook", operation_id = "remove_webhook", tag = "accounts", security(("bearer" = [])),
    responses((status = 204, description = "it is removed")))]
pub(super) async fn remove(
    State(state): State<AppState>,
    LoggedIn(identity): LoggedIn,
) -> Result<StatusCode, ApiError> {
    take(state.pins.webhooks(), identity.user).await
}
