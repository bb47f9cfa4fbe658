//! Accounts and tokens as they are stored. What a password or a token means is decided in `auth`.

use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::tables::{TOKENS, TOKENS_BY_USER, USERS, USERS_BY_EMAIL, decode, encode};
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

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its number.
    pub id: UserId,
    /// Its e-mail address, in lower case.
    pub email: String,
    /// Its password's hash, as a PHC string.
    pub password_hash: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// An account that is to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Its e-mail address, in lower case.
    pub email: String,
    /// Its password's hash, as a PHC string.
    pub password_hash: String,
    /// Now, in milliseconds since the Unix epoch.
    pub created_ms: i64,
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
    /// What a refresh token was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Rotation>,
}

impl Records {
    /// Whether there is any account.
    pub fn has_users(&self) -> Result<bool, RecordsError> {
        Ok(self.read()?.open_table(USERS)?.first()?.is_some())
    }

    /// The account that was made first, which is the operator's.
    pub fn first_user(&self) -> Result<Option<UserRecord>, RecordsError> {
        let table = self.read()?.open_table(USERS)?;
        table.first()?.map(|(_, value)| decode("users", value.value())).transpose()
    }

    /// The account with this number.
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, RecordsError> {
        let table = self.read()?.open_table(USERS)?;
        table.get(id.0)?.map(|value| decode("users", value.value())).transpose()
    }

    /// The account with this e-mail address, which must be in lower case.
    pub fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, RecordsError> {
        let transaction = self.read()?;
        let Some(id) = transaction.open_table(USERS_BY_EMAIL)?.get(email)?.map(|id| id.value()) else {
            return Ok(None);
        };
        let table = transaction.open_table(USERS)?;
        table.get(id)?.map(|value| decode("users", value.value())).transpose()
    }

    /// The token with this `jti`; `None` when it never was or is revoked.
    pub fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, RecordsError> {
        let table = self.read()?.open_table(TOKENS)?;
        table.get(id.0.as_bytes())?.map(|value| decode("tokens", value.value())).transpose()
    }
}

impl Change<'_> {
    /// Whether there is any account.
    pub fn has_users(&self) -> Result<bool, RecordsError> {
        Ok(self.transaction().open_table(USERS)?.first()?.is_some())
    }

    /// Makes an account; `None` when its e-mail address is taken.
    pub fn create_user(&self, new: NewUser) -> Result<Option<UserRecord>, RecordsError> {
        let mut by_email = self.transaction().open_table(USERS_BY_EMAIL)?;
        if by_email.get(new.email.as_str())?.is_some() {
            return Ok(None);
        }
        let mut users = self.transaction().open_table(USERS)?;
        let id = UserId(users.last()?.map_or(1, |(id, _)| id.value() + 1));
        let NewUser { email, password_hash, created_ms } = new;
        let user = UserRecord { id, email, password_hash, created_ms };
        users.insert(id.0, encode("users", &user)?.as_slice())?;
        by_email.insert(user.email.as_str(), id.0)?;
        Ok(Some(user))
    }

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
}
