//! Tests of the shares and of reading negotiations.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::negotiated::Lines;
use super::shares::Shares;
use super::{Bandwidth, Talk};

/// Counts how often it was woken.
#[derive(Debug, Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that always has something to transfer.
struct Greedy {
    peer: PeerId,
    number: u64,
    bell: Arc<Bell>,
    transferred: u64,
}

struct Scene {
    shares: Shares,
    now: Instant,
    started: Instant,
    streams: Vec<Greedy>,
}

impl Scene {
    fn new(rate: u64) -> Self {
        let now = Instant::now();
        Self { shares: Shares::new(rate, now), now, started: now, streams: Vec::new() }
    }

    /// A peer with so many streams that want all they can get.
    fn peer(&mut self, streams: usize) -> PeerId {
        let peer = PeerId::random();
        self.shares.join(peer);
        for _ in 0..streams {
            let number = self.streams.len() as u64;
            self.streams.push(Greedy { peer, number, bell: Arc::default(), transferred: 0 });
        }
        peer
    }

    fn may(&mut self, peer: PeerId, number: u64, bell: &Arc<Bell>) -> bool {
        self.shares.may_transfer(peer, number, &Waker::from(Arc::clone(bell)), self.now)
    }

    /// Each stream transfers while it may, as if all had been woken.
    fn transfer(&mut self) {
        for index in 0..self.streams.len() {
            let Greedy { peer, number, ref bell, .. } = self.streams[index];
            let bell = Arc::clone(bell);
            while self.may(peer, number, &bell) {
                let bytes = self.shares.quantum() as u64;
                self.shares.transferred(peer, number, bytes);
                self.streams[index].transferred += bytes;
            }
        }
    }

    /// Goes on for so long, paying when the shares want it.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.transfer();
        while let Some(wait) = self.shares.next_pay_in()
            && self.now + wait <= end
        {
            self.now += wait;
            self.shares.pay(self.now).into_iter().for_each(Waker::wake);
            self.transfer();
        }
        self.now = end;
    }

    fn of(&self, peer: PeerId) -> u64 {
        self.streams.iter().filter(|stream| stream.peer == peer).map(|stream| stream.transferred).sum()
    }

    fn total(&self) -> u64 {
        self.streams.iter().map(|stream| stream.transferred).sum()
    }

    /// What may have been transferred by now at most: what was saved, the rate, and what each stream may owe.
    fn bound(&self, rate: u64) -> u64 {
        let time = u64::try_from((self.now - self.started).as_millis()).unwrap();
        let quantum = self.shares.quantum() as u64;
        (rate / 20).max(2 * quantum) + rate * time / 1000 + self.streams.len() as u64 * quantum
    }
}

#[test]
fn the_rate_is_kept_and_used_up() {
    for rate in [64 * 1024, 1_000_000, 50_000_000, 10_000_000_000] {
        let mut scene = Scene::new(rate);
        for streams in [1, 3, 1] {
            scene.peer(streams);
        }
        scene.run(Duration::from_secs(10));
        let total = scene.total();
        assert!(total <= scene.bound(rate), "{total} in 10 s at {rate}");
        // What wasn't used in a millisecond may be lost at rates where that is more than what is saved.
        assert!(total >= 10 * rate * 9 / 10, "{total} in 10 s at {rate}");
    }
}

#[test]
fn peers_get_the_same_however_many_streams_they_have() {
    let mut scene = Scene::new(1_000_000);
    let (one, many, other) = (scene.peer(1), scene.peer(50), scene.peer(2));
    scene.run(Duration::from_secs(60));
    let shares = [one, many, other].map(|peer| scene.of(peer));
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    // At the end some may have transferred what they haven't paid yet: a quantum for each stream.
    assert!(most - least <= 51 * scene.shares.quantum() as u64, "{shares:?}");
}

#[test]
fn all_streams_of_a_peer_get_on() {
    let mut scene = Scene::new(1_000_000);
    scene.peer(20);
    scene.peer(1);
    // The first streams had what was saved up.
    scene.run(Duration::from_secs(1));
    let before: Vec<u64> = scene.streams[..20].iter().map(|stream| stream.transferred).collect();
    scene.run(Duration::from_secs(10));
    let of: Vec<u64> = scene.streams.iter().zip(before).map(|(stream, before)| stream.transferred - before).collect();
    let (least, most) = (of.iter().min().unwrap(), of.iter().max().unwrap());
    assert!(most - least <= 2 * scene.shares.quantum() as u64, "{of:?}");
}

