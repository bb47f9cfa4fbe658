//! `/healthz` and `/readyz`: whether the process lives, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::AppState;

/// How long a part may take to say that it works.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The answer of `/healthz`.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
}

/// Whether the process can do its work, and which part can't.
#[derive(Serialize)]
pub(super) struct Readiness {
    status: &'static str,
    parts: Parts,
}

/// `ok`, or a sentence about what is wrong.
#[derive(Serialize)]
struct Parts {
    records: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

const OK: &str = "ok";

/// `GET /healthz`: the process answers.
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: OK })
}

/// `GET /readyz`: both stores can be read, there is room for blocks, and the node's loop goes round.
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let said = |outcome: Result<(), String>| outcome.err().unwrap_or_else(|| OK.to_owned());
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "the service isn't ready");
        "failed; the log says why".to_owned()
    };
    let counts = tokio::time::timeout(ANSWER_MAX, state.pins.counts()).await;
    let records = match counts {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err("slow to answer".to_owned()),
    };
    let mut parts = Parts { records: said(records), blocks: None, room: None, node: None };
    if let Some(control) = &state.control {
        let blocks = control.blocks.clone();
        let reading = tokio::task::spawn_blocking(move || blocks.stats());
        parts.blocks = Some(said(match tokio::time::timeout(ANSWER_MAX, reading).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(failed(&error)),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err("slow to answer".to_owned()),
        }));
        parts.room = Some(said(control.blocks.shortage().map_or(Ok(()), |shortage| Err(shortage.to_string()))));
        parts.node = Some(said(match tokio::time::timeout(ANSWER_MAX, control.node.status()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("slow to answer".to_owned()),
        }));
    }
    let all = [Some(&parts.records), parts.blocks.as_ref(), parts.room.as_ref(), parts.node.as_ref()];
    let is_ready = all.into_iter().flatten().all(|part| part == OK);
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, Json(Readiness { status, parts }))
}
