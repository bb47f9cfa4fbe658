//! The answers of the gateway: their headers, and what is said when there is none.

use axum::body::Body;
use axum::http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, IF_RANGE, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cid::Cid;
use futures::stream;

use super::accept;
use super::request::Format;
use crate::dag::{PathError, Resolved, SelectionError};
use crate::gateway::{AskedBytes, AskedScope, GatewayError, Slot};
use crate::model::block::HashFunction;

/// The path as it was asked for.
pub(super) const X_IPFS_PATH: HeaderName = HeaderName::from_static("x-ipfs-path");
/// The root and what each part of the path leads to.
pub(super) const X_IPFS_ROOTS: HeaderName = HeaderName::from_static("x-ipfs-roots");

/// What is behind a CID never changes.
const IMMUTABLE: &str = "public, max-age=29030400, immutable";

/// Characters of a file's name that are told; file systems take no more.
const FILENAME_CHARS_MAX: usize = 255;

/// The multihash code of SHA2-256.
const SHA2_256: u64 = 0x12;

/// An answer with its headers and without its body.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    etag: String,
    /// The name for those who ask for none.
    filename: String,
}

impl Answer {
    pub(super) fn new(root: &Cid, parts: &[Vec<u8>], format: Format, resolved: &Resolved) -> Self {
        let end = resolved.end.text();
        let mut headers = HeaderMap::new();
        let (etag, filename, media_type, ranges) = match format {
            Format::Raw => (format!("\"{end}.raw\""), format!("{end}.bin"), accept::RAW.to_owned(), "bytes"),
            Format::Car { scope, repeats } => {
                let repeats = if repeats { "y" } else { "n" };
                // Weak, as another version may put the same blocks differently.
                let etag = format!("W/\"{}.{repeats}{}.{root}.car\"", scope_text(scope), path_text(parts));
                (etag, format!("{root}.car"), format!("{}; version=1; order=dfs; dups={repeats}", accept::CAR), "none")
            }
        };
        set(&mut headers, CONTENT_TYPE, &media_type);
        set(&mut headers, ACCEPT_RANGES, ranges);
        set(&mut headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(&mut headers, CACHE_CONTROL, IMMUTABLE);
        set(&mut headers, VARY, ACCEPT.as_str());
        set(&mut headers, ETAG, &etag);
        Self { status: StatusCode::OK, headers, etag, filename }
    }

    /// Adds what says what this is. A value that no header can hold is left out.
    pub(super) fn describe(&mut self, path: &str, roots: &[String], filename: Option<&str>, location: Option<&str>) {
        let disposition = disposition(filename.unwrap_or(&self.filename));
        set(&mut self.headers, CONTENT_DISPOSITION, &disposition);
        set(&mut self.headers, X_IPFS_PATH, path);
        set(&mut self.headers, X_IPFS_ROOTS, &roots.join(","));
        if let Some(location) = location {
            set(&mut self.headers, CONTENT_LOCATION, location);
        }
    }

    /// Whether the client has this answer already.
    pub(super) fn is_known_to(&self, headers: &HeaderMap) -> bool {
        let opaque = |etag: &str| etag.strip_prefix("W/").unwrap_or(etag).to_owned();
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        // None of ours has a comma in it.
        known
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|known| known == "*" || opaque(known) == opaque(&self.etag))
    }

    /// Whether a `Range` means this answer, and not an older one.
    pub(super) fn allows_range(&self, headers: &HeaderMap) -> bool {
        headers.get(IF_RANGE).is_none_or(|known| known == self.etag.as_str())
    }

    pub(super) fn with_length(mut self, bytes: u64) -> Self {
        self.headers.insert(CONTENT_LENGTH, bytes.into());
        self
    }

