//! Which pins a list shows: the filters of the Pinning Services API as values. How they are written in a URL is `http`'s
//! matter, and how the pins are found that of `store::records`.

use std::collections::{BTreeMap, BTreeSet};

use super::ContentKey;
use super::limits::PAGE_PINS_DEFAULT;

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
    /// Pins in the answer, 1 to [`super::limits::PAGE_PINS_MAX`].
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
    /// Whether a status is asked for.
    pub fn wants(&self, status: Status) -> bool {
        if self.statuses.is_empty() {
            return status == Status::Pinned || self.name.is_some();
        }
        self.statuses.contains(&status)
    }
}

/// Makes texts equal that differ only in case. Going through upper case joins letters with several lower ones (σ and
/// ς, ß and ss) as Unicode's full case folding does; character by character, since the rules of a whole text would
/// fold a final sigma in a part differently from the one in the whole.
///
/// What is stored depends on it: a change needs a new version of the records' tables.
pub fn fold_case(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_that_of_unicode() {
        assert_eq!(fold_case("NAME 7_"), fold_case("name 7_"));
        assert_ne!(fold_case("NAM"), fold_case("name"));
        assert_eq!(fold_case("STRASSE ΟΔΟΣ É"), fold_case("straße οδος é"));
        assert!(fold_case("οδος").contains(&fold_case("ΔΟΣ")));
        assert!(fold_case("ΟΔΟΣΟΔΟΣ").contains(&fold_case("οδος")));
    }

    #[test]
    fn the_short_way_for_ascii_gives_what_the_long_one_gives() {
        let ascii: String = (0..128u8).map(char::from).collect();
        assert_eq!(fold_case(&format!("{ascii}é")), format!("{}é", fold_case(&ascii)));
    }

    #[test]
    fn without_statuses_only_pinned_ones_unless_there_is_a_name() {
        let unnamed = Query::default();
        let named = Query { name: Some("x".into()), ..Query::default() };
        let failed = Query { statuses: [Status::Failed].into(), ..Query::default() };
        for status in Status::ALL {
            assert_eq!(unnamed.wants(status), status == Status::Pinned);
            assert!(named.wants(status));
            assert_eq!(failed.wants(status), status == Status::Failed);
        }
    }
}
