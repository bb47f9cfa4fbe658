//! Makes a file of an older version one of this version, within the transaction that opens it.

use redb::{ReadableTable, Table, WriteTransaction};
use roaring::RoaringBitmap;

use super::account::AccountPins;
use super::chunk::Chunk;
use super::index::{self, Pending};
use super::tables::{
    ACCOUNT_PINS, OLD_CREATED_LAST, OLD_ORDINALS_NEXT, OLD_PINS_BY_USER, OLD_POSTINGS, PINS, PINS_BY_CREATED,
    PINS_BY_ORDINAL, PINS_FAILED, POSTINGS, decode,
};
use super::{RecordsError, usage, users};
use crate::model::{PinRecord, PinState, UserId};

/// Upgrades from `version`. All tables of this version are there.
pub(super) fn run(transaction: &WriteTransaction, version: u64) -> Result<(), RecordsError> {
    if version < 2 {
        from_1(transaction)?;
    }
    if version < 3 {
        from_2(transaction)?;
    }
    if version < 4 {
        from_3(transaction)?;
    }
    // Versions 5 and 6 have only tables more, which are there already: before, nothing went by itself, and nobody was told.
    from_6(transaction)
}

/// There were no usage figures, and in the oldest files no index of failed pins.
fn from_1(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    let mut failed = transaction.open_table(PINS_FAILED)?;
    for entry in transaction.open_table(PINS)?.iter()? {
        let (id, value) = entry?;
        let record: PinRecord = decode("pins", value.value())?;
        match record.state {
            PinState::Failed(_) => {
                failed.insert(id.value(), ())?;
            }
            PinState::Pinned { .. } => usage::add(transaction, &record)?,
            PinState::Queued => {}
        }
    }
    Ok(())
}

/// There were no ordinals, and no index of what a list can ask for. What is held in memory is bounded, as the index is written
/// in pieces.
fn from_2(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    let mut index = Pending::default();
    let (mut user, mut ordinal) = (None, 0);
    {
        let mut by_created = transaction.open_table(PINS_BY_CREATED)?;
        let mut by_ordinal = transaction.open_table(PINS_BY_ORDINAL)?;
        let mut next = transaction.open_table(OLD_ORDINALS_NEXT)?;
        let pins = transaction.open_table(PINS)?;
        for entry in transaction.open_table(OLD_PINS_BY_USER)?.iter()? {
            let (key, id) = entry?;
            let ((owner, created_ms), id) = (key.value(), id.value());
            if user != Some(owner) {
                (user, ordinal) = (Some(owner), 0);
            }
            let Some(record) = pins.get(id)?.map(|value| decode::<PinRecord>("pins", value.value())).transpose()?
            else {
                continue;
            };
            debug_assert_eq!((record.user, record.created_ms), (UserId(owner), created_ms));
            by_created.insert((owner, created_ms), (id, ordinal))?;
            by_ordinal.insert((owner, ordinal), id)?;
            index.add_settled(&record, ordinal)?;
            ordinal += 1;
            next.insert(owner, ordinal)?;
            if index.is_large() {
                index.write(transaction)?;
            }
        }
    }
    index.write(transaction)?;
    transaction.delete_table(OLD_PINS_BY_USER)?;
    Ok(())
}

/// What is known of an account's pins was in two tables, their number wasn't known, and there were no roles.
fn from_3(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    {
        let ordinals = transaction.open_table(OLD_ORDINALS_NEXT)?;
        let by_created = transaction.open_table(PINS_BY_CREATED)?;
        let mut accounts = transaction.open_table(ACCOUNT_PINS)?;
        for entry in transaction.open_table(OLD_CREATED_LAST)?.iter()? {
            let (user, created_last) = entry?;
            let user = user.value();
            let mut account = AccountPins {
                created_last_ms: Some(created_last.value()),
                // It was made up to here by pins that are gone, if not by any that is left.
                ordinal_next: ordinals.get(user)?.map_or(0, |next| next.value()).max(1),
                ..AccountPins::default()
            };
            for entry in by_created.range((user, i64::MIN)..=(user, i64::MAX))? {
                entry?;
                account.pins += 1;
            }
            accounts.insert(user, account.row())?;
        }
    }
    transaction.delete_table(OLD_ORDINALS_NEXT)?;
    transaction.delete_table(OLD_CREATED_LAST)?;
    users::promote_first(transaction)
}

/// Chunks of postings had 65,536 ordinals, and so up to four pages. Those of the oldest files, which had none, are made already.
fn from_6(transaction: &WriteTransaction) -> Result<(), RecordsError> {
    {
        let old = transaction.open_table(OLD_POSTINGS)?;
        let mut chunks =
            Chunks { postings: transaction.open_table(POSTINGS)?, term: Vec::new(), number: 0, chunk: Chunk::empty() };
        for entry in old.iter()? {
            let (key, ordinals) = entry?;
            let (term, old_number) = key.value().split_last_chunk().ok_or_else(|| unreadable("a key is too short"))?;
            let first = u64::from(u32::from_be_bytes(*old_number)) << 16;
            for low in decode_of_6(ordinals.value())? {
                chunks.add(term, first + u64::from(low))?;
            }
        }
        chunks.write()?;
    }
    transaction.delete_table(OLD_POSTINGS)?;
    Ok(())
}

