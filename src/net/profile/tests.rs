//! Tables for the network profile.

use super::*;

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| address(text)).collect()
}

fn subnets() -> Vec<Subnet> {
    [("127.0.0.1", 8), ("192.168.1.7", 24), ("10.9.0.1", 32), ("::1", 128), ("fd00::7", 64), ("fe80::7", 64)]
        .into_iter()
        .map(|(address, prefix_bits)| Subnet { address: address.parse().unwrap(), prefix_bits })
        .collect()
}

fn lan() -> Profile {
    Profile::Lan { subnets: subnets() }
}

#[test]
fn auto_follows_interfaces_and_external_addresses() {
    let private = subnets();
    let mut global = subnets();
    global.push(Subnet { address: "8.8.8.8".parse().unwrap(), prefix_bits: 24 });
    let lan = Profile::Lan { subnets: private.clone() };
    for (external, interfaces, expected) in [
        (&[][..], &private, &lan),
        (&[], &global, &Profile::Public),
        (&["/ip4/9.9.9.9/tcp/4001"], &private, &Profile::Public),
        (&["/ip4/192.168.1.7/tcp/4001"], &private, &lan),
        (&["/dns4/pins.example.org/tcp/4001"], &private, &Profile::Public),
        (&["/dns4/localhost/tcp/4001"], &private, &lan),
        (&["/dns4/10.0.0.1/tcp/4001"], &private, &lan),
        (&["/ip4/192.168.1.7/tcp/4001", "/ip6/2606:4700::1/udp/1/quic-v1"], &private, &Profile::Public),
    ] {
        assert_eq!(&resolve(ProfileChoice::Auto, &addresses(external), interfaces), expected, "{external:?}");
    }
    assert_eq!(resolve(ProfileChoice::Public, &[], &private), Profile::Public);
    assert_eq!(
        resolve(ProfileChoice::Lan, &addresses(&["/ip4/9.9.9.9/tcp/1"]), &global),
        Profile::Lan { subnets: global.clone() }
    );
}

#[test]
fn this_machine_has_loopback() {
    let interfaces = interfaces().unwrap();
    assert!(interfaces.iter().any(|own| address::reach(own.address) == Reach::Loopback), "{interfaces:?}");
}

#[test]
fn dialling_follows_the_profile() {
    let peer = PeerId::random();
    let relayed = format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}/p2p-circuit");
    let only_peer = format!("/p2p/{peer}");
    let with_peer = format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}");
    let ok = Ok(());
    let unusable = |unusable| Err(Refusal::Unusable(unusable));
    // The address, then the answers in the public profile, in lan when trusted, in lan when not.
    for (text, public, trusted, untrusted) in [
        ("/ip4/8.8.8.8/tcp/4001", ok, ok, ok),
        (with_peer.as_str(), ok, ok, ok),
        ("/ip6/2606:4700::1/udp/4001/quic-v1", ok, ok, ok),
        ("/ip4/127.0.0.1/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip4/127.1.2.3/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip6/::1/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip6/::ffff:127.0.0.1/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip4/192.168.1.9/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip6/::ffff:192.168.1.9/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip4/192.168.2.9/tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/ip4/10.9.0.2/tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/ip4/169.254.169.254/tcp/80", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/ip6/fd00::9/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/ip6/fd01::9/tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/ip6/fe80::9/tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::NoMachine), Err(Refusal::Untrusted)),
        ("/ip6/64:ff9b::7f00:1/tcp/1", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/ip6/2002:7f00:1::/tcp/1", Err(Refusal::NotGlobal), Err(Refusal::OutsideSubnets), Err(Refusal::Untrusted)),
        ("/dns4/127.0.0.1/tcp/4001", Err(Refusal::NotGlobal), ok, Err(Refusal::Untrusted)),
        ("/dns4/localhost/tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::Unresolved), Err(Refusal::Untrusted)),
        ("/dns/nas.local./tcp/4001", Err(Refusal::NotGlobal), Err(Refusal::Unresolved), Err(Refusal::Untrusted)),
    ] {
        assert_eq!(Profile::Public.may_dial(&address(text), true), public, "public {text}");
        assert_eq!(Profile::Public.may_dial(&address(text), false), public, "public {text}");
        assert_eq!(lan().may_dial(&address(text), true), trusted, "lan, trusted: {text}");
        assert_eq!(lan().may_dial(&address(text), false), untrusted, "lan, untrusted: {text}");
    }
    for (text, expected) in [
        ("/ip4/0.0.0.0/tcp/4001", Err(Refusal::NoMachine)),
        ("/ip6/::/tcp/4001", Err(Refusal::NoMachine)),
        ("/ip6/::ffff:0.0.0.0/tcp/4001", Err(Refusal::NoMachine)),
        ("/ip4/224.0.0.1/tcp/4001", Err(Refusal::NoMachine)),
        ("/ip4/255.255.255.255/udp/1/quic-v1", Err(Refusal::NoMachine)),
        ("/ip4/8.8.8.8/tcp/0", Err(Refusal::NoMachine)),
        ("/dns4/example.org/tcp/4001", Err(Refusal::Unresolved)),
        ("/dns6/example.org/udp/4001/quic-v1", Err(Refusal::Unresolved)),
        ("/dnsaddr/example.org", Err(Refusal::Unresolved)),
        // The relay is what is dialled.
        (relayed.as_str(), Ok(())),
        (only_peer.as_str(), unusable(Unusable::NoHost)),
        ("/ip4/8.8.8.8/tcp/1/ws", Ok(())),
        ("/ip4/8.8.8.8/tcp/0/ws", Err(Refusal::NoMachine)),
        ("/ip4/8.8.8.8/tcp/1/tls/sni/example.org/ws", Ok(())),
        ("/dns4/example.org/tcp/443/tls/ws", Err(Refusal::Unresolved)),
        ("/ip4/8.8.8.8/tcp/1/tls", unusable(Unusable::Transport)),
        ("/ip4/8.8.8.8/udp/1", unusable(Unusable::Transport)),
    ] {
        for profile in [Profile::Public, lan()] {
            for trusted in [true, false] {
                assert_eq!(profile.may_dial(&address(text), trusted), expected, "{profile:?} {trusted} {text}");
            }
        }
    }
}

