//! What has to hold whatever bytes a stranger sends: one function for each fuzz target.
//!
//! `cargo test` runs them over `fuzz/corpus` too (`tests/fuzz_corpus.rs`), so this file knows nothing of libFuzzer.

#![allow(dead_code, reason = "each fuzz target uses one of them")]

use bytes::Bytes;
use cid::Cid;
use multihash_codetable::{Code, MultihashDigest};
use pinnace::bitswap::wire::{self, Outgoing, Protocol};
use pinnace::car::{self, CarError, Decoder, Item};
use pinnace::dag::walk::WalkLimits;
use pinnace::dag::{self, ByteRange, PathWalk, Scope, Selection, Target, Walk, unixfs};
use pinnace::model::block::IDENTITY_HASH;
use pinnace::model::cids::{self, codec};
use pinnace::model::limits::{LINKS_PER_BLOCK_MAX, PATH_BLOCKS_MAX, WANTLIST_ENTRIES_MAX};
use pinnace::model::{Block, ContentKey};

/// Blocks that a walk is given before it is left alone: every block is the same bytes, so some never end.
const BLOCKS_GIVEN_MAX: usize = 256;

/// A property.
pub type Property = fn(&[u8]);

/// Every fuzz target by its name.
pub const ALL: [(&str, Property); 5] =
    [("wire", wire), ("links", links), ("paths", paths), ("car", car), ("cids", cids)];

/// A Bitswap message: within its bounds, with nothing in it that isn't proven, and the same when it is written and read again.
pub fn wire(data: &[u8]) {
    let Ok(first) = wire::decode(Bytes::copy_from_slice(data)) else { return };
    assert!(first.wants.len() <= WANTLIST_ENTRIES_MAX && first.presences.len() <= WANTLIST_ENTRIES_MAX);
    for block in &first.blocks {
        assert_eq!(Block::verify(*block.cid(), block.data().clone()).as_ref(), Ok(block));
    }
    let again = Outgoing {
        wants: first.wants.clone(),
        full: first.full,
        presences: first.presences.clone(),
        blocks: first.blocks.iter().cloned().map(Block::into_parts).collect(),
    };
    let framed = wire::encode(&again, Protocol::V1_2);
    let (length, body) = unsigned_varint::decode::usize(&framed).expect("a length comes first");
    assert_eq!(length, body.len());
    let second = wire::decode(Bytes::copy_from_slice(body)).expect("what was written can be read");
    assert_eq!(second.wants, first.wants);
    assert_eq!(second.full, first.full);
    assert_eq!(second.presences, first.presences);
    assert_eq!(second.blocks, first.blocks);
    assert_eq!(second.skipped, 0);
    for older in [Protocol::V1_1, Protocol::V1_0] {
        let framed = wire::encode(&again, older);
        let (_, body) = unsigned_varint::decode::usize(&framed).expect("a length comes first");
        let said = wire::decode(Bytes::copy_from_slice(body)).expect("what was written can be read");
        assert_eq!((said.wants.len(), said.presences.len()), (first.wants.len(), 0));
        assert_eq!(said.blocks.len() + said.skipped, first.blocks.len());
    }
}

/// The codec that a byte chooses, and the bytes behind it.
fn node_of(data: &[u8]) -> Option<(Cid, &[u8])> {
    let (first, node) = data.split_first()?;
    let codecs = codec::SUPPORTED;
    let codec = codecs.get(usize::from(*first) % (codecs.len() + 1)).copied().unwrap_or(0x1234);
    Some((Cid::new_v1(codec, Code::Sha2_256.digest(node)), node))
}

/// A block of any codec: its links are bounded by its bytes, none of them is an identity CID, and a walk counts them.
pub fn links(data: &[u8]) {
    let Some((cid, node)) = node_of(data) else { return };
    let node = Bytes::copy_from_slice(node);
    let Ok(found) = dag::links(&cid, &node) else { return };
    assert!(found.len() <= LINKS_PER_BLOCK_MAX && found.len() <= node.len());
    assert!(found.iter().all(|link| link.hash().code() != IDENTITY_HASH));
    if codec::is_leaf(cid.codec()) {
        assert_eq!(found, []);
    }
    let Ok(mut walk) = Walk::new(cid, WalkLimits { blocks_max: 1_000_000, ..WalkLimits::NONE }) else { return };
    assert_eq!(walk.next(), Some(cid));
    let usable = found.iter().all(|link| cids::check(link).is_ok());
    match walk.add_block(&cid, &node) {
        Ok(new) => {
            assert!(usable && new <= found.len());
            assert_eq!(walk.known(), new as u64 + 1);
            assert_eq!(std::iter::from_fn(|| walk.next()).count(), new);
        }
        Err(_) => assert!(!usable),
    }
}

