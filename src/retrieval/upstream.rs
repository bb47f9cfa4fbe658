//! What one gateway is asked for, when, and when it is given up.
//!
//! Pure: no clock, no request. Several fetches may ask the same gateway; they take turns. How many requests run at once
//! grows while it answers and is halved when it says that it is busy. Failures make it pause, more of them end the try; a
//! gateway that answers with something else than what was asked for is not used again by the fetches that saw it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use cid::Cid;

use crate::bitswap::wire::WantKind;
use crate::model::Block;
use crate::model::limits::{RETRIEVAL_ABSENCE_MAX, RETRIEVAL_PAUSE_MAX};

/// Requests that run at once at first.
const REQUESTS_FIRST: usize = 8;

/// Times that a block is asked for when the request fails.
const TRIES_MAX: u8 = 2;

/// Failures in a row, each after the pause for the one before, that end the try.
const FAILURES_MAX: u32 = 4;

/// Pauses in a row because the gateway is busy that end the try.
const BUSY_MAX: u32 = 8;

/// Blocks in a row that a gateway doesn't have before a fetch stops asking it: as in boxo (`DefaultMaxDontHaveErrors`).
const MISSING_MAX: u32 = 100;

/// The first pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long a gateway that failed is left alone; it doubles while it goes on failing.
const ABSENCE_MIN: Duration = Duration::from_secs(15);

/// How long a gateway that misbehaved is left alone by everyone.
const SHUNNED: Duration = Duration::from_mins(1);

/// A fetch, for a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AskerId(pub(super) u64);

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Find out whether it is a gateway. [`Upstream::handle_probe`] must follow.
    Probe,
    /// Ask for a block, or whether it is there. [`Upstream::handle_answer`] must follow, unless it is called off.
    Ask {
        /// The number of the request.
        number: u64,
        /// For what.
        cid: Cid,
        /// For the block, or for whether it has it.
        kind: WantKind,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The gateway asks for a pause.
    Busy {
        /// How long, if it says so.
        wait: Option<Duration>,
        /// What it said.
        what: String,
    },
    /// Something that may pass: no connection, a time-out, an error of the server.
    Failed(String),
    /// It isn't what it was taken for: no gateway, or one that sends something else.
    Wrong(String),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The block.
    Block(Block),
    /// It has the block.
    Have,
    /// It doesn't have the block.
    Missing,
    /// Neither.
    Trouble(Trouble),
}

/// What to tell a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// It can be asked.
    Up,
    /// It can't be asked any longer; what it was asked for won't come.
    Down,
    /// A block.
    Block(Block),
    /// It has this.
    Have(Cid),
    /// It doesn't have this.
    DontHave(Cid),
    /// Why it can't be asked.
    Remark(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody knows whether it is a gateway.
    Unproven,
    Probing,
    Up,
    /// It is left alone until then.
    Down {
        until: Instant,
    },
}

#[derive(Debug, Clone)]
struct Want {
    cid: Cid,
    kind: WantKind,
    tries: u8,
}

#[derive(Debug, Default)]
struct Asker {
    queue: VecDeque<Want>,
    is_up: bool,
    /// It saw this gateway misbehave.
    is_done: bool,
    /// Blocks in a row that weren't there.
    missing: u32,
}

#[derive(Debug)]
struct Running {
    asker: AskerId,
    want: Want,
    began: Instant,
}

/// One gateway.
#[derive(Debug)]
pub(super) struct Upstream {
    phase: Phase,
    askers: BTreeMap<AskerId, Asker>,
    /// Who was served last.
    last: AskerId,
    running: HashMap<u64, Running>,
    next_number: u64,
    /// Requests that may run at once now, and at most.
    allowed: usize,
    allowed_max: usize,
    /// Answers since `allowed` last changed.
    answers: usize,
    paused_until: Option<Instant>,
    /// Why it is down.
    left_for: String,
    /// When the last pause or cut was made: what was asked before says nothing new.
    slowed_at: Option<Instant>,
    failures: u32,
    busy: u32,
    /// Tries in a row that ended without any answer.
    vain_tries: u32,
    events: Vec<(AskerId, Event)>,
    called_off: Vec<u64>,
}

