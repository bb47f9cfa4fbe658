//! `/v1/backup`: backups, to begin and to look at.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::ControlState;
use crate::http::error::ApiError;
use crate::store::backup::{BackupError, BackupState};

/// The backup that runs or ran last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Whether one runs.
    pub running: bool,
    /// Its file; absent when there was none since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Blocks that were copied.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks that are to be copied, as soon as they are counted.
    pub blocks_total: u64,
    /// Bytes of those.
    pub bytes_total: u64,
    /// Blocks that were left out, since they can't be read.
    pub damaged_blocks: u64,
    /// The length of the file, when it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Why it ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<Option<(PathBuf, BackupState)>> for Backup {
    fn from(state: Option<(PathBuf, BackupState)>) -> Self {
        let Some((path, state)) = state else { return Self::default() };
        let path = Some(path.display().to_string());
        match state {
            BackupState::Running(progress) => Self {
                running: true,
                path,
                blocks: progress.done.blocks,
                bytes: progress.done.bytes,
                blocks_total: progress.all.blocks,
                bytes_total: progress.all.bytes,
                damaged_blocks: progress.done.damaged_blocks,
                ..Self::default()
            },
            BackupState::Ended(Ok(report)) => Self {
                path,
                blocks: report.copied.blocks,
                bytes: report.copied.bytes,
                blocks_total: report.copied.blocks + report.copied.damaged_blocks,
                bytes_total: report.copied.bytes,
                damaged_blocks: report.copied.damaged_blocks,
                file_bytes: Some(report.file_bytes),
                ..Self::default()
            },
            BackupState::Ended(Err(error)) => Self { path, error: Some(error.to_string()), ..Self::default() },
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    path: PathBuf,
    #[serde(default)]
    force: bool,
}

/// `POST /v1/backup?path=…&force=…`: begins a backup, unless one runs.
pub(super) async fn begin(State(state): State<ControlState>, uri: Uri) -> Result<(StatusCode, Json<Backup>), ApiError> {
    let Query(Parameters { path, force }) = Query::try_from_uri(&uri)
        .map_err(|_| ApiError::bad_request("a backup takes \"path\", and \"force\" as true or false"))?;
    let backups = Arc::clone(&state.backups);
    // It looks at the disk.
    let begun = tokio::task::spawn_blocking(move || backups.begin(path, force)).await;
    begun.map_err(|_| ApiError::stopping())?.map_err(|error| match error {
        BackupError::Stopped => ApiError::stopping(),
        error => ApiError::conflict(error.to_string()),
    })?;
    Ok((StatusCode::ACCEPTED, Json(state.backups.state().into())))
}

/// `GET /v1/backup`: how far it is.
pub(super) async fn get(State(state): State<ControlState>) -> Json<Backup> {
    Json(state.backups.state().into())
}
