//! `/v1/export` and `/v1/import`: DAGs as CAR files, in the frames of `frames`.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use cid::Cid;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::ControlState;
use super::frames::{Frame, FrameReader};
use crate::http::error::ApiError;
use crate::model::cids;
use crate::pins::PinInput;
use crate::store::blocks::BlockReader;
use crate::transfer::{Export, ExportError, Import, ImportError, ImportReport};

/// Bytes of small blocks that are sent together.
const PIECE_BYTES: usize = 256 * 1024;

/// Pieces that are read ahead of the command.
const PIECES_AHEAD_MAX: usize = 4;

/// How long what a command goes on sending is read after it was refused, so that it gets to read why.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// A pin that an import made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedPin {
    /// Its id.
    pub id: String,
    /// Its root.
    pub cid: String,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    /// Blocks in the files.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks among them that were there already.
    pub held_blocks: u64,
    /// A pin for each root.
    pub pins: Vec<ImportedPin>,
}

impl Imports {
    /// Of a report, with the pins that were made.
    pub fn new(report: ImportReport, pins: Vec<ImportedPin>) -> Self {
        let ImportReport { blocks, bytes, held_blocks } = report;
        Self { blocks, bytes, held_blocks, pins }
    }
}

/// `GET /v1/export/{cid}`
pub(super) async fn export(State(state): State<ControlState>, Path(text): Path<String>) -> Result<Response, ApiError> {
    let root = cids::parse(&text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let (begun, has_begun) = oneshot::channel();
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD_MAX);
    let reader = state.blocks.clone();
    tokio::task::spawn_blocking(move || send_export(&reader, root, begun, &pieces));
    match has_begun.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(refused_export(&error)),
        Err(_) => return Err(ApiError::stopping()),
    }
    let frames = stream::unfold(receiver, |mut receiver| async {
        let frame: Frame = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(frame.encode()), receiver))
    });
    Ok(Body::from_stream(frames).into_response())
}

fn refused_export(error: &ExportError) -> ApiError {
    match error {
        ExportError::Missing { .. } | ExportError::Dag(_) => ApiError::not_found(error.to_string()),
        ExportError::Store(error) => {
            tracing::error!(%error, "an export failed");
            ApiError::internal()
        }
    }
}

/// Sends the file for as long as someone takes it.
fn send_export(
    reader: &BlockReader,
    root: Cid,
    begun: oneshot::Sender<Result<(), ExportError>>,
    pieces: &mpsc::Sender<Frame>,
) {
    let mut export = match Export::begin(reader, root) {
        Ok(export) => export,
        Err(error) => {
            // Who asked may be gone.
            let _ = begun.send(Err(error));
            return;
        }
    };
    if begun.send(Ok(())).is_err() {
        return;
    }
    let mut piece = BytesMut::new();
    loop {
        let last = match export.next_bytes() {
            Ok(Some(bytes)) => {
                piece.extend_from_slice(&bytes);
                if piece.len() < PIECE_BYTES {
                    continue;
                }
                None
            }
            Ok(None) => Some(Frame::End),
            Err(error) => Some(Frame::Failure(error.to_string())),
        };
        let data = piece.split().freeze();
        if !data.is_empty() && pieces.blocking_send(Frame::Data(data)).is_err() {
            return;
        }
        if let Some(last) = last {
            let _ = pieces.blocking_send(last);
            return;
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    name: Option<String>,
    user: Option<String>,
    root: Option<String>,
}

/// `POST /v1/import?name=…&user=…&root=…`: the body has files, each with its end.
pub(super) async fn import(State(state): State<ControlState>, uri: Uri, body: Body) -> Result<Json<Imports>, ApiError> {
    let mut stream = body.into_data_stream();
    let outcome = import_all(&state, &uri, &mut stream).await;
    if outcome.is_err() {
        // A connection that is closed with bytes unread takes the answer with it.
        tokio::spawn(tokio::time::timeout(DRAIN_MAX, async move { while let Some(Ok(_)) = stream.next().await {} }));
    }
    outcome.map(Json)
}

async fn import_all(state: &ControlState, uri: &Uri, stream: &mut BodyDataStream) -> Result<Imports, ApiError> {
    let Query(Parameters { name, user, root }) = Query::try_from_uri(uri)
        .map_err(|_| ApiError::bad_request("an import takes \"name\", \"user\" and \"root\""))?;
    let root = root.map(|root| cids::parse(&root)).transpose();
    let root = root.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let owner = state.pins.owner(user).await?;

    let mut import = Import::new(state.blocks.clone(), state.writer.clone());
    let mut frames = FrameReader::default();
    let mut is_whole = false;
    while let Some(bytes) = stream.next().await {
        let bytes: Bytes = bytes.map_err(|error| ApiError::bad_request(format!("the files broke off: {error}")))?;
        frames.feed(&bytes);
        while let Some(frame) = frames.next_frame().map_err(|error| ApiError::bad_request(error.to_string()))? {
            is_whole = frame == Frame::End;
            match frame {
                Frame::Data(bytes) => import.feed(&bytes).await.map_err(refused_import)?,
                Frame::End => import.end_file().map_err(refused_import)?,
                Frame::Failure(reason) => return Err(ApiError::bad_request(reason)),
            }
        }
    }
    if !is_whole {
        return Err(ApiError::bad_request("the command ended before its files did, so nothing is pinned"));
    }
    let imported = import.finish(root).await.map_err(refused_import)?;
    let mut pins = Vec::new();
    for root in &imported.roots {
        let input = PinInput { cid: root.to_string(), name: name.clone(), ..PinInput::default() };
        let record = state.pins.add_patiently(owner, input).await?.record;
        pins.push(ImportedPin { id: record.id.to_string(), cid: record.cid_text });
    }
    // Only now may a collection look at what is reachable: `imported` is held up to here.
    Ok(Imports::new(imported.report, pins))
}

fn refused_import(error: ImportError) -> ApiError {
    match error {
        ImportError::Store(error) => {
            tracing::error!(%error, "an import failed");
            ApiError::internal()
        }
        ImportError::Stopping => ApiError::stopping(),
        ImportError::Car(_) | ImportError::Root { .. } | ImportError::NoRoot => {
            ApiError::bad_request(error.to_string())
        }
    }
}