/// Puts chunks together from terms and ordinals that come in order, and holds one at a time.
struct Chunks<'transaction> {
    postings: Table<'transaction, &'static [u8], &'static [u8]>,
    term: Vec<u8>,
    number: u32,
    chunk: Chunk,
}

impl Chunks<'_> {
    fn add(&mut self, term: &[u8], ordinal: u64) -> Result<(), RecordsError> {
        let (number, low) = index::split(ordinal)?;
        if number != self.number || term != self.term {
            self.write()?;
            self.number = number;
            self.term.clear();
            self.term.extend_from_slice(term);
        }
        self.chunk.set(low, true);
        Ok(())
    }

    fn write(&mut self) -> Result<(), RecordsError> {
        if let Some(bytes) = self.chunk.encode() {
            let key = [self.term.as_slice(), &self.number.to_be_bytes()].concat();
            self.postings.insert(key.as_slice(), bytes.as_slice())?;
            self.chunk = Chunk::empty();
        }
        Ok(())
    }
}

/// The lower 16 bits of the ordinals in a chunk of version 6: after a 0 they are listed, after a 1 there is a roaring bitmap in its portable format.
fn decode_of_6(bytes: &[u8]) -> Result<RoaringBitmap, RecordsError> {
    match bytes.split_first() {
        Some((0, listed)) => Ok(listed.as_chunks().0.iter().map(|low| u32::from(u16::from_le_bytes(*low))).collect()),
        Some((1, bitmap)) => RoaringBitmap::deserialize_from(bitmap).map_err(|error| unreadable(&error.to_string())),
        _ => Err(unreadable("a chunk is of an unknown form")),
    }
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "postings", reason: reason.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _};
    use redb::{Database, TableHandle as _};
    use roaring::RoaringTreemap;

    use super::super::tables::{META, SCHEMA_KEY, encode};
    use super::super::{Records, SCHEMA_VERSION, chunk};
    use super::*;

    /// Writes a posting as version 6 had it.
    pub(in super::super) fn write_posting_of_6(
        postings: &mut Table<'_, &'static [u8], &'static [u8]>,
        term: &[u8],
        ordinals: &RoaringTreemap,
    ) {
        let mut chunks: BTreeMap<u64, RoaringBitmap> = BTreeMap::new();
        for ordinal in ordinals {
            chunks.entry(ordinal >> 16).or_default().insert(u32::try_from(ordinal & 0xffff).unwrap());
        }
        for (number, mut lows) in chunks {
            let mut bytes = Vec::new();
            if lows.len() <= 8 {
                bytes.push(0);
                bytes.extend(lows.iter().flat_map(|low| u16::try_from(low).unwrap().to_le_bytes()));
            } else {
                bytes.push(1);
                lows.optimize();
                lows.serialize_into(&mut bytes).unwrap();
            }
            let key = [term, &u32::try_from(number).unwrap().to_be_bytes()].concat();
            postings.insert(key.as_slice(), bytes.as_slice()).unwrap();
        }
    }

    /// Every posting, by its term.
    pub(in super::super) fn postings_of(
        postings: &impl ReadableTable<&'static [u8], &'static [u8]>,
    ) -> BTreeMap<Vec<u8>, RoaringTreemap> {
        let mut all: BTreeMap<Vec<u8>, RoaringTreemap> = BTreeMap::new();
        for entry in postings.iter().unwrap() {
            let (key, bytes) = entry.unwrap();
            let (term, number) = key.value().split_last_chunk().unwrap();
            let lows = chunk::decode(bytes.value()).unwrap();
            assert!(!lows.is_empty());
            let ordinals = lows.iter().map(|low| index::join(u32::from_be_bytes(*number), low));
            all.entry(term.to_vec()).or_default().extend(ordinals);
        }
        all
    }

    #[test]
    fn postings_of_version_6_have_the_same_ordinals_in_smaller_chunks() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.redb");
        Records::open(&path, 1 << 20).unwrap().close();

        let mut model = BTreeMap::new();
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut old = transaction.open_table(OLD_POSTINGS).unwrap();
            for number in 0..40_u8 {
                let mut ordinals = RoaringTreemap::new();
                // A few, many, most, and runs, over several chunks of either size.
                match number % 4 {
                    0 => ordinals.extend((0..random.random_range(1..12)).map(|_| random.random_range(0..300_000_u64))),
                    1 => ordinals.extend((0..20_000).map(|_| random.random_range(0..300_000_u64))),
                    2 => ordinals.extend((0..200_000_u64).filter(|_| random.random_ratio(9, 10))),
                    _ => {
                        for _ in 0..random.random_range(1..20) {
                            let first = random.random_range(0..300_000_u64);
                            ordinals.insert_range(first..=first + random.random_range(0..70_000));
                        }
                    }
                }
                write_posting_of_6(&mut old, &[0, number], &ordinals);
                model.insert(vec![0, number], ordinals);
            }
            let version = encode("meta", &6_u64).unwrap();
            transaction.open_table(META).unwrap().insert(SCHEMA_KEY, version.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);

        for _ in 0..2 {
            let records = Records::open(&path, 1 << 20).unwrap();
            assert_eq!(records.meta::<u64>(SCHEMA_KEY).unwrap(), Some(SCHEMA_VERSION));
            let read = records.read().unwrap();
            assert_eq!(postings_of(&read.open_table(POSTINGS).unwrap()), model);
            assert!(read.list_tables().unwrap().all(|table| table.name() != OLD_POSTINGS.name()));
        }
    }
}
