//! Requests as they are understood, and the headers that don't need a server to be seen.

use axum::http::header::IF_RANGE;
use axum::http::{HeaderValue, Uri};

use super::*;
use crate::dag::Target;
use crate::gateway::{AskedBytes, AskedScope};

const ROOT: &str = "bafybeifx7yeb55armcsxwwitkymga5xf53dxiarykms3ygqic223w5sk3m";

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

fn read(path: &str, accept: Option<&str>) -> Result<Asked, u16> {
    let uri: Uri = format!("/ipfs/{path}").parse().unwrap();
    let headers = accept.map(|accept| headers(&[(ACCEPT, accept)])).unwrap_or_default();
    Asked::read(&uri, &headers).map_err(|refusal| refusal.into_response().status().as_u16())
}

const ALL: Format = Format::Car { scope: AskedScope::All, repeats: false };
const REPEATS: Format = Format::Car { scope: AskedScope::All, repeats: true };

#[test]
fn the_form_comes_from_the_query_or_else_from_the_header() {
    let car = "application/vnd.ipld.car";
    let raw = "application/vnd.ipld.raw";
    for (query, accept, expected) in [
        ("?format=raw", None, Ok(Format::Raw)),
        ("?format=raw", Some(car), Ok(Format::Raw)),
        ("?format=car", Some(raw), Ok(ALL)),
        ("?format=car", Some("*/*"), Ok(ALL)),
        ("", Some(raw), Ok(Format::Raw)),
        ("?format=", Some(raw), Ok(Format::Raw)),
        ("", Some("Application/Vnd.Ipld.Raw"), Ok(Format::Raw)),
        ("", Some("text/html, application/vnd.ipld.car;q=0.5, application/vnd.ipld.raw;q=0.25"), Ok(ALL)),
        ("", Some("application/vnd.ipld.car;q=0.5, application/vnd.ipld.raw;q=0.51"), Ok(Format::Raw)),
        ("", Some("application/vnd.ipld.car;q=0, */*"), Err(406)),
        ("", Some("*/*"), Err(406)),
        ("", Some("text/html"), Err(406)),
        ("", None, Err(400)),
        ("?format=tar", None, Err(406)),
        ("?format=ipns-record", Some(raw), Err(400)),
        ("?format=car", Some("application/vnd.ipld.car; version=1; order=dfs; dups=y"), Ok(REPEATS)),
        ("", Some("application/vnd.ipld.car;dups=\"y\""), Ok(REPEATS)),
        ("?car-dups=n", Some("application/vnd.ipld.car;dups=y"), Ok(ALL)),
        ("?format=car&car-dups=y&car-order=dfs&car-version=1", Some("application/vnd.ipld.car;dups=n"), Ok(REPEATS)),
        ("?format=car&car-order=unk", None, Ok(ALL)),
        // What can't be made is refused, and what comes after it in the header taken.
        ("", Some("application/vnd.ipld.car;order=bfs, application/vnd.ipld.car;dups=y;q=0.1"), Ok(REPEATS)),
        ("", Some("application/vnd.ipld.car;order=bfs"), Err(406)),
        ("?format=car", Some("application/vnd.ipld.car;version=2"), Err(406)),
        ("?format=car&car-version=1", Some("application/vnd.ipld.car;version=2"), Ok(ALL)),
        ("?format=car&car-version=2", None, Err(400)),
        ("?format=car&car-order=bfs", None, Err(400)),
        ("?format=car&car-dups=maybe", None, Err(400)),
    ] {
        let asked = read(&format!("{ROOT}{query}"), accept).map(|asked| asked.format);
        assert_eq!(asked, expected, "{query} {accept:?}");
    }
}

