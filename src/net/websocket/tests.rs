//! Real sockets between two nodes, in clear and below TLS, and both ends of single WebSockets.

use std::sync::LazyLock;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Swarm, identity::Keypair, swarm};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::net::bandwidth::Bandwidth;
use crate::net::problem::dial_problem;
use crate::net::profile::Profile;
use crate::net::transport::{self, Doors};

static LAN: Profile = Profile::Lan { subnets: Vec::new() };

/// Of a server for `localhost`: what it shows, and what a client trusts then.
static CERTIFICATE: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    (Arc::new(server), Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
});

fn node(keypair: &Keypair, doors: Doors) -> Swarm<dummy::Behaviour> {
    let (transport, _) = transport::build_with(keypair, LAN.clone(), &Bandwidth::unbounded(), doors).unwrap();
    Swarm::new(transport, dummy::Behaviour, keypair.public().to_peer_id(), swarm::Config::with_tokio_executor())
}

/// Hands connections to a port over as the HTTP side does, in clear or below TLS. Returns the port.
async fn port_of(guests: mpsc::Sender<Guest>, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, from)) = listener.accept().await {
            let stream = match &tls {
                None => byte_stream(tokio_tungstenite::accept_async(socket).await.unwrap()),
                Some(tls) => {
                    let Ok(socket) = tls.accept(socket).await else { continue };
                    byte_stream(tokio_tungstenite::accept_async(socket).await.unwrap())
                }
            };
            guests.try_send(Guest { stream, from: from.ip() }).ok().unwrap();
        }
    });
    port
}

