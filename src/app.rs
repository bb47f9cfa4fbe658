//! The composition root: makes every part, starts them in order, and stops them in the opposite order.
//!
//! Listening comes before anything is made for good, so that a port in use doesn't swallow the secrets of a first start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

pub use crate::auth::FirstStart;
use crate::auth::{Accounts, AuthError};
use crate::config::{Config, ConfigError};
use crate::dag::links::links;
use crate::denylist::{self, Denylist, DenylistError};
use crate::fetch::Fetcher;
use crate::gateway::Gateway;
#[cfg(unix)]
use crate::http::control::ControlSocket;
use crate::http::control::{ControlState, ProcessFacts};
use crate::http::metrics::{Requests, serve_metrics};
use crate::http::{self, AppState, Front, TlsError};
use crate::model::UserId;
use crate::net::probe::Prober;
use crate::net::profile::{Profile, check_origin, origin_peer};
use crate::net::{Extras, Keypair, Node, NodeError, NodeHandle, websocket};
use crate::pins::board::Board;
use crate::pins::runner::{Quotas, Runner, RunnerError, RunnerTask};
use crate::pins::webhooks::Retries;
use crate::pins::{NetworkView, OriginUse, PinService};
use crate::provide::{Provider, ProviderTask};
use crate::retrieval::Gateways;
use crate::retrieval::post::Caller;
use crate::routing::Routers;
use crate::store::backup::Backups;
use crate::store::blocks::BlockStore;
use crate::store::datadir::{DataDir, DataDirError};
use crate::store::gc::GarbageCollector;
use crate::store::records::{Quota, Records, RecordsError};
use crate::store::verify::Verifier;
use crate::store::{self, Stores, StoresError, upkeep};

/// Why the service can't start, or didn't end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration has no data directory.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the data directory can't be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The peer identity can't be read.
    #[error(
        "the peer identity in {path} can't be used: {reason}; restore it from a backup, or remove it to become a new peer"
    )]
    Identity {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stores can't be opened.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// `records.redb` failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A denylist can't be used.
    #[error(transparent)]
    Denylist(#[from] DenylistError),
    /// The node can't start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The accounts can't be opened.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// There is no TLS as configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP address can't be bound.
    #[error("can't serve HTTP on {address}: {source}; choose another with --http ADDR:PORT or the key http.listen")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The address for figures can't be bound.
    #[error("can't serve figures on {address}: {source}; choose another with the key metrics.listen")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The runner ended by itself.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// A part that runs until the stop ended before.
    #[error("{part} ended by itself{}", if *.panicked { ", with a panic; the log says where" } else { "" })]
    Ended {
        /// Which part.
        part: &'static str,
        /// Whether it panicked.
        panicked: bool,
    },
    /// A server of HTTP ended by itself.
    #[error("{part} ended by itself: {source}")]
    ServerEnded {
        /// Which server.
        part: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A task of the start-up was cancelled.
    #[error("the program is stopping")]
    Stopping,
}

/// What a started service tells.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The PSA endpoint, with the port really bound.
    pub endpoint: String,
    /// The peer's id.
    pub peer_id: String,
    /// The addresses under which clients and peers reach the node, each ending in its id.
    pub multiaddrs: Vec<String>,
    /// The process id.
    pub pid: u32,
    /// Where figures for Prometheus are, if they are served.
    pub metrics: Option<String>,
    /// What the first start made.
    pub first_start: Option<FirstStart>,
}

/// A server of HTTP, to stop and join.
#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    /// Gone when its end was told.
    task: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Starts what `serve` makes of the future that ends at the stop.
    fn start<F>(serve: impl FnOnce(BoxFuture<'static, ()>) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            // A sender that is gone means the same as its message.
            let _ = stopped.await;
        };
        Self { stop, task: Some(tokio::spawn(serve(stopped.boxed()))) }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        if let Some(task) = self.task
            && let Ok(Err(error)) = task.await
        {
            tracing::warn!(%error, "a server of HTTP ended with an error");
        }
    }
}

