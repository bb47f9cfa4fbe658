//! A peer that asks a service for blocks, honestly.

use bytes::Bytes;
use cid::Cid;
use libp2p::{PeerId, Stream};
use pinnace::bitswap::wire::{Presence, WantKind};

use super::dag::{Dag, leaf};
use super::peer::Peer;
use super::provider::{Incomings, read_all};
use super::{wire, within};

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Block(Bytes),
    Have,
    DontHave,
}

/// The peer, connected with one service.
pub struct Asker {
    pub peer: Peer,
    pub service: PeerId,
    incomings: Incomings,
    unread: Vec<(Cid, Answer)>,
    questions: usize,
}

impl Asker {
    pub async fn connect(address: &str) -> Self {
        let (peer, inbound) = Peer::start().await;
        let service = peer.connect(address).await;
        Self { peer, service, incomings: read_all(inbound), unread: Vec::new(), questions: 0 }
    }

    pub async fn open(&self) -> Stream {
        self.peer.open(self.service).await
    }

    /// The next answer about a CID; answers about others wait until they are asked after.
    pub async fn answer(&mut self, cid: &Cid) -> Answer {
        within("answer", 15, async {
            loop {
                if let Some(position) = self.unread.iter().position(|(about, _)| about == cid) {
                    return self.unread.remove(position).1;
                }
                let (_, message) = self.incomings.recv().await.expect("the peer runs");
                let message = message.expect("the service keeps its stream open");
                for (about, presence) in message.presences {
                    let answer = if presence == Presence::Have { Answer::Have } else { Answer::DontHave };
                    self.unread.push((about, answer));
                }
                self.unread.extend(message.blocks.into_iter().map(|block| {
                    let (about, data) = block.into_parts();
                    (about, Answer::Block(data))
                }));
            }
        })
        .await
    }

    /// Asks through a stream of its own.
    pub async fn ask(&mut self, cid: Cid, kind: WantKind) -> Answer {
        let mut stream = self.open().await;
        self.ask_through(&mut stream, cid, kind).await
    }

    /// Asks through that stream.
    pub async fn ask_through(&mut self, stream: &mut Stream, cid: Cid, kind: WantKind) -> Answer {
        wire::write(stream, &wire::want(cid, kind)).await.unwrap();
        self.answer(&cid).await
    }

    /// Asks for something that nobody has, and returns when that was said: everything that was written before to that
    /// stream has been read by then.
    pub async fn sync(&mut self, stream: &mut Stream) {
        self.questions += 1;
        let (cid, _) = leaf(&format!("nobody has this {}", self.questions), 64);
        assert_eq!(self.ask_through(stream, cid, WantKind::Have).await, Answer::DontHave);
    }

    /// Checks that the service answers Bitswap as it should.
    pub async fn check(&mut self) {
        let mut stream = self.open().await;
        self.sync(&mut stream).await;
    }

    /// Gets every block of a DAG and compares it.
    pub async fn compare(&mut self, dag: &Dag) {
        for (cid, data) in &dag.blocks {
            assert_eq!(self.ask(*cid, WantKind::Block).await, Answer::Block(data.clone()), "{cid}");
        }
    }
}