/// Paths and selections through a DAG in which every block is the same: they end or go on, and stay within their bounds.
pub fn paths(data: &[u8]) {
    let Some((cid, rest)) = node_of(data) else { return };
    // The path comes first, and a zero byte ends it.
    let at = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let node = rest.get(at + 1..).unwrap_or_default();
    let parts: Vec<Vec<u8>> =
        rest[..at].split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
    let names = parts.len();
    if let Ok(mut walk) = PathWalk::new(cid, parts) {
        let mut given = 0;
        while walk.wants().is_some() && given < BLOCKS_GIVEN_MAX {
            if walk.add_block(node).is_err() {
                break;
            }
            given += 1;
        }
        if walk.wants().is_none() {
            let resolved = walk.finish();
            assert!(resolved.blocks.len() <= PATH_BLOCKS_MAX && resolved.roots.len() <= names + 1);
        }
    }
    let _ = unixfs::file_bytes(cid.codec(), node);
    let range = ByteRange { first: names as u64, last: u64::from(*data.first().unwrap_or(&0)) << (names % 50) };
    for scope in [Scope::Block, Scope::Entity(None), Scope::Entity(Some(range)), Scope::All] {
        for repeats in [false, true] {
            let Ok(mut selection) = Selection::new(&[], &Target::of(cid), scope, repeats) else { continue };
            for _ in 0..BLOCKS_GIVEN_MAX {
                if selection.next().is_none() || selection.add_block(node).is_err() {
                    break;
                }
            }
            // A link and what is noted of it take less than three times the room that the shortest link has in the block.
            assert!(selection.memory_bytes() <= 64 * 1024 + 64 * BLOCKS_GIVEN_MAX * (node.len() + 1));
        }
    }
}

fn read_car<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Result<(), CarError>) {
    let (mut decoder, mut items) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
    }
    let end = decoder.finish();
    (items, end)
}

/// A CAR file: the same in whatever pieces it comes, with nothing in it that isn't proven, and the same when it is written again.
pub fn car(data: &[u8]) {
    let Some((first, file)) = data.split_first() else { return };
    let (items, end) = read_car(std::iter::once(file));
    assert_eq!(read_car(file.chunks(usize::from(*first) + 1)), (items.clone(), end.clone()));
    let mut items = items.into_iter();
    let Some(Item::Roots(roots)) = items.next() else { return };
    let mut written = car::header(&roots);
    let mut blocks = Vec::new();
    for item in items {
        let Item::Block(block) = item else { panic!("the roots come once") };
        assert_eq!(Block::verify(*block.cid(), block.data().clone()).as_ref(), Ok(&block));
        assert_ne!(block.cid().hash().code(), IDENTITY_HASH);
        written.extend(car::section(block.cid(), block.data()));
        blocks.push(Item::Block(block));
    }
    let (again, end) = read_car(std::iter::once(written.as_slice()));
    assert_eq!(end, Ok(()));
    assert_eq!(again[0], Item::Roots(roots));
    assert_eq!(again[1..], blocks);
}

/// A CID, as text and as bytes: what is read is written and read as the same, and so is what it is brought into.
pub fn cids(data: &[u8]) {
    let same = |cid: Cid| {
        assert_eq!(cids::read(&cid.to_bytes()).ok(), Some(cid));
        assert_eq!(cids::decode(&cid.to_string()), Ok(cid));
        let normal = cids::normalize(&cid);
        assert_eq!(cids::normalize(&normal), normal);
        assert_eq!(ContentKey::of(&normal), ContentKey::of(&cid));
        assert_eq!(cids::check(&normal), cids::check(&cid));
    };
    if let Ok(cid) = cids::read(data) {
        same(cid);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(cid) = cids::decode(text) {
            same(cid);
        }
        if let Ok(cid) = cids::parse(text) {
            assert_eq!(cids::check(&cid), Ok(()));
        }
    }
}
