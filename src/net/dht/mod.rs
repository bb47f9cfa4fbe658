//! Our part in the Amino DHT (`/ipfs/kad/1.0.0`): who provides a CID, which servers are near a key, and, once we can be reached, a server of our own.
//!
//! Look-ups and the table of servers are `libp2p-kad`'s. The records that strangers leave here are in [`records`], and ours go
//! out by [`announce`]: `libp2p-kad` would look the servers up anew for each CID.
//! <https://github.com/libp2p/specs/blob/master/kad-dht/README.md>

pub(super) mod announce;
pub(super) mod known;
mod records;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cid::Cid;
use libp2p::kad::{self, QueryId};
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use self::records::ProviderRecords;
use super::address::{self, Host, Network};
use super::profile::{Profile, Refusal};

/// The protocol of the public IPFS network.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// A look-up that takes longer is given up; what it found by then counts. Kubo allows as long.
const QUERY_MAX: Duration = Duration::from_secs(60);

/// Servers that one look-up asks at the same time, as Kubo does: many of the public network don't answer.
const PARALLELISM: usize = 10;

/// The longest message: an answer names up to 40 peers, each with a dozen addresses of up to 150 bytes.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// How often the table of servers is renewed. That asks a good part of its servers, and connects with most of them anew, so in an idle node
/// it is what costs most. Each look-up renews the table as well, and servers that come to us enter it.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_mins(30);

/// How often the DHT is entered while no server is known.
const ENTER_EVERY: Duration = Duration::from_secs(30);

/// Servers that a look-up finds. Where at least twice as many are known, one that finds fewer was cut off.
const FOUND_SERVERS: usize = 20;

/// Look-ups that run at the same time; whoever asks for more is told that nobody was found.
const QUERIES_MAX: usize = 256;

/// Servers of one network in our table, as in Kubo's.
const SERVERS_PER_NETWORK_MAX: usize = 3;

/// Addresses of a server that are remembered from what it says of itself.
const SERVER_ADDRESSES_MAX: usize = 16;

pub(super) type Kademlia = kad::Behaviour<ProviderRecords>;

/// What a look-up of providers tells as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderNews {
    /// This peer is said to have the content; it is connected or being dialled.
    Found(PeerId),
    /// The look-up is over.
    Ended {
        /// How many servers answered.
        servers: u32,
        /// Whether it was given up because it took too long.
        timed_out: bool,
    },
}

/// A DHT server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its peer id.
    pub peer: PeerId,
    /// Where it is reached, as others say.
    pub addresses: Vec<Multiaddr>,
}

/// A look at our part in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DhtStatus {
    /// Whether we answer others.
    pub is_server: bool,
    /// Servers in our table.
    pub servers: usize,
    /// Look-ups that run.
    pub lookups: usize,
    /// Providers' records that others left here.
    pub records: usize,
}

/// Who waits for a look-up.
enum Query {
    Providers {
        cid: Cid,
        news: mpsc::Sender<ProviderNews>,
        told: HashSet<PeerId>,
    },
    Servers(oneshot::Sender<Vec<Server>>),
    /// For a peer of which only the id is known: the look-up itself dials it.
    Reach,
}

/// The look-ups that run.
#[derive(Default)]
pub(super) struct Queries(HashMap<QueryId, Query>);

/// By whom the DHT is entered.
pub(super) struct Entrances {
    peers: Vec<(PeerId, Multiaddr)>,
    used_at: Instant,
}

impl Entrances {
    /// The peers that addresses ending in `/p2p/` name.
    pub(super) fn new(addresses: &[Multiaddr]) -> Self {
        let named = addresses.iter().filter_map(|address| Some((address::peer(address)?, address.clone())));
        Self { peers: named.collect(), used_at: Instant::now() }
    }

    /// Enters by all of them. The behaviour looks for its neighbours then.
    pub(super) fn enter(&mut self, kademlia: &mut Kademlia) {
        self.used_at = Instant::now();
        for (peer, address) in &self.peers {
            kademlia.add_address(peer, address.clone());
        }
    }

    /// The same, if no server is known: a peer that can't be dialled leaves the table, and without this a machine that was offline for a
    /// moment would never come back.
    pub(super) fn enter_again(&mut self, kademlia: &mut Kademlia) {
        if self.used_at.elapsed() >= ENTER_EVERY && known_servers(kademlia) == 0 {
            self.enter(kademlia);
        }
    }
}

