//! What commands can do with the records of a data directory while no process has it: the same as a running one would, but for
//! what needs its node.

use std::path::Path;
use std::sync::Arc;

use reqwest::{Method, Url};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::CliError;
use super::client::{ControlError, append, understand};
use crate::auth::Accounts;
use crate::config::Config;
use crate::http::admin::{AdminState, Offline};
use crate::net::profile::check_origin_of_stopped;
use crate::pins::board::Board;
use crate::pins::{NetworkView, OriginUse, PinService};
use crate::store::{StoppedRecords, Stores};

/// The records of a service that doesn't run, for as long as a command needs them.
#[derive(Debug)]
pub(super) struct Stopped {
    answers: Offline,
    records: StoppedRecords,
}

impl Stopped {
    pub(super) fn open(runtime: &Runtime, directory: &Path, config: &Config) -> Result<Self, CliError> {
        let records = Stores::open_records_stopped(directory, &config.store)?;
        let accounts = runtime.block_on(Accounts::open(Arc::clone(&records.records), &config.auth))?;
        let pins = PinService::new(Arc::clone(&records.records), Board::new().0, Arc::new(NoNetwork));
        Ok(Self { answers: Offline::new(AdminState { accounts: Arc::new(accounts), pins }), records })
    }

    /// Answers as a running process would.
    pub(super) fn ask(
        &self,
        runtime: &Runtime,
        method: &Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, ControlError> {
        let mut url = Url::parse(&format!("http://pinnace{path}")).map_err(|_| ControlError::BadPath)?;
        append(&mut url, query);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let answer = self.answers.call(method.clone(), &target, body.unwrap_or_default());
        let (status, body) = runtime.block_on(answer).ok_or(ControlError::BadPath)?;
        understand(status, &body)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.records.records.close();
    }
}

/// No node runs; the next start looks at the origins again.
#[derive(Debug)]
pub(super) struct NoNetwork;

impl NetworkView for NoNetwork {
    fn delegates(&self) -> Vec<String> {
        Vec::new()
    }

    fn check_origin(&self, multiaddr: &str) -> OriginUse {
        check_origin_of_stopped(multiaddr).map_or_else(OriginUse::Nothing, |()| OriginUse::Dial)
    }
}