/// Whether one node gets a connection to another under an address that is made of a port.
async fn connects(address: impl Fn(u16) -> String, tls: bool, trusts: bool) -> Result<(), String> {
    let (sender, guests) = mpsc::channel(GUESTS_QUEUED_MAX);
    let port = port_of(sender, tls.then(|| TlsAcceptor::from(Arc::clone(&CERTIFICATE.0)))).await;
    let (welcoming, dialling) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let mut host = node(&welcoming, Doors { trust: Trust::default(), guests });
    let trust = Trust::default();
    if trusts {
        trust.set(Arc::clone(&CERTIFICATE.1)).unwrap();
    }
    let mut guest = node(&dialling, Doors { trust, guests: mpsc::channel(1).1 });
    let peer = welcoming.public().to_peer_id();
    let address: Multiaddr = format!("{}/p2p/{peer}", address(port)).parse().unwrap();
    guest.dial(address).map_err(|error| error.to_string())?;
    let (mut welcomed, mut dialled) = (false, false);
    while !(welcomed && dialled) {
        tokio::select! {
            event = host.select_next_some() => {
                if let SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } = event {
                    assert_eq!(peer_id, dialling.public().to_peer_id());
                    assert_eq!(endpoint.get_remote_address().to_string(), "/ip4/127.0.0.1/tcp/0/ws");
                    welcomed = true;
                }
            }
            event = guest.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    assert_eq!(peer_id, peer);
                    dialled = true;
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(dial_problem(&error)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn nodes_meet_over_websocket_in_clear_and_below_tls() {
    connects(|port| format!("/ip4/127.0.0.1/tcp/{port}/ws"), false, false).await.unwrap();
    connects(|port| format!("/dns4/localhost/tcp/{port}/ws"), false, false).await.unwrap();
    for end in ["tls/ws", "wss", "tls/sni/localhost/ws"] {
        connects(|port| format!("/dns4/localhost/tcp/{port}/{end}"), true, true).await.unwrap();
    }
    // The name that the certificate is for may differ from the address.
    connects(|port| format!("/ip4/127.0.0.1/tcp/{port}/tls/sni/localhost/ws"), true, true).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    for (address, trusts) in [("/dns4/localhost", false), ("/ip4/127.0.0.1", true)] {
        let error = connects(|port| format!("{address}/tcp/{port}/tls/ws"), true, trusts).await.unwrap_err();
        assert!(error.contains("its certificate isn't accepted"), "{error}");
    }
}

#[tokio::test]
async fn the_profile_judges_these_addresses_too() {
    // Nothing of it is dialled: the network isn't one of this machine's.
    let error = connects(|port| format!("/ip4/10.255.255.1/tcp/{port}/ws"), false, false).await.unwrap_err();
    assert!(error.contains("was not dialled"), "{error}");
}

/// Both ends of a WebSocket: what a peer has, and the bytes here.
async fn pair() -> (tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream>, ByteStream) {
    let (near, far) = tokio::io::duplex(BUFFER_BYTES);
    let (peer, stream) = tokio::join!(tokio_tungstenite::accept_async(far), open("ws://x/".into(), near));
    (peer.unwrap(), stream.unwrap())
}

#[tokio::test]
async fn bytes_go_through_whatever_messages_they_come_in() {
    let (mut peer, mut stream) = pair().await;
    for message in [
        Message::Binary(Bytes::from_static(b"he")),
        Message::Ping(Bytes::from_static(b"?")),
        Message::Binary(Bytes::new()),
        Message::Binary(Bytes::from_static(b"llo")),
    ] {
        peer.send(message).await.unwrap();
    }
    let mut read = [0; 5];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
    stream.write_all(b"back").await.unwrap();
    stream.flush().await.unwrap();
    // The answer to the ping comes first or last.
    let said = loop {
        if let Message::Binary(bytes) = peer.next().await.unwrap().unwrap() {
            break bytes;
        }
    };
    assert_eq!(&said[..], b"back");
    peer.close(None).await.unwrap();
    assert_eq!(stream.read(&mut read).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_no_such_stream_ends() {
    let mut read = vec![0; BUFFER_BYTES];
    let (mut peer, mut stream) = pair().await;
    peer.send(Message::text("hello")).await.unwrap();
    let error = stream.read(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);

    for (length, is_taken) in [(MESSAGE_BYTES_MAX, true), (MESSAGE_BYTES_MAX + 1, false)] {
        let (mut peer, mut stream) = pair().await;
        let sending = tokio::spawn(async move {
            // The other end may have gone by then.
            let _ = peer.send(Message::Binary(vec![7; length].into())).await;
            peer
        });
        let outcome = stream.read_exact(&mut read).await;
        assert_eq!(outcome.is_ok(), is_taken, "{length}: {outcome:?}");
        drop(stream);
        sending.await.unwrap();
    }
}

#[test]
fn addresses_say_where_to_dial() {
    for (text, tcp, server, url) in [
        ("/ip4/1.2.3.4/tcp/80/ws", "/ip4/1.2.3.4/tcp/80", None, "ws://1.2.3.4:80/"),
        ("/ip6/::1/tcp/80/ws", "/ip6/::1/tcp/80", None, "ws://[::1]:80/"),
        ("/dns4/a.org/tcp/443/wss", "/dns4/a.org/tcp/443", Some("a.org"), "wss://a.org:443/"),
        ("/dns/a.org/tcp/443/tls/ws", "/dns/a.org/tcp/443", Some("a.org"), "wss://a.org:443/"),
        ("/ip4/1.2.3.4/tcp/4/tls/sni/b.org/ws", "/ip4/1.2.3.4/tcp/4", Some("b.org"), "wss://1.2.3.4:4/"),
    ] {
        let target = Target::of(&text.parse().unwrap()).unwrap();
        let expected = Target { tcp: tcp.parse().unwrap(), server: server.map(ToOwned::to_owned), url: url.to_owned() };
        assert_eq!(target, expected, "{text}");
    }
    for text in ["/ip4/1.2.3.4/tcp/80", "/ip4/1.2.3.4/udp/80/quic-v1", "/dnsaddr/a.org"] {
        assert_eq!(Target::of(&text.parse().unwrap()), None, "{text}");
    }
    assert_eq!(address("a.org", 443).to_string(), "/dns/a.org/tcp/443/tls/ws");
    assert!(Target::of(&address("a.org", 443)).is_some());
}
