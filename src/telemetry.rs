//! Logs: where they go and how they look. What is worth a line is for each module to say.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Section `[log]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// A `tracing` filter, such as `info` or `pinnace=debug,warn`.
    pub filter: String,
    /// How lines look.
    pub format: Format,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is no filter.
    #[error("log.filter: found {filter:?}, expected a level or levels for modules, such as \"pinnace=debug,warn\"")]
    BadFilter {
        /// The value.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("logging is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether [`install`] will take this filter; the error says why not.
pub fn check_filter(filter: &str) -> Result<(), TelemetryError> {
    parse_filter(filter).map(drop)
}

/// Sends the logs of the whole process to standard error, once.
pub fn install(options: &Options) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(parse_filter(&options.filter)?)
        // It would tell of a line that can't be written with `eprintln!`, which panics: a full disk or a log reader
        // that is gone must not end the service.
        .log_internal_errors(false);
    match options.format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(TelemetryError::Twice)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(filter).map_err(|source| TelemetryError::BadFilter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for filter in ["info", "warn,pinnace=debug", "pinnace::net=trace", "off", ""] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["pinnace=loud", "a=b=c", "[", "info,net=9x"] {
            let error = check_filter(filter).unwrap_err();
            assert!(error.to_string().contains("log.filter"), "{error}");
            assert!(error.to_string().contains(filter), "{error}");
        }
    }
}
