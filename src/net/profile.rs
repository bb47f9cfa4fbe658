//! The network profile: which addresses this node may dial and announce.
//!
//! Every address that came from a user, a peer or a record passes [`Profile::may_dial`] before a connection is tried,
//! and again after a name in it was resolved. Pure, apart from [`interfaces`].

use std::io;
use std::net::IpAddr;

use if_addrs::IfAddr;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::address::{self, Host, Parts, Reach, Subnet, Unusable};
use super::gateway_address::{GatewayAddress, GatewayHost};
use super::options::ProfileChoice;
use crate::model::limits::DELEGATES_MAX;

/// Which addresses may be dialled and announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// Only globally routable ones.
    Public,
    /// Others too, inside the subnets of the own interfaces.
    Lan {
        /// Those subnets.
        subnets: Vec<Subnet>,
    },
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can't be used at all.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// It has a name: it can be judged only after it was resolved.
    #[error("its name has to be resolved first")]
    Unresolved,
    /// It names no single machine, or no port.
    #[error("it names no machine or no port that can be dialled")]
    NoMachine,
    /// It isn't globally routable, and the profile is public.
    #[error("it is not globally routable, and this service dials only globally routable addresses")]
    NotGlobal,
    /// It isn't globally routable, nor inside a subnet of an own interface.
    #[error("it is neither globally routable nor inside a network of this service's own")]
    OutsideSubnets,
    /// It isn't globally routable, and came neither from a pin's origins nor from the configuration.
    #[error(
        "addresses that are not globally routable are dialled only when a pin's origins or the configuration name them"
    )]
    Untrusted,
    /// It is a gateway without TLS outside the own networks.
    #[error(
        "it is plain HTTP, which this service uses only inside its own networks: give the address with /tls/http or /https"
    )]
    PlainHttp,
}

/// What an entry of a pin's `origins` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A peer, and where to dial it: as it is, or once its name is resolved. It ends in `/p2p/` with the peer's id.
    Peer(PeerId, Multiaddr),
    /// A gateway to ask over HTTP, each address of which is still to be checked with [`Profile::may_ask_ip`] where it has
    /// a name.
    Gateway(GatewayAddress),
}

/// The addresses of this machine's interfaces, with their networks.
pub fn interfaces() -> io::Result<Vec<Subnet>> {
    let subnets = if_addrs::get_if_addrs()?.into_iter().map(|interface| match interface.addr {
        IfAddr::V4(own) => Subnet { address: IpAddr::V4(own.ip), prefix_bits: own.prefixlen },
        IfAddr::V6(own) => Subnet { address: IpAddr::V6(own.ip), prefix_bits: own.prefixlen },
    });
    Ok(subnets.collect())
}

/// Makes the profile from the operator's choice, the configured external addresses and the interfaces.
pub fn resolve(choice: ProfileChoice, external: &[Multiaddr], interfaces: &[Subnet]) -> Profile {
    let has_global_interface = || interfaces.iter().any(|own| address::reach(own.address) == Reach::Global);
    let has_global_external = || {
        external.iter().filter_map(|address| address::parts(address).ok()).any(|parts| match parts.host {
            Host::Ip(ip) => address::reach(ip) == Reach::Global,
            // An operator who names the node for others means the Internet, unless the name says otherwise.
            Host::Name(name) => !address::is_local_name(&name),
        })
    };
    let is_public = match choice {
        ProfileChoice::Public => true,
        ProfileChoice::Lan => false,
        ProfileChoice::Auto => has_global_interface() || has_global_external(),
    };
    if is_public { Profile::Public } else { Profile::Lan { subnets: interfaces.to_vec() } }
}

impl Profile {
    /// Whether an address may be dialled. `trusted` says that it came from a pin's origins or the configuration.
    /// [`Refusal::Unresolved`] means: resolve the name, then ask again for each result.
    pub fn may_dial(&self, address: &Multiaddr, trusted: bool) -> Result<(), Refusal> {
        // Through a relay, only the relay itself is dialled.
        let relay = address::relay(address);
        let Parts { host, transport, .. } = address::parts(relay.as_ref().unwrap_or(address))?;
        if transport.port() == Some(0) {
            return Err(Refusal::NoMachine);
        }
        match host {
            Host::Ip(ip) => self.may_dial_ip(ip, trusted),
            Host::Name(name) if address::is_local_name(&name) => match self {
                Self::Public => Err(Refusal::NotGlobal),
                Self::Lan { .. } if !trusted => Err(Refusal::Untrusted),
                Self::Lan { .. } => Err(Refusal::Unresolved),
            },
            Host::Name(_) => Err(Refusal::Unresolved),
        }
    }

