//! DAGs for the tests: files, directories and nodes, made in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use cid::Cid;
use ipld_dagpb::{PbLink, PbNode};
use multihash_codetable::{Code, MultihashDigest};

use crate::model::cids::codec;

/// The hash of a name, the name, and what it stands for.
type Hashed<'a> = ([u8; 8], &'a str, Cid);

/// Blocks that were made.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    pub(crate) blocks: BTreeMap<Cid, Bytes>,
}

impl Shapes {
    pub(crate) fn block(&mut self, codec: u64, data: Vec<u8>) -> Cid {
        let cid = Cid::new_v1(codec, Code::Sha2_256.digest(&data));
        self.blocks.insert(cid, data.into());
        cid
    }

    pub(crate) fn raw(&mut self, text: &str) -> Cid {
        self.block(codec::RAW, text.into())
    }

    pub(crate) fn pb(&mut self, data: Option<Vec<u8>>, links: &[(&str, Cid)]) -> Cid {
        let links = links.iter().map(|(name, cid)| PbLink { cid: *cid, name: Some((*name).into()), size: Some(1) });
        self.block(codec::DAG_PB, PbNode { links: links.collect(), data: data.map(Bytes::from) }.into_bytes())
    }

    pub(crate) fn directory(&mut self, entries: &[(&str, Cid)]) -> Cid {
        self.pb(Some(vec![8, 1]), entries)
    }

    /// A file with bytes of its own before those of its pieces.
    pub(crate) fn file(&mut self, own: &str, pieces: &[(Cid, u64)]) -> Cid {
        let links: Vec<(&str, Cid)> = pieces.iter().map(|(cid, _)| ("", *cid)).collect();
        let sizes: Vec<u64> = pieces.iter().map(|(_, bytes)| *bytes).collect();
        self.pb(Some(file_message(own.as_bytes(), &sizes)), &links)
    }

    /// A sharded directory of 256 slots a node, as deep as its names need.
    pub(crate) fn sharded(&mut self, entries: &[(&str, Cid)]) -> Cid {
        let hashed = entries.iter().map(|(name, cid)| {
            let hash = murmur3::murmur3_x64_128(&mut name.as_bytes(), 0).unwrap();
            (u64::try_from(hash & u128::from(u64::MAX)).unwrap().to_be_bytes(), *name, *cid)
        });
        self.shard(&hashed.collect::<Vec<_>>(), 0)
    }

    fn shard(&mut self, entries: &[Hashed<'_>], level: usize) -> Cid {
        let mut slots = BTreeMap::<u8, Vec<Hashed<'_>>>::new();
        for entry in entries {
            slots.entry(entry.0[level]).or_default().push(*entry);
        }
        let mut links = Vec::new();
        for (slot, inside) in slots {
            match inside.as_slice() {
                [(_, name, cid)] => links.push((format!("{slot:02X}{name}"), *cid)),
                several => links.push((format!("{slot:02X}"), self.shard(several, level + 1))),
            }
        }
        let links: Vec<(&str, Cid)> = links.iter().map(|(name, cid)| (name.as_str(), *cid)).collect();
        self.pb(Some(vec![8, 5, 40, 0x22, 48, 0x80, 2]), &links)
    }

    pub(crate) fn cbor(&mut self, value: &impl serde::Serialize) -> Cid {
        self.block(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(value).unwrap())
    }
}

/// The UnixFS message of a file.
pub(crate) fn file_message(own: &[u8], sizes: &[u64]) -> Vec<u8> {
    let varint =
        |number: u64| unsigned_varint::encode::u64(number, &mut unsigned_varint::encode::u64_buffer()).to_vec();
    let mut message = vec![8, 2];
    if !own.is_empty() {
        message.extend([vec![18], varint(own.len() as u64), own.to_vec()].concat());
    }
    message.extend([vec![24], varint(own.len() as u64 + sizes.iter().sum::<u64>())].concat());
    for size in sizes {
        message.extend([vec![32], varint(*size)].concat());
    }
    message
}

/// An identity CID.
pub(crate) fn inline(codec: u64, data: &[u8]) -> Cid {
    Cid::new_v1(codec, cid::multihash::Multihash::wrap(0, data).unwrap())
}