/// A running service.
#[derive(Debug)]
pub struct App {
    ready: Ready,
    http: Server,
    /// Absent where the socket can't be made.
    control: Option<Server>,
    /// Absent unless it is configured.
    metrics: Option<Server>,
    accounts: Arc<Accounts>,
    runner: RunnerTask,
    provider: ProviderTask,
    node: NodeHandle,
    /// Gone when its end was told.
    node_task: Option<JoinHandle<()>>,
    garbage: Arc<GarbageCollector>,
    verifier: Arc<Verifier>,
    backups: Arc<Backups>,
    /// What begins garbage collections and verifications by itself, removes pins whose time has come, tells webhooks, and keeps
    /// certificates, denylists and accounts up to date.
    schedules: [JoinHandle<()>; 7],
    blocks: BlockStore,
    records: Arc<Records>,
    /// Held to the end: the lock on the data directory goes with it.
    data: DataDir,
}

impl App {
    /// Starts the service and returns once all of it is serving.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let directory = config.data_directory()?;
        let denylist = read_denylist(config.denylist.clone()).await?;
        let (keypair, Stores { blocks, records, data }) = open(directory, config.store.clone()).await?;
        let front = open_front(&config, &data)?;
        let (listener, bound) = listen(config.http.listen).await?;
        let metrics_listener = listen_for_metrics(config.metrics.listen).await?;
        let extras = extras(&config, &denylist, &data, front.secure_domain(bound));
        let Node { handle: node, events, task: node_task } =
            Node::start_with(keypair, &config.network, blocks.reader(), extras).await?;

