//! The compact denylist format (IPIP-383, specs.ipfs.tech/compact-denylist-format), one rule a line.
//!
//! A header in YAML may stand before the rules; it ends with a line `---`. Hints behind a rule mean nothing here. It reads bytes
//! and opens no file.

use cid::Cid;
use cid::multibase::Base;
use cid::multihash::Multihash;

use crate::model::block::HashFunction;
use crate::model::cids;

use super::rules::{PathEnd, Rule, Target};

/// The largest header, in bytes, without the line that ends it. What is longer is no header (the specification).
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// The longest line, in bytes, without its end (the specification).
const LINE_BYTES_MAX: usize = 2 * 1024 * 1024 - 1;

/// The only version of the format that there is.
const VERSION: &str = "1";

/// The multihash code of SHA2-256.
const SHA2_256: u64 = 0x12;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is too long.
    #[error("it has {bytes} bytes, at most {LINE_BYTES_MAX} are allowed; shorten or remove it")]
    LongLine {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is no text.
    #[error("it is not UTF-8; write paths with %-escapes")]
    NotText,
    /// The header is of another version.
    #[error("the header says version {0}, and only version {VERSION} is known; get the list in that version")]
    Version(String),
    /// It stands before the line that ends the header, where it would mean nothing.
    #[error("it is a rule before the line ---, which ends the header; move it below that line, or remove the line ---")]
    RuleInHeader,
    /// It is no rule.
    #[error("\"{0}\" is no rule; a rule begins with /ipfs/, /ipld/, /ipns/ or //, with ! before it where it allows")]
    NoRule(String),
    /// A rule's CID is none.
    #[error("{0}; correct or remove the rule")]
    Cid(String),
    /// A rule has no name behind `/ipns/`.
    #[error("no name stands behind /ipns/; add it or remove the rule")]
    NoName,
    /// A rule's path has a bad escape.
    #[error("its path has a % without two hexadecimal digits behind it, or is not UTF-8; correct the escape")]
    Escape,
    /// A double hash can't be read.
    #[error(
        "\"{0}\" is neither 64 hexadecimal digits nor a multihash in base58 of a known hash function; correct or remove the rule"
    )]
    DoubleHash(String),
}

/// Reads a list and hands over each of its rules, in order.
pub fn parse(bytes: &[u8], mut take: impl FnMut(Rule)) -> Result<(), ParseError> {
    let (header, rules, mut line) = split_header(bytes);
    check_version(header)?;
    for text in rules.split(|byte| *byte == b'\n') {
        line += 1;
        let failed = |fault| ParseError { line, fault };
        if text.len() > LINE_BYTES_MAX {
            return Err(failed(Fault::LongLine { bytes: text.len() }));
        }
        let text = std::str::from_utf8(text).map_err(|_| failed(Fault::NotText))?;
        if text.starts_with('#') {
            continue;
        }
        if let Some(rule) = text.split_whitespace().next() {
            read_rule(rule, &mut take).map_err(failed)?;
        }
    }
    Ok(())
}

/// The header, what follows it, and how many lines the header takes. Without a line that ends one there is none.
fn split_header(bytes: &[u8]) -> (&[u8], &[u8], usize) {
    let (mut at, mut lines) = (0, 0);
    while at <= HEADER_BYTES_MAX {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(length) = rest.iter().take(HEADER_BYTES_MAX + 1).position(|byte| *byte == b'\n') else { break };
        let (text, behind) = rest.split_at(length);
        lines += 1;
        if text.trim_ascii_end() == b"---" {
            return (bytes.get(..at).unwrap_or_default(), behind.get(1..).unwrap_or_default(), lines);
        }
        at += length + 1;
    }
    (&[], bytes, 0)
}

fn check_version(header: &[u8]) -> Result<(), ParseError> {
    for (index, text) in header.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(text).map_err(|_| ParseError { line, fault: Fault::NotText })?;
        if text.starts_with(['/', '!']) {
            return Err(ParseError { line, fault: Fault::RuleInHeader });
        }
        if let Some(version) = text.strip_prefix("version:") {
            let version = version.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
            if version != VERSION {
                return Err(ParseError { line, fault: Fault::Version(shown(version)) });
            }
        }
    }
    Ok(())
}

fn read_rule(text: &str, take: &mut impl FnMut(Rule)) -> Result<(), Fault> {
    let unsigned = text.strip_prefix('!');
    let (allows, text) = (unsigned.is_some(), unsigned.unwrap_or(text));
    let mut rule = |target| take(Rule { allows, target });
    if let Some(double) = text.strip_prefix("//") {
        // A text can be both; then both are meant.
        let hashes: Vec<_> = [hexadecimal(double), base58(double)].into_iter().flatten().collect();
        if hashes.is_empty() {
            return Err(Fault::DoubleHash(shown(double)));
        }
        for hash in hashes {
            rule(Target::Double(hash));
        }
        return Ok(());
    }
    if let Some(path) = text.strip_prefix("/ipfs/").or_else(|| text.strip_prefix("/ipld/")) {
        let (cid, path) = path.split_once('/').unwrap_or((path, ""));
        let cid: Cid = cids::decode(cid).map_err(|error| Fault::Cid(error.to_string()))?;
        let (path, end) = read_path(path)?;
        // What denies every path denies the block from which they all begin.
        rule(match (path.is_empty(), end) {
            (true, _) => Target::Block(*cid.hash()),
            (false, end) => Target::Path { root: *cid.hash(), path, end },
        });
        return Ok(());
    }
    match text.strip_prefix("/ipns/").map(|path| path.split('/').next().unwrap_or_default()) {
        Some("") => Err(Fault::NoName),
        Some(_) => {
            rule(Target::Name);
            Ok(())
        }
        None => Err(Fault::NoRule(shown(text))),
    }
}

/// A path without slashes around it, and what else it stands for. The star counts only before the escapes are read, and a slash before
/// it is the same as none.
fn read_path(text: &str) -> Result<(String, PathEnd), Fault> {
    let (text, end) = match text.strip_suffix('*') {
        Some(text) => (text, PathEnd::Prefix),
        None => (text, PathEnd::Whole),
    };
    Ok((unescape(text).ok_or(Fault::Escape)?.trim_matches('/').to_owned(), end))
}

fn unescape(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            bytes.push(byte(digits)?);
            rest = behind;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The byte of two hexadecimal digits.
fn byte(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(value(*high)? << 4 | value(*low)?).ok()
}

fn hexadecimal(text: &str) -> Option<Multihash<64>> {
    if text.len() != 64 {
        return None;
    }
    let digest = text.as_bytes().chunks_exact(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Multihash::wrap(SHA2_256, &digest).ok()
}

fn base58(text: &str) -> Option<Multihash<64>> {
    // No known hash is longer; decoding takes time that grows with the square of the length.
    if text.len() > 128 {
        return None;
    }
    let hash = Multihash::<64>::from_bytes(&Base::Base58Btc.decode(text).ok()?).ok()?;
    let function = HashFunction::of(hash.code())?;
    (hash.digest().len() == function.digest_bytes()).then_some(hash)
}

/// The beginning of a text, for a sentence.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