fn known_servers(kademlia: &mut Kademlia) -> usize {
    kademlia.kbuckets().map(|bucket| bucket.num_entries()).sum()
}

/// The servers of the table, with some addresses of each.
pub(super) fn servers(kademlia: &mut Kademlia) -> Vec<(PeerId, Multiaddr)> {
    let mut servers = Vec::new();
    for bucket in kademlia.kbuckets() {
        for entry in bucket.iter().take(known::SERVERS_MAX) {
            let peer = *entry.node.key.preimage();
            let addresses = entry.node.value.iter().take(known::ADDRESSES_MAX);
            servers.extend(addresses.map(|address| (peer, address.clone())));
        }
    }
    servers.truncate(known::SERVERS_MAX * known::ADDRESSES_MAX);
    servers
}

/// Enters by servers that were known before, as far as they may still be dialled.
pub(super) fn enter_by(kademlia: &mut Kademlia, profile: &Profile, servers: &[(PeerId, Multiaddr)]) {
    for (peer, address) in servers.iter().filter(|(_, address)| may_use(profile, address)) {
        kademlia.add_address(peer, address.clone());
    }
}

/// Our part in the DHT, or none. It asks only, until [`serve`] says otherwise.
pub(super) fn behaviour(own: PeerId, is_on: bool) -> Option<Kademlia> {
    if !is_on {
        return None;
    }
    let mut config = kad::Config::new(PROTOCOL);
    config
        .set_query_timeout(QUERY_MAX)
        .set_max_packet_size(MESSAGE_BYTES_MAX)
        // Look-ups go ways that share no server (S/Kademlia, <https://doi.org/10.1109/ICPADS.2007.4447808>), so that liars spoil only
        // those that they stand on, whatever they make up.
        .disjoint_query_paths(true)
        // What strangers leave here is looked at first.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // What we provide goes out by a sweep instead.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL))
        // Who comes into the table is for `learn` to say.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    if let Some(parallelism) = std::num::NonZeroUsize::new(PARALLELISM) {
        config.set_parallelism(parallelism);
    }
    let mut kademlia = kad::Behaviour::with_config(own, ProviderRecords::new(own), config);
    // By itself it would take an address at a relay for one where it can serve.
    kademlia.set_mode(Some(kad::Mode::Client));
    Some(kademlia)
}

/// Whether it answers others: once they reach it directly.
pub(super) fn serve(kademlia: &mut Kademlia, is_reached: bool) {
    let mode = if is_reached { kad::Mode::Server } else { kad::Mode::Client };
    if kademlia.mode() != mode {
        kademlia.set_mode(Some(mode));
    }
}

/// A server, connected from there, told where it is reached: what of it may be dialled comes into our table, unless that has enough
/// servers of the same network.
pub(super) fn learn(
    kademlia: &mut Kademlia,
    profile: &Profile,
    peer: PeerId,
    from: Option<IpAddr>,
    addresses: &[Multiaddr],
) {
    if let (Profile::Public, Some(ip)) = (profile, from)
        && !has_room_for(kademlia, peer, address::network(ip))
    {
        return;
    }
    for address in addresses.iter().take(SERVER_ADDRESSES_MAX) {
        // A server that is reached through a relay isn't one.
        if address::relay(address).is_none() && may_use(profile, address) {
            kademlia.add_address(&peer, address.clone());
        }
    }
}

/// Whether so few servers of a network are in the table that one more is welcome, so that nobody surrounds us with peers of his own.
fn has_room_for(kademlia: &mut Kademlia, peer: PeerId, network: Network) -> bool {
    let mut same = 0;
    for bucket in kademlia.kbuckets() {
        for entry in bucket.iter() {
            if *entry.node.key.preimage() == peer {
                return true;
            }
            let is_same = |address: &Multiaddr| match address::parts(address).map(|parts| parts.host) {
                Ok(Host::Ip(ip)) => address::network(ip) == network,
                _ => false,
            };
            same += usize::from(entry.node.value.iter().any(is_same));
        }
    }
    same < SERVERS_PER_NETWORK_MAX
}

/// Whether an address that the DHT names may be dialled. In a network of its own the operator switched the DHT on, and so trusts it.
fn may_use(profile: &Profile, address: &Multiaddr) -> bool {
    matches!(profile.may_dial(address, true), Ok(()) | Err(Refusal::Unresolved))
}

