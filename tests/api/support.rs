//! A server for each test, and a client that checks what every answer must have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pinnace::auth::{Accounts, FirstStart, NewAccount, NewDeviceToken, Options, Quota, Role, Scopes};
use pinnace::config::{Config, Sources};
use pinnace::gateway::Gateway;
use pinnace::http::{AppState, Front, serve};
use pinnace::model::{Block, PinId, UserId};
use pinnace::net::profile::Profile;
use pinnace::pins::board::{Board, Doing, PinChange, Place, Progress};
use pinnace::pins::webhooks::Retries;
use pinnace::pins::{NetworkView, OriginUse, PinService};
use pinnace::retrieval::post::Caller;
use pinnace::store::Records;
use pinnace::store::blocks::BlockStore;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub const EMAIL: &str = "admin@example.org";
pub const PASSWORD: &str = "a long password";
/// The password of accounts that tests make besides the first.
pub const OTHER_PASSWORD: &str = "another password";
pub const DELEGATES: [&str; 2] =
    ["/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWExample", "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooWExample"];

/// Calls webhooks on this machine, and none in its networks.
const LOOPBACK: Profile = Profile::Lan { subnets: Vec::new() };
/// Webhooks that fail are called again at once.
const RETRIES: Retries = Retries {
    pause_min: Duration::from_millis(1),
    pause_max: Duration::from_millis(10),
    give_up_after: Duration::from_hours(24),
};

/// Knows two delegates; takes every origin that names a peer.
pub struct FakeNetwork;

impl NetworkView for FakeNetwork {
    fn delegates(&self) -> Vec<String> {
        DELEGATES.map(str::to_owned).into()
    }

    fn check_origin(&self, multiaddr: &str) -> OriginUse {
        assert_ne!(multiaddr, "/panic", "a panic that the test wants");
        match multiaddr {
            private if private.starts_with("/ip4/10.") => OriginUse::Await("not globally routable".into()),
            named if named.contains("/p2p/") => OriginUse::Dial,
            _ => OriginUse::Nothing("names no peer".into()),
        }
    }
}

pub fn options() -> Options {
    let defaults = Config::load(&Sources::default()).unwrap().auth;
    Options { admin_email: EMAIL.into(), admin_password: PASSWORD.into(), ..defaults }
}

/// What the keys of section `[http]` make, in TOML.
fn front(section: &str) -> Front {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pinnace.toml");
    std::fs::write(&path, format!("[http]\n{section}")).unwrap();
    let config = Config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    Front::open(&config.http, &directory.path().join("acme")).unwrap()
}

/// A CID of some content.
pub fn cid(number: usize) -> String {
    Block::new_sha256(0x55, format!("content {number}").into()).unwrap().cid().to_string()
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        self.body
    }

    /// The details of an error, whose shape is checked.
    #[track_caller]
    pub fn error(self, status: u16, reason: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.headers[CONTENT_TYPE], "application/json");
        let details = self.body["error"]["details"].as_str().expect("details").to_owned();
        assert_eq!(self.body, json!({ "error": { "reason": reason, "details": details } }));
        assert!(!details.is_empty());
        details
    }
}

