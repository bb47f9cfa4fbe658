//! `pinnace pin`: the pins of all accounts, for the operator of the running process.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

use super::client::{ControlError, ProcessArguments};
use super::output::{age, clean, print, print_json, table};
use super::{CliError, watch};
use crate::http::admin::pins::{NewPin, Pin, PinList};
use crate::model::PinId;
use crate::model::limits::PAGE_PINS_MAX;
use crate::model::query::Status;

/// The key of `info` that has a sentence.
pub(super) const DETAILS: &str = "status_details";

/// `pinnace pin …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a pin for an account, whatever its quota; it is fetched as soon as pinnace runs
    Add(Add),
    /// List the pins of all accounts: unfinished ones first, then failed ones, then the rest, the newest first of each
    List(List),
    /// Show everything about a pin
    Show(Show),
    /// Try a failed pin again, for as long as a new one
    Retry(One),
    /// Remove a pin, whoever owns it
    Remove(One),
}

/// Flags of `pinnace pin add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The CID
    cid: String,
    /// E-mail address of the account [default: the account that was made first]
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// A name for the pin
    #[arg(long)]
    name: Option<String>,
    /// Multiaddr of a peer that has the content; may be given several times
    #[arg(long = "origin", value_name = "MULTIADDR")]
    origins: Vec<String>,
    /// A key-value pair; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// Print the pin as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Flags of `pinnace pin list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only pins with this status: queued, pinning, pinned or failed; several with commas between
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<Status>,
    /// Pins that are shown at most
    #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = limit)]
    limit: usize,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace pin show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The id of the pin, which clients see as requestid
    id: PinId,
    /// Show how it goes until it is pinned or has failed; the exit status is 0 when it is pinned
    #[arg(long)]
    watch: bool,
    /// Print the answer as JSON; with --watch a line for each change
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of the commands that change a pin.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The id of the pin, which clients see as requestid
    id: PinId,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

fn status(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| "must be queued, pinning, pinned or failed".to_owned())
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_PINS_MAX).contains(limit));
    limit.ok_or_else(|| format!("must be a number from 1 to {PAGE_PINS_MAX}"))
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::List(list) => run_list(list),
        Command::Add(add) => {
            let new = NewPin {
                account: add.user.clone(),
                cid: add.cid.clone(),
                name: add.name.clone(),
                origins: add.origins.clone(),
                meta: add.meta.iter().cloned().collect(),
            };
            let answer = add.process.client()?.send(&Method::POST, "/v1/pins", &new)?;
            if add.json {
                return print_json(&answer);
            }
            print(&show_text(&pin(answer)?))
        }
        Command::Show(Show { id, watch: true, json, process }) => watch::run(&process.client()?, *id, *json),
        Command::Show(Show { id, json, process, .. }) => {
            let answer = process.client()?.look_up(&format!("/v1/pins/{id}"), &[])?;
            if *json {
                return print_json(&answer);
            }
            print(&show_text(&pin(answer)?))
        }
        Command::Retry(One { id, json, process }) => {
            let answer = process.client()?.order(&Method::POST, &format!("/v1/pins/{id}/retry"))?;
            if *json {
                return print_json(&answer);
            }
            let pin = pin(answer)?;
            print(&format!("pin {} is tried again; it is {} now\n", clean(&pin.id), clean(&pin.status)))
        }
        Command::Remove(One { id, json, process }) => {
            process.client()?.order(&Method::DELETE, &format!("/v1/pins/{id}"))?;
            if *json {
                return print_json(&serde_json::json!({ "id": id.to_string(), "status": "removed" }));
            }
            print(&format!("pin {id} is removed\n"))
        }
    }
}

pub(super) fn pin(answer: Value) -> Result<Pin, ControlError> {
    serde_json::from_value(answer).map_err(ControlError::Unexpected)
}

fn run_list(list: &List) -> Result<(), CliError> {
    let mut query = vec![("limit", list.limit.to_string())];
    if !list.status.is_empty() {
        let statuses: Vec<&str> = list.status.iter().map(|status| status.as_str()).collect();
        query.push(("status", statuses.join(",")));
    }
    let answer = list.process.client()?.look_up("/v1/pins", &query)?;
    if list.json {
        return print_json(&answer);
    }
    let page: PinList = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    print(&list_text(&page, Timestamp::now()))
}

