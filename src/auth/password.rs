//! Passwords: argon2id off the event loop, a few at a time, in memory that is kept for the next.

use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use rand::RngExt;
use tokio::sync::Semaphore;

use super::AuthError;
use crate::model::limits::{PASSWORD_BYTES_MAX, PASSWORD_HASHES_QUEUED_MAX, PASSWORD_HASHES_RUNNING_MAX};

/// Letters and digits that nobody mixes up.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Characters of a generated password: more than 98 bits.
const GENERATED_CHARS: usize = 20;
/// Bytes of a salt, as argon2 recommends.
const SALT_BYTES: usize = argon2::RECOMMENDED_SALT_LEN;

/// What argon2 works in.
type Memory = Vec<Block>;

/// Memory of hashes that are done, for those to come. Allocated anew each time, on whichever thread it falls, it would
/// stay behind in the allocator's arena of every such thread.
type Idle = Arc<Mutex<Vec<Memory>>>;

/// Hashes and verifies.
pub(super) struct Passwords {
    queued: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// At most as many as may run at the same time.
    idle: Idle,
    /// The hash that a password is compared with when there is no account, so that this takes as long.
    dummy: String,
}

impl Passwords {
    pub(super) fn new() -> Result<Self, AuthError> {
        let queued = Arc::new(Semaphore::new(PASSWORD_HASHES_QUEUED_MAX));
        let running = Arc::new(Semaphore::new(PASSWORD_HASHES_RUNNING_MAX));
        // No password has it, or nobody knows which.
        let dummy = phc(&rand::random::<[u8; SALT_BYTES]>(), &rand::random::<[u8; Params::DEFAULT_OUTPUT_LEN]>())?;
        Ok(Self { queued, running, idle: Idle::default(), dummy })
    }

    /// The hash of a new password, as a PHC string.
    pub(super) async fn hash(&self, password: &str) -> Result<String, AuthError> {
        let password = password.to_owned();
        self.run(move |memory| {
            let salt: [u8; SALT_BYTES] = rand::random();
            let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
            compute(&Argon2::default(), &password, &salt, &mut output, memory)?;
            phc(&salt, &output)
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
        self.run(move |memory| {
            let hash = PasswordHash::new(&hash).map_err(failed)?;
            let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
                return Err(AuthError::Hash("a stored hash lacks its salt or its output".into()));
            };
            let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(failed)?;
            let version = hash.version.map(Version::try_from).transpose().map_err(failed)?.unwrap_or_default();
            let argon2 = Argon2::new(algorithm, version, Params::try_from(&hash).map_err(failed)?);
            let mut output = [0; Output::MAX_LENGTH];
            let output = output.get_mut(..expected.len()).ok_or_else(|| failed("a stored hash is too long"))?;
            compute(&argon2, &password, salt, output, memory)?;
            // `Output` compares in constant time.
            Ok(Output::new(output).map_err(failed)? == *expected && possible)
        })
        .await
    }

    /// The permits travel with the work: a client that goes away doesn't free them before the work is done.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> Result<T, AuthError> + Send + 'static,
    ) -> Result<T, AuthError> {
        let queued = Arc::clone(&self.queued).try_acquire_owned().map_err(|_| AuthError::Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| AuthError::Busy)?;
        let idle = Arc::clone(&self.idle);
        tokio::task::spawn_blocking(move || {
            let _permits = (queued, running);
            let mut memory = lock(&idle).pop().unwrap_or_default();
            let outcome = work(&mut memory);
            lock(&idle).push(memory);
            outcome
        })
        .await
        .map_err(|error| AuthError::Hash(error.to_string()))?
    }
}

/// A poisoned lock is harmless: what is behind it is only taken and put back.
fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<Memory>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills `output` with the hash.
fn compute(
    argon2: &Argon2<'_>,
    password: &str,
    salt: &[u8],
    output: &mut [u8],
    memory: &mut Memory,
) -> Result<(), AuthError> {
    let blocks = argon2.params().block_count();
    if memory.len() < blocks {
        // A larger one is a new one: the old one would be copied for nothing.
        *memory = vec![Block::default(); blocks];
    }
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, memory).map_err(failed)
}

/// The PHC string of a hash with the default parameters.
fn phc(salt: &[u8], output: &[u8]) -> Result<String, AuthError> {
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(Version::default().into()),
        params: ParamsString::try_from(&Params::DEFAULT).map_err(failed)?,
        salt: Some(Salt::new(salt).map_err(failed)?),
        hash: Some(Output::new(output).map_err(failed)?),
    };
    Ok(hash.to_string())
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
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(passwords.verify("correct horse", Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("correct horsf", Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(&"x".repeat(PASSWORD_BYTES_MAX + 1), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
    }

    /// Made by the library's own function, as hashes were before the memory was kept.
    #[tokio::test]
    async fn verifies_what_the_library_made_and_the_other_way_round() {
        use argon2::{PasswordHasher, PasswordVerifier};
        let passwords = Passwords::new().unwrap();
        for argon2 in [Argon2::default(), Argon2::from(Params::new(64, 3, 2, Some(24)).unwrap())] {
            let theirs = argon2.hash_password(b"correct horse").unwrap().to_string();
            assert!(passwords.verify("correct horse", Some(theirs.clone())).await.unwrap(), "{theirs}");
            assert!(!passwords.verify("correct horsf", Some(theirs)).await.unwrap());
        }
        let ours = passwords.hash("correct horse").await.unwrap();
        Argon2::default().verify_password(b"correct horse", ours.as_str()).unwrap();
        assert!(!passwords.verify("", None).await.unwrap());
    }

    /// Where an account isn't there, nobody can tell by the time: as much memory is filled as often.
    #[tokio::test]
    async fn a_missing_account_costs_what_a_wrong_password_does() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        let parameters = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), hash.salt.unwrap().len())
        };
        assert_eq!(parameters(&passwords.dummy), parameters(&hash));
        let mut filled = Vec::new();
        for hash in [Some(hash), None] {
            lock(&passwords.idle).clear();
            assert!(!passwords.verify("wrong horse", hash).await.unwrap());
            filled.push(lock(&passwords.idle).iter().map(Vec::len).collect::<Vec<_>>());
        }
        assert_eq!(filled[0], filled[1]);
        assert_eq!(filled[0], [usize::try_from(Params::DEFAULT_M_COST).unwrap()]);
    }

    #[tokio::test]
    async fn memory_is_kept_and_used_again() {
        let passwords = Passwords::new().unwrap();
        let crowd = || futures::future::try_join_all((0..8).map(|_| passwords.verify("x", None)));
        let kept = || {
            let mut kept: Vec<_> = lock(&passwords.idle).iter().map(|memory| memory.as_ptr() as usize).collect();
            kept.sort_unstable();
            kept
        };
        crowd().await.unwrap();
        let first = kept();
        assert!((1..=PASSWORD_HASHES_RUNNING_MAX).contains(&first.len()), "{first:?}");
        crowd().await.unwrap();
        let second = kept();
        assert!(second.len() <= PASSWORD_HASHES_RUNNING_MAX, "{second:?}");
        assert!(first.iter().all(|memory| second.contains(memory)), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let passwords = Passwords::new().unwrap();
        let all = u32::try_from(PASSWORD_HASHES_QUEUED_MAX).unwrap();
        let _held = Arc::clone(&passwords.queued).acquire_many_owned(all).await.unwrap();
        assert!(matches!(passwords.verify("x", None).await, Err(AuthError::Busy)));
    }
}
