//! What a router answers: provider records, as lines that come one by one or as one document. Pure.
//!
//! Source: the Delegated Routing V1 HTTP API of the IPFS standards. What isn't understood is skipped, since records may be of any kind;
//! what is more than anyone needs isn't read.

use std::str::FromStr;

use cid::Cid;
use serde::Deserialize;
use serde_json::Value;

use crate::net::PeerId;

/// Bytes of an answer that are read.
pub(super) const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a line.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Records of an answer that are looked at.
const RECORDS_MAX: usize = 256;

/// Addresses of a provider that are looked at.
const ADDRESSES_MAX: usize = 64;

/// The codec of a CID that holds a peer's id.
const LIBP2P_KEY: u64 = 0x72;

/// Ways to get blocks that we know. A record that names others alone is of no use.
const PROTOCOLS: [&str; 2] = ["transport-bitswap", "transport-ipfs-gateway-http"];

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A record on each line.
    Lines,
    /// One object with all of them.
    Document,
}

impl Form {
    /// The form with this media type, if it is one of an answer.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/x-ndjson" => Some(Self::Lines),
            "application/json" => Some(Self::Document),
            _ => None,
        }
    }
}

/// Who is said to have the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) peer: PeerId,
    /// Multiaddrs as the router wrote them.
    pub(super) addresses: Vec<String>,
}

/// Why the rest of an answer isn't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("its answer has more than {} bytes", ANSWER_BYTES_MAX)]
    TooLong,
    #[error("its answer has a line of more than {} bytes", LINE_BYTES_MAX)]
    LongLine,
    #[error("its answer isn't what the Delegated Routing V1 HTTP API says")]
    Form,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Providers")]
    providers: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(default)]
    schema: String,
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    addrs: Option<Vec<String>>,
    #[serde(default)]
    protocols: Option<Vec<String>>,
    /// In records of the older kind.
    #[serde(default)]
    protocol: Option<String>,
}

/// Reads an answer as it comes.
#[derive(Debug)]
pub(super) struct Reader {
    form: Form,
    /// What came and isn't read yet: the beginning of a line, or of the document.
    rest: Vec<u8>,
    bytes: usize,
    records: usize,
}

impl Reader {
    pub(super) fn new(form: Form) -> Self {
        Self { form, rest: Vec::new(), bytes: 0, records: 0 }
    }

    /// Takes more of the answer; returns whom it names.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Named>, AnswerError> {
        self.bytes += bytes.len();
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(AnswerError::TooLong);
        }
        let mut named = Vec::new();
        if self.form == Form::Document {
            self.rest.extend_from_slice(bytes);
            return Ok(named);
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            self.rest.extend_from_slice(line);
            let line = std::mem::take(&mut self.rest);
            named.extend(self.read_line(&line)?);
        }
        self.rest.extend_from_slice(last);
        if self.rest.len() > LINE_BYTES_MAX { Err(AnswerError::LongLine) } else { Ok(named) }
    }

    /// The answer is over; returns whom the rest of it names.
    pub(super) fn end(mut self) -> Result<Vec<Named>, AnswerError> {
        let rest = std::mem::take(&mut self.rest);
        match self.form {
            Form::Lines => Ok(self.read_line(&rest)?.into_iter().collect()),
            Form::Document => {
                let document: Document = serde_json::from_slice(&rest).map_err(|_| AnswerError::Form)?;
                let records = document.providers.unwrap_or_default().into_iter();
                Ok(records.take(RECORDS_MAX).filter_map(named).collect())
            }
        }
    }

    /// Whether there is nothing to learn from the rest.
    pub(super) fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX
    }

    fn read_line(&mut self, line: &[u8]) -> Result<Option<Named>, AnswerError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(AnswerError::LongLine);
        }
        if line.trim_ascii().is_empty() || self.is_full() {
            return Ok(None);
        }
        self.records += 1;
        let record: Value = serde_json::from_slice(line).map_err(|_| AnswerError::Form)?;
        Ok(named(record))
    }
}

/// Whom a record names, if it is of a kind that we know.
fn named(record: Value) -> Option<Named> {
    let record: Record = serde_json::from_value(record).ok()?;
    if !matches!(record.schema.as_str(), "peer" | "bitswap") {
        return None;
    }
    let protocols: Vec<String> = record.protocols.unwrap_or_default().into_iter().chain(record.protocol).collect();
    if !protocols.is_empty() && !protocols.iter().any(|protocol| PROTOCOLS.contains(&protocol.as_str())) {
        return None;
    }
    let mut addresses = record.addrs.unwrap_or_default();
    addresses.truncate(ADDRESSES_MAX);
    Some(Named { peer: peer(&record.id)?, addresses })
}

