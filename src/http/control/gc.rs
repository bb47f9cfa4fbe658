//! `/v1/gc`: garbage collections, to begin and to look at.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ControlState;
use crate::store::blocks::{GcPhase, GcReport};
use crate::store::gc::GcState;

/// How far the running collection is, or how the last one ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Whether one runs.
    pub running: bool,
    /// `mark`, `sweep`, `vacate` or `done`; absent when there was none since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Blocks that are kept, as far as they were looked at.
    pub kept_blocks: u64,
    /// Blocks that were removed.
    pub removed_blocks: u64,
    /// Bytes of the removed blocks.
    pub removed_bytes: u64,
    /// Blocks that were moved out of mostly dead segments.
    pub moved_blocks: u64,
    /// Why it ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Gc {
    fn new(running: bool, phase: GcPhase, report: GcReport) -> Self {
        Self {
            running,
            phase: Some(phase.as_str().to_owned()),
            kept_blocks: report.kept_blocks,
            removed_blocks: report.removed_blocks,
            removed_bytes: report.removed_bytes,
            moved_blocks: report.moved_blocks,
            error: None,
        }
    }
}

impl From<Option<GcState>> for Gc {
    fn from(state: Option<GcState>) -> Self {
        match state {
            None => Self::default(),
            Some(GcState::Running(phase, report)) => Self::new(true, phase, report),
            Some(GcState::Ended(Ok(report))) => Self::new(false, GcPhase::Done, report),
            Some(GcState::Ended(Err(error))) => Self { error: Some(error.to_string()), ..Self::default() },
        }
    }
}

/// Begins a collection, or joins the one that runs.
pub(super) async fn begin(State(state): State<ControlState>) -> (StatusCode, Json<Gc>) {
    state.garbage.request();
    (StatusCode::ACCEPTED, Json(state.garbage.state().into()))
}

/// How far it is.
pub(super) async fn get(State(state): State<ControlState>) -> Json<Gc> {
    Json(state.garbage.state().into())
}