#[test]
fn scopes_and_bytes_are_understood() {
    let entity = |from, to| Ok(AskedScope::Entity(Some(AskedBytes { from, to })));
    for (query, expected) in [
        ("", Ok(AskedScope::All)),
        ("dag-scope=all", Ok(AskedScope::All)),
        ("dag-scope=entity", Ok(AskedScope::Entity(None))),
        ("dag-scope=block", Ok(AskedScope::Block)),
        ("dag-scope=more", Err(400)),
        ("dag-scope=entity&entity-bytes=0:*", entity(0, None)),
        ("entity-bytes=-5%3A-1", entity(-5, Some(-1))),
        ("dag-scope=all&entity-bytes=499:-1000", entity(499, Some(-1000))),
        ("entity-bytes=3:3", entity(3, Some(3))),
        ("entity-bytes=4:3", Err(400)),
        ("entity-bytes=-3:-4", Err(400)),
        ("entity-bytes=*:3", Err(400)),
        ("entity-bytes=3", Err(400)),
        ("entity-bytes=%2B3:4", Err(400)),
        ("entity-bytes=:", Err(400)),
        ("entity-bytes=-:*", Err(400)),
        ("entity-bytes=0:99999999999999999999", Err(400)),
    ] {
        let scope = read(&format!("{ROOT}?format=car&{query}"), None).map(|asked| match asked.format {
            Format::Car { scope, .. } => scope,
            Format::Raw => panic!("{query} asks for no block"),
        });
        assert_eq!(scope, expected, "{query}");
    }
    // None of it means anything for a block.
    assert_eq!(read(&format!("{ROOT}?format=raw&dag-scope=more&car-order=x"), None).unwrap().format, Format::Raw);
}

