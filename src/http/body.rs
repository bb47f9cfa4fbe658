//! Bodies of requests: bounded in size and time, JSON or a form, and refused with a sentence that helps.

use axum::Form;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::model::limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_MAX};

/// How much of a body that is too large is still read, in bytes, so that its sender gets to read the answer.
const DRAINED_BYTES_MAX: usize = 4 * HTTP_BODY_BYTES_MAX;

const FORM: &str = "application/x-www-form-urlencoded";

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        match media_type(&parts.headers).as_deref() {
            None => json(&bytes).map(Self),
            Some(given) if is_json(given) => json(&bytes).map(Self),
            Some(_) => {
                Err(ApiError::bad_request("the body must be JSON; send it with \"Content-Type: application/json\""))
            }
        }
    }
}

/// A body with fields: JSON, or the same fields as a form.
pub(super) struct FieldsBody<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Sync> FromRequest<S> for FieldsBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        match media_type(&parts.headers).as_deref() {
            None => json(&bytes).map(Self),
            Some(given) if is_json(given) => json(&bytes).map(Self),
            Some(FORM) => form(bytes).await.map(Self),
            Some(_) => Err(ApiError::bad_request(format!(
                "the body must be JSON or a form; send it with \"Content-Type: application/json\" or \"{FORM}\""
            ))),
        }
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?;
    let value = value.to_str().unwrap_or("unreadable");
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The derived readers would take an array, too, with its elements for the fields.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("the body can't be accepted: {error}")))
}

async fn form<T: DeserializeOwned>(bytes: Bytes) -> Result<T, ApiError> {
    let mut request = Request::new(Body::from(bytes));
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(FORM));
    let Form(fields) = Form::from_request(request, &())
        .await
        .map_err(|rejection| ApiError::bad_request(format!("the form can't be accepted: {}", rejection.body_text())))?;
    Ok(fields)
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > DRAINED_BYTES_MAX as u64) {
        return Err(ApiError::too_large(HTTP_BODY_BYTES_MAX));
    }
    tokio::time::timeout(HTTP_BODY_MAX, collect(body)).await.map_err(|_| ApiError::body_timeout(HTTP_BODY_MAX))?
}

async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut collected = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::bad_request("the body ended before its announced length"))?;
        length += chunk.len();
        if length > DRAINED_BYTES_MAX {
            break;
        }
        if length <= HTTP_BODY_BYTES_MAX {
            collected.extend_from_slice(&chunk);
        }
    }
    if length > HTTP_BODY_BYTES_MAX {
        return Err(ApiError::too_large(HTTP_BODY_BYTES_MAX));
    }
    Ok(collected.freeze())
}
