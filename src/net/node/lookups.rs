//! What the event loop does with the DHT.

use std::sync::Arc;

use cid::Cid;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{PeerId, identify, kad};
use tokio::sync::{mpsc, oneshot};

use super::super::dht::announce::{AnnounceError, announce};
use super::super::dht::{self, DhtStatus, ProviderNews, Server};
use super::super::problem::dial_problem;
use super::{EventLoop, NodeEvent};

impl EventLoop {
    pub(super) fn enter_dht(&mut self) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.entrances.enter(kademlia);
        }
    }

    pub(super) fn find_providers(&mut self, cid: &Cid, news: mpsc::Sender<ProviderNews>) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.lookups.find_providers(kademlia, &cid.hash().to_bytes(), news);
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
                    dht::handle_request(kademlia, &self.shared.profile, request);
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
            dht::learn(kademlia, &self.shared.profile, peer, &info.listen_addrs);
        }
    }

    pub(super) fn keep_lookups(&mut self) {
        if let Some(kademlia) = self.swarm.behaviour_mut().dht.as_mut() {
            self.lookups.end_unwanted(kademlia);
            self.entrances.enter_again(kademlia);
        }
    }
}
