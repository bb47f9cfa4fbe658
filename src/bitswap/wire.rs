//! The Bitswap message on the wire: protobuf, read without trust and without copying blocks.
//!
//! Written by hand rather than generated, because a hostile message of 4 MiB holds two million empty entries, and
//! a generated decoder would make an object for each before anyone could count them.

use bytes::Bytes;
use cid::{Cid, Version};

use crate::model::block::CidPrefix;
use crate::model::limits::{CID_BYTES_MAX, WANTLIST_ENTRIES_MAX};
use crate::model::protobuf::{put_bytes, put_number, put_varint, varint_len};
use crate::model::{Block, block::IDENTITY_HASH, cids};

/// Blocks in one message: 4 MiB of blocks of 128 bytes.
const BLOCKS_PER_MESSAGE_MAX: usize = 32 * 1024;

/// Blocks from this length on, in bytes, have a message of their own, as boxo sends them: who reads it needn't copy the block out of it, and
/// hashes it while the next one comes.
const ALONE_BYTES_MIN: usize = 64 * 1024;

/// The data of a block from which on it is a piece of its own: copying less is cheaper than a frame for it.
const DATA_PIECE_BYTES_MIN: usize = 16 * 1024;

/// Which Bitswap a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `/ipfs/bitswap/1.0.0`: bare blocks, SHA2-256 and CIDv0 only.
    V1_0,
    /// `/ipfs/bitswap/1.1.0`: blocks with the prefix of their CID.
    V1_1,
    /// `/ipfs/bitswap/1.2.0`: `HAVE` and `DONT_HAVE`.
    V1_2,
}

impl Protocol {
    /// What peers call it when they agree on one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_0 => "/ipfs/bitswap/1.0.0",
            Self::V1_1 => "/ipfs/bitswap/1.1.0",
            Self::V1_2 => "/ipfs/bitswap/1.2.0",
        }
    }
}

/// What is wanted of a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WantKind {
    /// The block itself.
    Block,
    /// Only whether the peer has it.
    Have,
}

/// One entry of a wantlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantEntry {
    /// The CID.
    pub cid: Cid,
    /// Higher is sooner.
    pub priority: i32,
    /// Takes an earlier want back.
    pub cancel: bool,
    /// What is wanted.
    pub kind: WantKind,
    /// Asks for an answer also when the peer doesn't have it.
    pub send_dont_have: bool,
}

/// Whether a peer has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It has.
    Have,
    /// It doesn't have.
    DontHave,
}

/// A message to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Changes of our wantlist, or all of it.
    pub wants: Vec<WantEntry>,
    /// The wants are the whole wantlist.
    pub full: bool,
    /// Answers without data.
    pub presences: Vec<(Cid, Presence)>,
    /// Blocks, each under the CID that was asked for.
    pub blocks: Vec<(Cid, Bytes)>,
}

impl Outgoing {
    /// What it is sent as: each large block in a message of its own, behind all else.
    pub fn into_messages(mut self) -> Vec<Self> {
        let large: Vec<_> = self.blocks.extract_if(.., |(_, data)| data.len() >= ALONE_BYTES_MIN).collect();
        let is_empty = self == Self::default();
        let alone = large.into_iter().map(|block| Self { blocks: vec![block], ..Self::default() });
        (!is_empty).then_some(self).into_iter().chain(alone).collect()
    }
}

/// A message that came, its blocks already hashed.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// Changes of the peer's wantlist, or all of it.
    pub wants: Vec<WantEntry>,
    /// The wants are the whole wantlist.
    pub full: bool,
    /// Answers without data.
    pub presences: Vec<(Cid, Presence)>,
    /// Blocks, each proven to match its CID.
    pub blocks: Vec<Block>,
    /// Entries and blocks that were left out, because their CID or hash isn't usable.
    pub skipped: usize,
    /// The message's length in bytes.
    pub bytes: usize,
}

/// Why a message can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint is longer than 64 bits.
    #[error("a number is longer than 64 bits")]
    Varint,
    /// A field has a wire type that it can't have.
    #[error("field {field} has wire type {wire_type}")]
    WireType {
        /// The field's number.
        field: u64,
        /// The protobuf wire type.
        wire_type: u8,
    },
    /// More blocks than [`BLOCKS_PER_MESSAGE_MAX`].
    #[error("the message holds more than {BLOCKS_PER_MESSAGE_MAX} blocks")]
    TooManyBlocks,
}

/// A cursor over protobuf fields.
struct Fields {
    data: Bytes,
}

enum Field {
    Number(u64, u64),
    Data(u64, Bytes),
    Skipped,
}

