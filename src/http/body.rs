//! Bodies of requests: bounded in size, number and time, JSON or a form, and refused with a sentence that helps.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Form;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::ClientAddress;
use super::error::ApiError;
use super::shares::{Share, Shares};
use crate::model::limits::{
    HTTP_ANONYMOUS_BODIES_BYTES_MAX, HTTP_ANONYMOUS_BODIES_PER_ADDRESS_BYTES_MAX, HTTP_ANONYMOUS_BODY_BYTES_MAX,
    HTTP_BODIES_BYTES_MAX, HTTP_BODIES_PER_ADDRESS_BYTES_MAX, HTTP_BODY_BYTES_MAX, HTTP_BODY_MAX,
};

/// How much of a body that is too large is still read, in bytes, so that its sender gets to read the answer.
const DRAINED_BYTES_MAX: usize = 4 * HTTP_BODY_BYTES_MAX;

const FORM: &str = "application/x-www-form-urlencoded";

/// Bodies of one kind: how large one may be, all of one address, and all of them together. The server sets it on each
/// request.
#[derive(Debug, Clone)]
struct Budget {
    body_bytes_max: usize,
    /// What to do about a body that is too large.
    advice: &'static str,
    of_addresses: Shares,
    free_bytes: Arc<Semaphore>,
}

/// What all bodies may take.
#[derive(Debug, Clone)]
pub(super) struct Budgets {
    anonymous: Budget,
    authorized: Budget,
}

impl Budgets {
    pub(super) fn new() -> Self {
        let budget = |body_bytes_max, address_bytes_max, bodies_bytes_max, advice| Budget {
            body_bytes_max,
            advice,
            of_addresses: Shares::new(address_bytes_max),
            free_bytes: Arc::new(Semaphore::new(bodies_bytes_max)),
        };
        Self {
            anonymous: budget(
                HTTP_ANONYMOUS_BODY_BYTES_MAX,
                HTTP_ANONYMOUS_BODIES_PER_ADDRESS_BYTES_MAX,
                HTTP_ANONYMOUS_BODIES_BYTES_MAX,
                "send only the fields that are needed",
            ),
            authorized: budget(
                HTTP_BODY_BYTES_MAX,
                HTTP_BODIES_PER_ADDRESS_BYTES_MAX,
                HTTP_BODIES_BYTES_MAX,
                "shorten \"meta\" or \"origins\"",
            ),
        }
    }

    fn of(parts: &Parts) -> Result<&Self, ApiError> {
        parts.extensions.get().ok_or_else(ApiError::internal)
    }
}

/// A body that was read. Its bytes count until this is dropped, which is when it has been parsed.
#[derive(Debug)]
struct Held {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
    _of_address: Option<Share>,
}

/// A JSON body of a request with a token: that must have been looked at before.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let Held { bytes, .. } = &Budgets::of(&parts)?.authorized.read(address(&parts), body).await?;
        match media_type(&parts.headers).as_deref() {
            None => json(bytes).map(Self),
            Some(given) if is_json(given) => json(bytes).map(Self),
            Some(_) => {
                Err(ApiError::bad_request("the body must be JSON; send it with \"Content-Type: application/json\""))
            }
        }
    }
}

/// A body with fields, of a request that needs no token: JSON, or the same fields as a form.
pub(super) struct FieldsBody<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Sync> FromRequest<S> for FieldsBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let Held { bytes, .. } = &Budgets::of(&parts)?.anonymous.read(address(&parts), body).await?;
        match media_type(&parts.headers).as_deref() {
            None => json(bytes).map(Self),
            Some(given) if is_json(given) => json(bytes).map(Self),
            Some(FORM) => form(bytes.clone()).await.map(Self),
            Some(_) => Err(ApiError::bad_request(format!(
                "the body must be JSON or a form; send it with \"Content-Type: application/json\" or \"{FORM}\""
            ))),
        }
    }
}

/// Whose share of the bodies a request uses; none on the socket for commands.
fn address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get().map(|ClientAddress(address)| *address)
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

