//! CIDs as pinnace accepts them: which codecs can be walked, which hashes verified, and when two are the same content.

use cid::multibase::{self, Base};
use cid::{Cid, Version};

use unsigned_varint::decode as varint;

use super::block::{self, BlockError, IDENTITY_HASH};

/// Multicodec codes, from the multiformats table.
pub mod codec {
    /// Bytes without structure.
    pub const RAW: u64 = 0x55;
    /// Plain CBOR; has no links.
    pub const CBOR: u64 = 0x51;
    /// Protobuf nodes, as `UnixFS` uses them.
    pub const DAG_PB: u64 = 0x70;
    /// CBOR with links in tag 42.
    pub const DAG_CBOR: u64 = 0x71;
    /// JSON with links as `{"/": "…"}`.
    pub const DAG_JSON: u64 = 0x0129;
    /// Plain JSON; has no links.
    pub const JSON: u64 = 0x0200;

    /// Every codec whose blocks can be walked.
    pub const SUPPORTED: [u64; 6] = [RAW, CBOR, DAG_PB, DAG_CBOR, DAG_JSON, JSON];

    /// Whether blocks of this codec never have links.
    pub fn is_leaf(codec: u64) -> bool {
        matches!(codec, RAW | CBOR | JSON)
    }
}

/// Why a CID can't be pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// The text is no CID.
    #[error("\"{text}\" is not a CID: {reason}")]
    Malformed {
        /// What was given, cut to a bounded length.
        text: String,
        /// What the parser says.
        reason: String,
    },
    /// It is an identity CID with more data than a parsed CID can hold. Links may be longer: they are never kept.
    #[error(
        "an identity CID of {bytes} bytes can't be a root, which takes at most {IDENTITY_ROOT_BYTES_MAX}; pin a block with a hash that holds the data"
    )]
    LongIdentity {
        /// The length of its data, in bytes.
        bytes: u64,
    },
    /// Its blocks can't be decoded, so its DAG can't be walked.
    #[error("codec 0x{codec:x} is not supported; supported are raw, dag-pb, dag-cbor, dag-json, cbor and json")]
    UnsupportedCodec {
        /// The multicodec code.
        codec: u64,
    },
    /// Its blocks can't be verified.
    #[error("{0}")]
    UnsupportedHash(#[from] BlockError),
}

/// The most data of an identity CID that is a root, in bytes: what [`Cid`] has room for.
const IDENTITY_ROOT_BYTES_MAX: u64 = 64;

/// The longest CID text that is looked at, in bytes: an identity CID of 64 bytes in base2 is shorter.
const CID_TEXT_BYTES_MAX: usize = 1024;

/// Parses a CID and makes sure that its DAG can be walked and its blocks verified.
pub fn parse(text: &str) -> Result<Cid, CidError> {
    let cid = decode(text)?;
    check(&cid)?;
    Ok(cid)
}

/// Parses a CID, whatever it stands for.
pub fn decode(text: &str) -> Result<Cid, CidError> {
    let malformed = |reason: String| CidError::Malformed { text: text.chars().take(80).collect(), reason };
    if text.len() > CID_TEXT_BYTES_MAX {
        return Err(malformed(format!("longer than {CID_TEXT_BYTES_MAX} bytes")));
    }
    let decoded = if Version::is_v0_str(text) {
        Base::Base58Btc.decode(text)
    } else {
        multibase::decode(text).map(|(_, bytes)| bytes)
    };
    let bytes = decoded.map_err(|error| malformed(error.to_string()))?;
    read(&bytes).map_err(|error| match long_identity(&bytes) {
        Some(bytes) => CidError::LongIdentity { bytes },
        None => malformed(error.map_or("bytes follow it".to_owned(), |error| error.to_string())),
    })
}

/// The length of the data of an identity CID that is too long for [`Cid`]; `None` for all other bytes.
fn long_identity(bytes: &[u8]) -> Option<u64> {
    let (version, rest) = varint::u64(bytes).ok()?;
    let (_codec, rest) = varint::u64(rest).ok()?;
    let (hash, rest) = varint::u64(rest).ok()?;
    let (length, data) = varint::u64(rest).ok()?;
    let is_whole = u64::try_from(data.len()).is_ok_and(|given| given == length);
    (version == 1 && hash == IDENTITY_HASH && is_whole && length > IDENTITY_ROOT_BYTES_MAX).then_some(length)
}

