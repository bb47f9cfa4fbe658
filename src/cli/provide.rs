//! `pinnace provide`: how telling the DHT what is here goes.

use bytesize::ByteSize;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{duration, print, print_json, table};
use crate::http::control::Status;
use crate::provide::{ProvideStatus, Strategy};

/// Parts of the keyspace.
const CELLS: usize = 4096;

/// What there is to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show which blocks the DHT is told of, how far that is, and what it costs
    Status(Arguments),
}

/// Flags of `pinnace provide status`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Result<(), CliError> {
    let Command::Status(arguments) = command;
    let answer = arguments.process.client()?.get("/v1/status", &[])?;
    let status: Status = serde_json::from_value(answer.clone()).map_err(ControlError::Unexpected)?;
    let provide = status.provide.ok_or_else(|| {
        ControlError::Refused("the running pinnace is too old to tell; restart it as this version".to_owned())
    })?;
    if arguments.json {
        return print_json(answer.get("provide").unwrap_or_default());
    }
    print(&text(&provide))
}

/// What is the matter, in a sentence.
pub(super) fn summary(provide: &ProvideStatus) -> String {
    if provide.strategy == Strategy::Off {
        return "nothing, as provide.strategy is \"off\"".to_owned();
    }
    if !provide.dht {
        return "nothing, as this node takes no part in the DHT (network.dht)".to_owned();
    }
    if !provide.reachable {
        return "nothing, as no address is known under which others reach this node (network.external)".to_owned();
    }
    let count = provide.cids.map_or_else(|| "the CIDs".to_owned(), |cids| format!("about {cids} CIDs"));
    let done = provide.cells_provided * 100 / CELLS;
    let behind = if provide.behind { ", falling behind" } else { "" };
    format!("{count} ({}), {done} % of the keyspace up to date{behind}", provide.strategy.as_str())
}

fn text(provide: &ProvideStatus) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![format!("  {label}"), value]);
    row("providing", summary(provide));
    row("roots that wait", provide.roots_waiting.to_string());
    row("keyspace", format!("{} of {CELLS} parts up to date, {} due", provide.cells_provided, provide.cells_due));
    let oldest =
        provide.oldest_seconds.map_or_else(|| "none yet".to_owned(), |oldest| format!("{} old", duration(oldest)));
    row("oldest part", oldest);
    row("look-ups", provide.lookups.to_string());
    row("servers told", format!("{} times, {} more could not be", provide.streams, provide.failures));
    row("records", format!("{} with {}", provide.records, ByteSize(provide.bytes)));
    let mut text = String::new();
    for line in table(&rows) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str("\nLook-ups, servers and records are counted since the start.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ProvideStatus {
        ProvideStatus {
            strategy: Strategy::All,
            dht: true,
            reachable: true,
            cids: Some(12_345),
            roots_waiting: 1,
            cells_provided: 4000,
            cells_due: 96,
            oldest_seconds: Some(7200),
            behind: false,
            lookups: 5,
            streams: 60,
            failures: 2,
            records: 700,
            bytes: 2048,
        }
    }

    #[test]
    fn says_how_far_it_is() {
        let expected = "  providing        about 12345 CIDs (all), 97 % of the keyspace up to date
  roots that wait  1
  keyspace         4000 of 4096 parts up to date, 96 due
  oldest part      2 h old
  look-ups         5
  servers told     60 times, 2 more could not be
  records          700 with 2.0 KiB

Look-ups, servers and records are counted since the start.
";
        assert_eq!(text(&status()), expected);
    }

    #[test]
    fn says_why_nothing_is_provided() {
        let off = ProvideStatus { strategy: Strategy::Off, ..status() };
        let alone = ProvideStatus { dht: false, ..status() };
        let hidden = ProvideStatus { reachable: false, ..status() };
        for (status, key) in [(off, "provide.strategy"), (alone, "network.dht"), (hidden, "network.external")] {
            assert!(summary(&status).contains(key), "{}", summary(&status));
        }
        let behind = ProvideStatus { behind: true, cids: None, ..status() };
        assert!(summary(&behind).ends_with("falling behind"));
    }
}