impl Fields {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, byte) in self.data.iter().copied().enumerate() {
            if index == 10 || (index == 9 && byte > 1) {
                return Err(WireError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let _ = self.data.split_to(index + 1);
                return Ok(value);
            }
        }
        Err(WireError::Truncated)
    }

    fn bytes(&mut self) -> Result<Bytes, WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        self.skip(length)
    }

    fn skip(&mut self, length: usize) -> Result<Bytes, WireError> {
        if length > self.data.len() {
            return Err(WireError::Truncated);
        }
        Ok(self.data.split_to(length))
    }

    fn next(&mut self) -> Result<Option<Field>, WireError> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let (field, wire_type) = (key >> 3, (key & 7) as u8);
        Ok(Some(match wire_type {
            0 => Field::Number(field, self.varint()?),
            1 => {
                self.skip(8)?;
                Field::Skipped
            }
            2 => Field::Data(field, self.bytes()?),
            5 => {
                self.skip(4)?;
                Field::Skipped
            }
            _ => return Err(WireError::WireType { field, wire_type }),
        }))
    }
}

/// Reads a message. Each block is hashed here, so this belongs on the task of its connection.
///
/// Entries with a CID that can't be read, blocks with a hash that can't be computed and entries past the bounds are
/// counted in [`Incoming::skipped`], not errors: another version of the protocol may well know more.
pub fn decode(message: Bytes) -> Result<Incoming, WireError> {
    let mut incoming = Incoming { bytes: message.len(), ..Incoming::default() };
    let mut fields = Fields { data: message };
    while let Some(field) = fields.next()? {
        match field {
            Field::Data(1, data) => decode_wantlist(data, &mut incoming)?,
            Field::Data(2, data) => {
                let prefix = CidPrefix { version: Version::V0, codec: 0x70, hash: 0x12, digest_bytes: 32 };
                push_block(&mut incoming, Some(prefix), data)?;
            }
            Field::Data(3, data) => {
                let mut block = Fields { data };
                let (mut prefix, mut bytes) = (None, Bytes::new());
                while let Some(field) = block.next()? {
                    match field {
                        Field::Data(1, data) => prefix = decode_prefix(data),
                        Field::Data(2, data) => bytes = data,
                        _ => {}
                    }
                }
                push_block(&mut incoming, prefix, bytes)?;
            }
            Field::Data(4, data) => decode_presence(data, &mut incoming)?,
            _ => {}
        }
    }
    Ok(incoming)
}

fn push_block(incoming: &mut Incoming, prefix: Option<CidPrefix>, data: Bytes) -> Result<(), WireError> {
    if incoming.blocks.len() == BLOCKS_PER_MESSAGE_MAX {
        return Err(WireError::TooManyBlocks);
    }
    // A view keeps the whole message in memory: right for one that is all block, not for a small block in a large message.
    let data = if data.len() < incoming.bytes / 2 { Bytes::copy_from_slice(&data) } else { data };
    match prefix.map(|prefix| Block::from_prefix(prefix, data)) {
        Some(Ok(block)) => incoming.blocks.push(block),
        _ => incoming.skipped += 1,
    }
    Ok(())
}

fn decode_wantlist(data: Bytes, incoming: &mut Incoming) -> Result<(), WireError> {
    let mut fields = Fields { data };
    while let Some(field) = fields.next()? {
        match field {
            Field::Data(1, data) => {
                if incoming.wants.len() == WANTLIST_ENTRIES_MAX {
                    incoming.skipped += 1;
                    continue;
                }
                match decode_want(data)? {
                    Some(entry) => incoming.wants.push(entry),
                    None => incoming.skipped += 1,
                }
            }
            Field::Number(2, value) => incoming.full = value != 0,
            _ => {}
        }
    }
    Ok(())
}

fn decode_want(data: Bytes) -> Result<Option<WantEntry>, WireError> {
    let mut fields = Fields { data };
    let mut cid = None;
    let mut entry =
        WantEntry { cid: Cid::default(), priority: 0, cancel: false, kind: WantKind::Block, send_dont_have: false };
    while let Some(field) = fields.next()? {
        match field {
            Field::Data(1, data) => cid = decode_cid(&data),
            // An int32 is sent as its 64-bit two's complement: the low half is the value.
            #[allow(clippy::cast_possible_truncation)]
            Field::Number(2, value) => entry.priority = value as i32,
            Field::Number(3, value) => entry.cancel = value != 0,
            Field::Number(4, value) => entry.kind = if value == 1 { WantKind::Have } else { WantKind::Block },
            Field::Number(5, value) => entry.send_dont_have = value != 0,
            _ => {}
        }
    }
    Ok(cid.map(|cid| WantEntry { cid, ..entry }))
}

