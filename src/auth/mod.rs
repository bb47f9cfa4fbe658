//! Accounts: passwords, tokens, and who may do what.
//!
//! How they travel over HTTP is not here (`http::auth`, `http::admin`), nor how they are stored (`store::records`). What a client does
//! with its own account is in `login` and `devices`, what an operator does with all of them in `operator`.

mod attempts;
mod devices;
mod first_start;
mod keys;
mod login;
mod operator;
pub mod options;
mod password;
mod sessions;
mod token;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::model::UserId;
use crate::model::limits::{
    EMAIL_CHARS_MAX, PASSWORD_CHARS_MAX, PIN_LIFETIME_MAX, TOKEN_NAME_CHARS_MAX, TOKENS_PER_ACCOUNT_MAX,
};
pub use crate::store::records::{Quota, Role, Scopes, TokenKind};
use crate::store::records::{Standing, TokenId, TokenRecord, Usage, UserRecord};
use crate::store::{Records, RecordsError};
use attempts::Attempts;
pub use devices::TokenView;
pub use first_start::FirstStart;
use keys::KeyRing;
pub use keys::KeyRotation;
pub use operator::{AccountChange, AccountView, NewAccount};
pub use options::{Options, Registration};
use password::Passwords;
use sessions::Sessions;
use token::Lifetimes;
pub use token::NewDeviceToken;

