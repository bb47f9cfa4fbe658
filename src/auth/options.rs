//! What an operator can set about accounts: section `[auth]` of the configuration.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

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
            .finish()
    }
}
