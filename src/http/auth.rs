//! `/api/auth`: an account by its password, and what its owner is told of it.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::access::{Authenticated, LoggedIn, Reader, owner};
use super::admin::accounts::{Account, Pinned, QuotaJson};
use super::body::{FieldsBody, JsonBody};
use super::error::ApiError;
use super::tokens::{Kind, Scope};
use crate::auth::{Role, TokenPair};
use crate::model::time::rfc3339;

/// Where a request comes from; the server sets it on each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().copied().ok_or_else(ApiError::internal)
    }
}

/// An e-mail address and a password.
#[derive(Deserialize, ToSchema)]
pub(super) struct Credentials {
    /// The account's e-mail address; upper and lower case are the same.
    #[schema(example = "you@example.org")]
    email: String,
    /// The account's password.
    #[schema(format = Password)]
    password: String,
}

/// An account that is to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct Registration {
    /// The account's e-mail address; upper and lower case are the same.
    #[schema(max_length = 254, pattern = r"^\s*[^@\s]+@\S+\s*$", example = "you@example.org")]
    email: String,
    /// The account's password.
    #[schema(min_length = 8, max_length = 256, format = Password)]
    password: String,
}

/// A refresh token.
#[derive(Deserialize, ToSchema)]
pub(super) struct Refresh {
    /// The `refresh_token` of a login, or of the last refresh.
    refresh_token: String,
}

/// A change of password.
#[derive(Deserialize, ToSchema)]
pub(super) struct PasswordChange {
    /// The password of now.
    #[schema(format = Password)]
    current_password: String,
    /// The password from now on.
    #[schema(min_length = 8, max_length = 256, format = Password)]
    new_password: String,
}

/// The tokens of a login.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    /// Authorises requests, as `Authorization: Bearer …`.
    access_token: String,
    /// Gets the next pair of tokens.
    refresh_token: String,
    status: Success,
}

/// That something was done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    status: Success,
}

/// The one value of a status that says that all went well.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Success {
    Success,
}

fn tokens(pair: TokenPair) -> Response {
    uncached(Tokens { access_token: pair.access, refresh_token: pair.refresh, status: Success::Success })
}

fn done() -> Response {
    uncached(Done { status: Success::Success })
}

/// An answer that no cache may keep.
pub(super) fn uncached(body: impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Log in
///
/// The access token works as it is with `ipfs pin remote service add`.
#[utoipa::path(post, path = "/login", tag = "accounts", request_body(content(
    (Credentials = "application/json"),
    (Credentials = "application/x-www-form-urlencoded"),
)), responses((status = 200, description = "a pair of tokens", body = Tokens)))]
pub(super) async fn login(
    State(state): State<AppState>,
    ClientAddress(address): ClientAddress,
    FieldsBody(login): FieldsBody<Credentials>,
) -> Result<Response, ApiError> {
    Ok(tokens(state.accounts.login(&login.email, &login.password, address).await?))
}

/// Make an account
///
/// Refused with 403 unless the operator has opened registration.
#[utoipa::path(post, path = "/register", tag = "accounts", request_body(content(
    (Registration = "application/json"),
    (Registration = "application/x-www-form-urlencoded"),
)), responses((status = 201, description = "the account", body = Account)))]
pub(super) async fn register(
    State(state): State<AppState>,
    ClientAddress(address): ClientAddress,
    FieldsBody(new): FieldsBody<Registration>,
) -> Result<Response, ApiError> {
    let account = state.accounts.register(&new.email, &new.password, address).await?;
    Ok((StatusCode::CREATED, uncached(Account::from(account))).into_response())
}

/// Get a new pair of tokens
///
/// The old refresh token is spent. Sent again within a minute it gives the same pair, as the answer may have been lost; after
/// that all tokens of its login are revoked. Access tokens that are out stay valid.
#[utoipa::path(post, path = "/refresh", tag = "accounts", request_body(content(
    (Refresh = "application/json"),
    (Refresh = "application/x-www-form-urlencoded"),
)), responses((status = 200, description = "a pair of tokens", body = Tokens)))]
pub(super) async fn refresh(
    State(state): State<AppState>,
    FieldsBody(refresh): FieldsBody<Refresh>,
) -> Result<Response, ApiError> {
    Ok(tokens(state.accounts.refresh(&refresh.refresh_token).await?))
}

/// Log out
///
/// Revokes the token that is sent and all that came from the same login.
#[utoipa::path(post, path = "/logout", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, description = "done", body = Done)))]
pub(super) async fn logout(
    State(state): State<AppState>,
    Authenticated(identity): Authenticated,
) -> Result<Response, ApiError> {
    state.accounts.logout(&identity).await?;
    Ok(done())
}

/// Change the password
///
/// All other logins of the account end; tokens of devices stay.
#[utoipa::path(post, path = "/password", operation_id = "change_password", tag = "accounts", security(("bearer" = [])), request_body = PasswordChange,
    responses((status = 200, description = "done", body = Done)))]
pub(super) async fn password(
    State(state): State<AppState>,
    ClientAddress(address): ClientAddress,
    LoggedIn(identity): LoggedIn,
    JsonBody(change): JsonBody<PasswordChange>,
) -> Result<Response, ApiError> {
    let PasswordChange { current_password, new_password } = change;
    state.accounts.change_password(&identity, &current_password, &new_password, address).await?;
    Ok(done())
}

/// The account of a token, and the token.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    email: String,
    role: &'static str,
    /// When the account was made.
    #[schema(value_type = String, format = DateTime)]
    created: String,
    quota: QuotaJson,
    pinned: Pinned,
    /// Pins in any status.
    pins: u64,
    /// Seconds until a pin goes by itself whose `meta` doesn't say when; it doesn't if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pin_lifetime_seconds: Option<u64>,
    token: MyToken,
}

/// The token that was sent.
#[derive(Serialize, ToSchema)]
struct MyToken {
    #[schema(value_type = String)]
    id: String,
    kind: Kind,
    /// The name of the device, for a device's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
    scopes: Vec<Scope>,
    /// When it ends; never if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    expires: Option<String>,
}

/// Who am I
#[utoipa::path(get, path = "/me", operation_id = "get_account", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, description = "the account of the token", body = Me)))]
pub(super) async fn me(State(state): State<AppState>, Reader(identity): Reader) -> Result<Response, ApiError> {
    let user = state
        .accounts
        .user(identity.user)?
        .ok_or_else(|| ApiError::unauthorized("the account of this token is gone; log in to another one"))?;
    let token = MyToken {
        id: identity.token.0.to_string(),
        kind: identity.kind.into(),
        name: identity.name.clone(),
        scopes: Scope::list(identity.scopes),
        expires: identity.expires_ms.map(rfc3339),
    };
    Ok(uncached(Me {
        email: user.email,
        role: Role::as_str(identity.role),
        created: rfc3339(user.created_ms),
        quota: identity.quota.into(),
        pinned: state.accounts.usage(identity.user)?.into(),
        pins: state.accounts.count_pins(identity.user)?,
        pin_lifetime_seconds: state.pins.pin_lifetime(&owner(&identity)).map(|lifetime| lifetime.as_secs()),
        token,
    }))
}
