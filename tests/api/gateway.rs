//! `/ipfs/…`: the trustless gateway, as its clients use it.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use ipld_dagpb::{PbLink, PbNode};
use pinnace::car::{Decoder, Item};
use pinnace::model::Block;
use pinnace::model::cids::codec;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Server;

const RAW: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car";

/// An identity CID that holds nothing, by which clients find out whether there is a gateway.
const PROBE: &str = "bafkqaaa";

fn raw(text: &str) -> Block {
    Block::new_sha256(codec::RAW, text.to_owned().into()).unwrap()
}

fn cbor(value: &impl serde::Serialize) -> Block {
    Block::new_sha256(codec::DAG_CBOR, serde_ipld_dagcbor::to_vec(value).unwrap().into()).unwrap()
}

fn pb(data: Vec<u8>, links: &[(&str, &Block)]) -> Block {
    let links = links.iter().map(|(name, block)| PbLink {
        cid: *block.cid(),
        name: Some((*name).to_owned()),
        size: Some(block.data().len() as u64),
    });
    let node = PbNode { links: links.collect(), data: Some(data.into()) };
    Block::new_sha256(codec::DAG_PB, node.into_bytes().into()).unwrap()
}

/// A directory with a file of three pieces of ten bytes and a node, in the order in which they are walked.
struct Site {
    directory: Block,
    file: Block,
    pieces: [Block; 3],
    node: Block,
}

impl Site {
    fn new() -> Self {
        let pieces = ["0123456789", "abcdefghij", "ABCDEFGHIJ"].map(raw);
        let named: Vec<(&str, &Block)> = pieces.iter().map(|piece| ("", piece)).collect();
        // A file of 30 bytes, in three pieces of ten.
        let file = pb(vec![8, 2, 24, 30, 32, 10, 32, 10, 32, 10], &named);
        let node = cbor(&std::collections::BTreeMap::from([("link", *pieces[0].cid()), ("other", *pieces[1].cid())]));
        let directory = pb(vec![8, 1], &[("file", &file), ("node", &node)]);
        Self { directory, file, pieces, node }
    }

    fn root(&self) -> &Cid {
        self.directory.cid()
    }

    fn blocks(&self) -> Vec<Block> {
        let [a, b, c] = self.pieces.clone();
        vec![self.directory.clone(), self.file.clone(), a, b, c, self.node.clone()]
    }
}

async fn put(server: &Server, blocks: Vec<Block>) {
    server.blocks.writer().submit(blocks).await.unwrap().committed().await.unwrap();
}

async fn serve(site: &Site) -> Server {
    let server = Server::start().await;
    put(&server, site.blocks()).await;
    server
}

fn request(server: &Server, method: Method, path: &str) -> RequestBuilder {
    server.client.request(method, format!("{}/ipfs/{path}", server.url))
}

async fn get(server: &Server, path: &str) -> Response {
    request(server, Method::GET, path).send().await.unwrap()
}

/// The sentence of a refusal, whose shape is checked.
#[track_caller]
fn refused(response: Response, status: u16) -> impl Future<Output = String> {
    assert_eq!(response.status().as_u16(), status, "{response:?}");
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(response.headers()["cache-control"], "no-store");
    async { response.text().await.unwrap() }
}

#[track_caller]
fn has(headers: &HeaderMap, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found = headers.get(*name).map(|value| value.to_str().unwrap());
        assert_eq!(found, Some(*value), "{name} in {headers:?}");
    }
}

/// What a whole CAR file has: its roots and its blocks, each of which matches its CID.
fn decode(file: &[u8]) -> (Vec<Cid>, Vec<Cid>) {
    let (mut roots, mut blocks, mut decoder) = (Vec::new(), Vec::new(), Decoder::new());
    decoder.feed(file);
    while let Some(item) = decoder.next_item().unwrap() {
        match item {
            Item::Roots(found) => roots = found,
            Item::Block(block) => blocks.push(*block.cid()),
        }
    }
    decoder.finish().unwrap();
    (roots, blocks)
}

/// The blocks of a CAR file that is asked for.
async fn car(server: &Server, path: &str) -> Vec<Cid> {
    let response = get(server, path).await;
    assert_eq!(response.status(), 200, "{path}");
    decode(&response.bytes().await.unwrap()).1
}

