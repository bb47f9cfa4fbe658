//! The configuration: composes the Options of the modules and fills them from the layers.
//!
//! From the weakest to the strongest: `config/default.toml` (embedded), the file, `PINNACE_*` variables, flags. A key
//! that nobody knows or a value that nobody can use stops the start, with a message that says where it stands and what
//! was expected. What each key means to a module is that module's business.

mod check;
mod layers;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::store::datadir::{self, DataDirError};

/// The embedded defaults, with an explanation of every key.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// Everything that an operator can set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data directory; `None` for the platform's, see [`Config::data_directory`].
    #[serde(deserialize_with = "path_or_none")]
    pub data: Option<PathBuf>,
    /// Section `[http]`.
    pub http: crate::http::Options,
    /// Section `[metrics]`.
    pub metrics: crate::http::MetricsOptions,
    /// Section `[network]`.
    pub network: crate::net::Options,
    /// Section `[store]`.
    pub store: crate::store::Options,
    /// Section `[pins]`.
    pub pins: crate::pins::Options,
    /// Section `[fetch]`.
    pub fetch: crate::fetch::Options,
    /// Section `[routing]`.
    pub routing: crate::routing::Options,
    /// Section `[provide]`.
    pub provide: crate::provide::Options,
    /// Section `[denylist]`.
    pub denylist: crate::denylist::Options,
    /// Section `[auth]`.
    pub auth: crate::auth::Options,
    /// Section `[log]`.
    pub log: crate::telemetry::Options,
    /// Every key as it was read, to be shown.
    #[serde(skip)]
    settings: Vec<Setting>,
}

/// A key, its value, and where that comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The key with its section.
    pub key: String,
    /// The value; of a secret, only whether it is set.
    pub value: serde_json::Value,
    /// The defaults, a file, a variable or a flag.
    pub origin: String,
}

/// What the layers above the defaults are read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file given with `--config`. Without one, the variable `PINNACE_CONFIG` may name a file.
    pub file: Option<PathBuf>,
    /// Variables; those that don't start with `PINNACE_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags of the command line.
    pub flags: Flags,
}

impl Sources {
    /// The variables of this process, with the given file and flags.
    pub fn of_process(file: Option<PathBuf>, flags: Flags) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }
}

/// The flags that override keys, as they were written.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--data`, for `data`.
    pub data: Option<PathBuf>,
    /// `--http`, for `http.listen`.
    pub http: Option<String>,
    /// `--listen`, for `network.listen`; none given leaves the key alone.
    pub listen: Vec<String>,
    /// `--external`, for `network.external`; none given leaves the key alone.
    pub external: Vec<String>,
    /// `--lan`, for `network.profile`.
    pub lan: bool,
    /// `--log-format`, for `log.format`.
    pub log_format: Option<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file isn't TOML.
    #[error("file {}, line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Nothing has this key.
    #[error("{origin}: unknown key {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Where it stands: a file, a variable or a flag.
        origin: String,
        /// The key with its section.
        key: String,
        /// The key, or for a variable the name, that was probably meant.
        nearest: Option<String>,
    },
    /// The key's value can't be used.
    #[error("{origin}: {key}: found {found}, expected {expected}")]
    BadValue {
        /// Where it stands: a file, a variable or a flag.
        origin: String,
        /// The key with its section.
        key: String,
        /// The value.
        found: String,
        /// What the key takes.
        expected: String,
    },
    /// The platform's data directory is unknown.
    #[error(transparent)]
    NoDataDirectory(#[from] DataDirError),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}

impl Config {
    /// Reads all layers and checks the result.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let layers = layers::Layers::read(sources)?;
        let mut config: Self = layers.extract()?;
        config.settings = layers.settings();
        match check::problem(&config) {
            None => Ok(config),
            Some(problem) => Err(layers.bad_value(problem.key, &problem.expected)),
        }
    }

    /// Every key as it was read, as JSON: a list of [`Setting`]s without secrets.
    pub fn shown(&self) -> serde_json::Value {
        // Strings, numbers and lists always have a form in JSON.
        serde_json::to_value(&self.settings).unwrap_or_default()
    }

    /// The data directory: the configured one, or `pinnace` in the platform's.
    pub fn data_directory(&self) -> Result<PathBuf, ConfigError> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => Ok(datadir::default_path()?),
        }
    }
}

/// An empty path stands for none: TOML has no null.
fn path_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}
