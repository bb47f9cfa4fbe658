//! Delegated routing: asks the routers that the operator names who has a DAG, over HTTP.
//!
//! The data's path: [`Routers::ask`] → one `GET` to each router → its answer, as it comes (`answer`) → each address judged by the network
//! profile as if a client had named it → whoever looks for providers. Bounds: [`ASKED_MAX`] requests at a time, [`ANSWER_MAX`] and 1 MiB for an
//! answer, 256 records, 64 addresses each. A router that fails is left alone for a while, so that it costs the others no time.
//!
//! Source: the Delegated Routing V1 HTTP API of the IPFS standards, with the filters of IPIP-484.

mod answer;
pub mod options;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cid::Cid;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{OnceCell, Semaphore, mpsc};

use self::answer::{Form, Named, Reader};
pub use self::options::Options;
use crate::net::profile::{self, Profile, check_origin};
use crate::net::{GatewayAddress, Multiaddr, PeerId};
use crate::retrieval::{failure_of, retry_after};

/// Requests that run at the same time, to all routers.
const ASKED_MAX: usize = 16;

/// How long a router may take to be connected to.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a router may take to answer, all of it: it may look into the DHT itself.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long a router that failed is left alone; it doubles with each failure.
const REST_MIN: Duration = Duration::from_secs(5);

/// The longest that a router is left alone.
const REST_MAX: Duration = Duration::from_mins(5);

/// What a router is asked to leave out of its answer: whom we can't get blocks from. A router may not know that of somebody.
const FILTERS: &str = "filter-protocols=unknown,transport-bitswap,transport-ipfs-gateway-http";

/// How a router writes its answer: at best so that the first record is there before the last is found.
const FORMS: &str = "application/x-ndjson, application/json;q=0.9";

/// Who is said to have a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A peer, and where it may be dialled; nowhere, if the router doesn't know.
    Peer(PeerId, Vec<Multiaddr>),
    /// A gateway that may be asked.
    Gateway(GatewayAddress),
}

/// How the asking of a router went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whether it answered.
    pub is_heard: bool,
    /// In a sentence.
    pub sentence: String,
}

/// Whether a router may be asked.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    /// How long it was after the last failure.
    lately: Duration,
    /// Why.
    reason: String,
}

#[derive(Debug)]
struct Router {
    /// Its name for sentences: the host.
    name: Arc<str>,
    /// What comes before the CID.
    base: Url,
    rest: Mutex<Rest>,
}

/// The routers of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Routers {
    all: Arc<[Router]>,
    profile: Profile,
    own: PeerId,
    /// Made at the first request: a client reads the certificates that the system trusts.
    http: Arc<OnceCell<Client>>,
    turns: Arc<Semaphore>,
}

/// The URL of a router's providers, from what the operator gives.
fn base(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let is_usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    if !is_usable || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    let path = url.path().trim_end_matches('/').trim_end_matches("/routing/v1").to_owned();
    url.set_path(&format!("{path}/routing/v1/providers/"));
    Some(url)
}

/// Whether the operator can give this as a router.
pub fn is_endpoint(text: &str) -> bool {
    text == options::AUTO || base(text).is_some()
}

impl Routers {
    /// The routers with these URLs, which [`is_endpoint`] allows. What they name is judged by `profile`, and isn't `own`.
    pub fn new(urls: &[&str], profile: Profile, own: PeerId) -> Self {
        let router = |text: &&str| {
            let base = base(text)?;
            let name = base.host_str().unwrap_or_default().into();
            Some(Router { name, base, rest: Mutex::default() })
        };
        let all = urls.iter().filter_map(router).collect();
        Self { all, profile, own, http: Arc::default(), turns: Arc::new(Semaphore::new(ASKED_MAX)) }
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.all.iter().map(|router| Arc::clone(&router.name))
    }

    /// Asks one, by its place among [`Routers::names`], who has what is below `root`. `found` is told of each as soon as it is named.
    pub async fn ask(&self, router: usize, root: &Cid, found: &mpsc::Sender<Found>) -> Asked {
        let Some(router) = self.all.get(router) else {
            return Asked { is_heard: false, sentence: "there is no such router".to_owned() };
        };
        let name = &router.name;
        if let Some(reason) = router.rests() {
            return Asked { is_heard: false, sentence: format!("{name}: {reason}; it is asked again later") };
        }
        // Nobody closes it.
        let _turn = self.turns.acquire().await;
        let asked = tokio::time::timeout(ANSWER_MAX, self.providers(router, root, found)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(Trouble::new(format!("it took more than {} s", ANSWER_MAX.as_secs()))));
        match asked {
            Ok(count) => {
                router.has_answered();
                let sentence = match count {
                    0 => format!("{name} answered, and knows nobody who has it"),
                    1 => format!("{name} names one who has it"),
                    _ => format!("{name} names {count} who have it"),
                };
                Asked { is_heard: true, sentence }
            }
            Err(trouble) => {
                let sentence = format!("{name}: {}", trouble.reason);
                router.has_failed(trouble);
                Asked { is_heard: false, sentence }
            }
        }
    }