    /// Whether an IP address may be dialled, for whoever connects by the checked IP.
    pub fn may_dial_ip(&self, ip: IpAddr, trusted: bool) -> Result<(), Refusal> {
        let reach = address::reach(ip);
        match (reach, self) {
            (Reach::Global, _) => Ok(()),
            (Reach::Unspecified | Reach::Multicast, _) => Err(Refusal::NoMachine),
            (_, Self::Public) => Err(Refusal::NotGlobal),
            (_, Self::Lan { .. }) if !trusted => Err(Refusal::Untrusted),
            // Without the interface's number, which a multiaddr doesn't carry, nobody can dial one.
            (Reach::LinkLocal, Self::Lan { .. }) if ip.to_canonical().is_ipv6() => Err(Refusal::NoMachine),
            (Reach::Loopback, Self::Lan { .. }) => Ok(()),
            (_, Self::Lan { subnets }) => {
                if subnets.iter().any(|subnet| subnet.contains(ip)) {
                    Ok(())
                } else {
                    Err(Refusal::OutsideSubnets)
                }
            }
        }
    }

    /// Whether a gateway may be asked that a pin's origins name. Where it has a name, whatever that resolves to has to
    /// pass [`Profile::may_ask_ip`].
    pub fn may_ask(&self, gateway: &GatewayAddress) -> Result<(), Refusal> {
        match &gateway.host {
            GatewayHost::Ip(ip) => self.may_ask_ip(*ip, gateway.secure),
            GatewayHost::Name(_, _) if !gateway.secure && *self == Self::Public => Err(Refusal::PlainHttp),
            GatewayHost::Name(name, _) if address::is_local_name(name) && *self == Self::Public => {
                Err(Refusal::NotGlobal)
            }
            GatewayHost::Name(_, _) => Ok(()),
        }
    }

    /// Whether a gateway may be asked at this address, over TLS if it is `secure`.
    pub fn may_ask_ip(&self, ip: IpAddr, secure: bool) -> Result<(), Refusal> {
        self.may_dial_ip(ip, true)?;
        // Who reads along learns what is pinned, and plain HTTP lets anyone on the way waste our time.
        if !secure && address::reach(ip) == Reach::Global { Err(Refusal::PlainHttp) } else { Ok(()) }
    }

    /// Whether an own address may be told to others: one that they can dial, and in the public profile from anywhere.
    pub fn may_announce(&self, address: &Multiaddr) -> bool {
        if let Some(relay) = address::relay(address) {
            return address::peer(&relay).is_some() && self.may_announce(&relay);
        }
        let Ok(Parts { host, .. }) = address::parts(address) else { return false };
        if !address::names_a_host(address) {
            return false;
        }
        match (host, self) {
            (Host::Ip(ip), Self::Public) => address::reach(ip) == Reach::Global,
            (Host::Ip(ip), Self::Lan { .. }) => {
                !(address::reach(ip) == Reach::LinkLocal && ip.to_canonical().is_ipv6())
            }
            (Host::Name(name), Self::Public) => !address::is_local_name(&name),
            (Host::Name(_), Self::Lan { .. }) => true,
        }
    }
}

/// Reads an entry of a pin's `origins`. The error says for the pin's `info` why it can't be used.
pub fn check_origin(profile: &Profile, text: &str, own_peer: PeerId) -> Result<Origin, String> {
    if let Some(read) = GatewayAddress::parse(text) {
        let (gateway, peer) = read.map_err(|error| error.to_string())?;
        if peer == Some(own_peer) {
            return Err("it is this service itself".into());
        }
        profile.may_ask(&gateway).map_err(|refusal| refusal.to_string())?;
        return Ok(Origin::Gateway(gateway));
    }
    let address: Multiaddr = text.parse().map_err(|_| "it is not a multiaddr")?;
    if address::relay(&address).is_some_and(|relay| address::peer(&relay).is_none()) {
        return Err("the part before /p2p-circuit does not end in /p2p/ and the relay's peer id".into());
    }
    let peer = address::peer(&address).ok_or("it does not end in /p2p/ and a peer id")?;
    if peer == own_peer {
        return Err("it is this service itself".into());
    }
    match profile.may_dial(&address, true) {
        Ok(()) | Err(Refusal::Unresolved) => Ok(Origin::Peer(peer, address)),
        Err(refusal) => Err(refusal.to_string()),
    }
}

