//! Stories of one gateway: turns, growth, pauses, and how it is given up.

use super::*;
use bytes::Bytes;

const FIRST: AskerId = AskerId(1);
const SECOND: AskerId = AskerId(2);

/// As over HTTP/2.
const REQUESTS_MAX: usize = 64;

fn block(number: usize) -> Block {
    Block::new_sha256(0x55, Bytes::from(number.to_string())).unwrap()
}

fn cid(number: usize) -> Cid {
    *block(number).cid()
}

/// A gateway that has answered the probe, for these fetches.
fn proven(askers: &[AskerId], now: Instant) -> Upstream {
    let mut upstream = Upstream::new();
    for asker in askers {
        upstream.open(*asker, now);
    }
    assert_eq!(upstream.poll_job(now), Some(Job::Probe));
    assert_eq!(upstream.poll_job(now), None, "one probe at a time");
    upstream.handle_probe(Ok(REQUESTS_MAX), now);
    let ups: Vec<_> = askers.iter().map(|asker| (*asker, Event::Up)).collect();
    assert_eq!(upstream.take_events(), ups);
    upstream
}

/// Every request that begins now.
fn jobs(upstream: &mut Upstream, now: Instant) -> Vec<(u64, Cid)> {
    std::iter::from_fn(|| upstream.poll_job(now))
        .map(|job| match job {
            Job::Ask { number, cid, .. } => (number, cid),
            Job::Probe => panic!("a probe"),
        })
        .collect()
}

fn failed() -> Answer {
    Answer::Trouble(Trouble::Failed("it fell over".into()))
}

fn busy(wait: Option<Duration>) -> Answer {
    Answer::Trouble(Trouble::Busy { wait, what: "it is busy".into() })
}

#[test]
fn nothing_is_asked_of_what_has_not_shown_that_it_is_a_gateway() {
    let (mut upstream, now) = (Upstream::new(), Instant::now());
    assert_eq!(upstream.poll_job(now), None, "nobody asks");
    upstream.open(FIRST, now);
    upstream.ask(FIRST, cid(1), WantKind::Block);
    assert_eq!(upstream.poll_job(now), Some(Job::Probe));
    upstream.handle_probe(Err(Trouble::Wrong("a web site".into())), now);
    assert_eq!(upstream.take_events(), [(FIRST, Event::Remark("a web site".into()))]);
    assert_eq!(upstream.poll_job(now + Duration::from_hours(1)), None, "this fetch is done with it");
    assert_eq!(upstream.next_timeout(), None);
    // Another one is told why, and tries later.
    upstream.open(SECOND, now);
    let events = upstream.take_events();
    assert!(matches!(&events[..], [(SECOND, Event::Remark(text))] if text.ends_with("a web site")), "{events:?}");
    assert_eq!(upstream.next_timeout(), Some(now + SHUNNED));
    assert_eq!(upstream.poll_job(now + SHUNNED), Some(Job::Probe));
    upstream.handle_probe(Ok(REQUESTS_MAX), now + SHUNNED);
    assert_eq!(upstream.take_events(), [(SECOND, Event::Up)]);
}

#[test]
fn fetches_take_turns_and_each_block_is_asked_for_once() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST, SECOND], now);
    for number in 0..20 {
        upstream.ask(FIRST, cid(number), WantKind::Block);
        upstream.ask(FIRST, cid(number), WantKind::Block);
    }
    for number in 100..104 {
        upstream.ask(SECOND, cid(number), WantKind::Block);
    }
    let first_jobs = jobs(&mut upstream, now);
    assert_eq!(first_jobs.len(), REQUESTS_FIRST);
    let of_second = first_jobs.iter().filter(|(_, asked)| (100..104).any(|number| *asked == cid(number))).count();
    assert_eq!(of_second, 4);
    // What runs already isn't asked for again either.
    upstream.ask(FIRST, cid(0), WantKind::Block);
    for (number, _) in first_jobs {
        upstream.handle_answer(number, Answer::Missing, now);
    }
    let mut asked = 0;
    loop {
        let more = jobs(&mut upstream, now);
        if more.is_empty() {
            break;
        }
        asked += more.len();
        for (number, _) in more {
            upstream.handle_answer(number, Answer::Missing, now);
        }
    }
    assert_eq!(asked, 20 - 4);
}