fn decode_presence(data: Bytes, incoming: &mut Incoming) -> Result<(), WireError> {
    let mut fields = Fields { data };
    let (mut cid, mut presence) = (None, Presence::Have);
    while let Some(field) = fields.next()? {
        match field {
            Field::Data(1, data) => cid = decode_cid(&data),
            Field::Number(2, value) => presence = if value == 1 { Presence::DontHave } else { Presence::Have },
            _ => {}
        }
    }
    match cid {
        Some(cid) if incoming.presences.len() < WANTLIST_ENTRIES_MAX => incoming.presences.push((cid, presence)),
        _ => incoming.skipped += 1,
    }
    Ok(())
}

fn decode_cid(data: &[u8]) -> Option<Cid> {
    if data.len() > CID_BYTES_MAX {
        return None;
    }
    cids::read(data).ok()
}

fn decode_prefix(data: Bytes) -> Option<CidPrefix> {
    let mut fields = Fields { data };
    let version = match fields.varint().ok()? {
        0 => Version::V0,
        1 => Version::V1,
        _ => return None,
    };
    let codec = fields.varint().ok()?;
    let hash = fields.varint().ok()?;
    let digest_bytes = usize::try_from(fields.varint().ok()?).ok()?;
    // An identity "hash" proves nothing about who should have the data, and boxo refuses it too.
    (fields.data.is_empty() && hash != IDENTITY_HASH).then_some(CidPrefix { version, codec, hash, digest_bytes })
}

fn cid_prefix(cid: &Cid) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(8);
    put_varint(&mut prefix, cid.version().into());
    put_varint(&mut prefix, cid.codec());
    put_varint(&mut prefix, cid.hash().code());
    put_varint(&mut prefix, u64::from(cid.hash().size()));
    prefix
}

/// Encodes a message with its length prefix, in pieces to be sent one after the other: the blocks themselves aren't copied.
///
/// What the older protocol versions can't say is left out or said as they say it: 1.1 and 1.0 have no presences and
/// no HAVE (which becomes a want of the block), 1.0 sends bare blocks.
pub fn encode_pieces(message: &Outgoing, protocol: Protocol) -> Vec<Bytes> {
    let mut pieces = Pieces::default();
    if message.full || !message.wants.is_empty() {
        let mut wantlist = Vec::with_capacity(64 * message.wants.len());
        for entry in &message.wants {
            put_bytes(&mut wantlist, 1, &encode_want(entry, protocol));
        }
        put_number(&mut wantlist, 2, u64::from(message.full));
        put_bytes(&mut pieces.last, 1, &wantlist);
    }
    for (cid, data) in &message.blocks {
        if protocol == Protocol::V1_0 {
            pieces.put_data(2, data);
            continue;
        }
        let prefix = cid_prefix(cid);
        let length =
            1 + varint_len(prefix.len() as u64) + prefix.len() + 1 + varint_len(data.len() as u64) + data.len();
        pieces.last.push(3 << 3 | 2);
        put_varint(&mut pieces.last, length as u64);
        put_bytes(&mut pieces.last, 1, &prefix);
        pieces.put_data(2, data);
    }
    if protocol == Protocol::V1_2 {
        for (cid, presence) in &message.presences {
            let mut entry = Vec::with_capacity(48);
            put_bytes(&mut entry, 1, &cid.to_bytes());
            put_number(&mut entry, 2, u64::from(*presence == Presence::DontHave));
            put_bytes(&mut pieces.last, 4, &entry);
        }
    }
    pieces.framed()
}

/// The same in one piece.
pub fn encode(message: &Outgoing, protocol: Protocol) -> Vec<u8> {
    encode_pieces(message, protocol).concat()
}

/// A message that is being encoded.
#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    fn put_data(&mut self, field: u8, data: &Bytes) {
        if data.len() < DATA_PIECE_BYTES_MIN {
            put_bytes(&mut self.last, field, data);
            return;
        }
        self.last.push(field << 3 | 2);
        put_varint(&mut self.last, data.len() as u64);
        self.done.push(std::mem::take(&mut self.last).into());
        self.done.push(data.clone());
    }

    fn framed(mut self) -> Vec<Bytes> {
        self.done.push(self.last.into());
        let length: usize = self.done.iter().map(Bytes::len).sum();
        let mut first = Vec::with_capacity(5 + self.done[0].len());
        put_varint(&mut first, length as u64);
        first.extend_from_slice(&self.done[0]);
        self.done[0] = first.into();
        self.done.retain(|piece| !piece.is_empty());
        self.done
    }
}

