//! The whole route table.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any as AnyOrigin, CorsLayer};

use super::error::{self, ApiError};
use super::{AppState, auth, gateway, pins};

/// How long a browser may remember that a request is allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(24);

/// Every path that is served.
pub(super) fn router(state: AppState) -> Router {
    let mut routes = Router::new()
        .route("/healthz", get(health))
        .route("/api/psa/pins", get(pins::list).post(pins::add))
        .route("/api/psa/pins/{requestid}", get(pins::get).post(pins::replace).delete(pins::remove))
        .route("/api/auth/login", post(auth::login))
        .route("/api/auth/refresh", post(auth::refresh))
        .route("/api/auth/logout", post(auth::logout))
        .route("/api/auth/me", get(auth::me))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors());
    // What may be read from other pages, and how, differs, so the layers differ.
    if let Some(gateway) = state.gateway.clone() {
        routes = routes.route("/ipfs/{*path}", gateway::route(gateway));
    }
    Router::new().fallback_service(routes.with_state(state).map_request(forgive_slashes))
}

/// Browsers may call from any page: a request is authorised by its token alone, never by a cookie.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}

async fn health() -> Response {
    axum::Json(serde_json::json!({ "status": "ok" })).into_response()
}

/// The text of the panic is in the log already, from the panic hook.
pub(super) fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::internal().into_response()
}

/// Takes doubled slashes and those at the end out of the path: clients append `/pins` to whatever endpoint their user
/// has typed.
fn forgive_slashes(mut request: Request) -> Request {
    let path = request.uri().path();
    if !path.contains("//") && (path.len() < 2 || !path.ends_with('/')) {
        return request;
    }
    let mut forgiven: String = path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
    if forgiven.is_empty() {
        forgiven.push('/');
    }
    if let Some(query) = request.uri().query() {
        forgiven.push('?');
        forgiven.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    if let Ok(path_and_query) = PathAndQuery::try_from(forgiven) {
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn slashes_are_forgiven_and_the_rest_is_kept() {
        for (given, expected) in [
            ("/api/psa/pins", "/api/psa/pins"),
            ("/api/psa//pins/", "/api/psa/pins"),
            ("//api///psa/pins//?name=a//b/", "/api/psa/pins?name=a//b/"),
            ("/", "/"),
            ("//", "/"),
            ("http://host/api/psa/pins/?x", "http://host/api/psa/pins?x"),
        ] {
            let request = Request::builder().uri(given).body(Body::empty()).unwrap();
            assert_eq!(forgive_slashes(request).uri().to_string(), expected);
        }
    }
}