#[test]
fn who_rested_goes_before_those_that_always_wait() {
    let rate = 1_000_000;
    let mut scene = Scene::new(rate);
    for _ in 0..200 {
        scene.peer(1);
    }
    let asker = scene.peer(0);
    scene.run(Duration::from_secs(30));
    // It says something longer than a quantum, in two goes.
    let (number, bell) = (u64::MAX, Arc::<Bell>::default());
    assert!(scene.may(asker, number, &bell), "owes nothing");
    let quantum = scene.shares.quantum() as u64;
    scene.shares.transferred(asker, number, quantum);
    let asked_at = scene.now;
    assert!(!scene.may(asker, number, &bell));
    while bell.0.load(Ordering::Relaxed) == 0 {
        scene.now += scene.shares.next_pay_in().unwrap();
        scene.shares.pay(scene.now).into_iter().for_each(Waker::wake);
        scene.transfer();
    }
    let waited = (scene.now - asked_at).as_secs_f64();
    // All others' turns would have taken 200 quanta.
    assert!(waited <= 4.0 * quantum as f64 / rate as f64, "{waited} s");
    assert!(scene.may(asker, number, &bell));
}

#[test]
fn within_the_rate_nobody_waits() {
    let mut scene = Scene::new(1_000_000);
    let (peer, bell) = (scene.peer(0), Arc::<Bell>::default());
    for number in 0..1000 {
        assert!(scene.may(peer, number, &bell));
        scene.shares.transferred(peer, number, 9_000);
        scene.shares.forget(peer, number);
        scene.now += Duration::from_millis(10);
    }
    assert_eq!(scene.shares.next_pay_in(), None);
}

#[test]
fn neither_new_streams_nor_coming_back_gets_around_the_rate() {
    let rate = 1_000_000;
    for comes_back in [false, true] {
        let mut scene = Scene::new(rate);
        let mut peer = scene.peer(0);
        let (bell, mut bytes) = (Arc::<Bell>::default(), 0);
        let quantum = scene.shares.quantum() as u64;
        let mut number = 0;
        while scene.now - scene.started < Duration::from_secs(5) {
            for _ in 0..10 {
                number += 1;
                if scene.may(peer, number, &bell) {
                    scene.shares.transferred(peer, number, quantum);
                    bytes += quantum;
                }
                scene.shares.forget(peer, number);
            }
            if comes_back {
                scene.shares.leave(peer);
                peer = scene.peer(0);
            }
            scene.now += Duration::from_millis(100);
            scene.shares.pay(scene.now);
        }
        // Who comes back has one go before the debt shows, each time; here it comes ten times a second.
        let goes = if comes_back { 50 } else { 1 };
        assert!(bytes <= scene.bound(rate) + goes * quantum, "{bytes} bytes in 5 s at {rate}");
    }
}