fn cids(blocks: &[&Block]) -> Vec<Cid> {
    blocks.iter().map(|block| *block.cid()).collect()
}

#[tokio::test]
async fn the_probe_is_answered_without_a_block() {
    let server = Server::start().await;
    for query in ["?format=raw", "?format=raw&filename=x"] {
        let response = get(&server, &format!("{PROBE}{query}")).await;
        assert_eq!(response.status(), 200);
        has(response.headers(), &[("content-type", RAW), ("content-length", "0")]);
        assert_eq!(response.bytes().await.unwrap(), Bytes::new());
        let response = request(&server, Method::HEAD, &format!("{PROBE}{query}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        has(response.headers(), &[("content-type", RAW), ("content-length", "0")]);
    }
    let response = get(&server, &format!("{PROBE}?format=car")).await;
    assert_eq!(response.status(), 200);
    let (roots, blocks) = decode(&response.bytes().await.unwrap());
    assert_eq!((roots, blocks), (vec![PROBE.parse().unwrap()], Vec::new()));
    let hello = get(&server, "bafkqabtimvwgy3yk?format=raw").await;
    assert_eq!(hello.text().await.unwrap(), "hello\n");
}

#[tokio::test]
async fn a_block_comes_as_it_is_with_all_that_caches_and_browsers_need() {
    let site = Site::new();
    let server = serve(&site).await;
    let cid = site.file.cid();
    let response = request(&server, Method::GET, &cid.to_string()).header("accept", RAW).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let length = site.file.data().len().to_string();
    let expected = [
        ("content-type", RAW),
        ("content-length", &length),
        ("content-disposition", &format!("attachment; filename=\"{cid}.bin\"")),
        ("content-location", &format!("/ipfs/{cid}?format=raw")),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "public, max-age=29030400, immutable"),
        ("etag", &format!("\"{cid}.raw\"")),
        ("accept-ranges", "bytes"),
        ("x-ipfs-path", &format!("/ipfs/{cid}")),
        ("x-ipfs-roots", &cid.to_string()),
    ];
    has(response.headers(), &expected);
    assert!(response.headers().get_all("vary").iter().any(|vary| vary == "accept"), "{response:?}");
    assert_eq!(response.bytes().await.unwrap(), site.file.data());

    let path = format!("{}/node/link", site.root());
    let response = get(&server, &format!("{path}/?format=raw&filename=a%20b.bin")).await;
    let roots = [&site.directory, &site.node, &site.pieces[0]].map(|block| block.cid().to_string()).join(",");
    let expected = [
        ("content-disposition", "attachment; filename=\"a b.bin\""),
        ("x-ipfs-path", &format!("/ipfs/{path}/")),
        ("x-ipfs-roots", &roots),
        ("etag", &format!("\"{}.raw\"", site.pieces[0].cid())),
    ];
    has(response.headers(), &expected);
    assert!(!response.headers().contains_key("content-location"));
    assert_eq!(response.text().await.unwrap(), "0123456789");
}

#[tokio::test]
async fn heads_have_the_headers_alone() {
    let site = Site::new();
    let server = serve(&site).await;
    let head = async |path: String| request(&server, Method::HEAD, &path).send().await.unwrap();
    let response = head(format!("{}?format=raw", site.file.cid())).await;
    assert_eq!(response.status(), 200);
    let length = site.file.data().len().to_string();
    has(response.headers(), &[("content-length", &length), ("etag", &format!("\"{}.raw\"", site.file.cid()))]);
    assert_eq!(response.bytes().await.unwrap(), Bytes::new());
    let response = head(format!("{}/file?format=car", site.root())).await;
    assert_eq!(response.status(), 200);
    has(response.headers(), &[("content-type", "application/vnd.ipld.car; version=1; order=dfs; dups=n")]);
    assert!(!response.headers().contains_key("content-length"), "nobody knows how long it would be");
    for path in [format!("{}/none?format=car", site.root()), format!("{}?format=raw", raw("not here").cid())] {
        assert_eq!(head(path).await.status(), 404);
    }
    let response =
        request(&server, Method::HEAD, &format!("{}?format=raw", site.file.cid())).header("range", "bytes=1-2");
    assert_eq!(response.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn parts_of_a_block_are_sent() {
    let site = Site::new();
    let server = serve(&site).await;
    let path = format!("{}?format=raw", site.pieces[0].cid());
    let ranged = async |range: &str| request(&server, Method::GET, &path).header("range", range).send().await.unwrap();
    for (range, content_range, part) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
        ("bytes=9-99", "bytes 9-9/10", "9"),
    ] {
        let response = ranged(range).await;
        assert_eq!(response.status(), 206, "{range}");
        let length = part.len().to_string();
        has(
            response.headers(),
            &[("content-range", content_range), ("content-length", &length), ("content-type", RAW)],
        );
        assert_eq!(response.text().await.unwrap(), part, "{range}");
    }
    for range in ["bytes=0-1,3-4", "bytes=4-2", "nonsense"] {
        let response = ranged(range).await;
        assert_eq!(response.status(), 200, "{range}");
        assert_eq!(response.text().await.unwrap(), "0123456789");
    }
    let response = ranged("bytes=10-").await;
    has(response.headers(), &[("content-range", "bytes */10")]);
    refused(response, 416).await;
    let stale = request(&server, Method::GET, &path).header("range", "bytes=2-4").header("if-range", "\"older\"");
    assert_eq!(stale.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_car_file_says_how_it_is_made() {
    let site = Site::new();
    let server = serve(&site).await;
    let root = site.root();
    let response = get(&server, &format!("{root}/file?format=car")).await;
    assert_eq!(response.status(), 200);
    let expected = [
        ("content-type", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
        ("content-disposition", &format!("attachment; filename=\"{root}.car\"")),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "public, max-age=29030400, immutable"),
        ("accept-ranges", "none"),
        ("x-ipfs-path", &format!("/ipfs/{root}/file")),
        ("x-ipfs-roots", &format!("{root},{}", site.file.cid())),
    ];
    has(response.headers(), &expected);
    assert!(response.headers()["etag"].to_str().unwrap().starts_with("W/\"all"), "{response:?}");
    assert!(!response.headers().contains_key("content-length"));
    let (roots, blocks) = decode(&response.bytes().await.unwrap());
    let [a, b, c] = &site.pieces;
    assert_eq!((roots, blocks), (vec![*root], cids(&[&site.directory, &site.file, a, b, c])));
}

#[tokio::test]
async fn repeats_are_asked_for_in_the_query_or_in_the_header() {
    let site = Site::new();
    let server = serve(&site).await;
    let root = site.root();
    let [a, b, c] = &site.pieces;
    let once = cids(&[&site.directory, &site.file, a, b, c, &site.node]);
    let repeated = [once.clone(), cids(&[a, b])].concat();
    for (query, accept, dups, expected) in [
        ("", "application/vnd.ipld.car; version=1; order=dfs; dups=y", "y", &repeated),
        ("", "application/vnd.ipld.car; version=1; order=dfs; dups=n", "n", &once),
        ("", CAR, "n", &once),
        ("", "application/vnd.ipld.car; order=unk", "n", &once),
        ("?format=car&car-version=1&car-order=dfs&car-dups=y", "*/*", "y", &repeated),
        ("?format=car&car-dups=n", "application/vnd.ipld.car; dups=y", "n", &once),
        ("?format=car", "application/vnd.ipld.car; dups=y", "y", &repeated),
        ("?format=car", RAW, "n", &once),
    ] {
        let request = request(&server, Method::GET, &format!("{root}{query}")).header("accept", accept);
        let response = request.send().await.unwrap();
        let content_type = format!("application/vnd.ipld.car; version=1; order=dfs; dups={dups}");
        has(response.headers(), &[("content-type", &content_type)]);
        let (_, blocks) = decode(&response.bytes().await.unwrap());
        assert_eq!(&blocks, expected, "{query} {accept}");
    }
}

#[tokio::test]
async fn scopes_choose_the_blocks() {
    let site = Site::new();
    let server = serve(&site).await;
    let root = site.root();
    let Site { directory, file, pieces: [a, b, c], node } = &site;
    for (path, expected) in [
        ("?dag-scope=block", cids(&[directory])),
        ("?dag-scope=entity", cids(&[directory])),
        ("?dag-scope=all", cids(&[directory, file, a, b, c, node])),
        ("/file?dag-scope=block", cids(&[directory, file])),
        ("/file?dag-scope=entity", cids(&[directory, file, a, b, c])),
        ("/node?dag-scope=entity", cids(&[directory, node])),
        ("/node/other?dag-scope=all", cids(&[directory, node, b])),
        ("/file?entity-bytes=0:9", cids(&[directory, file, a])),
        ("/file?entity-bytes=9:10", cids(&[directory, file, a, b])),
        ("/file?entity-bytes=15:*", cids(&[directory, file, b, c])),
        ("/file?entity-bytes=-1:*", cids(&[directory, file, c])),
        ("/file?entity-bytes=-99:-21", cids(&[directory, file, a])),
        ("/file?entity-bytes=10:-11", cids(&[directory, file, b])),
        ("/file?entity-bytes=25:-11", cids(&[directory, file])),
        ("/file?entity-bytes=0:*&dag-scope=entity", cids(&[directory, file, a, b, c])),
        ("?entity-bytes=0:5", cids(&[directory])),
        ("/node?entity-bytes=100:*", cids(&[directory, node])),
    ] {
        assert_eq!(car(&server, &format!("{root}{path}&format=car")).await, expected, "{path}");
    }
    let response = get(&server, &format!("{root}/file?format=car&entity-bytes=30:*")).await;
    assert!(refused(response, 400).await.contains("30 bytes"));
}

#[tokio::test]
async fn what_is_not_held_is_not_there() {
    let site = Site::new();
    let server = serve(&site).await;
    let absent = raw("not here");
    for query in ["format=raw", "format=car"] {
        let sentence = refused(get(&server, &format!("{}?{query}", absent.cid())).await, 404).await;
        assert!(sentence.contains(&absent.cid().to_string()), "{sentence}");
        let sentence = refused(get(&server, &format!("{}/file/none?{query}", site.root())).await, 404).await;
        assert!(sentence.contains("none"), "{sentence}");
        let cached = request(&server, Method::GET, &format!("{}?{query}", absent.cid()));
        let cached = cached.header("cache-control", "max-age=1, only-if-cached").send().await.unwrap();
        let sentence = refused(cached, 412).await;
        assert!(sentence.contains(&absent.cid().to_string()), "{sentence}");
        // Under a CID of another codec, the same bytes are there; what they link to can't be told.
        let git = Cid::new_v1(0x78, *site.file.cid().hash());
        let status = if query == "format=raw" { 200 } else { 400 };
        assert_eq!(get(&server, &format!("{git}?{query}")).await.status(), status, "{query}");
    }
    let cached = request(&server, Method::GET, &format!("{}?format=raw", site.file.cid()));
    assert_eq!(cached.header("cache-control", "only-if-cached").send().await.unwrap().status(), 200);
    let value = cbor(&std::collections::BTreeMap::from([("number", 1)]));
    put(&server, vec![value.clone()]).await;
    refused(get(&server, &format!("{}/number?format=car", value.cid())).await, 501).await;
}

#[tokio::test]
async fn requests_that_cannot_be_answered_are_told_what_to_ask_for() {
    let site = Site::new();
    let server = serve(&site).await;
    let root = site.root();
    for accept in ["*/*", "text/html", "application/vnd.ipld.dag-json"] {
        let response = request(&server, Method::GET, &root.to_string()).header("accept", accept).send().await.unwrap();
        assert!(refused(response, 406).await.contains("?format=raw"), "{accept}");
    }
    refused(get(&server, &format!("{root}?format=tar")).await, 406).await;
    for query in ["format=car&dag-scope=some", "format=car&entity-bytes=1", "format=car&car-version=2"] {
        refused(get(&server, &format!("{root}?{query}")).await, 400).await;
    }
    assert!(refused(get(&server, "hello?format=raw").await, 400).await.contains("hello"));
    // Every HTTP library sends an `Accept`.
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let bare = format!("GET /ipfs/{root} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(bare.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("?format=raw"), "{answer}");
    let response = request(&server, Method::POST, &format!("{root}?format=raw")).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert!(response.headers()["allow"].to_str().unwrap().contains("GET"), "{response:?}");
}

#[tokio::test]
async fn an_answer_that_is_known_is_not_sent_again() {
    let site = Site::new();
    let server = serve(&site).await;
    for query in ["format=raw", "format=car", "format=car&dag-scope=entity&entity-bytes=0:5", "format=car&car-dups=y"] {
        let path = format!("{}/file?{query}", site.root());
        let etag = get(&server, &path).await.headers()["etag"].clone();
        let again = request(&server, Method::GET, &path).header("if-none-match", &etag).send().await.unwrap();
        assert_eq!(again.status(), 304, "{query}");
        assert_eq!(again.headers()["etag"], etag);
        has(again.headers(), &[("cache-control", "public, max-age=29030400, immutable")]);
        assert_eq!(again.bytes().await.unwrap(), Bytes::new());
        let other = request(&server, Method::GET, &path).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.status(), 200, "{query}");
    }
}

#[tokio::test]
async fn a_missing_block_breaks_an_answer_off() {
    let site = Site::new();
    let server = Server::start().await;
    let missing = site.pieces[1].cid();
    put(&server, site.blocks().into_iter().filter(|block| block.cid() != missing).collect()).await;
    let path = format!("{}/file?format=car", site.root());
    let response = get(&server, &path).await;
    assert_eq!(response.status(), 200);
    response.bytes().await.expect_err("half a file must not look whole");
    // What doesn't need it is whole.
    let Site { directory, file, pieces: [a, ..], .. } = &site;
    assert_eq!(car(&server, &format!("{path}&entity-bytes=0:9")).await, cids(&[directory, file, a]));
    assert_eq!(car(&server, &format!("{path}&dag-scope=block")).await, cids(&[directory, file]));
    refused(get(&server, &format!("{missing}?format=car")).await, 404).await;
}

#[tokio::test]
async fn pages_from_everywhere_may_read() {
    let site = Site::new();
    let server = serve(&site).await;
    let path = format!("{}?format=raw", site.root());
    let preflight = request(&server, Method::OPTIONS, &path)
        .header("origin", "https://example.org")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "range,cache-control,x-requested-with");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    has(answer.headers(), &[("access-control-allow-origin", "*")]);
    let methods = answer.headers()["access-control-allow-methods"].to_str().unwrap().to_owned();
    assert!(methods.contains("HEAD") && !methods.contains("DELETE"), "{methods}");
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    for header in ["accept", "range", "cache-control", "if-none-match", "user-agent", "x-requested-with"] {
        assert!(allowed.contains(header), "{header} in {allowed}");
    }
    for path in [&path, &format!("{}?format=raw", raw("not here").cid())] {
        let answer = request(&server, Method::GET, path).header("origin", "https://example.org").send().await.unwrap();
        has(answer.headers(), &[("access-control-allow-origin", "*")]);
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
        for header in ["content-length", "content-range", "content-location", "etag", "x-ipfs-path", "x-ipfs-roots"] {
            assert!(exposed.contains(header), "{header} in {exposed}");
        }
    }
}

/// A node with more ways through it than anyone can go, below a root that links to it once more each level.
fn bomb() -> Vec<Block> {
    let mut blocks = vec![raw(&"x".repeat(100_000))];
    for _ in 0..60 {
        let below = *blocks.last().unwrap().cid();
        blocks.push(cbor(&vec![below; 100]));
    }
    blocks
}

#[tokio::test]
async fn answers_that_are_on_their_way_are_bounded_in_number() {
    let server = Server::start().await;
    let blocks = bomb();
    let root = *blocks.last().unwrap().cid();
    put(&server, blocks).await;
    assert_eq!(car(&server, &format!("{root}?format=car")).await.len(), 61);
    // None of these ever ends.
    let mut endless = Vec::new();
    for _ in 0..64 {
        let response = get(&server, &format!("{root}?format=car&car-dups=y")).await;
        assert_eq!(response.status(), 200);
        endless.push(response);
    }
    let busy = get(&server, &format!("{PROBE}?format=raw")).await;
    has(busy.headers(), &[("retry-after", "1")]);
    refused(busy, 503).await;
    // Nothing else is held up.
    server.get("/healthz").await.ok(200);
    let mut body = endless.pop().unwrap().bytes_stream();
    let mut bytes = 0;
    while bytes < 20_000_000 {
        bytes += body.next().await.unwrap().unwrap().len();
    }
    drop(body);
    // The server notices that the client has gone when it next writes.
    let free = async { while get(&server, &format!("{PROBE}?format=raw")).await.status() != 200 {} };
    tokio::time::timeout(Duration::from_secs(30), free)
        .await
        .expect("the slot of a client that has gone is free again");
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let server = Server::start_without_gateway().await;
    let response = server.send(request(&server, Method::GET, &format!("{PROBE}?format=raw"))).await;
    response.error(404, "NOT_FOUND");
}
