//! Whether others reach the node, over which address, why not, and what to do: for the operator.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::net::Multiaddr;
use crate::net::reachability::{self, Reachability};

/// Whether others reach the node. Absent in a network of one's own, where nobody outside has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Reachability)]
pub struct ReachabilityState {
    /// Whether they do.
    pub state: Standing,
    /// Each address that may be the node's, and what peers found who tried to reach it there.
    pub addresses: Vec<TestedAddress>,
    /// The node's addresses at relays that hold a place for it.
    pub relayed: Vec<String>,
    /// Peers known that test addresses (AutoNAT v2).
    pub testers: u64,
    /// What the router does.
    pub router: RouterState,
    /// Relays known; absent where they aren't used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub relays: Option<u64>,
}

/// Whether others reach the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// At one of its addresses at least.
    Reachable,
    /// Only through relays.
    Relayed,
    /// At none.
    Unreachable,
    /// Not known yet.
    Unknown,
}

/// An address that may be the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestedAddress {
    /// The address.
    pub address: String,
    /// Why it may be.
    pub source: TestedSource,
    /// What peers found.
    pub state: TestedState,
    /// What the last of those said who couldn't reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<String>,
}

/// Why an address may be the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestedSource {
    /// The configuration names it in `network.external`.
    Configured,
    /// An interface of the machine has it.
    Interface,
    /// The router forwards it, as it says by UPnP.
    Mapped,
    /// Peers see the node under it.
    Observed,
}

/// What peers found who tried an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestedState {
    /// Nobody has tried yet.
    Untested,
    /// They have reached the node.
    Confirmed,
    /// They couldn't.
    Unreachable,
}

/// What the router does for the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterState {
    /// It isn't asked.
    NotAsked,
    /// It is being looked for.
    Searched,
    /// None was found that forwards ports by UPnP.
    Missing,
    /// It is behind another router.
    BehindAnother,
    /// It forwards ports to the node.
    Mapped,
}

impl From<Reachability> for ReachabilityState {
    fn from(look: Reachability) -> Self {
        let tested = |each: reachability::Tested| TestedAddress {
            address: each.address.to_string(),
            source: match each.source {
                reachability::Source::Configured => TestedSource::Configured,
                reachability::Source::Interface => TestedSource::Interface,
                reachability::Source::Mapped => TestedSource::Mapped,
                reachability::Source::Observed => TestedSource::Observed,
            },
            state: match each.state {
                reachability::State::Untested => TestedState::Untested,
                reachability::State::Confirmed => TestedState::Confirmed,
                reachability::State::Unreachable => TestedState::Unreachable,
            },
            problem: each.problem,
        };
        Self {
            state: match look.standing {
                reachability::Standing::Reachable => Standing::Reachable,
                reachability::Standing::Relayed => Standing::Relayed,
                reachability::Standing::Unreachable => Standing::Unreachable,
                reachability::Standing::Unknown => Standing::Unknown,
            },
            addresses: look.tested.into_iter().map(tested).collect(),
            relayed: look.relayed.iter().map(Multiaddr::to_string).collect(),
            testers: look.testers as u64,
            router: match look.router {
                reachability::RouterState::NotAsked => RouterState::NotAsked,
                reachability::RouterState::Searched => RouterState::Searched,
                reachability::RouterState::Missing => RouterState::Missing,
                reachability::RouterState::BehindAnother => RouterState::BehindAnother,
                reachability::RouterState::Mapped => RouterState::Mapped,
            },
            relays: look.relays.map(|relays| relays as u64),
        }
    }
}

