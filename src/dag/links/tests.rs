//! Links of well-formed nodes come out as they went in; malformed and hostile ones are errors, never panics.

use std::collections::BTreeMap;

use cid::multihash::Multihash;
use ipld_dagpb::{PbLink, PbNode};
use multihash_codetable::{Code, MultihashDigest};
use proptest::prelude::*;

use super::*;

fn raw(seed: &[u8]) -> Cid {
    Cid::new_v1(codec::RAW, Code::Sha2_256.digest(seed))
}

fn v0(seed: &[u8]) -> Cid {
    Cid::new_v0(Code::Sha2_256.digest(seed)).unwrap()
}

fn links_of(codec: u64, data: impl Into<Bytes>) -> Result<Vec<Cid>, LinkError> {
    let data = data.into();
    links(&Cid::new_v1(codec, Code::Sha2_256.digest(&data)), &data)
}

fn field(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    [&[tag], unsigned_varint::encode::usize(contents.len(), &mut buffer), contents].concat()
}

/// A dag-cbor link: tag 42, a byte string, the identity multibase, the CID.
fn cbor_link(cid: &[u8]) -> Vec<u8> {
    let length = u8::try_from(cid.len() + 1).unwrap();
    [&[0xd8, 42, 0x58, length, 0], cid].concat()
}

fn identity(codec: u8, contents: &[u8]) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(contents.len(), &mut buffer).to_vec();
    [&[1, codec, 0], length.as_slice(), contents].concat()
}

fn assert_malformed(codec: u64, data: &[u8]) {
    let result = links_of(codec, data.to_vec());
    assert!(
        matches!(
            result,
            Err(LinkError::Malformed { .. }
                | LinkError::Truncated { .. }
                | LinkError::BadCid { .. }
                | LinkError::TooDeep)
        ),
        "{data:02x?} gave {result:?}"
    );
}

#[test]
fn raw_cbor_and_json_have_no_links() {
    for codec in [codec::RAW, codec::CBOR, codec::JSON] {
        assert_eq!(links_of(codec, cbor_link(&raw(b"a").to_bytes())), Ok(vec![]));
    }
    assert_eq!(links_of(0x78, Bytes::new()), Err(LinkError::UnsupportedCodec { codec: 0x78 }));
}

#[test]
fn dag_pb_accepts_what_go_codec_dagpb_accepts() {
    let hash = field(10, &raw(b"a").to_bytes());
    let link = field(18, &hash);
    let data = field(10, b"data");
    let one = Ok(vec![raw(b"a")]);
    assert_eq!(links_of(codec::DAG_PB, vec![]), Ok(vec![]));
    assert_eq!(links_of(codec::DAG_PB, [&link[..], &data].concat()), one);
    assert_eq!(links_of(codec::DAG_PB, [&data[..], &link].concat()), one);
    // A name that isn't UTF-8, then a size.
    let named = field(18, &[&hash[..], &field(18, b"\xff\xfe"), &[24, 5]].concat());
    assert_eq!(links_of(codec::DAG_PB, named), one);
    // Varints longer than needed, for the tag and for the length.
    let padded = [&[0x92, 0x80, 0x00, 0x80 | u8::try_from(hash.len()).unwrap(), 0x00], &hash[..]].concat();
    assert_eq!(links_of(codec::DAG_PB, padded), one);
    // Bytes after the CID.
    let trailing = field(18, &field(10, &[&raw(b"a").to_bytes()[..], b"tail"].concat()));
    assert_eq!(links_of(codec::DAG_PB, trailing), one);
    let old = field(18, &field(10, &v0(b"b").to_bytes()));
    assert_eq!(links_of(codec::DAG_PB, old), Ok(vec![v0(b"b")]));
}

#[test]
fn dag_pb_refuses_what_go_codec_dagpb_refuses() {
    let hash = field(10, &raw(b"a").to_bytes());
    let link = field(18, &hash);
    let data = field(10, b"data");
    let name = field(18, b"name");
    for bad in [
        [&data[..], &data].concat(),
        [&link[..], &data, &link].concat(),
        field(18, &[]),
        field(18, &name),
        field(18, &[24, 1]),
        field(18, &[&name[..], &hash].concat()),
        field(18, &[&hash[..], &hash].concat()),
        field(18, &[&hash[..], &[24, 1], &name].concat()),
        field(18, &[&hash[..], &[26, 1, 1]].concat()),
        field(18, &[&hash[..], &[34, 0]].concat()),
        field(18, &field(10, b"\x01\x55")),
        field(26, b"x"),
        vec![0x08, 1],
        vec![0x02, 0],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        vec![0x0a, 5, 1],
        vec![0x12],
    ] {
        assert_malformed(codec::DAG_PB, &bad);
    }
}