/// The CID that is all of `bytes`. The library's own conversion takes the CID at their start and ignores the rest,
/// so that two texts or byte strings that differ would be the same; Go refuses such. The error is `None` for them.
pub fn read(bytes: &[u8]) -> Result<Cid, Option<cid::Error>> {
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest)?;
    if rest.is_empty() { Ok(cid) } else { Err(None) }
}

/// Whether the CID's codec can be walked and its hash computed.
pub fn check(cid: &Cid) -> Result<(), CidError> {
    if !codec::SUPPORTED.contains(&cid.codec()) {
        return Err(CidError::UnsupportedCodec { codec: cid.codec() });
    }
    if cid.hash().code() != IDENTITY_HASH {
        block::check_hash(cid)?;
    }
    Ok(())
}

/// What makes two CIDs the same content for a pin: multihash and codec; version and multibase don't matter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContentKey(Box<[u8]>);

impl ContentKey {
    /// The key of a CID.
    pub fn of(cid: &Cid) -> Self {
        Self(normalize(cid).to_bytes().into())
    }

    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The same content as a CIDv1.
pub fn normalize(cid: &Cid) -> Cid {
    match cid.version() {
        Version::V1 => *cid,
        Version::V0 => Cid::new_v1(cid.codec(), *cid.hash()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_under_version_and_base_is_one_key() {
        let v0 = parse("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG").unwrap();
        let v1 = normalize(&v0);
        let base58 = v1.to_string_of_base(cid::multibase::Base::Base58Btc).unwrap();
        assert_eq!(ContentKey::of(&v0), ContentKey::of(&v1));
        assert_eq!(ContentKey::of(&v0), ContentKey::of(&parse(&base58).unwrap()));
        let raw = Cid::new_v1(codec::RAW, *v0.hash());
        assert_ne!(ContentKey::of(&v0), ContentKey::of(&raw));
    }

    #[test]
    fn a_cid_is_all_of_the_text() {
        let digest = "ab".repeat(32);
        decode(&format!("f01551220{digest}")).unwrap();
        for text in [&format!("f01551220{digest}deadbeef"), &format!("f1220{digest}00"), "bafkqaaaa", ""] {
            assert!(matches!(decode(text), Err(CidError::Malformed { .. })), "{text}");
        }
        let v0 = decode("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG").unwrap();
        assert_eq!(read(&v0.to_bytes()).unwrap(), v0);
        assert!(matches!(read(&[&v0.to_bytes()[..], &[0]].concat()), Err(None)));
    }

    #[test]
    fn an_identity_cid_has_room_for_64_bytes() {
        let identity = |bytes: usize| {
            let length = if bytes < 128 { format!("{bytes:02x}") } else { format!("{bytes:02x}01") };
            format!("f015500{length}{}", "ab".repeat(bytes))
        };
        decode(&identity(64)).unwrap();
        for bytes in [65, 127, 128] {
            assert_eq!(decode(&identity(bytes)), Err(CidError::LongIdentity { bytes: bytes as u64 }));
        }
        let longer = format!("{}00", identity(65));
        assert!(matches!(decode(&longer), Err(CidError::Malformed { .. })));
    }

    #[test]
    fn refuses_what_cannot_be_walked_or_verified() {
        assert!(matches!(parse("hello"), Err(CidError::Malformed { .. })));
        assert!(matches!(parse(&"b".repeat(5000)), Err(CidError::Malformed { .. })));
        let git = Cid::new_v1(0x78, *parse("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG").unwrap().hash());
        assert_eq!(parse(&git.to_string()), Err(CidError::UnsupportedCodec { codec: 0x78 }));
        let murmur = Cid::new_v1(codec::RAW, cid::multihash::Multihash::wrap(0x22, &[0; 32]).unwrap());
        assert!(matches!(parse(&murmur.to_string()), Err(CidError::UnsupportedHash(_))));
        parse("bafkqaaa").unwrap();
    }
}
