//! CIDs inside blocks, in binary and in text, as `go-cid` 0.6 reads them (`CidFromBytes`, `Decode`).

use cid::Cid;
use cid::multibase::{self, Base};
use cid::multihash::Multihash;
use unsigned_varint::decode;

use super::LinkError;
use crate::model::block::IDENTITY_HASH;

/// The longest identity digest, in bytes: boxo's `verifcid.DefaultMaxIdentityDigestSize`.
pub(super) const IDENTITY_DIGEST_BYTES_MAX: usize = 128;

/// The longest text of a CID: the longest identity CID in base2. Decoding base58 takes quadratic time, so it must not
/// get more.
const CID_TEXT_BYTES_MAX: usize = 1200;

/// SHA2-256 and 32, which begin a `CIDv0`.
const CID_V0_PREFIX: [u8; 2] = [0x12, 0x20];
const CID_V0_BYTES: usize = 34;

/// What a CID stands for.
#[derive(Debug)]
pub(in crate::dag) enum Target<'a> {
    /// A block elsewhere.
    Block(Cid),
    /// A block within the CID.
    Inline {
        /// Its codec.
        codec: u64,
        /// Its bytes.
        data: &'a [u8],
    },
}

fn bad(reason: impl Into<String>) -> LinkError {
    LinkError::BadCid { reason: reason.into() }
}

/// Reads the CID at the start of `bytes` and tells its length in bytes.
pub(in crate::dag) fn parse(bytes: &[u8]) -> Result<(Target<'_>, usize), LinkError> {
    if bytes.len() > 2 && bytes.starts_with(&CID_V0_PREFIX) {
        let digest = bytes.get(2..CID_V0_BYTES).ok_or_else(|| bad("a CIDv0 is cut short"))?;
        let hash = Multihash::wrap(0x12, digest).map_err(|error| bad(error.to_string()))?;
        let cid = Cid::new_v0(hash).map_err(|error| bad(error.to_string()))?;
        return Ok((Target::Block(cid), CID_V0_BYTES));
    }
    let (version, rest) = varint(bytes)?;
    if version != 1 {
        return Err(bad(format!("its version is {version}")));
    }
    let (codec, rest) = varint(rest)?;
    let (hash_code, rest) = varint(rest)?;
    let (digest_bytes, rest) = varint(rest)?;
    let digest = usize::try_from(digest_bytes)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or_else(|| bad(format!("its digest has {} of {digest_bytes} bytes", rest.len())))?;
    let length = bytes.len() - rest.len() + digest.len();
    if hash_code == IDENTITY_HASH {
        if digest.len() > IDENTITY_DIGEST_BYTES_MAX {
            return Err(bad(format!("an identity digest of {} bytes is too long", digest.len())));
        }
        return Ok((Target::Inline { codec, data: digest }, length));
    }
    let hash = Multihash::wrap(hash_code, digest).map_err(|error| bad(error.to_string()))?;
    Ok((Target::Block(Cid::new_v1(codec, hash)), length))
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), LinkError> {
    decode::u64(bytes).map_err(|error| bad(format!("a varint in it: {error}")))
}

/// The bytes of a CID that is written as text.
pub(super) fn decode_text(text: &str) -> Result<Vec<u8>, LinkError> {
    if text.len() > CID_TEXT_BYTES_MAX {
        return Err(bad(format!("its text has {} bytes", text.len())));
    }
    let described =
        |error: multibase::Error| bad(format!("\"{}\": {error}", text.chars().take(80).collect::<String>()));
    // A CIDv0 has no multibase prefix.
    if text.len() == 46 && text.starts_with("Qm") {
        return Base::Base58Btc.decode(text).map_err(described);
    }
    multibase::decode(clear_unused_bits(text)).map(|(_, bytes)| bytes).map_err(described)
}

/// Sets to zero what the last character of a base32 or base64 text says beyond the last whole byte. Go's decoders
/// ignore those bits, and ours refuse a text in which they aren't zero.
fn clear_unused_bits(text: &str) -> String {
    const BASE32: &str = "abcdefghijklmnopqrstuvwxyz234567";
    const BASE32_UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const BASE64_URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (alphabet, bits) = match text.chars().next() {
        Some('b') => (BASE32, 5),
        Some('B') => (BASE32_UPPER, 5),
        Some('m') => (BASE64, 6),
        Some('u') => (BASE64_URL, 6),
        _ => return text.to_owned(),
    };
    let mut cleared = text.to_owned();
    let unused = (text.len() - 1) * bits % 8;
    // More unused bits than a character has mean a character too many, which the decoder will say.
    if unused < bits
        && let Some(last) = cleared.pop()
    {
        let canonical = alphabet.find(last).and_then(|index| alphabet.chars().nth(index >> unused << unused));
        cleared.push(canonical.unwrap_or(last));
    }
    cleared
}
