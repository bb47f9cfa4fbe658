//! `/v1/verify`: verifications of all blocks, to begin and to look at.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::ControlState;
use crate::http::error::ApiError;
use crate::model::PinState;
use crate::store::verify::{self, VerifyPhase, VerifyReport, VerifyRequest, VerifyState};

/// How far the running verification is, or how the last one ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Whether one runs.
    pub running: bool,
    /// `blocks` or `pins` while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Whether damaged blocks are fetched again.
    pub repair: bool,
    /// Blocks that were looked at.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
    /// Blocks to look at, as far as is known.
    pub blocks_total: u64,
    /// Bytes of those blocks.
    pub bytes_total: u64,
    /// Damaged blocks that were found.
    pub damaged_blocks: u64,
    /// Those of them that were taken out of the store.
    pub quarantined_blocks: u64,
    /// The CIDs of the first damaged blocks, with the codec for raw bytes: the store doesn't know the codec.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// Damaged blocks, found now or before, that had not been replaced when the verification ended.
    pub not_replaced_blocks: u64,
    /// Pins that need damaged blocks, found now or before.
    pub damaged_pins: u64,
    /// The first of them.
    #[serde(default)]
    pub pins: Vec<DamagedPin>,
    /// Why it ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A pin that needs a damaged block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPin {
    /// The id, which clients see as `requestid`.
    pub id: String,
    /// The CID as the client wrote it.
    pub cid: String,
    /// The name, if the client gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The e-mail address of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it was when it was looked at: `queued`, `pinned` or `failed`.
    pub status: String,
    /// Whether it was queued again, to be fetched.
    pub requeued: bool,
}

impl From<verify::DamagedPin> for DamagedPin {
    fn from(verify::DamagedPin { record, account, requeued }: verify::DamagedPin) -> Self {
        let status = match record.state {
            PinState::Queued => "queued",
            PinState::Pinned { .. } => "pinned",
            PinState::Failed(_) => "failed",
        };
        Self {
            id: record.id.to_string(),
            cid: record.cid_text,
            name: record.name,
            account,
            status: status.to_owned(),
            requeued,
        }
    }
}

impl Verify {
    fn new(phase: Option<VerifyPhase>, report: VerifyReport) -> Self {
        let VerifyReport { blocks, repairs, damaged_pins, pins, quarantined_blocks } = report;
        Self {
            running: phase.is_some(),
            phase: phase.map(|phase| phase.as_str().to_owned()),
            repair: repairs,
            blocks: blocks.blocks,
            bytes: blocks.bytes,
            blocks_total: blocks.blocks_total,
            bytes_total: blocks.bytes_total,
            damaged_blocks: blocks.damaged_blocks,
            quarantined_blocks: blocks.quarantined_blocks,
            damaged: blocks.damaged.iter().map(ToString::to_string).collect(),
            not_replaced_blocks: quarantined_blocks,
            damaged_pins,
            pins: pins.into_iter().map(DamagedPin::from).collect(),
            error: None,
        }
    }
}

impl From<Option<VerifyState>> for Verify {
    fn from(state: Option<VerifyState>) -> Self {
        match state {
            None => Self::default(),
            Some(VerifyState::Running(phase, report)) => Self::new(Some(phase), report),
            Some(VerifyState::Ended(Ok(report))) => Self::new(None, report),
            Some(VerifyState::Ended(Err(error))) => Self { error: Some(error.to_string()), ..Self::default() },
        }
    }
}

/// `POST /v1/verify?repair=…&rate=…` begins a verification, or joins the one that runs. The rate is a size per second; zero
/// for as much as the disk gives.
pub(super) async fn begin(State(state): State<ControlState>, uri: Uri) -> Result<(StatusCode, Json<Verify>), ApiError> {
    let (repair, rate) = parse(&uri)?;
    state.verifier.request(VerifyRequest { repair, rate, resume: false });
    Ok((StatusCode::ACCEPTED, Json(state.verifier.state().into())))
}

/// How far it is.
pub(super) async fn get(State(state): State<ControlState>) -> Json<Verify> {
    Json(state.verifier.state().into())
}

fn parse(uri: &Uri) -> Result<(bool, u64), ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| ApiError::bad_request("the query string can't be read: percent-encode its values"))?;
    let (mut repair, mut rate) = (false, 0);
    for (key, value) in pairs {
        match key.as_str() {
            "repair" => {
                repair =
                    value.parse().map_err(|_| ApiError::bad_request("\"repair\" must be \"true\" or \"false\""))?;
            }
            "rate" => {
                let size: ByteSize = value
                    .parse()
                    .map_err(|_| ApiError::bad_request("\"rate\" must be a size, such as 64MiB, or 0 for no limit"))?;
                rate = size.as_u64();
            }
            _ => return Err(ApiError::bad_request("a verification takes \"repair\" and \"rate\"")),
        }
    }
    Ok((repair, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_parameter_and_refuses_the_rest() {
        let parsed = |query: &str| parse(&format!("/v1/verify{query}").parse().unwrap());
        assert_eq!(parsed("").unwrap(), (false, 0));
        assert_eq!(parsed("?repair=true&rate=64MiB").unwrap(), (true, 64 << 20));
        assert_eq!(parsed("?rate=0&repair=false").unwrap(), (false, 0));
        for query in ["?repair=yes", "?rate=fast", "?rate=-1", "?speed=1"] {
            assert!(parsed(query).is_err(), "{query}");
        }
    }
}