        let accounts = Arc::new(Accounts::open(Arc::clone(&records), &config.auth).await?);
        let first_start = accounts.ensure_admin(&config.auth).await?;
        let (board, changes) = Board::new();
        let fetcher = fetcher(&config, &blocks, &node, &denylist);
        let traffic = fetcher.fetched();
        let (provider, provider_task) = provider(&config, &blocks, &records, &node, &denylist, &data);
        let runner = Runner::new(
            Arc::clone(&records),
            Arc::clone(&board),
            node.clone(),
            fetcher,
            Arc::new(AccountQuotas(Arc::clone(&accounts))),
            blocks.shortage(),
            config.pins.clone(),
        )
        .with_provider(provider.clone())
        .with_routers(routers(&config, &node))
        .spawn(changes, events);
        let verifier = verifier(&blocks, &records, &board);
        let pins = PinService::new(Arc::clone(&records), Arc::clone(&board), Arc::new(View(node.clone())))
            .with_lifetime(config.pins.lifetime)
            .with_denylist(denylist.clone())
            .with_webhooks(Caller::new(node.profile().clone()), Retries::default());
        let ready = Ready {
            endpoint: front.endpoint(bound),
            peer_id: node.peer_id().to_string(),
            multiaddrs: multiaddrs(&node),
            pid: std::process::id(),
            metrics: metrics_listener.as_ref().map(|(_, url)| url.clone()),
            first_start,
        };
        let process = process_facts(&config, &ready.endpoint, &data);
        let garbage = GarbageCollector::new(blocks.collector(readable_links), Arc::clone(&records));
        let store = &config.store;
        let keep = upkeep::keep(Arc::clone(&garbage), blocks.reader(), store.gc_interval, move || board.removals());
        let schedules = [
            tokio::spawn(front.clone().keep()),
            tokio::spawn(denylist.clone().keep()),
            tokio::spawn(keep),
            tokio::spawn(pins.clone().run_expiry()),
            tokio::spawn(pins.webhooks().clone().run()),
            tokio::spawn(keep_accounts(Arc::clone(&accounts), pins.clone())),
            tokio::spawn(Arc::clone(&verifier).run_regularly(store.verify_interval, store.verify_rate.as_u64())),
        ];
        let backups = Backups::new(blocks.reader(), Arc::clone(&records), &data);
        let state = ControlState {
            accounts: Arc::clone(&accounts),
            fetched: traffic,
            pins: pins.clone(),
            node: node.clone(),
            prober: Prober::new(node.clone()),
            blocks: blocks.reader(),
            writer: blocks.writer(),
            garbage: Arc::clone(&garbage),
            verifier: Arc::clone(&verifier),
            backups: Arc::clone(&backups),
            front: front.clone(),
            denylist,
            provider,
            process: Arc::new(process),
        };
        let requests = Arc::new(Requests::default());
        let metrics = metrics_listener.map(|(listener, _)| {
            let (state, requests) = (state.clone(), Arc::clone(&requests));
            Server::start(|stopped| serve_metrics(listener, state, requests, stopped))
        });
        let api = api(&state, &config.http, requests);
        let http = Server::start(|stopped| http::serve(listener, api, front, stopped));
        let control = control(&data.control_path(), state);
        let node_task = Some(node_task);
        Ok(Self {
            ready,
            http,
            control,
            metrics,
            accounts,
            runner,
            provider: provider_task,
            node,
            node_task,
            garbage,
            verifier,
            backups,
            schedules,
            blocks,
            records,
            data,
        })
    }

    /// What a started service tells.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Writes the secrets of the first start into a file of the data directory that only its owner may read, and
    /// returns its path.
    pub fn write_first_start(&self, text: &str) -> Result<PathBuf, AppError> {
        let path = self.data.first_start_path();
        self.data.write_secret(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Waits until a part ends by itself, which none should: without it the service only seems to run. What is left is
    /// still to be stopped.
    pub async fn ended(&mut self) -> AppError {
        let gone = |part| AppError::Ended { part, panicked: false };
        let server_gone = |part, outcome| match outcome {
            Ok(Ok(())) => gone(part),
            Ok(Err(error)) => AppError::ServerEnded { part, source: error },
            Err(error) => AppError::Ended { part, panicked: JoinError::is_panic(&error) },
        };
        tokio::select! {
            outcome = part_ended(&mut self.http.task) => server_gone("the HTTP side", outcome),
            outcome = server_ended(&mut self.control) => server_gone("the server for commands", outcome),
            outcome = server_ended(&mut self.metrics) => server_gone("the server for figures", outcome),
            outcome = self.runner.ended() => outcome.err().map_or_else(|| gone("the runner"), AppError::Runner),
            outcome = part_ended(&mut self.node_task) => {
                AppError::Ended { part: "the node", panicked: outcome.is_err_and(|error| error.is_panic()) }
            }
        }
    }

    /// Stops in order: no new requests, no new fetches, no peers, and then the stores.
    pub async fn stop(self) -> Result<(), AppError> {
        tokio::join!(self.http.stop(), async {
            for server in [self.control, self.metrics].into_iter().flatten() {
                server.stop().await;
            }
        });
        for schedule in &self.schedules {
            schedule.abort();
        }
        if let Err(error) = self.accounts.write_last_used().await {
            tracing::warn!(%error, "when tokens were last used can't be written down");
        }
        let ((), (), (), (), runner) = tokio::join!(
            self.garbage.stop(),
            self.verifier.stop(),
            self.backups.stop(),
            self.provider.stop(),
            self.runner.stop()
        );
        self.node.stop().await;
        if let Some(node_task) = self.node_task {
            let _ = node_task.await;
        }
        let (blocks, records) = (self.blocks, self.records);
        tokio::task::spawn_blocking(move || {
            blocks.close();
            records.close();
        })
        .await
        .map_err(|_| AppError::Stopping)?;
        Ok(runner?)
    }
}

fn verifier(blocks: &BlockStore, records: &Arc<Records>, board: &Arc<Board>) -> Arc<Verifier> {
    Verifier::new(blocks.verifier(readable_links), Arc::clone(records), Arc::clone(board) as Arc<_>)
}

fn fetcher(config: &Config, blocks: &BlockStore, node: &NodeHandle, denylist: &Denylist) -> Fetcher {
    let in_flight = config.fetch.bytes_in_flight_max.as_u64();
    let gateways = Gateways::new(node.profile().clone(), config.fetch.gateways);
    Fetcher::new(blocks.reader(), blocks.writer(), node.clone(), gateways, in_flight).with_denylist(denylist.clone())
}

fn open_front(config: &Config, data: &DataDir) -> Result<Front, AppError> {
    let front = Front::open(&config.http, &data.acme_path())?;
    for warning in front.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(front)
}

/// What the node has besides, where others reach the HTTP side under that domain and port.
fn extras(config: &Config, denylist: &Denylist, data: &DataDir, domain: Option<(String, u16)>) -> Extras {
    let domain = domain.filter(|_| config.http.websocket);
    Extras {
        denylist: denylist.clone(),
        servers_file: Some(data.servers_path()),
        web_socket: domain.map(|(domain, port)| websocket::address(&domain, port)),
    }
}

fn routers(config: &Config, node: &NodeHandle) -> Routers {
    let profile = node.profile();
    Routers::new(&config.routing.urls(*profile == Profile::Public), profile.clone(), node.peer_id())
}

fn provider(
    config: &Config,
    blocks: &BlockStore,
    records: &Arc<Records>,
    node: &NodeHandle,
    denylist: &Denylist,
    data: &DataDir,
) -> (Provider, ProviderTask) {
    let (node, records, denylist) = (node.clone(), Arc::clone(records), denylist.clone());
    Provider::start(config.provide, node, blocks.reader(), records, denylist, data.provided_path())
}

/// How often the times are written down at which tokens were last used.
const LAST_USED_WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// What accounts need besides requests: the rest of deletions that a stop broke off, and when their tokens were last used.
async fn keep_accounts(accounts: Arc<Accounts>, pins: PinService) {
    if let Err(error) = pins.remove_deleted_accounts().await {
        tracing::warn!(%error, "the pins of a deleted account can't be removed now");
    }
    loop {
        tokio::time::sleep(LAST_USED_WRITTEN_EVERY).await;
        if let Err(error) = accounts.write_last_used().await {
            tracing::warn!(%error, "when tokens were last used can't be written down");
        }
    }
}

/// What a held block links to, for the store, which doesn't know.
pub fn readable_links(cid: &Cid, data: &Bytes) -> Vec<Cid> {
    links(cid, data).unwrap_or_else(|error| {
        tracing::debug!(%cid, %error, "a held block has no readable links");
        Vec::new()
    })
}

/// Serves the commands on this machine. Without its socket the service is whole but for them, so it goes on.
#[cfg(unix)]
fn control(path: &std::path::Path, state: ControlState) -> Option<Server> {
    match ControlSocket::bind(path) {
        Ok(socket) => Some(Server::start(|stopped| socket.serve(state, stopped))),
        Err(error) => {
            tracing::warn!(
                %error,
                path = %path.display(),
                "commands such as `pinnace status` can't reach this process, as their socket can't be made"
            );
            None
        }
    }
}

/// There are no unix sockets to serve on.
#[cfg(not(unix))]
fn control(_path: &std::path::Path, _state: ControlState) -> Option<Server> {
    None
}

/// Opens what the data directory has; that reads and may write the disk.
async fn open(directory: PathBuf, options: store::Options) -> Result<(Keypair, Stores), AppError> {
    let open = move || {
        let data = DataDir::open(&directory).map_err(StoresError::from)?;
        let keypair = identity(&data)?;
        Ok((keypair, Stores::open(data, &options)?))
    };
    tokio::task::spawn_blocking(open).await.map_err(|_| AppError::Stopping)?
}

/// The API's listener, and where it is.
async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Http { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Reads the denylists, which takes a while.
async fn read_denylist(options: denylist::Options) -> Result<Denylist, AppError> {
    let read = tokio::task::spawn_blocking(move || Denylist::open(&options));
    Ok(read.await.map_err(|_| AppError::Stopping)??)
}

/// What the API works with: the same as the commands.
fn api(state: &ControlState, options: &http::Options, requests: Arc<Requests>) -> AppState {
    AppState {
        accounts: Arc::clone(&state.accounts),
        pins: state.pins.clone(),
        gateway: options.gateway.then(|| Gateway::new(state.blocks.clone()).with_denylist(state.denylist.clone())),
        web_sockets: options.websocket.then(|| state.node.clone()),
        control: Some(state.clone()),
        requests,
    }
}

/// Listens for who asks for figures, if anybody may; the URL is where they are.
async fn listen_for_metrics(address: Option<SocketAddr>) -> Result<Option<(TcpListener, String)>, AppError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |source| AppError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}/metrics", http::reachable(listener.local_addr().map_err(failed)?));
    Ok(Some((listener, url)))
}

