//! What a client does with an account by its password: log in and out, keep logged in, register, change the password.

use std::net::IpAddr;
use std::time::Instant;

use super::{
    AccountView, Accounts, AuthError, Identity, NewAccount, Quota, Registration, Role, TokenPair, attempts,
    check_email, check_lifetime, check_password, normalize_email, now_ms, require_active, token,
};
use crate::model::UserId;
use crate::model::limits::LOGIN_TOKENS_CHECKED_MAX;
use crate::store::records::{NewUser, TokenId, TokenKind};

impl Accounts {
    /// Exchanges an e-mail address and a password for tokens. `address` is where the request comes from.
    pub async fn login(&self, email: &str, password: &str, address: IpAddr) -> Result<TokenPair, AuthError> {
        let email = normalize_email(email);
        let attempt = attempts::Key::new(&email, address);
        self.attempts().begin(&attempt, Instant::now()).map_err(|wait| AuthError::TooManyAttempts { wait })?;

        let user = self.records.user_by_email(&email)?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        if !self.passwords.verify(password, hash).await? {
            return Err(AuthError::WrongCredentials);
        }
        let Some(user) = user else { return Err(AuthError::WrongCredentials) };
        self.attempts().succeeded(&attempt);
        // Only who knows the password learns that.
        require_active(&user)?;

        let (access, refresh) = self.lifetimes.new_pair(user.id, TokenId::new(), self.keys().newest(), now_ms());
        let pair = self.sign_pair(&access, &refresh)?;
        let hash = user.password_hash;
        let is_current = self
            .records
            .write(move |change| {
                // The password may have been changed, or the account disabled, while this one was hashed.
                let account = change.user(access.user)?;
                if account.is_none_or(|account| account.password_hash != hash || require_active(&account).is_err()) {
                    return Ok(false);
                }
                // A client that logs in for each run would otherwise leave its tokens for ever.
                change.remove_expired_tokens(access.user, access.created_ms, LOGIN_TOKENS_CHECKED_MAX)?;
                change.put_token(&access)?;
                change.put_token(&refresh)?;
                Ok(true)
            })
            .await?;
        if is_current { Ok(pair) } else { Err(AuthError::WrongCredentials) }
    }

    /// Exchanges a refresh token for a new pair. Access tokens that are out already stay valid.
    ///
    /// The same token again gives the same pair for a while, since its answer may have been lost; after that it must
    /// have been stolen, by the one or the other, so all tokens of its login are revoked.
    pub async fn refresh(&self, refresh_token: &str) -> Result<TokenPair, AuthError> {
        let keys = self.keys();
        let claims = keys.verify(refresh_token)?;
        if claims.kind != TokenKind::Refresh {
            return Err(AuthError::InvalidToken(
                "this is not a refresh token; send the \"refresh_token\" of the login",
            ));
        }
        let (id, lifetimes, key) = (claims.jti, self.lifetimes, keys.newest());
        let rotated = self
            .records
            .write(move |change| {
                if let Some(token) = change.token(id)?
                    && let Some(account) = change.user(token.user)?
                    && let Err(AuthError::InvalidToken(reason)) = require_active(&account)
                {
                    return Ok(Err(reason));
                }
                token::rotate(change, id, lifetimes, key, now_ms())
            })
            .await?;
        if rotated == Err(token::REUSED) {
            self.sessions.forget();
        }
        let (access, refresh) = rotated.map_err(AuthError::InvalidToken)?;
        self.sign_pair(&access, &refresh)
    }

    /// Revokes the token of this identity and all that came from the same login.
    pub async fn logout(&self, identity: &Identity) -> Result<(), AuthError> {
        let Identity { user, family, .. } = *identity;
        self.records.write(move |change| change.revoke_family(user, family, |_| true)).await?;
        self.sessions.forget();
        Ok(())
    }

    /// Makes an account for whoever asks, if that is allowed. `address` is where the request comes from.
    pub async fn register(&self, email: &str, password: &str, address: IpAddr) -> Result<AccountView, AuthError> {
        if self.registration == Registration::Closed {
            return Err(AuthError::RegistrationClosed);
        }
        // Each counts as a failure, for all e-mail addresses together: nobody needs many accounts.
        let attempt = attempts::Key::new("", address);
        self.attempts().begin(&attempt, Instant::now()).map_err(|wait| AuthError::TooManyAttempts { wait })?;
        let new = NewAccount {
            email: email.to_owned(),
            password: password.to_owned(),
            role: Role::User,
            quota: Quota::NONE,
            pin_lifetime_s: None,
        };
        self.create_account(new).await
    }

    /// Changes the password of an account whose owner knows the present one. All its other logins end; device tokens stay.
    pub async fn change_password(
        &self,
        identity: &Identity,
        current: &str,
        new: &str,
        address: IpAddr,
    ) -> Result<(), AuthError> {
        check_password(new).map_err(AuthError::BadAccount)?;
        let gone = AuthError::InvalidToken(token::REVOKED);
        let Some(account) = self.records.user(identity.user)? else { return Err(gone) };
        let attempt = attempts::Key::new(&account.email, address);
        self.attempts().begin(&attempt, Instant::now()).map_err(|wait| AuthError::TooManyAttempts { wait })?;
        if !self.passwords.verify(current, Some(account.password_hash.clone())).await? {
            return Err(AuthError::WrongPassword);
        }
        self.attempts().succeeded(&attempt);
        self.put_password(account.id, new, Some(identity.family)).await
    }

    /// Sets a password and ends all logins of the account but one.
    pub(super) async fn put_password(
        &self,
        user: UserId,
        password: &str,
        except: Option<TokenId>,
    ) -> Result<(), AuthError> {
        let password_hash = self.passwords.hash(password).await?;
        self.records
            .write(move |change| {
                if let Some(mut account) = change.user(user)? {
                    account.password_hash = password_hash;
                    change.put_user(&account)?;
                    change.revoke_logins(user, except)?;
                }
                Ok(())
            })
            .await?;
        self.sessions.forget();
        Ok(())
    }

    /// Makes an account.
    pub async fn create_account(&self, new: NewAccount) -> Result<AccountView, AuthError> {
        let NewAccount { email, password, role, quota, pin_lifetime_s } = new;
        check_lifetime(pin_lifetime_s)?;
        check_email(&email).map_err(AuthError::BadAccount)?;
        let email = normalize_email(&email);
        check_password(&password).map_err(AuthError::BadAccount)?;
        // Before the work, for who only types the same again; the commit decides.
        if self.records.user_by_email(&email)?.is_some() {
            return Err(AuthError::EmailTaken);
        }
        let password_hash = self.passwords.hash(&password).await?;
        let new = NewUser { email, password_hash, created_ms: now_ms(), role, quota, pin_lifetime_s };
        let made = self.records.write(move |change| change.create_user(new)).await?;
        self.view(made.ok_or(AuthError::EmailTaken)?)
    }
}
