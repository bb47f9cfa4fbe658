//! A server for each test, and a client that checks what every answer must have.

use std::path::PathBuf;
use std::sync::Arc;

use pinnace::auth::{Accounts, FirstStart, Options, Scopes};
use pinnace::gateway::Gateway;
use pinnace::http::{AppState, serve};
use pinnace::model::{Block, PinId, UserId};
use pinnace::pins::board::{Board, Live, PinChange, Place, Progress};
use pinnace::pins::{NetworkView, OriginUse, PinService};
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
pub const DELEGATES: [&str; 2] =
    ["/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWExample", "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooWExample"];

/// Knows two delegates; takes every origin that names a peer.
struct FakeNetwork;

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
    Options {
        admin_email: EMAIL.into(),
        admin_password: PASSWORD.into(),
        admin_file: PathBuf::new(),
        access_token_days: 365,
        refresh_token_days: 730,
    }
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
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    directory: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(options()).await
    }

    pub async fn start_with(options: Options) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options, None, true).await
    }

    pub async fn start_without_gateway() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options(), None, false).await
    }

    async fn start_in(directory: TempDir, options: Options, token: Option<String>, has_gateway: bool) -> Self {
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1024 * 1024).unwrap());
        let accounts = Arc::new(Accounts::open(Arc::clone(&records), &options).await.unwrap());
        let first: Option<FirstStart> = accounts.ensure_admin(&options).await.unwrap();
        let token = first.map(|first| first.token).or(token).unwrap();
        let (board, changes) = Board::new();
        let pins = PinService::new(Arc::clone(&records), Arc::clone(&board), Arc::new(FakeNetwork));
        let blocks = BlockStore::open(&directory.path().join("blocks.redb"), 8 << 20, 8 << 20).unwrap();
        let gateway = has_gateway.then(|| Gateway::new(blocks.reader()));
        let state = AppState { accounts: Arc::clone(&accounts), pins, gateway };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, state, async {
            let _ = stopped.await;
        }));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, records, board, accounts, changes, token, client, blocks, stop, task, directory }
    }

    /// Stops in order and starts again with the same data.
    pub async fn restart(self) -> Self {
        let Self { records, accounts, board, client, blocks, stop, task, directory, token, .. } = self;
        drop((client, board));
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        records.close();
        blocks.close();
        drop(accounts);
        assert_eq!(Arc::strong_count(&records), 1, "the server holds on to the records");
        drop(records);
        Self::start_in(directory, options(), Some(token), true).await
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
        self.board.set(id, Live::Fetching(place, progress));
    }

    /// The CIDs that a list shows, and its count.
    pub async fn list(&self, query: &str) -> (Vec<String>, u64) {
        let page = self.get(&format!("/api/psa/pins?{query}")).await.ok(200);
        let cids = page["results"].as_array().unwrap().iter().map(|pin| pin["pin"]["cid"].as_str().unwrap().to_owned());
        (cids.collect(), page["count"].as_u64().unwrap())
    }

    /// A second account and a token of it.
    pub async fn other_account(&self) -> (UserId, String) {
        let user = self.accounts.create_user("other@example.org", "another password").await.unwrap().id;
        (user, self.accounts.create_device_token(user, "laptop", Scopes::ALL).await.unwrap())
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