    /// Asks for providers; returns how many were named that may be asked.
    async fn providers(&self, router: &Router, root: &Cid, found: &mpsc::Sender<Found>) -> Result<usize, Trouble> {
        let root = if root.version() == cid::Version::V0 { Cid::new_v1(root.codec(), *root.hash()) } else { *root };
        let mut url = router.base.clone();
        url.set_path(&format!("{}{root}", router.base.path()));
        url.set_query(Some(FILTERS));
        let request = self.client().await?.get(url).header(ACCEPT, FORMS);
        let mut response = request.send().await.map_err(|error| Trouble::new(failure_of(error)))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(0);
        }
        if !status.is_success() {
            let after = retry_after(response.headers(), SystemTime::now());
            return Err(Trouble { reason: format!("it answers {status}"), after });
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|text| text.to_str().ok()).unwrap_or_default();
        let form = Form::of(content_type)
            .ok_or_else(|| Trouble::new("it is no router: its answer is neither JSON nor lines of it".to_owned()))?;
        let mut reader = Reader::new(form);
        let mut count = 0;
        let told = |error: answer::AnswerError| Trouble::new(error.to_string());
        while !reader.is_full() {
            let Some(piece) = response.chunk().await.map_err(|error| Trouble::new(failure_of(error)))? else { break };
            for named in reader.feed(&piece).map_err(told)? {
                count += self.judge(named, found).await;
            }
        }
        for named in reader.end().map_err(told)? {
            count += self.judge(named, found).await;
        }
        Ok(count)
    }

    /// Tells of whom a router named, as far as the profile allows it; returns whether it did.
    async fn judge(&self, named: Named, found: &mpsc::Sender<Found>) -> usize {
        let Named { peer, addresses } = named;
        if peer == self.own {
            return 0;
        }
        let (mut dialled, mut gateways) = (Vec::new(), Vec::new());
        for text in &addresses {
            match check_origin(&self.profile, &with_peer(text, peer), self.own) {
                Ok(profile::Origin::Peer(named, address)) if named == peer => dialled.push(address),
                Ok(profile::Origin::Peer(..)) => {}
                Ok(profile::Origin::Gateway(gateway)) => gateways.push(gateway),
                Err(reason) => tracing::debug!(%peer, text, reason, "an address that a router names isn't used"),
            }
        }
        let is_peer = !dialled.is_empty() || addresses.is_empty();
        let is_any = is_peer || !gateways.is_empty();
        for gateway in gateways {
            let _ = found.send(Found::Gateway(gateway)).await;
        }
        if is_peer {
            let _ = found.send(Found::Peer(peer, dialled)).await;
        }
        usize::from(is_any)
    }

    async fn client(&self) -> Result<&Client, Trouble> {
        let made = self.http.get_or_try_init(|| async {
            let built = tokio::task::spawn_blocking(build).await;
            let built = built.map_err(|_| "this service is stopping".to_owned())?;
            built.map_err(|error| format!("this service can't set up its side of HTTPS: {error}"))
        });
        made.await.map_err(Trouble::new)
    }
}

/// The address with the peer at its end. Routers write it without.
fn with_peer(address: &str, peer: PeerId) -> String {
    if address.contains("/p2p/") { address.to_owned() } else { format!("{}/p2p/{peer}", address.trim_end_matches('/')) }
}

/// Routers are the operator's own choice, so wherever their names lead is right.
fn build() -> Result<Client, reqwest::Error> {
    Client::builder()
        .user_agent(concat!("pinnace/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .timeout(ANSWER_MAX)
        .pool_max_idle_per_host(1)
        .build()
}

/// Why a router didn't answer, and after what time it wants to be asked again.
struct Trouble {
    reason: String,
    after: Option<Duration>,
}

impl Trouble {
    fn new(reason: String) -> Self {
        Self { reason, after: None }
    }
}

impl Router {
    /// Why it isn't asked now, if it isn't.
    fn rests(&self) -> Option<String> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.until.filter(|until| *until > Instant::now()).map(|_| rest.reason.clone())
    }

    fn has_answered(&self) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Rest::default();
    }

    fn has_failed(&self, trouble: Trouble) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        // Others that were asked at the same time failed for the same reason.
        if rest.until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        rest.lately = (2 * rest.lately).clamp(REST_MIN, REST_MAX);
        let wait = trouble.after.map_or(rest.lately, |after| after.clamp(REST_MIN, REST_MAX));
        rest.until = Some(Instant::now() + wait);
        rest.reason = trouble.reason;
    }
}

#[cfg(test)]
mod tests;
