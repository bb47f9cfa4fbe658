//! Links of dag-json nodes, read as go-ipld-prime reads them (`codec/dagjson/unmarshal.go` over `refmt/json`).
//!
//! A link is a map with the one key `/` and a text for its value. `{"/": {"bytes": …}}` is a byte string, which has
//! no links. Accepted as there: a comma after the last item, strings that aren't UTF-8, zero bytes after the node.

use super::cid_bytes::decode_text;
use super::{Found, LinkError, Links, Target, list_index};
use crate::model::limits::NODE_DEPTH_MAX;

/// A list or a map that isn't at its end.
#[derive(Debug, Clone, Copy)]
enum Open<'a> {
    List {
        some: bool,
    },
    Map {
        some: bool,
        /// The text of the link that this map is, if nothing else follows.
        link: Option<&'a [u8]>,
    },
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
        reader.skip_whitespace();
        if let Some(text) = reader.link() {
            return Ok(Found::Link { target: Target::read_whole(&decode_text(&text)?)?, used });
        }
        let Some(wanted) = path.get(used) else { return Ok(Found::Value) };
        if !reader.enter(wanted)? {
            return Ok(Found::Nothing { used });
        }
        used += 1;
    }
}

/// Reads one value to its end.
fn scan_value<'a>(reader: &mut Reader<'a>, links: &mut Links) -> Result<(), LinkError> {
    let mut stack: Vec<Open<'a>> = Vec::new();
    loop {
        // Up to the next value: separators, keys, and the ends of lists and maps.
        let mut key_is_slash = false;
        reader.skip_whitespace();
        match stack.last_mut() {
            None => {}
            Some(Open::List { some }) => {
                if reader.at_next_or_end(*some, b']')? {
                    stack.pop();
                    if stack.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                *some = true;
            }
            Some(Open::Map { some, link }) => {
                if reader.at_next_or_end(*some, b'}')? {
                    if let Some(text) = link {
                        links.push_text(&unescape(text))?;
                    }
                    stack.pop();
                    if stack.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                let key = reader.string()?;
                reader.skip_whitespace();
                reader.expect(b':', "a colon is missing after a key")?;
                reader.skip_whitespace();
                key_is_slash = !*some && is_slash(key);
                *some = true;
                *link = None;
            }
        }
        let opened = match reader.peek()? {
            b'{' => Some(Open::Map { some: false, link: None }),
            b'[' => Some(Open::List { some: false }),
            b'"' => {
                let text = reader.string()?;
                if let (true, Some(Open::Map { link, .. })) = (key_is_slash, stack.last_mut()) {
                    *link = Some(text);
                }
                None
            }
            b't' => reader.literal(b"true")?,
            b'f' => reader.literal(b"false")?,
            b'n' => reader.literal(b"null")?,
            b'-' | b'0'..=b'9' => reader.number()?,
            _ => return Err(malformed("no value begins like this", reader.at)),
        };
        if let Some(open) = opened {
            if stack.len() >= NODE_DEPTH_MAX {
                return Err(LinkError::TooDeep);
            }
            reader.at += 1;
            stack.push(open);
        } else if stack.is_empty() {
            return Ok(());
        }
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, LinkError> {
        self.data.get(self.at).copied().ok_or(LinkError::Truncated { at: self.at })
    }

    /// The text of the link that stands here, if one does: the reader moves on behind it, or stays.
    fn link(&mut self) -> Option<String> {
        let start = self.at;
        // What is no link may still be a value; what is neither is an error when it is read as one.
        let text = self.link_text().unwrap_or_default();
        if text.is_none() {
            self.at = start;
        }
        text
    }

    fn link_text(&mut self) -> Result<Option<String>, LinkError> {
        if self.peek()? != b'{' {
            return Ok(None);
        }
        self.at += 1;
        self.skip_whitespace();
        if self.peek()? != b'"' || !is_slash(self.string()?) {
            return Ok(None);
        }
        self.skip_whitespace();
        self.expect(b':', "a colon is missing after a key")?;
        self.skip_whitespace();
        if self.peek()? != b'"' {
            return Ok(None);
        }
        let text = self.string()?;
        self.skip_whitespace();
        Ok(self.at_next_or_end(true, b'}')?.then(|| unescape(text)))
    }

    /// Moves to the value that a key or an index stands for; `false` if there is none.
    fn enter(&mut self, wanted: &[u8]) -> Result<bool, LinkError> {
        let close = match self.peek()? {
            b'{' => b'}',
            b'[' => b']',
            _ => return Ok(false),
        };
        self.at += 1;
        let index = (close == b']').then(|| list_index(wanted)).flatten();
        let mut number = 0;
        loop {
            self.skip_whitespace();
            if self.at_next_or_end(number > 0, close)? {
                return Ok(false);
            }
            let is_it = if close == b'}' {
                let key = self.string()?;
                self.skip_whitespace();
                self.expect(b':', "a colon is missing after a key")?;
                key == wanted || unescape_key(key).as_bytes() == wanted
            } else {
                index == Some(number)
            };
            if is_it {
                return Ok(true);
            }
            scan_value(self, &mut Links::default())?;
            number += 1;
        }
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.data.get(self.at) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), LinkError> {
        if self.peek()? != byte {
            return Err(malformed(what, self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether the list or map ends here; if not, the reader stands at its next item.
    fn at_next_or_end(&mut self, some: bool, close: u8) -> Result<bool, LinkError> {
        if some && self.peek()? != close {
            self.expect(b',', "a comma or an end is missing after an item")?;
            self.skip_whitespace();
        }
        let ends = self.peek()? == close;
        if ends {
            self.at += 1;
        }
        Ok(ends)
    }

    /// A string's contents between its quotes, with the escapes checked and not resolved.
    fn string(&mut self) -> Result<&'a [u8], LinkError> {
        self.expect(b'"', "a key is no string")?;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                        b'u' => {
                            let digits = self.data.get(self.at + 1..self.at + 5);
                            let digits = digits.ok_or(LinkError::Truncated { at: self.data.len() })?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(malformed("an escape in a string is invalid", self.at));
                            }
                            self.at += 4;
                        }
                        _ => return Err(malformed("an escape in a string is invalid", self.at)),
                    }
                }
                0..0x20 => return Err(malformed("a control character in a string", self.at)),
                _ => {}
            }
            self.at += 1;
        }
        let contents = self.data.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(contents)
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<Option<Open<'a>>, LinkError> {
        if !self.data.get(self.at..).unwrap_or_default().starts_with(literal) {
            return Err(malformed("a literal is misspelt", self.at));
        }
        self.at += literal.len();
        Ok(None)
    }

    fn number(&mut self) -> Result<Option<Open<'a>>, LinkError> {
        let at = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.data.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits(at)?;
        }
        if self.data.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits(at)?;
        }
        if let Some(b'e' | b'E') = self.data.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.data.get(self.at) {
                self.at += 1;
            }
            self.digits(at)?;
        }
        Ok(None)
    }

    /// One digit or more.
    fn digits(&mut self, number_at: usize) -> Result<(), LinkError> {
        let start = self.at;
        while self.data.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(malformed("a number is invalid", number_at)) } else { Ok(()) }
    }

    /// Checks that only padding follows the node.
    fn end(&self) -> Result<(), LinkError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        match rest.iter().position(|byte| !matches!(byte, b' ' | 0 | b'\t' | b'\r' | b'\n')) {
            Some(offset) => Err(malformed("text follows the node", self.at + offset)),
            None => Ok(()),
        }
    }
}

/// Whether a string with its escapes is `/`.
fn is_slash(contents: &[u8]) -> bool {
    matches!(contents, b"/" | b"\\/" | b"\\u002f" | b"\\u002F")
}

/// Resolves the escapes of a string. What can't be part of a CID becomes U+FFFD, so that it stays no CID.
fn unescape(contents: &[u8]) -> String {
    let text = String::from_utf8_lossy(contents);
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                plain.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other @ ('/' | '\\' | '"')) => plain.push(other),
            _ => plain.push(char::REPLACEMENT_CHARACTER),
        }
    }
    plain
}

/// Resolves the escapes of a key: as those of a JSON string, or nothing that a path could name.
fn unescape_key(contents: &[u8]) -> String {
    let quoted = format!("\"{}\"", String::from_utf8_lossy(contents));
    serde_json::from_str(&quoted).unwrap_or_default()
}

fn malformed(what: &'static str, at: usize) -> LinkError {
    LinkError::Malformed { what, at }
}
