//! Tokens: JWTs signed with HS256 (`keys`), each with a record. The record decides; the signature only spares the look-up for
//! made-up ones and lets a token carry its own end.

use serde::{Deserialize, Serialize};

use super::Options;
use crate::model::UserId;
use crate::store::RecordsError;
use crate::store::records::{Change, Rotation, Scopes, TokenId, TokenKind, TokenRecord};

/// How long a refresh token that was exchanged gives the same pair again, in milliseconds.
const ROTATION_GRACE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) const REVOKED: &str = "the token is unknown or was revoked; log in again";
pub(super) const EXPIRED: &str = "the token has expired; log in again";
pub(super) const REUSED: &str = "this refresh token was used before; all tokens of its login are revoked, log in again";
pub(super) const MALFORMED: &str = "the token is not one of this service; log in again";

/// What a token says of itself. Everything comes from its record, so that signing it again gives the same text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    sub: String,
    pub(super) jti: TokenId,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    pub(super) kind: TokenKind,
    scope: String,
}

impl Claims {
    /// What the token of a record says.
    pub(super) fn of(record: &TokenRecord) -> Self {
        let scopes: Vec<_> = record.scopes.names().collect();
        Self {
            sub: record.user.to_string(),
            jti: record.id,
            iat: record.created_ms.div_euclid(1000),
            exp: record.expires_ms.map(|expires_ms| expires_ms.div_euclid(1000)),
            kind: record.kind,
            scope: scopes.join(" "),
        }
    }
}

/// How long tokens are valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    access_ms: i64,
    refresh_ms: i64,
}

impl Lifetimes {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            access_ms: i64::from(options.access_token_days) * DAY_MS,
            refresh_ms: i64::from(options.refresh_token_days) * DAY_MS,
        }
    }

    /// An access and a refresh token.
    pub(super) fn new_pair(self, user: UserId, family: TokenId, key: u32, now_ms: i64) -> (TokenRecord, TokenRecord) {
        let token = |kind, lifetime_ms| TokenRecord {
            id: TokenId::new(),
            user,
            kind,
            family,
            name: None,
            scopes: Scopes::ALL,
            created_ms: now_ms,
            expires_ms: Some(now_ms.saturating_add(lifetime_ms)),
            last_used_ms: None,
            key,
            rotated: None,
        };
        (token(TokenKind::Access, self.access_ms), token(TokenKind::Refresh, self.refresh_ms))
    }
}

/// A token for one device that is to be made.
#[derive(Debug, Clone)]
pub struct NewDeviceToken {
    /// The name of the device.
    pub name: String,
    /// What requests it authorises.
    pub scopes: Scopes,
    /// When it ends, in milliseconds since the Unix epoch; never if absent.
    pub expires_ms: Option<i64>,
}

impl NewDeviceToken {
    pub(super) fn record(self, user: UserId, key: u32, now_ms: i64) -> TokenRecord {
        let id = TokenId::new();
        TokenRecord {
            id,
            user,
            kind: TokenKind::Device,
            family: id,
            name: Some(self.name),
            scopes: self.scopes,
            created_ms: now_ms,
            expires_ms: self.expires_ms,
            last_used_ms: None,
            key,
            rotated: None,
        }
    }
}

/// Exchanges the refresh token `id` for a new pair, or says why not.
pub(super) fn rotate(
    change: &Change<'_>,
    id: TokenId,
    lifetimes: Lifetimes,
    key: u32,
    now_ms: i64,
) -> Result<Result<(TokenRecord, TokenRecord), &'static str>, RecordsError> {
    let Some(mut old) = change.token(id)? else { return Ok(Err(REVOKED)) };
    let expired = |token: &TokenRecord| token.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms);
    if expired(&old) {
        return Ok(Err(EXPIRED));
    }
    if let Some(rotated) = old.rotated {
        if now_ms.saturating_sub(rotated.at_ms) > ROTATION_GRACE_MS {
            change.revoke_family(old.user, old.family, |_| true)?;
            return Ok(Err(REUSED));
        }
        return Ok(change.token(rotated.access)?.zip(change.token(rotated.refresh)?).ok_or(REVOKED));
    }
    let (access, refresh) = lifetimes.new_pair(old.user, old.family, key, now_ms);
    old.rotated = Some(Rotation { at_ms: now_ms, access: access.id, refresh: refresh.id });
    // A family would otherwise grow for as long as its device refreshes.
    change.revoke_family(old.user, old.family, expired)?;
    for token in [&old, &access, &refresh] {
        change.put_token(token)?;
    }
    Ok(Ok((access, refresh)))
}
