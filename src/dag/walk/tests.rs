//! The walk finds what a plain recursion finds, whatever order blocks come in.

use std::collections::{BTreeMap, BTreeSet};

use cid::multihash::Multihash;
use ipld_dagpb::{PbLink, PbNode};
use multihash_codetable::{Code, MultihashDigest};
use proptest::prelude::*;

use super::*;
use crate::model::cids::codec;

fn at_most(blocks_max: u64) -> WalkLimits {
    WalkLimits { blocks_max, ..WalkLimits::NONE }
}

fn block(codec: u64, data: Vec<u8>) -> (Cid, Bytes) {
    (Cid::new_v1(codec, Code::Sha2_256.digest(&data)), data.into())
}

fn node(index: usize, children: &[Cid]) -> (Cid, Bytes) {
    if index.is_multiple_of(3) {
        return block(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(&(index, children)).unwrap());
    }
    let links = children.iter().map(|cid| PbLink { cid: *cid, name: None, size: None }).collect();
    let (cid, data) = block(codec::DAG_PB, PbNode { links, data: Some(index.to_string().into()) }.into_bytes());
    // Some old, some new CIDs of the same codec.
    if index.is_multiple_of(2) { (Cid::new_v0(*cid.hash()).unwrap(), data) } else { (cid, data) }
}

fn identity_of(codec: u64, data: &[u8]) -> Option<Cid> {
    Some(Cid::new_v1(codec, Multihash::wrap(IDENTITY_HASH, data).ok()?))
}

/// A random DAG, built from the leaves up: node n links to some of the nodes before it. The last is the root.
fn build(shape: &[Vec<prop::sample::Index>]) -> (Cid, BTreeMap<Cid, Bytes>) {
    let mut cids: Vec<Cid> = Vec::new();
    let mut blocks = BTreeMap::new();
    for (index, children) in shape.iter().enumerate() {
        let children: Vec<Cid> =
            if cids.is_empty() { Vec::new() } else { children.iter().map(|child| *child.get(&cids)).collect() };
        let (cid, data) =
            if children.is_empty() { block(codec::RAW, vec![1; index + 1]) } else { node(index, &children) };
        blocks.insert(cid, data.clone());
        // Now and then a node is inlined, if it is short enough.
        let inline = (index % 5 == 4).then(|| identity_of(cid.codec(), &data)).flatten();
        cids.push(inline.unwrap_or(cid));
    }
    (*cids.last().unwrap(), blocks)
}

type Key = (Vec<u8>, u64);

fn key(cid: &Cid) -> Key {
    (cid.hash().to_bytes(), cid.codec())
}

fn reference(cid: &Cid, blocks: &BTreeMap<Cid, Bytes>, found: &mut BTreeMap<Key, usize>) {
    let inline = cid.hash().code() == IDENTITY_HASH;
    let data = if inline { Bytes::copy_from_slice(cid.hash().digest()) } else { blocks[cid].clone() };
    if !inline && found.insert(key(cid), data.len()).is_some() {
        return;
    }
    for child in links(cid, &data).unwrap() {
        reference(&child, blocks, found);
    }
}

proptest! {
    #[test]
    fn finds_what_a_recursion_finds(
        shape in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..5), 1..40),
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8), 300),
    ) {
        let (root, blocks) = build(&shape);
        let mut expected = BTreeMap::new();
        reference(&root, &blocks, &mut expected);

        let mut walk = Walk::new(root, at_most(1000)).unwrap();
        let mut outstanding: Vec<Cid> = Vec::new();
        let mut added = BTreeSet::new();
        let mut choices = choices.iter().cycle();
        while !walk.is_complete() {
            prop_assert_eq!(walk.outstanding_len(), outstanding.len());
            prop_assert_eq!(walk.known(), walk.done() + (walk.pending_len() + outstanding.len()) as u64);
            let (which, action) = choices.next().unwrap();
            match action {
                0 | 1 => outstanding.extend(walk.next()),
                _ if outstanding.is_empty() => outstanding.extend(walk.next()),
                2 => {
                    let cid = outstanding.swap_remove(which.index(outstanding.len()));
                    let known = walk.known();
                    let new = walk.add_block(&cid, &blocks[&cid]).unwrap();
                    prop_assert_eq!(walk.known(), known + new as u64);
                    prop_assert!(added.insert(key(&cid)), "{} came twice", cid);
                    prop_assert_eq!(walk.add_block(&cid, &blocks[&cid]), Ok(0));
                }
                _ => {
                    let cid = outstanding.swap_remove(which.index(outstanding.len()));
                    walk.give_back(&cid);
                    // Given back twice, it still comes once.
                    walk.give_back(&cid);
                }
            }
        }
        prop_assert_eq!(&added, &expected.keys().cloned().collect::<BTreeSet<_>>());
        prop_assert_eq!(walk.known(), expected.len() as u64);
        prop_assert_eq!(walk.done(), expected.len() as u64);
        prop_assert_eq!(walk.bytes(), expected.values().sum::<usize>() as u64);
        prop_assert_eq!(walk.next(), None);
    }
}