/// Waits for the end of a task and takes its handle, as a handle must not be asked again after that. Without a handle
/// it waits for ever.
async fn part_ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let Some(handle) = task else { return std::future::pending().await };
    let outcome = handle.await;
    *task = None;
    outcome
}

/// The same for a server that there may be.
async fn server_ended(server: &mut Option<Server>) -> Result<io::Result<()>, JoinError> {
    match server {
        Some(server) => part_ended(&mut server.task).await,
        None => std::future::pending().await,
    }
}

/// Reads the peer identity, or makes it.
fn identity(data: &DataDir) -> Result<Keypair, AppError> {
    let path = data.identity_path();
    let broken = |reason: String| AppError::Identity { path: path.display().to_string(), reason };
    match std::fs::read(&path) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes).map_err(|error| broken(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keypair = Keypair::generate_ed25519();
            let bytes = keypair.to_protobuf_encoding().map_err(|error| broken(error.to_string()))?;
            data.write_secret(&path, &bytes)?;
            Ok(keypair)
        }
        Err(error) => Err(broken(error.to_string())),
    }
}

/// What commands are told of the process.
fn process_facts(config: &Config, endpoint: &str, data: &DataDir) -> ProcessFacts {
    ProcessFacts {
        started: jiff::Timestamp::now(),
        endpoint: endpoint.to_owned(),
        data: data.path().to_owned(),
        blocks_file: data.blocks_path(),
        records_file: data.records_path(),
        config: config.shown(),
    }
}