/// One line for each pin, and below those that aren't whole how they are going.
fn list_text(page: &PinList, now: Timestamp) -> String {
    if page.pins.is_empty() {
        return "there are no such pins\n".to_owned();
    }
    let mut rows = vec![["ID", "STATUS", "AGE", "ACCOUNT", "CID", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(page.pins.iter().map(|pin| {
        vec![
            clean(&pin.id),
            clean(&pin.status),
            age(&pin.created, now),
            clean(pin.account.as_deref().unwrap_or("-")),
            clean(&pin.cid),
            clean(pin.name.as_deref().unwrap_or_default()),
        ]
    }));
    let mut lines = table(&rows).into_iter();
    let mut text = lines.next().unwrap_or_default();
    for (line, pin) in lines.zip(&page.pins) {
        text = format!("{text}\n{line}");
        if pin.status != Status::Pinned.as_str()
            && let Some(details) = pin.info.get(DETAILS)
        {
            text = format!("{text}\n    {}", clean(details));
        }
    }
    text.push('\n');
    if page.more {
        text = format!(
            "{text}\nThere are more than these {}; --limit shows up to {PAGE_PINS_MAX}, --status chooses among them.\n",
            page.pins.len()
        );
    }
    text
}

fn show_text(pin: &Pin) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: &str| rows.push(vec![clean(label), clean(value)]);
    row("id", &pin.id);
    row("status", &pin.status);
    row("details", pin.info.get(DETAILS).map_or("-", String::as_str));
    row("account", pin.account.as_deref().unwrap_or("-"));
    row("cid", &pin.cid);
    row("name", pin.name.as_deref().unwrap_or("-"));
    row("created", &pin.created);
    for (index, origin) in pin.origins.iter().enumerate() {
        row(if index == 0 { "origins" } else { "" }, origin);
    }
    for (index, tried) in pin.tried.iter().enumerate() {
        row(if index == 0 { "tried" } else { "" }, tried);
    }
    for (key, value) in pin.info.iter().filter(|(key, _)| *key != DETAILS) {
        row(key, value);
    }
    for (key, value) in &pin.meta {
        row(&format!("meta {key}"), value);
    }
    let mut text = table(&rows).join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn pin(status: &str, name: Option<&str>, details: &str) -> Pin {
        Pin {
            id: "0190".to_owned(),
            status: status.to_owned(),
            created: "2026-01-31T11:00:00.000Z".to_owned(),
            account: Some("a@example.org".to_owned()),
            cid: "bafkqaaa".to_owned(),
            name: name.map(str::to_owned),
            origins: Vec::new(),
            meta: BTreeMap::new(),
            info: [(DETAILS.to_owned(), details.to_owned())].into(),
            tried: Vec::new(),
        }
    }

    fn now() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_list_has_a_line_for_each_pin_and_a_sentence_for_those_that_are_not_whole() {
        let pins = vec![pin("pinning", Some("\x1b[1m"), "fetched 1 of 2 known blocks"), pin("pinned", None, "whole")];
        let expected = "\
ID    STATUS   AGE  ACCOUNT        CID       NAME
0190  pinning  1 h  a@example.org  bafkqaaa  \u{fffd}[1m
    fetched 1 of 2 known blocks
0190  pinned   1 h  a@example.org  bafkqaaa
";
        let page = PinList { pins, more: false };
        assert_eq!(list_text(&page, now()), expected);
        assert!(list_text(&PinList { more: true, ..page }, now()).contains("more than these 2; --limit"));
        assert_eq!(list_text(&PinList { pins: Vec::new(), more: false }, now()), "there are no such pins\n");
    }

    #[test]
    fn a_pin_is_shown_with_all_that_is_known() {
        let mut pin = pin("failed", None, "nobody has it");
        pin.account = None;
        pin.origins = vec!["/ip4/10.0.0.1/tcp/1".to_owned(), "/ip4/10.0.0.2/tcp/1".to_owned()];
        pin.meta.insert("app".to_owned(), "x".to_owned());
        pin.info.insert("failure".to_owned(), "no_provider".to_owned());
        pin.tried = vec!["12D3KooWA: connection refused".to_owned(), "12D3KooWB: connected".to_owned()];
        let expected = "\
id        0190
status    failed
details   nobody has it
account   -
cid       bafkqaaa
name      -
created   2026-01-31T11:00:00.000Z
origins   /ip4/10.0.0.1/tcp/1
          /ip4/10.0.0.2/tcp/1
tried     12D3KooWA: connection refused
          12D3KooWB: connected
failure   no_provider
meta app  x
";
        assert_eq!(show_text(&pin), expected);
    }
}
