//! Whether others can fetch a CID from this node: what `net::probe` finds at the own addresses, with what is known of the pin.
//!
//! `GET /api/pins/{id}/check` is for the owner of a pin, `/v1/check/{cid}` for commands on this machine.

mod verdict;

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use cid::Cid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::verdict::{Facts, Record};
use super::AppState;
use super::access::Reader;
use super::control::ControlState;
use super::error::ApiError;
use super::pins::RequestId;
use crate::bitswap::wire::Protocol;
use crate::model::block::{IDENTITY_HASH, check_hash};
use crate::model::query::{Query, Status};
use crate::model::{ContentKey, cids};
use crate::net::ProviderNews;
use crate::net::probe::{self, Probe, Prober, Unreached};
use crate::pins::PinView;
use crate::pins::service::PinPage;

/// How long our record is looked for in the DHT; dialling takes about as long.
const RECORD_MAX: Duration = Duration::from_secs(14);

/// Accounts among whose pins that of a CID is looked for, the first that were made.
const ACCOUNTS_SEARCHED_MAX: usize = 256;

/// Whether others can fetch something from this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = PinCheck)]
pub struct Check {
    /// What works, what doesn't, and what to do.
    pub verdict: String,
    /// Whether the root can be had: it came from an address and is what its hash says, or it is in the CID itself.
    pub fetchable: bool,
    /// The CID.
    pub cid: String,
    /// How much of it is here.
    pub held: Held,
    /// The pin that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pin: Option<CheckedPin>,
    /// Whether peers find it without being told where it is.
    pub provider_record: String,
    /// What a check from this machine can't show.
    pub caveat: String,
    /// What was found at each address that others are told.
    #[schema(max_items = 20)]
    pub addresses: Vec<CheckedAddress>,
}

/// How much of the content is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// The CID holds its data itself.
    Inline,
    /// Every block of the pin.
    Whole,
    /// The root; the rest isn't known to be.
    Root,
    /// Not even the root.
    Nothing,
}

/// The pin that a check is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckedPin {
    /// Its `requestid`.
    pub id: String,
    /// `queued`, `pinning`, `pinned` or `failed`.
    pub status: String,
    /// How it is going: a sentence.
    pub details: String,
}

impl From<PinView> for CheckedPin {
    fn from(mut view: PinView) -> Self {
        Self {
            id: view.record.id.to_string(),
            status: view.status.as_str().to_owned(),
            details: view.info.remove("status_details").unwrap_or_default(),
        }
    }
}

/// What was found at an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckedAddress {
    /// The address, as others are told it.
    pub address: String,
    /// Who can use it, going by the address alone.
    pub scope: Scope,
    /// Why others are told of it.
    pub source: Source,
    /// Whether the node answered there.
    pub reached: bool,
    /// Milliseconds until the connection was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub handshake_ms: Option<f64>,
    /// The Bitswap that was agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub protocol: Option<String>,
    /// Whether the root came, and is what its hash says.
    pub root_verified: bool,
    /// Milliseconds from the question to the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub block_ms: Option<f64>,
    /// What is wrong, as a constant such as `refused`, `timed_out`, `wrong_peer`, `not_allowed` or `root_missing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<String>,
    /// What happened: a sentence.
    pub details: String,
}

/// Who can use an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AddressScope)]
pub enum Scope {
    /// Everybody on the Internet.
    Public,
    /// Whoever is in the same network.
    Private,
    /// Only this machine.
    Loopback,
    /// It has a name, and who asks for it decides where that leads.
    Name,
    /// Nobody, as far as can be told.
    Other,
}

impl Scope {
    /// The scope as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::Name => "name",
            Self::Other => "other",
        }
    }
}

impl From<probe::Scope> for Scope {
    fn from(scope: probe::Scope) -> Self {
        match scope {
            probe::Scope::Public => Self::Public,
            probe::Scope::Private => Self::Private,
            probe::Scope::Loopback => Self::Loopback,
            probe::Scope::Name => Self::Name,
            probe::Scope::Other => Self::Other,
        }
    }
}

