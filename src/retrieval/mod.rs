//! Blocks from trustless gateways over HTTP: each gateway that a pin names is one more peer of its fetch.
//!
//! Pure decisions are in `upstream`, one for each gateway and shared by the fetches that ask it; `task` carries them out
//! with the requests of `client`, and `resolve` keeps names from leading to forbidden addresses. `post` calls the webhooks of accounts
//! past the same guard.
//!
//! Source of the protocol: the Trustless Gateway specification of the IPFS standards; where it leaves room, what boxo's
//! HTTP retrieval does.

mod client;
pub mod post;
mod resolve;
mod task;
mod upstream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cid::Cid;
use tokio::sync::mpsc;

use self::client::Share;
pub(crate) use self::client::{failure_of, retry_after};
use self::resolve::Names;
use self::task::{Command, GatewayTask};
use self::upstream::{AskerId, Event};
use crate::bitswap::PeerNumber;
use crate::bitswap::session::Action;
use crate::bitswap::wire::WantKind;
use crate::model::limits::RETRIEVAL_GATEWAYS_MAX;
use crate::net::profile::Profile;
use crate::net::{GatewayAddress, SessionEvent};

/// A running gateway, for those who want to ask it.
#[derive(Debug, Clone)]
struct Entry {
    commands: mpsc::UnboundedSender<Command>,
    /// Fetches that ask it.
    askers: Arc<AtomicU64>,
}

/// What the tasks of the gateways share.
#[derive(Debug)]
struct Registry {
    profile: Profile,
    /// Whether any gateway is asked at all.
    is_enabled: bool,
    names: Names,
    share: Share,
    gateways: Mutex<HashMap<GatewayAddress, Entry>>,
    next_asker: AtomicU64,
}

impl Registry {
    /// A poisoned lock is harmless: every entry is written whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<GatewayAddress, Entry>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All gateways of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateways {
    registry: Arc<Registry>,
}

impl Gateways {
    /// Asks gateways at addresses that the profile allows; none unless `is_enabled`.
    pub fn new(profile: Profile, is_enabled: bool) -> Self {
        let registry = Registry {
            profile,
            is_enabled,
            names: Names::default(),
            share: Share::default(),
            gateways: Mutex::default(),
            next_asker: AtomicU64::new(0),
        };
        Self { registry: Arc::new(registry) }
    }

    /// Begins to ask these gateways for one fetch. Each is announced once it has shown that it is one.
    pub fn open(&self, addresses: Vec<GatewayAddress>) -> GatewaySession {
        let id = AskerId(self.registry.next_asker.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::unbounded_channel();
        let registry = Arc::clone(&self.registry);
        let members = Vec::new();
        let mut session = GatewaySession { id, members, events, sender, asked: HashMap::new(), _registry: registry };
        session.add(self, addresses);
        session
    }

    /// The running gateway, or a new one. The count of its fetches is raised under the lock, so that none is taken away
    /// in between.
    fn entry(&self, address: GatewayAddress) -> Option<Entry> {
        let mut gateways = self.registry.lock();
        if let Some(entry) = gateways.get(&address) {
            entry.askers.fetch_add(1, Ordering::Relaxed);
            return Some(entry.clone());
        }
        if gateways.len() >= RETRIEVAL_GATEWAYS_MAX {
            let idle = gateways.iter().find(|(_, entry)| entry.askers.load(Ordering::Relaxed) == 0);
            // Its task ends with the last sender.
            let idle = idle.map(|(address, _)| address.clone())?;
            gateways.remove(&idle);
        }
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = GatewayTask::new(address.clone(), Arc::downgrade(&self.registry), receiver);
        tokio::spawn(task.run());
        let entry = Entry { commands, askers: Arc::new(AtomicU64::new(1)) };
        gateways.insert(address, entry.clone());
        Some(entry)
    }
}

/// A gateway of one fetch.
#[derive(Debug)]
struct Member {
    name: String,
    entry: Option<Entry>,
    /// Why it can't be asked.
    remark: Option<String>,
    is_up: bool,
    /// Blocks that it doesn't have.
    missing: u64,
}

/// The gateways of one fetch. Dropping it takes back all that it asked.
#[derive(Debug)]
pub struct GatewaySession {
    id: AskerId,
    members: Vec<Member>,
    /// Not bounded by itself: a block comes only for what was asked.
    events: mpsc::UnboundedReceiver<(u32, Event)>,
    /// For gateways that are added; it also keeps the channel open when no gateway does.
    sender: mpsc::UnboundedSender<(u32, Event)>,
    /// Whom each block is asked of.
    asked: HashMap<Cid, Vec<u32>>,
    /// The gateways' tasks hold it only weakly, so that they don't keep each other.
    _registry: Arc<Registry>,
}

impl GatewaySession {
    /// Asks further gateways too; those that it asks already are left out.
    pub fn add(&mut self, gateways: &Gateways, addresses: Vec<GatewayAddress>) {
        for address in addresses {
            let name = address.to_string();
            if self.members.iter().any(|member| member.name == name) {
                continue;
            }
            let Ok(index) = u32::try_from(self.members.len()) else { return };
            let (entry, remark) = if gateways.registry.is_enabled {
                match gateways.entry(address) {
                    Some(entry) => (Some(entry), None),
                    None => (None, Some("this service asks too many other gateways at the moment")),
                }
            } else {
                (None, Some("this service asks no gateways: fetch.gateways is false in its configuration"))
            };
            if let Some(entry) = &entry {
                let _ = entry.commands.send(Command::Open(self.id, index, self.sender.clone()));
            }
            let remark = remark.map(str::to_owned);
            self.members.push(Member { name, entry, remark, is_up: false, missing: 0 });
        }
    }