/// How much accounts may pin, for the runner.
struct AccountQuotas(Arc<Accounts>);

impl Quotas for AccountQuotas {
    fn quota(&self, user: UserId) -> Quota {
        match self.0.quota(user) {
            Ok(quota) => quota.unwrap_or(Quota::NONE),
            Err(error) => {
                tracing::error!(%user, %error, "the quota of an account can't be read");
                Quota::NONE
            }
        }
    }
}

/// What the pins' answers say of the node.
struct View(NodeHandle);

impl NetworkView for View {
    fn delegates(&self) -> Vec<String> {
        self.0.delegates().0.iter().map(ToString::to_string).collect()
    }

    fn check_origin(&self, multiaddr: &str) -> OriginUse {
        match check_origin(self.0.profile(), multiaddr, self.0.peer_id()) {
            Ok(_) => OriginUse::Dial,
            Err(reason) => match origin_peer(multiaddr) {
                Some(peer) if peer != self.0.peer_id() => OriginUse::Await(reason),
                _ => OriginUse::Nothing(reason),
            },
        }
    }
}

fn multiaddrs(node: &NodeHandle) -> Vec<String> {
    let (addresses, last_resort) = node.delegates();
    // In public it is found out whether others reach the node, and `pinnace status` says what came of it.
    if last_resort && matches!(node.profile(), Profile::Lan { .. }) {
        tracing::warn!(
            "no address of this node is known to be reachable from outside: name one with --external MULTIADDR or the key network.external"
        );
    }
    addresses.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Sources};

    async fn start(directory: &std::path::Path) -> App {
        let flags = Flags {
            data: Some(directory.to_owned()),
            http: Some("127.0.0.1:0".to_owned()),
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            external: Vec::new(),
            lan: true,
            log_format: None,
        };
        App::start(Config::load(&Sources { flags, ..Sources::default() }).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_told_and_the_rest_still_stops() {
        let directory = tempfile::tempdir().unwrap();
        let mut app = start(directory.path()).await;
        assert!(futures::poll!(std::pin::pin!(app.ended())).is_pending());
        app.node.stop().await;
        let error = app.ended().await;
        assert!(matches!(error, AppError::Ended { part: "the node", panicked: false }), "{error}");
        app.stop().await.unwrap();

        let mut app = start(directory.path()).await;
        let server = app.http.task.replace(tokio::spawn(async { panic!("a panic that the test wants") })).unwrap();
        let error = app.ended().await;
        assert!(matches!(error, AppError::Ended { part: "the HTTP side", panicked: true }), "{error}");
        app.stop().await.unwrap();
        server.await.unwrap().unwrap();
        start(directory.path()).await.stop().await.unwrap();
    }
}
