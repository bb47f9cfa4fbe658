//! What a request to the gateway asks for: from its path, its query and its `Accept` header.

use axum::extract::Query;
use axum::http::header::{ACCEPT, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, Uri};
use cid::Cid;

use super::accept::{self, CarParameters, Taken};
use super::answer::Refusal;
use crate::gateway::{AskedBytes, AskedScope};
use crate::model::cids;
use crate::model::limits::{GATEWAY_PATH_PARTS_MAX, GATEWAY_QUERY_BYTES_MAX};

/// What every path of the gateway begins with.
const PREFIX: &str = "/ipfs/";

/// What a client has to send, for sentences.
const ADVICE: &str = "ask for a block with ?format=raw (Accept: application/vnd.ipld.raw) or for a CAR file with ?format=car \
    (Accept: application/vnd.ipld.car), and verify what comes";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One block as it is.
    Raw,
    /// A CAR file.
    Car {
        /// What of the DAG is in it.
        scope: AskedScope,
        /// Whether a block comes as often as it is met.
        repeats: bool,
    },
}

/// A request that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) root: Cid,
    /// The path behind the root.
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) format: Format,
    /// The name under which a browser should save it.
    pub(super) filename: Option<String>,
    /// Where the same answer is to be had without an `Accept` header, where that said something.
    pub(super) location: Option<String>,
}

/// The keys of the query that mean something.
#[derive(Debug, Default)]
struct Keys {
    format: Option<String>,
    scope: Option<String>,
    bytes: Option<String>,
    car: CarParameters,
    filename: Option<String>,
}

impl Asked {
    pub(super) fn read(uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        if headers.get("service-worker").is_some_and(|value| value == "script") {
            return Err(Refusal::bad_request("no service worker can be registered here"));
        }
        let accept_bytes = headers.get_all(ACCEPT).iter().map(HeaderValue::len).sum::<usize>();
        if accept_bytes.max(uri.query().map_or(0, str::len)) > GATEWAY_QUERY_BYTES_MAX {
            return Err(Refusal::bad_request(format!(
                "the query or the \"Accept\" header is longer than {GATEWAY_QUERY_BYTES_MAX} bytes"
            )));
        }
        let (root, parts) = read_path(uri.path())?;
        let keys = read_query(uri)?;
        let accepted = accept::read(headers);
        let (format, location) = format(uri, &keys, accepted)?;
        Ok(Self { root, parts, format, filename: keys.filename, location })
    }
}

/// Whether the client wants only what takes no fetching.
pub(super) fn only_if_cached(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case("only-if-cached"))
}

/// The root and what follows it. Doubled slashes and those at the end mean nothing.
fn read_path(path: &str) -> Result<(Cid, Vec<Vec<u8>>), Refusal> {
    let mut parts = path.strip_prefix(PREFIX).unwrap_or_default().split('/').filter(|part| !part.is_empty());
    let root = parts.next().and_then(unescape).and_then(|root| String::from_utf8(root).ok()).unwrap_or_default();
    let root = cids::decode(&root).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let parts = parts.map(unescape).collect::<Option<Vec<_>>>();
    let parts =
        parts.ok_or_else(|| Refusal::bad_request("the path has a % without two hexadecimal digits behind it"))?;
    if parts.len() > GATEWAY_PATH_PARTS_MAX {
        return Err(Refusal::bad_request(format!("the path has more than {GATEWAY_PATH_PARTS_MAX} parts")));
    }
    Ok((root, parts))
}

/// The bytes that a part of a path stands for.
fn unescape(part: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = rest.get(2..)?;
    }
    Some(bytes)
}

/// The first value of each key; one that is empty says nothing.
fn read_query(uri: &Uri) -> Result<Keys, Refusal> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Refusal::bad_request("the query can't be read"))?;
    let mut keys = Keys::default();
    for (key, value) in pairs {
        let field = match key.as_str() {
            "format" => &mut keys.format,
            "dag-scope" => &mut keys.scope,
            "entity-bytes" => &mut keys.bytes,
            "car-version" => &mut keys.car.version,
            "car-order" => &mut keys.car.order,
            "car-dups" => &mut keys.car.repeats,
            "filename" => &mut keys.filename,
            _ => continue,
        };
        if field.is_none() && !value.is_empty() {
            *field = Some(value);
        }
    }
    Ok(keys)
}