    /// The next event; without gateways none ever comes.
    pub async fn next(&mut self) -> SessionEvent {
        loop {
            match self.events.recv().await {
                Some((index, event)) => {
                    if let Some(event) = self.take(index, event) {
                        return event;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// An event that is already there.
    pub fn try_next(&mut self) -> Option<SessionEvent> {
        while let Ok((index, event)) = self.events.try_recv() {
            if let Some(event) = self.take(index, event) {
                return Some(event);
            }
        }
        None
    }

    fn take(&mut self, index: u32, event: Event) -> Option<SessionEvent> {
        let peer = PeerNumber::of_gateway(index);
        let member = self.members.get_mut(usize::try_from(index).ok()?)?;
        match event {
            Event::Up => {
                member.is_up = true;
                member.remark = None;
                Some(SessionEvent::PeerConnected { peer, source: true })
            }
            Event::Down => {
                member.is_up = false;
                self.asked.retain(|_, asked| {
                    asked.retain(|other| *other != index);
                    !asked.is_empty()
                });
                Some(SessionEvent::PeerGone(peer))
            }
            Event::Block(block) => {
                self.answered(block.cid(), index);
                Some(SessionEvent::Block { from: peer, block })
            }
            Event::Have(cid) => Some(SessionEvent::Have { from: peer, cid }),
            Event::DontHave(cid) => {
                member.missing += 1;
                self.answered(&cid, index);
                Some(SessionEvent::DontHave { from: peer, cid })
            }
            Event::Remark(remark) => {
                tracing::info!(gateway = member.name, reason = remark, "a gateway is not asked any longer");
                member.remark = Some(remark);
                None
            }
        }
    }

    /// Tells the gateways. Returns what is for others.
    pub fn act(&mut self, actions: Vec<Action>) -> Vec<Action> {
        if self.members.is_empty() {
            return actions;
        }
        let mut of_each: HashMap<u32, Vec<Action>> = HashMap::new();
        let mut of_others = Vec::new();
        for action in actions {
            let (Action::Ask { peer, cid, .. } | Action::Withdraw { peer, cid }) = action;
            let Some(index) = peer.gateway() else {
                of_others.push(action);
                continue;
            };
            match action {
                Action::Ask { kind: WantKind::Have, .. } => {}
                Action::Ask { kind: WantKind::Block, .. } => {
                    let asked = self.asked.entry(cid).or_default();
                    if !asked.contains(&index) {
                        asked.push(index);
                    }
                }
                Action::Withdraw { .. } => self.answered(&cid, index),
            }
            of_each.entry(index).or_default().push(action);
        }
        for (index, actions) in of_each {
            self.send(index, Command::Act(self.id, actions));
        }
        of_others
    }

    /// Nothing is expected of this one any longer.
    fn answered(&mut self, cid: &Cid, index: u32) {
        if let Some(asked) = self.asked.get_mut(cid) {
            asked.retain(|other| *other != index);
            if asked.is_empty() {
                self.asked.remove(cid);
            }
        }
    }

    /// A block came: no other gateway has to send it.
    pub fn forget(&mut self, cid: &Cid) {
        for index in self.asked.remove(cid).unwrap_or_default() {
            let withdraw = Action::Withdraw { peer: PeerNumber::of_gateway(index), cid: *cid };
            self.send(index, Command::Act(self.id, vec![withdraw]));
        }
    }

    fn send(&self, index: u32, command: Command) {
        let member = usize::try_from(index).ok().and_then(|index| self.members.get(index));
        if let Some(entry) = member.and_then(|member| member.entry.as_ref()) {
            let _ = entry.commands.send(command);
        }
    }

    /// How many gateways can be asked.
    pub fn connected(&self) -> usize {
        self.members.iter().filter(|member| member.is_up).count()
    }

    /// For each gateway that didn't give everything, a sentence that says why.
    pub fn remarks(&self) -> Vec<String> {
        let remarks = self.members.iter().filter_map(|member| {
            let what = match (&member.remark, member.missing, member.is_up) {
                (Some(remark), _, _) => remark.clone(),
                (None, 0, true) => return None,
                (None, 0, false) => "it has not answered yet".to_owned(),
                (None, 1, _) => "it does not have a block that it was asked for".to_owned(),
                (None, missing, _) => format!("it does not have {missing} blocks that it was asked for"),
            };
            Some(format!("{}: {what}", member.name))
        });
        remarks.collect()
    }
}

impl Drop for GatewaySession {
    fn drop(&mut self) {
        for entry in self.members.iter().filter_map(|member| member.entry.as_ref()) {
            let _ = entry.commands.send(Command::Close(self.id));
            entry.askers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
