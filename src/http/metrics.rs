//! `/metrics`: figures for Prometheus, on a listener of their own, as they are for the operator alone.
//!
//! What requests take is counted as they come (`track`); everything else is read when it is asked for (`snapshot`).

mod snapshot;
mod track;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;

use super::control::ControlState;
use super::error::{self, ApiError};
use super::front::Front;
use super::router::panicked;
use super::serve::serve_router;
use snapshot::Snapshot;
pub use track::Requests;
pub(super) use track::track;

/// The media type of the text, as the specification of `OpenMetrics` has it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the figures until `shutdown` is done.
pub async fn serve_metrics(
    listener: TcpListener,
    state: ControlState,
    requests: Arc<Requests>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state((state, requests));
    serve_router(listener, router, Front::default(), shutdown).await
}

async fn metrics(State((state, requests)): State<(ControlState, Arc<Requests>)>) -> Result<Response, ApiError> {
    let snapshot = Snapshot::take(&state).await?;
    let mut registry = Registry::with_prefix("pinnace");
    registry.register_collector(Box::new(snapshot));
    requests.register(&mut registry);
    let mut text = String::new();
    encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text)).map_err(|error| {
        tracing::error!(%error, "the figures can't be written");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text).into_response())
}