/// Why others are told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AddressSource)]
pub enum Source {
    /// The configuration names it in `network.external`.
    External,
    /// Others have reached the node there, or a relay has a place for it.
    Reached,
    /// The node listens there.
    Listening,
    /// The node listens there, and no address is known to be reachable from other machines.
    LastResort,
}

impl From<probe::Source> for Source {
    fn from(source: probe::Source) -> Self {
        match source {
            probe::Source::External => Self::External,
            probe::Source::Reached => Self::Reached,
            probe::Source::Listening => Self::Listening,
            probe::Source::LastResort => Self::LastResort,
        }
    }
}

impl From<Probe> for CheckedAddress {
    fn from(probe: Probe) -> Self {
        let Probe { address, scope, source, outcome } = probe;
        let unreached = Self {
            address: address.to_string(),
            scope: scope.into(),
            source: source.into(),
            reached: false,
            handshake_ms: None,
            protocol: None,
            root_verified: false,
            block_ms: None,
            failure: None,
            details: String::new(),
        };
        let reached = match outcome {
            Ok(reached) => reached,
            Err(error) => {
                return Self {
                    failure: Some(error.code().to_owned()),
                    details: error.to_string() + advice(&error),
                    ..unreached
                };
            }
        };
        let handshake_ms = milliseconds(reached.handshake);
        let protocol = reached.protocol.map(Protocol::name);
        let connected = Self {
            reached: true,
            handshake_ms: Some(handshake_ms),
            protocol: protocol.map(str::to_owned),
            ..unreached
        };
        match reached.root {
            Ok(root) => {
                let block_ms = milliseconds(root.after);
                let over = protocol.unwrap_or("Bitswap");
                let details = format!(
                    "connected in {handshake_ms} ms; the root came over {over} in {block_ms} ms and is what its hash says"
                );
                Self { root_verified: true, block_ms: Some(block_ms), details, ..connected }
            }
            Err(error) => Self {
                failure: Some(error.code().to_owned()),
                details: format!("connected in {handshake_ms} ms, but {error}"),
                ..connected
            },
        }
    }
}

/// What to do about an address that wasn't reached, where the reason doesn't say.
fn advice(error: &Unreached) -> &'static str {
    match error {
        Unreached::Refused | Unreached::TimedOut(_) => {
            "; open the port, or correct network.external where it names this address"
        }
        Unreached::WrongPeer(_) | Unreached::Handshake(_) | Unreached::Unresolved(_) | Unreached::Failed(_) => {
            "; correct network.external where it names this address"
        }
        Unreached::NotAllowed(_) => "; the key network.profile decides that",
        Unreached::NoRoute(_) | Unreached::Forbidden(_) => "",
    }
}

/// Milliseconds with one decimal: on one machine most things take less than one.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Check whether others can fetch a pin
///
/// Dials the service's own addresses as a stranger would, asks for the root at each, and looks in the DHT whether it knows of it. It takes 15 seconds at most; two
/// checks run at the same time, and further ones are told to come back.
#[utoipa::path(get, path = "/{requestid}/check", operation_id = "check_pin", tag = "pins", security(("bearer" = [])),
    params(("requestid" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 200, description = "what was found", body = Check)))]
pub(super) async fn of_pin(
    State(state): State<AppState>,
    Reader(identity): Reader,
    RequestId(id): RequestId,
) -> Result<Json<Check>, ApiError> {
    let view = state.pins.get(identity.user, id)?;
    let control = state
        .control
        .ok_or_else(|| ApiError::not_found("there is no node behind this API, so nobody can fetch from it"))?;
    let root = view.record.root;
    Ok(Json(check(&control, view.record.cid_text.clone(), root, Some(view.into())).await?))
}

