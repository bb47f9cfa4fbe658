//! How the files of `/v1/export` and `/v1/import` are wrapped: in frames, so that either side can tell an end from a break,
//! and the running process can say in the middle what went wrong.
//!
//! A frame is a byte that says what it is, the length of the rest in 4 bytes, the highest first, and that rest.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::model::limits::BLOCK_BYTES_MAX;

/// The longest rest of a frame, in bytes: a block with all that is around it fits.
pub const FRAME_BYTES_MAX: usize = 2 * BLOCK_BYTES_MAX;

const HEAD_BYTES: usize = 5;
const DATA: u8 = 0;
const END: u8 = 1;
const FAILURE: u8 = 2;

/// What one side tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The next bytes of a file.
    Data(Bytes),
    /// The file ends here.
    End,
    /// The file can't be brought to its end, for this reason.
    Failure(String),
}

impl Frame {
    /// The bytes of the frame. Data must have at most [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Bytes {
        let (kind, rest) = match self {
            Self::Data(data) => (DATA, data.as_ref()),
            Self::End => (END, &[][..]),
            Self::Failure(reason) => (FAILURE, reason.as_bytes()),
        };
        let rest = rest.get(..FRAME_BYTES_MAX).unwrap_or(rest);
        let mut frame = BytesMut::with_capacity(HEAD_BYTES + rest.len());
        frame.put_u8(kind);
        frame.put_u32(u32::try_from(rest.len()).unwrap_or(u32::MAX));
        frame.put_slice(rest);
        frame.freeze()
    }
}

/// The other side sent something else than frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was sent is not in frames; the command and the running pinnace may be of different versions")]
pub struct NoFrame;

/// Takes frames out of bytes that come in pieces. It holds at most one frame and what it was given.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, NoFrame> {
        let Some(mut head) = self.buffer.get(..HEAD_BYTES) else { return Ok(None) };
        let kind = head.get_u8();
        let length = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
        if kind > FAILURE || length > FRAME_BYTES_MAX {
            return Err(NoFrame);
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let rest = self.buffer.split_to(length).freeze();
        Ok(Some(match kind {
            DATA => Frame::Data(rest),
            END => Frame::End,
            _ => Frame::Failure(String::from_utf8_lossy(&rest).into_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_in_pieces_of_any_size() {
        let frames = [
            Frame::Data(Bytes::from(vec![7; 1000])),
            Frame::Data(Bytes::new()),
            Frame::Failure("no".to_owned()),
            Frame::End,
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().to_vec()).collect();
        for piece in [1, 6, 5000] {
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(piece) {
                reader.feed(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_held() {
        for bytes in [[9, 0, 0, 0, 0], [DATA, 0xff, 0xff, 0xff, 0xff]] {
            let mut reader = FrameReader::default();
            reader.feed(&bytes);
            assert_eq!(reader.next_frame(), Err(NoFrame));
        }
    }
}
