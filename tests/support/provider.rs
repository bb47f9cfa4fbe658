//! A peer that answers wants with the blocks it was given: no more of them than allowed, and whether they match or not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cid::Cid;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Stream};
use pinnace::bitswap::wire::{Incoming, Outgoing, Presence, WantKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::dag::Dag;
use super::peer::{Inbound, Peer};
use super::wire;

/// What came from a peer; `None` is the end of a stream.
pub type Incomings = mpsc::UnboundedReceiver<(PeerId, Option<Incoming>)>;

/// The peer.
pub struct Provider {
    pub peer: Arc<Peer>,
    keypair: Keypair,
    blocks: HashMap<Cid, Bytes>,
    asked: Arc<Mutex<Vec<Cid>>>,
    allowed: watch::Sender<usize>,
    sent: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Provider {
    /// A peer that has everything of a DAG.
    pub async fn start(dag: &Dag) -> Self {
        Self::start_allowing(dag, usize::MAX).await
    }

    /// A peer that has everything of a DAG and sends that many blocks before it falls silent.
    pub async fn start_allowing(dag: &Dag, allowed: usize) -> Self {
        let blocks = dag.blocks.iter().cloned().collect();
        Self::start_as(Keypair::generate_ed25519(), "/ip4/127.0.0.1/tcp/0".parse().unwrap(), blocks, allowed).await
    }

    /// A peer of that identity, there, with these bytes under these CIDs.
    pub async fn start_as(keypair: Keypair, listen: Multiaddr, blocks: HashMap<Cid, Bytes>, allowed: usize) -> Self {
        let (peer, inbound) = Peer::start_as(keypair.clone(), listen).await;
        let peer = Arc::new(peer);
        let (allowed, allowed_receiver) = watch::channel(allowed);
        let (sent_sender, sent) = watch::channel(0);
        let asked = Arc::default();
        let answers = Answers {
            peer: Arc::clone(&peer),
            blocks: blocks.clone(),
            asked: Arc::clone(&asked),
            streams: HashMap::new(),
            waiting: VecDeque::new(),
            sent: sent_sender,
        };
        let task = tokio::spawn(answers.run(read_all(inbound), allowed_receiver));
        Self { peer, keypair, blocks, asked, allowed, sent, task }
    }

    /// Its address, as a pin's origin.
    pub fn origin(&self) -> String {
        self.peer.address.to_string()
    }

    /// An origin that names it, at an address where nobody listens.
    pub fn unreachable_origin(&self) -> String {
        unreachable_origin(self.peer.id)
    }

    /// Connects to a service.
    pub async fn dial(&self, address: &str) {
        self.peer.connect(address).await;
    }

    /// Sends that many blocks altogether.
    pub fn allow(&self, blocks: usize) {
        self.allowed.send_replace(blocks);
    }

    /// Every block that it was asked for, as often as it was.
    pub fn asked(&self) -> Vec<Cid> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what it was asked for.
    pub fn forget_asked(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until that many blocks are sent.
    pub async fn wait_sent(&mut self, blocks: usize) {
        super::within("blocks sent", 20, self.sent.wait_for(|sent| *sent >= blocks)).await.unwrap();
    }

    /// Is gone without a word. What comes back has the same identity, address and blocks.
    pub async fn vanish(self) -> impl AsyncFnOnce(usize) -> Provider {
        let Self { peer, keypair, blocks, task, .. } = self;
        task.abort();
        let _ = task.await;
        let mut address = peer.address.clone();
        address.pop();
        Arc::into_inner(peer).expect("the last one who holds the peer").stop().await;
        async move |allowed| Self::start_as(keypair, address, blocks, allowed).await
    }
}

/// An origin that names a peer, at an address where nobody listens.
pub fn unreachable_origin(peer: PeerId) -> String {
    format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}")
}

/// Reads every stream to its end.
pub fn read_all(mut inbound: Inbound) -> Incomings {
    let (sender, incomings) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((peer, mut stream)) = inbound.recv().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok(Some(message)) = wire::read(&mut stream).await {
                    if sender.send((peer, Some(message))).is_err() {
                        return;
                    }
                }
                let _ = sender.send((peer, None));
            });
        }
    });
    incomings
}

struct Answers {
    peer: Arc<Peer>,
    blocks: HashMap<Cid, Bytes>,
    asked: Arc<Mutex<Vec<Cid>>>,
    streams: HashMap<PeerId, Stream>,
    waiting: VecDeque<(PeerId, Cid)>,
    sent: watch::Sender<usize>,
}

impl Answers {
    async fn run(mut self, mut incomings: Incomings, mut allowed: watch::Receiver<usize>) {
        loop {
            tokio::select! {
                incoming = incomings.recv() => match incoming {
                    Some((from, Some(message))) => self.handle(from, message).await,
                    Some((from, None)) => {
                        self.streams.remove(&from);
                        self.waiting.retain(|(peer, _)| *peer != from);
                    }
                    None => return,
                },
                changed = allowed.changed() => if changed.is_err() {
                    return;
                },
            }
            let limit = *allowed.borrow();
            while *self.sent.borrow() < limit {
                let Some((to, cid)) = self.waiting.pop_front() else { break };
                let blocks = vec![(cid, self.blocks[&cid].clone())];
                if self.send(to, &Outgoing { blocks, ..Outgoing::default() }).await {
                    self.sent.send_modify(|sent| *sent += 1);
                }
            }
        }
    }

    async fn handle(&mut self, from: PeerId, message: Incoming) {
        let mut answer = Outgoing::default();
        if message.full {
            self.waiting.retain(|(peer, _)| *peer != from);
        }
        for want in message.wants {
            self.waiting.retain(|waiting| *waiting != (from, want.cid));
            let has = self.blocks.contains_key(&want.cid);
            match want.kind {
                _ if want.cancel => {}
                WantKind::Block if has => {
                    self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(want.cid);
                    self.waiting.push_back((from, want.cid));
                }
                WantKind::Have if has => answer.presences.push((want.cid, Presence::Have)),
                _ => answer.presences.push((want.cid, Presence::DontHave)),
            }
        }
        if !answer.presences.is_empty() {
            self.send(from, &answer).await;
        }
    }

    /// Says whether it was written; a peer that is gone gets nothing.
    async fn send(&mut self, to: PeerId, message: &Outgoing) -> bool {
        if !self.streams.contains_key(&to) {
            let Ok(stream) = self.peer.try_open(to).await else { return false };
            self.streams.insert(to, stream);
        }
        let Some(stream) = self.streams.get_mut(&to) else { return false };
        let written = wire::write(stream, message).await.is_ok();
        if !written {
            self.streams.remove(&to);
        }
        written
    }
}
