//! Links of dag-cbor nodes, read as go-ipld-prime reads them (`codec/dagcbor/unmarshal.go` over `refmt/cbor`).
//!
//! Unsorted keys and floats of every width are accepted, and so are what only releases before 0.24 accept: integers
//! longer than needed, NaN and infinities, indefinite lengths. A tag on a byte string must be 42 and makes it a link;
//! a tag on anything else is ignored there, so it is here; a tag on a tag is an error.

use super::{Found, LinkError, Links, Target, list_index};
use crate::model::limits::{CID_BYTES_MAX, NODE_DEPTH_MAX};

const LINK_TAG: u64 = 42;

const MAJOR_UNSIGNED: u8 = 0;
const MAJOR_NEGATIVE: u8 = 1;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;
const MAJOR_TAG: u8 = 6;

/// The low five bits of an initial byte that begin an indefinite length.
const INDEFINITE: u8 = 31;

const BREAK: u8 = 0xff;

/// A list or a map that isn't at its end.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Items to come; for a map, keys and values both count. `None` when only a break tells the end.
    left: Option<u64>,
    is_map: bool,
    /// In a map: the next item is a key.
    at_key: bool,
}

/// One item of the data, as far as the structure matters.
enum Item {
    /// A value that is read to its end.
    Whole,
    /// A list or a map begins.
    Opened(Open),
    /// The list or map on top of the stack ends.
    Break,
}

/// Puts the links of the node into `links`.
pub(super) fn scan(data: &[u8], links: &mut Links) -> Result<(), LinkError> {
    let mut reader = Reader { data, at: 0 };
    scan_value(&mut reader, links)?;
    reader.end()
}

/// Looks up what stands at the end of a path of keys and indices: the path goes on in another block at the first link.
pub(super) fn look_up(data: &[u8], path: &[Vec<u8>]) -> Result<Found, LinkError> {
    let mut reader = Reader { data, at: 0 };
    let mut used = 0;
    loop {
        if let Some(bytes) = reader.link()? {
            return Ok(Found::Link { target: Target::read_whole(&bytes)?, used });
        }
        let Some(wanted) = path.get(used) else { return Ok(Found::Value) };
        if !reader.enter(wanted)? {
            return Ok(Found::Nothing { used });
        }
        used += 1;
    }
}

