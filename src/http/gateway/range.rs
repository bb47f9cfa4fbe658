//! `Range` on a block (RFC 9110, section 14): one range is answered with that part, several with all of it.

use axum::http::HeaderMap;
use axum::http::header::RANGE;

/// What to send of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    All,
    /// The bytes from the first to the last.
    Part { first: u64, last: u64 },
    /// The block has none of the bytes.
    Nothing,
}

/// What the header wants of a block of this length. A header that can't be understood wants nothing special.
pub(super) fn read(headers: &HeaderMap, length: u64) -> Wanted {
    let Some(range) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else { return Wanted::All };
    let Some(range) = range.trim().strip_prefix("bytes=") else { return Wanted::All };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::All };
    let (first, last) = match (Place::read(first), Place::read(last)) {
        (Place::Number(first), Place::Number(last)) if first <= last => (first, last),
        (Place::Number(first), Place::Open) => (first, u64::MAX),
        (Place::Open, Place::Number(0)) => return Wanted::Nothing,
        (Place::Open, Place::Number(count)) => (length.saturating_sub(count), u64::MAX),
        _ => return Wanted::All,
    };
    if first >= length { Wanted::Nothing } else { Wanted::Part { first, last: last.min(length - 1) } }
}

/// One side of a range.
enum Place {
    Number(u64),
    /// Nothing is there.
    Open,
    /// Anything else, such as the next of several ranges.
    Unknown,
}

impl Place {
    fn read(text: &str) -> Self {
        match text.trim() {
            "" => Self::Open,
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => Self::Number(text.parse().unwrap_or(u64::MAX)),
            _ => Self::Unknown,
        }
    }
}