pub struct Server {
    pub url: String,
    pub records: Arc<Records>,
    pub board: Arc<Board>,
    pub accounts: Arc<Accounts>,
    pub changes: mpsc::Receiver<PinChange>,
    /// The token of the first start.
    pub token: String,
    pub client: reqwest::Client,
    /// What the gateway answers from.
    pub blocks: BlockStore,
    /// What stands between the socket and the router.
    pub front: Front,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    /// What removes pins whose time has come, and what tells webhooks.
    tasks: [JoinHandle<()>; 2],
    directory: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(options()).await
    }

    pub async fn start_with(options: Options) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options, None, true, Front::default(), LOOPBACK).await
    }

    /// Starts with the profile that calls only what is globally routable.
    pub async fn start_public() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options(), None, true, Front::default(), Profile::Public).await
    }

    pub async fn start_without_gateway() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options(), None, false, Front::default(), LOOPBACK).await
    }

    /// Starts with what the operator has set in section `[http]`: TOML.
    pub async fn start_behind(section: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options(), None, true, front(section), LOOPBACK).await
    }

    async fn start_in(
        directory: TempDir,
        options: Options,
        token: Option<String>,
        has_gateway: bool,
        front: Front,
        profile: Profile,
    ) -> Self {
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1024 * 1024).unwrap());
        let accounts = Arc::new(Accounts::open(Arc::clone(&records), &options).await.unwrap());
        let first: Option<FirstStart> = accounts.ensure_admin(&options).await.unwrap();
        let token = first.map(|first| first.token).or(token).unwrap();
        let (board, changes) = Board::new();
        let pins = PinService::new(Arc::clone(&records), Arc::clone(&board), Arc::new(FakeNetwork))
            .with_webhooks(Caller::new(profile), RETRIES);
        let tasks = [tokio::spawn(pins.clone().run_expiry()), tokio::spawn(pins.webhooks().clone().run())];
        let blocks = BlockStore::open(&directory.path().join("blocks.redb"), 8 << 20, 8 << 20).unwrap();
        let gateway = has_gateway.then(|| Gateway::new(blocks.reader()));
        let state = AppState {
            accounts: Arc::clone(&accounts),
            pins,
            gateway,
            web_sockets: None,
            control: None,
            requests: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(front.clone().keep());
        let task = tokio::spawn(serve(listener, state, front.clone(), async {
            let _ = stopped.await;
        }));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, records, board, accounts, changes, token, client, blocks, front, stop, task, tasks, directory }
    }

    /// Stops in order and starts again with the same data.
    pub async fn restart(self) -> Self {
        let Self { records, accounts, board, client, blocks, stop, task, tasks, directory, token, .. } = self;
        drop((client, board));
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        records.close();
        blocks.close();
        drop(accounts);
        // A look of a task that was ended may be under way on another thread.
        let until = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&records) > 1 {
            assert!(Instant::now() < until, "the server holds on to the records");
            tokio::task::yield_now().await;
        }
        drop(records);
        Self::start_in(directory, options(), Some(token), true, Front::default(), LOOPBACK).await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status, headers, body }
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, &self.token)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path, &self.token)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path, &self.token).json(&body)).await
    }

    /// Pins and returns the new pin's status.
    pub async fn pin(&self, body: Value) -> Value {
        self.post("/api/psa/pins", body).await.ok(202)
    }

    /// Says on the board, as the runner does, that a pin is being fetched.
    pub fn set_fetching(&self, id: PinId, progress: Progress) {
        let place = Place::from(&self.records.get(id).unwrap().unwrap());
        self.board.set(id, Doing::Fetching(place, progress));
    }

    /// The CIDs that a list shows, and its count.
    pub async fn list(&self, query: &str) -> (Vec<String>, u64) {
        let page = self.get(&format!("/api/psa/pins?{query}")).await.ok(200);
        let cids = page["results"].as_array().unwrap().iter().map(|pin| pin["pin"]["cid"].as_str().unwrap().to_owned());
        (cids.collect(), page["count"].as_u64().unwrap())
    }

    /// A second account and a token of it.
    pub async fn other_account(&self) -> (UserId, String) {
        let user = self.account("other@example.org", Role::User).await;
        (user, self.device(user, "laptop", Scopes::ALL).await)
    }

    /// Makes an account, with [`OTHER_PASSWORD`].
    pub async fn account(&self, email: &str, role: Role) -> UserId {
        let quota = Quota::NONE;
        let new =
            NewAccount { email: email.into(), password: OTHER_PASSWORD.into(), role, quota, pin_lifetime_s: None };
        self.accounts.create_account(new).await.unwrap().id
    }

    /// Makes a token for a device.
    pub async fn device(&self, user: UserId, name: &str, scopes: Scopes) -> String {
        let new = NewDeviceToken { name: name.into(), scopes, expires_ms: None };
        self.accounts.create_device_token(user, new).await.unwrap().1
    }

    /// Logs in and returns the access and the refresh token.
    pub async fn login(&self, email: &str, password: &str) -> (String, String) {
        let body = json!({ "email": email, "password": password });
        let answer = self.send(self.client.post(format!("{}/api/auth/login", self.url)).json(&body)).await.ok(200);
        let token = |name: &str| answer[name].as_str().unwrap().to_owned();
        (token("access_token"), token("refresh_token"))
    }
}

/// The id of a pin's status.
pub fn id(pin: &Value) -> PinId {
    pin["requestid"].as_str().unwrap().parse().unwrap()
}

/// The path of a pin.
pub fn path(pin: &Value) -> String {
    format!("/api/psa/pins/{}", pin["requestid"].as_str().unwrap())
}

/// Of a fetch that has just begun.
pub fn progress() -> Progress {
    Progress {
        blocks_fetched: 0,
        blocks_known: 1,
        bytes_fetched: 0,
        bytes_known: Some(1000),
        bytes_per_second: 0,
        peers: 0,
        last_block_at: None,
        began_at: Instant::now(),
        answers: Arc::default(),
        tried: Arc::default(),
        asked: None,
    }
}