/// Why a request isn't authorised, or an account can't be worked on.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The e-mail address or the password is wrong; which of them isn't said.
    #[error("the e-mail address or the password is wrong")]
    WrongCredentials,
    /// The password that is to be changed is another one.
    #[error("\"current_password\" is wrong")]
    WrongPassword,
    /// Too many failed logins for this account from this address.
    #[error("too many failed logins for this account from this address")]
    TooManyAttempts {
        /// How long to wait.
        wait: Duration,
    },
    /// The token makes more requests than it may.
    #[error("this token makes more than {per_second} requests a second")]
    TooManyRequests {
        /// How many it may make in a second.
        per_second: u32,
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
    /// A token of a device must not manage the account.
    #[error("a device's token can't do this")]
    LoginNeeded,
    /// The account is no admin's.
    #[error("only admins may do this")]
    NotAdmin,
    /// Accounts are made by the operator only.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The account of the first start can't be made as configured.
    #[error("{0}")]
    BadAdmin(String),
    /// An account can't be made with this e-mail address or password; the sentence says why.
    #[error("{0}")]
    BadAccount(&'static str),
    /// There is an account with this e-mail address already.
    #[error("there is an account with this e-mail address already")]
    EmailTaken,
    /// There is no account with this e-mail address.
    #[error("there is no account with the e-mail address {0}")]
    NoSuchAccount(String),
    /// The account is the last active admin's.
    #[error("this is the last active admin")]
    LastAdmin,
    /// The name of a device token is empty or too long.
    #[error("the name of a token has 1 to {TOKEN_NAME_CHARS_MAX} characters")]
    BadTokenName,
    /// Pins can't last as long as they are to; the sentence says how long they may.
    #[error("pins of an account go by themselves after at most {} seconds, which are ten years; 0 is for never", PIN_LIFETIME_MAX.as_secs())]
    BadLifetime,
    /// A device token can't be made in this way; the sentence says why.
    #[error("{0}")]
    BadToken(&'static str),
    /// The account has as many device tokens as it may have.
    #[error("the account has {TOKENS_PER_ACCOUNT_MAX} device tokens, which is as many as it may have")]
    TooManyTokens,
    /// There is no such token.
    #[error("there is no such token")]
    NoSuchToken,
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
    /// What the account may do besides working on its own pins.
    pub role: Role,
    /// How much the account may pin.
    pub quota: Quota,
    /// Seconds until a pin of the account goes whose client doesn't say, where that differs from what the configuration says; zero
    /// for never.
    pub pin_lifetime_s: Option<u64>,
    /// What requests the token authorises.
    pub scopes: Scopes,
    /// Access or device token.
    pub kind: TokenKind,
    /// The token.
    pub token: TokenId,
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

    /// Refuses a device's token: one that is lost must not be able to make others, or to lock its owner out.
    pub fn require_login(&self) -> Result<(), AuthError> {
        if self.kind == TokenKind::Device { Err(AuthError::LoginNeeded) } else { Ok(()) }
    }

    /// Refuses everyone who is no admin.
    pub fn require_admin(&self) -> Result<(), AuthError> {
        if self.role == Role::Admin { Ok(()) } else { Err(AuthError::NotAdmin) }
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
    keys: RwLock<Arc<KeyRing>>,
    lifetimes: Lifetimes,
    attempts: Mutex<Attempts>,
    sessions: Sessions,
    registration: Registration,
    /// What an account may pin that has no quota of its own.
    quota: Quota,
    requests_per_second: u32,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Accounts")
    }
}

impl Accounts {
    /// Opens the accounts; the first time, the key that signs tokens is made and stored.
    pub async fn open(records: Arc<Records>, options: &Options) -> Result<Self, AuthError> {
        Ok(Self {
            keys: RwLock::new(Arc::new(KeyRing::open(&records, now_ms()).await?)),
            records,
            passwords: Passwords::new()?,
            lifetimes: Lifetimes::new(options),
            attempts: Mutex::default(),
            sessions: Sessions::new(options.requests_per_second),
            registration: options.registration,
            quota: options.quota(),
            requests_per_second: options.requests_per_second,
        })
    }

    /// Makes the first account, with a device token, unless there is any account already.
    pub async fn ensure_admin(&self, options: &Options) -> Result<Option<FirstStart>, AuthError> {
        first_start::ensure_admin(self, options).await
    }

    /// Who sends a request with this bearer token.
    pub fn authenticate(&self, bearer: &str) -> Result<Arc<Identity>, AuthError> {
        let now_ms = now_ms();
        let session = match self.sessions.get(bearer) {
            Ok(session) => session,
            Err(generation) => self.sessions.insert(bearer, self.identify(bearer)?, generation),
        };
        if session.identity.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            return Err(AuthError::InvalidToken(token::EXPIRED));
        }
        self.sessions
            .take(&session)
            .map_err(|wait| AuthError::TooManyRequests { per_second: self.requests_per_second, wait })?;
        self.sessions.note_use(&session, now_ms);
        Ok(Arc::clone(&session.identity))
    }

    /// Whose token it is, as the records say.
    fn identify(&self, bearer: &str) -> Result<Identity, AuthError> {
        let claims = self.keys().verify(bearer)?;
        if claims.kind == TokenKind::Refresh {
            return Err(AuthError::InvalidToken("this is a refresh token; requests need the access token"));
        }
        let record = self.records.token(claims.jti)?.ok_or(AuthError::InvalidToken(token::REVOKED))?;
        let TokenRecord { id, user, scopes, kind, name, expires_ms, family, .. } = record;
        // What the token says of itself is as good as its signature; what counts is what was stored with it.
        let account = self.records.user(user)?.ok_or(AuthError::InvalidToken(token::REVOKED))?;
        require_active(&account)?;
        let quota = self.quota_of(&account);
        let (role, pin_lifetime_s) = (account.role, account.pin_lifetime_s);
        Ok(Identity { user, role, quota, pin_lifetime_s, scopes, kind, token: id, name, expires_ms, family })
    }

    /// Writes down when tokens were last used.
    pub async fn write_last_used(&self) -> Result<(), AuthError> {
        let used = self.sessions.take_used();
        if used.is_empty() {
            return Ok(());
        }
        Ok(self.records.write(move |change| change.set_last_used(&used)).await?)
    }

    /// Makes a new key that signs tokens from now on. Those that are out stay valid until they expire, unless older keys are to
    /// be forgotten: then all tokens stop.
    pub async fn rotate_keys(&self, forgets_old: bool) -> Result<KeyRotation, AuthError> {
        let (keys, rotation) = KeyRing::rotate(&self.records, forgets_old, now_ms()).await?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.sessions.forget();
        Ok(rotation)
    }

    /// The account with this number.
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, AuthError> {
        Ok(self.records.user(id)?)
    }

    /// What an account has pinned.
    pub fn usage(&self, id: UserId) -> Result<Usage, AuthError> {
        Ok(self.records.usage(id)?)
    }

    /// How many pins an account has, in any status.
    pub fn count_pins(&self, id: UserId) -> Result<u64, AuthError> {
        Ok(self.records.count_pins_of(id)?)
    }

    /// How much an account may pin; `None` when there is no such account.
    pub fn quota(&self, id: UserId) -> Result<Option<Quota>, AuthError> {
        Ok(self.records.user(id)?.map(|account| self.quota_of(&account)))
    }

    /// How much an account may pin. What the configuration says for all doesn't bind the operator.
    fn quota_of(&self, account: &UserRecord) -> Quota {
        match account.role {
            Role::User => account.quota.or(self.quota),
            Role::Admin => account.quota,
        }
    }

    fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn sign_pair(&self, access: &TokenRecord, refresh: &TokenRecord) -> Result<TokenPair, AuthError> {
        let keys = self.keys();
        Ok(TokenPair { access: keys.sign(access)?, refresh: keys.sign(refresh)? })
    }

    /// A poisoned lock is harmless: every entry is written whole.
    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses an account that must not be used.
fn require_active(account: &UserRecord) -> Result<(), AuthError> {
    match account.standing {
        Standing::Active => Ok(()),
        Standing::Disabled => {
            Err(AuthError::InvalidToken("the account is disabled; ask the operator of this service why"))
        }
        Standing::Deleting => Err(AuthError::InvalidToken("the account is gone; log in to another one")),
    }
}

/// One spelling for each address, so that one can't be registered twice.
fn normalize_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// What is wrong with an e-mail address for an account, as it was given, if anything is.
fn check_email(email: &str) -> Result<(), &'static str> {
    if email.chars().count() > EMAIL_CHARS_MAX {
        return Err("the e-mail address is longer than 254 characters");
    }
    let email = email.trim();
    match email.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !email.contains(char::is_whitespace) => {
            Ok(())
        }
        _ => Err("the e-mail address is not of the form name@domain"),
    }
}

/// What is wrong with the time after which pins of an account go by themselves, if anything is.
fn check_lifetime(seconds: Option<u64>) -> Result<(), AuthError> {
    if seconds.is_some_and(|seconds| seconds > PIN_LIFETIME_MAX.as_secs()) {
        Err(AuthError::BadLifetime)
    } else {
        Ok(())
    }
}

/// What is wrong with a password for an account, if anything is.
fn check_password(password: &str) -> Result<(), &'static str> {
    match password.chars().count() {
        0..8 => Err("the password is shorter than 8 characters"),
        8..=PASSWORD_CHARS_MAX => Ok(()),
        _ => Err("the password is longer than 256 characters"),
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
