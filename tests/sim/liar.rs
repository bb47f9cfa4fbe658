//! Nodes that break the rules: what each kind does with what it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use multihash_codetable::{Code, MultihashDigest};
use pinnace::bitswap::wire::{Incoming, Outgoing, Presence, WantEntry, WantKind};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::dags::Key;
use crate::scenario::Lie;

/// Bytes that one liar sends at most: enough to do harm, and few enough for a simulation to end.
const BYTES_MAX: usize = 3 * 1024 * 1024;

/// Blocks in one answer.
const BLOCKS_PER_ANSWER: usize = 8;

/// What a liar sends.
#[derive(Debug)]
pub enum Payload {
    /// A message.
    Message(Outgoing),
    /// Bytes in the place of one, without the length before them.
    Bytes(Vec<u8>),
}

/// A liar.
pub struct Liar {
    lie: Lie,
    /// Every block of every DAG.
    blocks: BTreeMap<Key, Bytes>,
    sent_bytes: usize,
    answered: usize,
    greeted: bool,
}

impl Liar {
    /// A liar that has these blocks.
    pub fn new(lie: Lie, blocks: BTreeMap<Key, Bytes>) -> Self {
        Self { lie, blocks, sent_bytes: 0, answered: 0, greeted: false }
    }

    /// Whether it ever reads.
    pub fn reads(&self) -> bool {
        self.lie != Lie::StopsReading
    }

    /// What it does to a peer that has connected.
    pub fn greet(&mut self, random: &mut StdRng) -> Vec<(Duration, Payload)> {
        if self.lie != Lie::Greedy || std::mem::replace(&mut self.greeted, true) {
            return Vec::new();
        }
        let entry = |cid| WantEntry { cid, priority: 1, cancel: false, kind: WantKind::Block, send_dont_have: true };
        let mut flood = |blocks: usize| {
            let mut wants: Vec<WantEntry> = self.blocks.keys().map(|key| entry(Cid::new_v1(0x55, *key))).collect();
            for _ in 0..blocks {
                let mut junk = [0; 16];
                random.fill_bytes(&mut junk);
                wants.push(entry(Cid::new_v1(0x55, Code::Sha2_256.digest(&junk))));
            }
            Payload::Message(Outgoing { wants, ..Outgoing::default() })
        };
        vec![(Duration::ZERO, flood(1500)), (Duration::from_secs(1), flood(10)), (Duration::from_secs(2), flood(3000))]
    }

    /// What it answers, and after how long.
    pub fn answer(&mut self, message: &Incoming, random: &mut StdRng) -> Vec<(Duration, Payload)> {
        let wants: Vec<&WantEntry> = message.wants.iter().filter(|want| !want.cancel).collect();
        if wants.is_empty() || self.sent_bytes > BYTES_MAX {
            return Vec::new();
        }
        let presences = |presence| {
            let presences = wants.iter().map(|want| (want.cid, presence)).collect();
            Payload::Message(Outgoing { presences, ..Outgoing::default() })
        };
        let soon = Duration::from_millis(random.random_range(0..50));
        let later = Duration::from_millis(random.random_range(500..8000));
        let mut answers = match self.lie {
            Lie::StopsReading | Lie::Silent | Lie::Greedy => Vec::new(),
            Lie::PromisesOnly => vec![(soon, presences(Presence::Have))],
            Lie::DeniesThenSends => {
                let mut answers = vec![(soon, presences(Presence::DontHave))];
                answers.extend(self.messages(&wants, later));
                answers
            }
            Lie::Contradicts => {
                let all = [Presence::Have, Presence::DontHave, Presence::Have, Presence::DontHave];
                all.into_iter().zip(1..).map(|(presence, turn)| (soon * turn, presences(presence))).collect()
            }
            Lie::Repeats => [soon, soon, later].into_iter().flat_map(|delay| self.messages(&wants, delay)).collect(),
            Lie::WrongBytes => {
                let mut answers = self.messages(&wants, soon);
                for (_, payload) in &mut answers {
                    let Payload::Message(message) = payload else { continue };
                    for (_, data) in &mut message.blocks {
                        let mut wrong = data.to_vec();
                        match wrong.first_mut() {
                            Some(byte) => *byte ^= 1,
                            None => wrong.push(0),
                        }
                        *data = wrong.into();
                    }
                }
                answers
            }
            Lie::Unwanted => {
                let keys: Vec<&Key> = self.blocks.keys().collect();
                let picks = (0..BLOCKS_PER_ANSWER.min(keys.len())).map(|_| *keys[random.random_range(0..keys.len())]);
                let blocks = picks.map(|key| (Cid::new_v1(0x55, key), self.blocks[&key].clone()));
                let others = blocks.filter(|(cid, _)| wants.iter().all(|want| want.cid.hash() != cid.hash()));
                vec![(soon, Payload::Message(Outgoing { blocks: others.collect(), ..Outgoing::default() }))]
            }
            Lie::Garbage => {
                let mut junk = vec![0; random.random_range(0..2000)];
                random.fill_bytes(&mut junk);
                let mut answers = vec![(soon, Payload::Bytes(junk))];
                answers.extend(self.messages(&wants, soon));
                answers
            }
            Lie::FallsSilent => {
                self.answered += 1;
                if self.answered > 5 { Vec::new() } else { self.messages(&wants, soon) }
            }
        };
        answers.truncate(200);
        for (_, payload) in &answers {
            self.sent_bytes += match payload {
                Payload::Message(message) => message.blocks.iter().map(|(_, data)| data.len() + 50).sum(),
                Payload::Bytes(bytes) => bytes.len(),
            };
        }
        answers
    }

    /// The blocks that are wanted, a few in each message.
    fn messages(&self, wants: &[&WantEntry], delay: Duration) -> Vec<(Duration, Payload)> {
        let found: Vec<(Cid, Bytes)> =
            wants.iter().filter_map(|want| Some((want.cid, self.blocks.get(want.cid.hash())?.clone()))).collect();
        let message = |blocks: &[(Cid, Bytes)]| Outgoing { blocks: blocks.to_vec(), ..Outgoing::default() };
        // One block alone may already be half of what a message can hold.
        let per_message = if found.iter().any(|(_, data)| data.len() > 100_000) { 1 } else { BLOCKS_PER_ANSWER };
        found.chunks(per_message).map(|blocks| (delay, Payload::Message(message(blocks)))).collect()
    }
}
