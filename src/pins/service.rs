//! What clients do with their pins: add, replace, look, list, remove. Each answers after its commit.
//!
//! Fetching is the runner's matter; the two meet in the records and on the board. What the operator does with the pins
//! of all accounts is in `operator`.

mod operator;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use crate::denylist::Denylist;
use crate::model::limits::{
    DELEGATES_MAX, LISTS_RUNNING_MAX, LISTS_SCANNING_MAX, META_BYTES_MAX, META_PAIRS_MAX, NAME_CHARS_MAX,
    ORIGIN_BYTES_MAX, ORIGINS_MAX, ORIGINS_SKIPPED_MAX, PAGE_BYTES_MAX, WATCHERS_MAX,
};
use crate::model::query::{NameMatch, Query, Status};
use crate::model::{PinId, PinRecord, PinState, UserId, cids};
use crate::pins::board::{Board, Live, PinChange};
use crate::pins::expiry;
use crate::pins::webhooks::{Retries, Webhooks};
use crate::retrieval::post::Caller;
use crate::store::records::{AddRefusal, NewPin, Quota};
use crate::store::{Records, RecordsError};

pub use operator::{OwnedPage, OwnedPin, StatusCounts};

/// What a pin's answers need to know of the node.
pub trait NetworkView: Send + Sync {
    /// Addresses under which clients reach the node, each with its peer id; at least one.
    fn delegates(&self) -> Vec<String>;

    /// What an origin is good for.
    fn check_origin(&self, multiaddr: &str) -> OriginUse;
}

/// What an entry of `origins` is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginUse {
    /// It is dialled.
    Dial,
    /// It can't be dialled, for this reason; but it names a peer, which is a source should it dial us.
    Await(String),
    /// It names no peer, or says nothing that can be used, for this reason.
    Nothing(String),
}

/// Whose pins are meant, and how much that account may pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The account.
    pub user: UserId,
    /// How much it may pin.
    pub quota: Quota,
    /// How long its pins last whose client doesn't say, where that differs from what the configuration says; zero for ever.
    pub pin_lifetime: Option<Duration>,
}

/// What a client wants to pin, as it wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinInput {
    /// The CID.
    pub cid: String,
    /// A name; an empty one is none.
    pub name: Option<String>,
    /// Multiaddrs of peers that have the content.
    pub origins: Vec<String>,
    /// Key-value pairs.
    pub meta: BTreeMap<String, String>,
}

/// A pin as its owner sees it.
#[derive(Debug, Clone)]
pub struct PinView {
    /// The pin.
    pub record: PinRecord,
    /// How far it has come.
    pub status: Status,
    /// More about that.
    pub info: BTreeMap<String, String>,
    /// Whom it names or was tried with, a sentence for each of how that went; none of a pinned pin.
    pub tried: Vec<String>,
    /// Addresses under which the client reaches the node.
    pub delegates: Arc<[String]>,
}

