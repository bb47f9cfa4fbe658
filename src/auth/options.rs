//! What an operator can set about accounts: section `[auth]` of the configuration.

use std::fmt;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::store::records::Quota;

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// The operator.
    Closed,
    /// Whoever reaches the API.
    Open,
}

/// Section `[auth]`; every key is explained in `config/default.toml`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// E-mail of the account that the first start makes; empty generates one.
    pub admin_email: String,
    /// Password of that account; empty generates one.
    pub admin_password: String,
    /// A file whose first line is the e-mail and second the password of that account; empty for none.
    pub admin_file: PathBuf,
    /// Days that an access token from a login is valid.
    pub access_token_days: u32,
    /// Days that a refresh token is valid.
    pub refresh_token_days: u32,
    /// Who may make an account.
    pub registration: Registration,
    /// Bytes that an account may have pinned, unless its own quota says otherwise; zero for no bound.
    pub quota_bytes: ByteSize,
    /// Pins that an account may have, unless its own quota says otherwise; zero for no bound.
    pub quota_pins: u64,
    /// Requests that one token may make in a second; zero for no bound.
    pub requests_per_second: u32,
}

impl Options {
    /// What an account may pin that has no quota of its own.
    pub(super) fn quota(&self) -> Quota {
        let bound = |number| (number > 0).then_some(number);
        Quota { bytes: bound(self.quota_bytes.as_u64()), pins: bound(self.quota_pins) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("admin_email", &self.admin_email)
            .field("admin_password", &"(hidden)")
            .field("admin_file", &self.admin_file)
            .field("access_token_days", &self.access_token_days)
            .field("refresh_token_days", &self.refresh_token_days)
            .field("registration", &self.registration)
            .field("quota_bytes", &self.quota_bytes)
            .field("quota_pins", &self.quota_pins)
            .field("requests_per_second", &self.requests_per_second)
            .finish()
    }
}
