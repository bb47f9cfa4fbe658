//! A block: bytes that are proven to match their CID.
//!
//! The only ways to make a [`Block`] are to hash its bytes or to decode an identity CID, so whoever holds one
//! never needs to verify it again. The store accepts nothing else.

use bytes::Bytes;
use cid::{Cid, Version};
use multihash_codetable::{Code, Multihash, MultihashDigest, Sha1};
use multihash_derive::Hasher;

use super::limits::BLOCK_BYTES_MAX;

/// The multihash code of the identity "hash", whose digest is the data itself.
pub const IDENTITY_HASH: u64 = 0x00;

/// The multihash code of SHA-1.
const SHA1: u64 = 0x11;

/// The shortest digest that is trusted, in bytes: boxo's `verifcid` has the same floor.
pub const DIGEST_BYTES_MIN: usize = 20;

/// Why bytes can't be a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes hash to something else than the CID says.
    #[error("the data does not match {cid}")]
    Mismatch {
        /// The CID that was claimed.
        cid: Cid,
    },
    /// The hash function of the CID can't be computed here.
    #[error("hash function 0x{code:x} is not supported")]
    UnsupportedHash {
        /// The multihash code.
        code: u64,
    },
    /// The digest is shorter than [`DIGEST_BYTES_MIN`], so anyone could forge a block for it.
    #[error("a digest of {bytes} bytes is too short to be trusted (at least {DIGEST_BYTES_MIN})")]
    ShortDigest {
        /// The digest's length in bytes.
        bytes: usize,
    },
    /// The digest is longer than what the hash function makes, so no block can ever match it.
    #[error("a digest of {bytes} bytes is longer than the {bytes_max} that hash function 0x{code:x} makes")]
    LongDigest {
        /// The multihash code.
        code: u64,
        /// The digest's length in bytes.
        bytes: usize,
        /// What the function makes, in bytes.
        bytes_max: usize,
    },
    /// The block is larger than [`BLOCK_BYTES_MAX`].
    #[error("a block of {bytes} bytes is larger than {BLOCK_BYTES_MAX}")]
    TooLarge {
        /// The block's length in bytes.
        bytes: usize,
    },
}

/// What Bitswap sends of a block's CID: everything but the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CidPrefix {
    /// The CID's version.
    pub version: Version,
    /// The multicodec code of the content.
    pub codec: u64,
    /// The multihash code.
    pub hash: u64,
    /// The digest's length in bytes.
    pub digest_bytes: usize,
}

/// A hash function that can be computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashFunction(Function);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Table(Code),
    /// The code table can compute it (Git's objects use it), but has no entry for it.
    Sha1,
}

impl HashFunction {
    /// The function of a multihash code.
    pub fn of(code: u64) -> Option<Self> {
        if code == SHA1 {
            return Some(Self(Function::Sha1));
        }
        Code::try_from(code).ok().map(|code| Self(Function::Table(code)))
    }

    /// The length of a full digest, in bytes; no hashing is needed to tell it.
    pub fn digest_bytes(self) -> usize {
        match self.0 {
            Function::Table(Code::Blake2s128) => 16,
            Function::Table(Code::Ripemd160) | Function::Sha1 => 20,
            Function::Table(Code::Sha3_224 | Code::Keccak224) => 28,
            Function::Table(
                Code::Sha2_256
                | Code::Sha3_256
                | Code::Keccak256
                | Code::Blake2b256
                | Code::Blake2s256
                | Code::Blake3_256
                | Code::Ripemd256,
            ) => 32,
            Function::Table(Code::Ripemd320) => 40,
            Function::Table(Code::Sha3_384 | Code::Keccak384) => 48,
            Function::Table(Code::Sha2_512 | Code::Sha3_512 | Code::Keccak512 | Code::Blake2b512) => 64,
        }
    }

    /// The full digest of `data`.
    pub fn digest(self, data: &[u8]) -> Multihash {
        match self.0 {
            Function::Table(code) => code.digest(data),
            Function::Sha1 => {
                let mut hasher = Sha1::default();
                hasher.update(data);
                // Its 20 bytes always fit.
                Multihash::wrap(SHA1, hasher.finalize()).unwrap_or_default()
            }
        }
    }
}

/// Bytes that match their CID. Cloning is cheap: the bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

