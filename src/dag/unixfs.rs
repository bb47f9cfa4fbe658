//! What a dag-pb node says of the file or directory that it is: the UnixFS message in its `Data`.
//!
//! Only what is needed to find one's way: nothing here puts files together. The format is at
//! <https://specs.ipfs.tech/unixfs/>.

use super::links::LinkError;
use super::links::dag_pb::{self, Fields, PbLink, WIRE_BYTES, WIRE_VARINT};
use crate::model::cids::codec;
use crate::model::limits::LINKS_PER_BLOCK_MAX;

const TYPE: u64 = 1;
const DATA: u64 = 2;
const FILE_SIZE: u64 = 3;
const BLOCK_SIZES: u64 = 4;
const HASH_TYPE: u64 = 5;
const FANOUT: u64 = 6;

/// Wire types of fields that UnixFS has none of, as far as they can be skipped.
const WIRE_64_BITS: u64 = 1;
const WIRE_32_BITS: u64 = 5;

/// The multihash code of the hash by which sharded directories sort their names: `murmur3-x64-64`.
const MURMUR3_X64_64: u64 = 0x22;

/// The widest shard, as boxo has it (`ipld/unixfs/hamt`).
const FANOUT_MAX: u64 = 1024;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file, or a piece of one.
    File,
    /// A directory in one node.
    Directory,
    /// A directory, or a part of one, that is spread over nodes by the hashes of the names.
    Shard,
    /// Something without content of its own to go through: a symbolic link, metadata.
    Other,
}

/// A UnixFS message.
#[derive(Debug)]
pub(super) struct Unixfs {
    pub(super) kind: Kind,
    /// Bytes of the file that are in this node itself, before those of its links.
    pub(super) own_bytes: u64,
    file_bytes: Option<u64>,
    /// Bytes of the file below each link.
    pub(super) block_sizes: Vec<u64>,
    hash_type: Option<u64>,
    fanout: Option<u64>,
}

impl Unixfs {
    /// Reads the message; `None` if it is none, as any dag-pb node may have any `Data`.
    fn read(data: &[u8]) -> Option<Self> {
        let mut read = Self {
            kind: Kind::Other,
            own_bytes: 0,
            file_bytes: None,
            block_sizes: Vec::new(),
            hash_type: None,
            fanout: None,
        };
        let mut kind = None;
        let mut fields = Fields::new(data);
        while !fields.is_empty() {
            match fields.tag().ok()? {
                (TYPE, WIRE_VARINT) => kind = Some(fields.varint().ok()?),
                (DATA, WIRE_BYTES) => read.own_bytes = fields.bytes().ok()?.rest().len() as u64,
                (FILE_SIZE, WIRE_VARINT) => read.file_bytes = Some(fields.varint().ok()?),
                (BLOCK_SIZES, WIRE_VARINT) => read.push_size(fields.varint().ok()?)?,
                // Packed, which no writer does and every protobuf library reads.
                (BLOCK_SIZES, WIRE_BYTES) => {
                    let mut packed = Fields::new(fields.bytes().ok()?.rest());
                    while !packed.is_empty() {
                        read.push_size(packed.varint().ok()?)?;
                    }
                }
                (HASH_TYPE, WIRE_VARINT) => read.hash_type = Some(fields.varint().ok()?),
                (FANOUT, WIRE_VARINT) => read.fanout = Some(fields.varint().ok()?),
                (_, WIRE_VARINT) => {
                    fields.varint().ok()?;
                }
                (_, WIRE_BYTES) => {
                    fields.bytes().ok()?;
                }
                (_, WIRE_64_BITS) => fields.skip(8).ok()?,
                (_, WIRE_32_BITS) => fields.skip(4).ok()?,
                _ => return None,
            }
        }
        read.kind = match kind? {
            0 | 2 => Kind::File,
            1 => Kind::Directory,
            3 | 4 => Kind::Other,
            5 => Kind::Shard,
            _ => return None,
        };
        Some(read)
    }

    fn push_size(&mut self, bytes: u64) -> Option<()> {
        (self.block_sizes.len() < LINKS_PER_BLOCK_MAX).then(|| self.block_sizes.push(bytes))
    }

    /// How many names a shard tells apart, and by how many bits of their hash.
    pub(super) fn shard(&self) -> Result<Shard, LinkError> {
        let fanout = self.fanout.filter(|fanout| fanout.is_power_of_two() && (8..=FANOUT_MAX).contains(fanout));
        match (fanout, self.hash_type) {
            (Some(fanout), Some(MURMUR3_X64_64)) => {
                Ok(Shard { bits: fanout.ilog2(), digits: format!("{:X}", fanout - 1).len() })
            }
            _ => Err(malformed("a shard's fanout or hash is not one that is known")),
        }
    }
}

