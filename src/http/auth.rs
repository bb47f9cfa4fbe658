//! Accounts over HTTP: the bearer token of each request, and `/api/auth`.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, State};
use axum::http::HeaderValue;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Json, RequestPartsExt};
use serde::{Deserialize, Serialize};

use super::AppState;
use super::body::FieldsBody;
use super::error::ApiError;
use super::pins::rfc3339;
use crate::auth::{Identity, TokenKind, TokenPair};

/// Where a request comes from; the server sets it on each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().copied().ok_or_else(ApiError::internal)
    }
}

/// Whoever has a valid token.
pub(super) struct Authenticated(pub(super) Identity);

/// Whoever has a token that may read.
pub(super) struct Reader(pub(super) Identity);

/// Whoever has a token that may write.
pub(super) struct Writer(pub(super) Identity);

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
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
        Ok(Self(state.accounts.authenticate(bearer)?))
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

#[derive(Deserialize)]
pub(super) struct Login {
    email: String,
    password: String,
}

#[derive(Deserialize)]
pub(super) struct Refresh {
    refresh_token: String,
}

#[derive(Serialize)]
struct Tokens {
    access_token: String,
    refresh_token: String,
    status: &'static str,
}

fn tokens(pair: TokenPair) -> Response {
    uncached(Tokens { access_token: pair.access, refresh_token: pair.refresh, status: "success" })
}

/// An answer that no cache may keep.
fn uncached(body: impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `POST /api/auth/login`
pub(super) async fn login(
    State(state): State<AppState>,
    ClientAddress(address): ClientAddress,
    FieldsBody(login): FieldsBody<Login>,
) -> Result<Response, ApiError> {
    Ok(tokens(state.accounts.login(&login.email, &login.password, address).await?))
}

/// `POST /api/auth/refresh`
pub(super) async fn refresh(
    State(state): State<AppState>,
    FieldsBody(refresh): FieldsBody<Refresh>,
) -> Result<Response, ApiError> {
    Ok(tokens(state.accounts.refresh(&refresh.refresh_token).await?))
}

/// `POST /api/auth/logout`
pub(super) async fn logout(
    State(state): State<AppState>,
    Authenticated(identity): Authenticated,
) -> Result<Response, ApiError> {
    state.accounts.logout(&identity).await?;
    Ok(uncached(serde_json::json!({ "status": "success" })))
}

#[derive(Serialize)]
struct Me {
    email: String,
    created: String,
    pinned: Pinned,
    token: MyToken,
}

/// What the account has pinned, each root once.
#[derive(Serialize)]
struct Pinned {
    roots: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct MyToken {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    scopes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

/// `GET /api/auth/me`
pub(super) async fn me(State(state): State<AppState>, Reader(identity): Reader) -> Result<Response, ApiError> {
    let user = state
        .accounts
        .user(identity.user)?
        .ok_or_else(|| ApiError::unauthorized("the account of this token is gone; log in to another one"))?;
    let kind = match identity.kind {
        TokenKind::Access => "access",
        TokenKind::Refresh => "refresh",
        TokenKind::Device => "device",
    };
    let scopes = [("read", identity.scopes.read), ("write", identity.scopes.write)];
    let token = MyToken {
        kind,
        name: identity.name,
        scopes: scopes.into_iter().filter_map(|(name, granted)| granted.then_some(name)).collect(),
        expires: identity.expires_ms.map(rfc3339),
    };
    let usage = state.accounts.usage(identity.user)?;
    let pinned = Pinned { roots: usage.roots, bytes: usage.bytes };
    Ok(uncached(Me { email: user.email, created: rfc3339(user.created_ms), pinned, token }))
}
