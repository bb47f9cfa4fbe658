//! Tells a DHT server which CIDs we have: many `ADD_PROVIDER` messages on one stream.
//!
//! A server answers none of them. Kubo's keeps a record only if it comes from the provider itself and has an address.

use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, PeerId};

use super::PROTOCOL;
use crate::model::protobuf::{put_bytes, put_number, put_varint};

/// How long telling one server may take: dialling it, the stream and all messages.
const ANNOUNCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of messages that are written at a time.
const PIECE_BYTES: usize = 32 * 1024;

/// Addresses in a record; more would only make each of the many messages longer.
const ADDRESSES_MAX: usize = 6;

/// `Message.MessageType.ADD_PROVIDER`
const ADD_PROVIDER: u64 = 2;
/// `Message.ConnectionType.CONNECTED`
const CONNECTED: u64 = 1;

/// Why a server wasn't told.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// There is no stream to it.
    #[error("no stream could be opened: {0}")]
    Stream(#[from] libp2p_stream::OpenStreamError),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Write(#[from] std::io::Error),
    /// It took too long.
    #[error("it took longer than {} s", ANNOUNCE_MAX.as_secs())]
    Timeout,
}

/// Tells a server that we have what these multihashes name. Returns how many bytes that took.
pub(in crate::net) async fn announce(
    mut streams: libp2p_stream::Control,
    server: PeerId,
    own: &PeerId,
    addresses: &[Multiaddr],
    multihashes: &[Vec<u8>],
) -> Result<u64, AnnounceError> {
    let provider = encode_provider(own, addresses);
    let telling = async {
        let mut stream = streams.open_stream(server, PROTOCOL).await?;
        let (mut piece, mut bytes) = (Vec::with_capacity(PIECE_BYTES + 1024), 0);
        for multihash in multihashes {
            encode_message(&mut piece, multihash, &provider);
            if piece.len() >= PIECE_BYTES {
                stream.write_all(&piece).await?;
                bytes += piece.len() as u64;
                piece.clear();
            }
        }
        stream.write_all(&piece).await?;
        stream.close().await?;
        Ok(bytes + piece.len() as u64)
    };
    tokio::time::timeout(ANNOUNCE_MAX, telling).await.map_err(|_| AnnounceError::Timeout)?
}

/// `Message.Peer`: ourselves.
fn encode_provider(own: &PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    let mut provider = Vec::with_capacity(256);
    put_bytes(&mut provider, 1, &own.to_bytes());
    for address in addresses.iter().take(ADDRESSES_MAX) {
        put_bytes(&mut provider, 2, address.as_ref());
    }
    put_number(&mut provider, 3, CONNECTED);
    provider
}

/// `Message`, after its length.
fn encode_message(out: &mut Vec<u8>, multihash: &[u8], provider: &[u8]) {
    let mut message = Vec::with_capacity(16 + multihash.len() + provider.len());
    put_number(&mut message, 1, ADD_PROVIDER);
    put_bytes(&mut message, 2, multihash);
    put_bytes(&mut message, 9, provider);
    put_varint(out, message.len() as u64);
    out.extend_from_slice(&message);
}
