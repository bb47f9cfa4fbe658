//! Messages on a stream: reading whole ones, and writing what no honest peer would.

use std::io;

use bytes::Bytes;
use cid::Cid;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use pinnace::bitswap::wire::{self, Incoming, Outgoing, Protocol, WantEntry, WantKind};

/// Reads one message; `None` is the end of the stream.
pub async fn read(stream: &mut Stream) -> io::Result<Option<Incoming>> {
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    wire::decode(Bytes::from(message)).map(Some).map_err(io::Error::other)
}

/// Writes a message.
pub async fn write(stream: &mut Stream, message: &Outgoing) -> io::Result<()> {
    write_bytes(stream, &wire::encode(message, Protocol::V1_2)).await
}

/// Writes whatever is given.
pub async fn write_bytes(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// A want that is to be answered in any case.
pub fn want(cid: Cid, kind: WantKind) -> Outgoing {
    let entry = WantEntry { cid, priority: 1, cancel: false, kind, send_dont_have: true };
    Outgoing { wants: vec![entry], ..Outgoing::default() }
}

/// A message with its length before it.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut framed = varint(body.len() as u64);
    framed.extend_from_slice(body);
    framed
}

/// A number as protobuf and the length prefix write it.
pub fn varint(number: u64) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::u64_buffer();
    unsigned_varint::encode::u64(number, &mut buffer).to_vec()
}

/// A protobuf field of bytes.
pub fn field(number: u8, data: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    field.extend(varint(data.len() as u64));
    field.extend_from_slice(data);
    field
}
