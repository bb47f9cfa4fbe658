//! Reads a file piece by piece, without trust.

use bytes::{Buf, Bytes, BytesMut};
use cid::Cid;
use unsigned_varint::decode as varint;

use super::{HEADER_BYTES_MAX, Header, ROOTS_MAX};
use crate::model::block::IDENTITY_HASH;
use crate::model::limits::{BLOCK_BYTES_MAX, CID_BYTES_MAX};
use crate::model::{Block, BlockError, cids};

/// A block with its CID.
const SECTION_BYTES_MAX: usize = BLOCK_BYTES_MAX + CID_BYTES_MAX;

/// Bytes of the longest varint that is read.
const VARINT_BYTES_MAX: usize = 9;

/// What follows the first header in version 2: 16 bytes of characteristics, then the place and length of the data and
/// the place of the index, each in 8 bytes.
const V2_HEADER_BYTES: usize = 40;

/// Where the data of version 2 can begin at the earliest: behind both headers.
const V2_DATA_MIN: u64 = 51;

/// Why a file can't be read. What came before the place is sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarError {
    /// It ends in the middle of something.
    #[error("the CAR file ends early, at byte {at}: it was cut off, or is no CAR file")]
    Truncated {
        /// Where.
        at: u64,
    },
    /// It isn't what the format says.
    #[error("the CAR file is malformed at byte {at}: {what}")]
    Malformed {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A block can't be accepted.
    #[error("the CAR file has a bad block at byte {at}: {source}")]
    Block {
        /// Where its section begins.
        at: u64,
        /// What is wrong with it.
        source: BlockError,
    },
}

/// What was read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The roots: always first, and once.
    Roots(Vec<Cid>),
    /// A block that matches its CID. It is never that of an identity CID, as those carry their block themselves.
    Block(Block),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first header of the file.
    Start,
    /// At the second header of version 2.
    V2Header,
    /// Behind it, with so many bytes before the data, which has so many.
    Skip { bytes: u64, data_bytes: u64 },
    /// At the header of the data of version 2.
    DataHeader,
    /// At a block, or the end.
    Sections,
    /// Behind the data of version 2: an index, which isn't needed.
    Behind,
}

