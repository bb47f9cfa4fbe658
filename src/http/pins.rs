//! `/api/psa/pins`: the Pinning Services API's JSON, to and from what `pins` works with.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::access::{Reader, Writer, owner};
use super::body::JsonBody;
use super::error::ApiError;
use super::list_query;
use crate::model::PinId;
use crate::model::time::rfc3339;
use crate::pins::{PinInput, PinView};

/// The specification's `Pin`, as clients send it. Absent and `null` are the same, since generated clients differ in
/// how they leave out a field; unknown fields are left alone, as the schema allows them.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewPin, description = "What to pin.")]
pub(super) struct PinBody {
    /// The CID of the content.
    #[schema(value_type = String, format = "cid", example = "bafkqaaa")]
    cid: Option<String>,
    /// A name for it.
    #[schema(max_length = 255)]
    name: Option<String>,
    /// Multiaddrs of peers that have it.
    origins: Option<Vec<String>>,
    /// Key-value pairs of the client's own. With the key `pinnace.expires_at`, a time that is to come as in RFC 3339, the pin is
    /// removed at that time.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    meta: Option<BTreeMap<String, String>>,
}

impl TryFrom<PinBody> for PinInput {
    type Error = ApiError;

    fn try_from(body: PinBody) -> Result<Self, ApiError> {
        let cid = body.cid.ok_or_else(|| ApiError::bad_request("\"cid\" is missing: say what to pin"))?;
        Ok(Self {
            cid,
            name: body.name,
            origins: body.origins.unwrap_or_default(),
            meta: body.meta.unwrap_or_default(),
        })
    }
}

/// The specification's `Pin`, as clients get it.
#[derive(Serialize, ToSchema)]
#[schema(as = Pin, description = "What is pinned.")]
struct PinJson {
    /// The CID as it was asked for.
    cid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255, nullable = false)]
    name: Option<String>,
    /// Multiaddrs of peers that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20, required = false)]
    origins: Vec<String>,
    /// Key-value pairs of the client's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    meta: BTreeMap<String, String>,
}

/// The specification's `PinStatus`.
#[derive(Serialize, ToSchema)]
#[schema(as = PinStatus, description = "A pin and how far it has come.")]
pub(super) struct PinStatusJson {
    /// The id of the pin.
    requestid: String,
    #[schema(value_type = Status)]
    status: &'static str,
    /// When the pin was made, with three decimals: no two of an account are the same.
    #[schema(format = DateTime)]
    created: String,
    pin: PinJson,
    /// Multiaddrs under which the service is reached.
    #[schema(min_items = 1, max_items = 20)]
    delegates: Vec<String>,
    /// How it is going: `status_details` is a sentence, `failure` a code, `pinned_until` when the pin is removed by itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    info: BTreeMap<String, String>,
}

impl From<PinView> for PinStatusJson {
    fn from(view: PinView) -> Self {
        let PinView { record, status, info, delegates, tried: _ } = view;
        Self {
            requestid: record.id.to_string(),
            status: status.as_str(),
            created: rfc3339(record.created_ms),
            pin: PinJson { cid: record.cid_text, name: record.name, origins: record.origins, meta: record.meta },
            delegates: delegates.to_vec(),
            info,
        }
    }
}

/// The specification's `PinResults`.
#[derive(Serialize, ToSchema)]
#[schema(as = PinResults, description = "A page of a list of pins.")]
pub(super) struct PinResultsJson {
    /// All pins that match, on this page and others.
    count: u64,
    /// The newest of them, newest first.
    #[schema(max_items = 1000)]
    results: Vec<PinStatusJson>,
}

/// How a name is compared, as the specification has it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it is here for the description of the API; `NameMatch` is what is worked with")]
pub(super) enum TextMatchingStrategy {
    Exact,
    Iexact,
    Partial,
    Ipartial,
}

/// How far a pin has come, as the specification has it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(
    dead_code,
    reason = "it is here for the description of the API; `model::query::Status` is what is worked with"
)]
pub(super) enum Status {
    Queued,
    Pinning,
    Pinned,
    Failed,
}

/// The `requestid` of the path; what can't be one belongs to no pin.
pub(super) struct RequestId(pub(super) PinId);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(ApiError::no_such_pin)
    }
}