#[test]
fn announcing_follows_the_profile() {
    for (text, public, in_lan) in [
        ("/ip4/8.8.8.8/tcp/4001", true, true),
        ("/ip6/2606:4700::1/udp/4001/quic-v1", true, true),
        ("/dns4/example.org/tcp/4001", true, true),
        ("/dns4/localhost/tcp/4001", false, true),
        ("/dns4/10.0.0.1/tcp/4001", false, true),
        ("/ip4/127.0.0.1/tcp/4001", false, true),
        ("/ip4/192.168.1.7/tcp/4001", false, true),
        ("/ip6/fd00::7/tcp/4001", false, true),
        ("/ip6/fe80::7/tcp/4001", false, false),
        ("/ip4/0.0.0.0/tcp/4001", false, false),
        ("/ip6/::/tcp/4001", false, false),
        ("/ip4/8.8.8.8/tcp/0", false, false),
        ("/ip4/8.8.8.8/tcp/4001/ws", true, true),
        ("/dns/example.org/tcp/443/tls/ws", true, true),
        ("/ip4/10.0.0.1/tcp/4001/ws", false, true),
        ("/ip4/8.8.8.8/udp/4001/webrtc-direct", false, false),
    ] {
        assert_eq!(Profile::Public.may_announce(&address(text)), public, "public {text}");
        assert_eq!(lan().may_announce(&address(text)), in_lan, "lan {text}");
    }
}

