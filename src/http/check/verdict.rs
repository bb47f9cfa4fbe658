//! What a check comes to, in sentences. Pure.

use std::collections::BTreeSet;

use super::{CheckedAddress, CheckedPin, Held, Scope, Source};
use crate::model::query::Status;

/// What the DHT knows of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Nobody has to find it.
    Pointless,
    /// We take no part in the DHT.
    NoDht,
    /// That we have it.
    Found,
    /// Not that we have it.
    Missing {
        /// How many servers said so.
        servers: u32,
    },
    /// No server answered in time.
    Unanswered,
}

/// What the sentences are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) held: Held,
    pub(super) pin: Option<&'a CheckedPin>,
    pub(super) record: &'a Record,
    pub(super) addresses: &'a [CheckedAddress],
}

impl Facts<'_> {
    /// What works, what doesn't, and what to do.
    pub(super) fn verdict(&self) -> String {
        if self.held == Held::Inline {
            return "nothing needs to be fetched: the CID holds the data itself, so whoever has the CID has the content"
                .to_owned();
        }
        let (count, reached) = (self.addresses.len(), self.reached());
        let over = format!("{reached} of {}", plural(count, "address", "addresses"));
        let fastest = self.addresses.iter().filter_map(|address| address.block_ms).min_by(f64::total_cmp);
        if let Some(milliseconds) = fastest {
            let mut verdict = format!("reachable over {over}; the root came in {milliseconds} ms");
            for more in [self.incomplete(), self.only_here(), self.others()].into_iter().flatten() {
                verdict.push_str("; ");
                verdict.push_str(&more);
            }
            return verdict;
        }
        if self.held == Held::Nothing {
            return self.not_held();
        }
        if reached == 0 {
            return format!(
                "held, but no address could be reached from here: open {} in the firewall, and name the address under which others reach this machine in network.external",
                self.ports()
            );
        }
        let reason = self.addresses.iter().find(|address| address.reached).map_or("", |address| &address.details);
        format!("held and reachable over {over}, but the root came over none of them: {reason}")
    }

    /// Whether peers find the content without being told where it is.
    pub(super) fn provider_record(&self) -> String {
        match self.record {
            Record::Pointless => "none is needed, as nothing has to be found".to_owned(),
            Record::NoDht => "none, as this node takes no part in the DHT (the key network.dht); so peers need one of these addresses, or an open connection, to find it".to_owned(),
            Record::Found => "found in the DHT, so whoever has the CID finds this node".to_owned(),
            Record::Missing { servers } => format!(
                "not found: {} answered, and none of them knows that this node has it. The root of a pin is provided soon after it is pinned; `pinnace provide status` says how that goes",
                plural(*servers as usize, "server of the DHT", "servers of the DHT")
            ),
            Record::Unanswered => "unknown, as no server of the DHT answered in time; is this machine online?".to_owned(),
        }
    }

    /// What a check from this machine can't show.
    pub(super) fn caveat(&self) -> String {
        if self.addresses.is_empty() {
            return "no address was dialled".to_owned();
        }
        let mut kinds = Vec::new();
        for (scope, what) in [
            (Scope::Public, "public"),
            (Scope::Name, "names, which others look up for themselves"),
            (Scope::Private, "private, for the same network only"),
            (Scope::Loopback, "loopback, for this machine only"),
            (Scope::Other, "of no use to other machines"),
        ] {
            let addresses = self.addresses.iter().filter(|address| address.scope == scope);
            let addresses: Vec<&str> = addresses.map(|address| without_peer(&address.address)).collect();
            match (addresses.as_slice(), scope) {
                ([], Scope::Public) => kinds.push(format!("{what}: none")),
                ([], _) => {}
                _ => kinds.push(format!("{what}: {}", addresses.join(", "))),
            }
        }
        let last_resort = if self.addresses.iter().any(|address| address.source == Source::LastResort) {
            ". They are only what the node listens on, as none is known to be reachable from other machines"
        } else {
            ""
        };
        format!(
            "the check ran on the machine of the service itself, so it can't show that a firewall or router in front lets strangers in: try from another network, too. The addresses are {}{last_resort}",
            kinds.join("; ")
        )
    }

    fn reached(&self) -> usize {
        self.addresses.iter().filter(|address| address.reached).count()
    }

    /// What is missing of the content although its root is there.
    fn incomplete(&self) -> Option<String> {
        if self.held == Held::Whole {
            return None;
        }
        Some(match self.pin {
            Some(pin) => format!("but the pin is {}, so there may be no more than a part of it: {}", pin.status, pin.details),
            None => "but no pin of it was found, so there may be no more than a part of it, which the next garbage collection may remove".to_owned(),
        })
    }

    /// Whether all that works is of use to this machine, or its network, only.
    fn only_here(&self) -> Option<String> {
        let works_for = |scope| self.addresses.iter().any(|address| address.root_verified && address.scope == scope);
        if works_for(Scope::Public) || works_for(Scope::Name) {
            return None;
        }
        let others = if works_for(Scope::Private) { "outside this network" } else { "on other machines" };
        Some(format!(
            "but those {others} have no address that works: name the one under which they reach this machine in network.external"
        ))
    }

    /// Where to look for what is wrong with the addresses that don't work.
    fn others(&self) -> Option<String> {
        match self.addresses.iter().filter(|address| !address.root_verified).count() {
            0 => None,
            1 => Some("what is wrong with the other one stands beside it".to_owned()),
            count => Some(format!("what is wrong with the other {count} stands beside them")),
        }
    }

    fn not_held(&self) -> String {
        match self.pin {
            None => "not held: the root is not stored here, so nobody can fetch it from this node; pin it first".to_owned(),
            Some(pin) if pin.status == Status::Pinned.as_str() => {
                "not held: the pin is pinned, but its root is not in the store; `pinnace verify --repair` has what is damaged fetched again"
                    .to_owned()
            }
            Some(pin) => format!(
                "not held: the pin is {}, and its root is not stored here yet, so nobody can fetch it from this node: {}",
                pin.status, pin.details
            ),
        }
    }

    /// The ports of all addresses, such as `port 4001/tcp and 4001/udp`.
    fn ports(&self) -> String {
        let ports: BTreeSet<String> = self.addresses.iter().filter_map(|address| port(&address.address)).collect();
        match Vec::from_iter(ports).as_slice() {
            [] => "the port on which this node listens".to_owned(),
            [only] => format!("port {only}"),
            [first @ .., last] => format!("the ports {} and {last}", first.join(", ")),
        }
    }
}

