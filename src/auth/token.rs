//! Tokens: JWTs signed with HS256, each with a record. The record decides; the signature only spares the look-up for
//! made-up ones and lets a token carry its own end.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{AuthError, Options};
use crate::model::UserId;
use crate::store::records::{Change, Rotation, Scopes, TokenId, TokenKind, TokenRecord};
use crate::store::{Records, RecordsError};

/// Where the key that signs tokens is among the records.
const KEY_NAME: &str = "token_key";
/// How long a refresh token that was exchanged gives the same pair again, in milliseconds.
const ROTATION_GRACE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) const REVOKED: &str = "the token is unknown or was revoked; log in again";
pub(super) const EXPIRED: &str = "the token has expired; log in again";
const REUSED: &str = "this refresh token was used before; all tokens of its login are revoked, log in again";
const MALFORMED: &str = "the token is not one of this service; log in again";

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

/// Signs and verifies.
pub(super) struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Signer {
    /// Loads the key; the first time, makes it.
    pub(super) async fn open(records: &Records) -> Result<Self, AuthError> {
        let key: [u8; 32] = records
            .write(|change| {
                if let Some(key) = change.meta(KEY_NAME)? {
                    return Ok(key);
                }
                let mut key = [0; 32];
                rand::rng().fill(&mut key);
                change.set_meta(KEY_NAME, &key)?;
                Ok(key)
            })
            .await?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.leeway = 0;
        Ok(Self { encoding: EncodingKey::from_secret(&key), decoding: DecodingKey::from_secret(&key), validation })
    }

    /// The token of a record.
    pub(super) fn sign(&self, record: &TokenRecord) -> Result<String, AuthError> {
        let scopes: Vec<_> = [("read", record.scopes.read), ("write", record.scopes.write)]
            .into_iter()
            .filter(|scope| scope.1)
            .collect();
        let claims = Claims {
            sub: record.user.to_string(),
            jti: record.id,
            iat: record.created_ms.div_euclid(1000),
            exp: record.expires_ms.map(|expires_ms| expires_ms.div_euclid(1000)),
            kind: record.kind,
            scope: scopes.into_iter().map(|scope| scope.0).collect::<Vec<_>>().join(" "),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).map_err(AuthError::Sign)
    }

    /// The claims of a token that was signed here and has not expired. It may be revoked.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let decoded = decode::<Claims>(token, &self.decoding, &self.validation);
        decoded.map(|data| data.claims).map_err(|error| {
            AuthError::InvalidToken(match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => EXPIRED,
                _ => MALFORMED,
            })
        })
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
    pub(super) fn new_pair(self, user: UserId, family: TokenId, now_ms: i64) -> (TokenRecord, TokenRecord) {
        let token = |kind, lifetime_ms| TokenRecord {
            id: TokenId::new(),
            user,
            kind,
            family,
            name: None,
            scopes: Scopes::ALL,
            created_ms: now_ms,
            expires_ms: Some(now_ms.saturating_add(lifetime_ms)),
            rotated: None,
        };
        (token(TokenKind::Access, self.access_ms), token(TokenKind::Refresh, self.refresh_ms))
    }
}

/// A token for one device, without an end.
pub(super) fn device(user: UserId, name: &str, scopes: Scopes, now_ms: i64) -> TokenRecord {
    let id = TokenId::new();
    TokenRecord {
        id,
        user,
        kind: TokenKind::Device,
        family: id,
        name: Some(name.to_owned()),
        scopes,
        created_ms: now_ms,
        expires_ms: None,
        rotated: None,
    }
}

/// Exchanges the refresh token `id` for a new pair, or says why not.
pub(super) fn rotate(
    change: &Change<'_>,
    id: TokenId,
    lifetimes: Lifetimes,
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
    let (access, refresh) = lifetimes.new_pair(old.user, old.family, now_ms);
    old.rotated = Some(Rotation { at_ms: now_ms, access: access.id, refresh: refresh.id });
    // A family would otherwise grow for as long as its device refreshes.
    change.revoke_family(old.user, old.family, expired)?;
    for token in [&old, &access, &refresh] {
        change.put_token(token)?;
    }
    Ok(Ok((access, refresh)))
}
