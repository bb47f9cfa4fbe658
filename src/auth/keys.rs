//! The keys that sign tokens: the newest signs, older ones are kept for the tokens that they have signed.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::AuthError;
use super::token::{Claims, EXPIRED, MALFORMED};
use crate::model::limits::SIGNING_KEYS_MAX;
use crate::store::records::{Change, TokenRecord};
use crate::store::{Records, RecordsError};

/// Where the keys are among the records.
const KEYS_NAME: &str = "token_keys";
/// Where the only key was, before there could be several.
const OLD_KEY_NAME: &str = "token_key";

/// A key as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredKey {
    /// Its number, which its tokens carry as `kid`. The first has 0.
    id: u32,
    secret: [u8; 32],
    /// When it was made, in milliseconds since the Unix epoch; zero where that wasn't written down.
    created_ms: i64,
}

impl StoredKey {
    fn new(id: u32, now_ms: i64) -> Self {
        let mut secret = [0; 32];
        rand::rng().fill(&mut secret);
        Self { id, secret, created_ms: now_ms }
    }
}

/// What a rotation of the keys did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRotation {
    /// The number of the key that signs from now on.
    pub key: u32,
    /// Older keys whose tokens stay valid.
    pub kept: usize,
    /// Older keys whose tokens stop now.
    pub forgotten: usize,
}

struct Key {
    id: u32,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// The keys, the newest last; there is at least one.
pub(super) struct KeyRing {
    keys: Vec<Key>,
    validation: Validation,
}

impl KeyRing {
    /// Loads the keys; the first time, makes one.
    pub(super) async fn open(records: &Records, now_ms: i64) -> Result<Self, AuthError> {
        let stored = records
            .write(move |change| {
                if let Some(keys) = change.meta::<Vec<StoredKey>>(KEYS_NAME)?
                    && !keys.is_empty()
                {
                    return Ok(keys);
                }
                let only = match change.meta(OLD_KEY_NAME)? {
                    Some(secret) => StoredKey { id: 0, secret, created_ms: 0 },
                    None => StoredKey::new(0, now_ms),
                };
                let keys = vec![only];
                change.set_meta(KEYS_NAME, &keys)?;
                Ok(keys)
            })
            .await?;
        Ok(Self::new(&stored))
    }

    /// Makes a new key that signs from now on, and says what became of the older ones.
    pub(super) async fn rotate(
        records: &Records,
        forgets_old: bool,
        now_ms: i64,
    ) -> Result<(Self, KeyRotation), AuthError> {
        let rotated = records.write(move |change| rotate(change, forgets_old, now_ms)).await?;
        let (stored, rotation) = rotated;
        Ok((Self::new(&stored), rotation))
    }

    fn new(stored: &[StoredKey]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.leeway = 0;
        let key = |key: &StoredKey| Key {
            id: key.id,
            encoding: EncodingKey::from_secret(&key.secret),
            decoding: DecodingKey::from_secret(&key.secret),
        };
        Self { keys: stored.iter().map(key).collect(), validation }
    }

    /// The number of the key that signs new tokens.
    pub(super) fn newest(&self) -> u32 {
        self.keys.last().map_or(0, |key| key.id)
    }

    /// The token of a record, signed with the record's key: signing it again gives the same text.
    pub(super) fn sign(&self, record: &TokenRecord) -> Result<String, AuthError> {
        let key = self.find(record.key).ok_or(AuthError::InvalidToken(MALFORMED))?;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.id.to_string());
        encode(&header, &Claims::of(record), &key.encoding).map_err(AuthError::Sign)
    }

    /// The claims of a token that was signed with one of these keys and has not expired. It may be revoked.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let malformed = |_| AuthError::InvalidToken(MALFORMED);
        // Tokens of before there could be several keys name none.
        let id = decode_header(token).map_err(malformed)?.kid.map_or(Ok(0), |kid| kid.parse());
        let id = id.map_err(|_| AuthError::InvalidToken(MALFORMED))?;
        let key = self.find(id).ok_or(AuthError::InvalidToken(MALFORMED))?;
        let decoded = decode::<Claims>(token, &key.decoding, &self.validation);
        decoded.map(|data| data.claims).map_err(|error| {
            AuthError::InvalidToken(match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => EXPIRED,
                _ => MALFORMED,
            })
        })
    }

    fn find(&self, id: u32) -> Option<&Key> {
        self.keys.iter().rev().find(|key| key.id == id)
    }
}

fn rotate(change: &Change<'_>, forgets_old: bool, now_ms: i64) -> Result<(Vec<StoredKey>, KeyRotation), RecordsError> {
    let mut keys: Vec<StoredKey> = change.meta(KEYS_NAME)?.unwrap_or_default();
    let before = keys.len();
    let next = keys.last().map_or(0, |key| key.id.wrapping_add(1));
    if forgets_old {
        keys.clear();
    }
    while keys.len() >= SIGNING_KEYS_MAX {
        keys.remove(0);
    }
    let kept = keys.len();
    keys.push(StoredKey::new(next, now_ms));
    change.set_meta(KEYS_NAME, &keys)?;
    Ok((keys, KeyRotation { key: next, kept, forgotten: before - kept }))
}
