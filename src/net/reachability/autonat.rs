//! Asks a peer to dial an address of ours, by AutoNAT v2: <https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md>
//!
//! Not `libp2p-autonat`: its client keeps every address that peers ever named, however many, and tests each just once, so that an
//! address that has changed would be announced for ever.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use asynchronous_codec::Framed;
use futures::{SinkExt, StreamExt};
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId, Stream};
use prost_codec::Codec;
use tokio::sync::Semaphore;

use super::Outcome;

/// What a tester speaks.
pub(in crate::net) const DIAL_REQUEST: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-request");

/// What it opens when it has reached us.
pub(in crate::net) const DIAL_BACK: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-back");

/// How long a test may take; Kubo's dials end after 15 s.
const TEST_MAX: Duration = Duration::from_secs(40);

/// How long a peer that has reached us may take to say which test that was for.
const DIAL_BACK_MAX: Duration = Duration::from_secs(10);

/// Peers that may be about to say so at the same time.
const DIAL_BACKS_MAX: usize = 16;

/// The longest message of the specification is a piece of 4,096 bytes.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// What a tester may ask us to send, so that nobody can have others dialled for free; the specification's upper bound.
const DIAL_DATA_MAX: u64 = 100_000;

/// Bytes of it in a message.
const DIAL_DATA_PIECE: usize = 4_096;

/// The nonces of the tests that run, and whether each came back.
#[derive(Debug, Clone, Default)]
pub(in crate::net) struct Nonces(Arc<Mutex<HashMap<u64, bool>>>);

impl Nonces {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> u64 {
        let nonce = rand::random();
        self.lock().insert(nonce, false);
        nonce
    }

    /// Whether it came back.
    fn end(&self, nonce: u64) -> bool {
        self.lock().remove(&nonce).unwrap_or(false)
    }

    fn came(&self, nonce: u64) -> bool {
        self.lock().get_mut(&nonce).map(|came| *came = true).is_some()
    }
}

/// Asks `tester` to dial `address`.
pub(in crate::net) async fn test(
    mut streams: libp2p_stream::Control,
    tester: PeerId,
    address: Multiaddr,
    nonces: Nonces,
) -> Outcome {
    let nonce = nonces.begin();
    let asked = async {
        let stream = streams.open_stream(tester, DIAL_REQUEST).await.map_err(|_| Outcome::Gone)?;
        ask(stream, &address, nonce).await.map_err(|error| {
            tracing::debug!(%tester, %address, %error, "a test of an address has failed");
            Outcome::Declined
        })
    };
    let answer = tokio::time::timeout(TEST_MAX, asked).await;
    let came = nonces.end(nonce);
    match answer {
        Ok(Ok(_)) | Err(_) if came => Outcome::Reached,
        Ok(Ok(response)) => outcome(response),
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::Declined,
    }
}

/// What an answer means that came without our nonce.
fn outcome(response: wire::DialResponse) -> Outcome {
    match (response.status(), response.dial_status()) {
        (wire::ResponseStatus::Ok, wire::DialStatus::DialError) => {
            Outcome::Missed("it could not be dialled".to_owned())
        }
        (wire::ResponseStatus::Ok, wire::DialStatus::DialBackError) => {
            Outcome::Missed("a connection was made there, but not to this node".to_owned())
        }
        // Whoever says that it has reached us without our nonce has not.
        _ => Outcome::Declined,
    }
}

async fn ask(stream: Stream, address: &Multiaddr, nonce: u64) -> io::Result<wire::DialResponse> {
    let mut framed = Framed::new(stream, Codec::<wire::Message, wire::Message>::new(MESSAGE_BYTES_MAX));
    let request = wire::DialRequest { addresses: vec![address.to_vec()], nonce };
    framed.send(wire::Body::Request(request).into()).await?;
    let mut has_sent_data = false;
    loop {
        let message = framed.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        match message.body {
            Some(wire::Body::Response(response)) => return Ok(response),
            Some(wire::Body::DataRequest(request)) if !has_sent_data && request.bytes <= DIAL_DATA_MAX => {
                has_sent_data = true;
                let mut left = usize::try_from(request.bytes).unwrap_or(0);
                while left > 0 {
                    let piece = left.min(DIAL_DATA_PIECE);
                    let data = wire::DialDataResponse { data: vec![0; piece] };
                    framed.feed(wire::Body::Data(data).into()).await?;
                    left -= piece;
                }
                framed.flush().await?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Takes the streams of testers that have reached us, for ever.
pub(in crate::net) async fn take_dial_backs(mut incoming: libp2p_stream::IncomingStreams, nonces: Nonces) {
    let places = Arc::new(Semaphore::new(DIAL_BACKS_MAX));
    while let Some((_, stream)) = incoming.next().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let nonces = nonces.clone();
        tokio::spawn(async move {
            let _place = place;
            // Whoever says nothing of use is no tester of ours.
            let _ = tokio::time::timeout(DIAL_BACK_MAX, take(stream, &nonces)).await;
        });
    }
}

async fn take(stream: Stream, nonces: &Nonces) -> io::Result<()> {
    let codec = Codec::<wire::DialBackResponse, wire::DialBack>::new(MESSAGE_BYTES_MAX);
    let mut framed = Framed::new(stream, codec);
    let said = framed.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
    if !nonces.came(said.nonce) {
        return Ok(());
    }
    framed.send(wire::DialBackResponse { status: 0 }).await?;
    framed.close().await?;
    Ok(())
}

/// The messages, as the specification numbers their fields.
mod wire {
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Message {
        #[prost(oneof = "Body", tags = "1, 2, 3, 4")]
        pub(super) body: Option<Body>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub(super) enum Body {
        #[prost(message, tag = "1")]
        Request(DialRequest),
        #[prost(message, tag = "2")]
        Response(DialResponse),
        #[prost(message, tag = "3")]
        DataRequest(DialDataRequest),
        #[prost(message, tag = "4")]
        Data(DialDataResponse),
    }

    impl From<Body> for Message {
        fn from(body: Body) -> Self {
            Self { body: Some(body) }
        }
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct DialRequest {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub(super) addresses: Vec<Vec<u8>>,
        #[prost(fixed64, tag = "2")]
        pub(super) nonce: u64,
    }

    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(super) struct DialDataRequest {
        #[prost(uint32, tag = "1")]
        pub(super) index: u32,
        #[prost(uint64, tag = "2")]
        pub(super) bytes: u64,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct DialDataResponse {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(super) struct DialResponse {
        #[prost(enumeration = "ResponseStatus", tag = "1")]
        pub(super) status: i32,
        #[prost(uint32, tag = "2")]
        pub(super) index: u32,
        #[prost(enumeration = "DialStatus", tag = "3")]
        pub(super) dial_status: i32,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub(super) enum ResponseStatus {
        InternalError = 0,
        RequestRejected = 100,
        DialRefused = 101,
        Ok = 200,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub(super) enum DialStatus {
        Unused = 0,
        DialError = 100,
        DialBackError = 101,
        Ok = 200,
    }

    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(super) struct DialBack {
        #[prost(fixed64, tag = "1")]
        pub(super) nonce: u64,
    }

    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(super) struct DialBackResponse {
        #[prost(int32, tag = "1")]
        pub(super) status: i32,
    }
}

#[cfg(test)]
mod tests;
