//! What a link leads to: a block elsewhere, or one that the link itself carries.

use bytes::Bytes;
use cid::Cid;
use cid::multibase::{self, Base};
use unsigned_varint::encode;

use super::links::LinkError;
use super::links::cid_bytes::{self, Target as Parsed};
use crate::model::block::IDENTITY_HASH;

/// Where a link or a path leads. Unlike a [`Cid`], it has room for every identity CID that can be linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A block of its own.
    Block(Cid),
    /// A block within an identity CID.
    Inline {
        /// Its codec.
        codec: u64,
        /// Its bytes.
        data: Bytes,
    },
}

impl Target {
    /// What a CID stands for.
    pub fn of(cid: Cid) -> Self {
        if cid.hash().code() == IDENTITY_HASH {
            Self::Inline { codec: cid.codec(), data: Bytes::copy_from_slice(cid.hash().digest()) }
        } else {
            Self::Block(cid)
        }
    }

    /// Reads the CID at the start of the bytes; what follows it is ignored.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, LinkError> {
        cid_bytes::parse(bytes).map(|(parsed, _)| parsed.into())
    }

    /// Reads the CID that is all of the bytes.
    pub(super) fn read_whole(bytes: &[u8]) -> Result<Self, LinkError> {
        match cid_bytes::parse(bytes)? {
            (parsed, length) if length == bytes.len() => Ok(parsed.into()),
            _ => Err(LinkError::BadCid { reason: "bytes follow the CID".into() }),
        }
    }

    /// The codec of the block.
    pub fn codec(&self) -> u64 {
        match self {
            Self::Block(cid) => cid.codec(),
            Self::Inline { codec, .. } => *codec,
        }
    }

    /// The CID as text.
    pub fn text(&self) -> String {
        match self {
            Self::Block(cid) => cid.to_string(),
            Self::Inline { codec, data } => {
                let mut bytes = vec![1];
                bytes.extend_from_slice(encode::u64(*codec, &mut encode::u64_buffer()));
                bytes.extend_from_slice(encode::u64(IDENTITY_HASH, &mut encode::u64_buffer()));
                bytes.extend_from_slice(encode::usize(data.len(), &mut encode::usize_buffer()));
                bytes.extend_from_slice(data);
                multibase::encode(Base::Base32Lower, bytes)
            }
        }
    }
}

impl From<Parsed<'_>> for Target {
    fn from(parsed: Parsed<'_>) -> Self {
        match parsed {
            Parsed::Block(cid) => Self::Block(cid),
            Parsed::Inline { codec, data } => Self::Inline { codec, data: Bytes::copy_from_slice(data) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cid_keeps_its_text() {
        for text in [
            "bafkqaaa",
            "bafkqaf3imvwgy3zaneqgc3janfxgy2lomvscay3jmqfa",
            "bafkreie5noke3mb7hqxukzcy73nl23k6lxszxi5w3dtmuwz62wnvkpsscm",
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        ] {
            let target = Target::of(text.parse().unwrap());
            assert_eq!(target.text(), text);
            let is_inline = matches!(target, Target::Inline { .. });
            assert_eq!(is_inline, text.starts_with("bafkqa"), "{text}");
        }
    }

    #[test]
    fn a_link_may_carry_more_than_a_cid_has_room_for() {
        let mut bytes = vec![1, 0x55, 0, 100];
        bytes.extend([7; 100]);
        let target = Target::read_whole(&bytes).unwrap();
        assert_eq!(target, Target::Inline { codec: 0x55, data: vec![7; 100].into() });
        assert_eq!(multibase::decode(target.text()).unwrap().1, bytes);
        bytes.push(0);
        assert!(Target::read_whole(&bytes).is_err());
        assert_eq!(Target::read(&bytes).unwrap(), target);
    }
}