/// What is wrong with an origin whatever the node will be, if anything is: for a pin that is made while none runs.
pub fn check_origin_of_stopped(text: &str) -> Result<(), String> {
    if origin_peer(text).is_some() {
        return Ok(());
    }
    check_origin(&Profile::Public, text, PeerId::random()).map(drop)
}

/// The peer that an entry of `origins` names, also where its address can't be dialled: such a peer (a laptop behind
/// NAT) may dial us, and is a source for the pin then.
pub fn origin_peer(text: &str) -> Option<PeerId> {
    match GatewayAddress::parse(text) {
        Some(read) => read.ok()?.1,
        None => address::peer(&text.parse().ok()?),
    }
}

/// The `delegates` of a PSA answer: 1 to [`DELEGATES_MAX`] own addresses for the client to dial, each ending in
/// `/p2p/` with the own id. Confirmed ones come first, then, in a network of one's own, listen addresses, those that reach furthest
/// before others.
///
/// `true` says that no address is known to be reachable, so the listen addresses stand in as a last resort.
pub fn delegates(
    profile: &Profile,
    confirmed: &[Multiaddr],
    listen: &[Multiaddr],
    own_peer: PeerId,
) -> (Vec<Multiaddr>, bool) {
    let may_announce = |address: &&Multiaddr| profile.may_announce(address);
    let mut announced = distinct(confirmed.iter().filter(may_announce), own_peer);
    let mut rest = by_reach(distinct(listen.iter().filter(may_announce), own_peer));
    // In public, somebody has to have reached an address before others are told of it.
    if matches!(profile, Profile::Lan { .. }) {
        announced.append(&mut rest);
    }
    let announced = distinct(announced.iter(), own_peer);
    if !announced.is_empty() {
        return (with_peer(announced, own_peer), false);
    }
    if rest.is_empty() {
        rest = by_reach(distinct(listen.iter().filter(|address| address::names_a_host(address)), own_peer));
    }
    if rest.is_empty() {
        // The schema wants one at least: the bare id lets a client that is connected already recognise us.
        rest.push(Multiaddr::empty());
    }
    (with_peer(rest, own_peer), true)
}

/// Without the own peer id at the end, each once; an address that ends in another peer's id isn't ours.
fn distinct<'a>(addresses: impl Iterator<Item = &'a Multiaddr>, own_peer: PeerId) -> Vec<Multiaddr> {
    let mut found = Vec::new();
    for address in addresses.filter(|address| address::peer(address).is_none_or(|peer| peer == own_peer)) {
        let bare = address::without_peer(address);
        if !found.contains(&bare) {
            found.push(bare);
        }
    }
    found
}

/// Those that reach furthest first; otherwise in the order of their text, which is the same at each start.
fn by_reach(mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    addresses.sort_by_cached_key(|address| (reach_rank(address), address.to_string()));
    addresses
}

fn reach_rank(address: &Multiaddr) -> u8 {
    match address::parts(address).map(|parts| parts.host) {
        Ok(Host::Name(_)) => 0,
        Ok(Host::Ip(ip)) => match address::reach(ip) {
            Reach::Global => 0,
            Reach::Private | Reach::Reserved => 1,
            Reach::LinkLocal => 2,
            Reach::Loopback => 3,
            Reach::Unspecified | Reach::Multicast => 4,
        },
        Err(_) => 4,
    }
}

fn with_peer(mut addresses: Vec<Multiaddr>, own_peer: PeerId) -> Vec<Multiaddr> {
    addresses.truncate(DELEGATES_MAX);
    addresses.into_iter().map(|address| address.with(Protocol::P2p(own_peer))).collect()
}

#[cfg(test)]
mod tests;