fn encode_want(entry: &WantEntry, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::with_capacity(56);
    put_bytes(&mut out, 1, &entry.cid.to_bytes());
    // The 64-bit two's complement is how protobuf writes a negative int32.
    #[allow(clippy::cast_sign_loss)]
    put_number(&mut out, 2, i64::from(entry.priority) as u64);
    put_number(&mut out, 3, u64::from(entry.cancel));
    if protocol == Protocol::V1_2 {
        put_number(&mut out, 4, u64::from(entry.kind == WantKind::Have));
        put_number(&mut out, 5, u64::from(entry.send_dont_have));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strip_length(framed: Vec<u8>) -> Bytes {
        let mut fields = Fields { data: Bytes::from(framed) };
        let length = fields.varint().unwrap();
        assert_eq!(length, fields.data.len() as u64);
        fields.data
    }

    fn sample_block(text: &'static str) -> Block {
        Block::new_sha256(0x55, Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn large_blocks_are_not_copied_and_small_ones_are_joined() {
        let large = Bytes::from(vec![7; DATA_PIECE_BYTES_MIN]);
        let blocks: Vec<(Cid, Bytes)> = [Bytes::from_static(b"one"), large.clone(), Bytes::from_static(b"two")]
            .map(|data| (*Block::new_sha256(0x55, data.clone()).unwrap().cid(), data))
            .to_vec();
        let message = Outgoing { blocks: blocks.clone(), ..Outgoing::default() };
        for (protocol, bare) in [(Protocol::V1_0, true), (Protocol::V1_1, false), (Protocol::V1_2, false)] {
            let pieces = encode_pieces(&message, protocol);
            assert_eq!(pieces.len(), 3);
            assert_eq!(pieces[1].as_ptr(), large.as_ptr());
            let decoded = decode(strip_length(pieces.concat())).unwrap();
            assert_eq!(decoded.blocks.len(), 3);
            for (block, (cid, data)) in decoded.blocks.iter().zip(&blocks) {
                assert_eq!(block.data(), data);
                assert!(bare || block.cid() == cid);
            }
        }
    }

    #[test]
    fn large_blocks_travel_alone_behind_all_else() {
        let parts = |length: usize, byte| Block::new_sha256(0x55, vec![byte; length].into()).unwrap().into_parts();
        let (first, small, last) =
            (parts(ALONE_BYTES_MIN, 1), parts(ALONE_BYTES_MIN - 1, 2), parts(2 * ALONE_BYTES_MIN, 3));
        let presences = vec![(small.0, Presence::Have)];
        let blocks = vec![first.clone(), small.clone(), last.clone()];
        let alone = |block: &(Cid, Bytes)| Outgoing { blocks: vec![block.clone()], ..Outgoing::default() };
        let messages = Outgoing { presences: presences.clone(), blocks, ..Outgoing::default() }.into_messages();
        let rest = Outgoing { presences, ..alone(&small) };
        assert_eq!(messages, [rest, alone(&first), alone(&last)]);
        assert_eq!(alone(&first).into_messages(), [alone(&first)]);
        let full = Outgoing { full: true, ..Outgoing::default() };
        assert_eq!(full.clone().into_messages(), [full], "a wantlist that is empty says something");

        let framed = Bytes::from(encode(&alone(&last), Protocol::V1_2));
        let mut fields = Fields { data: framed.clone() };
        fields.varint().unwrap();
        let decoded = decode(fields.data).unwrap();
        let end = framed.as_ptr_range().end;
        assert_eq!(decoded.blocks[0].data().as_ptr_range().end, end, "a view of the message, not a copy");
    }

    #[test]
    fn a_message_survives_the_round_trip() {
        let (first, second) = (sample_block("first"), sample_block("second"));
        let entry =
            WantEntry { cid: *first.cid(), priority: -7, cancel: false, kind: WantKind::Have, send_dont_have: true };
        let message = Outgoing {
            wants: vec![entry.clone(), WantEntry { cancel: true, priority: 0, ..entry.clone() }],
            full: true,
            presences: vec![(*first.cid(), Presence::Have), (*second.cid(), Presence::DontHave)],
            blocks: vec![first.clone().into_parts(), second.clone().into_parts()],
        };
        let incoming = decode(strip_length(encode(&message, Protocol::V1_2))).unwrap();
        assert_eq!(incoming.wants, message.wants);
        assert!(incoming.full);
        assert_eq!(incoming.presences, message.presences);
        assert_eq!(incoming.blocks, vec![first, second]);
        assert_eq!(incoming.skipped, 0);
    }

    #[test]
    fn the_first_version_sends_bare_blocks() {
        let block = sample_block("bare");
        let message = Outgoing { blocks: vec![block.clone().into_parts()], ..Outgoing::default() };
        let incoming = decode(strip_length(encode(&message, Protocol::V1_0))).unwrap();
        assert_eq!(incoming.blocks[0].cid().hash(), block.cid().hash());
        assert_eq!(incoming.blocks[0].cid().version(), Version::V0);
    }

    #[test]
    fn older_versions_hear_no_presences_and_no_have() {
        let block = sample_block("x");
        let message = Outgoing {
            wants: vec![WantEntry {
                cid: *block.cid(),
                priority: 1,
                cancel: false,
                kind: WantKind::Have,
                send_dont_have: true,
            }],
            presences: vec![(*block.cid(), Presence::Have)],
            ..Outgoing::default()
        };
        let incoming = decode(strip_length(encode(&message, Protocol::V1_1))).unwrap();
        assert_eq!(incoming.wants[0].kind, WantKind::Block);
        assert!(!incoming.wants[0].send_dont_have);
        assert!(incoming.presences.is_empty());
    }

    #[test]
    fn a_flood_of_empty_entries_is_counted_not_kept() {
        let mut body = Vec::new();
        let mut wantlist = Vec::new();
        for _ in 0..100_000 {
            wantlist.extend_from_slice(&[0x0a, 0x00]);
        }
        put_bytes(&mut body, 1, &wantlist);
        let incoming = decode(Bytes::from(body)).unwrap();
        assert_eq!(incoming.skipped, 100_000);
        assert!(incoming.wants.is_empty());
    }

    #[test]
    fn a_cid_with_bytes_after_it_is_skipped() {
        let cid = sample_block("x").cid().to_bytes();
        let mut body = Vec::new();
        for longer in [&cid[..], &[&cid[..], &[0]].concat()] {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, longer);
            let mut wantlist = Vec::new();
            put_bytes(&mut wantlist, 1, &entry);
            put_bytes(&mut body, 1, &wantlist);
            put_bytes(&mut body, 4, &entry);
        }
        let incoming = decode(Bytes::from(body)).unwrap();
        assert_eq!((incoming.wants.len(), incoming.presences.len(), incoming.skipped), (1, 1, 2));
    }

    #[test]
    fn more_valid_entries_than_the_bound_are_skipped() {
        let entry = WantEntry {
            cid: *sample_block("x").cid(),
            priority: 1,
            cancel: false,
            kind: WantKind::Block,
            send_dont_have: false,
        };
        let message = Outgoing { wants: vec![entry; WANTLIST_ENTRIES_MAX + 3], ..Outgoing::default() };
        let incoming = decode(strip_length(encode(&message, Protocol::V1_2))).unwrap();
        assert_eq!((incoming.wants.len(), incoming.skipped), (WANTLIST_ENTRIES_MAX, 3));
    }

    #[test]
    fn too_many_blocks_are_an_error() {
        let body: Vec<u8> = [0x1a, 0x00].repeat(BLOCKS_PER_MESSAGE_MAX);
        assert_eq!(decode(Bytes::from(body)).unwrap().skipped, BLOCKS_PER_MESSAGE_MAX);
        let block = sample_block("x").into_parts();
        let message = Outgoing { blocks: vec![block; BLOCKS_PER_MESSAGE_MAX + 1], ..Outgoing::default() };
        let encoded = strip_length(encode(&message, Protocol::V1_2));
        assert_eq!(decode(encoded).unwrap_err(), WireError::TooManyBlocks);
    }

    #[test]
    fn identity_blocks_are_never_taken_from_the_wire() {
        let cid: Cid = "bafkqaaa".parse().unwrap();
        let message = Outgoing { blocks: vec![(cid, Bytes::new())], ..Outgoing::default() };
        let incoming = decode(strip_length(encode(&message, Protocol::V1_2))).unwrap();
        assert_eq!((incoming.blocks.len(), incoming.skipped), (0, 1));
    }

    #[test]
    fn lengths_past_the_end_are_errors() {
        for body in [&[0x0a, 0x05, 0x00][..], &[0x0a], &[0xff; 11], &[0x0b], &[0x09, 0, 0]] {
            decode(Bytes::copy_from_slice(body)).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode(Bytes::from(body));
        }
    }
}