impl PinView {
    /// The bytes of its texts, those that have no bound of a few.
    fn text_bytes(&self) -> usize {
        let of_list = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
        let of_map =
            |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let PinRecord { cid_text, name, origins, meta, .. } = &self.record;
        cid_text.len()
            + name.as_ref().map_or(0, String::len)
            + of_list(origins)
            + of_map(meta)
            + of_map(&self.info)
            + of_list(&self.delegates)
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct PinPage {
    /// Pins that match, on this page and all others.
    pub count: u64,
    /// The newest of them, newest first: as many as were asked for, unless they are too large together. There is at
    /// least one if there is any.
    pub pins: Vec<PinView>,
}

/// Why a pin can't be worked on.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The client's input can't be accepted; the sentence is for the client.
    #[error("{0}")]
    Invalid(String),
    /// The account has no such pin.
    #[error("there is no such pin")]
    NotFound,
    /// Only failed pins can be tried again.
    #[error("the pin is {}, and only failed pins can be tried again", .0.as_str())]
    NotFailed(Status),
    /// The account makes pins faster than one a millisecond.
    #[error("the account makes more than one pin a millisecond")]
    TooFast {
        /// How long to wait.
        wait: Duration,
    },
    /// The account has as many pins, or has pinned as many bytes, as it may; the sentence is for the client.
    #[error("{0}")]
    OverQuota(String),
    /// There is no such account; the sentence says which.
    #[error("{0}")]
    NoSuchAccount(String),
    /// The account is being deleted, or was.
    #[error("the account is gone")]
    AccountClosed,
    /// Records can't be read or written.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// The pins of all accounts.
#[derive(Clone)]
pub struct PinService {
    pub(super) records: Arc<Records>,
    pub(super) board: Arc<Board>,
    network: Arc<dyn NetworkView>,
    /// One permit for each list that may be read at the same time.
    lists: Arc<Semaphore>,
    /// The same for lists that may have to look at many names: there are fewer, so that the others go on.
    scans: Arc<Semaphore>,
    /// One permit for each client that watches a pin.
    watchers: Arc<Semaphore>,
    /// Wakes what removes pins whose time has come.
    pub(super) alarm: Arc<expiry::Alarm>,
    /// How long a pin lasts whose client doesn't say; for ever if that is zero.
    lifetime: Duration,
    webhooks: Webhooks,
    denylist: Denylist,
}

impl std::fmt::Debug for PinService {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PinService")
    }
}

impl PinService {
    /// The pins in `records`, with what `board` and `network` know of them.
    pub fn new(records: Arc<Records>, board: Arc<Board>, network: Arc<dyn NetworkView>) -> Self {
        let (lists, scans) = (Semaphore::new(LISTS_RUNNING_MAX), Semaphore::new(LISTS_SCANNING_MAX));
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        let (lists, scans) = (Arc::new(lists), Arc::new(scans));
        let (alarm, lifetime) = (Arc::default(), Duration::ZERO);
        let webhooks = Webhooks::stopped(Arc::clone(&records));
        let denylist = Denylist::default();
        Self { records, board, network, lists, scans, watchers, alarm, lifetime, webhooks, denylist }
    }

    /// The same, which tells of pins whose roots are on this list.
    #[must_use]
    pub fn with_denylist(self, denylist: Denylist) -> Self {
        Self { denylist, ..self }
    }

    /// The same, with pins that go by themselves after `lifetime` unless their clients or their accounts say when; never if it is zero.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The same, with webhooks that are told what becomes of pins, by whoever runs [`Webhooks::run`].
    #[must_use]
    pub fn with_webhooks(self, caller: Caller, retries: Retries) -> Self {
        Self { webhooks: self.webhooks.clone().with_network(caller, retries), ..self }
    }

    /// The webhooks of the accounts.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// How long a pin of this account lasts whose client doesn't say; `None` for ever.
    pub fn pin_lifetime(&self, owner: &Owner) -> Option<Duration> {
        Some(owner.pin_lifetime.unwrap_or(self.lifetime)).filter(|lifetime| !lifetime.is_zero())
    }

    /// The permits of those who watch a pin.
    pub fn watchers(&self) -> &Arc<Semaphore> {
        &self.watchers
    }

    /// Changes whenever a pin has ended or was removed.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.board.ended()
    }

    /// Makes a pin.
    pub async fn add(&self, owner: Owner, input: PinInput) -> Result<PinView, PinError> {
        self.put(owner, input, None).await
    }

    /// Makes a pin in the place of another one: that goes in the same commit, and what it holds stays until the new
    /// one is pinned.
    pub async fn replace(&self, owner: Owner, id: PinId, input: PinInput) -> Result<PinView, PinError> {
        self.put(owner, input, Some(id)).await
    }

    /// A pin of this account.
    pub fn get(&self, user: UserId, id: PinId) -> Result<PinView, PinError> {
        // The board first: the runner commits before it clears, so a pin that ends between the two is seen as ended,
        // and no pin seems to fall back to `queued`.
        let live = self.board.live(&id);
        match self.records.get(id)? {
            Some(record) if record.user == user => Ok(self.view(record, live.as_ref(), &self.delegates())),
            _ => Err(PinError::NotFound),
        }
    }

