//! The bytes of a file of version 1.

use cid::Cid;
use unsigned_varint::encode;

use super::Header;

/// The beginning of a file with these roots.
pub fn header(roots: &[Cid]) -> Vec<u8> {
    let header = Header { roots: Some(roots.to_vec()), version: 1 };
    // CIDs and a number can always be encoded; a header that couldn't would be refused by every reader.
    let header = serde_ipld_dagcbor::to_vec(&header).unwrap_or_default();
    prefixed(&[&header])
}

/// A block of the file.
pub fn section(cid: &Cid, data: &[u8]) -> Vec<u8> {
    prefixed(&[&cid.to_bytes(), data])
}

fn prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut buffer = encode::usize_buffer();
    let prefix = encode::usize(length, &mut buffer);
    let mut bytes = Vec::with_capacity(prefix.len() + length);
    bytes.extend_from_slice(prefix);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}
