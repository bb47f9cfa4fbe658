//! The query string of `GET /api/psa/pins`. Whatever can't be understood is refused, never ignored: `ipfs pin remote
//! rm` deletes what a list shows.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use crate::model::limits::{FILTER_CIDS_MAX, NAME_CHARS_MAX, PAGE_PINS_MAX};
use crate::model::query::{NameMatch, Query, Status};
use crate::model::{ContentKey, cids};

/// Parameters that have one value. Of two that differ, neither can be the right one.
const SINGLE: [&str; 5] = ["name", "match", "before", "after", "limit"];

/// The filters that a URL asks for.
pub(super) fn parse(uri: &Uri) -> Result<Query, ApiError> {
    let unreadable = || ApiError::bad_request("the query string can't be read: percent-encode its values, as UTF-8");
    // The reader below would put something else in the place of bytes that are none.
    if percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().is_err() {
        return Err(unreadable());
    }
    let UrlQuery(pairs) = UrlQuery::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| unreadable())?;
    let mut query = Query::default();
    let mut cids = 0;
    let mut seen = BTreeSet::new();
    for (key, value) in pairs {
        if value.is_empty() {
            return Err(bad(&key, "is empty: give it a value or leave it out"));
        }
        if let Some(single) = SINGLE.into_iter().find(|single| *single == key)
            && !seen.insert(single)
        {
            return Err(bad(single, "is given more than once"));
        }
        match key.as_str() {
            "cid" => {
                for text in value.split(',') {
                    cids += 1;
                    if cids > FILTER_CIDS_MAX {
                        return Err(bad(
                            "cid",
                            &format!("has more than {FILTER_CIDS_MAX} CIDs: send several requests"),
                        ));
                    }
                    query.contents.insert(content_key(text)?);
                }
            }
            "name" if value.chars().count() > NAME_CHARS_MAX => {
                return Err(bad(
                    "name",
                    &format!("is longer than the {NAME_CHARS_MAX} characters that a name can have"),
                ));
            }
            "name" => query.name = Some(value),
            "match" => {
                query.name_match = NameMatch::parse(&value)
                    .ok_or_else(|| bad("match", "must be one of exact, iexact, partial and ipartial"))?;
            }
            "status" => {
                for text in value.split(',') {
                    let status = Status::parse(text).ok_or_else(|| {
                        bad("status", "must be any of queued, pinning, pinned and failed, with commas between")
                    })?;
                    query.statuses.insert(status);
                }
            }
            "before" => query.before_ms = Some(time("before", &value)?),
            "after" => query.after_ms = Some(time("after", &value)?),
            "limit" => {
                query.limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=PAGE_PINS_MAX).contains(limit))
                    .ok_or_else(|| bad("limit", &format!("must be a number from 1 to {PAGE_PINS_MAX}")))?;
            }
            "meta" => {
                let pairs: BTreeMap<String, String> = serde_json::from_str(&value).map_err(|_| {
                    bad(
                        "meta",
                        "must be a JSON object of strings, such as {\"key\":\"value\"}, or be written meta[key]=value",
                    )
                })?;
                for (key, value) in pairs {
                    require_meta(&mut query, key, value)?;
                }
            }
            other => match other.strip_prefix("meta[").and_then(|rest| rest.strip_suffix(']')) {
                Some(key) => require_meta(&mut query, key.to_owned(), value)?,
                None => {
                    return Err(bad(
                        other,
                        "is not known: a list takes cid, name, match, status, before, after, limit and meta",
                    ));
                }
            },
        }
    }
    Ok(query)
}

fn bad(parameter: &str, problem: &str) -> ApiError {
    let parameter: String = parameter.chars().take(80).collect();
    ApiError::bad_request(format!("the parameter \"{parameter}\" {problem}"))
}

/// A CID that can't be pinned here is still one to look for, in vain.
fn content_key(text: &str) -> Result<ContentKey, ApiError> {
    let cid = cids::decode(text).map_err(|error| bad("cid", &format!("can't be accepted: {error}")))?;
    Ok(ContentKey::of(&cid))
}

/// Milliseconds since the Unix epoch; finer digits are cut, as `created` has none. A `+` of a time zone that was
/// not percent-encoded arrives as a space.
fn time(parameter: &str, text: &str) -> Result<i64, ApiError> {
    let time: Result<Timestamp, _> = text.parse().or_else(|_| text.replace(' ', "+").parse());
    time.map(Timestamp::as_millisecond)
        .map_err(|_| bad(parameter, "must be a time as in RFC 3339, such as 2026-01-31T12:00:00.000Z"))
}

fn require_meta(query: &mut Query, key: String, value: String) -> Result<(), ApiError> {
    if let Some(other) = query.meta.get(&key)
        && *other != value
    {
        return Err(bad("meta", "asks for two values of one key, which no pin has"));
    }
    query.meta.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, ApiError> {
        parse(&format!("/api/psa/pins?{text}").parse().unwrap())
    }

    #[test]
    fn reads_every_parameter() {
        let query = query(
            "cid=QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG,bafkqaaa&name=a%20b&match=ipartial&status=queued,failed\
             &status=pinned&before=2023-11-14T22:13:20.9109Z&after=2023-11-14T23:13:20%2B01:00&limit=1000\
             &meta=%7B%22a%22:%22b%22%7D&meta[c]=d&meta%5Be%5D=f",
        )
        .unwrap();
        assert_eq!(query.contents.len(), 2);
        assert_eq!(query.name.as_deref(), Some("a b"));
        assert_eq!(query.name_match, NameMatch::PartialIgnoreCase);
        assert_eq!(query.statuses, [Status::Queued, Status::Failed, Status::Pinned].into());
        assert_eq!(query.before_ms, Some(1_700_000_000_910));
        assert_eq!(query.after_ms, Some(1_700_000_000_000));
        assert_eq!(query.limit, 1000);
        let meta: Vec<_> = query.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(meta, ["a=b", "c=d", "e=f"]);
    }

    #[test]
    fn a_plus_that_was_not_encoded_is_understood() {
        assert_eq!(query("before=2023-11-14T22:13:20+00:00").unwrap().before_ms, Some(1_700_000_000_000));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let eleven = ["bafkqaaa"; 11].join(",");
        for text in [
            "cid=hello",
            "cid=",
            "cid=bafkqaaa,",
            &format!("cid={eleven}"),
            &format!("name={}", "x".repeat(256)),
            "name=",
            "match=fuzzy",
            "status=done",
            "before=yesterday",
            "after=1",
            "limit=0",
            "limit=1001",
            "limit=ten",
            "limit=-1",
            "meta=map%5Ba:b%5D",
            "meta=%7B%22a%22:1%7D",
            "meta[a]=b&meta[a]=c",
            "stat=pinned",
            "name=a&name=b",
            "name=a&name=a",
            "name=a&match=exact&match=partial",
            "before=2023-11-14T22:13:20Z&before=2024-11-14T22:13:20Z",
            "after=2023-11-14T22:13:20Z&after=2024-11-14T22:13:20Z",
            "limit=5&limit=7",
        ] {
            assert!(query(text).is_err(), "{text}");
        }
    }
}