    /// The pins of this account that match, as what `make` makes of them. That runs where the pins are read: away from
    /// the threads of the runtime, and a few at a time, since a page can be large.
    pub async fn list<T: Send + 'static>(
        &self,
        user: UserId,
        query: Query,
        make: impl FnOnce(PinPage) -> T + Send + 'static,
    ) -> Result<T, PinError> {
        let scan = match (&query.name, query.name_match) {
            (None, _) | (_, NameMatch::Exact) => None,
            _ => Some(Arc::clone(&self.scans).acquire_owned().await.map_err(|_| PinError::Stopping)?),
        };
        let permit = Arc::clone(&self.lists).acquire_owned().await.map_err(|_| PinError::Stopping)?;
        let service = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            // They go with the work, which goes on when the client doesn't wait for it.
            let _permits = (scan, permit);
            service.list_blocking(user, &query).map(make)
        });
        joined(read.await)
    }

    /// Removes a pin of this account.
    pub async fn remove(&self, user: UserId, id: PinId) -> Result<(), PinError> {
        let service = self.clone();
        whole(async move {
            if !service.records.remove_pin(user, id).await? {
                return Err(PinError::NotFound);
            }
            service.board.announce(PinChange::Removed(id)).await;
            Ok(())
        })
        .await
    }

    async fn put(&self, owner: Owner, input: PinInput, replaces: Option<PinId>) -> Result<PinView, PinError> {
        let new = self.validate(owner, input)?;
        let service = self.clone();
        whole(async move {
            let record = service.records.add_pin(new, replaces).await?.map_err(refused)?;
            // Before the announcements: those wait while the runner is busy.
            if let Some(expires_ms) = record.expires_ms {
                service.alarm.set(expires_ms);
            }
            if let Some(replaced) = replaces {
                service.board.announce(PinChange::Removed(replaced)).await;
            }
            service.board.announce(PinChange::Added(Arc::new(record.clone()))).await;
            // Its removal may have been announced while its making waited for that, and must be the last that is heard.
            if record.expires_ms.is_some() && matches!(service.records.get(record.id), Ok(None)) {
                service.board.announce(PinChange::Removed(record.id)).await;
            }
            let live = service.board.live(&record.id);
            Ok(service.view(record, live.as_ref(), &service.delegates()))
        })
        .await
    }

    fn list_blocking(&self, user: UserId, query: &Query) -> Result<PinPage, PinError> {
        // The board first, as in `get`: a pin that it no longer shows as being fetched has ended before the snapshot, or it
        // waits for its next try.
        let fetching = self.board.fetching_of(user);
        let fetching_ms: Vec<i64> = fetching.keys().copied().collect();
        let delegates = self.delegates();
        let mut pins: Vec<PinView> = Vec::new();
        let mut bytes = 0;
        let count = self.records.list_pins(user, query, &fetching_ms, |record| {
            let live = match record.state {
                PinState::Pinned { .. } | PinState::Failed(_) => None,
                // What began since isn't told yet, so that each pin of the page has a status that was asked for.
                PinState::Queued => fetching
                    .get(&record.created_ms)
                    .cloned()
                    .or_else(|| self.board.live(&record.id).filter(|live| !live.is_fetching())),
            };
            let view = self.view(record, live.as_ref(), &delegates);
            bytes += view.text_bytes();
            // None is skipped: the next page begins where this one ends.
            if bytes > PAGE_BYTES_MAX && !pins.is_empty() {
                return ControlFlow::Break(());
            }
            pins.push(view);
            if pins.len() >= query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(PinPage { count, pins })
    }

    /// The pin of a snapshot with what the board says of it. A pin that was unfinished in the snapshot and that the
    /// board doesn't know may have ended since: it must not seem to fall back to `queued`.
    fn current(&self, record: PinRecord) -> Result<(PinRecord, Option<Live>), PinError> {
        if record.state != PinState::Queued {
            return Ok((record, None));
        }
        let live = self.board.live(&record.id);
        if live.is_some() {
            return Ok((record, live));
        }
        Ok((self.records.get(record.id)?.unwrap_or(record), None))
    }

    /// A pin as its owner sees it now.
    pub(super) fn view(&self, record: PinRecord, live: Option<&Live>, delegates: &Arc<[String]>) -> PinView {
        let mut view = view(record, live, delegates);
        if view.status == Status::Pinned && self.denylist.denies(&view.record.root) {
            view.info.insert("denied".into(), DENIED.into());
        }
        view
    }

    fn delegates(&self) -> Arc<[String]> {
        let mut delegates = self.network.delegates();
        delegates.truncate(DELEGATES_MAX);
        delegates.into()
    }

    fn validate(&self, owner: Owner, input: PinInput) -> Result<NewPin, PinError> {
        let PinInput { cid, name, origins, meta } = input;
        // The parser takes what follows `/ipfs/` in a path or URL; the answer has to show a CID, though.
        if cid.contains("/ipfs/") {
            return Err(PinError::Invalid("\"cid\" is a path or URL: send only the CID in it".into()));
        }
        let root = cids::parse(&cid).map_err(|error| PinError::Invalid(format!("\"cid\": {error}")))?;
        let name = name.filter(|name| !name.is_empty());
        let name_chars = name.as_ref().map_or(0, |name| name.chars().count());
        if name_chars > NAME_CHARS_MAX {
            return Err(PinError::Invalid(format!(
                "\"name\" has {name_chars} characters, at most {NAME_CHARS_MAX} are allowed: shorten it"
            )));
        }
        if meta.len() > META_PAIRS_MAX {
            return Err(PinError::Invalid(format!(
                "\"meta\" has {} pairs, at most {META_PAIRS_MAX} are allowed: leave some out",
                meta.len()
            )));
        }
        let meta_bytes: usize = meta.iter().map(|(key, value)| key.len() + value.len()).sum();
        if meta_bytes > META_BYTES_MAX {
            return Err(PinError::Invalid(format!(
                "\"meta\" has {meta_bytes} bytes, at most {META_BYTES_MAX} are allowed: shorten it"
            )));
        }
        let lifetime = self.pin_lifetime(&owner);
        let expires_ms = expiry::expires_at(meta.get(expiry::EXPIRES_AT), lifetime, Timestamp::now())?;
        let (origins, origins_skipped) = self.sort_origins(origins);
        let Owner { user, quota, pin_lifetime: _ } = owner;
        Ok(NewPin { user, cid_text: cid, root, name, origins, origins_skipped, meta, expires_ms, quota })
    }

    /// Which origins are used, and which aren't and why. A bad origin never refuses a pin.
    fn sort_origins(&self, given: Vec<String>) -> (Vec<String>, Vec<String>) {
        let mut seen = BTreeSet::new();
        let mut used = Vec::new();
        let mut skipped = Vec::new();
        let mut unnamed = 0usize;
        for origin in given {
            let reason = if origin.len() > ORIGIN_BYTES_MAX {
                format!("longer than {ORIGIN_BYTES_MAX} bytes")
            } else if seen.contains(&origin) {
                "given twice".to_owned()
            } else if used.len() == ORIGINS_MAX {
                format!("at most {ORIGINS_MAX} are used")
            } else {
                match self.network.check_origin(&origin) {
                    OriginUse::Dial => {
                        seen.insert(origin.clone());
                        used.push(origin);
                        continue;
                    }
                    OriginUse::Await(reason) => {
                        used.push(origin.clone());
                        format!("{reason}; its peer is a source when it connects to one of the delegates")
                    }
                    OriginUse::Nothing(reason) => reason,
                }
            };
            if skipped.len() < ORIGINS_SKIPPED_MAX {
                let shown: String = origin.chars().take(120).collect();
                skipped.push(format!("{shown} ({reason})"));
            } else {
                unnamed += 1;
            }
            seen.insert(origin);
        }
        if unnamed > 0 {
            skipped.push(format!("and {unnamed} more"));
        }
        (used, skipped)
    }
}

/// What is told of a pinned pin whose root has come on the list since.
const DENIED: &str = "the denylist of this service's operator has this CID: its blocks are kept as long as the pin, but the CID isn't served";

/// Why a pin wasn't made, for the client.
fn refused(refusal: AddRefusal) -> PinError {
    match refusal {
        AddRefusal::NotFound => PinError::NotFound,
        AddRefusal::TooFast { wait } => PinError::TooFast { wait },
        AddRefusal::PinsExhausted { quota } => PinError::OverQuota(format!(
            "this account has all of the {quota} pins that it may have; remove some, or ask the operator for more"
        )),
        AddRefusal::BytesExhausted { pinned, quota } => PinError::OverQuota(format!(
            "this account has pinned {pinned} bytes of the {quota} that it may pin; remove some pins, or ask the operator for more"
        )),
        AddRefusal::AccountClosed => PinError::AccountClosed,
    }
}

/// Runs a commit and its announcement to their end, even when the client goes away in between.
pub(super) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, PinError>> + Send + 'static,
) -> Result<T, PinError> {
    joined(tokio::spawn(work).await)
}

