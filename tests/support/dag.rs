//! DAGs for the tests, made in memory.

use bytes::Bytes;
use cid::Cid;
use pinnace::model::Block;
use pinnace::model::cids::codec;
use serde::Serialize;

/// A DAG with all of its blocks.
#[derive(Debug, Clone)]
pub struct Dag {
    pub root: Cid,
    pub blocks: Vec<(Cid, Bytes)>,
}

#[derive(Serialize)]
struct Node<'a> {
    links: &'a [Cid],
    name: String,
}

impl Dag {
    /// A root with `leaves` leaves of `bytes` bytes; another `name` makes other blocks.
    pub fn wide(name: &str, leaves: usize, bytes: usize) -> Self {
        let mut blocks: Vec<(Cid, Bytes)> =
            (0..leaves).map(|number| leaf(&format!("{name} {number}"), bytes)).collect();
        let links: Vec<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
        let root = node(name, &links);
        blocks.push(root.clone());
        Self { root: root.0, blocks }
    }

    /// Levels of which each links several times to the two nodes below: few blocks, many ways through them. At the bottom
    /// are a leaf, and a CID that holds its data itself.
    pub fn shared(name: &str, levels: usize) -> Self {
        let bottom = leaf(name, 100_000);
        let inline = Cid::new_v1(codec::RAW, cid::multihash::Multihash::wrap(0, b"in the CID").unwrap());
        let mut blocks = vec![bottom.clone()];
        let (mut left, mut right) = (bottom.0, inline);
        for level in 0..levels {
            let nodes =
                [node(&format!("{name} left {level}"), &[left, right, left]), node(name, &[right, right, left])];
            (left, right) = (nodes[0].0, nodes[1].0);
            blocks.extend(nodes);
        }
        let root = node(&format!("{name} root"), &[left, right]);
        blocks.push(root.clone());
        Self { root: root.0, blocks }
    }

    /// A root above other DAGs, and above blocks that some of those have.
    pub fn over(name: &str, parts: &[&Self], more: &[Cid]) -> Self {
        let links: Vec<Cid> = parts.iter().map(|part| part.root).chain(more.iter().copied()).collect();
        let root = node(name, &links);
        let mut blocks: Vec<(Cid, Bytes)> = parts.iter().flat_map(|part| part.blocks.clone()).collect();
        blocks.push(root.clone());
        Self { root: root.0, blocks }
    }

    /// The bytes of a block.
    #[track_caller]
    pub fn data(&self, cid: &Cid) -> &Bytes {
        &self.blocks.iter().find(|(own, _)| own == cid).expect("a block of this DAG").1
    }
}

/// A block that is nothing but data.
pub fn leaf(name: &str, bytes: usize) -> (Cid, Bytes) {
    let data: Vec<u8> = format!("{name}; ").bytes().cycle().take(bytes).collect();
    Block::new_sha256(codec::RAW, data.into()).unwrap().into_parts()
}

fn node(name: &str, links: &[Cid]) -> (Cid, Bytes) {
    let data = serde_ipld_dagcbor::to_vec(&Node { links, name: name.to_owned() }).unwrap();
    Block::new_sha256(codec::DAG_CBOR, data.into()).unwrap().into_parts()
}