#[test]
fn a_file_comes_in_reading_order() {
    let mut blocks = BTreeMap::new();
    let mut leaves = Vec::new();
    let mut parents = Vec::new();
    for parent in 0..4_u8 {
        let children: Vec<_> = (0..5).map(|leaf| block(codec::RAW, vec![parent, leaf])).collect();
        let cids: Vec<Cid> = children.iter().map(|(cid, _)| *cid).collect();
        leaves.extend(&cids);
        blocks.extend(children);
        let (cid, data) = node(1, &cids);
        parents.push(cid);
        blocks.insert(cid, data);
    }
    let (root, data) = node(1, &parents);
    blocks.insert(root, data);
    let mut walk = Walk::new(root, at_most(25)).unwrap();
    let mut order = Vec::new();
    let mut pending_max = 0;
    while let Some(cid) = walk.next() {
        walk.add_block(&cid, &blocks[&cid]).unwrap();
        pending_max = pending_max.max(walk.pending_len());
        if cid.codec() == codec::RAW {
            order.push(cid);
        }
    }
    assert!(walk.is_complete());
    assert_eq!(order, leaves);
    assert_eq!(pending_max, 8, "one level of each node on the way down");
}

#[test]
fn an_identity_root_counts_for_nothing() {
    let walk = Walk::new("bafkqaaa".parse().unwrap(), at_most(0)).unwrap();
    assert!(walk.is_complete());
    assert_eq!((walk.known(), walk.bytes()), (0, 0));

    let (leaf, data) = block(codec::RAW, b"leaf".to_vec());
    let root = identity_of(codec::DAG_CBOR, &serde_ipld_dagcbor::to_vec(&leaf).unwrap()).unwrap();
    let mut walk = Walk::new(root, at_most(1)).unwrap();
    assert_eq!(walk.next(), Some(leaf));
    walk.add_block(&leaf, &data).unwrap();
    assert!(walk.is_complete());
    assert_eq!((walk.done(), walk.bytes()), (1, 4));
}

#[test]
fn the_same_hash_under_two_codecs_is_two_blocks() {
    let (cbor, data) = block(codec::DAG_CBOR, vec![0x80]);
    let plain = Cid::new_v1(codec::RAW, *cbor.hash());
    let (root, root_data) = node(1, &[cbor, plain]);
    let mut walk = Walk::new(root, at_most(3)).unwrap();
    assert_eq!(walk.next(), Some(root));
    assert_eq!(walk.add_block(&root, &root_data), Ok(2));
    for cid in [cbor, plain] {
        assert_eq!(walk.next(), Some(cid));
        walk.add_block(&cid, &data).unwrap();
    }
    assert!(walk.is_complete());
}

#[test]
fn more_blocks_than_allowed_are_an_error() {
    let leaves: Vec<Cid> = (0..3).map(|leaf| block(codec::RAW, vec![leaf]).0).collect();
    let (root, data) = node(1, &leaves);
    let mut walk = Walk::new(root, at_most(3)).unwrap();
    walk.next();
    assert_eq!(walk.add_block(&root, &data), Err(WalkError::TooLarge { blocks_max: 3 }));
    assert!(!walk.is_complete());
    assert_eq!(Walk::new(root, at_most(0)).unwrap_err(), WalkError::TooLarge { blocks_max: 0 });
}

#[test]
fn what_cannot_be_walked_is_named() {
    let git = Cid::new_v1(0x78, Code::Sha2_256.digest(b"x"));
    let murmur = Cid::new_v1(codec::RAW, Multihash::wrap(0x22, &[0; 32]).unwrap());
    for child in [git, murmur] {
        assert!(matches!(Walk::new(child, at_most(9)), Err(WalkError::UnsupportedRoot { .. })));
        let (root, data) = node(1, &[child]);
        let mut walk = Walk::new(root, at_most(9)).unwrap();
        walk.next();
        let error = walk.add_block(&root, &data).unwrap_err();
        assert!(error.to_string().contains(&child.to_string()), "{error}");
        assert!(!walk.is_complete());
    }
    let (bad, data) = block(codec::DAG_CBOR, vec![0xff]);
    let mut walk = Walk::new(bad, at_most(9)).unwrap();
    walk.next();
    assert!(matches!(walk.add_block(&bad, &data), Err(WalkError::Invalid { .. })));
    assert!(!walk.is_complete());
}

#[test]
fn a_long_stack_shrinks_again() {
    let leaves: Vec<Cid> = (0..100_000_u32).map(|leaf| block(codec::RAW, leaf.to_be_bytes().to_vec()).0).collect();
    let mut stack = CidStack::default();
    for cid in &leaves {
        stack.push_with(cid, &[]);
    }
    assert!(stack.buffer.capacity() >= 3_700_000);
    for cid in leaves.iter().rev() {
        assert_eq!(stack.pop_with(|_| ()).map(|(cid, ())| cid).as_ref(), Some(cid));
    }
    assert_eq!((stack.pop_with(|_| ()), stack.len), (None, 0));
    assert!(stack.buffer.capacity() <= 1024 * 1024, "{}", stack.buffer.capacity());
}

