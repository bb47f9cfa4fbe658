//! `/ipfs/CID`: the trustless gateway, read-only and for everyone. Its answers are blocks and CAR files of what is held,
//! which clients verify themselves; nothing is put together here, and nothing is fetched.
//!
//! `request` says what a client asks for, `answer` has the headers, [`crate::gateway`] the bytes. The specification is at
//! <https://specs.ipfs.tech/http-gateways/trustless-gateway/>.

mod accept;
mod answer;
mod range;
mod request;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{OriginalUri, Request};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    IF_NONE_MATCH, RANGE, RETRY_AFTER, USER_AGENT,
};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any as AnyOrigin, CorsLayer};

use self::answer::{Answer, Refusal, X_IPFS_PATH, X_IPFS_ROOTS};
use self::request::{Asked, Format};
use super::{AppState, error, router};
use crate::dag::Resolved;
use crate::gateway::{Gateway, GatewayError, Slot};

/// How long a browser may remember that a request is allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(24);

/// What serves `/ipfs/…`.
pub(super) fn route(gateway: Gateway) -> MethodRouter<AppState> {
    on(MethodFilter::GET.or(MethodFilter::HEAD), move |uri, request| answer(gateway.clone(), uri, request))
        .fallback(error::method_not_allowed)
        .layer::<_, Infallible>(CatchPanicLayer::custom(router::panicked))
        .layer(cors())
}

/// Pages from everywhere may read: what is served is public, and every answer is the same for everyone.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([Method::GET, Method::HEAD, Method::OPTIONS])
        .allow_headers([
            ACCEPT,
            CACHE_CONTROL,
            CONTENT_TYPE,
            IF_NONE_MATCH,
            RANGE,
            USER_AGENT,
            HeaderName::from_static("x-requested-with"),
        ])
        .expose_headers([CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, ETAG, RETRY_AFTER, X_IPFS_PATH, X_IPFS_ROOTS])
        .max_age(PREFLIGHT_MAX_AGE)
}

async fn answer(gateway: Gateway, OriginalUri(original): OriginalUri, request: Request) -> Response {
    let (head, headers) = (request.method() == Method::HEAD, request.headers());
    let asked = match Asked::read(request.uri(), headers) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(slot) = gateway.slot() else { return Refusal::busy().into_response() };
    let answered = answer_asked(&gateway, slot, asked, original.path(), head, headers).await;
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn answer_asked(
    gateway: &Gateway,
    slot: Slot,
    asked: Asked,
    path: &str,
    head: bool,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let Asked { root, parts, format, filename, location } = asked;
    let resolved = match gateway.resolve(root, parts.clone()).await {
        Ok(resolved) => resolved,
        // Asked for what is there already, the answer to what isn't has a number of its own.
        Err(GatewayError::Missing { missing }) if missing == root && request::only_if_cached(headers) => {
            return Err(Refusal::not_cached(&missing));
        }
        Err(error) => return Err(error.into()),
    };
    let mut answer = Answer::new(&root, &parts, format, &resolved);
    answer.describe(path, &resolved.roots, filename.as_deref(), location.as_deref());
    if answer.is_known_to(headers) {
        return Ok(answer.not_modified());
    }
    match format {
        Format::Raw => raw(gateway, slot, resolved, answer, head, headers).await,
        Format::Car { scope, repeats } => {
            let car = gateway.car(root, resolved, scope, repeats).await?;
            if head {
                return Ok(answer.with(answer::empty_of_unknown_length()));
            }
            Ok(answer.with(Body::from_stream(gateway.stream(car, slot))))
        }
    }
}

async fn raw(
    gateway: &Gateway,
    slot: Slot,
    resolved: Resolved,
    answer: Answer,
    head: bool,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    if head {
        let bytes = gateway.block_bytes(resolved.end).await?;
        return Ok(answer.with_length(bytes).with(Body::empty()));
    }
    let block = gateway.block(resolved.end).await?;
    let length = block.len() as u64;
    let wanted = if answer.allows_range(headers) { range::read(headers, length) } else { range::Wanted::All };
    let block = match wanted {
        range::Wanted::All => block,
        range::Wanted::Nothing => return Ok(Answer::unsatisfiable(length)),
        range::Wanted::Part { first, last } => {
            let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
            let part = block.slice(place(first)..=place(last));
            return Ok(answer.part(first, last, length).with(answer::held(part, slot)));
        }
    };
    Ok(answer.with_length(length).with(answer::held(block, slot)))
}
