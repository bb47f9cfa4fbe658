//! Tokens of one account: those of its devices, each under a name, and those of its logins.

use super::{Accounts, AuthError, Identity, NewDeviceToken, now_ms};
use crate::model::UserId;
use crate::model::limits::{LOGINS_LISTED_MAX, TOKEN_NAME_CHARS_MAX, TOKENS_PER_ACCOUNT_MAX};
use crate::store::records::{Scopes, TokenId, TokenKind, TokenRecord};

/// A token that authorises requests, without the text that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// Its id, by which it is revoked.
    pub id: TokenId,
    /// Access or device token.
    pub kind: TokenKind,
    /// The device's name, for a device token.
    pub name: Option<String>,
    /// What requests it authorises.
    pub scopes: Scopes,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends, in milliseconds since the Unix epoch; never if absent.
    pub expires_ms: Option<i64>,
    /// When it was last used, to the minute, in milliseconds since the Unix epoch; not yet if absent.
    pub last_used_ms: Option<i64>,
}

impl Accounts {
    /// Makes a token for one device. The text is shown only now.
    pub async fn create_device_token(
        &self,
        user: UserId,
        new: NewDeviceToken,
    ) -> Result<(TokenView, String), AuthError> {
        if new.name.is_empty() || new.name.chars().count() > TOKEN_NAME_CHARS_MAX {
            return Err(AuthError::BadTokenName);
        }
        if !new.scopes.read && !new.scopes.write {
            return Err(AuthError::BadToken(
                "a token without a scope is good for nothing: give it read, write or both",
            ));
        }
        let now_ms = now_ms();
        if new.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            return Err(AuthError::BadToken("the token would have expired already: choose a time that is to come"));
        }
        let keys = self.keys();
        let record = new.record(user, keys.newest(), now_ms);
        let signed = keys.sign(&record)?;
        let view = self.token_view(record.clone());
        let stored = self
            .records
            .write(move |change| {
                if change.count_devices(user, TOKENS_PER_ACCOUNT_MAX)? >= TOKENS_PER_ACCOUNT_MAX {
                    return Ok(false);
                }
                change.put_token(&record)?;
                Ok(true)
            })
            .await?;
        if stored { Ok((view, signed)) } else { Err(AuthError::TooManyTokens) }
    }

    /// The tokens of an account that authorise requests: all of its devices, and those of its newest logins. It reads all that the
    /// account has: not for the event loop.
    pub fn tokens(&self, user: UserId) -> Result<Vec<TokenView>, AuthError> {
        let now_ms = now_ms();
        let mut records = self.records.tokens_of(user, |token| {
            token.kind != TokenKind::Refresh && token.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
        })?;
        records.reverse();
        let mut logins = 0;
        records.retain(|token| {
            logins += usize::from(token.kind == TokenKind::Access);
            token.kind == TokenKind::Device || logins <= LOGINS_LISTED_MAX
        });
        Ok(records.into_iter().map(|record| self.token_view(record)).collect())
    }

    /// Revokes a token of the account, and with an access token all that came from the same login. It stops working at once.
    pub async fn revoke_own_token(&self, identity: &Identity, id: TokenId) -> Result<(), AuthError> {
        // A device that is given up may take its own token back.
        if id != identity.token {
            identity.require_login()?;
        }
        self.revoke(Some(identity.user), id).await
    }

    /// Revokes a token, whoever owns it.
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), AuthError> {
        self.revoke(None, id).await
    }

    async fn revoke(&self, owner: Option<UserId>, id: TokenId) -> Result<(), AuthError> {
        let revoked = self
            .records
            .write(move |change| match change.token(id)? {
                Some(token) if owner.is_none_or(|owner| owner == token.user) => {
                    Ok(change.revoke_family(token.user, token.family, |_| true)? > 0)
                }
                _ => Ok(false),
            })
            .await?;
        self.sessions.forget();
        if revoked { Ok(()) } else { Err(AuthError::NoSuchToken) }
    }

    fn token_view(&self, record: TokenRecord) -> TokenView {
        let TokenRecord { id, kind, name, scopes, created_ms, expires_ms, last_used_ms, .. } = record;
        let last_used_ms = self.sessions.used(id).max(last_used_ms);
        TokenView { id, kind, name, scopes, created_ms, expires_ms, last_used_ms }
    }
}
