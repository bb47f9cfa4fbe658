//! The front of the index: the terms of an account's newest pins, a row for each pin in the order of the pins.
//!
//! A new pin's terms belong to postings all over the index, so a commit would rewrite a page for nearly each of them. In the
//! front they lie together. Each time the ordinals reach a multiple of [`PINS_MAX`], the account's rows are written into the
//! postings, where many of them share a page. A list looks at all rows of its account, which is quick for so few.
//!
//! Only what never changes is in a row: the state of a pin is in the postings from the beginning.

use super::RecordsError;
use super::index::Term;

/// Pins of an account whose terms are in the front at most.
pub(super) const PINS_MAX: u64 = 512;

/// Terms of a pin that waits in the front; one with more has so much to write that it gains nothing, and others would
/// wait for it when the front is full.
pub(super) const TERMS_MAX: usize = 16;

/// Whether the front of the account is full with this pin.
pub(super) fn is_last(ordinal: u64) -> bool {
    ordinal % PINS_MAX == PINS_MAX - 1
}

/// The row of a pin: each term without its account, after its length.
pub(super) fn encode(terms: &[Term]) -> Result<Vec<u8>, RecordsError> {
    let mut row = Vec::with_capacity(64);
    for term in terms {
        let term = term.within_account();
        row.push(u8::try_from(term.len()).map_err(|_| unreadable("a term is too long"))?);
        row.extend_from_slice(term);
    }
    Ok(row)
}

/// The terms in a row, without their account.
pub(super) fn terms(mut row: &[u8]) -> impl Iterator<Item = Result<&[u8], RecordsError>> {
    std::iter::from_fn(move || {
        let (length, rest) = row.split_first()?;
        match rest.split_at_checked(usize::from(*length)) {
            Some((term, rest)) => {
                row = rest;
                Some(Ok(term))
            }
            None => {
                row = &[];
                Some(Err(unreadable("a row ends within a term")))
            }
        }
    })
}

fn unreadable(reason: &str) -> RecordsError {
    RecordsError::Codec { table: "postings_front", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserId;

    #[test]
    fn a_row_has_the_terms_of_its_pin() {
        let all = [Term::name(UserId(1), "a"), Term::name(UserId(1), "A"), Term::meta(UserId(1), "k", "v")];
        let row = encode(&all).unwrap();
        let read: Vec<&[u8]> = terms(&row).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, all.iter().map(Term::within_account).collect::<Vec<_>>());
        assert_eq!(terms(&[]).count(), 0);
        let broken: Vec<_> = terms(&row[..row.len() - 1]).collect();
        assert_eq!(broken.len(), 3);
        assert!(broken[2].is_err());
    }
}
