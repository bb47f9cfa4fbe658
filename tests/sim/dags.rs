//! DAGs of all shapes, made from a seed together with the list of what belongs to them.
//!
//! What belongs to a DAG is told by whoever built it, not by the code under test: this is the reference that a fetch is
//! compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use ipld_dagpb::{PbLink, PbNode};
use multihash_codetable::{Code, MultihashDigest};
use pinnace::model::block::IDENTITY_HASH;
use pinnace::model::cids::codec;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde::Serialize;

/// What names a block in a store.
pub type Key = Multihash<64>;

/// The form of a DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One block without links, or not even that.
    Single,
    /// A root with leaves.
    Wide,
    /// A file: levels of dag-pb nodes over leaves.
    File,
    /// Nodes in a row, some with a leaf beside.
    Chain,
    /// Levels of two nodes that both link to both below.
    Diamonds,
    /// Nodes of all codecs that link to any earlier one, in other versions and codecs too.
    Tangle,
}

/// How large the blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Up to 200 bytes.
    Tiny,
    /// About a kilobyte.
    Small,
    /// 16 to 64 KiB.
    Medium,
    /// Kubo's default chunk.
    Chunk,
    /// 1 to 2 MiB.
    Large,
    /// Most small, some as large as blocks get.
    Mixed,
}

/// A DAG to build.
#[derive(Debug, Clone, Copy)]
pub struct DagPlan {
    /// Its form.
    pub shape: Shape,
    /// Its blocks.
    pub sizes: Sizes,
    /// About how many blocks.
    pub blocks: usize,
}

/// A DAG with all of its blocks.
#[derive(Debug, Clone)]
pub struct Dag {
    /// Where it begins.
    pub root: Cid,
    /// The blocks of it, by what names them in a store.
    pub held: BTreeMap<Key, Bytes>,
    /// Distinct pairs of multihash and codec, which is what a walk counts.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Links from the root to the deepest block.
    pub depth: u32,
    /// The largest block, in bytes.
    pub largest: u64,
}

#[derive(Debug, Default)]
struct Builder {
    /// Data and links of each block.
    nodes: BTreeMap<Cid, (Bytes, Vec<Cid>)>,
}

#[derive(Serialize)]
struct CborNode<'a> {
    links: &'a [Cid],
    #[serde(with = "serde_bytes_of_slice")]
    pad: &'a [u8],
}

mod serde_bytes_of_slice {
    //! Writes a slice as a byte string, not as a list of numbers.
    pub fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }
}

impl Builder {
    fn add(&mut self, codec: u64, data: Vec<u8>, links: &[Cid]) -> Cid {
        let cid = Cid::new_v1(codec, Code::Sha2_256.digest(&data));
        self.nodes.insert(cid, (data.into(), links.to_vec()));
        cid
    }

    fn leaf(&mut self, sizes: Sizes, random: &mut StdRng) -> Cid {
        let data = pad(sizes.bytes(random), random);
        self.add(codec::RAW, data, &[])
    }

    fn cbor(&mut self, links: &[Cid], pad: &[u8]) -> Cid {
        let data = serde_ipld_dagcbor::to_vec(&CborNode { links, pad }).unwrap();
        self.add(codec::DAG_CBOR, data, links)
    }

    fn pb(&mut self, links: &[Cid], pad: &[u8]) -> Cid {
        let pb_links = links.iter().map(|cid| PbLink { cid: *cid, name: None, size: Some(1) }).collect();
        let data = PbNode { links: pb_links, data: (!pad.is_empty()).then(|| Bytes::copy_from_slice(pad)) };
        self.add(codec::DAG_PB, data.into_bytes(), links)
    }

    fn json(&mut self, links: &[Cid], pad: &[u8]) -> Cid {
        let links_json: Vec<_> = links.iter().map(|cid| serde_json::json!({ "/": cid.to_string() })).collect();
        let node = serde_json::json!({ "links": links_json, "pad": pad });
        self.add(codec::DAG_JSON, serde_json::to_vec(&node).unwrap(), links)
    }

    /// A CID that holds its data itself; with a link inside when there is one.
    fn identity(&mut self, link: Option<Cid>, random: &mut StdRng) -> Cid {
        let (codec, data, links) = match link {
            Some(link) => (codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(&[link]).unwrap(), vec![link]),
            None => (codec::RAW, random.random_range(0..1000u32).to_string().into_bytes(), vec![]),
        };
        let cid = Cid::new_v1(codec, Multihash::wrap(IDENTITY_HASH, &data).unwrap());
        self.nodes.insert(cid, (data.into(), links));
        cid
    }

    /// The same block under another name: version 0, or as bytes without structure.
    fn alias(&mut self, cid: Cid, random: &mut StdRng) -> Cid {
        if cid.hash().code() == IDENTITY_HASH {
            return cid;
        }
        let (data, links) = self.nodes[&cid].clone();
        let as_v0 = cid.codec() == codec::DAG_PB && random.random();
        let (alias, links) = if as_v0 {
            (Cid::new_v0(*cid.hash()).unwrap(), links)
        } else {
            (Cid::new_v1(codec::RAW, *cid.hash()), Vec::new())
        };
        self.nodes.insert(alias, (data, links));
        alias
    }

