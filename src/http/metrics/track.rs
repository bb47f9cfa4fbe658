//! How many requests there were, and how long they took.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What tells requests apart: few values each, none of which a client chooses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// The path as the route table has it.
    route: String,
    method: &'static str,
    /// Such as `2xx`.
    status: &'static str,
}

/// Requests so far.
#[derive(Debug)]
pub struct Requests {
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "How long requests took, from their head to the head of their answer";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, self.seconds.clone());
    }

    fn count(&self, route: String, method: &Method, status: u16, seconds: f64) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.seconds.get_or_create(&Labels { route, method, status }).observe(seconds);
    }
}

/// Counts a request and its answer.
pub(in crate::http) async fn track(
    State(requests): State<Arc<Requests>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let answer = next.run(request).await;
    let route = path.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    requests.count(route, &method, answer.status().as_u16(), began.elapsed().as_secs_f64());
    answer
}
