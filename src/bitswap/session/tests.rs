//! Tests of the session.

use std::collections::VecDeque;

use super::late::{AGAIN_MIN, PATIENCE_MAX, PATIENCE_MIN, QUIET_MAX, SENDING_MAX, SILENCE_MAX};
use super::*;
use crate::model::Block;
use bytes::Bytes;

const ORIGIN: PeerNumber = PeerNumber(1);
const OTHER: PeerNumber = PeerNumber(2);

fn cid(number: usize) -> Cid {
    *Block::new_sha256(0x55, Bytes::from(number.to_string())).unwrap().cid()
}

fn asks(actions: &[Action], of: PeerNumber, wanted: WantKind) -> Vec<Cid> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Ask { peer, cid, kind } if *peer == of && *kind == wanted => Some(*cid),
            _ => None,
        })
        .collect()
}

#[test]
fn an_origin_is_asked_for_the_block_and_a_stranger_only_whether_it_has_it() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.want(cid(1));
    assert!(session.poll(now, usize::MAX).is_empty());
    session.peer_connected(OTHER, false, now);
    assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Have), [cid(1)]);
    assert!(session.poll(now, usize::MAX).is_empty(), "a stranger is asked once");
    session.peer_connected(ORIGIN, true, now);
    assert_eq!(asks(&session.poll(now, usize::MAX), ORIGIN, WantKind::Block), [cid(1)]);
}

#[test]
fn a_stranger_that_has_it_becomes_a_provider() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(OTHER, false, now);
    session.want(cid(1));
    session.poll(now, usize::MAX);
    session.handle_have(OTHER, &cid(1));
    assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Block), [cid(1)]);
    assert!(session.handle_block(OTHER, &cid(1), 10, now));
    session.want(cid(2));
    assert_eq!(asks(&session.poll(now, usize::MAX), OTHER, WantKind::Block), [cid(2)]);
}

#[test]
fn a_denied_want_goes_to_the_other_provider() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    session.peer_connected(OTHER, true, now);
    session.want(cid(1));
    let actions = session.poll(now, usize::MAX);
    let first = if asks(&actions, ORIGIN, WantKind::Block).is_empty() { OTHER } else { ORIGIN };
    let second = if first == ORIGIN { OTHER } else { ORIGIN };
    session.handle_dont_have(first, &cid(1), now);
    assert_eq!(asks(&session.poll(now, usize::MAX), second, WantKind::Block), [cid(1)]);
    session.handle_dont_have(second, &cid(1), now);
    assert!(session.poll(now, usize::MAX).is_empty());
    // It was never taken back, so a block that comes after all is taken.
    assert!(session.handle_block(first, &cid(1), 10, now));
    assert_eq!(session.wanted(), 0);
}

#[test]
fn a_silent_peer_loses_its_wants_to_another_or_is_asked_again() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    session.want(cid(1));
    session.poll(now, usize::MAX);
    let later = now + SILENCE_MAX;
    session.handle_timeout(later);
    assert!(session.poll(later, usize::MAX).is_empty(), "it may be sending it");
    let again = now + AGAIN_MIN;
    session.handle_timeout(again);
    assert_eq!(asks(&session.poll(again, usize::MAX), ORIGIN, WantKind::Block), [cid(1)]);
    session.peer_connected(OTHER, true, again);
    let latest = again + PATIENCE_MIN;
    session.handle_timeout(latest);
    let actions = session.poll(latest, usize::MAX);
    assert_eq!(asks(&actions, OTHER, WantKind::Block), [cid(1)]);
    assert!(actions.contains(&Action::Withdraw { peer: ORIGIN, cid: cid(1) }));
}

#[test]
fn a_peer_that_is_sending_is_waited_for_but_not_for_ever() {
    for sends_until in [Duration::ZERO, SILENCE_MAX, 2 * PATIENCE_MAX] {
        let (mut session, start) = (Session::new(), Instant::now());
        session.peer_connected(ORIGIN, true, start);
        session.want(cid(1));
        session.poll(start, usize::MAX);
        session.peer_connected(OTHER, true, start);
        let mut waited = Duration::ZERO;
        loop {
            waited += SENDING_MAX / 4;
            if waited <= sends_until {
                session.handle_part(ORIGIN, start + waited);
            }
            session.handle_timeout(start + waited);
            if asks(&session.poll(start + waited, usize::MAX), OTHER, WantKind::Block) == [cid(1)] {
                break;
            }
        }
        assert_eq!(waited >= SILENCE_MAX, sends_until >= SILENCE_MAX, "{waited:?} {sends_until:?}");
        assert!(waited <= (sends_until + SENDING_MAX).clamp(SILENCE_MAX, PATIENCE_MAX), "{waited:?} {sends_until:?}");
    }
}

