//! Selections are what a plain recursion finds, and stay small whatever the DAG.

use proptest::prelude::*;

use super::*;
use crate::dag::shapes::{Shapes, file_message, inline};

/// The blocks that are told, up to so many.
fn told(shapes: &Shapes, mut selection: Selection, blocks_max: usize) -> Result<Vec<Cid>, SelectionError> {
    let mut told = Vec::new();
    while told.len() < blocks_max {
        let Some(wanted) = selection.next() else { break };
        selection.add_block(&shapes.blocks[&wanted.cid])?;
        if wanted.is_told {
            told.push(wanted.cid);
        }
    }
    Ok(told)
}

fn select(shapes: &Shapes, root: Cid, scope: Scope, repeats: bool) -> Vec<Cid> {
    let selection = Selection::new(&[], &Target::of(root), scope, repeats).unwrap();
    told(shapes, selection, usize::MAX).unwrap()
}

/// Each block where it comes first.
fn once(blocks: &[Cid]) -> Vec<Cid> {
    let mut seen = HashSet::new();
    blocks.iter().filter(|cid| seen.insert(**cid)).copied().collect()
}

/// Everything below a block, as a recursion finds it.
fn all(shapes: &Shapes, root: Cid) -> Vec<Cid> {
    let below = links_of(root.codec(), &shapes.blocks[&root]).unwrap();
    let mut found = vec![root];
    found.extend(below.into_iter().flat_map(|cid| all(shapes, cid)));
    found
}

#[test]
fn the_order_is_that_in_which_a_reader_meets_the_blocks() {
    let mut shapes = Shapes::default();
    let (a, b) = (shapes.raw("a"), shapes.raw("b"));
    // The directory comes before the leaf that both have, and has it first.
    let inner = shapes.directory(&[("a", a), ("b", b)]);
    let root = shapes.directory(&[("0", inner), ("1", b), ("2", inner)]);
    let expected = [root, inner, a, b, b, inner, a, b];
    assert_eq!(select(&shapes, root, Scope::All, true), expected);
    assert_eq!(select(&shapes, root, Scope::All, false), once(&expected));
    assert_eq!(select(&shapes, root, Scope::Block, false), [root]);
    assert_eq!(select(&shapes, root, Scope::Entity(None), false), [root]);
}

#[test]
fn the_blocks_of_the_path_come_first() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let inner = shapes.directory(&[("a", leaf)]);
    let root = shapes.directory(&[("0", inner)]);
    for (scope, expected) in [(Scope::Block, &[root, inner][..]), (Scope::All, &[root, inner, leaf])] {
        let selection = Selection::new(&[root], &Target::of(inner), scope, false).unwrap();
        assert_eq!(told(&shapes, selection, 9).unwrap(), expected);
    }
}

#[test]
fn an_entity_is_a_file_or_what_lists_a_directory_or_one_block() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("0123456789");
    let piece = shapes.file("", &[(leaf, 10), (leaf, 10)]);
    let file = shapes.file("own", &[(piece, 20), (leaf, 10)]);
    assert_eq!(select(&shapes, file, Scope::Entity(None), true), [file, piece, leaf, leaf, leaf]);
    let node = shapes.cbor(&[file]);
    for single in [leaf, node] {
        assert_eq!(select(&shapes, single, Scope::Entity(None), false), [single]);
        let bytes = ByteRange { first: 2, last: 3 };
        assert_eq!(select(&shapes, single, Scope::Entity(Some(bytes)), false), [single]);
    }
    let symlink = shapes.pb(Some(vec![8, 4]), &[("", file)]);
    assert_eq!(select(&shapes, symlink, Scope::Entity(None), false), [symlink]);
    let other = shapes.pb(None, &[("", file)]);
    assert_eq!(select(&shapes, other, Scope::Entity(None), false), [other]);

    let names: Vec<String> = (0..600).map(|number| number.to_string()).collect();
    let entries: Vec<(&str, Cid)> = names.iter().map(|name| (name.as_str(), file)).collect();
    let root = shapes.sharded(&entries);
    let shards = select(&shapes, root, Scope::Entity(None), false);
    assert!(shards.len() > 100, "{} shards", shards.len());
    let leaves = HashSet::from([leaf, piece, file]);
    let expected: Vec<Cid> = once(&all(&shapes, root)).into_iter().filter(|cid| !leaves.contains(cid)).collect();
    assert_eq!(shards, expected);
}

#[test]
fn blocks_inside_cids_are_never_told_and_what_is_below_them_is() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("0123456789");
    let piece = {
        let node = ipld_dagpb::PbNode {
            links: vec![ipld_dagpb::PbLink { cid: leaf, name: None, size: None }],
            data: Some(file_message(b"", &[10]).into()),
        };
        inline(codec::DAG_PB, &node.into_bytes())
    };
    let file = shapes.file("", &[(inline(codec::RAW, b"abc"), 3), (piece, 10)]);
    for scope in [Scope::All, Scope::Entity(None), Scope::Entity(Some(ByteRange { first: 3, last: 3 }))] {
        assert_eq!(select(&shapes, file, scope, true), [file, leaf], "{scope:?}");
        assert_eq!(select(&shapes, piece, scope, true), [leaf], "{scope:?}");
    }
    assert_eq!(select(&shapes, file, Scope::Entity(Some(ByteRange { first: 0, last: 2 })), true), [file]);
    assert_eq!(select(&shapes, piece, Scope::Block, true), []);
}

