//! The names of an account's pins in the order of the pins, packed so that a search for a part of them is quick.
//!
//! A group has the names of the pins with 64 neighbouring ordinals: a table of rows, then the names, then those names whose
//! folded form is another one, folded. Each text ends with a byte that no text has, so that one search over all of them
//! finds nothing that reaches from one into the next.

use std::collections::BTreeMap;

use memchr::memmem::Finder;
use redb::{ReadableTable, WriteTransaction};

use super::RecordsError;
use super::tables::NAMES;
use crate::model::query::fold_case;

/// Bits of an ordinal that tell pins of one group apart.
const GROUP_BITS: u32 = 6;

/// The end of a text: no byte of UTF-8.
const END: u8 = 0xff;

/// Bytes of a row: the pin, the length of its name, and that of the folded name, which is 0 when it is the same.
const ROW_BYTES: usize = 5;

/// The group that an ordinal is in, and what it is there.
pub(super) fn split(ordinal: u64) -> (u64, u8) {
    (ordinal >> GROUP_BITS, (ordinal & 0x3f) as u8)
}

/// The ordinal of [`split`].
pub(super) fn join(group: u64, low: u8) -> u64 {
    group << GROUP_BITS | u64::from(low)
}

/// A name that comes, or is gone.
#[derive(Debug)]
pub(super) struct NameChange {
    pub(super) low: u8,
    pub(super) name: Option<String>,
}

/// Writes what has changed in the groups, by account and number of the group.
pub(super) fn write(
    transaction: &WriteTransaction,
    changes: BTreeMap<(u64, u64), Vec<NameChange>>,
) -> Result<(), RecordsError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(NAMES)?;
    for (key, changes) in changes {
        let mut names = match table.get(key)? {
            Some(group) => decode(group.value())?,
            None => BTreeMap::new(),
        };
        for NameChange { low, name } in changes {
            match name {
                Some(name) => names.insert(low, name),
                None => names.remove(&low),
            };
        }
        if names.is_empty() {
            table.remove(key)?;
        } else {
            table.insert(key, encode(&names)?.as_slice())?;
        }
    }
    Ok(())
}

fn encode(names: &BTreeMap<u8, String>) -> Result<Vec<u8>, RecordsError> {
    let too_long = |_| unreadable("a name is too long");
    let mut group = vec![u8::try_from(names.len()).map_err(|_| unreadable("a group has too many names"))?];
    let (mut texts, mut folded_texts) = (Vec::new(), Vec::new());
    for (low, name) in names {
        group.push(*low);
        group.extend(u16::try_from(name.len()).map_err(too_long)?.to_le_bytes());
        texts.extend(name.as_bytes());
        texts.push(END);
        let folded = fold_case(name);
        if folded == *name {
            group.extend([0; 2]);
        } else {
            group.extend(u16::try_from(folded.len()).map_err(too_long)?.to_le_bytes());
            folded_texts.extend(folded.into_bytes());
            folded_texts.push(END);
        }
    }
    group.extend(texts);
    group.extend(folded_texts);
    Ok(group)
}

fn decode(group: &[u8]) -> Result<BTreeMap<u8, String>, RecordsError> {
    let (rows, mut texts) = open(group)?;
    let mut names = BTreeMap::new();
    for row in rows {
        let Row { low, length, .. } = Row::read(*row);
        let (text, rest) = texts.split_at_checked(length + 1).ok_or_else(|| unreadable("a group is too short"))?;
        let name = text.strip_suffix(&[END]).and_then(|name| std::str::from_utf8(name).ok());
        names.insert(low, name.ok_or_else(|| unreadable("a name isn't UTF-8"))?.to_owned());
        texts = rest;
    }
    Ok(names)
}

/// The rows and the texts.
fn open(group: &[u8]) -> Result<(&[[u8; ROW_BYTES]], &[u8]), RecordsError> {
    let (count, rest) = group.split_first().ok_or_else(|| unreadable("a group is empty"))?;
    let (rows, texts) = rest
        .split_at_checked(usize::from(*count) * ROW_BYTES)
        .ok_or_else(|| unreadable("a group is shorter than its rows"))?;
    Ok((rows.as_chunks().0, texts))
}

struct Row {
    low: u8,
    length: usize,
    /// 0 if the folded name is the same.
    folded_length: usize,
}

impl Row {
    fn read([low, length @ .., folded_low, folded_high]: [u8; ROW_BYTES]) -> Self {
        Self {
            low,
            length: u16::from_le_bytes(length).into(),
            folded_length: u16::from_le_bytes([folded_low, folded_high]).into(),
        }
    }
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "names", reason: reason.to_owned() }
}

