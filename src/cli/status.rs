//! `pinnace status`: how the running process is doing.

use bytesize::ByteSize;
use jiff::Timestamp;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{age, clean, print, print_json, table};
use super::provide;
use crate::http::control::{ReachabilityState, Standing, Status, TestedState};

/// Flags of `pinnace status`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let answer = arguments.process.client()?.get("/v1/status", &[])?;
    if arguments.json {
        return print_json(&answer);
    }
    let status: Status = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    print(&text(&status, Timestamp::now()))
}

fn text(status: &Status, now: Timestamp) -> String {
    let Status { pins, store, addresses, .. } = status;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![format!("  {label}"), clean(&value)]);
    row("data", status.data.clone());
    row("endpoint", status.endpoint.clone());
    row("peer", status.peer_id.clone());
    row("profile", status.profile.clone());
    let label = if addresses.last_resort { "announced (!)" } else { "announced" };
    for (label, addresses) in [(label, &addresses.announced), ("listening", &addresses.listening)] {
        for (index, address) in addresses.iter().enumerate() {
            row(if index == 0 { label } else { "" }, address.clone());
        }
    }
    if let Some(reachability) = &status.reachability {
        row("reached", reached(reachability));
    }
    row("peers", format!("{} ({} connections)", status.peers, status.connections));
    if let Some(peering) = &status.peering {
        row("peering", format!("{} of {} connected", peering.connected, peering.peers));
    }
    if let Some(dht) = &status.dht {
        let part = if dht.server { "a server of it" } else { "only asking" };
        row("DHT", format!("{part}, {} other servers known", dht.servers));
    }
    if let Some(provide) = &status.provide {
        row("providing", provide::summary(provide));
    }
    row(
        "pins",
        format!("{} queued, {} pinning, {} pinned, {} failed", pins.queued, pins.pinning, pins.pinned, pins.failed),
    );
    row("blocks", store.blocks.to_string());
    row(
        "on disk",
        format!(
            "{} of blocks, {} of records",
            ByteSize(store.blocks_bytes_on_disk),
            ByteSize(store.records_bytes_on_disk)
        ),
    );
    let verification = &status.verification;
    let last = verification.finished.as_ref().map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, now)));
    let running = if verification.running { " (running now)" } else { "" };
    row("verified", format!("{last}{running}"));
    if let Some(denylist) = &status.denylist {
        row("denylist", format!("{} rules, read {} ago", denylist.rules, age(&denylist.read, now)));
    }
    let mut text = format!(
        "pinnace {} has been running for {} as process {}.\n\n",
        clean(&status.version),
        age(&status.started, now),
        status.pid
    );
    for line in table(&rows) {
        text.push_str(&line);
        text.push('\n');
    }
    for warning in &status.warnings {
        text.push_str("\nwarning: ");
        text.push_str(&clean(warning));
        text.push('\n');
    }
    text
}

/// Whether others reach the node, in a line; the warnings say more.
fn reached(reachability: &ReachabilityState) -> String {
    let at = |state| reachability.addresses.iter().filter(|each| each.state == state).count();
    let confirmed = at(TestedState::Confirmed);
    match reachability.state {
        Standing::Reachable if confirmed == 0 => "as network.external says; peers haven't confirmed it".to_owned(),
        Standing::Reachable => {
            let plural = if confirmed == 1 { "" } else { "es" };
            format!("directly, at {confirmed} address{plural} that peers have tried")
        }
        Standing::Relayed => "only through relays (!)".to_owned(),
        Standing::Unreachable => "not from outside (!)".to_owned(),
        Standing::Unknown => "not known yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::control::{
        Addresses, DenylistState, DhtState, PeeringState, PinNumbers, RouterState, StoreSizes, Verification,
    };

    #[test]
    fn says_everything_in_aligned_lines() {
        let status = Status {
            version: "1.2.3".to_owned(),
            pid: 7,
            started: "2026-01-31T09:00:00.000Z".to_owned(),
            data: "/data".to_owned(),
            endpoint: "http://127.0.0.1:4080/api/psa/".to_owned(),
            peer_id: "12D3KooWExample".to_owned(),
            profile: "public".to_owned(),
            addresses: Addresses {
                announced: vec!["/ip4/10.0.0.1/tcp/1/p2p/x".to_owned()],
                last_resort: true,
                listening: vec!["/ip4/127.0.0.1/tcp/1".to_owned(), "/ip4/10.0.0.1/tcp/1".to_owned()],
            },
            reachability: Some(ReachabilityState {
                state: Standing::Relayed,
                addresses: Vec::new(),
                relayed: Vec::new(),
                testers: 0,
                router: RouterState::NotAsked,
                relays: None,
            }),
            peers: 2,
            connections: 3,
            peering: Some(PeeringState { connected: 1, peers: 2 }),
            dht: Some(DhtState { server: true, servers: 100, records: 0 }),
            provide: None,
            pins: PinNumbers { queued: 1, pinning: 2, pinned: 30, failed: 4 },
            store: StoreSizes {
                blocks: 5,
                segment_bytes: 0,
                whole_sub_dags: 0,
                blocks_bytes_on_disk: 3 << 20,
                records_bytes_on_disk: 1 << 10,
            },
            verification: Verification {
                finished: Some("2026-01-29T12:00:00.000Z".to_owned()),
                running: true,
                damaged_blocks: 0,
            },
            denylist: Some(DenylistState { rules: 12, read: "2026-01-31T10:00:00.000Z".to_owned() }),
            warnings: vec!["do this".to_owned()],
        };
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let expected = "\
pinnace 1.2.3 has been running for 3 h as process 7.

  data           /data
  endpoint       http://127.0.0.1:4080/api/psa/
  peer           12D3KooWExample
  profile        public
  announced (!)  /ip4/10.0.0.1/tcp/1/p2p/x
  listening      /ip4/127.0.0.1/tcp/1
                 /ip4/10.0.0.1/tcp/1
  reached        only through relays (!)
  peers          2 (3 connections)
  peering        1 of 2 connected
  DHT            a server of it, 100 other servers known
  pins           1 queued, 2 pinning, 30 pinned, 4 failed
  blocks         5
  on disk        3.0 MiB of blocks, 1.0 KiB of records
  verified       2 d ago (running now)
  denylist       12 rules, read 2 h ago

warning: do this
";
        assert_eq!(text(&status, now), expected);
    }
}
