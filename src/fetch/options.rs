//! What an operator can set about fetching: section `[fetch]` of the configuration.

use bytesize::ByteSize;
use serde::Deserialize;

/// Section `[fetch]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Bytes of blocks that all fetches together have asked for and not stored yet.
    pub bytes_in_flight_max: ByteSize,
    /// Whether gateways that a pin names as origins are asked over HTTP.
    pub gateways: bool,
}