/// The address without the peer at its end, which all of them share.
fn without_peer(address: &str) -> &str {
    address.rsplit_once("/p2p/").map_or(address, |(bare, _)| bare)
}

/// The port of a multiaddr, such as `4001/tcp`.
fn port(address: &str) -> Option<String> {
    let mut parts = address.split('/');
    let protocol = parts.find(|part| matches!(*part, "tcp" | "udp"))?;
    Some(format!("{}/{protocol}", parts.next()?))
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, scope: Scope) -> CheckedAddress {
        CheckedAddress {
            address: format!("{text}/p2p/12D3KooWExample"),
            scope,
            source: Source::Listening,
            reached: false,
            handshake_ms: None,
            protocol: None,
            root_verified: false,
            block_ms: None,
            failure: Some("refused".to_owned()),
            details: "refused".to_owned(),
        }
    }

    fn works(address: CheckedAddress, milliseconds: f64) -> CheckedAddress {
        CheckedAddress { reached: true, root_verified: true, block_ms: Some(milliseconds), failure: None, ..address }
    }

    fn pin(status: &str) -> CheckedPin {
        CheckedPin { id: "0190".to_owned(), status: status.to_owned(), details: "waiting".to_owned() }
    }

    fn verdict(held: Held, pin: Option<&CheckedPin>, addresses: &[CheckedAddress]) -> String {
        Facts { held, pin, record: &Record::NoDht, addresses }.verdict()
    }

    #[test]
    fn what_works_comes_first_and_what_is_missing_after_it() {
        let public = address("/ip4/203.0.113.7/tcp/4001", Scope::Public);
        let private = address("/ip4/10.0.0.1/udp/4001/quic-v1", Scope::Private);
        let loopback = address("/ip4/127.0.0.1/tcp/4001", Scope::Loopback);
        let pinned = pin("pinned");

        let all = [works(public.clone(), 3.0), private.clone(), works(loopback.clone(), 0.4)];
        let text = verdict(Held::Whole, Some(&pinned), &all);
        let expected = "reachable over 2 of 3 addresses; the root came in 0.4 ms; what is wrong with the other one stands beside it";
        assert_eq!(text, expected);
        let text = verdict(Held::Whole, Some(&pinned), &[works(public.clone(), 3.0)]);
        assert_eq!(text, "reachable over 1 of 1 address; the root came in 3 ms");

        let text = verdict(Held::Whole, Some(&pinned), &[public.clone(), works(loopback.clone(), 1.0)]);
        assert!(text.contains("1 of 2 addresses") && text.contains("those on other machines"), "{text}");
        let text = verdict(Held::Whole, Some(&pinned), &[works(private.clone(), 1.0)]);
        assert!(text.contains("1 of 1 address;") && text.contains("those outside this network"), "{text}");

        let text = verdict(Held::Root, Some(&pin("pinning")), &[works(public.clone(), 1.0)]);
        assert!(text.ends_with("but the pin is pinning, so there may be no more than a part of it: waiting"), "{text}");
        let text = verdict(Held::Root, None, &[works(public, 1.0)]);
        assert!(text.contains("no pin of it was found"), "{text}");
    }

    #[test]
    fn what_does_not_work_is_said_with_what_to_do() {
        let addresses = [
            address("/ip4/203.0.113.7/tcp/4001", Scope::Public),
            address("/ip4/203.0.113.7/udp/4001/quic-v1", Scope::Public),
            address("/dns4/example.org/tcp/4001", Scope::Name),
        ];
        let pinned = pin("pinned");
        let text = verdict(Held::Whole, Some(&pinned), &addresses);
        assert!(text.contains("no address could be reached") && text.contains("network.external"), "{text}");
        assert!(text.contains("open the ports 4001/tcp and 4001/udp"), "{text}");
        assert!(verdict(Held::Whole, Some(&pinned), &addresses[..1]).contains("open port 4001/tcp in"));

        let silent = CheckedAddress { reached: true, ..addresses[0].clone() };
        let text = verdict(Held::Whole, Some(&pinned), &[silent]);
        assert!(text.contains("reachable over 1 of 1 address") && text.ends_with("none of them: refused"), "{text}");

        assert!(verdict(Held::Nothing, None, &addresses).contains("pin it first"));
        assert!(verdict(Held::Nothing, Some(&pin("queued")), &addresses).ends_with("from this node: waiting"));
        assert!(verdict(Held::Nothing, Some(&pinned), &addresses).contains("pinnace verify --repair"));
        assert!(verdict(Held::Inline, None, &[]).starts_with("nothing needs to be fetched"));
    }

    #[test]
    fn the_caveat_names_the_kinds_of_addresses() {
        let last_resort = |address| CheckedAddress { source: Source::LastResort, ..address };
        let addresses = [
            last_resort(address("/ip4/10.0.0.1/tcp/4001", Scope::Private)),
            last_resort(address("/ip4/127.0.0.1/tcp/4001", Scope::Loopback)),
        ];
        let text = Facts { held: Held::Whole, pin: None, record: &Record::NoDht, addresses: &addresses }.caveat();
        for part in [
            "can't show",
            "public: none",
            "private, for the same network only: /ip4/10.0.0.1/tcp/4001;",
            "loopback, for this machine only: /ip4/127.0.0.1/tcp/4001.",
            "none is known to be reachable",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = Facts {
            held: Held::Whole,
            pin: None,
            record: &Record::NoDht,
            addresses: &[address("/ip4/1.1.1.1/tcp/1", Scope::Public)],
        }
        .caveat();
        assert!(text.ends_with("The addresses are public: /ip4/1.1.1.1/tcp/1"), "{text}");
    }
}