#[test]
fn bytes_and_depth_are_bounded() {
    // A chain of three nodes.
    let leaf = Bytes::from_static(b"the end");
    let leaf_cid = Cid::new_v1(codec::RAW, Code::Sha2_256.digest(&leaf));
    let (second_cid, second) = node(3, &[leaf_cid]);
    let (first_cid, first) = node(3, &[second_cid]);
    let bytes_max = (first.len() + second.len() + leaf.len()) as u64;
    let walk = |limits: WalkLimits| -> Result<u64, WalkError> {
        let mut walk = Walk::new(first_cid, limits)?;
        for (cid, data) in [(first_cid, &first), (second_cid, &second)] {
            assert_eq!(walk.next(), Some(cid));
            walk.add_block(&cid, data)?;
        }
        assert_eq!(walk.next(), Some(leaf_cid));
        walk.give_back(&leaf_cid);
        assert_eq!(walk.next(), Some(leaf_cid));
        walk.add_leaf(&leaf_cid, leaf.len() as u64)?;
        Ok(walk.bytes())
    };
    assert_eq!(walk(WalkLimits { bytes_max, depth_max: 2, ..WalkLimits::NONE }), Ok(bytes_max));
    let too_many = WalkError::TooManyBytes { bytes_max: bytes_max - 1 };
    assert_eq!(walk(WalkLimits { bytes_max: bytes_max - 1, ..WalkLimits::NONE }), Err(too_many));
    assert_eq!(walk(WalkLimits { depth_max: 1, ..WalkLimits::NONE }), Err(WalkError::TooDeep { depth_max: 1 }));
}

#[test]
fn the_root_says_how_much_there_is() {
    let leaf = Bytes::from_static(b"the end");
    let leaf_cid = Cid::new_v1(codec::RAW, Code::Sha2_256.digest(&leaf));
    let told = |links: Vec<PbLink>| {
        let (root, data) = block(codec::DAG_PB, PbNode { links, data: None }.into_bytes());
        let mut walk = Walk::new(root, WalkLimits::NONE).unwrap();
        assert_eq!((walk.bytes_told(), walk.next()), (None, Some(root)));
        walk.add_block(&root, &data).unwrap();
        let told = walk.bytes_told();
        // What is below has no say.
        assert_eq!(walk.next(), Some(leaf_cid));
        walk.add_block(&leaf_cid, &leaf).unwrap();
        assert_eq!(walk.bytes_told(), told);
        told.map(|told| told - data.len() as u64)
    };
    let link = |size| PbLink { cid: leaf_cid, name: None, size };
    assert_eq!(told(vec![link(Some(7)), link(Some(7))]), Some(14));
    assert_eq!(told(vec![link(Some(u64::MAX)), link(Some(7))]).map(|told| told > 1 << 60), Some(true));
    assert_eq!(told(vec![link(Some(7)), link(None)]), None, "not all of them say");
    let mut alone = Walk::new(leaf_cid, WalkLimits::NONE).unwrap();
    alone.next();
    alone.add_block(&leaf_cid, &leaf).unwrap();
    assert_eq!(alone.bytes_told(), Some(7));
}

#[test]
fn a_sub_dag_that_may_be_too_deep_is_walked() {
    let leaf = block(codec::RAW, vec![7; 100]);
    let middle = node(1, &[leaf.0]);
    let root = node(2, &[middle.0]);
    let bytes = (leaf.1.len() + middle.1.len() + root.1.len()) as u64;
    let length = |block: &(Cid, Bytes)| (block.0, u32::try_from(block.1.len()).unwrap());
    let sub_dag = SubDag { blocks: vec![length(&middle), length(&leaf)], below: Vec::new(), height: 2 };

    let mut walk = Walk::new(root.0, WalkLimits::NONE).unwrap();
    assert_eq!(walk.next(), Some(root.0));
    walk.add_sub_dag(&root.0, &root.1, &sub_dag).unwrap();
    assert!(walk.is_complete());
    assert_eq!((walk.done(), walk.bytes(), walk.known()), (3, bytes, 3));

    for (height, depth_max) in [(2, 1), (u32::MAX, 2)] {
        let mut walk = Walk::new(root.0, WalkLimits { depth_max, ..WalkLimits::NONE }).unwrap();
        walk.next();
        walk.add_sub_dag(&root.0, &root.1, &SubDag { height, ..sub_dag.clone() }).unwrap();
        assert_eq!((walk.done(), walk.next()), (1, Some(middle.0)), "only the root was taken");
        let below = walk.add_block(&middle.0, &middle.1);
        assert_eq!(below.is_err(), depth_max == 1, "{below:?}");
    }

    let small = WalkLimits { bytes_max: bytes - 1, ..WalkLimits::NONE };
    for limits in [at_most(2), small] {
        let mut walk = Walk::new(root.0, limits).unwrap();
        walk.next();
        assert!(walk.add_sub_dag(&root.0, &root.1, &sub_dag).is_err());
    }
}