impl Queries {
    /// Looks for providers of what has the multihash of this CID. The sender's end says that it can't be asked now.
    pub(super) fn find_providers(&mut self, kademlia: &mut Kademlia, cid: &Cid, news: mpsc::Sender<ProviderNews>) {
        if self.0.len() < QUERIES_MAX {
            let id = kademlia.get_providers(kad::RecordKey::new(&cid.hash().to_bytes()));
            self.0.insert(id, Query::Providers { cid: *cid, news, told: HashSet::new() });
        }
    }

    /// Looks for the servers that are nearest to the place of these bytes.
    pub(super) fn find_servers(
        &mut self,
        kademlia: &mut Kademlia,
        place: Vec<u8>,
        reply: oneshot::Sender<Vec<Server>>,
    ) {
        if self.0.len() < QUERIES_MAX {
            let id = kademlia.get_closest_peers(place);
            self.0.insert(id, Query::Servers(reply));
        }
    }

    /// Looks for a peer, so that it is dialled where others know its addresses.
    pub(super) fn reach(&mut self, kademlia: &mut Kademlia, peer: PeerId) {
        if self.0.len() < QUERIES_MAX {
            let id = kademlia.get_closest_peers(peer.to_bytes());
            self.0.insert(id, Query::Reach);
        }
    }

    /// Ends the look-ups for which nobody waits any longer.
    pub(super) fn end_unwanted(&mut self, kademlia: &mut Kademlia) {
        self.0.retain(|id, query| {
            let is_wanted = match query {
                Query::Providers { news, .. } => !news.is_closed(),
                Query::Servers(reply) => !reply.is_closed(),
                Query::Reach => true,
            };
            if !is_wanted && let Some(mut running) = kademlia.query_mut(id) {
                running.finish();
            }
            is_wanted
        });
    }

    /// What a look-up has found. Returns providers that nobody was told of before.
    pub(super) fn handle(
        &mut self,
        kademlia: &mut Kademlia,
        id: QueryId,
        result: kad::QueryResult,
        stats: &kad::QueryStats,
        is_last: bool,
    ) -> Vec<PeerId> {
        let mut new = Vec::new();
        let (mut servers, mut timed_out) = (Vec::new(), false);
        match result {
            kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                if let Some(Query::Providers { told, .. }) = self.0.get_mut(&id) {
                    new.extend(providers.into_iter().filter(|peer| told.insert(*peer)));
                }
            }
            kad::QueryResult::GetProviders(Err(kad::GetProvidersError::Timeout { .. })) => timed_out = true,
            // One that was broken off has found some servers, but not those that are nearest.
            kad::QueryResult::GetClosestPeers(Ok(kad::GetClosestPeersOk { peers, .. }))
                if peers.len() >= FOUND_SERVERS || known_servers(kademlia) < 2 * FOUND_SERVERS =>
            {
                servers = peers;
            }
            _ => {}
        }
        if let Some(Query::Providers { cid, news, .. }) = self.0.get(&id) {
            for peer in &new {
                tracing::debug!(%cid, %peer, "the DHT names a provider");
                // Whoever is slow has enough providers for now.
                let _ = news.try_send(ProviderNews::Found(*peer));
            }
        }
        if is_last {
            match self.0.remove(&id) {
                Some(Query::Providers { news, .. }) => {
                    let _ = news.try_send(ProviderNews::Ended { servers: stats.num_successes(), timed_out });
                }
                Some(Query::Servers(reply)) => {
                    let server = |found: kad::PeerInfo| Server { peer: found.peer_id, addresses: found.addrs };
                    let _ = reply.send(servers.into_iter().map(server).collect());
                }
                Some(Query::Reach) | None => {}
            }
        }
        new
    }
}

/// A look at the behaviour.
pub(super) fn status(kademlia: &mut Kademlia, queries: &Queries) -> DhtStatus {
    let servers = known_servers(kademlia);
    let is_server = kademlia.mode() == kad::Mode::Server;
    DhtStatus { is_server, servers, lookups: queries.0.len(), records: kademlia.store_mut().len() }
}

