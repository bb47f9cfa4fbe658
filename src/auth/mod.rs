//! Accounts: passwords, tokens, and who may do what.
//!
//! How they travel over HTTP is not here (`http::auth`), nor how they are stored (`store::records`).

mod attempts;
mod first_start;
pub mod options;
mod password;
mod token;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::UserId;
use crate::model::limits::{EMAIL_BYTES_MAX, LOGIN_TOKENS_CHECKED_MAX, PASSWORD_BYTES_MAX, TOKEN_NAME_CHARS_MAX};
use crate::store::records::{NewUser, TokenId, TokenRecord, Usage, UserRecord};
pub use crate::store::records::{Scopes, TokenKind};
use crate::store::{Records, RecordsError};
use attempts::Attempts;
pub use first_start::FirstStart;
pub use options::Options;
use password::Passwords;
use token::{Lifetimes, Signer};

/// Why a request isn't authorised, or an account can't be worked on.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The e-mail address or the password is wrong; which of them isn't said.
    #[error("the e-mail address or the password is wrong")]
    WrongCredentials,
    /// Too many failed logins for this account from this address.
    #[error("too many failed logins for this account from this address")]
    TooManyAttempts {
        /// How long to wait.
        wait: Duration,
    },
    /// More logins are waiting than the machine can hash soon.
    #[error("too many logins at the same time")]
    Busy,
    /// The token authorises nothing; the sentence says why.
    #[error("{0}")]
    InvalidToken(&'static str),
    /// The token is valid, but not for this.
    #[error("the token lacks the scope \"{0}\"")]
    MissingScope(&'static str),
    /// The account of the first start can't be made as configured.
    #[error("{0}")]
    BadAdmin(String),
    /// An account can't be made with this e-mail address or password; the sentence says why.
    #[error("{0}")]
    BadAccount(&'static str),
    /// The name of a device token is empty or too long.
    #[error("the name of a token has 1 to {TOKEN_NAME_CHARS_MAX} characters")]
    BadTokenName,
    /// Records can't be read or written.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A password can't be hashed.
    #[error("a password can't be hashed: {0}")]
    Hash(String),
    /// A token can't be signed.
    #[error("a token can't be signed: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Who sent a request, and what for it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose token it is.
    pub user: UserId,
    /// What requests it authorises.
    pub scopes: Scopes,
    /// Access or device token.
    pub kind: TokenKind,
    /// The device's name, for a device token.
    pub name: Option<String>,
    /// When the token ends, in milliseconds since the Unix epoch; never if absent.
    pub expires_ms: Option<i64>,
    family: TokenId,
}

impl Identity {
    /// Refuses a token that must not read.
    pub fn require_read(&self) -> Result<(), AuthError> {
        if self.scopes.read { Ok(()) } else { Err(AuthError::MissingScope("read")) }
    }

    /// Refuses a token that must not write.
    pub fn require_write(&self) -> Result<(), AuthError> {
        if self.scopes.write { Ok(()) } else { Err(AuthError::MissingScope("write")) }
    }
}

/// What a login gives: two signed tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// For requests.
    pub access: String,
    /// For the next pair.
    pub refresh: String,
}

impl std::fmt::Debug for TokenPair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TokenPair(hidden)")
    }
}

/// All accounts.
pub struct Accounts {
    records: Arc<Records>,
    passwords: Passwords,
    signer: Signer,
    lifetimes: Lifetimes,
    attempts: Mutex<Attempts>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Accounts")
    }
}

impl Accounts {
    /// Opens the accounts; the first time, the key that signs tokens is made and stored.
    pub async fn open(records: Arc<Records>, options: &Options) -> Result<Self, AuthError> {
        let signer = Signer::open(&records).await?;
        let passwords = Passwords::new()?;
        let lifetimes = Lifetimes::new(options);
        Ok(Self { records, passwords, signer, lifetimes, attempts: Mutex::default() })
    }

    /// Makes the first account, with a device token, unless there is any account already.
    pub async fn ensure_admin(&self, options: &Options) -> Result<Option<FirstStart>, AuthError> {
        first_start::ensure_admin(self, options).await
    }

    /// Makes an account.
    pub async fn create_user(&self, email: &str, password: &str) -> Result<UserRecord, AuthError> {
        let email = normalize_email(email);
        check_email(&email).map_err(AuthError::BadAccount)?;
        check_password(password).map_err(AuthError::BadAccount)?;
        let password_hash = self.passwords.hash(password).await?;
        let new = NewUser { email, password_hash, created_ms: now_ms() };
        let made = self.records.write(move |change| change.create_user(new)).await?;
        made.ok_or(AuthError::BadAccount("there is an account with this e-mail address already"))
    }

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

