//! Passwords: argon2id off the event loop, a few at a time.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use rand::RngExt;
use tokio::sync::Semaphore;

use super::AuthError;
use crate::model::limits::{PASSWORD_BYTES_MAX, PASSWORD_HASHES_QUEUED_MAX, PASSWORD_HASHES_RUNNING_MAX};

/// Letters and digits that nobody mixes up.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Characters of a generated password: more than 98 bits.
const GENERATED_CHARS: usize = 20;

/// Hashes and verifies.
pub(super) struct Passwords {
    queued: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// The hash that a password is compared with when there is no account, so that this takes as long.
    dummy: String,
}

impl Passwords {
    pub(super) async fn new() -> Result<Self, AuthError> {
        let queued = Arc::new(Semaphore::new(PASSWORD_HASHES_QUEUED_MAX));
        let running = Arc::new(Semaphore::new(PASSWORD_HASHES_RUNNING_MAX));
        let mut passwords = Self { queued, running, dummy: String::new() };
        passwords.dummy = passwords.hash(&generate()).await?;
        Ok(passwords)
    }

    /// The hash of a new password, as a PHC string.
    pub(super) async fn hash(&self, password: &str) -> Result<String, AuthError> {
        let password = password.to_owned();
        self.run(move || {
            let hash = Argon2::default().hash_password(password.as_bytes()).map_err(failed)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the one of the hash; without a hash it takes as long and is false.
    pub(super) async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, AuthError> {
        // No account has a longer one, and cutting it keeps the time that hashing takes from growing with it.
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let possible = hash.is_some() && fits;
        let hash = hash.unwrap_or_else(|| self.dummy.clone());
        let password = if fits { password.to_owned() } else { String::new() };
        self.run(move || {
            let hash = PasswordHash::new(&hash).map_err(failed)?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok() && possible)
        })
        .await
    }

    /// The permits travel with the work: a client that goes away doesn't free them before the work is done.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
    ) -> Result<T, AuthError> {
        let queued = Arc::clone(&self.queued).try_acquire_owned().map_err(|_| AuthError::Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| AuthError::Busy)?;
        tokio::task::spawn_blocking(move || {
            let _permits = (queued, running);
            work()
        })
        .await
        .map_err(|error| AuthError::Hash(error.to_string()))?
    }
}

fn failed(error: impl std::fmt::Display) -> AuthError {
    AuthError::Hash(error.to_string())
}

/// A random password.
pub(super) fn generate() -> String {
    let mut random = rand::rng();
    (0..GENERATED_CHARS).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn verifies_only_the_same_password_and_uses_argon2id() {
        let passwords = Passwords::new().await.unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(passwords.verify("correct horse", Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("correct horsf", Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(&"x".repeat(PASSWORD_BYTES_MAX + 1), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let passwords = Passwords::new().await.unwrap();
        let all = u32::try_from(PASSWORD_HASHES_QUEUED_MAX).unwrap();
        let _held = Arc::clone(&passwords.queued).acquire_many_owned(all).await.unwrap();
        assert!(matches!(passwords.verify("x", None).await, Err(AuthError::Busy)));
    }
}