#[test]
fn origins_are_checked_with_a_sentence() {
    let own = PeerId::random();
    let other = PeerId::random();
    for text in [
        format!("/ip4/8.8.8.8/tcp/4001/p2p/{other}"),
        format!("/ip4/8.8.8.8/udp/4001/quic-v1/p2p/{other}"),
        format!("/dns4/example.org/tcp/4001/p2p/{other}"),
        format!("/dnsaddr/example.org/p2p/{other}"),
        format!("/ip4/8.8.8.8/tcp/4001/ws/p2p/{other}"),
        format!("/dns4/example.org/tcp/443/wss/p2p/{other}"),
        format!("/ip4/8.8.8.8/tcp/4001/p2p/{}/p2p-circuit/p2p/{other}", PeerId::random()),
    ] {
        assert_eq!(check_origin(&Profile::Public, &text, own), Ok(Origin::Peer(other, address(&text))));
        assert_eq!(check_origin(&lan(), &text, own), Ok(Origin::Peer(other, address(&text))));
    }
    let local = format!("/ip4/192.168.1.9/tcp/4001/p2p/{other}");
    assert_eq!(check_origin(&lan(), &local, own), Ok(Origin::Peer(other, address(&local))));

    for (text, reason) in [
        ("hello".to_owned(), "not a multiaddr"),
        (String::new(), "does not end in /p2p/"),
        ("/ip4/8.8.8.8/tcp/4001".to_owned(), "does not end in /p2p/"),
        (format!("/ip4/8.8.8.8/tcp/4001/p2p/{own}"), "this service itself"),
        (local.clone(), "not globally routable"),
        (format!("/dns4/localhost/tcp/4001/p2p/{other}"), "not globally routable"),
        (format!("/ip4/8.8.8.8/udp/4001/webrtc-direct/p2p/{other}"), "transport is not supported"),
        (format!("/ip4/10.0.0.1/tcp/4001/ws/p2p/{other}"), "not globally routable"),
        (format!("/ip4/8.8.8.8/tcp/4001/p2p/{other}/p2p-circuit"), "does not end in /p2p/"),
        (format!("/ip4/8.8.8.8/tcp/4001/p2p-circuit/p2p/{other}"), "the relay's peer id"),
        (format!("/ip4/8.8.8.8/tcp/4001/p2p/{other}/p2p-circuit/p2p/{own}"), "this service itself"),
        (format!("/ip4/10.0.0.1/tcp/4001/p2p/{other}/p2p-circuit/p2p/{other}"), "not globally routable"),
        (format!("/p2p/{own}/p2p-circuit/p2p/{other}"), "only a peer id"),
        (format!("/p2p/{other}"), "only a peer id"),
        (format!("/ip4/0.0.0.0/tcp/4001/p2p/{other}"), "names no machine"),
    ] {
        let sentence = check_origin(&Profile::Public, &text, own).unwrap_err();
        assert!(sentence.contains(reason), "{sentence}");
    }
    let outside = format!("/ip4/192.168.77.9/tcp/4001/p2p/{other}");
    assert!(check_origin(&lan(), &outside, own).unwrap_err().contains("neither globally routable nor inside"));
    let long = "x".repeat(10_000);
    assert!(check_origin(&lan(), &long, own).unwrap_err().chars().count() < 100);
}

