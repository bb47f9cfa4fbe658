//! Who may send a request: the extractors that handlers name, so that none is reached without.

use std::sync::Arc;
use std::time::Duration;

use axum::RequestPartsExt;
use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::AppState;
use super::error::ApiError;
use crate::auth::{Accounts, Identity};
use crate::pins::Owner;

/// Whoever has a valid token.
pub(super) struct Authenticated(pub(super) Arc<Identity>);

/// Whoever has a token that may read.
pub(super) struct Reader(pub(super) Arc<Identity>);

/// Whoever has a token that may write.
pub(super) struct Writer(pub(super) Arc<Identity>);

/// Whoever has logged in: a token that may write and isn't a device's.
pub(super) struct LoggedIn(pub(super) Arc<Identity>);

impl<S> FromRequestParts<S> for Authenticated
where
    Arc<Accounts>: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).ok_or_else(|| {
            ApiError::unauthorized("the access token is missing; send it as \"Authorization: Bearer TOKEN\"")
        })?;
        let bearer = header.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let bearer = bearer.filter(|token| !token.is_empty()).ok_or_else(|| {
            ApiError::unauthorized("the Authorization header must be of the form \"Authorization: Bearer TOKEN\"")
        })?;
        Ok(Self(Arc::<Accounts>::from_ref(state).authenticate(bearer)?))
    }
}

impl FromRequestParts<AppState> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Authenticated(identity) = parts.extract_with_state(state).await?;
        identity.require_read()?;
        Ok(Self(identity))
    }
}

impl FromRequestParts<AppState> for Writer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Authenticated(identity) = parts.extract_with_state(state).await?;
        identity.require_write()?;
        Ok(Self(identity))
    }
}

impl FromRequestParts<AppState> for LoggedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Writer(identity) = parts.extract_with_state(state).await?;
        identity.require_login()?;
        Ok(Self(identity))
    }
}

/// The account as the owner of pins.
pub(super) fn owner(identity: &Identity) -> Owner {
    let pin_lifetime = identity.pin_lifetime_s.map(Duration::from_secs);
    Owner { user: identity.user, quota: identity.quota, pin_lifetime }
}

/// Lets only admins through: to look with a token that may read, to change something with that of a login.
pub(super) async fn require_admin(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let Authenticated(identity) = parts.extract_with_state(&state).await?;
    identity.require_admin()?;
    if matches!(parts.method, Method::GET | Method::HEAD) {
        identity.require_read()?;
    } else {
        identity.require_write()?;
        identity.require_login()?;
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}