/// How one node of a sharded directory is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard {
    /// Bits of a name's hash that choose the slot.
    bits: u32,
    /// Hexadecimal digits of the slot, with which the name of each link begins. That of a deeper shard is nothing else.
    pub(super) digits: usize,
}

/// Where in a sharded directory a name belongs: the bits of its hash that weren't used yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    hash: u64,
    bits_used: u32,
}

impl Slots {
    /// For a name, at the top of the directory.
    pub(super) fn of(name: &[u8]) -> Self {
        // Reading from memory can't fail.
        let hash = murmur3::murmur3_x64_128(&mut &*name, 0).unwrap_or_default();
        let mut low = [0; 8];
        low.copy_from_slice(&hash.to_le_bytes()[..8]);
        Self { hash: u64::from_le_bytes(low), bits_used: 0 }
    }

    /// The digits of the slot in this shard, and on to the next deeper one; `None` when all bits are used.
    pub(super) fn next(&mut self, shard: Shard) -> Option<String> {
        let used = self.bits_used.checked_add(shard.bits).filter(|used| *used <= u64::BITS)?;
        let slot = self.hash << self.bits_used >> (u64::BITS - shard.bits);
        self.bits_used = used;
        Some(format!("{slot:0digits$X}", digits = shard.digits))
    }
}

/// What a block is, if it is UnixFS in dag-pb.
pub(super) fn read(codec: u64, data: &[u8]) -> Result<Option<Unixfs>, LinkError> {
    if codec != codec::DAG_PB {
        return Ok(None);
    }
    Ok(dag_pb::read(data, |_| Ok(()))?.and_then(Unixfs::read))
}

/// The bytes of the file that begins with this block; `None` if it is no file.
pub fn file_bytes(codec: u64, data: &[u8]) -> Result<Option<u64>, LinkError> {
    if codec == codec::RAW {
        return Ok(Some(data.len() as u64));
    }
    Ok(read(codec, data)?.filter(|node| node.kind == Kind::File).map(|node| {
        let below = || node.block_sizes.iter().fold(node.own_bytes, |sum, bytes| sum.saturating_add(*bytes));
        node.file_bytes.unwrap_or_else(below)
    }))
}

/// Whether a block is a file, or a piece of one: what is below it is of interest only together.
pub(super) fn is_file(codec: u64, data: &[u8]) -> bool {
    matches!(read(codec, data), Ok(Some(Unixfs { kind: Kind::File, .. })))
}

/// Hands out the links of a dag-pb node.
pub(super) fn each_link<'a>(
    data: &'a [u8],
    each: impl FnMut(PbLink<'a>) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    dag_pb::read(data, each).map(drop)
}

pub(super) fn malformed(what: &'static str) -> LinkError {
    LinkError::Malformed { what, at: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_other_bytes_are_none() {
        // Type file, two bytes of data, a size of 7, block sizes 2 and (packed) 3, and fields that nobody knows.
        let message =
            [8, 2, 18, 2, 1, 1, 24, 7, 32, 2, 34, 1, 3, 56, 1, 0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0x4d, 0, 0, 0, 0];
        let read = Unixfs::read(&message).unwrap();
        assert_eq!((read.kind, read.own_bytes, read.file_bytes), (Kind::File, 2, Some(7)));
        assert_eq!(read.block_sizes, [2, 3]);
        for other in [&b"hello"[..], &[], &[18, 1, 1], &[8, 9], &[8], &message[..message.len() - 1]] {
            assert!(Unixfs::read(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn names_go_to_the_slots_of_their_hash() {
        let shard = Unixfs::read(&[8, 5, 40, 0x22, 48, 0x80, 2]).unwrap().shard().unwrap();
        assert_eq!(shard, Shard { bits: 8, digits: 2 });
        let mut slots = Slots { hash: 0x0123_4567_89ab_cdef, bits_used: 0 };
        let digits: Vec<String> = std::iter::from_fn(|| slots.next(shard)).collect();
        assert_eq!(digits, ["01", "23", "45", "67", "89", "AB", "CD", "EF"]);
        // The first eight bytes of MurmurHash3_x64_128 with the seed 0, as its reference implementation gives them.
        assert_eq!(Slots::of(b"").hash, 0);
        assert_eq!(Slots::of(b"hello").hash, 0xcbd8_a7b3_41bd_9b02);
        for (fanout, hash) in [(6, 0x22), (255, 0x22), (0, 0x22), (8, 0x12)] {
            let shard = Unixfs::read(&[8, 5, 40, hash, 48, fanout]).map(|shard| shard.shard());
            assert!(!matches!(shard, Some(Ok(_))), "{fanout} {hash}");
        }
    }
}