#[test]
fn what_a_slow_peer_has_read_is_not_taken_over() {
    const BLOCK: u64 = 256 * 1024;
    let (mut session, start) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, start);
    for number in 0..9 {
        session.want(cid(number));
    }
    assert_eq!(asks(&session.poll(start, usize::MAX), ORIGIN, WantKind::Block).len(), 9);
    let now = start + Duration::from_secs(1);
    session.handle_block(ORIGIN, &cid(0), BLOCK, now);
    session.peer_connected(OTHER, true, now);
    // Who is new gets one block to show what it can, the last of those that the first would take eight seconds for.
    let actions = session.poll(now, usize::MAX);
    assert_eq!(asks(&actions, OTHER, WantKind::Block), [cid(8)]);
    assert!(actions.contains(&Action::Withdraw { peer: ORIGIN, cid: cid(8) }));
    let now = now + Duration::from_millis(10);
    session.handle_block(OTHER, &cid(8), BLOCK, now);
    let actions = session.poll(now, usize::MAX);
    let taken: BTreeSet<Cid> = asks(&actions, OTHER, WantKind::Block).into_iter().collect();
    let withdrawn = (0..9).filter(|number| actions.contains(&Action::Withdraw { peer: ORIGIN, cid: cid(*number) }));
    // The slow one has read a megabyte, and sends a block more before it can be told. One block of all these may come twice.
    assert_eq!(withdrawn.collect::<Vec<_>>(), [7]);
    assert_eq!(taken, [6, 7].map(cid).into_iter().collect());
}

#[test]
fn what_the_only_provider_lost_is_asked_again_once_it_is_quiet() {
    let (mut session, start) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, start);
    for number in 0..10 {
        session.want(cid(number));
    }
    session.poll(start, usize::MAX);
    let mut now = start;
    // The first one never comes. As long as others do, it may be in its queue still.
    for number in 1..10 {
        now = start + Duration::from_secs(number as u64);
        session.handle_block(ORIGIN, &cid(number), 100_000, now);
        session.handle_timeout(now);
        assert!(session.poll(now, usize::MAX).is_empty(), "second {number}");
    }
    let soon = now + QUIET_MAX;
    session.handle_timeout(soon);
    assert!(session.poll(soon, usize::MAX).is_empty());
    let again = soon + 20 * PATIENCE_MIN;
    session.handle_timeout(again);
    assert_eq!(asks(&session.poll(again, usize::MAX), ORIGIN, WantKind::Block), [cid(0)]);
}

#[test]
fn a_gone_peer_gives_its_wants_back() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    for number in 0..10 {
        session.want(cid(number));
    }
    assert_eq!(session.poll(now, usize::MAX).len(), 10);
    session.peer_gone(ORIGIN);
    assert!(session.poll(now, usize::MAX).is_empty());
    session.peer_connected(PeerNumber(3), true, now);
    assert_eq!(session.poll(now, usize::MAX).len(), 10);
}

#[test]
fn the_window_follows_the_size_of_the_blocks() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    for number in 0..2000 {
        session.want(cid(number));
    }
    let first = session.poll(now, usize::MAX).len() as u64;
    assert_eq!(first, 16);
    for number in 0..64 {
        session.handle_block(ORIGIN, &cid(number), 1024, now);
    }
    let actions = session.poll(now, usize::MAX).len();
    assert!(actions > 800, "small blocks open the window: {actions}");
}

/// Peers that deliver what they are asked for at a steady rate, in order.
struct Providers {
    session: Session,
    now: Instant,
    /// Each peer's seconds for a block, and what it was asked for with the time at which it is done.
    queues: BTreeMap<PeerNumber, (f64, VecDeque<(Cid, Instant)>)>,
    delivered: BTreeMap<PeerNumber, usize>,
    /// Blocks that were sent and not wanted any longer.
    duplicates: usize,
}

impl Providers {
    const BLOCK: u64 = 256 * 1024;

    fn new(seconds: &[f64]) -> Self {
        let (mut session, now) = (Session::new(), Instant::now());
        let mut queues = BTreeMap::new();
        for (number, seconds) in seconds.iter().enumerate() {
            let peer = PeerNumber(number as u64);
            session.peer_connected(peer, true, now);
            queues.insert(peer, (*seconds, VecDeque::new()));
        }
        Self { session, now, queues, delivered: BTreeMap::new(), duplicates: 0 }
    }

    /// Fetches so many blocks, and returns the seconds that it took.
    fn fetch(&mut self, blocks: usize) -> f64 {
        let (start, mut next, mut came) = (self.now, 0, 0);
        while came < blocks {
            while next < blocks && self.session.wanted() < self.session.window() {
                self.session.want(cid(next));
                next += 1;
            }
            for action in self.session.poll(self.now, usize::MAX) {
                match action {
                    Action::Ask { peer, cid, .. } => {
                        let (seconds, queue) = self.queues.get_mut(&peer).unwrap();
                        let free_at = queue.back().map_or(self.now, |(_, at)| *at).max(self.now);
                        queue.push_back((cid, free_at + Duration::from_secs_f64(*seconds)));
                    }
                    Action::Withdraw { peer, cid } => {
                        // The first one is on its way already.
                        let queue = &mut self.queues.get_mut(&peer).unwrap().1;
                        let first = queue.front().copied();
                        queue.retain(|asked| Some(*asked) == first || asked.0 != cid);
                    }
                }
            }
            let earliest = self.queues.iter().filter_map(|(peer, (_, queue))| Some((queue.front()?.1, *peer))).min();
            let (at, peer) = earliest.expect("something is asked for");
            self.now = at;
            let (cid, _) = self.queues.get_mut(&peer).unwrap().1.pop_front().unwrap();
            if self.session.handle_block(peer, &cid, Self::BLOCK, at) {
                came += 1;
                *self.delivered.entry(peer).or_default() += 1;
            } else {
                self.duplicates += 1;
            }
            self.session.handle_timeout(at);
        }
        (self.now - start).as_secs_f64()
    }
}

