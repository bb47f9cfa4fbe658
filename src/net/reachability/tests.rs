//! What is tested, confirmed and forgotten.

use super::*;

fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A node that listens at an address of the Internet's, and so many testers.
fn listening(testers: usize, now: Instant) -> (Reach, Multiaddr) {
    let own = addresses(&["/ip4/1.2.3.4/tcp/4001"]).remove(0);
    let mut reach = Reach::new(&[], now);
    reach.listens_on(std::slice::from_ref(&own), now);
    for _ in 0..testers {
        reach.found_tester(PeerId::random());
    }
    (reach, own)
}

fn answer(reach: &mut Reach, outcome: &Outcome, now: Instant) -> Test {
    let test = reach.next_test(now).expect("a test is due");
    reach.tested(&test, outcome.clone(), now);
    test
}

fn missed() -> Outcome {
    Outcome::Missed("it could not be dialled".to_owned())
}

#[test]
fn an_address_is_confirmed_by_two_testers() {
    let now = Instant::now();
    let (mut reach, own) = listening(3, now);
    assert_eq!(reach.standing(&[], now), Standing::Unknown);
    let first = answer(&mut reach, &Outcome::Reached, now);
    assert_eq!(first.address, own);
    assert_eq!(reach.confirmed().count(), 0, "one may lie");
    let second = answer(&mut reach, &Outcome::Reached, now);
    assert_ne!(first.tester, second.tester);
    assert_eq!(reach.confirmed().collect::<Vec<_>>(), [&own]);
    assert_eq!(reach.standing(&[], now), Standing::Reachable);
    assert!(!reach.needs_relay(now));
    assert_eq!(reach.next_test(now), None);
}

#[test]
fn one_that_has_changed_is_announced_no_longer() {
    let now = Instant::now();
    let (mut reach, _) = listening(5, now);
    for _ in 0..2 {
        answer(&mut reach, &Outcome::Reached, now);
    }
    let later = now + AGAIN_CONFIRMED;
    for left in (0..MISSED_ENOUGH).rev() {
        answer(&mut reach, &missed(), later);
        assert_eq!(reach.confirmed().count(), usize::from(left > 0), "a single tester may be wrong");
    }
    assert_eq!(reach.standing(&[], later), Standing::Unreachable);
    assert!(reach.needs_relay(later));
    let relayed =
        addresses(&["/ip4/9.9.9.9/tcp/1/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8/p2p-circuit"]);
    assert_eq!(reach.standing(&relayed, later), Standing::Relayed);
    // Once the port is open, it is found before long.
    assert_eq!(reach.next_test(later + AGAIN_UNREACHABLE / 2), None);
    for _ in 0..2 {
        answer(&mut reach, &Outcome::Reached, later + AGAIN_UNREACHABLE);
    }
    assert_eq!(reach.standing(&[], later + AGAIN_UNREACHABLE), Standing::Reachable);
}

#[test]
fn few_testers_decide_after_a_while() {
    let now = Instant::now();
    for (outcome, state) in [(Outcome::Reached, State::Confirmed), (missed(), State::Unreachable)] {
        let (mut reach, _) = listening(1, now);
        answer(&mut reach, &outcome, now);
        assert_eq!(reach.next_test(now), None, "nobody is asked twice");
        assert_eq!(reach.look(Vec::new(), now).tested[0].state, State::Untested);
        assert_eq!(reach.next_test(now + ROUND_MAX), None);
        assert_eq!(reach.look(Vec::new(), now).tested[0].state, state);
    }
}

#[test]
fn those_who_decline_are_asked_another_time_and_those_who_are_gone_never() {
    let now = Instant::now();
    let (mut reach, _) = listening(2, now);
    answer(&mut reach, &Outcome::Declined, now);
    assert_eq!(reach.next_test(now), None, "the next one only after a while");
    answer(&mut reach, &Outcome::Gone, now + DECLINED_WAIT);
    assert_eq!(reach.look(Vec::new(), now).testers, 1);
    assert_eq!(reach.next_test(now + 2 * DECLINED_WAIT), None);
    assert!(reach.next_test(now + AGAIN_UNREACHABLE).is_some());
}

