//! A trustless gateway of another make, over HTTP/1.1 or over TLS with HTTP/2, that may behave as badly as a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, Version};
use bytes::Bytes;
use cid::Cid;
use futures::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::dag::Dag;

/// What every gateway has: the identity CID of nothing.
pub const PROBE: &str = "bafkqaaa";

/// How it answers for blocks.
#[derive(Debug, Clone)]
pub enum Conduct {
    /// As it should.
    Sound,
    /// With other bytes.
    Lying,
    /// With a body that never ends.
    Endless,
    /// With half of the block, and then nothing.
    Stalling,
    /// With this status, after the probe.
    Status(u16),
    /// So often with 429 and this `Retry-After`, and then as it should.
    Busy {
        /// How often.
        times: usize,
        /// The header.
        retry_after: &'static str,
    },
    /// With an answer only when [`Trustless::release`] says so.
    Held,
    /// With this status, whatever is asked.
    Always(u16),
    /// With the same page, whatever is asked.
    WebSite,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub method: Method,
    pub path: String,
    pub version: Version,
    pub user_agent: String,
    pub accept: String,
}

struct Shared {
    blocks: HashMap<Cid, Bytes>,
    conduct: Conduct,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    arrived: Notify,
    released: tokio::sync::watch::Sender<bool>,
}

/// The gateway.
pub struct Trustless {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Trustless {
    /// One that serves these blocks without TLS.
    pub async fn start(blocks: HashMap<Cid, Bytes>, conduct: Conduct) -> Self {
        Self::serve(blocks, conduct, None).await
    }

    /// One with a certificate for `gateway.example`, whose authority is written to `authority` as PEM.
    pub async fn start_secure(blocks: HashMap<Cid, Bytes>, conduct: Conduct, authority: &Path) -> Self {
        Self::serve(blocks, conduct, Some(acceptor(authority))).await
    }

    async fn serve(blocks: HashMap<Cid, Bytes>, conduct: Conduct, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            blocks,
            conduct,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            arrived: Notify::new(),
            released: tokio::sync::watch::channel(false).0,
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let accepted = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.connections.fetch_add(1, Ordering::Relaxed);
                let (tls, router) = (tls.clone(), router.clone());
                connections.spawn(async move {
                    match tls {
                        // Who doesn't trust the certificate ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                speak(stream, router).await;
                            }
                        }
                        None => speak(stream, router).await,
                    }
                });
            }
        });
        Self { address, shared, task }
    }

    /// Its address as a pin's origin: plain HTTP.
    pub fn plain_origin(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/http", self.address.port())
    }

    /// Its address as a pin's origin: over TLS, under the name in the certificate.
    pub fn secure_origin(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/tls/sni/gateway.example/http", self.address.port())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that many requests came.
    pub async fn wait_seen(&self, count: usize) {
        loop {
            let arrived = self.shared.arrived.notified();
            if self.seen().len() >= count {
                return;
            }
            super::within("request to the gateway", 20, arrived).await;
        }
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The most requests that ran at once.
    pub fn at_once_max(&self) -> usize {
        self.shared.at_once_max.load(Ordering::Relaxed)
    }

    /// Requests that run now.
    pub fn at_once(&self) -> usize {
        self.shared.at_once.load(Ordering::Relaxed)
    }

    /// Answers what was held.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }
}

impl Drop for Trustless {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The blocks of a DAG for which `has` says yes to their number.
pub fn blocks(dag: &Dag, has: impl Fn(usize) -> bool) -> HashMap<Cid, Bytes> {
    dag.blocks.iter().enumerate().filter(|(number, _)| has(*number)).map(|(_, block)| block.clone()).collect()
}

fn acceptor(authority: &Path) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(authority, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let own_key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap().signed_by(&own_key, &issuer).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivateKeyDer::Pkcs8(own_key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    // A client that goes away in the middle is what some tests are about.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Counts a request until its answer is out or given up.
struct Running(Arc<Shared>);

impl Running {
    fn new(shared: &Arc<Shared>) -> Self {
        let now = shared.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        shared.at_once_max.fetch_max(now, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::Relaxed);
    }
}

fn note(shared: &Shared, request: &Request) -> usize {
    let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let seen = Seen {
        at: Instant::now(),
        method: request.method().clone(),
        path: request.uri().path_and_query().unwrap().to_string(),
        version: request.version(),
        user_agent: header("user-agent"),
        accept: header("accept"),
    };
    let mut all = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(seen);
    let count = all.len();
    drop(all);
    shared.arrived.notify_waiters();
    count
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let running = Running::new(&shared);
    let count = note(&shared, &request);
    let asked = request.uri().path().rsplit('/').next().unwrap();
    let with = |status: u16, body: Body| Response::builder().status(status).body(body).unwrap();
    match shared.conduct {
        Conduct::Always(status) => {
            let mut answer = with(status, Body::from("no"));
            answer.headers_mut().insert("location", "https://elsewhere.example/".parse().unwrap());
            return answer;
        }
        Conduct::WebSite => return with(200, Body::from("<html>Welcome</html>")),
        _ => {}
    }
    if asked == PROBE {
        return with(200, Body::empty());
    }
    let Some(data) = asked.parse().ok().and_then(|cid: Cid| shared.blocks.get(&cid)).cloned() else {
        return with(404, Body::from("not found"));
    };
    match shared.conduct {
        Conduct::Lying => with(200, Body::from("something else")),
        Conduct::Endless => {
            let piece = Bytes::from(vec![0; 64 * 1024]);
            let endless = stream::repeat_with(move || {
                let _until_the_end = &running;
                Ok::<_, std::io::Error>(piece.clone())
            });
            with(200, Body::from_stream(endless))
        }
        Conduct::Stalling => {
            let half = data.slice(..data.len() / 2);
            with(200, Body::from_stream(stream::iter([Ok::<_, std::io::Error>(half)]).chain(stream::pending())))
        }
        Conduct::Status(status) => with(status, Body::from("ipld: not that text")),
        // The probe was one request.
        Conduct::Busy { times, retry_after } if count <= times + 1 => {
            let mut answer = with(429, Body::empty());
            answer.headers_mut().insert("retry-after", retry_after.parse().unwrap());
            answer
        }
        Conduct::Held => {
            let mut released = shared.released.subscribe();
            released.wait_for(|released| *released).await.unwrap();
            with(200, Body::from(data))
        }
        _ => Response::builder().status(StatusCode::OK).body(Body::from(data)).unwrap(),
    }
}