#[test]
fn requests_grow_with_answers_and_are_halved_when_it_is_busy() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    for number in 0..4000 {
        upstream.ask(FIRST, cid(number), WantKind::Block);
    }
    let mut at_once = 0;
    let mut running = Vec::new();
    for _ in 0..60 {
        running = jobs(&mut upstream, now);
        at_once = running.len();
        for (number, _) in running.drain(..) {
            upstream.handle_answer(number, Answer::Block(block(0)), now);
        }
    }
    assert_eq!(at_once, REQUESTS_MAX);
    running.extend(jobs(&mut upstream, now));
    let later = now + Duration::from_secs(1);
    for (number, _) in running.drain(..) {
        // All of them were on their way at the same moment: that is said once.
        upstream.handle_answer(number, busy(Some(Duration::from_secs(7))), later);
    }
    assert_eq!(upstream.next_timeout(), Some(later + Duration::from_secs(7)));
    assert!(jobs(&mut upstream, later + Duration::from_secs(6)).is_empty());
    let again = jobs(&mut upstream, later + Duration::from_secs(7));
    assert_eq!(again.len(), REQUESTS_MAX / 2);
    assert_eq!(upstream.take_events().iter().filter(|(_, event)| matches!(event, Event::Down)).count(), 0);
}

#[test]
fn one_that_asks_for_too_long_a_pause_is_left_alone() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    upstream.ask(FIRST, cid(1), WantKind::Block);
    upstream.ask(FIRST, cid(2), WantKind::Block);
    let running = jobs(&mut upstream, now);
    upstream.handle_answer(running[0].0, busy(Some(Duration::from_hours(24))), now);
    assert_eq!(upstream.take_events(), [(FIRST, Event::Remark("it is busy".into())), (FIRST, Event::Down)]);
    assert_eq!(upstream.take_called_off(), [running[1].0]);
    upstream.handle_answer(running[1].0, Answer::Block(block(2)), now);
    assert_eq!(upstream.take_events(), [], "what was called off is over");
    upstream.close(FIRST);
    assert!(upstream.is_idle());
    assert_eq!(upstream.remember_until(), Some(now + RETRIEVAL_ABSENCE_MAX));
    upstream.open(SECOND, now);
    assert_eq!(upstream.poll_job(now + RETRIEVAL_ABSENCE_MAX - Duration::from_millis(1)), None);
    assert_eq!(upstream.poll_job(now + RETRIEVAL_ABSENCE_MAX), Some(Job::Probe));
}

#[test]
fn one_that_is_busy_again_and_again_is_left_alone() {
    let mut now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    upstream.ask(FIRST, cid(1), WantKind::Block);
    let mut pauses = Vec::new();
    for _ in 0..BUSY_MAX {
        let running = jobs(&mut upstream, now);
        upstream.handle_answer(running[0].0, busy(None), now);
        let wake_at = upstream.next_timeout().unwrap();
        pauses.push((wake_at - now).as_secs());
        now = wake_at;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(upstream.take_events().last(), Some(&(FIRST, Event::Down)));
}

#[test]
fn a_block_whose_request_fails_twice_counts_as_missing() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    upstream.ask(FIRST, cid(1), WantKind::Block);
    let running = jobs(&mut upstream, now);
    upstream.handle_answer(running[0].0, failed(), now);
    assert_eq!(upstream.next_timeout(), Some(now + PAUSE_MIN));
    let later = now + PAUSE_MIN;
    let running = jobs(&mut upstream, later);
    assert_eq!(running[0].1, cid(1));
    upstream.handle_answer(running[0].0, failed(), later);
    assert_eq!(upstream.take_events(), [(FIRST, Event::DontHave(cid(1)))]);
    // An answer makes good for the failures.
    for round in 2..20 {
        upstream.ask(FIRST, cid(round), WantKind::Block);
        let at = later + u32::try_from(round).unwrap() * Duration::from_secs(10);
        let running = jobs(&mut upstream, at);
        let answer = if round % 2 == 0 { Answer::Block(block(round)) } else { failed() };
        upstream.handle_answer(running[0].0, answer, at);
    }
    assert!(upstream.take_events().iter().all(|(_, event)| !matches!(event, Event::Down)));
}

