//! The same operations on a data directory that no process has.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use tower::ServiceExt;

use super::{AdminState, routes};
use crate::http::body::Budgets;

/// Answers requests as the control socket of a running process would, as far as no node is needed for that.
#[derive(Debug)]
pub struct Offline(Router);

impl Offline {
    /// The operations on these accounts and pins.
    pub fn new(state: AdminState) -> Self {
        Self(Router::new().nest("/v1", routes::<AdminState>().into()).with_state(state))
    }

    /// Answers a request; `target` is a path with its query, and `body` is JSON or empty. `None` when the target isn't one.
    pub async fn call(&self, method: Method, target: &str, body: Vec<u8>) -> Option<(StatusCode, Bytes)> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().ok()?;
        request.extensions_mut().insert(Budgets::new());
        let answer = self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = answer.status();
        // It comes from memory, so nothing can break it off.
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap_or_default();
        Some((status, body))
    }
}