/// Reads one value to its end.
fn scan_value(reader: &mut Reader<'_>, links: &mut Links) -> Result<(), LinkError> {
    let mut stack: Vec<Open> = Vec::new();
    loop {
        match reader.item(stack.last().copied(), links)? {
            Item::Whole => {}
            Item::Opened(open) => {
                if stack.len() >= NODE_DEPTH_MAX {
                    return Err(LinkError::TooDeep);
                }
                if open.left != Some(0) {
                    stack.push(open);
                    continue;
                }
            }
            Item::Break => {
                stack.pop();
            }
        }
        // An item has ended, and with it every list or map whose last one it was.
        loop {
            let Some(parent) = stack.last_mut() else { return Ok(()) };
            parent.at_key = parent.is_map && !parent.at_key;
            let Some(left) = &mut parent.left else { break };
            *left -= 1;
            if *left > 0 {
                break;
            }
            stack.pop();
        }
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn item(&mut self, parent: Option<Open>, links: &mut Links) -> Result<Item, LinkError> {
        let mut start = self.at;
        let mut first = self.byte()?;
        if first == BREAK {
            return match parent {
                Some(Open { left: None, is_map, at_key }) if is_map == at_key => Ok(Item::Break),
                _ => Err(malformed("a break where none can be", start)),
            };
        }
        let mut tag = None;
        if first >> 5 == MAJOR_TAG {
            tag = Some(self.argument(first, start)?);
            start = self.at;
            first = self.byte()?;
        }
        let (major, low) = (first >> 5, first & 31);
        if parent.is_some_and(|open| open.at_key) && major != MAJOR_TEXT {
            return Err(malformed("the key of a map is no text", start));
        }
        match major {
            MAJOR_UNSIGNED | MAJOR_NEGATIVE => {
                self.argument(first, start)?;
                Ok(Item::Whole)
            }
            MAJOR_BYTES => {
                self.byte_string(first, start, tag, links)?;
                Ok(Item::Whole)
            }
            MAJOR_TEXT if low == INDEFINITE => {
                self.chunks(MAJOR_TEXT, |_| ())?;
                Ok(Item::Whole)
            }
            MAJOR_TEXT => {
                let length = self.argument(first, start)?;
                self.take(length)?;
                Ok(Item::Whole)
            }
            MAJOR_ARRAY | MAJOR_MAP => {
                let is_map = major == MAJOR_MAP;
                if low == INDEFINITE {
                    return Ok(Item::Opened(Open { left: None, is_map, at_key: is_map }));
                }
                let count = self.argument(first, start)?;
                // Every item takes a byte or more, so a larger count can't be met: this bounds `left` as well.
                let left = count.checked_mul(if is_map { 2 } else { 1 }).filter(|left| *left <= self.remaining());
                let left = left.ok_or(LinkError::Truncated { at: self.data.len() })?;
                Ok(Item::Opened(Open { left: Some(left), is_map, at_key: is_map }))
            }
            MAJOR_TAG => Err(malformed("a tag on a tag", start)),
            _ => {
                match low {
                    // false, true, null, undefined
                    20..=23 => {}
                    // floats of 16, 32 and 64 bits
                    25 => drop(self.take(2)?),
                    26 => drop(self.take(4)?),
                    27 => drop(self.take(8)?),
                    _ => return Err(malformed("a simple value that dag-cbor does not have", start)),
                }
                Ok(Item::Whole)
            }
        }
    }

    /// The link that stands here, if one does: the reader moves on behind it, or stays.
    fn link(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let start = self.at;
        let first = self.byte()?;
        if first >> 5 == MAJOR_TAG && self.argument(first, start)? == LINK_TAG {
            let first = self.byte()?;
            if first >> 5 == MAJOR_BYTES {
                let mut bytes = self.string(first, MAJOR_BYTES)?;
                return match bytes.first() {
                    Some(0) => Ok(Some(bytes.split_off(1))),
                    _ => Err(malformed("a link does not begin with the identity multibase", start)),
                };
            }
        }
        self.at = start;
        Ok(None)
    }

    /// Moves to the value that a key or an index stands for; `false` if there is none.
    fn enter(&mut self, wanted: &[u8]) -> Result<bool, LinkError> {
        let mut start = self.at;
        let mut first = self.byte()?;
        if first >> 5 == MAJOR_TAG {
            self.argument(first, start)?;
            start = self.at;
            first = self.byte()?;
        }
        let major = first >> 5;
        if major != MAJOR_ARRAY && major != MAJOR_MAP {
            return Ok(false);
        }
        let count = if first & 31 == INDEFINITE { u64::MAX } else { self.argument(first, start)? };
        let index = (major == MAJOR_ARRAY).then(|| list_index(wanted)).flatten();
        for number in 0..count {
            if count == u64::MAX && self.data.get(self.at) == Some(&BREAK) {
                return Ok(false);
            }
            let is_it = if major == MAJOR_MAP {
                let key = self.byte()?;
                if key >> 5 != MAJOR_TEXT {
                    return Err(malformed("the key of a map is no text", self.at));
                }
                self.string(key, MAJOR_TEXT)? == wanted
            } else {
                index == Some(number)
            };
            if is_it {
                return Ok(true);
            }
            scan_value(self, &mut Links::default())?;
        }
        Ok(false)
    }

    /// All of a string whose initial byte was read.
    fn string(&mut self, first: u8, major: u8) -> Result<Vec<u8>, LinkError> {
        if first & 31 != INDEFINITE {
            let length = self.argument(first, self.at)?;
            return self.take(length).map(<[u8]>::to_vec);
        }
        let mut joined = Vec::new();
        self.chunks(major, |chunk| joined.extend_from_slice(chunk))?;
        Ok(joined)
    }

    fn byte_string(&mut self, first: u8, start: usize, tag: Option<u64>, links: &mut Links) -> Result<(), LinkError> {
        let mut joined = Vec::new();
        let bytes = if first & 31 == INDEFINITE {
            // No link is longer; one byte more is kept so that a longer one can't pass for a whole one.
            self.chunks(MAJOR_BYTES, |chunk| {
                let room = (CID_BYTES_MAX + 2).saturating_sub(joined.len());
                joined.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
            })?;
            joined.as_slice()
        } else {
            let length = self.argument(first, start)?;
            self.take(length)?
        };
        match tag {
            None => Ok(()),
            Some(LINK_TAG) => match bytes.split_first() {
                Some((0, cid)) => links.push_whole(cid),
                _ => Err(malformed("a link does not begin with the identity multibase", start)),
            },
            Some(_) => Err(malformed("a byte string has a tag that is not 42", start)),
        }
    }

    /// The pieces of a string of indefinite length, up to its break.
    fn chunks(&mut self, major: u8, mut each: impl FnMut(&'a [u8])) -> Result<(), LinkError> {
        loop {
            let start = self.at;
            let first = self.byte()?;
            if first == BREAK {
                return Ok(());
            }
            if first >> 5 != major {
                return Err(malformed("a piece of another type in a string of indefinite length", start));
            }
            let length = self.argument(first, start)?;
            each(self.take(length)?);
        }
    }

    /// The number that an initial byte carries or announces.
    fn argument(&mut self, first: u8, start: usize) -> Result<u64, LinkError> {
        let length = match first & 31 {
            value @ 0..=23 => return Ok(u64::from(value)),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return Err(malformed("an invalid length or number", start)),
        };
        Ok(self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8, LinkError> {
        let byte = *self.data.get(self.at).ok_or(LinkError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], LinkError> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let bytes =
            end.and_then(|end| self.data.get(self.at..end)).ok_or(LinkError::Truncated { at: self.data.len() })?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn remaining(&self) -> u64 {
        (self.data.len() - self.at) as u64
    }

    fn end(&self) -> Result<(), LinkError> {
        if self.at == self.data.len() { Ok(()) } else { Err(malformed("bytes follow the node", self.at)) }
    }
}

fn malformed(what: &'static str, at: usize) -> LinkError {
    LinkError::Malformed { what, at }
}