#[test]
fn one_that_only_fails_is_left_alone_longer_and_longer() {
    let mut now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    let mut absences = Vec::new();
    for _ in 0..8 {
        for round in 0.. {
            upstream.ask(FIRST, cid(round), WantKind::Block);
            upstream.ask(FIRST, cid(round + 1), WantKind::Block);
            for (number, _) in jobs(&mut upstream, now) {
                upstream.handle_answer(number, failed(), now);
            }
            let wake_at = upstream.next_timeout().unwrap_or(now);
            if upstream.take_events().contains(&(FIRST, Event::Down)) {
                absences.push((wake_at - now).as_secs());
                now = wake_at;
                break;
            }
            now = wake_at;
        }
        assert_eq!(upstream.poll_job(now), Some(Job::Probe));
        upstream.handle_probe(Ok(REQUESTS_MAX), now);
    }
    assert_eq!(absences, [15, 30, 60, 120, 240, 480, 600, 600]);
}

#[test]
fn one_that_sends_something_else_is_done_with() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST, SECOND], now);
    upstream.ask(FIRST, cid(1), WantKind::Block);
    upstream.ask(SECOND, cid(2), WantKind::Block);
    let running = jobs(&mut upstream, now);
    upstream.handle_answer(running[0].0, Answer::Trouble(Trouble::Wrong("it lies".into())), now);
    let remark = Event::Remark("it lies".into());
    assert_eq!(
        upstream.take_events(),
        [(FIRST, remark.clone()), (FIRST, Event::Down), (SECOND, remark), (SECOND, Event::Down)]
    );
    assert_eq!(upstream.take_called_off(), [running[1].0]);
    assert_eq!(upstream.poll_job(now + Duration::from_hours(1)), None);
}

#[test]
fn one_that_has_nothing_is_asked_no_more() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST], now);
    let mut missing = 0;
    for number in 0..300 {
        upstream.ask(FIRST, cid(number), WantKind::Block);
    }
    loop {
        let running = jobs(&mut upstream, now);
        if running.is_empty() {
            break;
        }
        for (number, _) in running {
            upstream.handle_answer(number, Answer::Missing, now);
        }
        missing += upstream.take_events().iter().filter(|(_, event)| matches!(event, Event::DontHave(_))).count();
    }
    assert_eq!(missing, usize::try_from(MISSING_MAX).unwrap());
}

#[test]
fn what_is_withdrawn_or_closed_is_called_off() {
    let now = Instant::now();
    let mut upstream = proven(&[FIRST, SECOND], now);
    for number in 0..10 {
        upstream.ask(FIRST, cid(number), WantKind::Block);
        upstream.ask(SECOND, cid(number), WantKind::Have);
    }
    let running = jobs(&mut upstream, now);
    assert_eq!(running.len(), REQUESTS_FIRST);
    for number in 0..10 {
        upstream.withdraw(FIRST, &cid(number));
    }
    let mut called_off = upstream.take_called_off();
    assert_eq!(called_off.len(), REQUESTS_FIRST / 2);
    called_off.extend(jobs(&mut upstream, now).iter().map(|(number, _)| *number));
    assert_eq!(called_off.len(), REQUESTS_FIRST, "there is room for others");
    upstream.close(SECOND);
    assert_eq!(upstream.take_called_off().len(), REQUESTS_FIRST);
    assert_eq!(jobs(&mut upstream, now), []);
}
