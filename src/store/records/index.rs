//! Where an account's pins are found by what they are: by state, content, name and pairs of `meta`.
//!
//! Each pin has an *ordinal*: the first pin of an account has 0, each further one the next, and none is given twice, so
//! that ordinals are dense and in the order of `created`. Each [`Term`] that a pin has (such as "is pinned", or "has this
//! name") leads to a *posting*, the set of the ordinals of such pins, in [chunks](chunk) of 32,000 ordinals. Chunks that are full of
//! runs take a few bytes, those of something that one pin alone has take three, and none takes more than a page of the file.
//!
//! Digests fall anywhere, so the terms of new pins wait in the [`front`] until many of an account are written together.
//!
//! Terms are digests, so that each takes the same few bytes. That two of one account fall together would take as many tries as
//! 128 bits of a hash promise, and only the account itself would see it.

use std::collections::{BTreeMap, BTreeSet};

use multihash_codetable::{Code, MultihashDigest};
use redb::{ReadableTable, Table, WriteTransaction};

use super::RecordsError;
use super::chunk::{self, Chunk};
use super::front;
use super::names::{self, NameChange};
use super::tables::{FRONT, POSTINGS};
use crate::model::query::fold_case;
use crate::model::{ContentKey, PinRecord, PinState, UserId};

/// Changes that are collected before they are written: a commit of many pins with large `meta` is written in pieces.
pub(super) const PENDING_MAX: usize = 64 * 1024;

/// Bytes of a digest within a term.
const DIGEST_BYTES: usize = 16;

/// The first byte of a term says what kind it is.
mod kind {
    pub(super) const STATE: u8 = 0;
    pub(super) const CONTENT: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const META: u8 = 3;
}

/// States that differ in what a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Unfinished = 0,
    Pinned = 1,
    Failed = 2,
}

impl State {
    fn of(state: &PinState) -> Self {
        match state {
            PinState::Queued => Self::Unfinished,
            PinState::Pinned { .. } => Self::Pinned,
            PinState::Failed(_) => Self::Failed,
        }
    }
}

/// Something that pins of an account have in common, as the beginning of the keys of its posting. No term begins another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term(Vec<u8>);

impl Term {
    fn new(user: UserId, kind: u8) -> Self {
        let mut key = Vec::with_capacity(64);
        key.extend(user.0.to_be_bytes());
        key.push(kind);
        Self(key)
    }

    pub(super) fn state(user: UserId, state: State) -> Self {
        let mut term = Self::new(user, kind::STATE);
        term.0.push(state as u8);
        term
    }

    pub(super) fn content(user: UserId, content: &ContentKey) -> Self {
        let mut term = Self::new(user, kind::CONTENT);
        term.0.extend(digest(content.as_bytes()));
        term
    }

    pub(super) fn name(user: UserId, name: &str) -> Self {
        let folded = fold_case(name);
        let mut term = Self::folded_name(user, &folded);
        if folded == name {
            term.0.push(0);
        } else {
            term.0.push(1);
            term.0.extend(digest(name.as_bytes()));
        }
        term
    }

    /// The beginning of the terms of all names that are this one when [`fold_case`] is done with them.
    pub(super) fn folded_name(user: UserId, folded: &str) -> Self {
        let mut term = Self::new(user, kind::NAME);
        term.0.extend(digest(folded.as_bytes()));
        term
    }

    pub(super) fn meta(user: UserId, key: &str, value: &str) -> Self {
        let mut pair = Vec::with_capacity(8 + key.len() + value.len());
        // With the length, no other pair has the same bytes.
        pair.extend((key.len() as u64).to_be_bytes());
        pair.extend(key.as_bytes());
        pair.extend(value.as_bytes());
        let mut term = Self::new(user, kind::META);
        term.0.extend(digest(&pair));
        term
    }

    /// The term without its account.
    pub(super) fn within_account(&self) -> &[u8] {
        self.0.get(size_of::<u64>()..).unwrap_or_default()
    }

    /// The term that is so without its account.
    fn of_account(user: UserId, within_account: &[u8]) -> Self {
        let mut key = user.0.to_be_bytes().to_vec();
        key.extend_from_slice(within_account);
        Self(key)
    }

    /// Every term of a pin but that of its state.
    fn all_of(record: &PinRecord) -> Vec<Self> {
        let user = record.user;
        let content = Self::content(user, &ContentKey::of(&record.root));
        let name = record.name.as_ref().map(|name| Self::name(user, name));
        let meta = record.meta.iter().map(|(key, value)| Self::meta(user, key, value));
        std::iter::once(content).chain(name).chain(meta).collect()
    }

