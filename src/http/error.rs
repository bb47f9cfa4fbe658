//! What clients see when a request fails: one JSON shape for all, `{"error":{"reason","details"}}`, as the Pinning
//! Services API has it. What is internal goes to the log only.

use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::net::probe::ProbeError;
use crate::pins::PinError;

/// How many requests a token may make now.
pub(super) const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// The request can't be understood or accepted.
const BAD_REQUEST: &str = "BAD_REQUEST";
/// There is no valid token.
const UNAUTHORIZED: &str = "UNAUTHORIZED";
/// The token is not enough.
const FORBIDDEN: &str = "FORBIDDEN";
/// There is no such path or pin.
const NOT_FOUND: &str = "NOT_FOUND";
/// The account has used up what it may.
const INSUFFICIENT_FUNDS: &str = "INSUFFICIENT_FUNDS";
/// The path knows other methods.
const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
/// Something is in no state for this.
const CONFLICT: &str = "CONFLICT";
/// The body didn't come in time.
const REQUEST_TIMEOUT: &str = "REQUEST_TIMEOUT";
/// The body is too large.
const PAYLOAD_TOO_LARGE: &str = "PAYLOAD_TOO_LARGE";
/// The client has to wait.
const TOO_MANY_REQUESTS: &str = "TOO_MANY_REQUESTS";
/// Something here failed.
const INTERNAL_SERVER_ERROR: &str = "INTERNAL_SERVER_ERROR";
/// The service is stopping.
const SERVICE_UNAVAILABLE: &str = "SERVICE_UNAVAILABLE";

/// A failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    reason: &'static str,
    details: String,
    wait: Option<Duration>,
    /// Whether the token has no request left for now.
    is_rate_limited: bool,
}

/// Why a request failed.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    error: FailureError,
}

/// What is wrong, for programs and for people.
#[derive(Serialize, ToSchema)]
struct FailureError {
    /// A constant in capitals.
    reason: &'static str,
    /// A sentence that says what to do.
    details: String,
}

impl ApiError {
    fn new(status: StatusCode, reason: &'static str, details: impl Into<String>) -> Self {
        Self { status, reason, details: details.into(), wait: None, is_rate_limited: false }
    }

    pub(super) fn bad_request(details: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, BAD_REQUEST, details)
    }

    pub(super) fn unauthorized(details: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, details)
    }

    pub(super) fn not_found(details: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND, details)
    }

    pub(super) fn conflict(details: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, CONFLICT, details)
    }

    pub(super) fn forbidden(details: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, FORBIDDEN, details)
    }

    pub(super) fn no_such_token() -> Self {
        Self::not_found("this account has no token with this id; list the tokens to see which it has")
    }

    pub(super) fn no_such_pin() -> Self {
        Self::not_found("this account has no pin with this requestid; list the pins to see which it has")
    }

    pub(super) fn no_webhook() -> Self {
        Self::not_found("this account has no webhook; set one with a PUT")
    }

    pub(super) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            SERVICE_UNAVAILABLE,
            "the service is stopping; send the request again in a moment",
        )
    }

    /// Not now; the sentence says what to do instead.
    pub(super) fn unavailable(details: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVICE_UNAVAILABLE, details)
    }

    pub(super) fn too_large(bytes_max: usize, advice: &str) -> Self {
        let details = format!("the body is larger than {bytes_max} bytes; {advice}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, PAYLOAD_TOO_LARGE, details)
    }

    pub(super) fn body_timeout(after: Duration) -> Self {
        let details = format!("the body did not come within {} seconds; send the request again", after.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT, details)
    }

    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            INTERNAL_SERVER_ERROR,
            "the service failed to handle this request; its operator finds the cause in the log",
        )
    }

    fn wait(wait: Duration, details: &str) -> Self {
        let seconds = seconds_up(wait);
        let details = format!("{details}; try again in {seconds} s");
        Self { wait: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_REQUESTS, details) }
    }
}

