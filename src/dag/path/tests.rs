//! Paths through directories, shards and nodes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::*;
use crate::dag::shapes::{Shapes, inline};

fn resolve(shapes: &Shapes, root: Cid, path: &str) -> Result<Resolved, PathError> {
    let parts = path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec());
    let mut walk = PathWalk::new(root, parts.collect())?;
    while let Some(cid) = walk.wants() {
        walk.add_block(&shapes.blocks[&cid])?;
    }
    Ok(walk.finish())
}

#[track_caller]
fn leads(shapes: &Shapes, root: Cid, path: &str, blocks: &[Cid], end: Cid) {
    let resolved = resolve(shapes, root, path).unwrap();
    assert_eq!((resolved.blocks.as_slice(), &resolved.end), (blocks, &Target::of(end)), "{path}");
    assert_eq!(resolved.roots.first(), Some(&root.to_string()));
    assert_eq!(resolved.roots.last(), Some(&end.to_string()));
}

#[track_caller]
fn is_missing(shapes: &Shapes, root: Cid, path: &str, missing: &str) {
    match resolve(shapes, root, path) {
        Err(PathError::Missing { name, .. }) => assert_eq!(name, missing, "{path}"),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn directories_are_followed_and_files_end_them() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let file = shapes.file("own", &[(leaf, 4)]);
    let inner = shapes.directory(&[("a", leaf), ("file", file), ("ü", leaf)]);
    let root = shapes.directory(&[("inner", inner), ("twice", inner)]);
    leads(&shapes, root, "", &[], root);
    leads(&shapes, root, "inner", &[root], inner);
    leads(&shapes, root, "inner/a", &[root, inner], leaf);
    leads(&shapes, root, "twice/ü", &[root, inner], leaf);
    assert_eq!(resolve(&shapes, root, "inner/a").unwrap().roots, [root, inner, leaf].map(|cid| cid.to_string()));
    is_missing(&shapes, root, "none/a", "none");
    is_missing(&shapes, root, "inner/b", "b");
    is_missing(&shapes, root, "inner/file/0", "0");
    is_missing(&shapes, root, "inner/a/deeper", "deeper");
}

#[test]
fn links_of_other_dag_pb_nodes_go_by_their_names() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    for data in [None, Some(b"no UnixFS".to_vec())] {
        let root = shapes.pb(data, &[("name", leaf)]);
        leads(&shapes, root, "name", &[root], leaf);
        is_missing(&shapes, root, "other", "other");
    }
    // A symbolic link is not followed.
    let symlink = shapes.pb(Some(vec![8, 4]), &[("name", leaf)]);
    is_missing(&shapes, symlink, "name", "name");
}

#[test]
fn every_name_of_a_sharded_directory_is_found_through_its_shards_alone() {
    let mut shapes = Shapes::default();
    let names: Vec<String> = (0..1000).map(|number| format!("file {number}.txt")).collect();
    let leaves: Vec<Cid> = names.iter().map(|name| shapes.raw(name)).collect();
    let entries: Vec<(&str, Cid)> = names.iter().map(String::as_str).zip(leaves.iter().copied()).collect();
    let root = shapes.sharded(&entries);
    let outer = shapes.directory(&[("big", root)]);
    let mut depths = BTreeMap::new();
    for (name, leaf) in &entries {
        let resolved = resolve(&shapes, outer, &format!("big/{name}")).unwrap();
        assert_eq!(resolved.end, Target::Block(*leaf), "{name}");
        assert_eq!(&resolved.blocks[..2], [outer, root]);
        assert_eq!(resolved.roots, [outer, root, *leaf].map(|cid| cid.to_string()));
        *depths.entry(resolved.blocks.len()).or_insert(0) += 1;
    }
    assert!(depths.len() >= 2, "all at one depth: {depths:?}");
    is_missing(&shapes, root, "file 1000.txt", "file 1000.txt");
    is_missing(&shapes, root, "file 1.txt/x", "x");
    // The slot alone is no name.
    is_missing(&shapes, root, "00", "00");
}