    /// A part of the whole.
    pub(super) fn part(mut self, first: u64, last: u64, length: u64) -> Self {
        self.status = StatusCode::PARTIAL_CONTENT;
        set(&mut self.headers, CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
        self.with_length(last - first + 1)
    }

    pub(super) fn with(self, body: Body) -> Response {
        (self.status, self.headers, body).into_response()
    }

    /// Nothing, as the client has it already.
    pub(super) fn not_modified(mut self) -> Response {
        self.headers.remove(CONTENT_TYPE);
        self.headers.remove(CONTENT_DISPOSITION);
        self.status = StatusCode::NOT_MODIFIED;
        self.with(Body::empty())
    }

    /// The block has none of the bytes that are asked for.
    pub(super) fn unsatisfiable(length: u64) -> Response {
        let details = format!("the block has {length} bytes, and none of those that \"Range\" asks for");
        let mut response = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, details).into_response();
        set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{length}"));
        response
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn scope_text(scope: AskedScope) -> String {
    match scope {
        AskedScope::Block => "block".to_owned(),
        AskedScope::All => "all".to_owned(),
        AskedScope::Entity(None) => "entity".to_owned(),
        AskedScope::Entity(Some(AskedBytes { from, to: None })) => format!("entity.{from}:*"),
        AskedScope::Entity(Some(AskedBytes { from, to: Some(to) })) => format!("entity.{from}:{to}"),
    }
}

/// What tells one path from another in a few characters.
fn path_text(parts: &[Vec<u8>]) -> String {
    let Some(function) = HashFunction::of(SHA2_256).filter(|_| !parts.is_empty()) else { return String::new() };
    // No part has a slash that isn't meant: what can be named has none.
    let digest = function.digest(&parts.join(&b'/'));
    let start = digest.digest().iter().take(8).fold(0_u64, |start, byte| start << 8 | u64::from(*byte));
    format!(".{start:016x}")
}

/// Always to be saved, never to be shown: a block can hold anything (RFC 6266, RFC 8187).
fn disposition(filename: &str) -> String {
    let name = filename.chars().filter(|character| !character.is_control()).take(FILENAME_CHARS_MAX);
    let name = name.collect::<String>();
    let plain = |character: char| match character {
        '"' | '\\' | '%' => '_',
        character if character.is_ascii() => character,
        _ => '_',
    };
    let ascii = name.chars().map(plain).collect::<String>();
    if ascii == name {
        return format!("attachment; filename=\"{ascii}\"");
    }
    let escaped = name.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{}", escaped.collect::<String>())
}

/// A body that keeps its slot until it is sent.
pub(super) fn held(bytes: Bytes, slot: Slot) -> Body {
    struct Held {
        bytes: Bytes,
        _slot: Slot,
    }
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Body::from(Bytes::from_owner(Held { bytes, _slot: slot }))
}

/// No bytes, and no promise that these are all there would be.
pub(super) fn empty_of_unknown_length() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, std::convert::Infallible>>())
}

/// A request that gets no answer, with a sentence that says why.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    details: String,
}

impl Refusal {
    fn new(status: StatusCode, details: impl Into<String>) -> Self {
        Self { status, details: details.into() }
    }

    pub(super) fn bad_request(details: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, details)
    }

    pub(super) fn not_acceptable(details: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, details)
    }

    pub(super) fn not_cached(missing: &Cid) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, format!("{missing} is not held here"))
    }

    pub(super) fn busy() -> Self {
        let details = "too many answers are on their way; send the request again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, details)
    }
}

impl From<GatewayError> for Refusal {
    fn from(error: GatewayError) -> Self {
        let status = match &error {
            GatewayError::Missing { .. }
            | GatewayError::Path(PathError::Missing { .. } | PathError::Invalid { .. })
            | GatewayError::Selection(SelectionError::Invalid { .. })
            | GatewayError::Invalid { .. } => StatusCode::NOT_FOUND,
            GatewayError::Denied { .. } => StatusCode::GONE,
            GatewayError::Path(PathError::Value { .. }) => StatusCode::NOT_IMPLEMENTED,
            GatewayError::Path(PathError::TooLong)
            | GatewayError::Selection(SelectionError::Unsupported(_))
            | GatewayError::OutOfRange { .. } => StatusCode::BAD_REQUEST,
            GatewayError::TooLarge | GatewayError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            GatewayError::Store(error) => {
                tracing::error!(%error, "a request to the gateway failed");
                let details = "the service failed to read this; its operator finds the cause in the log";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, details);
            }
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        set(&mut headers, CONTENT_TYPE, "text/plain; charset=utf-8");
        set(&mut headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(&mut headers, CACHE_CONTROL, "no-store");
        set(&mut headers, VARY, ACCEPT.as_str());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            set(&mut headers, RETRY_AFTER, "1");
        }
        (self.status, headers, format!("{}\n", self.details)).into_response()
    }
}