/// A search for a part of the names.
#[derive(Debug)]
pub(super) struct Search {
    finder: Finder<'static>,
    ignores_case: bool,
}

impl Search {
    pub(super) fn new(part: &str, ignores_case: bool) -> Self {
        let part = if ignores_case { fold_case(part) } else { part.to_owned() };
        Self { finder: Finder::new(part.as_bytes()).into_owned(), ignores_case }
    }

    /// Tells which pins of a group have the part in their names.
    pub(super) fn run(&self, group: &[u8], mut hit: impl FnMut(u8)) -> Result<(), RecordsError> {
        let (rows, texts) = open(group)?;
        let rows = || rows.iter().map(|row| Row::read(*row));
        if !self.ignores_case {
            self.run_over(texts, rows().map(|row| (row.low, row.length)), hit);
            return Ok(());
        }
        let has_others = rows().any(|row| row.folded_length > 0);
        if !has_others {
            self.run_over(texts, rows().map(|row| (row.low, row.length)), hit);
            return Ok(());
        }
        let length: usize = rows().map(|row| row.length + 1).sum();
        let (texts, folded_texts) =
            texts.split_at_checked(length).ok_or_else(|| unreadable("a group is shorter than its names"))?;
        // Of a name that has a folded form only that counts.
        let others: u64 = rows().filter(|row| row.folded_length > 0).fold(0, |set, row| set | 1 << (row.low & 0x3f));
        self.run_over(texts, rows().map(|row| (row.low, row.length)), |low| {
            if others & 1 << (low & 0x3f) == 0 {
                hit(low);
            }
        });
        let folded = rows().filter(|row| row.folded_length > 0).map(|row| (row.low, row.folded_length));
        self.run_over(folded_texts, folded, hit);
        Ok(())
    }

    /// One search over all texts: a row for each, and each hit leads to the end of its text.
    fn run_over(&self, texts: &[u8], mut rows: impl Iterator<Item = (u8, usize)>, mut hit: impl FnMut(u8)) {
        let mut end = 0;
        while let Some(found) = texts.get(end..).and_then(|rest| self.finder.find(rest)) {
            let at = end + found;
            loop {
                let Some((low, length)) = rows.next() else { return };
                end += length + 1;
                if at < end {
                    hit(low);
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(names: &[(u8, &str)]) -> Vec<u8> {
        encode(&names.iter().map(|(low, name)| (*low, (*name).to_owned())).collect()).unwrap()
    }

    fn hits(group: &[u8], part: &str, ignores_case: bool) -> Vec<u8> {
        let mut hits = Vec::new();
        Search::new(part, ignores_case).run(group, |low| hits.push(low)).unwrap();
        hits.sort_unstable();
        hits
    }

    #[test]
    fn a_part_is_found_in_the_names_that_have_it() {
        let names = [(0, "abc"), (3, "bcd"), (9, "Straße"), (10, "STRASSE"), (11, "οδος"), (63, "abab")];
        let group = group(&names);
        assert_eq!(decode(&group).unwrap().len(), names.len());
        for (part, exact, folded) in [
            ("bc", &[0, 3][..], &[0, 3][..]),
            ("BC", &[], &[0, 3]),
            ("cb", &[], &[]),
            ("ab", &[0, 63], &[0, 63]),
            ("ß", &[9], &[9, 10]),
            ("SS", &[10], &[9, 10]),
            ("ss", &[], &[9, 10]),
            ("ΔΟΣ", &[], &[11]),
            ("δος", &[11], &[11]),
            ("s", &[], &[9, 10]),
            ("S", &[9, 10], &[9, 10]),
            ("abcbcd", &[], &[]),
            ("abab", &[63], &[63]),
        ] {
            assert_eq!(hits(&group, part, false), exact, "{part}");
            assert_eq!(hits(&group, part, true), folded, "{part}, whatever its case");
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let longest: String = std::iter::repeat_n('\u{1fb7}', crate::model::limits::NAME_CHARS_MAX).collect();
        let names: Vec<(u8, &str)> = (0..64).map(|low| (low, longest.as_str())).collect();
        let group = group(&names);
        assert_eq!(decode(&group).unwrap().len(), 64);
        assert_eq!(hits(&group, "\u{1fb7}", true).len(), 64);
    }

    #[test]
    fn a_broken_group_is_an_error() {
        let whole = group(&[(1, "abc"), (2, "ABC")]);
        for length in 0..whole.len() - 4 {
            assert!(decode(&whole[..length]).is_err(), "{length}");
        }
        assert!(Search::new("a", true).run(&whole[..8], |_| ()).is_err());
    }
}