#[test]
fn paths_are_taken_apart() {
    let parts = |path: &str| read(&format!("{ROOT}{path}?format=raw"), None).map(|asked| asked.parts);
    let texts = |texts: &[&str]| Ok(texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
    assert_eq!(parts(""), texts(&[]));
    assert_eq!(parts("/"), texts(&[]));
    assert_eq!(parts("/a//b%20c/%C3%BC/d%2Fe/"), texts(&["a", "b c", "ü", "d/e"]));
    assert_eq!(parts("/%ff"), Ok(vec![vec![0xff]]));
    for broken in ["/%", "/%4", "/%zz", "/a%+1"] {
        assert_eq!(parts(broken), Err(400), "{broken}");
    }
    assert!(parts(&"/x".repeat(256)).is_ok());
    assert_eq!(parts(&"/x".repeat(257)), Err(400));
    for root in ["hello", "", "%62afkqaaa", "bafkqaaaa"] {
        let asked = read(&format!("{root}?format=raw"), None);
        assert_eq!(
            asked.map(|asked| asked.root.to_string()),
            if root.starts_with('%') { Ok("bafkqaaa".into()) } else { Err(400) }
        );
    }
    assert_eq!(read(&format!("{ROOT}?format=raw&filename={}", "x".repeat(9000)), None), Err(400));
    let worker = headers(&[(HeaderName::from_static("service-worker"), "script")]);
    assert!(Asked::read(&format!("/ipfs/{ROOT}?format=raw").parse().unwrap(), &worker).is_err());
}

#[test]
fn the_place_of_an_answer_says_all_that_the_header_said() {
    for (query, accept, expected) in [
        ("?format=raw", None, None),
        ("?format=raw", Some("*/*"), None),
        ("?format=raw", Some("application/vnd.ipld.raw"), None),
        ("?format=car&car-dups=y", Some("application/vnd.ipld.car;dups=y"), None),
        ("", Some("application/vnd.ipld.raw"), Some("?format=raw")),
        ("?filename=a%20b", Some("application/vnd.ipld.raw"), Some("?format=raw&filename=a%20b")),
        ("?format=raw", Some("application/vnd.ipld.car"), Some("?format=raw")),
        ("?dag-scope=block", Some("application/vnd.ipld.car"), Some("?format=car&dag-scope=block")),
        (
            "?format=car",
            Some("application/vnd.ipld.car;version=1;order=dfs;dups=y"),
            Some("?format=car&car-version=1&car-order=dfs&car-dups=y"),
        ),
        ("?car-dups=y&format=car", Some("application/vnd.ipld.car;dups=n"), Some("?format=car&car-dups=y")),
    ] {
        let location = read(&format!("{ROOT}/a{query}"), accept).unwrap().location;
        assert_eq!(location, expected.map(|query| format!("/ipfs/{ROOT}/a{query}")), "{query} {accept:?}");
    }
}

#[test]
fn ranges_are_understood() {
    use range::Wanted::{All, Nothing, Part};
    for (text, expected) in [
        ("bytes=0-9", Part { first: 0, last: 9 }),
        ("bytes=5-", Part { first: 5, last: 99 }),
        ("bytes=-5", Part { first: 95, last: 99 }),
        ("bytes=-500", Part { first: 0, last: 99 }),
        ("bytes=99-99999999999999999999", Part { first: 99, last: 99 }),
        ("bytes=100-", Nothing),
        ("bytes=-0", Nothing),
        ("bytes=9-5", All),
        ("bytes=0-1,3-4", All),
        ("bytes=", All),
        ("bytes=-", All),
        ("bytes=+1-2", All),
        ("lines=1-2", All),
    ] {
        assert_eq!(range::read(&headers(&[(RANGE, text)]), 100), expected, "{text}");
    }
    assert_eq!(range::read(&HeaderMap::new(), 100), All);
    assert_eq!(range::read(&headers(&[(RANGE, "bytes=0-")]), 0), Nothing);
}

fn answer_to(format: Format, parts: &[&str]) -> Answer {
    let root: cid::Cid = ROOT.parse().unwrap();
    let resolved = Resolved { blocks: Vec::new(), end: Target::of(root), roots: vec![ROOT.to_owned()] };
    let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
    Answer::new(&root, &parts, format, &resolved)
}

fn etag(format: Format, parts: &[&str]) -> String {
    answer_to(format, parts).with(Body::empty()).headers()[ETAG].to_str().unwrap().to_owned()
}

#[test]
fn what_differs_has_another_etag() {
    let car = |scope, repeats| Format::Car { scope, repeats };
    let bytes = |from, to| AskedScope::Entity(Some(AskedBytes { from, to }));
    let etags = [
        etag(Format::Raw, &[]),
        etag(ALL, &[]),
        etag(REPEATS, &[]),
        etag(ALL, &["a"]),
        etag(ALL, &["a", "b"]),
        etag(ALL, &["ab"]),
        etag(car(AskedScope::Block, false), &[]),
        etag(car(AskedScope::Entity(None), false), &[]),
        etag(car(bytes(0, None), false), &[]),
        etag(car(bytes(0, Some(1)), false), &[]),
        etag(car(bytes(-1, None), false), &[]),
    ];
    let distinct = etags.iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(distinct.len(), etags.len(), "{etags:?}");
    assert_eq!(etags[0], format!("\"{ROOT}.raw\""));
    assert!(etags[1..].iter().all(|etag| etag.starts_with("W/\"") && !etag.contains(',')), "{etags:?}");
}

#[test]
fn known_answers_and_ranges_of_them_are_recognised() {
    let answer = answer_to(Format::Raw, &[]);
    let strong = format!("\"{ROOT}.raw\"");
    for (known, expected) in [
        (strong.clone(), true),
        (format!("W/{strong}"), true),
        (format!("\"other\", {strong}"), true),
        ("*".to_owned(), true),
        ("\"other\"".to_owned(), false),
        (ROOT.to_owned(), false),
    ] {
        assert_eq!(answer.is_known_to(&headers(&[(IF_NONE_MATCH, &known)])), expected, "{known}");
    }
    assert!(answer.allows_range(&HeaderMap::new()));
    assert!(answer.allows_range(&headers(&[(IF_RANGE, &strong)])));
    assert!(!answer.allows_range(&headers(&[(IF_RANGE, &format!("W/{strong}"))])));
}

#[test]
fn names_of_files_cannot_break_out_of_their_header() {
    for (filename, expected) in [
        ("foobar.bin", "attachment; filename=\"foobar.bin\""),
        ("a \"b\"\\c", "attachment; filename=\"a _b__c\"; filename*=UTF-8''a%20%22b%22%5Cc"),
        ("testтест.pdf", "attachment; filename=\"test____.pdf\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.pdf"),
        ("a\r\nSet-Cookie: b", "attachment; filename=\"aSet-Cookie: b\""),
    ] {
        let mut answer = answer_to(Format::Raw, &[]);
        answer.describe("/ipfs/x", &[], Some(filename), None);
        assert_eq!(answer.with(Body::empty()).headers()["content-disposition"], expected);
    }
    let mut answer = answer_to(Format::Raw, &[]);
    answer.describe("/ipfs/x", &[], Some(&"ü".repeat(1000)), None);
    let length = answer.with(Body::empty()).headers()["content-disposition"].len();
    assert!(length < 2048, "{length} bytes");
}