/// `GET /v1/check/{cid}`
pub(super) async fn of_cid(
    State(state): State<ControlState>,
    Path(text): Path<String>,
) -> Result<Json<Check>, ApiError> {
    let root = cids::decode(&text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if root.hash().code() != IDENTITY_HASH {
        check_hash(&root).map_err(|error| ApiError::bad_request(error.to_string()))?;
    }
    let pin = find_pin(&state, &root).await?.map(CheckedPin::from);
    Ok(Json(check(&state, text, root, pin).await?))
}

async fn check(state: &ControlState, cid: String, root: Cid, pin: Option<CheckedPin>) -> Result<Check, ApiError> {
    let held = held(state, root, pin.as_ref()).await?;
    let (addresses, record): (Vec<CheckedAddress>, _) = match held {
        Held::Inline => (Vec::new(), Record::Pointless),
        _ => {
            let (addresses, record) = tokio::join!(look(&state.prober, root), look_for_record(state, root));
            (addresses?, record)
        }
    };
    let facts = Facts { held, pin: pin.as_ref(), record: &record, addresses: &addresses };
    Ok(Check {
        verdict: facts.verdict(),
        fetchable: held == Held::Inline || addresses.iter().any(|address| address.root_verified),
        cid,
        held,
        provider_record: facts.provider_record(),
        caveat: facts.caveat(),
        pin,
        addresses,
    })
}

/// Asks the DHT whether it knows that we have something.
async fn look_for_record(state: &ControlState, root: Cid) -> Record {
    if !state.node.has_dht() {
        return Record::NoDht;
    }
    let looking = async {
        let Ok(mut news) = state.node.find_providers(root).await else { return Record::Unanswered };
        loop {
            match news.recv().await {
                Some(ProviderNews::Found(peer)) if peer == state.node.peer_id() => return Record::Found,
                Some(ProviderNews::Found(_)) => {}
                Some(ProviderNews::Ended { servers: 0, .. }) | None => return Record::Unanswered,
                Some(ProviderNews::Ended { servers, .. }) => return Record::Missing { servers },
            }
        }
    };
    tokio::time::timeout(RECORD_MAX, looking).await.unwrap_or(Record::Unanswered)
}

async fn look(prober: &Prober, root: Cid) -> Result<Vec<CheckedAddress>, ApiError> {
    Ok(prober.probe(root).await?.into_iter().map(CheckedAddress::from).collect())
}

/// What the store has of it. That a pin is whole says its record; that the root is there says the store.
async fn held(state: &ControlState, root: Cid, pin: Option<&CheckedPin>) -> Result<Held, ApiError> {
    if root.hash().code() == IDENTITY_HASH {
        return Ok(Held::Inline);
    }
    let blocks = state.blocks.clone();
    let has_root = tokio::task::spawn_blocking(move || blocks.has(&root)).await.map_err(|_| ApiError::stopping())?;
    let has_root = has_root.map_err(|error| {
        tracing::error!(%error, "the blocks can't be read");
        ApiError::internal()
    })?;
    let is_pinned = pin.is_some_and(|pin| pin.status == Status::Pinned.as_str());
    Ok(match (has_root, is_pinned) {
        (false, _) => Held::Nothing,
        (true, true) => Held::Whole,
        (true, false) => Held::Root,
    })
}

/// A pin of this content, of whichever account: a whole one if there is any.
async fn find_pin(state: &ControlState, root: &Cid) -> Result<Option<PinView>, ApiError> {
    let accounts = state.accounts.clone();
    let accounts = tokio::task::spawn_blocking(move || accounts.accounts(None, ACCOUNTS_SEARCHED_MAX));
    let accounts = accounts.await.map_err(|_| ApiError::stopping())??;
    let query = |statuses: &[Status]| Query {
        contents: [ContentKey::of(root)].into(),
        statuses: statuses.iter().copied().collect(),
        limit: 1,
        ..Query::default()
    };
    let mut unfinished = None;
    for account in accounts {
        for statuses in [&[Status::Pinned][..], &Status::ALL] {
            let newest = |page: PinPage| page.pins.into_iter().next();
            match state.pins.list(account.id, query(statuses), newest).await? {
                Some(view) if view.status == Status::Pinned => return Ok(Some(view)),
                Some(view) => unfinished = unfinished.or(Some(view)),
                None => {}
            }
        }
    }
    Ok(unfinished)
}
