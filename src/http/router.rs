//! The whole route table.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any as AnyOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{self, ApiError};
use super::metrics::track;
use super::{AppState, access, admin, auth, check, events, gateway, health, openapi, pins, tokens, webhook, websocket};

/// How long a browser may remember that a request is allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(24);

/// Every path that is served.
pub(super) fn router(state: AppState) -> Router {
    let admin = axum::middleware::from_fn_with_state(state.clone(), access::require_admin);
    let mut routes = Router::from(user_api().nest("/api/admin", admin_api().route_layer(admin)))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route(openapi::DOCUMENT_PATH, get(openapi::json))
        .route("/api/docs", get(openapi::page))
        .route("/api/docs/{file}", get(openapi::file))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed);
    if let Some(node) = state.web_sockets.clone() {
        routes = routes.route("/", websocket::route(node));
    }
    routes = routes.layer(CatchPanicLayer::custom(panicked)).layer(cors());
    // What may be read from other pages, and how, differs, so the layers differ.
    if let Some(gateway) = state.gateway.clone() {
        routes = routes.route("/ipfs/{*path}", gateway::route(gateway));
    }
    let tracked = axum::middleware::from_fn_with_state(Arc::clone(&state.requests), track);
    let routes = routes.layer(tracked);
    Router::new().fallback_service(routes.with_state(state).map_request(forgive_slashes))
}

/// What users reach.
fn user_api() -> OpenApiRouter<AppState> {
    let psa = OpenApiRouter::new().routes(routes!(pins::list, pins::add)).routes(routes!(
        pins::get,
        pins::replace,
        pins::remove
    ));
    let auth = OpenApiRouter::new()
        .routes(routes!(auth::login))
        .routes(routes!(auth::register))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::password))
        .routes(routes!(auth::me))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(webhook::get, webhook::set, webhook::remove));
    // What the specification doesn't have stands beside it.
    let pins = OpenApiRouter::new().routes(routes!(events::watch)).routes(routes!(check::of_pin));
    OpenApiRouter::new().nest("/api/psa", psa).nest("/api/pins", pins).nest("/api/auth", auth)
}

/// What only admins reach; whoever mounts it checks that they are.
fn admin_api() -> OpenApiRouter<AppState> {
    admin::routes()
        .routes(routes!(admin::process::status))
        .routes(routes!(admin::process::node))
        .routes(routes!(admin::process::config))
}

/// All that is described to clients, without the checks that need a state.
pub(super) fn api() -> OpenApiRouter<AppState> {
    user_api().nest("/api/admin", admin_api())
}

/// Browsers may call from any page: a request is authorised by its token alone, never by a cookie.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER, error::RATE_LIMIT_REMAINING])
        .max_age(PREFLIGHT_MAX_AGE)
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