    /// The key of a chunk of the posting.
    pub(super) fn key(&self, chunk: u32) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + 4);
        key.extend_from_slice(&self.0);
        key.extend(chunk.to_be_bytes());
        key
    }

    /// The first and the last key that can begin with this term.
    pub(super) fn all_keys(&self) -> (Vec<u8>, Vec<u8>) {
        let mut last = self.0.clone();
        // Longer than whatever follows a term.
        last.extend([u8::MAX; 2 * DIGEST_BYTES]);
        (self.0.clone(), last)
    }
}

/// The number of the chunk that a key of [`POSTINGS`] is of.
pub(super) fn chunk_of_key(key: &[u8]) -> Result<u32, RecordsError> {
    key.last_chunk().map(|chunk| u32::from_be_bytes(*chunk)).ok_or_else(|| unreadable("a key is too short"))
}

fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = [0; DIGEST_BYTES];
    for (to, from) in digest.iter_mut().zip(Code::Blake3_256.digest(bytes).digest()) {
        *to = *from;
    }
    digest
}

/// The chunk that an ordinal is in, and what it is there.
pub(super) fn split(ordinal: u64) -> Result<(u32, u16), RecordsError> {
    // An account may make a pin each millisecond, so this lasts for thousands of years.
    let ordinals = u64::from(chunk::ORDINALS);
    match (u32::try_from(ordinal / ordinals), u16::try_from(ordinal % ordinals)) {
        (Ok(chunk), Ok(low)) => Ok((chunk, low)),
        _ => Err(unreadable("an ordinal is too large")),
    }
}

/// The ordinal of [`split`].
pub(super) fn join(chunk: u32, low: u32) -> u64 {
    u64::from(chunk) * u64::from(chunk::ORDINALS) + u64::from(low)
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "posting_chunks", reason: reason.to_owned() }
}

/// Whether an ordinal comes into a chunk or goes.
type Toggle = (u16, bool);

/// What a transaction changes in the index, until it is written: what many pins of a commit change is written once.
#[derive(Debug, Default)]
pub(super) struct Pending {
    postings: BTreeMap<Vec<u8>, Vec<Toggle>>,
    names: BTreeMap<(u64, u64), Vec<NameChange>>,
    /// Rows that come into the front.
    front: BTreeMap<(u64, u64), Vec<u8>>,
    /// Pins that are gone; whether their terms are in the front is seen when this is written.
    removed: Vec<(UserId, u64, Vec<Term>)>,
    /// Accounts whose front is full.
    full: BTreeSet<u64>,
    changes: usize,
}

impl Pending {
    /// Whether there is so much that it should be written now.
    pub(super) fn is_large(&self) -> bool {
        self.changes >= PENDING_MAX
    }

    /// A pin came.
    pub(super) fn add(&mut self, record: &PinRecord, ordinal: u64) -> Result<(), RecordsError> {
        let terms = Term::all_of(record);
        if terms.len() > front::TERMS_MAX {
            return self.add_settled(record, ordinal);
        }
        self.toggle(&Term::state(record.user, State::of(&record.state)), ordinal, true)?;
        self.name(record, ordinal, true);
        self.front.insert((record.user.0, ordinal), front::encode(&terms)?);
        self.changes += terms.len();
        if front::is_last(ordinal) {
            self.full.insert(record.user.0);
        }
        Ok(())
    }

    /// A pin came, and its terms don't wait in the front.
    pub(super) fn add_settled(&mut self, record: &PinRecord, ordinal: u64) -> Result<(), RecordsError> {
        self.toggle(&Term::state(record.user, State::of(&record.state)), ordinal, true)?;
        self.name(record, ordinal, true);
        for term in Term::all_of(record) {
            self.toggle(&term, ordinal, true)?;
        }
        if front::is_last(ordinal) {
            self.full.insert(record.user.0);
        }
        Ok(())
    }

    /// A pin is gone; `record` is as it was.
    pub(super) fn remove(&mut self, record: &PinRecord, ordinal: u64) -> Result<(), RecordsError> {
        self.toggle(&Term::state(record.user, State::of(&record.state)), ordinal, false)?;
        self.name(record, ordinal, false);
        // What came and went in the same transaction is never written.
        if self.front.remove(&(record.user.0, ordinal)).is_none() {
            let terms = Term::all_of(record);
            self.changes += terms.len();
            self.removed.push((record.user, ordinal, terms));
        }
        Ok(())
    }

    /// A pin has got another state.
    pub(super) fn change_state(
        &mut self,
        user: UserId,
        ordinal: u64,
        old: &PinState,
        new: &PinState,
    ) -> Result<(), RecordsError> {
        let (old, new) = (State::of(old), State::of(new));
        if old != new {
            self.toggle(&Term::state(user, old), ordinal, false)?;
            self.toggle(&Term::state(user, new), ordinal, true)?;
        }
        Ok(())
    }

