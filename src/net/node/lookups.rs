//! What the event loop does with the DHT.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, identify, kad};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::dht::announce::{AnnounceError, announce};
use super::super::dht::known;
use super::super::dht::{self, DhtStatus, ProviderNews, Server};
use super::super::problem::dial_problem;
use super::{EventLoop, NodeEvent};

/// How often the servers that are known are written down, besides at the stop.
const SAVE_EVERY: Duration = Duration::from_mins(10);

impl EventLoop {
    pub(super) fn enter_dht(&mut self) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.entrances.enter(kademlia);
        }
    }

    /// By servers that were known before.
    pub(super) fn enter_dht_by(&mut self, servers: &[(PeerId, Multiaddr)]) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            dht::enter_by(kademlia, &self.shared.profile, servers);
        }
    }

    pub(super) fn find_providers(&mut self, cid: &Cid, news: mpsc::Sender<ProviderNews>) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.lookups.find_providers(kademlia, cid, news);
        }
    }

    pub(super) fn find_servers(&mut self, place: Vec<u8>, reply: oneshot::Sender<Vec<Server>>) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.lookups.find_servers(kademlia, place, reply);
        }
    }

    /// The server is dialled before the stream is asked for, which then waits for the connection.
    pub(super) fn announce(
        &mut self,
        server: Server,
        multihashes: Arc<[Vec<u8>]>,
        reply: oneshot::Sender<Result<u64, AnnounceError>>,
    ) {
        if !server.addresses.is_empty() {
            self.dial(server.peer, server.addresses);
        }
        let streams = self.swarm.behaviour().streams.new_control();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let addresses = shared.provider_addresses();
            let outcome = announce(streams, server.peer, &shared.peer_id, &addresses, &multihashes).await;
            // Who asked may have stopped.
            let _ = reply.send(outcome);
        });
    }

    pub(super) fn dht_status(&mut self) -> Option<DhtStatus> {
        let kademlia = self.swarm.behaviour_mut().dht.as_mut()?;
        Some(dht::status(kademlia, &self.lookups))
    }

    pub(super) fn handle_dht(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() else { return };
                for peer in self.lookups.handle(kademlia, id, result, &stats, step.last) {
                    self.dial_provider(peer);
                }
            }
            kad::Event::InboundRequest { request } => {
                if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
                    let from = |peer: &PeerId| self.reaching.address_of(peer);
                    dht::handle_request(kademlia, &self.shared.profile, request, from);
                }
            }
            kad::Event::ModeChanged { new_mode } => tracing::info!(mode = %new_mode, "our part in the DHT has changed"),
            _ => {}
        }
    }

    /// Dials a peer that the DHT names, at the addresses that the running look-up has for it.
    fn dial_provider(&mut self, peer: PeerId) {
        if peer == self.shared.peer_id || self.swarm.is_connected(&peer) {
            return;
        }
        let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            // Servers forget addresses before they forget records. Whoever looks for a peer comes by it, if it can be reached.
            Err(DialError::NoAddresses) => {
                if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
                    self.lookups.reach(kademlia, peer);
                }
            }
            Err(error) => {
                let _ = self.events.try_send(NodeEvent::DialFailed(peer, dial_problem(&error)));
            }
        }
    }

    /// A peer has told who it is.
    pub(super) fn learn_server(&mut self, peer: PeerId, info: &identify::Info) {
        if info.protocols.contains(&dht::PROTOCOL)
            && let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut()
        {
            let from = self.reaching.address_of(&peer);
            dht::learn(kademlia, &self.shared.profile, peer, from, &info.listen_addrs);
        }
    }

    /// Writes the servers down that are known, in the background. A table that is empty, as when the machine is offline, says nothing.
    pub(super) fn save_servers(&mut self) -> Option<JoinHandle<()>> {
        let path = self.servers_file.clone()?;
        let servers = dht::servers(self.swarm.behaviour_mut().dht.as_mut()?);
        (!servers.is_empty()).then(|| {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = known::save(&path, &servers) {
                    tracing::warn!(%error, "the servers of the DHT that are known can't be written down");
                }
            })
        })
    }

    /// The same from time to time. To be called with every tick.
    pub(super) fn keep_servers(&mut self) {
        if self.servers_saved_at.elapsed() >= SAVE_EVERY {
            self.servers_saved_at = Instant::now();
            drop(self.save_servers());
        }
    }

    pub(super) fn keep_lookups(&mut self) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.lookups.end_unwanted(kademlia);
            self.entrances.enter_again(kademlia);
        }
    }
}
