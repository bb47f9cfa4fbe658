//! Tokens as they are stored. What one means is decided in `auth`.

use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::tables::{TOKENS, TOKENS_BY_USER, decode, encode};
use super::{Change, Records, RecordsError};
use crate::model::UserId;

/// The `jti` of a token, or the id of a family of tokens that came from one login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub Uuid);

impl TokenId {
    /// A new id; ids sort by the time they were made.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for TokenId {
    fn default() -> Self {
        Self::new()
    }
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Authorises requests; from a login.
    Access,
    /// Only gets a new pair of tokens.
    Refresh,
    /// Authorises requests; named after the device that it was made for.
    Device,
}

/// What requests a token authorises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Requests that change nothing.
    pub read: bool,
    /// Requests that change something.
    pub write: bool,
}

impl Scopes {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true };

    /// The names of what is granted.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [("read", self.read), ("write", self.write)].into_iter().filter_map(|(name, granted)| granted.then_some(name))
    }
}

/// The pair of tokens that a refresh token was exchanged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The new access token.
    pub access: TokenId,
    /// The new refresh token.
    pub refresh: TokenId,
}

/// A token that is valid, or that was exchanged. A revoked one has no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its `jti`.
    pub id: TokenId,
    /// Whose token it is.
    pub user: UserId,
    /// What it may be used for.
    pub kind: TokenKind,
    /// Shared by all tokens that came from one login; a device token is its own.
    pub family: TokenId,
    /// The device, for a device token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What requests it authorises.
    pub scopes: Scopes,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends, in milliseconds since the Unix epoch; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// When it was last used, in milliseconds since the Unix epoch, as far as that was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_ms: Option<i64>,
    /// The key that signed it.
    #[serde(default)]
    pub key: u32,
    /// What a refresh token was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Rotation>,
}

impl Records {
    /// The token with this `jti`; `None` when it never was or is revoked.
    pub fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, RecordsError> {
        let snapshot = self.read()?;
        let table = snapshot.open_table(TOKENS)?;
        table.get(id.0.as_bytes())?.map(|value| decode("tokens", value.value())).transpose()
    }
}

impl Records {
    /// The tokens of an account that `keep` wants, in the order in which their logins and devices were added. It reads all that the account
    /// has: not for the event loop.
    pub fn tokens_of(
        &self,
        user: UserId,
        mut keep: impl FnMut(&TokenRecord) -> bool,
    ) -> Result<Vec<TokenRecord>, RecordsError> {
        let transaction = self.read()?;
        let tokens = transaction.open_table(TOKENS)?;
        let by_user = transaction.open_table(TOKENS_BY_USER)?;
        let mut found = Vec::new();
        for entry in by_user.range((user.0, &[0; 16], &[0; 16])..=(user.0, &[0xff; 16], &[0xff; 16]))? {
            if let Some(value) = tokens.get(entry?.0.value().2)? {
                let token = decode("tokens", value.value())?;
                if keep(&token) {
                    found.push(token);
                }
            }
        }
        Ok(found)
    }
}

