//! `/api/psa/pins`: the Pinning Services API's JSON, to and from what `pins` works with.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::AppState;
use super::auth::{Reader, Writer};
use super::body::JsonBody;
use super::error::ApiError;
use super::list_query;
use crate::model::PinId;
use crate::pins::{PinInput, PinView};

/// The specification's `Pin`, as clients send it. Absent and `null` are the same, since generated clients differ in
/// how they leave out a field; unknown fields are left alone, as the schema allows them.
#[derive(Deserialize)]
pub(super) struct PinBody {
    cid: Option<String>,
    name: Option<String>,
    origins: Option<Vec<String>>,
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
#[derive(Serialize)]
struct PinJson {
    cid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<String, String>,
}

/// The specification's `PinStatus`.
#[derive(Serialize)]
struct PinStatusJson {
    requestid: String,
    status: &'static str,
    created: String,
    pin: PinJson,
    delegates: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    info: BTreeMap<String, String>,
}

impl From<PinView> for PinStatusJson {
    fn from(view: PinView) -> Self {
        let PinView { record, status, info, delegates } = view;
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
#[derive(Serialize)]
struct PinResultsJson {
    count: u64,
    results: Vec<PinStatusJson>,
}

/// A time as RFC 3339 in UTC with exactly three decimals, which is what JavaScript's dates hold: a client that pages
/// by `created` must get back what it sends.
pub(super) fn rfc3339(milliseconds: i64) -> String {
    format!("{:.3}", Timestamp::from_millisecond(milliseconds).unwrap_or_default())
}

/// The `requestid` of the path; what can't be one belongs to no pin.
pub(super) struct RequestId(PinId);

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

/// `GET /api/psa/pins`
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

/// `POST /api/psa/pins`
pub(super) async fn add(
    State(state): State<AppState>,
    Writer(identity): Writer,
    JsonBody(body): JsonBody<PinBody>,
) -> Result<Response, ApiError> {
    Ok(accepted(state.pins.add(identity.user, body.try_into()?).await?))
}

/// `GET /api/psa/pins/{requestid}`
pub(super) async fn get(
    State(state): State<AppState>,
    Reader(identity): Reader,
    RequestId(id): RequestId,
) -> Result<Response, ApiError> {
    Ok(Json(PinStatusJson::from(state.pins.get(identity.user, id)?)).into_response())
}

/// `POST /api/psa/pins/{requestid}`
pub(super) async fn replace(
    State(state): State<AppState>,
    Writer(identity): Writer,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<PinBody>,
) -> Result<Response, ApiError> {
    Ok(accepted(state.pins.replace(identity.user, id, body.try_into()?).await?))
}

/// `DELETE /api/psa/pins/{requestid}`
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
