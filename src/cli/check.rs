//! `pinnace check`: whether others can fetch a CID from the running process.

use cid::Cid;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{clean, print, print_json, table};
use crate::http::check::Check;
use crate::model::cids;

/// Flags of `pinnace check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The CID
    #[arg(value_parser = cids::decode)]
    cid: Cid,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Runs the command. That nobody could fetch the CID is an error, for whoever watches the exit status.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let cid = arguments.cid.to_string();
    let answer = arguments.process.client()?.get(&format!("/v1/check/{cid}"), &[])?;
    let check: Check = serde_json::from_value(answer.clone()).map_err(ControlError::Unexpected)?;
    if arguments.json {
        print_json(&answer)?;
    } else {
        print(&text(&check))?;
    }
    if check.fetchable { Ok(()) } else { Err(CliError::NotFetchable { cid }) }
}

/// The verdict, a line for each address, and what the check can't show.
fn text(check: &Check) -> String {
    let mut text = format!("{}\n", clean(&check.verdict));
    let rows: Vec<Vec<String>> = check
        .addresses
        .iter()
        .map(|address| {
            let mark = if address.root_verified { "  ok" } else { "  no" };
            let cells = [mark, &address.address, address.scope.as_str(), &address.details];
            cells.map(clean).to_vec()
        })
        .collect();
    for line in table(&rows) {
        text.push_str(&line);
        text.push('\n');
    }
    if !check.addresses.is_empty() {
        text = format!("{text}\nprovider record: {}\nnote: {}\n", clean(&check.provider_record), clean(&check.caveat));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::check::{CheckedAddress, Held, Scope, Source};

    fn address(text: &str, root_verified: bool, details: &str) -> CheckedAddress {
        CheckedAddress {
            address: text.to_owned(),
            scope: Scope::Loopback,
            source: Source::Listening,
            reached: root_verified,
            handshake_ms: None,
            protocol: None,
            root_verified,
            block_ms: None,
            failure: None,
            details: details.to_owned(),
        }
    }

    #[test]
    fn the_verdict_comes_first_and_each_address_has_a_line() {
        let mut check = Check {
            verdict: "reachable over 1 of 2 addresses".to_owned(),
            fetchable: true,
            cid: "bafkqaaa".to_owned(),
            held: Held::Whole,
            pin: None,
            provider_record: "none".to_owned(),
            caveat: "try from elsewhere".to_owned(),
            addresses: vec![
                address("/ip4/127.0.0.1/tcp/1", true, "connected"),
                address("/ip4/127.0.0.1/udp/1/quic-v1", false, "no\u{1b}answer"),
            ],
        };
        let expected = "\
reachable over 1 of 2 addresses
  ok  /ip4/127.0.0.1/tcp/1          loopback  connected
  no  /ip4/127.0.0.1/udp/1/quic-v1  loopback  no\u{fffd}answer

provider record: none
note: try from elsewhere
";
        assert_eq!(text(&check), expected);
        check.addresses.clear();
        assert_eq!(text(&check), "reachable over 1 of 2 addresses\n");
    }
}
