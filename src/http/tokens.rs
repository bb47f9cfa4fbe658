//! `/api/auth/tokens`: the tokens of one account, a name for each device. `admin` shows those of others in the same form.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::access::{LoggedIn, Reader, Writer};
use super::auth::uncached;
use super::body::JsonBody;
use super::error::ApiError;
use crate::auth::{NewDeviceToken, Scopes, TokenKind, TokenView};
use crate::model::time::rfc3339;
use crate::store::records::TokenId;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The longest life of a token, in days: a hundred years.
const DAYS_MAX: u32 = 36_500;

/// Where a token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A login.
    Access,
    /// It was made under a name.
    Device,
    /// A login; it only gets new tokens.
    Refresh,
}

impl From<TokenKind> for Kind {
    fn from(kind: TokenKind) -> Self {
        match kind {
            TokenKind::Access => Self::Access,
            TokenKind::Refresh => Self::Refresh,
            TokenKind::Device => Self::Device,
        }
    }
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Requests that change nothing.
    Read,
    /// Requests that change something.
    Write,
}

impl Scope {
    pub(super) fn list(scopes: Scopes) -> Vec<Self> {
        let granted = [(Self::Read, scopes.read), (Self::Write, scopes.write)];
        granted.into_iter().filter_map(|(scope, granted)| granted.then_some(scope)).collect()
    }
}

/// A token, without the text that authorises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// By this it is revoked.
    pub id: String,
    /// Where it comes from.
    pub kind: Kind,
    /// The name of the device, for a device's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub expires: Option<String>,
    /// When it was last used, to the minute; not yet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub last_used: Option<String>,
}

impl From<TokenView> for Token {
    fn from(view: TokenView) -> Self {
        Self {
            id: view.id.0.to_string(),
            kind: view.kind.into(),
            name: view.name,
            scopes: Scope::list(view.scopes),
            created: rfc3339(view.created_ms),
            expires: view.expires_ms.map(rfc3339),
            last_used: view.last_used_ms.map(rfc3339),
        }
    }
}

/// The tokens of an account, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// All tokens of devices, and those of the newest logins.
    pub tokens: Vec<Token>,
}

impl From<Vec<TokenView>> for TokenList {
    fn from(views: Vec<TokenView>) -> Self {
        Self { tokens: views.into_iter().map(Token::from).collect() }
    }
}

/// A token for one device that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The name of the device.
    #[schema(min_length = 1, max_length = 255, example = "laptop")]
    pub name: String,
    /// What it may be used for; for everything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub scopes: Option<Vec<Scope>>,
    /// Days until it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36500)]
    pub expires_in_days: Option<u32>,
}

impl NewToken {
    /// What `auth` makes of it.
    pub(super) fn checked(self) -> Result<NewDeviceToken, ApiError> {
        let Self { name, scopes, expires_in_days } = self;
        if expires_in_days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
            return Err(ApiError::bad_request(format!("\"expires_in_days\" must be from 1 to {DAYS_MAX}")));
        }
        let scopes = scopes.map_or(Scopes::ALL, |scopes| Scopes {
            read: scopes.contains(&Scope::Read),
            write: scopes.contains(&Scope::Write),
        });
        let now_ms = Timestamp::now().as_millisecond();
        let expires_ms = expires_in_days.map(|days| now_ms + i64::from(days) * DAY_MS);
        Ok(NewDeviceToken { name, scopes, expires_ms })
    }
}

/// A token that was made, with the text that authorises: it is shown only now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// The text to send as `Authorization: Bearer …`.
    pub token: String,
    /// What it is.
    #[serde(flatten)]
    pub about: Token,
}

impl From<(TokenView, String)> for MadeToken {
    fn from((view, token): (TokenView, String)) -> Self {
        Self { token, about: view.into() }
    }
}

/// The token that the path names; what can't be an id belongs to no token.
pub(super) struct NamedToken(pub(super) TokenId);

impl<S: Send + Sync> FromRequestParts<S> for NamedToken {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        let id = text.and_then(|Path(text)| Uuid::parse_str(&text).ok());
        id.map(|id| Self(TokenId(id))).ok_or_else(ApiError::no_such_token)
    }
}

/// List the tokens of the account
#[utoipa::path(get, path = "/tokens", operation_id = "list_tokens", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, description = "the tokens that authorise requests", body = TokenList)))]
pub(super) async fn list(State(state): State<AppState>, Reader(identity): Reader) -> Result<Response, ApiError> {
    let tokens = tokio::task::spawn_blocking(move || state.accounts.tokens(identity.user)).await;
    Ok(uncached(TokenList::from(tokens.map_err(|_| ApiError::stopping())??)))
}

/// Make a token for a device
///
/// Only with the token of a login: a device's token can't make others.
#[utoipa::path(post, path = "/tokens", operation_id = "create_token", tag = "accounts", security(("bearer" = [])), request_body = NewToken,
    responses((status = 201, description = "the token; its text is shown only now", body = MadeToken)))]
pub(super) async fn create(
    State(state): State<AppState>,
    LoggedIn(identity): LoggedIn,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, ApiError> {
    let made = state.accounts.create_device_token(identity.user, new.checked()?).await?;
    Ok((StatusCode::CREATED, uncached(MadeToken::from(made))).into_response())
}

/// Revoke a token
///
/// It stops working at once. The token of a login takes its refresh token along. A device's token can revoke only itself.
#[utoipa::path(delete, path = "/tokens/{id}", operation_id = "revoke_token", tag = "accounts", security(("bearer" = [])),
    params(("id" = String, Path, description = "the `id` of the token")),
    responses((status = 204, description = "it is revoked")))]
pub(super) async fn revoke(
    State(state): State<AppState>,
    Writer(identity): Writer,
    NamedToken(id): NamedToken,
) -> Result<StatusCode, ApiError> {
    state.accounts.revoke_own_token(&identity, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