impl Block {
    /// Hashes `data` and compares with `cid`. A digest may be truncated, as multihash allows.
    pub fn verify(cid: Cid, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLarge { bytes: data.len() });
        }
        let hash = cid.hash();
        if hash.code() == IDENTITY_HASH {
            return if hash.digest() == data.as_ref() {
                Ok(Self { cid, data })
            } else {
                Err(BlockError::Mismatch { cid })
            };
        }
        let computed = check_hash(&cid)?.digest(&data);
        if computed.digest().get(..hash.digest().len()) == Some(hash.digest()) {
            Ok(Self { cid, data })
        } else {
            Err(BlockError::Mismatch { cid })
        }
    }

    /// The block that an identity CID carries within itself; `None` for every other CID.
    pub fn from_identity(cid: Cid) -> Option<Self> {
        let hash = cid.hash();
        (hash.code() == IDENTITY_HASH).then(|| Self { cid, data: Bytes::copy_from_slice(hash.digest()) })
    }

    /// Makes a CIDv1 with SHA2-256 for `data`.
    pub fn new_sha256(codec: u64, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLarge { bytes: data.len() });
        }
        let cid = Cid::new_v1(codec, Code::Sha2_256.digest(&data));
        Ok(Self { cid, data })
    }

    /// Makes the block that `data` is under a CID prefix (version, codec, hash function, digest length), as Bitswap
    /// sends blocks: whatever the sender claims, the CID is computed here.
    pub fn from_prefix(prefix: CidPrefix, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLarge { bytes: data.len() });
        }
        let unsupported = BlockError::UnsupportedHash { code: prefix.hash };
        let computed = check_digest(prefix.hash, prefix.digest_bytes)?.digest(&data);
        let digest = computed.digest().get(..prefix.digest_bytes).ok_or_else(|| unsupported.clone())?;
        let hash = Multihash::wrap(prefix.hash, digest).map_err(|_| unsupported.clone())?;
        let cid = match prefix.version {
            Version::V0 => Cid::new_v0(hash).map_err(|_| unsupported)?,
            Version::V1 => Cid::new_v1(prefix.codec, hash),
        };
        Ok(Self { cid, data })
    }

    /// The same bytes under another CID of the same multihash; `None` when the multihash differs.
    pub fn relabel(&self, cid: Cid) -> Option<Self> {
        (cid.hash() == self.cid.hash()).then(|| Self { cid, data: self.data.clone() })
    }

    /// The block's CID.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The block's bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The block under its parts.
    pub fn into_parts(self) -> (Cid, Bytes) {
        (self.cid, self.data)
    }
}

/// Whether blocks of this CID can be verified here, without having one.
pub fn check_hash(cid: &Cid) -> Result<HashFunction, BlockError> {
    check_digest(cid.hash().code(), cid.hash().digest().len())
}

/// The hash function, if a digest of this length can be trusted and matched.
fn check_digest(code: u64, bytes: usize) -> Result<HashFunction, BlockError> {
    let function = HashFunction::of(code).ok_or(BlockError::UnsupportedHash { code })?;
    if bytes < DIGEST_BYTES_MIN {
        return Err(BlockError::ShortDigest { bytes });
    }
    let bytes_max = function.digest_bytes();
    if bytes > bytes_max {
        return Err(BlockError::LongDigest { code, bytes, bytes_max });
    }
    Ok(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: u64 = 0x55;

    #[test]
    fn accepts_matching_bytes_for_every_hash_function() {
        let data = Bytes::from_static(b"hello");
        for code in [
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1053, 0x1054, 0x1055, 0xb220,
            0xb240, 0xb260,
        ] {
            let function = HashFunction::of(code).unwrap();
            let cid = Cid::new_v1(RAW, function.digest(&data));
            assert_eq!(cid.hash().digest().len(), function.digest_bytes(), "0x{code:x}");
            Block::verify(cid, data.clone()).unwrap();
            assert_eq!(Block::verify(cid, Bytes::from_static(b"hellO")), Err(BlockError::Mismatch { cid }));
        }
    }

    #[test]
    fn blake2s_128_is_too_short_to_be_trusted() {
        let data = Bytes::from_static(b"hello");
        let function = HashFunction::of(0xb250).unwrap();
        assert_eq!(function.digest_bytes(), 16);
        let cid = Cid::new_v1(RAW, function.digest(&data));
        assert_eq!(Block::verify(cid, data), Err(BlockError::ShortDigest { bytes: 16 }));
    }

    #[test]
    fn accepts_a_truncated_digest_but_not_a_short_one() {
        let data = Bytes::from_static(b"hello");
        let full = Code::Sha2_256.digest(&data);
        let truncated = Cid::new_v1(RAW, Multihash::wrap(0x12, &full.digest()[..20]).unwrap());
        Block::verify(truncated, data.clone()).unwrap();
        let short = Cid::new_v1(RAW, Multihash::wrap(0x12, &full.digest()[..19]).unwrap());
        assert_eq!(Block::verify(short, data), Err(BlockError::ShortDigest { bytes: 19 }));
    }

    #[test]
    fn refuses_a_digest_longer_than_the_hash() {
        let data = Bytes::from_static(b"hello");
        let mut digest = Code::Sha2_256.digest(&data).digest().to_vec();
        digest.push(0);
        let cid = Cid::new_v1(RAW, Multihash::wrap(0x12, &digest).unwrap());
        let long = BlockError::LongDigest { code: 0x12, bytes: 33, bytes_max: 32 };
        assert_eq!(check_hash(&cid), Err(long.clone()));
        assert_eq!(Block::verify(cid, data.clone()), Err(long.clone()));
        let prefix = CidPrefix { version: Version::V1, codec: RAW, hash: 0x12, digest_bytes: 33 };
        assert_eq!(Block::from_prefix(prefix, data), Err(long));
    }

    #[test]
    fn decodes_identity() {
        let cid: Cid = "bafkqaaa".parse().unwrap();
        assert_eq!(Block::from_identity(cid).unwrap().data().len(), 0);
    }

    #[test]
    fn refuses_an_unknown_hash_and_an_oversized_block() {
        let cid = Cid::new_v1(RAW, Multihash::wrap(0x22, &[0; 32]).unwrap());
        assert_eq!(Block::verify(cid, Bytes::new()), Err(BlockError::UnsupportedHash { code: 0x22 }));
        let data = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
        let cid = Cid::new_v1(RAW, Code::Sha2_256.digest(&data));
        assert_eq!(Block::verify(cid, data), Err(BlockError::TooLarge { bytes: BLOCK_BYTES_MAX + 1 }));
    }
}
