//! The requests to one gateway: the probe, and a block. Whatever comes back is read within bounds, and a block is only
//! what matches its CID.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use reqwest::header::{ACCEPT, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::resolve::{Checked, Names, ResolveError};
use super::upstream::{Answer, Trouble};
use crate::bitswap::wire::WantKind;
use crate::model::limits::{
    BLOCK_BYTES_MAX, RETRIEVAL_ANSWER_MAX, RETRIEVAL_BODY_MAX, RETRIEVAL_BYTES_MAX, RETRIEVAL_CONNECT_MAX,
    RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX, RETRIEVAL_HEADERS_BYTES_MAX, RETRIEVAL_REQUESTS_MAX,
    RETRIEVAL_REQUESTS_PER_GATEWAY_MAX, RETRIEVAL_STALL_MAX, RETRIEVAL_WINDOW_BYTES,
};
use crate::model::{Block, BlockError};
use crate::net::GatewayAddress;
use crate::net::profile::Profile;

/// The identity CID of nothing: every gateway can answer for it without having anything.
const PROBE: &str = "bafkqaaa";

/// The media type of a single block.
const RAW: &str = "application/vnd.ipld.raw";

/// How long a connection stays that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Bytes of an error's body that are looked at.
const ERROR_BYTES_MAX: usize = 512;

/// How some gateways begin the body of a 500 that means 404; boxo knows the same.
const NOT_FOUND_TEXTS: &[&str] =
    &["ipld: could not find node", "peer does not have", "getting pieces containing cid", "failed to load root node"];

/// Bytes that one permit stands for.
const PERMIT_BYTES: usize = 1024;

/// What all gateways together may use.
#[derive(Debug, Clone)]
pub(super) struct Share {
    requests: Arc<Semaphore>,
    /// In units of [`PERMIT_BYTES`].
    bytes: Arc<Semaphore>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(RETRIEVAL_REQUESTS_MAX)),
            bytes: Arc::new(Semaphore::new(RETRIEVAL_BYTES_MAX / PERMIT_BYTES)),
        }
    }
}

/// A client of one gateway, with its own connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct GatewayClient {
    http: Client,
    base: Url,
    share: Share,
}

impl GatewayClient {
    /// Makes the client. It reads the certificates that the system trusts, so it blocks for a moment.
    pub(super) fn new(
        gateway: &GatewayAddress,
        names: Names,
        profile: &Profile,
        share: Share,
    ) -> Result<Self, Trouble> {
        if let Err(refusal) = profile.may_ask(gateway) {
            return Err(Trouble::Wrong(refusal.to_string()));
        }
        let base = Url::parse(&gateway.to_string()).map_err(|error| Trouble::Wrong(error.to_string()))?;
        let resolver = Checked { names, profile: profile.clone(), gateway: gateway.clone() };
        let mut builder = Client::builder()
            .user_agent(concat!("pinnace/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(resolver))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .https_only(gateway.secure)
            .connect_timeout(RETRIEVAL_CONNECT_MAX)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX)
            .http2_initial_stream_window_size(u32::try_from(BLOCK_BYTES_MAX).ok())
            .http2_initial_connection_window_size(RETRIEVAL_WINDOW_BYTES)
            .http2_max_header_list_size(RETRIEVAL_HEADERS_BYTES_MAX)
            .http2_keep_alive_interval(RETRIEVAL_STALL_MAX)
            .http2_keep_alive_timeout(RETRIEVAL_STALL_MAX);
        if !gateway.secure {
            // The system may have none, and none are needed.
            builder = builder.tls_certs_only([]);
        }
        let cannot = |error: reqwest::Error| {
            Trouble::Failed(format!("this service can't set up its side of HTTPS: {}", innermost(&error)))
        };
        let http = builder.build().map_err(cannot)?;
        Ok(Self { http, base, share })
    }

    /// Asks for what every gateway has. Returns how many requests may run at once.
    pub(super) async fn probe(&self) -> Result<usize, Trouble> {
        let _permit = self.share.requests.acquire().await;
        let mut response = self.send(Method::GET, PROBE).await?;
        let requests_max = match response.version() {
            Version::HTTP_2 => RETRIEVAL_REQUESTS_PER_GATEWAY_MAX,
            _ => RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX,
        };
        let status = response.status();
        match judge(&mut response).await {
            Verdict::Ok => {
                let body = read_some(&mut response, 1).await?;
                if body.is_empty() {
                    return Ok(requests_max);
                }
                Err(Trouble::Wrong(
                    "it is not a trustless gateway: it has an answer of its own for an empty block".into(),
                ))
            }
            // Some don't serve identity CIDs, but know what they are asked for.
            Verdict::Missing if status != StatusCode::NOT_FOUND && status != StatusCode::FORBIDDEN => Ok(requests_max),
            Verdict::Missing => {
                Err(Trouble::Wrong(format!("it is not a trustless gateway: it answers {status} for an empty block")))
            }
            Verdict::Trouble(trouble) => Err(trouble),
        }
    }

    /// Asks for a block, or whether it is there.
    pub(super) async fn ask(&self, cid: Cid, kind: WantKind) -> Answer {
        // None is ever closed.
        let _permit = self.share.requests.acquire().await;
        let method = if kind == WantKind::Have { Method::HEAD } else { Method::GET };
        let mut response = match self.send(method, &cid.to_string()).await {
            Ok(response) => response,
            Err(trouble) => return Answer::Trouble(trouble),
        };
        match judge(&mut response).await {
            Verdict::Ok if kind == WantKind::Have => Answer::Have,
            Verdict::Ok => match self.read_block(cid, response).await {
                Ok(block) => Answer::Block(block),
                Err(trouble) => Answer::Trouble(trouble),
            },
            Verdict::Missing => Answer::Missing,
            Verdict::Trouble(trouble) => Answer::Trouble(trouble),
        }
    }

    async fn send(&self, method: Method, cid: &str) -> Result<Response, Trouble> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/ipfs/{cid}", self.base.path().trim_end_matches('/')));
        url.set_query(Some("format=raw"));
        let request = self.http.request(method, url).header(ACCEPT, RAW).send();
        match timeout(RETRIEVAL_ANSWER_MAX, request).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::Failed(failure_of(error))),
            Err(_) => {
                Err(Trouble::Failed(format!("it did not begin to answer within {} s", RETRIEVAL_ANSWER_MAX.as_secs())))
            }
        }
    }

    /// Reads a block once there is room for it.
    async fn read_block(&self, cid: Cid, mut response: Response) -> Result<Block, Trouble> {
        let told = response.content_length();
        let too_long =
            || Trouble::Wrong(format!("it sent more than the {BLOCK_BYTES_MAX} bytes that a block may have"));
        let bytes_max = match told.map(usize::try_from) {
            Some(Ok(bytes)) if bytes <= BLOCK_BYTES_MAX => bytes,
            Some(_) => return Err(too_long()),
            None => BLOCK_BYTES_MAX,
        };
        let _room = self.reserve(bytes_max).await;
        let data = read_some(&mut response, BLOCK_BYTES_MAX).await?;
        if data.len() > BLOCK_BYTES_MAX {
            return Err(too_long());
        }
        // This is a task of its own, so hashing holds up nobody.
        Block::verify(cid, data).map_err(|error| match error {
            BlockError::Mismatch { .. } => Trouble::Wrong(format!("it sent something else than {cid}")),
            other => Trouble::Wrong(other.to_string()),
        })
    }

    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.share.bytes).acquire_many_owned(permits).await.ok()
    }
}

