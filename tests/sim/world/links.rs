//! The links of a run: one message at a time is written on each way, arrives later, or is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pinnace::bitswap::wire::{self, Outgoing};
use pinnace::model::limits::{MESSAGE_BYTES_MAX, OUTBOUND_STALL_MAX};
use rand::RngExt;

use super::{Actor, Event, World};
use crate::liar::Payload;
use crate::node::Lane;
use crate::scenario::LinkPlan;

/// What a peer's buffers take though it doesn't read.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// How often a reader is told that a part of a message came, as by `net::handler`.
const PART_PERIOD: Duration = Duration::from_millis(500);

/// Writes in a row that fail before a peer counts as one that doesn't speak Bitswap.
const WRITE_FAILURES_MAX: u32 = 3;

/// One direction of a link; way 0 leads away from its first end.
#[derive(Default)]
pub(super) struct Way {
    pub(super) wants: VecDeque<Outgoing>,
    pub(super) presences: VecDeque<Outgoing>,
    pub(super) blocks: VecDeque<Payload>,
    pub(super) writing: Option<Lane>,
    pub(super) last_arrival: Option<Instant>,
    pub(super) unread_bytes: usize,
    pub(super) failures: u32,
}

/// A link.
pub(super) struct Link {
    pub(super) plan: LinkPlan,
    pub(super) up: bool,
    /// Changes whenever what is on its way is lost.
    pub(super) epoch: u32,
    pub(super) down_until: Instant,
    pub(super) paused_until: Instant,
    pub(super) ways: [Way; 2],
}