#[test]
fn what_cannot_be_walked_is_told_at_once_or_on_the_way() {
    let mut shapes = Shapes::default();
    let git = Cid::new_v1(0x78, *shapes.raw("x").hash());
    let refused = Selection::new(&[], &Target::of(git), Scope::All, false);
    assert!(matches!(refused, Err(SelectionError::Unsupported(_))));
    Selection::new(&[], &Target::of(git), Scope::Block, false).unwrap();
    let broken = shapes.block(codec::DAG_CBOR, vec![0xff]);
    let root = shapes.cbor(&[broken]);
    let selection = Selection::new(&[], &Target::of(root), Scope::All, false).unwrap();
    assert!(matches!(told(&shapes, selection, 9), Err(SelectionError::Invalid { .. })));
    // More links than sizes: where the bytes are can't be told.
    let leaf = shapes.raw("0123456789");
    let file = shapes.pb(Some(file_message(b"", &[10])), &[("", leaf), ("", leaf)]);
    let bytes = Scope::Entity(Some(ByteRange { first: 1, last: 12 }));
    let selection = Selection::new(&[], &Target::of(file), bytes, false).unwrap();
    assert!(matches!(told(&shapes, selection, 9), Err(SelectionError::Invalid { .. })));
}

#[test]
fn a_dag_with_more_ways_than_blocks_stays_small() {
    let mut shapes = Shapes::default();
    let mut at = shapes.raw("bottom");
    for _ in 0..60 {
        at = shapes.cbor(&vec![at; 100]);
    }
    assert_eq!(select(&shapes, at, Scope::All, false).len(), 61);
    let mut selection = Selection::new(&[], &Target::of(at), Scope::All, true).unwrap();
    for _ in 0..100_000 {
        let wanted = selection.next().unwrap();
        selection.add_block(&shapes.blocks[&wanted.cid]).unwrap();
    }
    let bytes = selection.memory_bytes();
    assert!(bytes < 1024 * 1024, "{bytes} bytes");
}

#[test]
fn sizes_that_contradict_each_other_end_a_selection_and_not_the_machine() {
    let mut shapes = Shapes::default();
    let mut at = shapes.raw("x");
    // Each piece says that it has twice what its parent says, so a range is cut anew on every way down.
    for level in 0..40 {
        at = shapes.file("", &[(at, 3_u64 << (40 - level)), (at, 3_u64 << (40 - level))]);
    }
    let bytes = Scope::Entity(Some(ByteRange { first: 1, last: 4 }));
    let selection = Selection::new(&[], &Target::of(at), bytes, false).unwrap();
    // It ends, with what is sound in it or with an error.
    match told(&shapes, selection, usize::MAX) {
        Ok(told) => assert!(told.len() <= 41),
        Err(error) => assert!(error.to_string().contains("contradict"), "{error}"),
    }
}

/// A random file: each level takes what is below in groups, and some of the pieces are the same.
fn build(shapes: &mut Shapes, kinds: &[u8], width: usize) -> (Cid, u64) {
    let mut level: Vec<(Cid, u64)> = Vec::new();
    for kind in kinds {
        let text = "x".repeat(usize::from(*kind));
        level.push((shapes.raw(&text), u64::from(*kind)));
    }
    while level.len() > 1 {
        let groups = level.chunks(width);
        level = groups
            .map(|pieces| {
                let own = "own".repeat(pieces.len() % 2);
                let bytes = own.len() as u64 + pieces.iter().map(|(_, bytes)| bytes).sum::<u64>();
                (shapes.file(&own, pieces), bytes)
            })
            .collect();
    }
    level[0]
}

/// The blocks of a file that hold some of the bytes, as a recursion finds them.
fn holding(shapes: &Shapes, cid: Cid, bytes: std::ops::RangeInclusive<i64>) -> Vec<Cid> {
    let mut found = vec![cid];
    if let Some(node) = unixfs::read(cid.codec(), &shapes.blocks[&cid]).unwrap() {
        let mut start = i64::try_from(node.own_bytes).unwrap();
        let links = links_of(cid.codec(), &shapes.blocks[&cid]).unwrap();
        for (link, size) in links.into_iter().zip(&node.block_sizes) {
            let size = i64::try_from(*size).unwrap();
            if size > 0 && *bytes.start() < start + size && *bytes.end() >= start {
                found.extend(holding(shapes, link, bytes.start() - start..=bytes.end() - start));
            }
            start += size;
        }
    }
    found
}

proptest! {
    #[test]
    fn bytes_of_a_file_are_in_the_blocks_that_a_recursion_finds(
        kinds in prop::collection::vec(1_u8..5, 2..60),
        width in 2_usize..5,
        ends in (0.0..1.0_f64, 0.0..1.0_f64),
    ) {
        let mut shapes = Shapes::default();
        let (root, length) = build(&mut shapes, &kinds, width);
        let place = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
            let place = (length as f64 * share) as u64;
            place.min(length - 1)
        };
        let (first, last) = (place(ends.0.min(ends.1)), place(ends.0.max(ends.1)));
        let expected = holding(&shapes, root, i64::try_from(first).unwrap()..=i64::try_from(last).unwrap());
        let scope = Scope::Entity(Some(ByteRange { first, last }));
        prop_assert_eq!(&select(&shapes, root, scope, true), &expected);
        prop_assert_eq!(select(&shapes, root, scope, false), once(&expected));
        let whole = all(&shapes, root);
        for scope in [Scope::All, Scope::Entity(None)] {
            prop_assert_eq!(&select(&shapes, root, scope, true), &whole);
            prop_assert_eq!(select(&shapes, root, scope, false), once(&whole));
        }
    }
}