/// What an answer's head says.
enum Verdict {
    Ok,
    Missing,
    Trouble(Trouble),
}

async fn judge(response: &mut Response) -> Verdict {
    let status = response.status();
    match status {
        StatusCode::OK => Verdict::Ok,
        StatusCode::NOT_FOUND
        | StatusCode::GONE
        | StatusCode::FORBIDDEN
        | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => Verdict::Missing,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let wait = retry_after(response.headers(), SystemTime::now());
            let what = match wait {
                Some(wait) => format!("it answers {status} and asks to wait {} s", wait.as_secs()),
                None => format!("it answers {status}"),
            };
            Verdict::Trouble(Trouble::Busy { wait, what })
        }
        _ if status.is_redirection() => {
            Verdict::Trouble(Trouble::Wrong(format!("it redirects ({status}), and redirects are not followed")))
        }
        _ if status.is_server_error() => {
            let body = read_some(response, ERROR_BYTES_MAX).await.unwrap_or_default();
            if NOT_FOUND_TEXTS.iter().any(|text| body.starts_with(text.as_bytes())) {
                return Verdict::Missing;
            }
            Verdict::Trouble(Trouble::Failed(format!("it answers {status}")))
        }
        _ => Verdict::Trouble(Trouble::Wrong(format!("it answers {status}"))),
    }
}

/// Reads the body, at most one piece more than `bytes_max`.
async fn read_some(response: &mut Response, bytes_max: usize) -> Result<Bytes, Trouble> {
    let deadline = Instant::now() + RETRIEVAL_BODY_MAX;
    let mut pieces = BytesMut::new();
    loop {
        let stalled = deadline.min(Instant::now() + RETRIEVAL_STALL_MAX);
        match timeout_at(stalled, response.chunk()).await {
            Ok(Ok(None)) => return Ok(pieces.freeze()),
            Ok(Ok(Some(piece))) if pieces.is_empty() && piece.len() > bytes_max => return Ok(piece),
            Ok(Ok(Some(piece))) => {
                pieces.extend_from_slice(&piece);
                if pieces.len() > bytes_max {
                    return Ok(pieces.freeze());
                }
            }
            Ok(Err(error)) => return Err(Trouble::Failed(failure_of(error))),
            Err(_) => return Err(Trouble::Failed("its answer came too slowly".into())),
        }
    }
}

/// How long `Retry-After` says to wait: a number of seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default())
}

/// Why a request failed, without its URL: that is named anyway.
pub(crate) fn failure_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let innermost = innermost(&error);
    if let Some(refused) = innermost.downcast_ref::<ResolveError>() {
        return refused.to_string();
    }
    if error.is_connect() {
        return format!("it can't be connected to: {innermost}");
    }
    format!("the connection to it failed: {innermost}")
}

/// The innermost cause says what happened; the outer ones only where.
fn innermost<'error>(error: &'error (dyn Error + 'static)) -> &'error (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
