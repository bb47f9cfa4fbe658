//! The API on loopback, with accounts and without a node.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pinnace::auth::{Accounts, NewAccount, NewDeviceToken, Options, Quota, Role, Scopes};
use pinnace::config::{Config, Sources};
use pinnace::http::{AppState, Front, serve};
use pinnace::model::UserId;
use pinnace::pins::board::Board;
use pinnace::pins::{NetworkView, OriginUse, PinService};
use pinnace::store::Records;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::fill;

/// Knows two delegates, and dials nobody.
struct NoNetwork;

impl NetworkView for NoNetwork {
    fn delegates(&self) -> Vec<String> {
        let peer = "12D3KooWSdmMKGZbwDFp6W6kTiYShKDsSMBbmAMz9p3ye9QXjbHU";
        vec![format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}"), format!("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{peer}")]
    }

    fn check_origin(&self, _multiaddr: &str) -> OriginUse {
        OriginUse::Nothing("there is no network".into())
    }
}

pub fn options() -> Options {
    let defaults = Config::load(&Sources::default()).unwrap().auth;
    Options {
        admin_email: "admin@example.org".into(),
        admin_password: "a long password".into(),
        requests_per_second: 0,
        ..defaults
    }
}

async fn device(accounts: &Accounts, user: UserId) -> String {
    let new = NewDeviceToken { name: "bench".into(), scopes: Scopes::ALL, expires_ms: None };
    accounts.create_device_token(user, new).await.unwrap().1
}

pub struct Server {
    pub address: SocketAddr,
    /// Of the account that has the pins.
    pub token: String,
    /// Of the accounts that make new ones.
    pub tokens: Vec<String>,
    /// What checks tokens.
    pub accounts: Arc<Accounts>,
    records: Arc<Records>,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
}

impl Server {
    pub fn start(directory: &Path, cache_bytes: usize, accounts: usize) -> Self {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let records = Arc::new(Records::open(&directory.join("records.redb"), cache_bytes).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, token, tokens, accounts) = runtime.block_on(async {
            let auth = Arc::new(Accounts::open(Arc::clone(&records), &options()).await.unwrap());
            // The account that has the pins is the first.
            auth.ensure_admin(&options()).await.unwrap().unwrap();
            let token = device(&auth, fill::USER).await;
            let mut tokens = Vec::new();
            for number in 0..accounts {
                let new = NewAccount {
                    email: format!("account-{number}@example.org"),
                    password: "a long password".into(),
                    role: Role::User,
                    quota: Quota::NONE,
                    pin_lifetime_s: None,
                };
                tokens.push(device(&auth, auth.create_account(new).await.unwrap().id).await);
            }
            let (board, mut changes) = Board::new();
            tokio::spawn(async move { while changes.recv().await.is_some() {} });
            let pins = PinService::new(Arc::clone(&records), board, Arc::new(NoNetwork));
            let state = AppState {
                accounts: Arc::clone(&auth),
                pins,
                gateway: None,
                web_sockets: None,
                control: None,
                requests: Arc::default(),
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, state, Front::default(), async {
                let _ = stopped.await;
            }));
            (address, token, tokens, auth)
        });
        Self { address, token, tokens, accounts, records, runtime, stop }
    }

    pub fn stop(self) {
        let _ = self.stop.send(());
        drop((self.accounts, self.runtime));
        self.records.close();
    }
}