/// The outcome of a task; a panic in it goes on in its caller, who answers the client.
fn joined<T>(outcome: Result<Result<T, PinError>, tokio::task::JoinError>) -> Result<T, PinError> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(PinError::Stopping),
    }
}

/// The stored state decides; only for an unfinished pin the board says whether it is being fetched.
fn status(record: &PinRecord, live: Option<&Live>) -> Status {
    match record.state {
        PinState::Pinned { .. } => Status::Pinned,
        PinState::Failed(_) => Status::Failed,
        PinState::Queued if live.is_some_and(Live::is_fetching) => Status::Pinning,
        PinState::Queued => Status::Queued,
    }
}

/// A pin as its owner sees it.
pub(super) fn view(record: PinRecord, live: Option<&Live>, delegates: &Arc<[String]>) -> PinView {
    let status = status(&record, live);
    let mut info = BTreeMap::new();
    match &record.state {
        PinState::Queued => match live {
            Some(live) => info = live.info(Instant::now()),
            None => {
                info.insert("status_details".into(), "waiting for its turn".into());
            }
        },
        PinState::Pinned { blocks, bytes } => {
            info.insert("status_details".into(), format!("every block is stored: {blocks} blocks, {bytes} bytes"));
            info.insert("dag_size".into(), bytes.to_string());
            info.insert("raw_size".into(), bytes.to_string());
            info.insert("blocks_fetched".into(), blocks.to_string());
            info.insert("blocks_known".into(), blocks.to_string());
        }
        PinState::Failed(failure) => {
            info.insert("status_details".into(), failure.sentence.clone());
            info.insert("failure".into(), failure.code.as_str().into());
        }
    }
    if let Some(until) = expiry::pinned_until(&record) {
        info.insert("pinned_until".into(), until);
    }
    if !record.origins_skipped.is_empty() {
        info.insert("origins_skipped".into(), record.origins_skipped.join("; "));
    }
    let tried = match &record.state {
        PinState::Queued => live.and_then(Live::progress).map_or_else(Vec::new, |progress| progress.tried.to_vec()),
        PinState::Pinned { .. } => Vec::new(),
        PinState::Failed(failure) => failure.tried.clone(),
    };
    PinView { record, status, info, tried, delegates: Arc::clone(delegates) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::records::Records;
    use std::pin::pin;

    struct NoNetwork;

    impl NetworkView for NoNetwork {
        fn delegates(&self) -> Vec<String> {
            Vec::new()
        }

        fn check_origin(&self, _multiaddr: &str) -> OriginUse {
            OriginUse::Nothing("there is no network".into())
        }
    }

    #[tokio::test]
    async fn lists_wait_for_their_turn() {
        let directory = tempfile::tempdir().unwrap();
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1024 * 1024).unwrap());
        let service = PinService::new(records, Board::new().0, Arc::new(NoNetwork));
        let running = u32::try_from(LISTS_RUNNING_MAX).unwrap();
        let others = Arc::clone(&service.lists).acquire_many_owned(running).await.unwrap();
        let mut list = pin!(service.list(UserId(1), Query::default(), |page| page.count));
        assert!(futures::poll!(list.as_mut()).is_pending());
        assert_eq!(service.lists.available_permits(), 0);
        drop(others);
        assert_eq!(list.await.unwrap(), 0);
        assert_eq!(service.lists.available_permits(), LISTS_RUNNING_MAX);
    }
}
