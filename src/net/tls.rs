//! TLS 1.3 as libp2p uses it, with AES before `ChaCha20` where the processor has instructions for AES.
//!
//! Certificates, and what makes them valid, are libp2p-tls's. Only the settings are made here, because libp2p-tls always
//! offers `ChaCha20` first, and Kubo then takes it: that cost each side a tenth of its time on a fast link. Specification:
//! <https://github.com/libp2p/specs/blob/master/tls/tls.md>.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use futures_rustls::rustls::client::{ResolvesClientCert, Resumption};
use futures_rustls::rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use futures_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use futures_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    self, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use libp2p::{PeerId, tls};

/// The name under which it is negotiated.
pub(super) const PROTOCOL: &str = "/tls/1.0.0";

/// The only application protocol that is offered: no other multiplexer is negotiated within TLS.
const APPLICATION_PROTOCOL: &[u8] = b"libp2p";

/// Both sides of TLS, with our certificate.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Makes a certificate that proves the identity of `keypair`.
    pub(super) fn new(keypair: &Keypair) -> io::Result<Self> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier { algorithms: provider.signature_verification_algorithms });
        let (certificate, key) = tls::certificate::generate(keypair).map_err(io::Error::other)?;
        let key = provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
        // rustls's own check of the pair would stumble over libp2p's critical extension.
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesClientCert>);
        client.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        client.enable_sni = false;
        // All peers have the same (empty) name here, so one would be shown the tickets of another.
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        server.send_tls13_tickets = 0;
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }

    /// Encrypts a connection that we dialled.
    pub(super) async fn connect<C>(&self, socket: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // An address isn't sent as the name of the server, and clients must not send one.
        let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let stream = self.connector.connect(nobody, socket).await?;
        Ok((peer(stream.get_ref().1)?, stream.into()))
    }

    /// Encrypts a connection that a peer dialled.
    pub(super) async fn accept<C>(&self, socket: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(socket).await?;
        Ok((peer(stream.get_ref().1)?, stream.into()))
    }
}

/// The peer whose certificate was verified.
fn peer(state: &CommonState) -> io::Result<PeerId> {
    let Some([certificate]) = state.peer_certificates() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer showed no certificate"));
    };
    Ok(certificate::parse(certificate).map_err(io::Error::other)?.peer_id())
}

fn provider() -> CryptoProvider {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !aes_is_fast() {
        cipher_suites.rotate_right(1);
    }
    CryptoProvider { cipher_suites, ..default_provider() }
}

/// Whether the processor has instructions for AES: without them `ChaCha20` is several times as fast.
fn aes_is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = false;
    fast
}

/// Takes the certificates that libp2p-tls takes: exactly one, signed by itself, with the extension that proves the peer's
/// identity.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn verify_certificate(end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("more than one certificate".into()));
        }
        certificate::parse(end_entity)?;
        Ok(())
    }

    fn verify_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// TLS 1.2 isn't offered, so nothing is ever signed in its way.
    fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("libp2p uses TLS 1.3".into()))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::verify_certificate(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::verify_certificate(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