/// A peer's id in either of its two forms.
fn peer(text: &str) -> Option<PeerId> {
    PeerId::from_str(text).ok().or_else(|| {
        let cid = Cid::try_from(text).ok().filter(|cid| cid.codec() == LIBP2P_KEY)?;
        PeerId::from_bytes(&cid.hash().to_bytes()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGRUhFGu3hKQdVHzPP1LqTiFyBhVgfhZr2VfJvhzm8wDY";

    fn record(more: &str) -> String {
        format!(r#"{{"Schema":"peer","ID":"{PEER}"{more}}}"#)
    }

    fn read(form: Form, text: &str, piece: usize) -> Result<Vec<Named>, AnswerError> {
        let mut reader = Reader::new(form);
        let mut named = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            named.extend(reader.feed(piece)?);
        }
        named.extend(reader.end()?);
        Ok(named)
    }

    #[test]
    fn both_forms_name_the_same_however_they_come() {
        let of = |addresses: &[&str]| Named {
            peer: PEER.parse().unwrap(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        };
        let as_cid = Cid::new_v1(
            LIBP2P_KEY,
            Cid::read_bytes(&[&[1, 0x72], PEER.parse::<PeerId>().unwrap().to_bytes().as_slice()].concat()[..])
                .unwrap()
                .hash()
                .to_owned(),
        );
        let records = [
            record(r#","Addrs":["/ip4/8.8.8.8/tcp/4001"],"Protocols":["transport-bitswap","other"],"other":{"a":1}"#),
            record(r#","Addrs":null,"Protocols":null"#),
            record(""),
            record(r#","Protocols":["transport-graphsync-filecoinv1"]"#),
            r#"{"Schema":"announcement","Payload":{}}"#.to_owned(),
            r#"{"Schema":"peer","ID":"nobody"}"#.to_owned(),
            r#"{"Schema":"peer","ID":7}"#.to_owned(),
            r#"["no record"]"#.to_owned(),
            format!(
                r#"{{"Schema":"bitswap","Protocol":"transport-bitswap","ID":"{as_cid}","Addrs":["/dns/a.example/https"]}}"#
            ),
        ];
        let expected = vec![of(&["/ip4/8.8.8.8/tcp/4001"]), of(&[]), of(&[]), of(&["/dns/a.example/https"])];
        let lines = records.join("\n");
        let document = format!(r#"{{"Providers":[{}]}}"#, records.join(","));
        for piece in [1, 7, 100_000] {
            assert_eq!(read(Form::Lines, &lines, piece), Ok(expected.clone()));
            assert_eq!(read(Form::Lines, &format!("{lines}\r\n\n"), piece), Ok(expected.clone()));
            assert_eq!(read(Form::Document, &document, piece), Ok(expected.clone()));
        }
        for empty in [r#"{"Providers":null}"#, "{}"] {
            assert_eq!(read(Form::Document, empty, 5), Ok(Vec::new()));
        }
        assert_eq!(read(Form::Lines, "", 5), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_answer_or_too_much_is_refused() {
        assert_eq!(read(Form::Document, "<html>", 5), Err(AnswerError::Form));
        assert_eq!(read(Form::Document, "", 5), Err(AnswerError::Form));
        assert_eq!(read(Form::Lines, "<html>", 5), Err(AnswerError::Form));
        let long = record(&format!(r#","Addrs":["{}"]"#, "x".repeat(LINE_BYTES_MAX)));
        assert_eq!(read(Form::Lines, &long, 1000), Err(AnswerError::LongLine));
        assert_eq!(read(Form::Lines, &format!("{long}\n"), usize::MAX), Err(AnswerError::LongLine));
        let endless = format!("{}\n", record("")).repeat(20_000);
        assert_eq!(read(Form::Lines, &endless, 1000), Err(AnswerError::TooLong));
        assert_eq!(read(Form::Document, &endless, 1000), Err(AnswerError::TooLong));
    }

    #[test]
    fn many_records_and_addresses_are_cut_off() {
        let many = format!("{}\n", record("")).repeat(RECORDS_MAX + 5);
        assert_eq!(read(Form::Lines, &many, 1000).unwrap().len(), RECORDS_MAX);
        let document = format!(r#"{{"Providers":[{}]}}"#, vec![record(""); RECORDS_MAX + 5].join(","));
        assert_eq!(read(Form::Document, &document, 1000).unwrap().len(), RECORDS_MAX);
        let addresses = vec![r#""/ip4/8.8.8.8/tcp/1""#; ADDRESSES_MAX + 5].join(",");
        let named = read(Form::Lines, &record(&format!(r#","Addrs":[{addresses}]"#)), 1000).unwrap();
        assert_eq!(named[0].addresses.len(), ADDRESSES_MAX);
    }
}
