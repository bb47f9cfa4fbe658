//! The `Accept` header, as far as it concerns the two forms in which something is served.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// A block as it is.
pub(super) const RAW: &str = "application/vnd.ipld.raw";
/// A CAR file.
pub(super) const CAR: &str = "application/vnd.ipld.car";

/// One of the forms that a client takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whether it is a CAR file, else a block.
    pub(super) is_car: bool,
    /// The parameters `version`, `order` and `dups` of a CAR file.
    pub(super) car: CarParameters,
}

/// What says how a CAR file is made, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CarParameters {
    pub(super) version: Option<String>,
    pub(super) order: Option<String>,
    pub(super) repeats: Option<String>,
}

impl CarParameters {
    /// These, with what is missing from others.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            version: self.version.or(other.version),
            order: self.order.or(other.order),
            repeats: self.repeats.or(other.repeats),
        }
    }
}

/// What the header takes of what is served here, the most wanted first; `None` without the header.
pub(super) fn read(headers: &HeaderMap) -> Option<Vec<Taken>> {
    let mut taken = Vec::new();
    let mut is_there = false;
    for value in headers.get_all(ACCEPT) {
        is_there = true;
        taken.extend(value.to_str().unwrap_or_default().split(',').filter_map(range));
    }
    // The order of those that are wanted alike stays.
    taken.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    is_there.then(|| taken.into_iter().map(|(_, taken)| taken).collect())
}

/// A media range with its weight in thousandths, if it is of a form that is served.
fn range(text: &str) -> Option<(u16, Taken)> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let is_car = kind.eq_ignore_ascii_case(CAR);
    if !is_car && !kind.eq_ignore_ascii_case(RAW) {
        return None;
    }
    let mut weight = 1000;
    let mut car = CarParameters::default();
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"');
        let set = |field: &mut Option<String>| *field = Some(value.to_owned()).filter(|value| !value.is_empty());
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = thousandths(value),
            "version" => set(&mut car.version),
            "order" => set(&mut car.order),
            "dups" => set(&mut car.repeats),
            _ => {}
        }
    }
    (weight > 0).then_some((weight, Taken { is_car, car }))
}

/// A weight from 0 to 1 with at most three digits behind the point (RFC 9110, section 12.4.2). What is none counts as 1.
fn thousandths(text: &str) -> u16 {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    let is_weight =
        matches!(whole, "0" | "1") && digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_weight {
        return 1000;
    }
    let fraction = format!("{digits:0<3}").parse().unwrap_or(0);
    if whole == "1" { 1000 } else { fraction }
}
