//! The rules of all lists, compact enough for millions, and what they say of a CID or a path.
//!
//! A rule for a block, or a double hash, takes 33 bytes; a rule for a path its text besides.

use std::collections::HashMap;

use cid::Cid;
use cid::multibase::Base;
use cid::multihash::Multihash;
use sha2::{Digest, Sha256};

use crate::model::block::HashFunction;
use crate::model::cids::codec;

/// The multihash code of SHA2-256.
const SHA2_256: u64 = 0x12;

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The block with this multihash, under whatever CID.
    Block(Multihash<64>),
    /// What is behind a path below a root.
    Path {
        /// The multihash of the root.
        root: Multihash<64>,
        /// The path, without slashes around it.
        path: String,
        /// What else the path stands for.
        end: PathEnd,
    },
    /// Whatever has a text of this hash: see [`Rules::denies`].
    Double(Multihash<64>),
    /// A name, of which nothing here knows.
    Name,
}

/// What a rule's path stands for besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEnd {
    /// Nothing.
    Whole,
    /// Every path that begins so.
    Prefix,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it allows what other rules deny.
    pub allows: bool,
    /// What it is about.
    pub target: Target,
}

type Key = [u8; 32];

/// Keys in order, each with whether it is allowed.
#[derive(Debug, Default)]
struct Table(Vec<(Key, bool)>);

impl Table {
    /// Makes it searchable. Of rules for the same key the last one counts.
    fn seal(&mut self) {
        self.0.reverse();
        self.0.sort_by_key(|(key, _)| *key);
        self.0.dedup_by_key(|(key, _)| *key);
        self.0.shrink_to_fit();
    }

    /// Whether the key is allowed, if a rule says so or the opposite.
    fn allows(&self, key: &Key) -> Option<bool> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| key).ok()?;
        self.0.get(at).map(|(_, allows)| *allows)
    }
}

#[derive(Debug)]
struct PathRule {
    path: String,
    end: PathEnd,
    allows: bool,
}

impl PathRule {
    fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&self.path) else { return false };
        match self.end {
            PathEnd::Whole => rest.is_empty(),
            PathEnd::Prefix => true,
        }
    }
}

/// The rules of all lists.
#[derive(Debug, Default)]
pub struct Rules {
    blocks: Table,
    /// By the hash function.
    doubles: HashMap<u64, Table>,
    paths: HashMap<Key, Vec<PathRule>>,
    count: u64,
}

impl Rules {
    /// Adds a rule; [`Rules::seal`] must follow the last one.
    pub fn add(&mut self, rule: Rule) {
        let Rule { allows, target } = rule;
        self.count += 1;
        match target {
            Target::Block(hash) => self.blocks.0.push((key(&hash), allows)),
            Target::Double(hash) => self.doubles.entry(hash.code()).or_default().0.push((key(&hash), allows)),
            Target::Path { root, path, end } => {
                self.paths.entry(key(&root)).or_default().push(PathRule { path, end, allows });
            }
            Target::Name => {}
        }
    }

    /// Makes the rules ready to be asked.
    pub fn seal(&mut self) {
        self.blocks.seal();
        self.doubles.values_mut().for_each(Table::seal);
    }

    /// How many rules were read.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a block is denied. A rule for the block itself, be it an allowing one, goes before double hashes. Those are of the
    /// CID in version 1 and base32 with a slash behind it, or of the multihash in base58. As the same block can be asked for as
    /// another codec, the first is tried with the CID's own, with dag-pb and with raw.
    pub fn denies(&self, cid: &Cid) -> bool {
        match self.blocks.allows(&key(cid.hash())) {
            Some(allows) => !allows,
            None => self.denies_double(cid, ""),
        }
    }

    /// Whether what is behind a path below a root is denied, not looking at the blocks on its way.
    pub fn denies_path(&self, root: &Cid, path: &str) -> bool {
        let rules = self.paths.get(&key(root.hash()));
        let last = rules.and_then(|rules| rules.iter().rev().find(|rule| rule.matches(path)));
        match last {
            Some(rule) => !rule.allows,
            None => self.denies_double(root, path),
        }
    }

    fn denies_double(&self, cid: &Cid, path: &str) -> bool {
        if self.doubles.is_empty() {
            return false;
        }
        let codecs = [cid.codec(), codec::DAG_PB, codec::RAW];
        let fresh = |(index, of): (usize, &u64)| (index == 0 || *of != cid.codec()).then_some(*of);
        for of in codecs.iter().enumerate().filter_map(fresh) {
            let Ok(text) = Cid::new_v1(of, *cid.hash()).to_string_of_base(Base::Base32Lower) else { continue };
            if let Some(allows) = self.double(SHA2_256, &format!("{text}/{path}")) {
                return !allows;
            }
        }
        let mut text = Base::Base58Btc.encode(cid.hash().to_bytes());
        if !path.is_empty() {
            text.push('/');
            text.push_str(path);
        }
        // Of several functions, a denying rule goes before an allowing one, whatever the order.
        let found = self.doubles.keys().filter_map(|code| self.double(*code, &text));
        found.min().is_some_and(|allows| !allows)
    }

    fn double(&self, code: u64, text: &str) -> Option<bool> {
        let table = self.doubles.get(&code)?;
        table.allows(&key(&HashFunction::of(code)?.digest(text.as_bytes())))
    }
}

/// What stands for a multihash: the digest of the usual function, and a digest of all others.
fn key(hash: &Multihash<64>) -> Key {
    if hash.code() == SHA2_256
        && let Ok(digest) = hash.digest().try_into()
    {
        return digest;
    }
    Sha256::digest(hash.to_bytes()).into()
}
