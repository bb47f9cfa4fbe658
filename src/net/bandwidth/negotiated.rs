//! Which protocol a stream carries: read from what the accepting side says in the negotiation.
//!
//! multistream-select: lines with their length in front, each ending with a line break, until the accepting side repeats a
//! protocol's name. <https://github.com/multiformats/multistream-select>

use super::Talk;

/// The longest line that is looked at; names of protocols of ours are shorter by half.
const LINE_BYTES_MAX: usize = 128;

/// Lines of a negotiation that are looked at.
const LINES_MAX: usize = 32;

/// What has come of the accepting side's lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line that isn't complete, with its length in front.
    line: Vec<u8>,
    seen: usize,
}

impl Lines {
    /// The next bytes. Says what the stream is for as soon as that is known; asked no further then.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Talk> {
        for byte in bytes {
            self.line.push(*byte);
            let (length, line) = match unsigned_varint::decode::usize(&self.line) {
                Ok(decoded) => decoded,
                Err(unsigned_varint::decode::Error::Insufficient) => continue,
                Err(_) => return Some(Talk::Other),
            };
            if length > LINE_BYTES_MAX || self.seen >= LINES_MAX {
                return Some(Talk::Other);
            }
            if line.len() < length {
                continue;
            }
            if line != b"na\n" && !line.starts_with(b"/multistream/") {
                return Some(Talk::of(line));
            }
            self.line.clear();
            self.seen += 1;
        }
        None
    }
}