/// A stranger leaves a record here: what of it may be told to others is kept, within bounds.
///
/// `from` says from where a peer is connected; a provider leaves its record itself.
pub(super) fn handle_request(
    kademlia: &mut Kademlia,
    profile: &Profile,
    request: kad::InboundRequest,
    from: impl Fn(&PeerId) -> Option<IpAddr>,
) {
    // Values (IPNS records, public keys) aren't kept: a server has to judge them first.
    if let kad::InboundRequest::AddProvider { record: Some(mut record) } = request {
        record.addresses.retain(|address| profile.may_announce(address));
        let network = from(&record.provider).map(address::network);
        if let Err(error) = kademlia.store_mut().keep(record, network) {
            tracing::debug!(%error, "a provider's record isn't kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn dht(servers: usize) -> Kademlia {
        let own = PeerId::random();
        let mut kademlia = behaviour(own, true).unwrap();
        for _ in 0..servers {
            kademlia.add_address(&PeerId::random(), "/ip4/1.1.1.1/tcp/4001".parse().unwrap());
        }
        kademlia
    }

    #[test]
    fn a_dht_that_was_lost_is_entered_again() {
        let (peer, mut kademlia) = (PeerId::random(), dht(0));
        let address: Multiaddr = format!("/ip4/1.1.1.1/tcp/4001/p2p/{peer}").parse().unwrap();
        let mut entrances = Entrances::new(&[address]);
        entrances.enter(&mut kademlia);
        assert_eq!(known_servers(&mut kademlia), 1);
        // As when it couldn't be dialled.
        kademlia.remove_peer(&peer);
        entrances.enter_again(&mut kademlia);
        assert_eq!(known_servers(&mut kademlia), 0, "not at once");
        entrances.used_at = Instant::now().checked_sub(ENTER_EVERY).unwrap();
        entrances.enter_again(&mut kademlia);
        assert_eq!(known_servers(&mut kademlia), 1);
    }

    #[test]
    fn servers_of_one_network_are_a_few_of_the_table_only() {
        let mut kademlia = dht(0);
        let server = |third: u8| {
            let address: Multiaddr = format!("/ip4/45.1.{third}.1/tcp/4001").parse().unwrap();
            (PeerId::random(), Some(IpAddr::from([45, 1, third, 1])), [address])
        };
        let servers: Vec<_> = (0..10).map(server).collect();
        for (peer, from, addresses) in &servers {
            learn(&mut kademlia, &Profile::Public, *peer, *from, addresses);
        }
        assert_eq!(known_servers(&mut kademlia), SERVERS_PER_NETWORK_MAX);
        let (elsewhere, moved): (IpAddr, Multiaddr) =
            ("46.1.1.1".parse().unwrap(), "/ip4/45.1.0.1/tcp/4002".parse().unwrap());
        learn(&mut kademlia, &Profile::Public, servers[0].0, servers[0].1, std::slice::from_ref(&moved));
        let all = super::servers(&mut kademlia);
        let is_told =
            |(peer, address): &(PeerId, Multiaddr)| *peer == servers[0].0 && address::without_peer(address) == moved;
        assert!(all.iter().any(is_told), "one that is known may tell more: {all:?}");
        learn(
            &mut kademlia,
            &Profile::Public,
            PeerId::random(),
            Some(elsewhere),
            &["/ip4/46.1.1.1/tcp/1".parse().unwrap()],
        );
        assert_eq!(known_servers(&mut kademlia), SERVERS_PER_NETWORK_MAX + 1);
        // What was written down comes back, but for what may not be dialled.
        let mut next = dht(0);
        enter_by(&mut next, &Profile::Public, &all);
        enter_by(&mut next, &Profile::Public, &[(PeerId::random(), "/ip4/10.0.0.1/tcp/1".parse().unwrap())]);
        assert_eq!(known_servers(&mut next), SERVERS_PER_NETWORK_MAX);
    }

    /// What a look-up that found so many of so many known servers is taken for.
    fn found(found: usize, known: usize) -> usize {
        let mut kademlia = dht(known);
        let mut queries = Queries::default();
        let (reply, mut answer) = oneshot::channel();
        queries.find_servers(&mut kademlia, b"place".to_vec(), reply);
        let id = *queries.0.keys().next().unwrap();
        let stats = *kademlia.query(&id).unwrap().stats();
        let peers = (0..found).map(|_| kad::PeerInfo { peer_id: PeerId::random(), addrs: Vec::new() }).collect();
        let result = kad::QueryResult::GetClosestPeers(Ok(kad::GetClosestPeersOk { key: b"place".to_vec(), peers }));
        queries.handle(&mut kademlia, id, result, &stats, true);
        answer.try_recv().unwrap().len()
    }

    #[test]
    fn a_look_up_that_was_cut_off_finds_nobody() {
        assert_eq!(NonZeroUsize::new(FOUND_SERVERS), Some(kad::K_VALUE));
        assert_eq!(found(20, 200), 20);
        assert_eq!(found(19, 200), 0);
        assert_eq!(found(5, 5), 5, "a small network has no more");
    }
}