/// The form of the answer, and where it is to be had without the header, where that had a say.
fn format(uri: &Uri, keys: &Keys, accepted: Option<Vec<Taken>>) -> Result<(Format, Option<String>), Refusal> {
    let is_car = match keys.format.as_deref() {
        Some("raw") => Some(false),
        Some("car") => Some(true),
        Some("ipns-record") => {
            return Err(Refusal::bad_request(format!("there are no IPNS records under {PREFIX}; {ADVICE}")));
        }
        Some(_) => return Err(Refusal::not_acceptable(format!("this format is not served here; {ADVICE}"))),
        None if accepted.is_none() => {
            return Err(Refusal::bad_request(format!("the request says no format; {ADVICE}")));
        }
        None => None,
    };
    // What the query says of a CAR file must make sense, whatever the header says.
    if is_car != Some(false) {
        car_repeats(&keys.car).map_err(Refusal::bad_request)?;
    }
    let accepted = accepted.unwrap_or_default();
    let mut reason = None;
    let chosen = accepted.iter().find(|taken| {
        if is_car.is_some_and(|is_car| is_car != taken.is_car) {
            return false;
        }
        let possible = if taken.is_car { car_repeats(&keys.car.clone().or(taken.car.clone())) } else { Ok(false) };
        reason = possible.err().or(reason);
        possible.is_ok()
    });
    if let (None, Some(reason)) = (chosen, reason) {
        return Err(Refusal::not_acceptable(reason));
    }
    let Some(is_car) = is_car.or(chosen.map(|taken| taken.is_car)) else {
        return Err(Refusal::not_acceptable(format!(
            "nothing that the \"Accept\" header takes is served here; {ADVICE}"
        )));
    };
    let car = keys.car.clone().or(chosen.map(|taken| taken.car.clone()).unwrap_or_default());
    let format = if is_car {
        Format::Car { scope: scope(keys)?, repeats: car_repeats(&car).map_err(Refusal::not_acceptable)? }
    } else {
        Format::Raw
    };
    // The header had a say where it chose, where it filled in, and where the query overruled it.
    let chose = keys.format.is_none();
    let filled_in = is_car && car != keys.car;
    let overruled = chosen.is_none_or(|chosen| is_car && chosen.car.clone().or(car.clone()) != car);
    let had_a_say = !accepted.is_empty() && (chose || filled_in || overruled);
    Ok((format, had_a_say.then(|| location(uri, is_car, &car))))
}

/// Whether blocks are to be repeated; an error for what can't be made.
fn car_repeats(car: &CarParameters) -> Result<bool, &'static str> {
    if !matches!(car.version.as_deref(), None | Some("1")) {
        return Err("CAR files are served in version 1 only; ask for version=1 or leave it out");
    }
    if !matches!(car.order.as_deref(), None | Some("dfs" | "unk")) {
        return Err("CAR files are served in the order dfs only; ask for order=dfs or order=unk, or leave it out");
    }
    match car.repeats.as_deref() {
        None | Some("n") => Ok(false),
        Some("y") => Ok(true),
        Some(_) => Err("dups is y or n"),
    }
}

fn scope(keys: &Keys) -> Result<AskedScope, Refusal> {
    let scope = match keys.scope.as_deref() {
        None | Some("all") => AskedScope::All,
        Some("entity") => AskedScope::Entity(None),
        Some("block") => AskedScope::Block,
        Some(_) => return Err(Refusal::bad_request("dag-scope is block, entity or all")),
    };
    match &keys.bytes {
        None => Ok(scope),
        // Bytes are those of an entity, whatever the scope says.
        Some(text) => entity_bytes(text).map(|bytes| AskedScope::Entity(Some(bytes))).ok_or_else(|| {
            Refusal::bad_request(
                "entity-bytes is FROM:TO, with the first and the last byte counted from 0, or from the end as negative \
                 numbers; * as the last one stands for the end of the file",
            )
        }),
    }
}

fn entity_bytes(text: &str) -> Option<AskedBytes> {
    let number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (from, to) = text.split_once(':')?;
    let from = number(from)?;
    let to = if to == "*" { None } else { Some(number(to)?) };
    // Counted from the same side, the last one can't come first, however long the file is.
    let is_empty = to.is_some_and(|to| (from < 0) == (to < 0) && from > to);
    (!is_empty).then_some(AskedBytes { from, to })
}

/// The same path with a query that says all that the header said.
fn location(uri: &Uri, is_car: bool, car: &CarParameters) -> String {
    let ours = ["format", "car-version", "car-order", "car-dups"];
    let mut query = vec![format!("format={}", if is_car { "car" } else { "raw" })];
    if is_car {
        for (key, value) in [("car-version", &car.version), ("car-order", &car.order), ("car-dups", &car.repeats)] {
            query.extend(value.as_ref().map(|value| format!("{key}={value}")));
        }
    }
    let rest = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    query.extend(rest.filter(|pair| !ours.contains(&pair.split('=').next().unwrap_or_default())).map(str::to_owned));
    format!("{}?{}", uri.path(), query.join("&"))
}
