//! Links of dag-pb nodes: two nested protobuf messages, read as go-codec-dagpb 1.7 reads them (`unmarshal.go`).
//!
//! Names may be any bytes (old directories hold names that aren't UTF-8), varints may be longer than needed, `Data`
//! may come before or after all `Links`; unknown fields, repeated fields and fields out of order are errors.

use super::{LinkError, Links};

const WIRE_VARINT: u64 = 0;
const WIRE_BYTES: u64 = 2;

const NODE_DATA: u64 = 1;
const NODE_LINKS: u64 = 2;
const LINK_HASH: u64 = 1;
const LINK_NAME: u64 = 2;
const LINK_SIZE: u64 = 3;

/// The largest field number of protobuf's wire format, as Go's `protowire` has it.
const FIELD_NUMBER_MAX: u64 = i32::MAX as u64;

/// Puts the links of the node into `links`.
pub(super) fn scan(data: &[u8], links: &mut Links) -> Result<(), LinkError> {
    let mut fields = Fields { data, at: 0 };
    let mut have_data = false;
    let mut in_links = false;
    let mut links_ended = false;
    while !fields.is_empty() {
        let at = fields.at;
        let (number, wire) = fields.tag()?;
        if wire != WIRE_BYTES {
            return Err(LinkError::Malformed { what: "a field of a node has the wrong wire type", at });
        }
        match number {
            NODE_DATA => {
                if have_data {
                    return Err(LinkError::Malformed { what: "a node has its Data twice", at });
                }
                fields.bytes()?;
                have_data = true;
                links_ended = in_links;
            }
            NODE_LINKS => {
                if links_ended {
                    return Err(LinkError::Malformed { what: "a node has Links before and after its Data", at });
                }
                in_links = true;
                scan_link(fields.bytes()?, links)?;
            }
            _ => return Err(LinkError::Malformed { what: "a node has an unknown field", at }),
        }
    }
    Ok(())
}

fn scan_link(data: Fields<'_>, links: &mut Links) -> Result<(), LinkError> {
    let mut fields = data;
    let mut last = 0;
    while !fields.is_empty() {
        let at = fields.at;
        let (number, wire) = fields.tag()?;
        if number > LINK_SIZE {
            return Err(LinkError::Malformed { what: "a link has an unknown field", at });
        }
        if last == 0 && number != LINK_HASH {
            return Err(LinkError::Malformed { what: "a link does not begin with its Hash", at });
        }
        if number <= last {
            return Err(LinkError::Malformed { what: "a link has a field twice or out of order", at });
        }
        last = number;
        match (number, wire) {
            // Bytes after the CID are ignored, as `cid.CidFromBytes` ignores them there.
            (LINK_HASH, WIRE_BYTES) => {
                links.push_bytes(fields.bytes()?.rest())?;
            }
            (LINK_NAME, WIRE_BYTES) => {
                fields.bytes()?;
            }
            (LINK_SIZE, WIRE_VARINT) => {
                fields.varint()?;
            }
            _ => return Err(LinkError::Malformed { what: "a field of a link has the wrong wire type", at }),
        }
    }
    if last == 0 { Err(LinkError::Malformed { what: "a link has no Hash", at: fields.at }) } else { Ok(()) }
}

/// Reads protobuf fields; `data` is the whole block up to the end of the message, so that `at` counts from its start.
struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }

    fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    /// A field's number and wire type.
    fn tag(&mut self) -> Result<(u64, u64), LinkError> {
        let at = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > FIELD_NUMBER_MAX {
            return Err(LinkError::Malformed { what: "a field number is out of range", at });
        }
        Ok((number, tag & 7))
    }

    /// The contents of a field with a length; the reader moves on behind them.
    fn bytes(&mut self) -> Result<Fields<'a>, LinkError> {
        let length = self.varint()?;
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.data.len())
            .ok_or(LinkError::Truncated { at: self.data.len() })?;
        let contents = Fields { data: self.data.get(..end).unwrap_or_default(), at: self.at };
        self.at = end;
        Ok(contents)
    }

    /// A varint of at most ten bytes; protobuf allows more bytes than the value needs.
    fn varint(&mut self) -> Result<u64, LinkError> {
        let start = self.at;
        let mut value = 0_u64;
        for index in 0..10 {
            let byte = *self.data.get(self.at).ok_or(LinkError::Truncated { at: self.at })?;
            self.at += 1;
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LinkError::Malformed { what: "a varint is longer than 64 bits", at: start })
    }
}
