//! A client of few instructions, so that what is measured is the server: HTTP/1.1 over connections that stay open.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pinnace::model::cids::codec;
use pinnace::model::{Block, PinId};

use super::server::Server;

/// Requests before those that are measured.
const WARMING: usize = 20;

#[derive(Debug)]
pub struct Times {
    pub p50: Duration,
    pub p99: Duration,
    /// `count` of the answers.
    pub count: u64,
}

#[derive(Debug)]
pub struct Rate {
    pub per_second: u64,
    pub refused: u64,
    pub p99: Duration,
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, bytes: vec![0; 64 * 1024], filled: 0 }
    }

    /// The status and the body of the answer.
    fn request(&mut self, request: &[u8]) -> (u16, &[u8]) {
        self.stream.write_all(request).unwrap();
        self.filled = 0;
        let (status, start, end) = loop {
            if self.filled == self.bytes.len() {
                self.bytes.resize(self.filled * 2, 0);
            }
            let read = self.stream.read(&mut self.bytes[self.filled..]).unwrap();
            assert!(read > 0, "the server has closed the connection");
            self.filled += read;
            let answer = &self.bytes[..self.filled];
            let Some(start) = memchr::memmem::find(answer, b"\r\n\r\n").map(|at| at + 4) else { continue };
            let head = std::str::from_utf8(&answer[..start]).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let end = start + length.expect("a length").parse::<usize>().unwrap();
            let status = head[9..12].parse().unwrap();
            if end > self.bytes.len() {
                self.bytes.resize(end, 0);
            }
            if self.filled == end {
                break (status, start, end);
            }
        };
        (status, &self.bytes[start..end])
    }
}

fn head(method: &str, path: &str, token: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n")
}

fn at(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of_hundred / 100).min(times.len() - 1)]
}

/// One request after the other.
pub fn time(server: &Server, path: &str, requests: usize) -> Times {
    let request = head("GET", path, &server.token) + "\r\n";
    let mut connection = Connection::open(server);
    let mut times = Vec::new();
    let mut count = 0;
    for number in 0..requests + WARMING {
        let began = Instant::now();
        let (status, body) = connection.request(request.as_bytes());
        let took = began.elapsed();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(body));
        if number == 0 {
            let page: serde_json::Value = serde_json::from_slice(body).unwrap();
            count = page["count"].as_u64().unwrap();
        }
        if number >= WARMING {
            times.push(took);
        }
    }
    Times { p50: at(&mut times, 50), p99: at(&mut times, 99), count }
}

/// As many requests as the connections get answered, each from a thread of its own. `request` writes request `number` of a
/// connection.
fn rate(
    server: &Server,
    connections: usize,
    time: Duration,
    expected: u16,
    request: impl Fn(usize, usize, &mut Vec<u8>) + Sync,
) -> Rate {
    let request = &request;
    let began = Instant::now();
    let outcomes: Vec<(u64, Vec<Duration>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|place| {
                scope.spawn(move || {
                    let mut connection = Connection::open(server);
                    let (mut refused, mut times) = (0, Vec::new());
                    let mut bytes = Vec::new();
                    for number in 0.. {
                        if began.elapsed() >= time {
                            break;
                        }
                        bytes.clear();
                        request(place, number, &mut bytes);
                        let sent = Instant::now();
                        let (status, _) = connection.request(&bytes);
                        times.push(sent.elapsed());
                        refused += u64::from(status != expected);
                    }
                    (refused, times)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let took = began.elapsed();
    let refused: u64 = outcomes.iter().map(|(refused, _)| refused).sum();
    let mut times: Vec<Duration> = outcomes.into_iter().flat_map(|(_, times)| times).collect();
    let per_second = times.len() as u128 * 1000 / took.as_millis();
    Rate { per_second: u64::try_from(per_second).unwrap(), refused, p99: at(&mut times, 99) }
}

/// Pins that are looked at by their ids.
pub fn get(server: &Server, ids: &[PinId], connections: usize, time: Duration) -> Rate {
    rate(server, connections, time, 200, |place, number, bytes| {
        let id = ids[(place * 7919 + number * 104_729) % ids.len()];
        bytes.extend((head("GET", &format!("/api/psa/pins/{id}"), &server.token) + "\r\n").into_bytes());
    })
}

/// Pins that are made, each of other content, under a name of its own, for one of the accounts.
pub fn post(server: &Server, connections: usize, time: Duration) -> Rate {
    let run: u64 = rand::random();
    rate(server, connections, time, 202, |place, number, bytes| {
        let content = format!("{run} {place} {number}");
        let cid = *Block::new_sha256(codec::RAW, content.into_bytes().into()).unwrap().cid();
        let body = format!(r#"{{"cid":"{cid}","name":"upload-{run:x}-{place}-{number}","meta":{{"app":"bench"}}}}"#);
        let token = &server.tokens[place % server.tokens.len()];
        let head = head("POST", "/api/psa/pins", token);
        let length = body.len();
        bytes.extend(
            format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes(),
        );
    })
}