#[test]
fn an_address_that_peers_of_several_networks_see_is_a_candidate() {
    let now = Instant::now();
    let mut reach = Reach::new(&[], now);
    reach.listens_on(&addresses(&["/ip4/192.168.1.2/tcp/4001", "/ip4/192.168.1.2/udp/4001/quic-v1"]), now);
    assert!(reach.candidates.is_empty(), "nobody reaches those from outside");
    reach.found_tester(PeerId::random());
    let seen = addresses(&["/ip4/1.2.3.4/tcp/50001", "/ip4/1.2.3.4/tcp/50002", "/ip4/10.0.0.1/tcp/4001"]);
    reach.observed(PeerId::random(), "5.5.5.5".parse().unwrap(), &seen[0], now);
    reach.observed(PeerId::random(), "5.5.6.6".parse().unwrap(), &seen[0], now);
    reach.observed(PeerId::random(), "6.6.6.6".parse().unwrap(), &seen[2], now);
    assert_eq!(reach.next_test(now), None, "both observers are in one network");
    reach.observed(PeerId::random(), "6.6.6.6".parse().unwrap(), &seen[1], now);
    let mut found: Vec<String> = reach.candidates.iter().map(|each| each.address.to_string()).collect();
    found.sort_unstable();
    assert_eq!(found, ["/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/udp/4001/quic-v1"], "with the ports that we listen on");
    reach.observed(PeerId::random(), "7.7.7.7".parse().unwrap(), &seen[0], now);
    assert_eq!(reach.candidates.len(), 3, "and with one that two see");
}

#[test]
fn nobody_makes_it_remember_without_bound() {
    let now = Instant::now();
    let mut reach = Reach::new(&addresses(&["/dns4/example.org/tcp/4001"]), now);
    reach.listens_on(&addresses(&["/ip4/8.8.8.8/tcp/4001"]), now);
    for number in 0..5_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let ip = IpAddr::from([20, b, c, a]);
        let seen = format!("/ip4/{}/tcp/{}", IpAddr::from([21, b, c, 1]), 1 + number % 7).parse().unwrap();
        reach.observed(PeerId::random(), ip, &seen, now);
        reach.observed(PeerId::random(), IpAddr::from([22, c, b, a]), &seen, now);
        reach.found_tester(PeerId::random());
        reach.mapped(&seen, now);
    }
    assert_eq!(reach.candidates.len(), CANDIDATES_MAX);
    assert_eq!(reach.observations.len(), OBSERVATIONS_MAX);
    assert_eq!(reach.testers.len(), TESTERS_MAX);
    assert!(reach.candidates.iter().any(|each| each.source == Source::Configured));
    assert!(reach.candidates.iter().any(|each| each.source == Source::Interface));
    let mut running = 0;
    while reach.next_test(now).is_some() {
        running += 1;
    }
    assert_eq!(running, TESTS_MAX);
}

#[test]
fn what_the_operator_says_counts_and_is_tested_all_the_same() {
    let now = Instant::now();
    let mut reach = Reach::new(&addresses(&["/dns4/example.org/tcp/4001"]), now);
    for _ in 0..3 {
        reach.found_tester(PeerId::random());
    }
    for _ in 0..3 {
        answer(&mut reach, &missed(), now);
    }
    assert_eq!(reach.standing(&[], now), Standing::Reachable);
    let look = reach.look(Vec::new(), now);
    assert_eq!((look.tested[0].source, look.tested[0].state), (Source::Configured, State::Unreachable));
    assert_eq!(look.tested[0].problem.as_deref(), Some("it could not be dialled"));
}

#[test]
fn without_any_address_nobody_reaches_us() {
    let now = Instant::now();
    let mut reach = Reach::new(&[], now);
    let late = now + CANDIDATE_WAIT;
    assert_eq!(reach.standing(&[], late), Standing::Unknown, "no peer is there, so the machine may be offline");
    assert!(!reach.needs_relay(late) && reach.needs_relay(now + RELAY_WAIT));
    let seen = addresses(&["/ip4/1.2.3.4/tcp/50001"]);
    reach.observed(PeerId::random(), "5.5.5.5".parse().unwrap(), &seen[0], now);
    assert_eq!(reach.standing(&[], now), Standing::Unknown);
    assert_eq!(reach.standing(&[], late), Standing::Unreachable);
}

#[test]
fn an_address_of_an_interface_that_is_gone_is_forgotten() {
    let now = Instant::now();
    let (mut reach, own) = listening(3, now);
    let test = reach.next_test(now).unwrap();
    let other = addresses(&["/ip4/4.3.2.1/tcp/4001"]);
    reach.listens_on(&other, now);
    reach.tested(&test, Outcome::Reached, now);
    assert!(reach.candidates.iter().all(|each| each.address != own));
    assert_eq!(reach.candidates.len(), 1);
    reach.mapped(&own, now);
    assert_eq!(reach.candidates.len(), 2);
    reach.unmapped(&own);
    assert_eq!(reach.candidates.len(), 1);
}