#[test]
fn providers_share_a_dag_in_proportion_to_their_speed() {
    let mut providers = Providers::new(&[0.001, 0.009]);
    let seconds = providers.fetch(2000);
    assert!(seconds < 1.05 * 1.8, "{seconds}");
    let (fast, slow) = (providers.delivered[&PeerNumber(0)], providers.delivered[&PeerNumber(1)]);
    assert!((7..=11).contains(&(fast / slow)), "{fast} and {slow}");
}

#[test]
fn nobody_waits_for_the_slowest_at_the_end() {
    // The slow one needs half a second for each block.
    let mut providers = Providers::new(&[0.001, 0.5]);
    let seconds = providers.fetch(1000);
    assert!(seconds < 1.6, "{seconds}");
    assert!(providers.duplicates <= 20, "{}", providers.duplicates);
}

#[test]
fn equal_providers_make_no_duplicates() {
    let mut providers = Providers::new(&[0.01, 0.01, 0.01, 0.01]);
    let seconds = providers.fetch(1000);
    assert!(seconds < 1.05 * 2.5, "{seconds}");
    assert_eq!(providers.duplicates, 0);
}

#[test]
fn strangers_are_asked_about_what_the_only_provider_is_late_with() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    session.peer_connected(OTHER, false, now);
    session.want(cid(1));
    assert_eq!(asks(&session.poll(now, usize::MAX), ORIGIN, WantKind::Block), [cid(1)]);
    let later = now + SILENCE_MAX;
    session.handle_timeout(later);
    assert_eq!(asks(&session.poll(later, usize::MAX), OTHER, WantKind::Have), [cid(1)]);
    session.handle_have(OTHER, &cid(1));
    session.handle_timeout(later);
    assert_eq!(asks(&session.poll(later, usize::MAX), OTHER, WantKind::Block), [cid(1)]);
}

#[test]
fn a_fast_provider_does_not_wait_for_one_that_proves_slow() {
    // The root is small, so it tells nothing of a rate; then each is asked for its part of thirteen large blocks.
    let (mut session, start) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, start);
    session.want(cid(0));
    session.poll(start, usize::MAX);
    let now = start + Duration::from_millis(40);
    session.handle_block(ORIGIN, &cid(0), 1500, now);
    session.peer_connected(OTHER, true, now);
    for number in 1..14 {
        session.want(cid(number));
    }
    let actions = session.poll(now, usize::MAX);
    let slow = asks(&actions, OTHER, WantKind::Block);
    assert!(!slow.is_empty(), "nobody knows yet that it is slow");
    let now = now + Duration::from_millis(100);
    for fast in asks(&actions, ORIGIN, WantKind::Block) {
        session.handle_block(ORIGIN, &fast, 1024 * 1024, now);
    }
    let now = now + Duration::from_secs(1);
    let taken = asks(&session.poll(now, usize::MAX), ORIGIN, WantKind::Block);
    assert!(taken.len() + 1 >= slow.len(), "{} of {}", taken.len(), slow.len());
}

#[test]
fn what_turns_out_too_large_is_taken_back_and_stays_wanted() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    for number in 0..10 {
        session.want(cid(number));
    }
    session.poll(now, usize::MAX);
    session.retract(4);
    let actions = session.poll(now, 0);
    assert_eq!(actions.len(), 6);
    assert_eq!(actions[0], Action::Withdraw { peer: ORIGIN, cid: cid(9) });
    assert_eq!((session.outstanding(), session.wanted()), (4, 10));
    assert_eq!(asks(&session.poll(now, usize::MAX), ORIGIN, WantKind::Block).len(), 6);
}

#[test]
fn a_denial_that_the_peer_does_not_remember_runs_out() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    let count = DENIED_KEPT_MAX + 1;
    for number in 0..count {
        session.want(cid(number));
        session.poll(now, usize::MAX);
        session.handle_dont_have(ORIGIN, &cid(number), now);
    }
    let last = cid(count - 1);
    assert_eq!(session.poll(now, usize::MAX), [Action::Withdraw { peer: ORIGIN, cid: last }]);
    let later = now + DENIAL_MIN;
    session.handle_timeout(later);
    assert_eq!(asks(&session.poll(later, usize::MAX), ORIGIN, WantKind::Block), [last]);
}

#[test]
fn a_block_nobody_wanted_is_refused() {
    let (mut session, now) = (Session::new(), Instant::now());
    session.peer_connected(ORIGIN, true, now);
    assert!(!session.handle_block(ORIGIN, &cid(1), 10, now));
}