    /// Everything below the root.
    fn finish(self, root: Cid) -> Dag {
        let mut dag = Dag { root, held: BTreeMap::new(), blocks: 0, bytes: 0, depth: 0, largest: 0 };
        let mut seen = BTreeSet::new();
        let mut level = vec![root];
        while !level.is_empty() {
            let mut below = Vec::new();
            for cid in level {
                if !seen.insert((*cid.hash(), cid.codec())) {
                    continue;
                }
                let (data, links) = &self.nodes[&cid];
                if cid.hash().code() != IDENTITY_HASH {
                    dag.held.insert(*cid.hash(), data.clone());
                    dag.blocks += 1;
                    dag.bytes += data.len() as u64;
                    dag.largest = dag.largest.max(data.len() as u64);
                }
                below.extend(links);
            }
            level = below;
            dag.depth += 1;
        }
        dag
    }
}

impl Sizes {
    fn bytes(self, random: &mut StdRng) -> usize {
        match self {
            Self::Tiny => random.random_range(0..200),
            Self::Small => random.random_range(500..1500),
            Self::Medium => random.random_range(16 * 1024..64 * 1024),
            Self::Chunk => 256 * 1024,
            Self::Large => random.random_range(1024 * 1024..=2 * 1024 * 1024),
            Self::Mixed => match random.random_range(0..40) {
                0 => 1024 * 1024,
                1..4 => 256 * 1024,
                4..10 => random.random_range(10_000..50_000),
                _ => random.random_range(0..2000),
            },
        }
    }

    /// The most of these blocks that a simulation can afford to hash.
    pub fn blocks_max(self) -> usize {
        match self {
            Self::Tiny | Self::Small => 3000,
            Self::Medium => 150,
            Self::Chunk => 60,
            Self::Large => 20,
            Self::Mixed => 200,
        }
    }
}

/// Bytes that no other block begins with.
fn pad(bytes: usize, random: &mut StdRng) -> Vec<u8> {
    let mut data = vec![0x2e; bytes];
    let unique = bytes.min(16);
    random.fill_bytes(&mut data[..unique]);
    data
}

fn file_levels(builder: &mut Builder, mut level: Vec<Cid>, fanout: usize) -> Cid {
    while level.len() > 1 {
        level = level.chunks(fanout).map(|links| builder.pb(links, b"file")).collect();
    }
    level.first().copied().unwrap_or_else(|| builder.pb(&[], b""))
}

/// Builds a DAG.
pub fn build(plan: &DagPlan, random: &mut StdRng) -> Dag {
    let mut builder = Builder::default();
    let sizes = plan.sizes;
    let root = match plan.shape {
        Shape::Single => match random.random_range(0..5) {
            0 => builder.identity(None, random),
            1 => builder.pb(&[], b""),
            2 => builder.add(codec::RAW, Vec::new(), &[]),
            _ => builder.leaf(sizes, random),
        },
        Shape::Wide => {
            let leaves: Vec<Cid> = (0..plan.blocks).map(|_| builder.leaf(sizes, random)).collect();
            builder.cbor(&leaves, b"wide")
        }
        Shape::File => {
            let leaves = (0..plan.blocks).map(|_| builder.leaf(sizes, random)).collect();
            let fanout = random.random_range(2..175);
            let root = file_levels(&mut builder, leaves, fanout);
            if root.codec() == codec::DAG_PB { builder.alias(root, random) } else { root }
        }
        Shape::Chain => {
            let with_leaves = random.random();
            let mut below = builder.leaf(sizes, random);
            // Long chains of large blocks would take longer than everything else.
            for _ in 0..plan.blocks.min(400) {
                let pad = pad(sizes.bytes(random), random);
                let mut links = vec![below];
                if with_leaves && random.random_range(0..3) == 0 {
                    links.push(builder.leaf(Sizes::Tiny, random));
                }
                below = builder.cbor(&links, &pad);
            }
            below
        }
        Shape::Diamonds => {
            let (mut left, mut right) = (builder.leaf(sizes, random), builder.identity(None, random));
            for level in 0..(plan.blocks / 2).clamp(1, 100) {
                let pad = pad(sizes.bytes(random), random);
                let text = level.to_string();
                (left, right) = (builder.cbor(&[left, right, left], &pad), builder.pb(&[right, left], text.as_bytes()));
            }
            builder.cbor(&[left, right], b"diamonds")
        }
        Shape::Tangle => tangle(&mut builder, plan, random),
    };
    builder.finish(root)
}

fn tangle(builder: &mut Builder, plan: &DagPlan, random: &mut StdRng) -> Cid {
    let mut cids = vec![builder.leaf(plan.sizes, random)];
    let mut unlinked = BTreeSet::from([cids[0]]);
    for _ in 0..plan.blocks {
        let mut links: Vec<Cid> = Vec::new();
        for _ in 0..random.random_range(0..8) {
            // Mostly what is new, so that much of it hangs together.
            let recent = random.random_range(0..cids.len().min(20));
            let any = random.random_range(0..cids.len());
            let at = if random.random_range(0..4) == 0 { any } else { cids.len() - 1 - recent };
            let linked = cids[at];
            links.push(if random.random_range(0..10) == 0 { builder.alias(linked, random) } else { linked });
            unlinked.remove(&linked);
        }
        let pad = pad(plan.sizes.bytes(random).min(40_000), random);
        let cid = match random.random_range(0..10) {
            _ if links.is_empty() => builder.leaf(plan.sizes, random),
            0..4 => builder.pb(&links, &pad),
            4..8 => builder.cbor(&links, &pad),
            8 => builder.json(&links, &pad[..pad.len().min(50)]),
            _ => builder.identity(links.first().copied().filter(|link| link.to_bytes().len() < 40), random),
        };
        cids.push(cid);
        unlinked.insert(cid);
    }
    let loose: Vec<Cid> = unlinked.into_iter().collect();
    builder.cbor(&loose, b"tangle")
}