#[test]
fn a_shard_that_is_none_is_an_error() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let root = shapes.pb(Some(vec![8, 5, 40, 0x22, 48, 7]), &[("00a", leaf)]);
    assert!(matches!(resolve(&shapes, root, "a"), Err(PathError::Invalid { .. })));
    let directory = shapes.directory(&[("a", leaf)]);
    let links: Vec<String> = (0..=255).map(|slot| format!("{slot:02X}")).collect();
    let links: Vec<(&str, Cid)> = links.iter().map(|slot| (slot.as_str(), directory)).collect();
    let root = shapes.pb(Some(vec![8, 5, 40, 0x22, 48, 0x80, 2]), &links);
    assert!(matches!(resolve(&shapes, root, "a"), Err(PathError::Invalid { .. })));
}

#[derive(Serialize)]
struct Document {
    files: BTreeMap<&'static str, Cid>,
    list: Vec<Cid>,
    text: &'static str,
}

#[test]
fn maps_and_lists_of_dag_cbor_are_followed_to_their_links() {
    let mut shapes = Shapes::default();
    let (left, right) = (shapes.raw("left"), shapes.raw("right"));
    let directory = shapes.directory(&[("in", left)]);
    let document =
        Document { files: BTreeMap::from([("a", left), ("dir", directory)]), list: vec![left, right], text: "x" };
    let root = shapes.cbor(&document);
    leads(&shapes, root, "files/a", &[root], left);
    leads(&shapes, root, "files/dir/in", &[root, directory], left);
    leads(&shapes, root, "list/1", &[root], right);
    is_missing(&shapes, root, "list/2", "2");
    is_missing(&shapes, root, "list/01", "01");
    is_missing(&shapes, root, "list/-1", "-1");
    is_missing(&shapes, root, "files/b", "b");
    is_missing(&shapes, root, "text/0", "0");
    for value in ["files", "list", "text"] {
        assert!(matches!(resolve(&shapes, root, value), Err(PathError::Value { .. })), "{value}");
    }
    // A block that is nothing but a link.
    let only = shapes.cbor(&root);
    leads(&shapes, only, "list/0", &[only, root], left);
    // Indefinite lengths, as older writers made them.
    let mut map = vec![0xbf, 0x7f, 0x61, b'k', 0x60, 0xff, 0x9f, 0xd8, 42, 0x58, 37, 0];
    map.extend(left.to_bytes());
    map.extend([0xff, 0xff]);
    let root = shapes.block(codec::DAG_CBOR, map);
    leads(&shapes, root, "k/0", &[root], left);
    is_missing(&shapes, root, "k/1", "1");
    is_missing(&shapes, root, "l", "l");
}

#[test]
fn maps_and_lists_of_dag_json_are_followed_to_their_links() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let text = format!(
        r#" {{"skip": {{"/": 1, "x": [1, {{}}]}}, "a\u00fcb": [ true, {{"/": "{leaf}"}} ], "bytes": {{"/": {{"bytes": "AA"}}}}, "/": {{"deep": {{"/":"{leaf}"}}}} }}"#
    );
    let root = shapes.block(codec::DAG_JSON, text.into());
    leads(&shapes, root, "aüb/1", &[root], leaf);
    is_missing(&shapes, root, "aüb/2", "2");
    is_missing(&shapes, root, "aüb/0/x", "x");
    is_missing(&shapes, root, "skip/y", "y");
    for value in ["skip", "skip/x/0", "aüb", "bytes"] {
        assert!(matches!(resolve(&shapes, root, value), Err(PathError::Value { .. })), "{value}");
    }
    let broken = shapes.block(codec::DAG_JSON, br#"{"a": nonsense}"#.to_vec());
    assert!(matches!(resolve(&shapes, broken, "b"), Err(PathError::Invalid { .. })));
}

#[test]
fn blocks_inside_cids_are_gone_through_and_are_no_blocks_of_the_path() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let inner = inline(codec::DAG_CBOR, &serde_ipld_dagcbor::to_vec(&BTreeMap::from([("l", leaf)])).unwrap());
    let root = shapes.directory(&[("inner", inner)]);
    leads(&shapes, root, "inner", &[root], inner);
    leads(&shapes, root, "inner/l", &[root], leaf);
    leads(&shapes, inner, "l", &[], leaf);
    is_missing(&shapes, inner, "m", "m");
    is_missing(&shapes, inline(codec::RAW, b"x"), "m", "m");
}

#[test]
fn a_path_has_a_longest_way() {
    let mut shapes = Shapes::default();
    let mut at = shapes.raw("end");
    for _ in 0..=PATH_BLOCKS_MAX {
        at = shapes.cbor(&at);
    }
    assert_eq!(resolve(&shapes, at, "x"), Err(PathError::TooLong));
}