impl ReachabilityState {
    /// What the operator should mend, and how.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.state {
            Standing::Reachable => {}
            Standing::Relayed => warnings.push(format!(
                "others reach this node only through relays, which let little through unless a direct connection can be made. {}",
                self.remedy()
            )),
            Standing::Unreachable => {
                let relays = match self.relays {
                    Some(0) => " No relay is known so far.",
                    Some(_) => " No relay has a place for this node so far.",
                    None => "",
                };
                warnings.push(format!("others can't reach this node, so nobody can fetch from it. {}{relays}", self.remedy()));
            }
            Standing::Unknown => warnings.push(match self.testers {
                0 => "it isn't known whether others reach this node, as no peer is known yet that can test it: this takes a minute after the start. \
                      If it stays so, is this machine online, and network.bootstrap right? An address that you know to be reachable can be named with \
                      --external MULTIADDR or the key network.external"
                    .to_owned(),
                _ => "it isn't known yet whether others reach this node: peers are being asked to try, which takes a minute".to_owned(),
            }),
        }
        let missed =
            |each: &&TestedAddress| each.source == TestedSource::Configured && each.state == TestedState::Unreachable;
        warnings.extend(self.addresses.iter().filter(missed).map(|each| {
            format!(
                "peers couldn't reach {}, which network.external names: {}. Is it right, and the port open in the firewall and forwarded by the router?",
                each.address,
                each.problem.as_deref().unwrap_or("they don't say why")
            )
        }));
        warnings
    }

    /// What to do so that others reach the node directly.
    fn remedy(&self) -> String {
        if let Some(blocked) = self.addresses.iter().find(|each| each.source == TestedSource::Interface) {
            return format!(
                "This machine has the address {}, but peers couldn't reach it there: open that port in its firewall, and in that of its hosting company.",
                blocked.address
            );
        }
        let router = match self.router {
            RouterState::NotAsked | RouterState::Searched => "",
            RouterState::Missing => ", as none was found that does so by itself (UPnP)",
            RouterState::BehindAnother => {
                ", and in the one that this is behind, or ask the provider for an address of the Internet"
            }
            RouterState::Mapped => ": it says by UPnP that it does, but peers couldn't reach us there",
        };
        format!(
            "This machine is behind a router: let that forward the ports of network.listen to it, TCP and UDP{router}. If the ports outside are others, name the \
             addresses with --external MULTIADDR or the key network.external."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(state: Standing, source: TestedSource, tested: TestedState) -> ReachabilityState {
        let problem = (tested == TestedState::Unreachable).then(|| "it could not be dialled".to_owned());
        let address = "/ip4/1.2.3.4/tcp/4001".to_owned();
        ReachabilityState {
            state,
            addresses: vec![TestedAddress { address, source, state: tested, problem }],
            relayed: Vec::new(),
            testers: 3,
            router: RouterState::Missing,
            relays: Some(0),
        }
    }

    #[test]
    fn nothing_has_to_be_mended_where_others_reach_the_node() {
        let reached = state(Standing::Reachable, TestedSource::Interface, TestedState::Confirmed);
        assert_eq!(reached.warnings(), [] as [String; 0]);
    }

    #[test]
    fn each_way_of_not_being_reached_says_what_to_do() {
        let blocked = state(Standing::Unreachable, TestedSource::Interface, TestedState::Unreachable).warnings();
        assert!(blocked[0].contains("firewall") && blocked[0].contains("/ip4/1.2.3.4/tcp/4001"), "{blocked:?}");
        assert!(blocked[0].ends_with("No relay is known so far."), "{blocked:?}");
        let home = state(Standing::Relayed, TestedSource::Observed, TestedState::Unreachable).warnings();
        assert!(
            home[0].contains("through relays") && home[0].contains("forward") && home[0].contains("UPnP"),
            "{home:?}"
        );
        let wrong = state(Standing::Reachable, TestedSource::Configured, TestedState::Unreachable).warnings();
        assert!(wrong[0].contains("network.external names: it could not be dialled"), "{wrong:?}");
        let early = state(Standing::Unknown, TestedSource::Interface, TestedState::Untested);
        assert!(early.warnings()[0].contains("being asked"), "{early:?}");
        let alone = ReachabilityState { testers: 0, ..early };
        assert!(alone.warnings()[0].contains("network.bootstrap"), "{alone:?}");
    }
}
