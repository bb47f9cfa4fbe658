//! The pins of all accounts.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AdminState;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::model::PinId;
use crate::model::limits::PAGE_PINS_MAX;
use crate::model::query::Status;
use crate::model::time::rfc3339;
use crate::pins::{OwnedPin, PinError, PinInput};

/// Pins in one list when the command doesn't say.
const PINS_DEFAULT: usize = 100;

/// A pin of any account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnedPin)]
pub struct Pin {
    /// The id, which clients see as `requestid`.
    pub id: String,
    /// `queued`, `pinning`, `pinned` or `failed`.
    pub status: String,
    /// When it was made, as in RFC 3339.
    #[schema(format = DateTime)]
    pub created: String,
    /// The e-mail address of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub account: Option<String>,
    /// The CID as the client wrote it.
    pub cid: String,
    /// The name, if the client gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The origins that are used.
    #[serde(default)]
    pub origins: Vec<String>,
    /// The client's own key-value pairs.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// How it is going, as its owner sees it: `status_details` is a sentence.
    #[serde(default)]
    pub info: BTreeMap<String, String>,
    /// Whom it names or was tried with: how that goes, a sentence for each.
    #[serde(default)]
    pub tried: Vec<String>,
}

impl From<OwnedPin> for Pin {
    fn from(OwnedPin { view, account }: OwnedPin) -> Self {
        let record = view.record;
        Self {
            id: record.id.to_string(),
            status: view.status.as_str().to_owned(),
            created: rfc3339(record.created_ms),
            account,
            cid: record.cid_text,
            name: record.name,
            origins: record.origins,
            meta: record.meta,
            info: view.info,
            tried: view.tried,
        }
    }
}

/// The beginning of a list of pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnedPinList)]
pub struct PinList {
    /// Unfinished pins first, then failed ones, then the rest; the newest first of each.
    pub pins: Vec<Pin>,
    /// Whether more match.
    pub more: bool,
}

/// A pin that is to be made for an account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOwnedPin)]
pub struct NewPin {
    /// The e-mail address of the account; the one that was made first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The CID.
    #[schema(format = "cid", example = "bafkqaaa")]
    pub cid: String,
    /// A name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub name: Option<String>,
    /// Multiaddrs of peers that have the content.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Key-value pairs.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// The pin that the path names.
pub(in crate::http) struct Named(PinId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| {
            ApiError::not_found("the path names no pin: an id is a UUID, and a list of pins shows which there are")
        })
    }
}

/// An operator has no account whose pins could be meant.
fn refused(id: PinId) -> impl FnOnce(PinError) -> ApiError {
    move |error| match error {
        PinError::NotFound => {
            ApiError::not_found(format!("there is no pin {id}; `pinnace pin list` shows which there are"))
        }
        error => error.into(),
    }
}

/// List pins of all accounts
///
/// Unfinished ones first, then failed ones, then the rest; the newest first of each.
// Reads as many pins as it shows, and all that are in the statuses before them.
#[utoipa::path(get, path = "/pins", operation_id = "list_all_pins", tag = "admin", params(
    ("status" = Option<Vec<crate::http::pins::Status>>, Query, style = Form, explode = false, min_items = 1, description = "pins in these statuses; all if absent"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "as many at most; 100 if absent"),
), responses((status = 200, description = "the beginning of the list", body = PinList)))]
pub(in crate::http) async fn list(State(state): State<AdminState>, uri: Uri) -> Result<Json<PinList>, ApiError> {
    let (statuses, limit) = parse(&uri)?;
    let page = state.pins.list_all(statuses, limit).await?;
    Ok(Json(PinList { pins: page.pins.into_iter().map(Pin::from).collect(), more: page.more }))
}

/// Make a pin for an account
///
/// What the operator pins isn't bound by the account's quota.
#[utoipa::path(post, path = "/pins", operation_id = "add_pin_for", tag = "admin", request_body = NewPin,
    responses((status = 202, description = "the pin", body = Pin)))]
pub(in crate::http) async fn add(
    State(state): State<AdminState>,
    JsonBody(new): JsonBody<NewPin>,
) -> Result<Response, ApiError> {
    let NewPin { account, cid, name, origins, meta } = new;
    let owner = state.pins.owner(account).await?;
    let made = state.pins.add(owner, PinInput { cid, name, origins, meta }).await?;
    let pin = state.pins.get_any(made.record.id).await?;
    Ok((StatusCode::ACCEPTED, Json(Pin::from(pin))).into_response())
}

/// Show a pin of any account
#[utoipa::path(get, path = "/pins/{id}", operation_id = "get_any_pin", tag = "admin",
    params(("id" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 200, description = "the pin", body = Pin)))]
pub(in crate::http) async fn get(State(state): State<AdminState>, Named(id): Named) -> Result<Json<Pin>, ApiError> {
    Ok(Json(state.pins.get_any(id).await.map_err(refused(id))?.into()))
}

/// Try a failed pin again
#[utoipa::path(post, path = "/pins/{id}/retry", operation_id = "retry_pin", tag = "admin",
    params(("id" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 200, description = "the pin", body = Pin)))]
pub(in crate::http) async fn retry(State(state): State<AdminState>, Named(id): Named) -> Result<Json<Pin>, ApiError> {
    Ok(Json(state.pins.retry(id).await.map_err(refused(id))?.into()))
}

/// Remove a pin of any account
#[utoipa::path(delete, path = "/pins/{id}", operation_id = "remove_any_pin", tag = "admin",
    params(("id" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 204, description = "it is removed")))]
pub(in crate::http) async fn remove(State(state): State<AdminState>, Named(id): Named) -> Result<StatusCode, ApiError> {
    state.pins.remove_any(id).await.map_err(refused(id))?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(uri: &Uri) -> Result<(BTreeSet<Status>, usize), ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| ApiError::bad_request("the query string can't be read: percent-encode its values"))?;
    let (mut statuses, mut limit) = (BTreeSet::new(), PINS_DEFAULT);
    for (key, value) in pairs {
        match key.as_str() {
            "status" => {
                for text in value.split(',') {
                    statuses.insert(Status::parse(text).ok_or_else(|| {
                        ApiError::bad_request("\"status\" must be any of queued, pinning, pinned and failed")
                    })?);
                }
            }
            "limit" => {
                limit = value.parse().ok().filter(|limit| (1..=PAGE_PINS_MAX).contains(limit)).ok_or_else(|| {
                    ApiError::bad_request(format!("\"limit\" must be a number from 1 to {PAGE_PINS_MAX}"))
                })?;
            }
            _ => return Err(ApiError::bad_request("a list of pins takes \"status\" and \"limit\"")),
        }
    }
    Ok((statuses, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<(BTreeSet<Status>, usize), ApiError> {
        parse(&format!("/v1/pins{query}").parse().unwrap())
    }

    #[test]
    fn reads_every_parameter_and_refuses_the_rest() {
        assert_eq!(parsed("").unwrap(), (BTreeSet::new(), PINS_DEFAULT));
        let (statuses, limit) = parsed("?status=failed,queued&status=pinning&limit=7").unwrap();
        assert_eq!(statuses, [Status::Failed, Status::Queued, Status::Pinning].into());
        assert_eq!(limit, 7);
        for query in ["?status=", "?status=done", "?limit=0", "?limit=1001", "?limit=x", "?stat=failed"] {
            assert!(parsed(query).is_err(), "{query}");
        }
    }
}
