//! The links of one block, for every codec that can be walked.
//!
//! What Kubo's decoders accept is accepted here (go-codec-dagpb and go-ipld-prime, releases old and new), so that
//! every DAG that Kubo can pin can be pinned here. The scanners read structure only: they build no tree, check every
//! length against what remains before using it, and keep their own bounded stacks. They are no validators: where a
//! rule doesn't touch links (duplicate keys, the range of numbers, UTF-8 in strings) they are more lenient than the
//! strictest decoder.

pub(super) mod cid_bytes;
mod dag_cbor;
mod dag_json;
pub(super) mod dag_pb;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use cid::Cid;

use super::target::Target;
use crate::model::cids::codec;
use crate::model::limits::{LINKS_PER_BLOCK_MAX, NODE_DEPTH_MAX};

/// Why the links of a block can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The block's codec is not one that can be walked.
    #[error("codec 0x{codec:x} is not supported")]
    UnsupportedCodec {
        /// The multicodec code.
        codec: u64,
    },
    /// The data ends in the middle of something.
    #[error("the data ends early, at byte {at}")]
    Truncated {
        /// Where, in bytes from the start of the node.
        at: usize,
    },
    /// The data is no valid node of its codec.
    #[error("{what}, at byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from the start of the node.
        at: usize,
    },
    /// A link holds something that is no CID.
    #[error("a link is not a CID: {reason}")]
    BadCid {
        /// What is wrong with it.
        reason: String,
    },
    /// The data is nested too deeply.
    #[error("nested deeper than {NODE_DEPTH_MAX} levels")]
    TooDeep,
    /// The block has too many links.
    #[error("more than {LINKS_PER_BLOCK_MAX} links in one block")]
    TooManyLinks,
}

/// The CIDs that the block `data`, named `cid`, links to: in the order of the block, repeated as they are there.
///
/// An identity CID carries its block within itself, so instead of it come the links of that inner block. None of the
/// CIDs returned is an identity CID. Whether their hash and codec are supported is for the caller to check.
pub fn links(cid: &Cid, data: &Bytes) -> Result<Vec<Cid>, LinkError> {
    links_of(cid.codec(), data)
}

/// The bytes of the DAG below a node and of the node itself, as the node says: nobody has checked them, and what is there several
/// times counts as often. `None` where nodes of the codec don't say.
pub fn bytes_told(cid: &Cid, data: &[u8]) -> Option<u64> {
    if cid.codec() != codec::DAG_PB {
        return codec::is_leaf(cid.codec()).then_some(data.len() as u64);
    }
    let (mut bytes, mut links, mut sized) = (data.len() as u64, 0_usize, 0_usize);
    let read = dag_pb::read(data, |link| {
        bytes = bytes.saturating_add(link.size);
        links += 1;
        sized += usize::from(link.size > 0);
        Ok(())
    });
    (read.is_ok() && links == sized).then_some(bytes)
}

/// As [`links`], for data that has no CID to name it.
pub(super) fn links_of(codec: u64, data: &[u8]) -> Result<Vec<Cid>, LinkError> {
    let mut found = Links::default();
    found.scan(codec, data)?;
    Ok(found.cids)
}

/// What a path leads to inside one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A link, after so many parts of the path.
    Link {
        /// Where it leads.
        target: Target,
        /// Parts of the path that led to it.
        used: usize,
    },
    /// The path ends at a value that is no link.
    Value,
    /// There is nothing under the part with this index.
    Nothing {
        /// Parts of the path that were found.
        used: usize,
    },
}

/// Looks up a path of keys and indices in a block of dag-cbor or dag-json.
pub(super) fn look_up(codec: u64, data: &[u8], path: &[Vec<u8>]) -> Result<Found, LinkError> {
    match codec {
        codec::DAG_CBOR => dag_cbor::look_up(data, path),
        codec::DAG_JSON => dag_json::look_up(data, path),
        codec => Err(LinkError::UnsupportedCodec { codec }),
    }
}

/// The place in a list that a part of a path means, if it is a number as one writes it.
fn list_index(part: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(part).ok()?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

/// What the scanners put their links into.
#[derive(Debug, Default)]
struct Links {
    cids: Vec<Cid>,
}

impl Links {
    fn scan(&mut self, codec: u64, data: &[u8]) -> Result<(), LinkError> {
        match codec {
            codec if codec::is_leaf(codec) => Ok(()),
            codec::DAG_PB => dag_pb::scan(data, self),
            codec::DAG_CBOR => dag_cbor::scan(data, self),
            codec::DAG_JSON => dag_json::scan(data, self),
            codec => Err(LinkError::UnsupportedCodec { codec }),
        }
    }

    /// Adds the CID at the start of `bytes` and returns its length in bytes.
    ///
    /// This recurses for identity CIDs, each inside its parent's digest: a digest has at most
    /// [`cid_bytes::IDENTITY_DIGEST_BYTES_MAX`] bytes and a link costs eight or more, so it ends after a few levels.
    fn push_bytes(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        let (target, length) = cid_bytes::parse(bytes)?;
        match target {
            cid_bytes::Target::Inline { codec, data } => self.scan(codec, data)?,
            cid_bytes::Target::Block(cid) => {
                if self.cids.len() >= LINKS_PER_BLOCK_MAX {
                    return Err(LinkError::TooManyLinks);
                }
                self.cids.push(cid);
            }
        }
        Ok(length)
    }

    /// Adds the CID that is all of `bytes`.
    fn push_whole(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let length = self.push_bytes(bytes)?;
        if length == bytes.len() { Ok(()) } else { Err(LinkError::BadCid { reason: "bytes follow the CID".into() }) }
    }

    /// Adds the CID that is written as text.
    fn push_text(&mut self, text: &str) -> Result<(), LinkError> {
        self.push_whole(&cid_bytes::decode_text(text)?)
    }
}