    fn name(&mut self, record: &PinRecord, ordinal: u64, comes: bool) {
        if let Some(name) = &record.name {
            let (group, low) = names::split(ordinal);
            let change = NameChange { low, name: comes.then(|| name.clone()) };
            self.names.entry((record.user.0, group)).or_default().push(change);
            self.changes += 1;
        }
    }

    fn toggle(&mut self, term: &Term, ordinal: u64, comes: bool) -> Result<(), RecordsError> {
        let (chunk, low) = split(ordinal)?;
        self.postings.entry(term.key(chunk)).or_default().push((low, comes));
        self.changes += 1;
        Ok(())
    }

    /// Writes all of it, in the order of the keys.
    pub(super) fn write(&mut self, transaction: &WriteTransaction) -> Result<(), RecordsError> {
        if self.changes == 0 {
            return Ok(());
        }
        names::write(transaction, std::mem::take(&mut self.names))?;
        let mut front = transaction.open_table(FRONT)?;
        for (key, row) in std::mem::take(&mut self.front) {
            front.insert(key, row.as_slice())?;
        }
        for (user, ordinal, terms) in std::mem::take(&mut self.removed) {
            if front.remove((user.0, ordinal))?.is_none() {
                for term in terms {
                    self.toggle(&term, ordinal, false)?;
                }
            }
        }
        for user in std::mem::take(&mut self.full) {
            let rows = (user, 0)..=(user, u64::MAX);
            for entry in front.range(rows.clone())? {
                let (key, row) = entry?;
                for term in front::terms(row.value()) {
                    self.toggle(&Term::of_account(UserId(user), term?), key.value().1, true)?;
                }
            }
            front.retain_in(rows, |_, _| false)?;
            if self.is_large() {
                self.write_postings(transaction)?;
            }
        }
        self.write_postings(transaction)
    }

    fn write_postings(&mut self, transaction: &WriteTransaction) -> Result<(), RecordsError> {
        self.changes = 0;
        let mut table = transaction.open_table(POSTINGS)?;
        for (key, toggles) in std::mem::take(&mut self.postings) {
            write_chunk(&mut table, &key, &toggles)?;
        }
        Ok(())
    }
}

fn write_chunk(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    toggles: &[Toggle],
) -> Result<(), RecordsError> {
    let mut chunk = if let [(low, true)] = toggles {
        // Most terms are new: then there is no look before the write.
        let old = table.insert(key, chunk::of_one(*low).as_slice())?;
        let Some(old) = old else { return Ok(()) };
        Chunk::of(old.value())?
    } else {
        table.get(key)?.map_or_else(|| Ok(Chunk::empty()), |old| Chunk::of(old.value()))?
    };
    for (low, comes) in toggles {
        chunk.set(*low, *comes);
    }
    match chunk.encode() {
        Some(bytes) => table.insert(key, bytes.as_slice())?,
        None => table.remove(key)?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_term_begins_another_one() {
        let user = UserId(7);
        let content = ContentKey::of(&"bafkqaaa".parse().unwrap());
        let terms = [
            Term::state(user, State::Unfinished),
            Term::state(user, State::Failed),
            Term::content(user, &content),
            Term::name(user, "a"),
            Term::name(user, "A"),
            Term::name(user, "b"),
            Term::meta(user, "a", "bc"),
            Term::meta(user, "ab", "c"),
            Term::state(UserId(8), State::Unfinished),
        ];
        for (place, term) in terms.iter().enumerate() {
            for (other_place, other) in terms.iter().enumerate() {
                assert_eq!(other.0.starts_with(&term.0), place == other_place);
                let (first, last) = term.all_keys();
                let key = other.key(u32::MAX);
                assert_eq!((first..=last).contains(&key), place == other_place);
            }
        }
        let (first, last) = Term::folded_name(user, "a").all_keys();
        let is_within = |name| (first.clone()..=last.clone()).contains(&Term::name(user, name).key(0));
        assert!(is_within("a") && is_within("A") && !is_within("b"));
    }

    #[test]
    fn ordinals_are_split_and_joined() {
        let end = (1 << 32) * u64::from(chunk::ORDINALS);
        for ordinal in [0, 1, 31_999, 32_000, 65_536, end - 1] {
            let (chunk, low) = split(ordinal).unwrap();
            assert!(low < chunk::ORDINALS);
            assert_eq!(join(chunk, low.into()), ordinal);
        }
        assert!(split(end).is_err());
        // A search for a part of a name relies on it.
        assert_eq!(names::split(join(1, 0)).1, 0, "a group of names reaches into another chunk");
    }
}