#[test]
fn dag_cbor_accepts_every_form_that_some_kubo_accepts() {
    let cid = raw(b"a").to_bytes();
    let link = cbor_link(&cid);
    let one = || Ok(vec![raw(b"a")]);
    assert_eq!(links_of(codec::DAG_CBOR, link.clone()), one());
    let values: &[&[u8]] = &[
        &[0x00],
        &[0x18, 0x01],
        &[0x1b, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0x20],
        &[0x3b, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0xf4],
        &[0xf5],
        &[0xf6],
        &[0xf7],
        &[0xf9, 0x7e, 0],
        &[0xfa, 0, 0, 0, 0],
        &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x62, 0xff, 0xfe],
        &[0x5f, 0x41, 1, 0x40, 0xff],
        &[0x7f, 0x61, b'x', 0xff],
        &[0x80],
        &[0xa0],
        &[0x9f, 0xff],
        &[0xbf, 0xff],
        &[0x9f, 0x01, 0x82, 1, 2, 0xff],
        &[0xbf, 0x61, b'a', 0x9f, 0xff, 0xff],
        // Tags on anything but byte strings are ignored, 42 included.
        &[0xc1, 0x01],
        &[0xd8, 42, 0x61, b'x'],
        &[0xd8, 42, 0x81, 0x01],
        // Unsorted and repeated keys, and a tagged one.
        &[0xa3, 0x61, b'b', 1, 0x61, b'a', 2, 0x61, b'b', 3],
        &[0xa1, 0xc1, 0x61, b'b', 1],
    ];
    for value in values {
        let list = [&[0x82], *value, &link].concat();
        assert_eq!(links_of(codec::DAG_CBOR, list), one(), "{value:02x?}");
        let map = [&[0xbf, 0x61, b'k'], *value, &[0x78, 1, b'l'], &link, &[0xff]].concat();
        assert_eq!(links_of(codec::DAG_CBOR, map), one(), "{value:02x?}");
    }
    let split = [&[0xd8, 42, 0x5f, 0x41, 0, 0x58, 36], &cid[..], &[0xff]].concat();
    assert_eq!(links_of(codec::DAG_CBOR, split), one());
}

#[test]
fn dag_cbor_refuses_what_no_kubo_accepts() {
    let cid = raw(b"a").to_bytes();
    let link = cbor_link(&cid);
    let huge = [0xff; 8];
    for bad in [
        vec![],
        [&link[..], &[0]].concat(),
        link[..link.len() - 1].to_vec(),
        cbor_link(&[&cid[..], &[0]].concat()),
        cbor_link(b"\x01\x55"),
        vec![0xd8, 42, 0x40],
        vec![0xd8, 42, 0x42, 1, 1],
        vec![0xd8, 43, 0x41, 0],
        vec![0xc0, 0xc0, 0x01],
        vec![0xff],
        vec![0x81, 0xff],
        vec![0xbf, 0x61, b'a', 0xff],
        vec![0xa1, 0x01, 0x01],
        vec![0xa1, 0x41, 1, 1],
        vec![0x5f, 0x61, b'x', 0xff],
        vec![0x5f, 0x5f, 0xff, 0xff],
        vec![0xf8, 32],
        vec![0xe0],
        vec![0x1c],
        vec![0xdf, 0x01],
        [&[0x5b], &huge[..]].concat(),
        [&[0x7b], &huge[..], b"x"].concat(),
        [&[0x9b], &huge[..], &[0]].concat(),
        [&[0xbb], &huge[..], &[0]].concat(),
        [&[0xd8, 42, 0x5f, 0x5b], &huge[..]].concat(),
        vec![0x9a, 0, 1, 0, 0],
    ] {
        assert_malformed(codec::DAG_CBOR, &bad);
    }
}

