//! What the schedule does, step by step.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn schedule(active_max: usize) -> Schedule {
    Schedule::new(ScheduleLimits { active_max, retry_min: SECOND, retry_max: 8 * SECOND, turn: 30 * SECOND })
}

fn pins(count: usize) -> Vec<PinId> {
    let mut pins: Vec<PinId> = (0..count).map(|_| PinId::new()).collect();
    pins.sort_unstable();
    pins
}

#[test]
fn users_take_turns_and_the_oldest_pin_goes_first() {
    let (mut schedule, pins) = (schedule(10), pins(5));
    for pin in &pins[..4] {
        schedule.add(*pin, UserId(1));
    }
    schedule.add(pins[4], UserId(2));
    for (pin, ahead) in pins.iter().zip([0, 2, 3, 4, 1]) {
        assert_eq!(schedule.standing(pin), Some(Standing::Ready(ahead)));
    }
    let order: Vec<PinId> = std::iter::from_fn(|| schedule.start_next()).collect();
    assert_eq!(order, [pins[0], pins[4], pins[1], pins[2], pins[3]]);
}

#[test]
fn slots_are_bounded_and_freed() {
    let (mut schedule, pins) = (schedule(1), pins(2));
    schedule.add(pins[0], UserId(1));
    schedule.add(pins[1], UserId(1));
    assert_eq!(schedule.start_next(), Some(pins[0]));
    assert_eq!(schedule.start_next(), None);
    schedule.ending(pins[0]);
    assert_eq!(schedule.standing(&pins[0]), Some(Standing::Ending));
    assert_eq!(schedule.start_next(), Some(pins[1]), "writing down how a pin ended takes no slot");
    assert!(schedule.remove(pins[0]));
    assert!(!schedule.remove(pins[0]));
    assert_eq!(schedule.standing(&pins[0]), None);
}

#[test]
fn a_stalled_pin_waits_longer_each_time_up_to_the_bound() {
    let (mut schedule, pin, mut now) = (schedule(1), PinId::new(), Instant::now());
    schedule.add(pin, UserId(1));
    for (seconds, progressed) in [(1, false), (2, false), (4, false), (8, false), (8, false), (1, true), (2, false)] {
        assert_eq!(schedule.start_next(), Some(pin));
        let at = schedule.stalled(pin, now, 0.0, progressed);
        assert_eq!(at, now + seconds * SECOND);
        assert_eq!(schedule.standing(&pin), Some(Standing::Waiting(at)));
        assert_eq!(schedule.start_next(), None);
        assert!(schedule.handle_timeout(at - Duration::from_millis(1)).is_empty());
        assert_eq!(schedule.handle_timeout(at), [pin]);
        now = at;
    }
}

#[test]
fn jitter_adds_at_most_a_quarter() {
    let (mut schedule, pin, now) = (schedule(1), PinId::new(), Instant::now());
    schedule.add(pin, UserId(1));
    schedule.start_next();
    assert_eq!(schedule.stalled(pin, now, 1.0, false), now + SECOND.mul_f64(1.25));
    assert_eq!(schedule.next_timeout(), Some(now + SECOND.mul_f64(1.25)));
}

#[test]
fn those_that_come_back_go_behind_those_that_wait_and_news_go_before_them() {
    let (mut schedule, pins, now) = (schedule(2), pins(4), Instant::now());
    for pin in &pins {
        schedule.add(*pin, UserId(1));
    }
    assert_eq!((schedule.start_next(), schedule.start_next()), (Some(pins[0]), Some(pins[1])));
    assert!(!schedule.wake(pins[0]), "an active pin doesn't wait");
    schedule.stalled(pins[0], now, 0.5, false);
    schedule.stalled(pins[1], now, 0.5, false);
    assert_eq!(schedule.handle_timeout(now + 100 * SECOND).len(), 2);
    assert_eq!(schedule.start_next(), Some(pins[2]));
    schedule.stalled(pins[2], now, 0.0, false);
    assert!(schedule.wake(pins[2]));
    assert_eq!(schedule.next_timeout(), None);
    let order: Vec<PinId> = std::iter::from_fn(|| schedule.start_next()).collect();
    assert_eq!(order, [pins[2], pins[3]]);
}

#[test]
fn a_pin_is_in_one_place_only() {
    let (mut schedule, pin, now) = (schedule(2), PinId::new(), Instant::now());
    schedule.add(pin, UserId(1));
    schedule.add(pin, UserId(1));
    assert_eq!(schedule.start_next(), Some(pin));
    schedule.add(pin, UserId(1));
    assert_eq!(schedule.start_next(), None);
    schedule.stalled(pin, now, 0.0, false);
    assert!(schedule.remove(pin));
    assert!(schedule.handle_timeout(now + 100 * SECOND).is_empty());
    assert!(schedule.active.is_empty());
}

#[test]
fn one_that_takes_long_makes_place_when_others_wait_and_gets_longer_turns() {
    let (mut schedule, pins, now) = (schedule(1), pins(2), Instant::now());
    schedule.add(pins[0], UserId(1));
    schedule.start_next();
    assert_eq!(schedule.overdue(now + 1000 * SECOND), None, "nobody waits");
    schedule.add(pins[1], UserId(1));
    assert_eq!(schedule.overdue(now + 1000 * SECOND), None, "its turn begins with its first block");
    schedule.progressed(pins[0], now);
    schedule.progressed(pins[0], now + 10 * SECOND);
    assert_eq!(schedule.overdue(now + 29 * SECOND), None);
    assert_eq!(schedule.overdue(now + 30 * SECOND), Some(pins[0]));
    schedule.yielded(pins[0]);
    assert_eq!(schedule.start_next(), Some(pins[1]));
    schedule.remove(pins[1]);
    assert_eq!(schedule.start_next(), Some(pins[0]));
    schedule.add(pins[1], UserId(1));
    schedule.progressed(pins[0], now);
    assert_eq!(schedule.overdue(now + 59 * SECOND), None, "the second turn is twice as long");
    assert_eq!(schedule.overdue(now + 60 * SECOND), Some(pins[0]));
}

#[test]
fn pins_with_one_dag_share_a_slot_and_hand_it_over() {
    let (mut schedule, pins, now) = (schedule(1), pins(3), Instant::now());
    for pin in &pins {
        schedule.add(*pin, UserId(1));
    }
    schedule.start_next();
    schedule.progressed(pins[0], now);
    schedule.join(pins[1]);
    assert_eq!(schedule.standing(&pins[1]), Some(Standing::Active));
    assert_eq!(schedule.start_next(), None);
    schedule.hand_over(pins[0], pins[1]);
    schedule.remove(pins[0]);
    assert_eq!(schedule.start_next(), None, "the slot is taken still");
    assert_eq!(schedule.overdue(now + 30 * SECOND), Some(pins[1]), "and so is the turn");
    schedule.remove(pins[1]);
    assert_eq!(schedule.start_next(), Some(pins[2]));
}
