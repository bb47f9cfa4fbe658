//! CAR files: blocks in a row, as `ipfs dag export` writes and `ipfs dag import` reads them.
//!
//! Pure: [`Decoder`] is given the bytes as they come and hands out verified blocks, [`header`] and [`section`] make the
//! bytes of a file. It reads versions 1 and 2 and writes version 1, which everyone reads. (The crate `iroh-car` knows no
//! version 2, bounds sections at its own size, and doesn't say where a file is wrong.)
//!
//! The formats are at <https://ipld.io/specs/transport/car/>.

mod decode;
mod encode;

pub use decode::{CarError, Decoder, Item};
pub use encode::{header, section};

/// Roots that one file may name. Each becomes a pin.
pub const ROOTS_MAX: usize = 1024;

/// The longest header, in bytes: that many roots with the longest CIDs fit.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// The header's fields, in the order of DAG-CBOR (the shorter name first).
#[derive(Debug, serde::Serialize, serde::Deserialize)]
// A field that nobody knows is refused before its value is looked at, so no nesting can be deep.
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roots: Option<Vec<cid::Cid>>,
    version: u64,
}

#[cfg(test)]
mod tests;
