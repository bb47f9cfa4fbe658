//! What a fetch and the node say to each other.

use cid::Cid;
use libp2p::PeerId;
use tokio::sync::mpsc;

use super::handle::{Command, NodeGone};
use crate::bitswap::PeerNumber;
use crate::bitswap::session::Action;
use crate::bitswap::wants::SessionId;
use crate::model::Block;

/// What the node tells a session.
#[derive(Debug)]
pub enum SessionEvent {
    /// A peer is connected; `source` says that the session named it.
    PeerConnected {
        /// Which.
        peer: PeerNumber,
        /// Whether it is one of the session's sources.
        source: bool,
    },
    /// A peer is gone.
    PeerGone(PeerNumber),
    /// A block came that this session asked for, under the CID that it asked for.
    Block {
        /// From whom.
        from: PeerNumber,
        /// The block.
        block: Block,
    },
    /// A part of a message came from a peer that was asked. It isn't known whether it has what was asked for.
    /// Comes at most twice a second from each connection.
    Part(PeerNumber),
    /// A peer that was asked has a block.
    Have {
        /// Which peer.
        from: PeerNumber,
        /// Which block.
        cid: Cid,
    },
    /// A peer that was asked doesn't have a block.
    DontHave {
        /// Which peer.
        from: PeerNumber,
        /// Which block.
        cid: Cid,
    },
}

/// A session as its fetch holds it. Dropping it takes back all that it asked.
#[derive(Debug)]
pub struct SessionHandle {
    pub(super) id: SessionId,
    pub(super) commands: mpsc::Sender<Command>,
    /// Not bounded by itself: a session gets a block or a presence only for what it asked, and one event
    /// for each connection that comes or goes.
    pub(super) events: mpsc::UnboundedReceiver<SessionEvent>,
}

impl SessionHandle {
    /// The next event; `None` when the node has stopped.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        self.events.recv().await
    }

    /// An event that is already there.
    pub fn try_next(&mut self) -> Option<SessionEvent> {
        self.events.try_recv().ok()
    }

    /// A block came from someone who is no peer of the node: whoever else wants it gets it, and no peer has to send it.
    pub async fn came(&self, from: PeerNumber, block: Block) -> Result<(), NodeGone> {
        self.commands.send(Command::Came(from, block)).await.map_err(|_| NodeGone)
    }

    /// Names further peers that should have what is asked for.
    pub async fn add_sources(&self, sources: Vec<PeerId>) -> Result<(), NodeGone> {
        if sources.is_empty() {
            return Ok(());
        }
        self.commands.send(Command::AddSources(self.id, sources)).await.map_err(|_| NodeGone)
    }

    /// Tells the peers.
    pub async fn act(&self, actions: Vec<Action>) -> Result<(), NodeGone> {
        self.commands.send(Command::Act(self.id, actions)).await.map_err(|_| NodeGone)
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        let command = Command::CloseSession(self.id);
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(command).await });
            }
        }
    }
}
