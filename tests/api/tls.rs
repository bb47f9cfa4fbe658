//! TLS on the API's port, with real handshakes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

use crate::support::Server;

const DOMAIN: &str = "pins.example.org";

/// How long a new certificate may take until it is shown.
const RELOAD_SECONDS: u64 = 30;

/// A certificate and its key in two files.
struct Files {
    directory: tempfile::TempDir,
    /// The certificates that were written, each trusted by clients.
    trusted: Vec<rcgen::Certificate>,
}

impl Files {
    fn new() -> Self {
        let mut files = Self { directory: tempfile::tempdir().unwrap(), trusted: Vec::new() };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Writes another certificate and its key.
    fn renew(&mut self) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([DOMAIN.to_owned()]).unwrap();
        std::fs::write(self.path("certificate.pem"), cert.pem()).unwrap();
        std::fs::write(self.path("key.pem"), signing_key.serialize_pem()).unwrap();
        self.trusted.push(cert);
    }

    fn section(&self) -> String {
        let text = |path: &Path| toml_text(path.to_str().unwrap());
        let (certificate, key) = (self.path("certificate.pem"), self.path("key.pem"));
        format!("tls = \"files\"\ntls_certificate = {}\ntls_key = {}\n", text(&certificate), text(&key))
    }

    /// The certificate that was written last.
    fn newest(&self) -> &[u8] {
        self.trusted.last().unwrap().der()
    }

    /// A client that offers these versions and protocols, and trusts all certificates that were written.
    fn connector(&self, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for certificate in &self.trusted {
            roots.add(certificate.der().clone()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, server: &Server) -> TlsStream<TcpStream> {
        handshake(&self.connector(&[&TLS13], &["http/1.1"]), server).await.unwrap()
    }
}

/// Text as TOML has it.
fn toml_text(text: &str) -> String {
    format!("'{text}'")
}

fn address(server: &Server) -> SocketAddr {
    server.url.trim_start_matches("http://").parse().unwrap()
}

async fn handshake(connector: &TlsConnector, server: &Server) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address(server)).await.unwrap();
    connector.connect(ServerName::try_from(DOMAIN).unwrap(), stream).await
}

/// The certificate that a connection got.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Asks over HTTP/1.1 on a connection that stays open.
async fn is_served(stream: &mut TlsStream<TcpStream>) -> bool {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"ok\"}") {
        if stream.read_buf(&mut answer).await.unwrap() == 0 {
            return false;
        }
    }
    answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn speaks_both_versions_and_both_protocols() {
    let files = Files::new();
    let server = Server::start_behind(&files.section()).await;
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (protocols, agreed) in
            [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[][..], None)]
        {
            let stream = handshake(&files.connector(&[version], protocols), &server).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!((session.protocol_version(), session.alpn_protocol()), (Some(expected), agreed));
        }
    }
    // Nothing but HTTP is spoken, and the protocol of ACME only where that is turned on.
    handshake(&files.connector(&[&TLS13], &["acme-tls/1"]), &server).await.unwrap_err();

    let certificate = reqwest::Certificate::from_der(files.newest()).unwrap();
    let client = || {
        let builder = reqwest::Client::builder().no_proxy().resolve(DOMAIN, address(&server));
        builder.tls_certs_only([certificate.clone()])
    };
    let url = format!("https://{DOMAIN}:{}/healthz", address(&server).port());
    for (client, version) in [(client(), Version::HTTP_2), (client().http1_only(), Version::HTTP_11)] {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        assert_eq!(answer.headers()["strict-transport-security"], "max-age=2592000");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_without_dropping_connections() {
    let mut files = Files::new();
    let server = Server::start_behind(&files.section()).await;
    let mut open = files.connect(&server).await;
    assert_eq!(shown(&open), files.newest());
    assert!(is_served(&mut open).await);

    // A key that doesn't belong to it.
    std::fs::write(files.path("key.pem"), "hello").unwrap();
    let deadline = Instant::now() + Duration::from_secs(RELOAD_SECONDS);
    while server.front.warnings().is_empty() {
        assert!(Instant::now() < deadline, "the broken key isn't told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(server.front.warnings()[0].contains("http.tls_key"), "{:?}", server.front.warnings());
    assert_eq!(shown(&files.connect(&server).await), files.newest(), "the old one is in use");

    files.renew();
    let deadline = Instant::now() + Duration::from_secs(RELOAD_SECONDS);
    while shown(&files.connect(&server).await) != files.newest() {
        assert!(Instant::now() < deadline, "the new certificate isn't shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_served(&mut open).await, "the old connection goes on");
}

#[tokio::test]
async fn who_does_not_shake_hands_is_cut_off_and_holds_up_nobody() {
    let files = Files::new();
    let server = Server::start_behind(&files.section()).await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(address(&server)).await.unwrap();
    let mut slow = TcpStream::connect(address(&server)).await.unwrap();
    // The head of a handshake record whose rest never comes (RFC 8446, section 5.1).
    slow.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
    let mut clear = TcpStream::connect(address(&server)).await.unwrap();
    clear.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "nothing is answered in clear");
    assert!(is_served(&mut files.connect(&server).await).await);
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(began.elapsed() >= Duration::from_secs(9), "the handshake had less than its time");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "nothing ended the handshakes");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_handshakes() {
    let files = Files::new();
    let server = Server::start_behind(&files.section()).await;
    let mut silent = TcpStream::connect(address(&server)).await.unwrap();
    assert!(is_served(&mut files.connect(&server).await).await);
    let server = tokio::time::timeout(Duration::from_secs(1), server.restart()).await.expect("the stop waited");
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    server.get("/healthz").await.ok(200);
}

#[tokio::test]
async fn an_authority_that_is_away_is_told_and_keeps_nobody_in_clear() {
    // Nothing listens there any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let section = format!(
        "tls = \"acme\"\nacme_domains = [\"{DOMAIN}\"]\nacme_contact = \"you@example.org\"\nacme_directory = \"https://{free}/directory\"\n"
    );
    let server = Server::start_behind(&section).await;
    assert_eq!(server.front.endpoint("0.0.0.0:443".parse().unwrap()), format!("https://{DOMAIN}/api/psa/"));
    assert_eq!(server.front.endpoint("0.0.0.0:4443".parse().unwrap()), format!("https://{DOMAIN}:4443/api/psa/"));
    let deadline = Instant::now() + Duration::from_secs(RELOAD_SECONDS);
    while !server.front.warnings().iter().any(|warning| warning.contains("could be got from")) {
        assert!(Instant::now() < deadline, "the failure isn't told: {:?}", server.front.warnings());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let files = Files::new();
    for protocol in ["h2", "acme-tls/1"] {
        handshake(&files.connector(&[&TLS13], &[protocol]), &server).await.unwrap_err();
    }
}
