//! The API on loopback, with accounts and without a node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pinnace::auth::{Accounts, Options, Scopes};
use pinnace::http::{AppState, serve};
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
    Options {
        admin_email: "admin@example.org".into(),
        admin_password: "a long password".into(),
        admin_file: PathBuf::new(),
        access_token_days: 365,
        refresh_token_days: 730,
    }
}

pub struct Server {
    pub address: SocketAddr,
    /// Of the account that has the pins.
    pub token: String,
    /// Of the accounts that make new ones.
    pub tokens: Vec<String>,
    records: Arc<Records>,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
}

impl Server {
    pub fn start(directory: &Path, cache_bytes: usize, accounts: usize) -> Self {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let records = Arc::new(Records::open(&directory.join("records.redb"), cache_bytes).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, token, tokens) = runtime.block_on(async {
            let auth = Arc::new(Accounts::open(Arc::clone(&records), &options()).await.unwrap());
            let token = auth.create_device_token(fill::USER, "bench", Scopes::ALL).await.unwrap();
            let mut tokens = Vec::new();
            for number in 0..accounts as u64 {
                // The accounts themselves are not looked at.
                let user = UserId(100 + number);
                tokens.push(auth.create_device_token(user, "bench", Scopes::ALL).await.unwrap());
            }
            let (board, mut changes) = Board::new();
            tokio::spawn(async move { while changes.recv().await.is_some() {} });
            let pins = PinService::new(Arc::clone(&records), board, Arc::new(NoNetwork));
            let state = AppState { accounts: auth, pins, gateway: None };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, state, async {
                let _ = stopped.await;
            }));
            (address, token, tokens)
        });
        Self { address, token, tokens, records, runtime, stop }
    }

    pub fn stop(self) {
        let _ = self.stop.send(());
        drop(self.runtime);
        self.records.close();
    }
}