/// Peers and streams come, go, give up and transfer as they like.
#[test]
fn whatever_happens_the_rate_is_kept_and_nobody_is_forgotten() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rate = random.random_range(64 * 1024..20_000_000);
    let now = Instant::now();
    let mut shares = Shares::new(rate, now);
    let (mut at, mut total, mut departures) = (now, 0, 0);
    let mut peers: HashMap<PeerId, Vec<(u64, Arc<Bell>, bool)>> = HashMap::new();
    let mut number = 0;
    for _ in 0..20_000 {
        let chosen = peers.keys().nth(random.random_range(0..peers.len().max(1))).copied();
        match (random.random_range(0..100), chosen) {
            (0..2, _) | (_, None) if peers.len() < 30 => {
                let peer = PeerId::random();
                shares.join(peer);
                peers.insert(peer, Vec::new());
            }
            (2..3, Some(peer)) => {
                shares.leave(peer);
                peers.remove(&peer);
                departures += 1;
            }
            (3..10, Some(peer)) => {
                number += 1;
                peers.get_mut(&peer).unwrap().push((number, Arc::default(), false));
            }
            (10..13, Some(peer)) => {
                if let Some((gone, ..)) = peers.get_mut(&peer).unwrap().pop() {
                    shares.forget(peer, gone);
                }
            }
            (13..80, Some(peer)) => {
                let streams = peers.get_mut(&peer).unwrap();
                let Some(index) = (!streams.is_empty()).then(|| random.random_range(0..streams.len())) else {
                    continue;
                };
                let (stream, bell, waits) = &mut streams[index];
                *waits = !shares.may_transfer(peer, *stream, &Waker::from(Arc::clone(bell)), at);
                if !*waits {
                    let bytes = random.random_range(0..=shares.quantum() as u64);
                    shares.transferred(peer, *stream, bytes);
                    total += bytes;
                }
            }
            _ => {
                at += Duration::from_micros(random.random_range(0..5_000));
                shares.pay(at).into_iter().for_each(Waker::wake);
            }
        }
    }
    let time = (at - now).as_secs_f64();
    let owed = (number + departures + 1) * shares.quantum() as u64;
    let bound = (rate / 20).max(2 * shares.quantum() as u64) as f64 + time * rate as f64 + owed as f64;
    assert!(total as f64 <= bound, "{total} in {time} s at {rate}, seed {seed}");
    while let Some(wait) = shares.next_pay_in() {
        at += wait;
        shares.pay(at).into_iter().for_each(Waker::wake);
    }
    let waiting = peers.values().flatten().filter(|(.., waits)| *waits);
    for (stream, bell, _) in waiting {
        assert!(bell.0.load(Ordering::Relaxed) > 0, "stream {stream} was never woken, seed {seed}");
    }
}

fn line(text: &str) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let mut bytes = unsigned_varint::encode::usize(text.len() + 1, &mut buffer).to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

#[test]
fn what_a_stream_is_for_is_read_from_the_answers() {
    let header = line("/multistream/1.0.0");
    let cases = [
        (vec![header.clone(), line("/ipfs/bitswap/1.2.0")], Some(Talk::Bitswap)),
        (vec![header.clone(), line("na"), line("na"), line("/ipfs/kad/1.0.0")], Some(Talk::Dht)),
        (vec![header.clone(), line("/ipfs/id/push/1.0.0"), b"more".to_vec()], Some(Talk::Identify)),
        (vec![line("/libp2p/circuit/relay/0.2.0/hop")], Some(Talk::Relay)),
        (vec![header.clone(), line("/libp2p/autonat/2/dial-back")], Some(Talk::Autonat)),
        (vec![header.clone(), line("/x/unheard-of")], Some(Talk::Other)),
        (vec![header.clone(), line(&"/long".repeat(100))], Some(Talk::Other)),
        (vec![vec![0xff; 40]], Some(Talk::Other)),
        (vec![header.clone()], None),
        (vec![header.clone(), line("/ipfs/ping/1.0.0")[..8].to_vec()], None),
        (vec![header, vec![line("na"); 40].concat()], Some(Talk::Other)),
    ];
    for (parts, expected) in cases {
        let bytes = parts.concat();
        assert_eq!(Lines::default().feed(&bytes), expected, "{}", bytes.escape_ascii());
        let mut lines = Lines::default();
        let one_by_one = bytes.iter().find_map(|byte| lines.feed(&[*byte]));
        assert_eq!(one_by_one, expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_peers_use_is_counted_over_all_their_connections() {
    let bandwidth = Bandwidth::unbounded();
    let peer = PeerId::random();
    let (first, second) = (bandwidth.begin(peer), bandwidth.begin(peer));
    first.fetch_add(2, Ordering::Relaxed);
    second.fetch_add(3, Ordering::Relaxed);
    assert_eq!(bandwidth.used(), [(peer, 5)]);
    bandwidth.end(&peer);
    assert_eq!(bandwidth.used(), [(peer, 5)], "it has another connection");
    bandwidth.end(&peer);
    assert_eq!(bandwidth.used(), []);
    // What only keeps a connection isn't use.
    let is_use = |name: &[u8]| Talk::of(name).is_use();
    assert!(is_use(b"/ipfs/kad/1.0.0\n") && is_use(b"/ipfs/bitswap/1.2.0\n") && is_use(b"/x\n"));
    assert!(!is_use(b"/ipfs/ping/1.0.0\n") && !is_use(b"/ipfs/id/push/1.0.0\n") && !Talk::Negotiation.is_use());
}