impl World<'_> {
    pub(super) fn connect(&mut self, index: usize) {
        let link = &mut self.links[index];
        let running = link.plan.ends.iter().all(|end| self.seats[*end].running);
        let given_up = link.ways.iter().any(|way| way.failures >= WRITE_FAILURES_MAX);
        if link.up || !running || given_up || link.down_until > self.now {
            return;
        }
        link.up = true;
        link.epoch += 1;
        link.ways = [Way::default(), Way::default()];
        let (epoch, ends) = (link.epoch, link.plan.ends);
        self.say(|| format!("link {index} of {ends:?} is up"));
        for end in ends {
            match &mut self.seats[end].actor {
                Actor::Honest(node) => {
                    node.connected(index);
                    self.carry_out(end);
                }
                Actor::Liar(liar) => {
                    let way = usize::from(ends[0] != end);
                    for (delay, payload) in liar.greet(&mut self.random) {
                        self.after(delay, Event::Lies { link: index, epoch, way, payload });
                    }
                }
            }
        }
    }

    pub(super) fn disconnect(&mut self, index: usize) {
        let link = &mut self.links[index];
        if !std::mem::replace(&mut link.up, false) {
            return;
        }
        link.epoch += 1;
        let ends = link.plan.ends;
        self.say(|| format!("link {index} of {ends:?} is down"));
        for end in ends {
            let seat = &mut self.seats[end];
            if seat.running
                && let Actor::Honest(node) = &mut seat.actor
            {
                node.gone(index);
                self.carry_out(end);
            }
        }
    }

    /// One of several connections is lost: what was on it is told to be lost, and wants are said again on another.
    pub(super) fn reset(&mut self, index: usize) {
        let link = &mut self.links[index];
        if !link.up {
            return;
        }
        link.epoch += 1;
        let ends = link.plan.ends;
        let lost = std::mem::take(&mut link.ways);
        for (way, end) in lost.into_iter().zip(ends) {
            let Actor::Honest(node) = &mut self.seats[end].actor else { continue };
            let queued = [
                (Lane::Wants, way.wants.len()),
                (Lane::Presences, way.presences.len()),
                (Lane::Blocks, way.blocks.len()),
            ];
            for (lane, queued) in queued {
                for _ in 0..queued + usize::from(way.writing == Some(lane)) {
                    node.sent(index, lane, false);
                }
            }
            node.sent(index, Lane::Wants, false);
            self.carry_out(end);
        }
    }

    /// Writes the next message of a way, if there is one and none is being written.
    pub(super) fn write(&mut self, index: usize, way: usize) {
        let link = &mut self.links[index];
        let (protocol, bandwidth, epoch) = (link.plan.protocol, link.plan.bandwidth, link.epoch);
        let reader = link.plan.ends[1 - way];
        let state = &mut link.ways[way];
        if !link.up || state.writing.is_some() {
            return;
        }
        let (lane, framed) = if let Some(message) = state.wants.pop_front() {
            (Lane::Wants, wire::encode(&message, protocol))
        } else if let Some(message) = state.presences.pop_front() {
            (Lane::Presences, wire::encode(&message, protocol))
        } else {
            match state.blocks.pop_front() {
                Some(Payload::Message(message)) => (Lane::Blocks, wire::encode(&message, protocol)),
                Some(Payload::Bytes(bytes)) => (Lane::Blocks, [vec![0; length_bytes(bytes.len())], bytes].concat()),
                None => return,
            }
        };
        state.writing = Some(lane);
        let lasts = Duration::from_secs_f64((framed.len() + 60) as f64 / bandwidth as f64);
        let reads = match &self.seats[reader].actor {
            Actor::Honest(_) => true,
            Actor::Liar(liar) => liar.reads(),
        };
        if !reads {
            state.unread_bytes += framed.len();
        }
        let start = self.now.max(link.paused_until);
        if state.unread_bytes > UNREAD_BYTES_MAX {
            self.at(start + OUTBOUND_STALL_MAX, Event::Written { link: index, epoch, way, bytes: None });
            return;
        }
        // What takes long is seen to come by who reads it.
        let mut seen = PART_PERIOD;
        while seen < lasts {
            self.at(start + seen + self.links[index].plan.latency, Event::Part { link: index, epoch, way });
            seen += PART_PERIOD;
        }
        let length = framed.len();
        let body = length_of_frame(length);
        let bytes = Some(Bytes::from(framed).slice(body..));
        self.at(start + lasts, Event::Written { link: index, epoch, way, bytes });
    }

    pub(super) fn written(&mut self, index: usize, epoch: u32, way: usize, bytes: Option<Bytes>) {
        let link = &mut self.links[index];
        if !link.up || link.epoch != epoch {
            return;
        }
        if link.paused_until > self.now && bytes.is_some() {
            let until = link.paused_until;
            return self.at(until, Event::Written { link: index, epoch, way, bytes });
        }
        let writer = link.plan.ends[way];
        let state = &mut link.ways[way];
        let Some(lane) = state.writing.take() else { return };
        let delivered = bytes.is_some();
        state.failures = if delivered { 0 } else { state.failures + 1 };
        let failures = state.failures;
        if let Some(bytes) = bytes {
            let jitter = self.random.random_range(0..=link.plan.jitter.as_micros());
            let jitter = Duration::from_micros(u64::try_from(jitter).unwrap_or(u64::MAX));
            let arrival = self.now + link.plan.latency + jitter;
            // A stream keeps its order.
            let arrival = state.last_arrival.map_or(arrival, |last| last.max(arrival));
            state.last_arrival = Some(arrival);
            self.at(arrival, Event::Arrives { link: index, epoch, way, bytes });
        }
        if failures >= WRITE_FAILURES_MAX {
            return self.disconnect(index);
        }
        if let Actor::Honest(node) = &mut self.seats[writer].actor {
            node.sent(index, lane, delivered);
            self.carry_out(writer);
        }
        self.write(index, way);
    }

    /// A part of a message is there.
    pub(super) fn part(&mut self, index: usize, epoch: u32, way: usize) {
        let link = &self.links[index];
        if !link.up || link.epoch != epoch || link.paused_until > self.now {
            return;
        }
        let reader = link.plan.ends[1 - way];
        if let Actor::Honest(node) = &mut self.seats[reader].actor {
            node.part(index);
            self.carry_out(reader);
        }
    }

    pub(super) fn arrives(&mut self, index: usize, epoch: u32, way: usize, bytes: Bytes) {
        let link = &mut self.links[index];
        if !link.up || link.epoch != epoch {
            return;
        }
        if link.paused_until > self.now {
            let until = link.paused_until;
            return self.at(until, Event::Arrives { link: index, epoch, way, bytes });
        }
        let (writer, reader) = (link.plan.ends[way], link.plan.ends[1 - way]);
        let honest = matches!(self.seats[writer].actor, Actor::Honest(_));
        if bytes.len() > MESSAGE_BYTES_MAX {
            assert!(!honest, "an honest node sends a message of {} bytes", bytes.len());
            return;
        }
        let decoded = wire::decode(bytes);
        let Ok(message) = decoded else {
            assert!(!honest, "an honest node sends what can't be read: {decoded:?}");
            return;
        };
        match &mut self.seats[reader].actor {
            Actor::Honest(node) => {
                node.received(index, message, honest);
                self.carry_out(reader);
            }
            Actor::Liar(liar) => {
                for (delay, payload) in liar.answer(&message, &mut self.random) {
                    self.after(delay, Event::Lies { link: index, epoch, way: 1 - way, payload });
                }
            }
        }
    }
}

/// How many bytes say the length of a message.
fn length_bytes(length: usize) -> usize {
    (1..10).find(|bytes| length < 1 << (7 * bytes)).unwrap_or(10)
}

/// How many bytes at the start of a framed message say its length.
fn length_of_frame(framed: usize) -> usize {
    (1..10).find(|bytes| length_bytes(framed - bytes) == *bytes).unwrap_or(10)
}
