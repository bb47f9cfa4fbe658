//! Times as text.

use jiff::Timestamp;

/// A time as RFC 3339 in UTC with exactly three decimals, which is what JavaScript's dates hold: a client that pages
/// by `created` must get back what it sends.
pub fn rfc3339(milliseconds: i64) -> String {
    format!("{:.3}", Timestamp::from_millisecond(milliseconds).unwrap_or_default())
}