fn accepted(view: PinView) -> Response {
    (StatusCode::ACCEPTED, Json(PinStatusJson::from(view))).into_response()
}

/// List pins
///
/// All filters must match. Without a status only pinned pins are listed, except with a name.
#[utoipa::path(get, path = "/pins", operation_id = "list_pins", tag = "pins", security(("bearer" = [])), params(
    ("cid" = Option<Vec<String>>, Query, style = Form, explode = false, max_items = 10, min_items = 1,
        description = "any of these CIDs, at most ten"),
    ("name" = Option<String>, Query, min_length = 1, max_length = 255, description = "the name, or a part of it: see match"),
    ("match" = Option<TextMatchingStrategy>, Query, description = "how the name is compared; exact if absent"),
    ("status" = Option<Vec<Status>>, Query, style = Form, explode = false, min_items = 1, description = "any of these statuses"),
    ("before" = Option<String>, Query, format = DateTime, description = "made before this time"),
    ("after" = Option<String>, Query, format = DateTime, description = "made after this time"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "pins on the page at most; 10 if absent"),
    ("meta" = Option<String>, Query,
        description = "a JSON object of strings, all of which the pin has; meta[key]=value means the same"),
), responses((status = 200, description = "a page of the list", body = PinResultsJson)))]
pub(super) async fn list(
    State(state): State<AppState>,
    Reader(identity): Reader,
    uri: Uri,
) -> Result<Response, ApiError> {
    let list = state.pins.list(identity.user, list_query::parse(&uri)?, |page| {
        let results = page.pins.into_iter().map(PinStatusJson::from).collect();
        serde_json::to_vec(&PinResultsJson { count: page.count, results })
    });
    let json = list.await?.map_err(|error| {
        tracing::error!(%error, "a list can't be written");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// Add a pin
#[utoipa::path(post, path = "/pins", operation_id = "add_pin", tag = "pins", security(("bearer" = [])), request_body = PinBody,
    responses((status = 202, description = "the pin", body = PinStatusJson)))]
pub(super) async fn add(
    State(state): State<AppState>,
    Writer(identity): Writer,
    JsonBody(body): JsonBody<PinBody>,
) -> Result<Response, ApiError> {
    Ok(accepted(state.pins.add(owner(&identity), body.try_into()?).await?))
}

/// Show a pin
#[utoipa::path(get, path = "/pins/{requestid}", operation_id = "get_pin", tag = "pins", security(("bearer" = [])),
    params(("requestid" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 200, description = "the pin", body = PinStatusJson)))]
pub(super) async fn get(
    State(state): State<AppState>,
    Reader(identity): Reader,
    RequestId(id): RequestId,
) -> Result<Response, ApiError> {
    Ok(Json(PinStatusJson::from(state.pins.get(identity.user, id)?)).into_response())
}

/// Replace a pin
///
/// The old pin goes in the same moment; what it holds stays until the new one is pinned.
#[utoipa::path(post, path = "/pins/{requestid}", operation_id = "replace_pin", tag = "pins", security(("bearer" = [])), request_body = PinBody,
    params(("requestid" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 202, description = "the new pin, with an id of its own", body = PinStatusJson)))]
pub(super) async fn replace(
    State(state): State<AppState>,
    Writer(identity): Writer,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<PinBody>,
) -> Result<Response, ApiError> {
    Ok(accepted(state.pins.replace(owner(&identity), id, body.try_into()?).await?))
}

/// Remove a pin
#[utoipa::path(delete, path = "/pins/{requestid}", operation_id = "remove_pin", tag = "pins", security(("bearer" = [])),
    params(("requestid" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 202, description = "it is removed")))]
pub(super) async fn remove(
    State(state): State<AppState>,
    Writer(identity): Writer,
    RequestId(id): RequestId,
) -> Result<StatusCode, ApiError> {
    state.pins.remove(identity.user, id).await?;
    Ok(StatusCode::ACCEPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_exactly_three_decimals() {
        assert_eq!(rfc3339(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(rfc3339(1_700_000_000_910), "2023-11-14T22:13:20.910Z");
    }
}
