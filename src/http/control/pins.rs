//! `/v1/pins`: the pins of all accounts.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::ControlState;
use crate::http::error::ApiError;
use crate::http::pins::rfc3339;
use crate::model::PinId;
use crate::model::limits::PAGE_PINS_MAX;
use crate::model::query::Status;
use crate::pins::{OwnedPin, PinError};

/// Pins in one list when the command doesn't say.
const PINS_DEFAULT: usize = 100;

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The id, which clients see as `requestid`.
    pub id: String,
    /// `queued`, `pinning`, `pinned` or `failed`.
    pub status: String,
    /// When it was made, as in RFC 3339.
    pub created: String,
    /// The e-mail address of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The CID as the client wrote it.
    pub cid: String,
    /// The name, if the client gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
        }
    }
}

/// The beginning of a list of pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinList {
    /// Unfinished pins first, then failed ones, then the rest; the newest first of each.
    pub pins: Vec<Pin>,
    /// Whether more match.
    pub more: bool,
}

/// The pin that the path names.
pub(super) struct Named(PinId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| ApiError::bad_request("the path names no pin: an id is a UUID"))
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

/// `GET /v1/pins?status=…&limit=…`. Reads as many pins as it shows, and all that are in the statuses before them.
pub(super) async fn list(State(state): State<ControlState>, uri: Uri) -> Result<Json<PinList>, ApiError> {
    let (statuses, limit) = parse(&uri)?;
    let page = state.pins.list_all(statuses, limit).await?;
    Ok(Json(PinList { pins: page.pins.into_iter().map(Pin::from).collect(), more: page.more }))
}

/// `GET /v1/pins/{id}`
pub(super) async fn get(State(state): State<ControlState>, Named(id): Named) -> Result<Json<Pin>, ApiError> {
    Ok(Json(state.pins.get_any(id).await.map_err(refused(id))?.into()))
}

/// `POST /v1/pins/{id}/retry`
pub(super) async fn retry(State(state): State<ControlState>, Named(id): Named) -> Result<Json<Pin>, ApiError> {
    Ok(Json(state.pins.retry(id).await.map_err(refused(id))?.into()))
}

/// `DELETE /v1/pins/{id}`
pub(super) async fn remove(State(state): State<ControlState>, Named(id): Named) -> Result<StatusCode, ApiError> {
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