impl Budget {
    async fn read(&self, address: Option<IpAddr>, body: Body) -> Result<Held, ApiError> {
        let announced = body.size_hint().upper();
        if announced.is_some_and(|bytes| bytes > DRAINED_BYTES_MAX as u64) {
            return Err(self.too_large());
        }
        let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
        let share_bytes = announced.unwrap_or(self.body_bytes_max).min(self.body_bytes_max);
        let read = async {
            let permits = u32::try_from(share_bytes).unwrap_or(u32::MAX);
            // The own share comes first: who waits for it holds up nobody else.
            let of_address = match address {
                Some(address) => Some(self.of_addresses.take(address, permits).await.ok_or_else(ApiError::internal)?),
                None => None,
            };
            let share = Arc::clone(&self.free_bytes).acquire_many_owned(permits).await;
            let share = share.map_err(|_| ApiError::internal())?;
            Ok(Held { bytes: self.collect(body, share_bytes).await?, _share: share, _of_address: of_address })
        };
        tokio::time::timeout(HTTP_BODY_MAX, read).await.map_err(|_| ApiError::body_timeout(HTTP_BODY_MAX))?
    }

    async fn collect(&self, body: Body, share_bytes: usize) -> Result<Bytes, ApiError> {
        let mut stream = body.into_data_stream();
        let mut collected = BytesMut::with_capacity(share_bytes);
        let mut length = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| ApiError::bad_request("the body ended before its announced length"))?;
            length += chunk.len();
            if length > DRAINED_BYTES_MAX {
                break;
            }
            if length <= share_bytes {
                collected.extend_from_slice(&chunk);
            }
        }
        // A body is never longer than announced, so what is longer than its share is longer than any may be.
        if length > share_bytes { Err(self.too_large()) } else { Ok(collected.freeze()) }
    }

    fn too_large(&self) -> ApiError {
        ApiError::too_large(self.body_bytes_max, self.advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;
    use std::task::Poll;

    fn budget(address_bytes_max: usize) -> Budget {
        Budget {
            body_bytes_max: 8,
            advice: "",
            of_addresses: Shares::new(address_bytes_max),
            free_bytes: Arc::new(Semaphore::new(10)),
        }
    }

    #[tokio::test]
    async fn bodies_wait_for_their_share_and_keep_it_until_they_are_parsed() {
        let budget = budget(10);
        let announced = budget.read(None, Body::from("12345")).await.unwrap();
        assert_eq!(budget.free_bytes.available_permits(), 5);
        // One that doesn't tell its length may have the largest.
        let chunks = futures::stream::iter([Ok::<_, std::io::Error>("12"), Ok("34")]);
        let mut chunked = pin!(budget.read(None, Body::from_stream(chunks)));
        assert!(poll!(chunked.as_mut()).is_pending());
        drop(announced);
        let Poll::Ready(chunked) = poll!(chunked) else { panic!("still waiting") };
        let chunked = chunked.unwrap();
        assert_eq!((&chunked.bytes[..], budget.free_bytes.available_permits()), (&b"1234"[..], 2));
        budget.read(None, Body::empty()).await.unwrap();
        drop(chunked);
        assert_eq!(budget.free_bytes.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_gives_its_share_back() {
        let budget = budget(10);
        budget.read(None, Body::from("12345678")).await.unwrap();
        budget.read(None, Body::from("123456789")).await.unwrap_err();
        budget.read(None, Body::from(vec![0; DRAINED_BYTES_MAX + 1])).await.unwrap_err();
        let chunks = ["12345", "67890"].map(Ok::<_, std::io::Error>);
        budget.read(None, Body::from_stream(futures::stream::iter(chunks))).await.unwrap_err();
        assert_eq!(budget.free_bytes.available_permits(), 10);
    }

    #[tokio::test]
    async fn an_address_waits_for_its_own_bodies_and_not_for_those_of_others() {
        let budget = budget(8);
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(|address| Some(IpAddr::from(address)));
        let stalled = || Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
        let mut first = Box::pin(budget.read(one, stalled()));
        let mut second = Box::pin(budget.read(one, stalled()));
        assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
        assert_eq!(budget.free_bytes.available_permits(), 2, "the second holds nothing yet");
        budget.read(other, Body::from("12")).await.unwrap();
        let mut third = pin!(budget.read(one, Body::from("12")));
        assert!(poll!(third.as_mut()).is_pending());
        drop((first, second));
        third.await.unwrap();
    }
}
