//! Which pins a list shows: the filters of the Pinning Services API as values, and whether a pin matches them. Pure;
//! how they are written in a URL is `http`'s matter.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::limits::PAGE_PINS_DEFAULT;
use crate::model::{ContentKey, PinRecord};

/// How far a pin has come, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Waits for its turn or for its next try.
    Queued,
    /// Is being fetched.
    Pinning,
    /// Every block is durable.
    Pinned,
    /// Waiting doesn't help.
    Failed,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Pinning, Self::Pinned, Self::Failed];

    /// The status as clients write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Pinning => "pinning",
            Self::Pinned => "pinned",
            Self::Failed => "failed",
        }
    }

    /// The status that clients write so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// How a name is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameMatch {
    /// The same characters.
    #[default]
    Exact,
    /// The same characters but for their case.
    IgnoreCase,
    /// Part of the name.
    Partial,
    /// Part of the name but for its case.
    PartialIgnoreCase,
}

impl NameMatch {
    /// The strategy that clients write so.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "exact" => Some(Self::Exact),
            "iexact" => Some(Self::IgnoreCase),
            "partial" => Some(Self::Partial),
            "ipartial" => Some(Self::PartialIgnoreCase),
            _ => None,
        }
    }
}

/// The filters of a list; all of them must match.
#[derive(Debug, Clone)]
pub struct Query {
    /// Any of these contents; all if empty.
    pub contents: BTreeSet<ContentKey>,
    /// The name to compare with.
    pub name: Option<String>,
    /// How to compare it.
    pub name_match: NameMatch,
    /// Any of these; if empty, only `pinned`, but all when there is a name.
    pub statuses: BTreeSet<Status>,
    /// Made strictly before this, in milliseconds since the Unix epoch.
    pub before_ms: Option<i64>,
    /// Made strictly after this, in milliseconds since the Unix epoch.
    pub after_ms: Option<i64>,
    /// Pins in the answer, 1 to [`crate::model::limits::PAGE_PINS_MAX`].
    pub limit: usize,
    /// Pairs that `meta` must have.
    pub meta: BTreeMap<String, String>,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            contents: BTreeSet::new(),
            name: None,
            name_match: NameMatch::default(),
            statuses: BTreeSet::new(),
            before_ms: None,
            after_ms: None,
            limit: PAGE_PINS_DEFAULT,
            meta: BTreeMap::new(),
        }
    }
}

impl Query {
    /// The same query, prepared to be compared with many pins.
    pub fn into_filter(self) -> Filter {
        let folded_name = self.name.as_deref().map(fold_case);
        Filter { query: self, folded_name }
    }
}

/// A [`Query`] that is prepared to be compared with many pins.
#[derive(Debug)]
pub struct Filter {
    query: Query,
    folded_name: Option<String>,
}

impl Filter {
    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether a status is asked for.
    pub fn matches_status(&self, status: Status) -> bool {
        if self.query.statuses.is_empty() {
            return status == Status::Pinned || self.query.name.is_some();
        }
        self.query.statuses.contains(&status)
    }

    /// Whether everything matches but status and times.
    pub fn matches_record(&self, record: &PinRecord) -> bool {
        (self.query.contents.is_empty() || self.query.contents.contains(&ContentKey::of(&record.root)))
            && self.matches_name(record.name.as_deref())
            && self.query.meta.iter().all(|(key, value)| record.meta.get(key) == Some(value))
    }

    fn matches_name(&self, name: Option<&str>) -> bool {
        let (Some(wanted), Some(folded)) = (&self.query.name, &self.folded_name) else { return true };
        let Some(name) = name else { return false };
        match self.query.name_match {
            NameMatch::Exact => name == wanted,
            NameMatch::IgnoreCase => fold_case(name) == *folded,
            NameMatch::Partial => name.contains(wanted.as_str()),
            NameMatch::PartialIgnoreCase => fold_case(name).contains(folded.as_str()),
        }
    }
}

/// Makes texts equal that differ only in case. Going through upper case joins letters with several lower ones (σ and
/// ς, ß and ss) as Unicode's full case folding does; character by character, since the rules of a whole text would
/// fold a final sigma in a part differently from the one in the whole.
fn fold_case(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(name_match: NameMatch, wanted: &str, name: &str) -> bool {
        let query = Query { name: Some(wanted.into()), name_match, ..Query::default() };
        query.into_filter().matches_name(Some(name))
    }

    #[test]
    fn names_are_compared_in_four_ways() {
        assert!(matches(NameMatch::Exact, "Name", "Name"));
        assert!(!matches(NameMatch::Exact, "Name", "name"));
        assert!(matches(NameMatch::IgnoreCase, "NAME", "name"));
        assert!(!matches(NameMatch::IgnoreCase, "NAM", "name"));
        assert!(matches(NameMatch::Partial, "am", "name"));
        assert!(!matches(NameMatch::Partial, "AM", "name"));
        assert!(matches(NameMatch::PartialIgnoreCase, "AM", "name"));
        assert!(!matches(NameMatch::PartialIgnoreCase, "an", "name"));
    }

    #[test]
    fn case_is_that_of_unicode() {
        assert!(matches(NameMatch::IgnoreCase, "STRASSE ΟΔΟΣ É", "straße οδος é"));
        assert!(matches(NameMatch::PartialIgnoreCase, "ΔΟΣ", "οδος"));
        assert!(matches(NameMatch::PartialIgnoreCase, "οδος", "ΟΔΟΣΟΔΟΣ"));
    }

    #[test]
    fn without_statuses_only_pinned_ones_unless_there_is_a_name() {
        let unnamed = Query::default().into_filter();
        let named = Query { name: Some("x".into()), ..Query::default() }.into_filter();
        let failed = Query { statuses: [Status::Failed].into(), ..Query::default() }.into_filter();
        for status in Status::ALL {
            assert_eq!(unnamed.matches_status(status), status == Status::Pinned);
            assert!(named.matches_status(status));
            assert_eq!(failed.matches_status(status), status == Status::Failed);
        }
    }
}