/// Whole seconds, at least one: what `Retry-After` can say.
fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let failure = Failure { error: FailureError { reason: self.reason, details: self.details } };
        let mut response = (self.status, Json(failure)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.wait {
            response.headers_mut().insert(RETRY_AFTER, seconds_up(wait).into());
        }
        if self.is_rate_limited {
            // Clients that know this header sleep.
            response.headers_mut().insert(RATE_LIMIT_REMAINING, HeaderValue::from_static("0"));
        }
        response
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match &error {
            AuthError::WrongCredentials => Self::unauthorized("the e-mail address or the password is wrong"),
            AuthError::InvalidToken(reason) => Self::unauthorized(*reason),
            AuthError::MissingScope(scope) => {
                Self::forbidden(format!("the token lacks the scope \"{scope}\"; use one that has it"))
            }
            AuthError::WrongPassword => Self::forbidden("\"current_password\" is wrong; nothing was changed"),
            AuthError::LoginNeeded => {
                Self::forbidden("a device's token can't do this; log in and use the access token that you get")
            }
            AuthError::NotAdmin => Self::forbidden("only admins may do this; ask the operator of this service"),
            AuthError::RegistrationClosed => {
                Self::forbidden("nobody can make an account here; ask the operator of this service for one")
            }
            AuthError::EmailTaken => {
                Self::conflict("there is an account with this e-mail address already; log in to it, or choose another")
            }
            AuthError::LastAdmin => {
                Self::conflict("this is the last active admin; make another account an admin first")
            }
            AuthError::TooManyTokens => Self::conflict(format!("{error}; revoke some that are no longer used")),
            AuthError::NoSuchAccount(_) => Self::not_found(error.to_string()),
            AuthError::NoSuchToken => Self::no_such_token(),
            AuthError::TooManyRequests { per_second, wait } => {
                let details = format!("this token makes more than {per_second} requests a second");
                Self { is_rate_limited: true, ..Self::wait(*wait, &details) }
            }
            AuthError::TooManyAttempts { wait } => {
                Self::wait(*wait, "too many failed logins for this account from this address")
            }
            AuthError::Busy => Self::wait(Duration::from_secs(1), "too many logins at the same time"),
            AuthError::BadTokenName | AuthError::BadAccount(_) | AuthError::BadToken(_) | AuthError::BadLifetime => {
                Self::bad_request(error.to_string())
            }
            AuthError::BadAdmin(_) | AuthError::Records(_) | AuthError::Hash(_) | AuthError::Sign(_) => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<PinError> for ApiError {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Invalid(details) => Self::bad_request(details),
            PinError::NoSuchAccount(details) => Self::not_found(details),
            PinError::NotFound => Self::no_such_pin(),
            PinError::OverQuota(details) => Self::new(StatusCode::CONFLICT, INSUFFICIENT_FUNDS, details),
            PinError::AccountClosed => Self::unauthorized("the account of this token is gone; log in to another one"),
            PinError::TooFast { wait } => Self::wait(wait, "this account makes more than 1,000 pins a second"),
            PinError::Records(error) => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
            PinError::NotFailed(_) => Self::conflict(error.to_string()),
            PinError::Stopping => Self::stopping(),
        }
    }
}

impl From<ProbeError> for ApiError {
    fn from(error: ProbeError) -> Self {
        let ProbeError::Busy { wait } = error;
        Self::wait(wait, &error.to_string())
    }
}

/// Answers on every path that isn't served.
pub(super) async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    let details = format!(
        "there is nothing at {path}; the pinning API is at /api/psa, accounts are at /api/auth, and /api/docs describes both"
    );
    ApiError::not_found(details)
}

/// Answers to every method that a path doesn't know; the router adds `Allow`.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let method: String = method.as_str().chars().take(20).collect();
    let details = format!("{} does not know {method}; the \"Allow\" header says what it knows", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_to_whole_seconds() {
        assert_eq!(seconds_up(Duration::ZERO), 1);
        assert_eq!(seconds_up(Duration::from_millis(1)), 1);
        assert_eq!(seconds_up(Duration::from_secs(2)), 2);
        assert_eq!(seconds_up(Duration::from_millis(2001)), 3);
    }
}
