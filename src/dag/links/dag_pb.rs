//! Links of dag-pb nodes: two nested protobuf messages, read as go-codec-dagpb 1.7 reads them (`unmarshal.go`).
//!
//! Names may be any bytes (old directories hold names that aren't UTF-8), varints may be longer than needed, `Data`
//! may come before or after all `Links`; unknown fields, repeated fields and fields out of order are errors.

use super::{LinkError, Links};

pub(in crate::dag) const WIRE_VARINT: u64 = 0;
pub(in crate::dag) const WIRE_BYTES: u64 = 2;

const NODE_DATA: u64 = 1;
const NODE_LINKS: u64 = 2;
const LINK_HASH: u64 = 1;
const LINK_NAME: u64 = 2;
const LINK_SIZE: u64 = 3;

/// The largest field number of protobuf's wire format, as Go's `protowire` has it.
const FIELD_NUMBER_MAX: u64 = i32::MAX as u64;

/// A link as it stands in a node.
pub(in crate::dag) struct PbLink<'a> {
    /// The bytes of the CID, and what may follow it.
    pub(in crate::dag) hash: &'a [u8],
    /// The name; empty where there is none.
    pub(in crate::dag) name: &'a [u8],
    /// The bytes of the DAG behind it (`Tsize`), as whoever made the node says; 0 where there is nothing about it.
    pub(in crate::dag) size: u64,
}

/// Puts the links of the node into `links`.
pub(super) fn scan(data: &[u8], links: &mut Links) -> Result<(), LinkError> {
    // Bytes after the CID are ignored, as `cid.CidFromBytes` ignores them there.
    read(data, |link| links.push_bytes(link.hash).map(drop))?;
    Ok(())
}

/// Hands out the links in their order, and returns the `Data`.
pub(in crate::dag) fn read<'a>(
    data: &'a [u8],
    mut each: impl FnMut(PbLink<'a>) -> Result<(), LinkError>,
) -> Result<Option<&'a [u8]>, LinkError> {
    let mut fields = Fields::new(data);
    let mut contents = None;
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
                if contents.is_some() {
                    return Err(LinkError::Malformed { what: "a node has its Data twice", at });
                }
                contents = Some(fields.bytes()?.rest());
                links_ended = in_links;
            }
            NODE_LINKS => {
                if links_ended {
                    return Err(LinkError::Malformed { what: "a node has Links before and after its Data", at });
                }
                in_links = true;
                each(read_link(fields.bytes()?)?)?;
            }
            _ => return Err(LinkError::Malformed { what: "a node has an unknown field", at }),
        }
    }
    Ok(contents)
}

fn read_link(data: Fields<'_>) -> Result<PbLink<'_>, LinkError> {
    let mut fields = data;
    let mut last = 0;
    let mut link = PbLink { hash: &[], name: &[], size: 0 };
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
            (LINK_HASH, WIRE_BYTES) => link.hash = fields.bytes()?.rest(),
            (LINK_NAME, WIRE_BYTES) => link.name = fields.bytes()?.rest(),
            (LINK_SIZE, WIRE_VARINT) => link.size = fields.varint()?,
            _ => return Err(LinkError::Malformed { what: "a field of a link has the wrong wire type", at }),
        }
    }
    if last == 0 { Err(LinkError::Malformed { what: "a link has no Hash", at: fields.at }) } else { Ok(link) }
}

/// Reads protobuf fields; `data` is the whole block up to the end of the message, so that `at` counts from its start.
pub(in crate::dag) struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(in crate::dag) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(in crate::dag) fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }

    pub(in crate::dag) fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    /// A field's number and wire type.
    pub(in crate::dag) fn tag(&mut self) -> Result<(u64, u64), LinkError> {
        let at = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > FIELD_NUMBER_MAX {
            return Err(LinkError::Malformed { what: "a field number is out of range", at });
        }
        Ok((number, tag & 7))
    }

    /// The contents of a field with a length; the reader moves on behind them.
    pub(in crate::dag) fn bytes(&mut self) -> Result<Fields<'a>, LinkError> {
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

    /// Moves on behind so many bytes.
    pub(in crate::dag) fn skip(&mut self, bytes: usize) -> Result<(), LinkError> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.data.len());
        self.at = end.ok_or(LinkError::Truncated { at: self.data.len() })?;
        Ok(())
    }

    /// A varint of at most ten bytes; protobuf allows more bytes than the value needs.
    pub(in crate::dag) fn varint(&mut self) -> Result<u64, LinkError> {
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