#[test]
fn gateways_are_checked_with_a_sentence() {
    let (own, other) = (PeerId::random(), PeerId::random());
    let gateway = |text: &str| Origin::Gateway(GatewayAddress::parse(text).unwrap().unwrap().0);
    for text in [
        "/dns/example.org/https".to_owned(),
        "/ip4/8.8.8.8/tcp/443/tls/sni/example.org/http".to_owned(),
        "/dns/example.org/https/http-path/deep%2Fdown".to_owned(),
        format!("/dns4/example.org/tcp/443/tls/http/p2p/{other}"),
    ] {
        assert_eq!(check_origin(&Profile::Public, &text, own), Ok(gateway(&text)), "{text}");
        assert_eq!(check_origin(&lan(), &text, own), Ok(gateway(&text)), "{text}");
    }
    for text in ["/ip4/127.0.0.1/tcp/8080/http", "/ip4/192.168.1.9/tcp/443/https", "/dns/nas.local/tcp/8080/http"] {
        assert_eq!(check_origin(&lan(), text, own), Ok(gateway(text)), "{text}");
    }
    let plain = "plain HTTP";
    for (text, in_public, in_lan) in [
        ("/ip4/8.8.8.8/tcp/80/http", Some(plain), Some(plain)),
        ("/dns/example.org/tcp/80/http", Some(plain), None),
        ("/ip4/127.0.0.1/tcp/8080/http", Some("not globally routable"), None),
        ("/ip4/169.254.169.254/tcp/443/https", Some("not globally routable"), Some("nor inside")),
        ("/ip4/127.0.0.1/tcp/443/tls/sni/example.org/http", Some("not globally routable"), None),
        ("/dns4/10.9.8.7/tcp/443/https", Some("not globally routable"), Some("nor inside")),
        ("/dns/localhost/https", Some("not globally routable"), None),
        ("/ip4/0.0.0.0/tcp/443/https", Some("names no machine"), Some("names no machine")),
        ("/ip4/8.8.8.8/udp/443/quic-v1/http", Some("are supported"), Some("are supported")),
        ("/dns/0x7f000001/https", Some("not the name of a host"), Some("not the name of a host")),
        (&format!("/dns/example.org/https/p2p/{own}"), Some("this service itself"), Some("this service itself")),
    ] {
        for (profile, expected) in [(Profile::Public, in_public), (lan(), in_lan)] {
            match (check_origin(&profile, text, own), expected) {
                (Ok(_), None) => {}
                (Err(sentence), Some(reason)) => assert!(sentence.contains(reason), "{text}: {sentence}"),
                (found, expected) => panic!("{text} in {profile:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
    // What a name resolves to is asked for again.
    for (ip, secure, in_public, in_lan) in [
        ("8.8.8.8", true, true, true),
        ("8.8.8.8", false, false, false),
        ("127.0.0.1", true, false, true),
        ("127.0.0.1", false, false, true),
        ("169.254.169.254", true, false, false),
        ("::ffff:10.1.2.3", true, false, false),
    ] {
        let ip = ip.parse().unwrap();
        assert_eq!(Profile::Public.may_ask_ip(ip, secure).is_ok(), in_public, "{ip}");
        assert_eq!(lan().may_ask_ip(ip, secure).is_ok(), in_lan, "{ip}");
    }
}

#[test]
fn a_peer_is_known_from_an_origin_that_cannot_be_dialled() {
    let peer = PeerId::random();
    for text in [
        format!("/p2p/{peer}"),
        format!("/ip4/192.168.0.1/tcp/1/p2p/{peer}"),
        format!("/dns/example.org/https/http-path/a%2Fb/p2p/{peer}"),
        format!("/ip4/8.8.8.8/tcp/1/p2p/{}/p2p-circuit/p2p/{peer}", PeerId::random()),
    ] {
        assert_eq!(origin_peer(&text), Some(peer), "{text}");
    }
    for text in ["", "hello", "/ip4/8.8.8.8/tcp/1", "/dns/example.org/https", "/dns/1/https"] {
        assert_eq!(origin_peer(text), None, "{text}");
    }
}

#[test]
fn delegates_can_be_dialled_and_are_never_none() {
    let own = PeerId::random();
    let listen = addresses(&[
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/192.168.1.7/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/fe80::7/tcp/4001",
        "/ip4/8.8.8.8/tcp/4001",
    ]);
    let own_text = format!("/ip4/9.9.9.9/tcp/4001/p2p/{own}");
    let relayed = format!("/ip4/9.9.9.7/tcp/4001/p2p/{}/p2p-circuit", PeerId::random());
    let relayed_privately = relayed.replace("9.9.9.7", "10.9.9.7");
    let foreign_text = format!("/ip4/9.9.9.8/tcp/4001/p2p/{}", PeerId::random());
    for (profile, confirmed, listen, expected, last_resort) in [
        (
            &Profile::Public,
            &["/dns4/example.org/tcp/4001"][..],
            &listen[..],
            &["/dns4/example.org/tcp/4001"][..],
            false,
        ),
        // Nobody has reached it there yet.
        (&Profile::Public, &["/ip4/10.0.0.1/tcp/4001"], &listen, &["/ip4/8.8.8.8/tcp/4001"], true),
        (&Profile::Public, &[relayed.as_str()], &listen, &[relayed.as_str()], false),
        (&Profile::Public, &[relayed_privately.as_str()], &listen, &["/ip4/8.8.8.8/tcp/4001"], true),
        (&Profile::Public, &["/ip4/8.8.8.8/tcp/4001"], &listen, &["/ip4/8.8.8.8/tcp/4001"], false),
        (&Profile::Public, &[own_text.as_str(), &foreign_text], &[], &["/ip4/9.9.9.9/tcp/4001"], false),
        (
            &lan(),
            &[],
            &listen,
            &["/ip4/8.8.8.8/tcp/4001", "/ip4/192.168.1.7/tcp/4001", "/ip4/127.0.0.1/tcp/4001"],
            false,
        ),
        (&Profile::Public, &[], &listen[..3], &["/ip4/192.168.1.7/tcp/4001", "/ip4/127.0.0.1/tcp/4001"], true),
        (&Profile::Public, &[], &[], &[""], true),
        (&lan(), &[], &addresses(&["/ip4/0.0.0.0/tcp/4001"]), &[""], true),
    ] {
        let (found, is_last_resort) = delegates(profile, &addresses(confirmed), listen, own);
        let expected = expected.iter().map(|text| address(&format!("{text}/p2p/{own}"))).collect::<Vec<_>>();
        assert_eq!(found, expected, "{profile:?} {confirmed:?}");
        assert_eq!(is_last_resort, last_resort, "{profile:?} {confirmed:?}");
    }
}

#[test]
fn delegates_are_cut_at_the_bound() {
    let own = PeerId::random();
    let many = (1..=100).map(|port| address(&format!("/ip4/8.8.8.8/tcp/{port}"))).collect::<Vec<_>>();
    let (found, last_resort) = delegates(&Profile::Public, &many, &[], own);
    assert_eq!((found.len(), last_resort), (DELEGATES_MAX, false));
    let (found, _) = delegates(&Profile::Public, &[], &many, own);
    assert_eq!(found.len(), DELEGATES_MAX);
}
