//! A pin: what a user asked to keep, and how far that has come.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cid::Cid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of an account; grows from 1 and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub u64);

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The `requestid` of a pin: a UUID version 7, so ids sort by the time they were made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinId(pub Uuid);

impl PinId {
    /// The first of all ids in their order.
    pub const MIN: Self = Self(Uuid::nil());

    /// A new id.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as the key that the store uses.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl Default for PinId {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for PinId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

impl fmt::Display for PinId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for PinId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why a pin failed: a closed set, shown to the client as `info.failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// Nobody who has the content was found for `pins.give_up_after`.
    NoProvider,
    /// None of the pin's origins could be reached for `pins.give_up_after`, and nobody else has the content.
    Unreachable,
    /// A provider was found, but the DAG did not become whole within `pins.give_up_after`.
    Stalled,
    /// A block is no valid node of its codec.
    BlockInvalid,
    /// The DAG holds a codec or a hash function that can't be walked or verified.
    Unsupported,
    /// The DAG is larger than `pins.blocks_max` or `pins.bytes_max` allows.
    TooLarge,
    /// The DAG is deeper than `pins.depth_max` allows.
    TooDeep,
    /// The account has pinned as many bytes as it may.
    Quota,
    /// The operator's denylist has a block of the DAG.
    Denied,
    /// The store or its disk had no room for `pins.give_up_after`.
    NoRoom,
}

impl FailureCode {
    /// The code as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoProvider => "no_provider",
            Self::Unreachable => "unreachable",
            Self::Stalled => "stalled",
            Self::BlockInvalid => "block_invalid",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::Quota => "quota",
            Self::Denied => "denied",
            Self::NoRoom => "no_room",
        }
    }
}

/// Why a pin failed, with a sentence for its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason's code.
    pub code: FailureCode,
    /// What happened and what can be done about it.
    pub sentence: String,
    /// Whom the last try asked in vain, a sentence for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
}

/// How far a pin has come, as it is stored. That a pin is being fetched right now isn't stored: after a restart it is
/// `Queued` again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinState {
    /// Not whole yet: waits for its turn, for its next try, or is being fetched.
    Queued,
    /// Every block of the DAG is durable.
    Pinned {
        /// Distinct blocks of the DAG.
        blocks: u64,
        /// Bytes of those blocks.
        bytes: u64,
    },
    /// Waiting doesn't help.
    Failed(Failure),
}

/// A pin as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The `requestid`.
    pub id: PinId,
    /// Whose pin it is.
    pub user: UserId,
    /// The CID exactly as the client wrote it.
    pub cid_text: String,
    /// The same CID, parsed.
    pub root: Cid,
    /// The name, if the client gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Multiaddrs of peers that should have the content: at most [`super::limits::ORIGINS_MAX`], all of them usable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Origins that the client gave and that are not used, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins_skipped: Vec<String>,
    /// The client's own key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// When the pin was made: milliseconds since the Unix epoch, unique and growing within an account.
    pub created_ms: i64,
    /// When it goes by itself: milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// How far it has come.
    pub state: PinState,
    /// Roots that this pin replaced: their blocks are kept until this pin is `Pinned`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained_roots: Vec<Cid>,
}