        let (access, refresh) = self.lifetimes.new_pair(user.id, TokenId::new(), now_ms());
        let pair = self.sign_pair(&access, &refresh)?;
        self.records
            .write(move |change| {
                // A client that logs in for each run would otherwise leave its tokens for ever.
                change.remove_expired_tokens(access.user, access.created_ms, LOGIN_TOKENS_CHECKED_MAX)?;
                change.put_token(&access)?;
                change.put_token(&refresh)
            })
            .await?;
        Ok(pair)
    }

    /// Exchanges a refresh token for a new pair. Access tokens that are out already stay valid.
    ///
    /// The same token again gives the same pair for a while, since its answer may have been lost; after that it must
    /// have been stolen, by the one or the other, so all tokens of its login are revoked.
    pub async fn refresh(&self, refresh_token: &str) -> Result<TokenPair, AuthError> {
        let claims = self.signer.verify(refresh_token)?;
        if claims.kind != TokenKind::Refresh {
            return Err(AuthError::InvalidToken(
                "this is not a refresh token; send the \"refresh_token\" of the login",
            ));
        }
        let (id, lifetimes) = (claims.jti, self.lifetimes);
        let rotated = self.records.write(move |change| token::rotate(change, id, lifetimes, now_ms())).await?;
        let (access, refresh) = rotated.map_err(AuthError::InvalidToken)?;
        self.sign_pair(&access, &refresh)
    }

    /// Revokes the token of this identity and all that came from the same login.
    pub async fn logout(&self, identity: &Identity) -> Result<(), AuthError> {
        let Identity { user, family, .. } = *identity;
        self.records.write(move |change| change.revoke_family(user, family, |_| true)).await?;
        Ok(())
    }

    /// Who sends a request with this bearer token.
    pub fn authenticate(&self, bearer: &str) -> Result<Identity, AuthError> {
        let claims = self.signer.verify(bearer)?;
        if claims.kind == TokenKind::Refresh {
            return Err(AuthError::InvalidToken("this is a refresh token; requests need the access token"));
        }
        let record = self.records.token(claims.jti)?.ok_or(AuthError::InvalidToken(token::REVOKED))?;
        if record.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms()) {
            return Err(AuthError::InvalidToken(token::EXPIRED));
        }
        let TokenRecord { user, scopes, kind, name, expires_ms, family, .. } = record;
        Ok(Identity { user, scopes, kind, name, expires_ms, family })
    }

    /// Makes a token for one device, without an end.
    pub async fn create_device_token(&self, user: UserId, name: &str, scopes: Scopes) -> Result<String, AuthError> {
        if name.is_empty() || name.chars().count() > TOKEN_NAME_CHARS_MAX {
            return Err(AuthError::BadTokenName);
        }
        let record = token::device(user, name, scopes, now_ms());
        let signed = self.signer.sign(&record)?;
        self.records.write(move |change| change.put_token(&record)).await?;
        Ok(signed)
    }

    /// The account with this number.
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, AuthError> {
        Ok(self.records.user(id)?)
    }

    /// What an account has pinned.
    pub fn usage(&self, id: UserId) -> Result<Usage, AuthError> {
        Ok(self.records.usage(id)?)
    }

    fn sign_pair(&self, access: &TokenRecord, refresh: &TokenRecord) -> Result<TokenPair, AuthError> {
        Ok(TokenPair { access: self.signer.sign(access)?, refresh: self.signer.sign(refresh)? })
    }

    /// A poisoned lock is harmless: every entry is written whole.
    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One spelling for each address, so that one can't be registered twice.
fn normalize_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// What is wrong with an e-mail address for an account, if anything is.
fn check_email(email: &str) -> Result<(), &'static str> {
    if email.len() > EMAIL_BYTES_MAX {
        return Err("the e-mail address is longer than 254 bytes");
    }
    match email.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !email.contains(char::is_whitespace) => {
            Ok(())
        }
        _ => Err("the e-mail address is not of the form name@domain"),
    }
}

/// What is wrong with a password for an account, if anything is.
fn check_password(password: &str) -> Result<(), &'static str> {
    match password.len() {
        0..8 => Err("the password is shorter than 8 bytes"),
        8..=PASSWORD_BYTES_MAX => Ok(()),
        _ => Err("the password is longer than 1024 bytes"),
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