/// Takes the bytes of a file in pieces of any size. It holds at most the largest section and what it was given.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    buffer: BytesMut,
    /// Where in the file the buffer begins.
    at: u64,
    /// Where the data of version 2 ends.
    end: Option<u64>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the beginning of a file.
    pub fn new() -> Self {
        Self { state: State::Start, buffer: BytesMut::new(), at: 0, end: None }
    }

    /// Takes the next bytes of the file. To be called when [`Decoder::next_item`] has no more items, so that they don't
    /// pile up.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.state == State::Behind {
            self.at += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next item of what was fed; `None` when more bytes are needed. After an error there is no way on.
    pub fn next_item(&mut self) -> Result<Option<Item>, CarError> {
        loop {
            match self.state {
                State::Start | State::DataHeader => {
                    let Some((prefix, length)) = self.prefixed("the header", HEADER_BYTES_MAX)? else {
                        return Ok(None);
                    };
                    if let Some(roots) = self.read_header(prefix, length)? {
                        self.state = State::Sections;
                        return Ok(Some(Item::Roots(roots)));
                    }
                    self.state = State::V2Header;
                }
                State::V2Header => {
                    if self.buffer.len() < V2_HEADER_BYTES {
                        return Ok(None);
                    }
                    self.read_v2_header()?;
                }
                State::Skip { bytes, data_bytes } => {
                    let now = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
                    self.advance(now);
                    let left = bytes - now as u64;
                    if left > 0 {
                        self.state = State::Skip { bytes: left, data_bytes };
                        return Ok(None);
                    }
                    self.end = Some(self.at.saturating_add(data_bytes));
                    self.state = State::DataHeader;
                }
                State::Sections => {
                    if self.end == Some(self.at) {
                        self.at += self.buffer.len() as u64;
                        self.buffer = BytesMut::new();
                        self.state = State::Behind;
                        return Ok(None);
                    }
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    let Some((prefix, length)) = self.prefixed("a section", SECTION_BYTES_MAX)? else {
                        return Ok(None);
                    };
                    if let Some(block) = self.read_section(prefix, length)? {
                        return Ok(Some(Item::Block(block)));
                    }
                }
                State::Behind => return Ok(None),
            }
        }
    }

    /// To be called when there are no more bytes and no more items: whether the file may end here.
    pub fn finish(&self) -> Result<(), CarError> {
        let is_whole = match self.state {
            State::Behind => true,
            State::Sections => self.buffer.is_empty() && self.end.is_none(),
            _ => false,
        };
        if is_whole { Ok(()) } else { Err(CarError::Truncated { at: self.at + self.buffer.len() as u64 }) }
    }

    fn malformed(&self, what: impl Into<String>) -> CarError {
        CarError::Malformed { at: self.at, what: what.into() }
    }

    fn advance(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.at += bytes as u64;
    }

    /// The bytes of what has its length before it, with the length of that; `None` when more bytes are needed.
    fn prefixed(&self, what: &str, bytes_max: usize) -> Result<Option<(usize, usize)>, CarError> {
        let first = self.buffer.get(..VARINT_BYTES_MAX).unwrap_or(&self.buffer);
        let (length, rest) = match varint::u64(first) {
            Ok(found) => found,
            Err(varint::Error::Insufficient) if first.len() < VARINT_BYTES_MAX => return Ok(None),
            Err(error) => return Err(self.malformed(format!("the length of {what} is no varint: {error}"))),
        };
        let prefix = first.len() - rest.len();
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes_max).ok_or_else(|| {
            self.malformed(format!("{what} has {length} bytes, and at most {bytes_max} are accepted"))
        })?;
        if length == 0 {
            return Err(self.malformed(format!("{what} is empty")));
        }
        if self.end.is_some_and(|end| self.at + (prefix + length) as u64 > end) {
            return Err(self.malformed(format!("{what} is longer than what is left of the data")));
        }
        Ok((self.buffer.len() >= prefix + length).then_some((prefix, length)))
    }

    /// The roots of version 1, or none for version 2.
    fn read_header(&mut self, prefix: usize, length: usize) -> Result<Option<Vec<Cid>>, CarError> {
        let bytes = self.buffer.get(prefix..prefix + length).unwrap_or_default();
        let header: Header = serde_ipld_dagcbor::from_slice(bytes)
            .map_err(|error| self.malformed(format!("there is no header of a CAR file: {error}")))?;
        let roots = match (header.version, header.roots) {
            (1, Some(roots)) if roots.len() <= ROOTS_MAX => Some(roots),
            (1, Some(roots)) => {
                return Err(self.malformed(format!("{} roots, and at most {ROOTS_MAX} are accepted", roots.len())));
            }
            (1, None) => return Err(self.malformed("the header has no roots")),
            (2, None) if self.state == State::Start => None,
            (version, _) => return Err(self.malformed(format!("a header of version {version} can't be here"))),
        };
        self.advance(prefix + length);
        Ok(roots)
    }

    fn read_v2_header(&mut self) -> Result<(), CarError> {
        let at = self.at;
        let malformed = |what: &str| CarError::Malformed { at, what: what.to_owned() };
        let mut header = self.buffer.split_to(V2_HEADER_BYTES);
        self.at += V2_HEADER_BYTES as u64;
        header.advance(16);
        let (offset, data_bytes) = (header.get_u64_le(), header.get_u64_le());
        if data_bytes == 0 {
            return Err(malformed("its data has no length, as of a file that was never finished"));
        }
        if offset < V2_DATA_MIN || offset.checked_add(data_bytes).is_none() {
            return Err(malformed("the place of its data can't be right"));
        }
        self.state = State::Skip { bytes: offset - V2_DATA_MIN, data_bytes };
        Ok(())
    }

    /// A block, or none for an identity CID.
    fn read_section(&mut self, prefix: usize, length: usize) -> Result<Option<Block>, CarError> {
        let at = self.at;
        self.advance(prefix);
        let mut section: Bytes = self.buffer.split_to(length).freeze();
        self.at += length as u64;
        let malformed = |what: String| CarError::Malformed { at, what };
        if is_identity(&section) {
            return Ok(None);
        }
        let mut rest: &[u8] = &section;
        let cid = Cid::read_bytes(&mut rest).map_err(|error| malformed(format!("a section has no CID: {error}")))?;
        let cid_bytes = section.len() - rest.len();
        section.advance(cid_bytes);
        if let Err(cids::CidError::UnsupportedHash(source)) = cids::check(&cid) {
            return Err(CarError::Block { at, source });
        }
        // The section is a part of what was fed, all of which would stay in memory with the block.
        let data = Bytes::copy_from_slice(&section);
        Block::verify(cid, data).map(Some).map_err(|source| CarError::Block { at, source })
    }
}

/// Whether a section begins with an identity CID. Such may be longer than [`Cid`] can be.
fn is_identity(section: &[u8]) -> bool {
    let hash = || {
        let (version, rest) = varint::u64(section).ok()?;
        let (_codec, rest) = varint::u64(rest).ok()?;
        let (hash, _) = varint::u64(rest).ok()?;
        (version == 1).then_some(hash)
    };
    hash() == Some(IDENTITY_HASH)
}