#[test]
fn dag_json_accepts_what_go_ipld_prime_accepts() {
    let a = raw(b"a").to_string();
    let b = v0(b"b").to_string();
    let expected = Ok(vec![raw(b"a"), v0(b"b")]);
    for text in [
        format!(r#"[{{"/":"{a}"}},{{"/":"{b}"}}]"#),
        format!(" [ {{ \"/\" : \"{a}\" }}\n,\t{{\"\\/\":\"{b}\",}},] \n\0"),
        format!(r#"{{"x":{{"\u002f":"{a}"}},"y":[[],{{}},1,-0.5e+3,true,false,null,"\"\\\u00e9",{{"/":"{b}"}}]}}"#),
        // Not links: a byte string, more than one key, a key that is not the first.
        format!(
            r#"[{{"/":"{a}"}},{{"/":{{"bytes":"aGVsbG8"}}}},{{"/":"{a}","x":1}},{{"x":1,"/":"{a}"}},{{"/":1}},{{"/":["{a}"]}},{{"/":"{b}"}}]"#
        ),
        format!(r#"[{{"/":"{a}"}},{{"/":"{}"}}]"#, b.replace('Q', "\\u0051")),
    ] {
        assert_eq!(links_of(codec::DAG_JSON, text.clone()), expected, "{text}");
    }
    let base58 = raw(b"a").to_string_of_base(cid::multibase::Base::Base58Btc).unwrap();
    assert_eq!(links_of(codec::DAG_JSON, format!(r#"{{"/":"{base58}"}}"#)), Ok(vec![raw(b"a")]));
    for text in ["1", "-0", "1.5", "\"\"", "null", "[]", "{}", "\"\u{e9}\""] {
        assert_eq!(links_of(codec::DAG_JSON, text), Ok(vec![]), "{text}");
    }
    assert_eq!(links_of(codec::DAG_JSON, &b"{\"\xff\":\"\xfe\"}"[..]), Ok(vec![]));
}

/// Go ignores the bits behind the last whole byte, so the next character stands for the same bytes.
#[test]
fn dag_json_accepts_cids_with_loose_ends() {
    use cid::multibase::Base;
    let cid = Cid::new_v1(codec::RAW, Code::Sha2_512.digest(b"a"));
    for base in [Base::Base32Lower, Base::Base32Upper, Base::Base64, Base::Base64Url] {
        let mut text = cid.to_string_of_base(base).unwrap();
        let next = u8::try_from(text.pop().unwrap()).unwrap() + 1;
        text.push(next.into());
        assert!(Cid::try_from(text.as_str()).is_err(), "{text} needs no such care");
        assert_eq!(links_of(codec::DAG_JSON, format!(r#"{{"/":"{text}"}}"#)), Ok(vec![cid]));
    }
}

#[test]
fn dag_json_refuses_what_go_ipld_prime_refuses() {
    let long = format!(r#"{{"/":"z{}"}}"#, "1".repeat(100_000));
    for bad in [
        "",
        " ",
        "[",
        "]",
        "}",
        "[,]",
        "[1 2]",
        "[1,,2]",
        "{,}",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "01",
        "1.",
        "-",
        "1e",
        "tru",
        "nul",
        "x",
        "1 2",
        "[]]",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12",
        "\"\n\"",
        "{\"/\":\"hello\"}",
        "{\"/\":\"\"}",
        "{\"/\":\"/ipfs/bafkqaaa\"}",
        "[1}",
        &long,
    ] {
        assert_malformed(codec::DAG_JSON, bad.as_bytes());
    }
}

#[test]
fn nesting_is_bounded_and_needs_no_stack() {
    for (open, close) in [(&[0x81][..], &[][..]), (&[0xa1, 0x60], &[]), (&[0x9f], &[0xff]), (&[0xbf, 0x60], &[0xff])] {
        let nested = |depth: usize| [open.repeat(depth), vec![0], close.repeat(depth)].concat();
        assert_eq!(links_of(codec::DAG_CBOR, nested(NODE_DEPTH_MAX)), Ok(vec![]));
        assert_eq!(links_of(codec::DAG_CBOR, nested(NODE_DEPTH_MAX + 1)), Err(LinkError::TooDeep));
        assert_eq!(links_of(codec::DAG_CBOR, nested(600_000)), Err(LinkError::TooDeep));
    }
    for (open, close) in [("[", "]"), ("{\"\":", "}"), ("{\"/\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(links_of(codec::DAG_JSON, nested(NODE_DEPTH_MAX)), Ok(vec![]));
        assert_eq!(links_of(codec::DAG_JSON, nested(NODE_DEPTH_MAX + 1)), Err(LinkError::TooDeep));
        assert_eq!(links_of(codec::DAG_JSON, nested(300_000)), Err(LinkError::TooDeep));
    }
}

#[test]
fn links_are_bounded() {
    // The shortest link that is no identity CID: a digest of no bytes.
    let link = cbor_link(&[1, 0x55, 0x12, 0]);
    let list = |count: usize| [&[0x9f], &link.repeat(count)[..], &[0xff]].concat();
    assert_eq!(links_of(codec::DAG_CBOR, list(LINKS_PER_BLOCK_MAX)).unwrap().len(), LINKS_PER_BLOCK_MAX);
    assert_eq!(links_of(codec::DAG_CBOR, list(LINKS_PER_BLOCK_MAX + 1)), Err(LinkError::TooManyLinks));
}

#[test]
fn identity_links_are_replaced_by_what_they_link_to() {
    let inner = cbor_link(&raw(b"inner").to_bytes());
    let leaf = cbor_link(&identity(0x55, b"leaf"));
    // Longer than the 64 bytes that a `Cid` can hold, as `ipfs add --inline-limit 128` makes them.
    let long = cbor_link(&identity(0x55, &[7; 128]));
    let nested = cbor_link(&identity(0x71, &cbor_link(&identity(0x71, &inner))));
    let node =
        [&[0x85], &leaf[..], &nested, &cbor_link(&raw(b"a").to_bytes()), &cbor_link(&identity(0x71, &inner)), &long];
    assert_eq!(links_of(codec::DAG_CBOR, node.concat()), Ok(vec![raw(b"inner"), raw(b"a"), raw(b"inner")]));
    let file = field(18, &field(10, &identity(0x70, &field(18, &field(10, &v0(b"chunk").to_bytes())))));
    assert_eq!(links_of(codec::DAG_PB, file), Ok(vec![v0(b"chunk")]));
    assert_malformed(codec::DAG_CBOR, &cbor_link(&identity(0x55, &[7; 129])));
    assert_malformed(codec::DAG_CBOR, &cbor_link(&identity(0x71, b"\xff")));
    assert_eq!(
        links_of(codec::DAG_CBOR, cbor_link(&identity(0x78, b"x"))),
        Err(LinkError::UnsupportedCodec { codec: 0x78 })
    );
}

#[test]
fn a_cid_of_another_version_or_with_an_overlong_digest_is_refused() {
    for bad in
        [&[2, 0x55, 0x12, 0][..], &[0, 0x55, 0x12, 0], &[1, 0x55, 0x12, 0x80], &[1, 0x55, 0x12, 1], &[0x12, 0x20, 0]]
    {
        assert_malformed(codec::DAG_CBOR, &cbor_link(bad));
    }
    assert_malformed(codec::DAG_CBOR, &cbor_link(&[&[1, 0x55, 0x12, 65], &[0; 65][..]].concat()));
}

fn any_cid() -> impl Strategy<Value = Cid> {
    let code = prop::sample::select(vec![0x12_u64, 0x13, 0x1e, 0xb220]);
    let codec = prop::sample::select(codec::SUPPORTED.to_vec());
    (code, codec, any::<[u8; 8]>(), any::<bool>()).prop_map(|(code, codec, seed, old)| {
        let hash = Code::try_from(code).unwrap().digest(&seed);
        if old && code == 0x12 { Cid::new_v0(hash).unwrap() } else { Cid::new_v1(codec, hash) }
    })
}

/// A value with links in it, as CBOR and as JSON, and the links in order.
#[derive(Debug, Clone)]
enum Value {
    Number(u32),
    Text(String),
    Link(Cid),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u32>().prop_map(Value::Number),
        ".{0,8}".prop_map(Value::Text),
        any_cid().prop_map(Value::Link)
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            // A key `/` would make a map look like a link in JSON.
            prop::collection::btree_map("[^/]{0,6}", inner, 0..6).prop_map(Value::Map),
        ]
    })
}

impl Value {
    fn links(&self, found: &mut Vec<Cid>) {
        match self {
            Self::Number(_) | Self::Text(_) => {}
            Self::Link(cid) => found.push(*cid),
            Self::List(items) => items.iter().for_each(|item| item.links(found)),
            Self::Map(items) => items.values().for_each(|item| item.links(found)),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Link(cid) => serde_json::json!({ "/": cid.to_string() }),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map(items) => items.iter().map(|(key, value)| (key.clone(), value.json())).collect(),
        }
    }

    fn cbor(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, major: u8, count: u32| {
            out.push(major << 5 | 0x1a);
            out.extend_from_slice(&count.to_be_bytes());
        };
        let count = |length: usize| u32::try_from(length).unwrap();
        match self {
            Self::Number(number) => head(out, 0, *number),
            Self::Text(text) => {
                head(out, 3, count(text.len()));
                out.extend_from_slice(text.as_bytes());
            }
            Self::Link(cid) => out.extend(serde_ipld_dagcbor::to_vec(cid).unwrap()),
            Self::List(items) => {
                head(out, 4, count(items.len()));
                for item in items {
                    item.cbor(out);
                }
            }
            Self::Map(items) => {
                head(out, 5, count(items.len()));
                for (key, value) in items {
                    Self::Text(key.clone()).cbor(out);
                    value.cbor(out);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn links_come_out_as_they_went_in(value in any_value()) {
        let mut expected = Vec::new();
        value.links(&mut expected);
        let mut cbor = Vec::new();
        value.cbor(&mut cbor);
        prop_assert_eq!(links_of(codec::DAG_CBOR, cbor), Ok(expected.clone()));
        prop_assert_eq!(links_of(codec::DAG_JSON, value.json().to_string()), Ok(expected.clone()));
        prop_assert_eq!(links_of(codec::DAG_JSON, serde_json::to_string_pretty(&value.json()).unwrap()), Ok(expected));
    }

    #[test]
    fn dag_pb_links_come_out_as_they_went_in(
        cids in prop::collection::vec(any_cid(), 0..20),
        data in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
    ) {
        let named = cids.iter().enumerate();
        let pb_links = named.map(|(index, cid)| PbLink { cid: *cid, name: Some(format!("{index:03}")), size: Some(7) });
        let node = PbNode { links: pb_links.collect(), data: data.map(Bytes::from) };
        prop_assert_eq!(links_of(codec::DAG_PB, node.into_bytes()), Ok(cids));
    }

    #[test]
    fn nothing_panics(codec in prop::sample::select(codec::SUPPORTED.to_vec()), data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = links_of(codec, data);
    }

    /// Bytes that mean something to the scanners come far deeper than bytes at random.
    #[test]
    fn nothing_that_looks_like_cbor_panics(
        data in prop::collection::vec(
            prop::sample::select(vec![0_u8, 1, 0x41, 0x58, 0x5b, 0x5f, 0x61, 0x7f, 0x81, 0x9f, 0xa1, 0xbf, 0xbb, 0xd8, 42, 0xf6, 0xf9, 0xff]),
            0..60,
        ),
    ) {
        let _ = links_of(codec::DAG_CBOR, data);
    }

    #[test]
    fn nothing_that_looks_like_json_panics(text in r#"([\[\]{}:,"/\\u0-9tfn. -]|"/"|\{"/":"|bafkqaaa){0,40}"#) {
        let _ = links_of(codec::DAG_JSON, text);
    }

    #[test]
    fn a_changed_byte_or_a_cut_does_not_panic(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut cbor = Vec::new();
        value.cbor(&mut cbor);
        let mut json = value.json().to_string().into_bytes();
        for (codec, data) in [(codec::DAG_CBOR, &mut cbor), (codec::DAG_JSON, &mut json)] {
            let at = at.index(data.len());
            let _ = links_of(codec, data[..at].to_vec());
            data[at] = byte;
            let _ = links_of(codec, data.clone());
        }
    }
}

#[test]
fn a_multihash_of_an_unknown_function_is_still_a_link() {
    let cid = Cid::new_v1(codec::RAW, Multihash::wrap(0x22, &[3; 8]).unwrap());
    assert_eq!(links_of(codec::DAG_CBOR, cbor_link(&cid.to_bytes())), Ok(vec![cid]));
}
