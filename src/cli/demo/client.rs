//! The demo's client: the few calls that a user's IPFS node makes, over real HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Characters of an answer that an error shows.
const SHOWN_CHARS_MAX: usize = 500;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer came, or none that is JSON of the expected form.
    #[error("{call} failed")]
    Call {
        /// Method and path.
        call: &'static str,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The service refused.
    #[error("{call} was answered with {status}: {body}")]
    Refused {
        /// Method and path.
        call: &'static str,
        /// The answer's status.
        status: StatusCode,
        /// The answer's beginning.
        body: String,
    },
    /// The endpoint isn't where the PSA is served.
    #[error("{0} is not the endpoint of a pinning service of pinnace")]
    Endpoint(String),
}

/// The fields of a PSA `PinStatus` that the demo looks at.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PinStatus {
    /// The pin's id.
    pub(super) requestid: String,
    /// `queued`, `pinning`, `pinned` or `failed`.
    pub(super) status: String,
    /// The service's own words about it.
    #[serde(default)]
    info: BTreeMap<String, String>,
}

impl PinStatus {
    /// Bytes of the blocks that are stored.
    pub(super) fn raw_size(&self) -> u64 {
        self.info.get("raw_size").and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
    }

    /// The sentence about how it goes.
    pub(super) fn details(&self) -> &str {
        self.info.get("status_details").map_or("no details", String::as_str)
    }
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
}

/// A client that has logged in.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Where the pins are, without a slash at the end.
    pins: String,
    token: String,
}

impl Client {
    /// Logs in with e-mail and password.
    pub(super) async fn log_in(endpoint: &str, email: &str, password: &str) -> Result<Self, ClientError> {
        const CALL: &str = "POST /api/auth/login";
        let base = endpoint.trim_end_matches('/').strip_suffix("/api/psa");
        let base = base.ok_or_else(|| ClientError::Endpoint(endpoint.to_owned()))?;
        let http = reqwest::Client::builder()
            // All is on loopback, where no proxy of this shell's environment belongs, and no certificate is looked at.
            .no_proxy()
            .tls_certs_only([])
            .timeout(CALL_MAX)
            .build()
            .map_err(|source| ClientError::Call { call: CALL, source })?;
        let login = http.post(format!("{base}/api/auth/login")).json(&json!({ "email": email, "password": password }));
        let tokens: Tokens = call(CALL, login).await?;
        Ok(Self { http, pins: format!("{base}/api/psa/pins"), token: tokens.access_token })
    }

    /// Asks for a pin.
    pub(super) async fn add(&self, cid: &str, name: &str, origins: &[String]) -> Result<PinStatus, ClientError> {
        let body = json!({ "cid": cid, "name": name, "origins": origins });
        call("POST /api/psa/pins", self.http.post(&self.pins).bearer_auth(&self.token).json(&body)).await
    }

    /// Reads a pin.
    pub(super) async fn get(&self, requestid: &str) -> Result<PinStatus, ClientError> {
        let url = format!("{}/{requestid}", self.pins);
        call("GET /api/psa/pins/{requestid}", self.http.get(url).bearer_auth(&self.token)).await
    }
}

async fn call<T: DeserializeOwned>(call: &'static str, request: RequestBuilder) -> Result<T, ClientError> {
    let failed = |source| ClientError::Call { call, source };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    if !status.is_success() {
        let body = answer.text().await.map_err(failed)?.chars().take(SHOWN_CHARS_MAX).collect();
        return Err(ClientError::Refused { call, status, body });
    }
    answer.json().await.map_err(failed)
}