impl Upstream {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Unproven,
            askers: BTreeMap::new(),
            last: AskerId(0),
            running: HashMap::new(),
            next_number: 0,
            allowed: 0,
            allowed_max: 0,
            answers: 0,
            paused_until: None,
            left_for: String::new(),
            slowed_at: None,
            failures: 0,
            busy: 0,
            vain_tries: 0,
            events: Vec::new(),
            called_off: Vec::new(),
        }
    }

    /// A fetch may ask it from now on.
    pub(super) fn open(&mut self, asker: AskerId, now: Instant) {
        let is_up = self.phase == Phase::Up;
        self.askers.insert(asker, Asker { is_up, ..Asker::default() });
        match self.phase {
            Phase::Up => self.events.push((asker, Event::Up)),
            Phase::Down { until } if until > now => {
                let seconds = (until - now).as_secs() + 1;
                let remark = format!("it is left alone for another {seconds} s: {}", self.left_for);
                self.events.push((asker, Event::Remark(remark)));
            }
            Phase::Unproven | Phase::Probing | Phase::Down { .. } => {}
        }
    }

    /// A fetch is over.
    pub(super) fn close(&mut self, asker: AskerId) {
        self.askers.remove(&asker);
        self.call_off(|running| running.asker == asker);
    }

    /// Whether no fetch asks it.
    pub(super) fn is_idle(&self) -> bool {
        self.askers.is_empty()
    }

    /// A fetch asks for something. What it has asked for already stays asked for once.
    pub(super) fn ask(&mut self, asker: AskerId, cid: Cid, kind: WantKind) {
        let is_running = |running: &Running| running.asker == asker && running.want.cid == cid;
        if self.running.values().any(is_running) {
            return;
        }
        let Some(state) = self.askers.get_mut(&asker).filter(|state| state.is_up) else { return };
        match state.queue.iter_mut().find(|want| want.cid == cid) {
            Some(want) if kind == WantKind::Block => want.kind = kind,
            Some(_) => {}
            None => state.queue.push_back(Want { cid, kind, tries: 0 }),
        }
    }

    /// A fetch takes back what it asked for.
    pub(super) fn withdraw(&mut self, asker: AskerId, cid: &Cid) {
        if let Some(state) = self.askers.get_mut(&asker) {
            state.queue.retain(|want| want.cid != *cid);
        }
        self.call_off(|running| running.asker == asker && running.want.cid == *cid);
    }

    /// What to tell whom.
    pub(super) fn take_events(&mut self) -> Vec<(AskerId, Event)> {
        std::mem::take(&mut self.events)
    }

    /// Requests whose answers nobody waits for any more.
    pub(super) fn take_called_off(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.called_off)
    }

    /// The next thing to do, if there is one now.
    pub(super) fn poll_job(&mut self, now: Instant) -> Option<Job> {
        match self.phase {
            Phase::Unproven => {}
            Phase::Down { until } if until <= now => {}
            Phase::Up => return self.poll_ask(now),
            Phase::Probing | Phase::Down { .. } => return None,
        }
        if !self.askers.values().any(|asker| !asker.is_done) {
            return None;
        }
        self.phase = Phase::Probing;
        Some(Job::Probe)
    }

    fn poll_ask(&mut self, now: Instant) -> Option<Job> {
        if self.paused_until.is_some_and(|until| until > now) || self.running.len() >= self.allowed {
            return None;
        }
        self.paused_until = None;
        let waiting = |(_, asker): &(&AskerId, &Asker)| !asker.queue.is_empty();
        let after = (std::ops::Bound::Excluded(self.last), std::ops::Bound::Unbounded);
        let next = self.askers.range(after).find(waiting).or_else(|| self.askers.iter().find(waiting));
        let asker = *next?.0;
        let want = self.askers.get_mut(&asker)?.queue.pop_front()?;
        self.last = asker;
        self.next_number += 1;
        let number = self.next_number;
        let job = Job::Ask { number, cid: want.cid, kind: want.kind };
        self.running.insert(number, Running { asker, want, began: now });
        Some(job)
    }

    /// When [`Upstream::poll_job`] may have something without anything else happening.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down { until } => self.askers.values().any(|asker| !asker.is_done).then_some(until),
            Phase::Up => self.paused_until.filter(|_| self.askers.values().any(|asker| !asker.queue.is_empty())),
            Phase::Unproven | Phase::Probing => None,
        }
    }

    /// Until when nobody should forget this gateway, since it is to be left alone.
    pub(super) fn remember_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down { until } => Some(until),
            _ => self.paused_until,
        }
    }

    /// What came of a probe: whether HTTP/2 is spoken, so that one connection carries many requests, tells how many may
    /// run at once.
    pub(super) fn handle_probe(&mut self, outcome: Result<usize, Trouble>, now: Instant) {
        match outcome {
            Ok(requests_max) => {
                self.phase = Phase::Up;
                self.allowed_max = requests_max;
                self.allowed = REQUESTS_FIRST.min(requests_max);
                (self.answers, self.failures, self.busy) = (0, 0, 0);
                (self.paused_until, self.slowed_at) = (None, None);
                for (id, asker) in self.askers.iter_mut().filter(|(_, asker)| !asker.is_done) {
                    asker.is_up = true;
                    asker.missing = 0;
                    self.events.push((*id, Event::Up));
                }
            }
            Err(Trouble::Busy { wait, what }) => {
                let wait = wait.unwrap_or_default().max(self.absence());
                self.leave(wait, &what, now);
            }
            Err(Trouble::Failed(what)) => {
                self.leave(self.absence(), &what, now);
            }
            Err(Trouble::Wrong(what)) => self.shun(&what, now),
        }
    }

    /// What came of a request.
    pub(super) fn handle_answer(&mut self, number: u64, answer: Answer, now: Instant) {
        let Some(Running { asker, want, began }) = self.running.remove(&number) else { return };
        let is_news = self.slowed_at.is_none_or(|at| began >= at);
        match answer {
            Answer::Block(block) => {
                self.answered(asker, Event::Block(block));
                self.grow();
            }
            Answer::Have => self.answered(asker, Event::Have(want.cid)),
            Answer::Missing => self.handle_missing(asker, want.cid),
            Answer::Trouble(Trouble::Busy { wait, what }) => self.handle_busy(asker, want, is_news, wait, &what, now),
            Answer::Trouble(Trouble::Failed(what)) => self.handle_failure(asker, want, is_news, &what, now),
            Answer::Trouble(Trouble::Wrong(what)) => self.shun(&what, now),
        }
    }

    fn answered(&mut self, asker: AskerId, event: Event) {
        (self.failures, self.busy, self.vain_tries) = (0, 0, 0);
        if let Some(state) = self.askers.get_mut(&asker) {
            state.missing = 0;
            self.events.push((asker, event));
        }
    }

    /// One more at once for each round of answers.
    fn grow(&mut self) {
        self.answers += 1;
        if self.answers >= self.allowed && self.allowed < self.allowed_max {
            self.allowed += 1;
            self.answers = 0;
        }
    }

    fn handle_missing(&mut self, id: AskerId, cid: Cid) {
        (self.failures, self.busy, self.vain_tries) = (0, 0, 0);
        let Some(asker) = self.askers.get_mut(&id) else { return };
        self.events.push((id, Event::DontHave(cid)));
        asker.missing += 1;
        if asker.missing < MISSING_MAX {
            return;
        }
        asker.queue.clear();
        (asker.is_up, asker.is_done) = (false, true);
        self.events
            .push((id, Event::Remark(format!("it has none of the last {MISSING_MAX} blocks that it was asked for"))));
        self.events.push((id, Event::Down));
        self.call_off(|running| running.asker == id);
    }

    fn handle_busy(
        &mut self,
        asker: AskerId,
        want: Want,
        is_news: bool,
        asked_for: Option<Duration>,
        what: &str,
        now: Instant,
    ) {
        self.put_back(asker, want);
        if is_news {
            self.busy += 1;
            self.slowed_at = Some(now);
            self.allowed = (self.allowed / 2).max(1);
            self.answers = 0;
        }
        let doubling = doubled(PAUSE_MIN, self.busy.saturating_sub(1), RETRIEVAL_PAUSE_MAX);
        let pause = asked_for.unwrap_or(doubling);
        if pause > RETRIEVAL_PAUSE_MAX || self.busy >= BUSY_MAX {
            self.leave(pause.max(self.absence()), what, now);
            return;
        }
        self.paused_until = self.paused_until.max(Some(now + pause));
    }

    fn handle_failure(&mut self, asker: AskerId, mut want: Want, is_news: bool, what: &str, now: Instant) {
        want.tries += 1;
        if want.tries < TRIES_MAX {
            self.put_back(asker, want);
        } else if self.askers.contains_key(&asker) {
            self.events.push((asker, Event::DontHave(want.cid)));
        }
        if !is_news {
            return;
        }
        self.failures += 1;
        self.slowed_at = Some(now);
        if self.failures >= FAILURES_MAX {
            self.leave(self.absence(), what, now);
            return;
        }
        let pause = doubled(PAUSE_MIN, self.failures - 1, RETRIEVAL_PAUSE_MAX);
        self.paused_until = self.paused_until.max(Some(now + pause));
    }

    fn put_back(&mut self, asker: AskerId, want: Want) {
        if let Some(state) = self.askers.get_mut(&asker) {
            state.queue.push_front(want);
        }
    }

    fn absence(&self) -> Duration {
        doubled(ABSENCE_MIN, self.vain_tries, RETRIEVAL_ABSENCE_MAX)
    }

    /// Ends the try: everyone is told, and it is tried again later.
    fn leave(&mut self, wait: Duration, what: &str, now: Instant) {
        let wait = wait.min(RETRIEVAL_ABSENCE_MAX);
        self.vain_tries += 1;
        self.phase = Phase::Down { until: now + wait };
        self.paused_until = None;
        what.clone_into(&mut self.left_for);
        for (id, asker) in self.askers.iter_mut().filter(|(_, asker)| !asker.is_done) {
            asker.queue.clear();
            self.events.push((*id, Event::Remark(what.to_owned())));
            if std::mem::take(&mut asker.is_up) {
                self.events.push((*id, Event::Down));
            }
        }
        self.call_off(|_| true);
    }

    /// The same for good, as far as the fetches go that are there now.
    fn shun(&mut self, what: &str, now: Instant) {
        self.leave(SHUNNED, what, now);
        for asker in self.askers.values_mut() {
            asker.is_done = true;
        }
    }

    fn call_off(&mut self, which: impl Fn(&Running) -> bool) {
        let called_off = &mut self.called_off;
        self.running.retain(|number, running| {
            let stays = !which(running);
            if !stays {
                called_off.push(*number);
            }
            stays
        });
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times.min(16))).min(most)
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