impl Change<'_> {
    /// The token with this `jti`.
    pub fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, RecordsError> {
        let table = self.transaction().open_table(TOKENS)?;
        let value = table.get(id.0.as_bytes())?;
        value.map(|value| decode("tokens", value.value())).transpose()
    }

    /// Stores a token, or a new state of it.
    pub fn put_token(&self, token: &TokenRecord) -> Result<(), RecordsError> {
        let jti = token.id.0.as_bytes();
        self.transaction().open_table(TOKENS)?.insert(jti, encode("tokens", token)?.as_slice())?;
        self.transaction().open_table(TOKENS_BY_USER)?.insert((token.user.0, token.family.0.as_bytes(), jti), ())?;
        Ok(())
    }

    /// Revokes one token; false when it is unknown.
    pub fn revoke_token(&self, id: TokenId) -> Result<bool, RecordsError> {
        let mut tokens = self.transaction().open_table(TOKENS)?;
        let removed: Option<TokenRecord> =
            tokens.remove(id.0.as_bytes())?.map(|value| decode("tokens", value.value())).transpose()?;
        let Some(token) = removed else { return Ok(false) };
        let key = (token.user.0, token.family.0.as_bytes(), token.id.0.as_bytes());
        self.transaction().open_table(TOKENS_BY_USER)?.remove(key)?;
        Ok(true)
    }

    /// Removes expired tokens among the first `tokens_max` of an account, which are those of its oldest logins; returns
    /// how many.
    pub fn remove_expired_tokens(&self, user: UserId, now_ms: i64, tokens_max: usize) -> Result<usize, RecordsError> {
        let mut by_user = self.transaction().open_table(TOKENS_BY_USER)?;
        let mut tokens = self.transaction().open_table(TOKENS)?;
        let mut expired = Vec::new();
        for entry in by_user.range((user.0, &[0; 16], &[0; 16])..=(user.0, &[0xff; 16], &[0xff; 16]))?.take(tokens_max)
        {
            let key = entry?.0;
            let (_, family, id) = key.value();
            let token: Option<TokenRecord> =
                tokens.get(id)?.map(|value| decode("tokens", value.value())).transpose()?;
            if token.is_none_or(|token| token.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)) {
                expired.push((*family, *id));
            }
        }
        for (family, id) in &expired {
            tokens.remove(id)?;
            by_user.remove((user.0, family, id))?;
        }
        Ok(expired.len())
    }

    /// Revokes every token that came from one login for which `revoke` says so; returns how many.
    pub fn revoke_family(
        &self,
        user: UserId,
        family: TokenId,
        mut revoke: impl FnMut(&TokenRecord) -> bool,
    ) -> Result<usize, RecordsError> {
        let mut by_user = self.transaction().open_table(TOKENS_BY_USER)?;
        let mut tokens = self.transaction().open_table(TOKENS)?;
        let family = family.0.as_bytes();
        let mut ids = Vec::new();
        for entry in by_user.range((user.0, family, &[0; 16])..=(user.0, family, &[0xff; 16]))? {
            ids.push(*entry?.0.value().2);
        }
        let mut revoked = 0;
        for id in ids {
            let token: Option<TokenRecord> =
                tokens.get(&id)?.map(|value| decode("tokens", value.value())).transpose()?;
            if token.is_none_or(|token| revoke(&token)) {
                tokens.remove(&id)?;
                by_user.remove((user.0, family, &id))?;
                revoked += 1;
            }
        }
        Ok(revoked)
    }

    /// Writes down when tokens were last used. Those that are gone meanwhile stay so.
    pub fn set_last_used(&self, used: &[(TokenId, i64)]) -> Result<(), RecordsError> {
        for &(id, at_ms) in used {
            if let Some(mut token) = self.token(id)?
                && token.last_used_ms.is_none_or(|last_ms| last_ms < at_ms)
            {
                token.last_used_ms = Some(at_ms);
                self.put_token(&token)?;
            }
        }
        Ok(())
    }

    /// Revokes every token that came from a login of this account, except those of the family `except`.
    pub fn revoke_logins(&self, user: UserId, except: Option<TokenId>) -> Result<(), RecordsError> {
        let mut tokens = self.transaction().open_table(TOKENS)?;
        let mut by_user = self.transaction().open_table(TOKENS_BY_USER)?;
        let mut revoked = Vec::new();
        for entry in by_user.range((user.0, &[0; 16], &[0; 16])..=(user.0, &[0xff; 16], &[0xff; 16]))? {
            let key = entry?.0;
            let (_, family, id) = key.value();
            let token: Option<TokenRecord> =
                tokens.get(id)?.map(|value| decode("tokens", value.value())).transpose()?;
            let is_login = token.is_none_or(|token| token.kind != TokenKind::Device);
            if is_login && except.is_none_or(|except| except.0.as_bytes() != family) {
                revoked.push((*family, *id));
            }
        }
        for (family, id) in &revoked {
            tokens.remove(id)?;
            by_user.remove((user.0, family, id))?;
        }
        Ok(())
    }

    /// How many device tokens an account has; it stops counting at `max`.
    pub fn count_devices(&self, user: UserId, max: usize) -> Result<usize, RecordsError> {
        let by_user = self.transaction().open_table(TOKENS_BY_USER)?;
        let mut devices = 0;
        for entry in by_user.range((user.0, &[0; 16], &[0; 16])..=(user.0, &[0xff; 16], &[0xff; 16]))? {
            let key = entry?.0;
            let (_, family, id) = key.value();
            // A device's token is its own family.
            devices += usize::from(family == id);
            if devices >= max {
                break;
            }
        }
        Ok(devices)
    }
}
