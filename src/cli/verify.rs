//! `pinnace verify`: checks every block against its hash, and names the pins that need the damaged ones.
//!
//! The running pinnace does it. Where none runs, this command opens the stores itself.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value;

use super::client::{ControlError, ProcessArguments};
use super::output::{clean, print, print_json, table};
use super::{CliError, runtime};
use crate::app::{AppError, readable_links};
use crate::http::control::{DamagedPin, Verify};
use crate::store::Stores;
use crate::store::verify::{NoFetches, Verifier, VerifyRequest};

/// How often the running verification is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `pinnace verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    process: ProcessArguments,
    /// Take damaged blocks out of the store, and have them fetched again for the pins that need them
    #[arg(long)]
    repair: bool,
    /// Bytes to read per second; 0 for as many as the disk gives
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    rate: ByteSize,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: begins a verification, or joins the one that runs, and waits for its end.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = arguments.process.client()?;
    let path = format!("/v1/verify?repair={}&rate={}", arguments.repair, arguments.rate.as_u64());
    match client.post(&path) {
        Ok(answer) => {
            let verify = watch(arguments, answer, || Ok(client.get("/v1/verify", &[])?))?;
            tell(arguments, &verify, true)
        }
        // Where one runs that can't be asked, it holds the directory.
        Err(
            ControlError::NotRunning { missing: false, .. }
            | ControlError::PathTooLong { .. }
            | ControlError::NoSockets,
        ) => verify_stopped(arguments),
        Err(error) => Err(error.into()),
    }
}

/// Verifies the stores while no pinnace runs with them.
fn verify_stopped(arguments: &Arguments) -> Result<(), CliError> {
    let config = arguments.process.config()?;
    let stores = Stores::open_stopped(&config.data_directory()?, &config.store).map_err(AppError::from)?;
    let runtime = runtime()?;
    let verify = {
        let _entered = runtime.enter();
        let blocks = stores.blocks.verifier(readable_links);
        let verifier = Verifier::new(blocks, Arc::clone(&stores.records), Arc::new(NoFetches));
        let request = VerifyRequest { repair: arguments.repair, rate: arguments.rate.as_u64(), resume: false };
        verifier.request(request);
        let look = || serde_json::to_value(Verify::from(verifier.state())).map_err(ControlError::Unexpected);
        watch(arguments, look()?, || Ok(look()?))?
    };
    stores.close();
    tell(arguments, &verify, false)
}

/// Looks at a verification until it ends.
fn watch(arguments: &Arguments, first: Value, look: impl Fn() -> Result<Value, CliError>) -> Result<Verify, CliError> {
    let show_progress = !arguments.json && std::io::stderr().is_terminal();
    let mut answer = first;
    let verify = loop {
        let verify: Verify = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
        if !verify.running {
            break verify;
        }
        if show_progress {
            eprint!("\r{}\u{1b}[K", progress(&verify));
        }
        std::thread::sleep(LOOK_EVERY);
        answer = look()?;
    };
    if show_progress {
        eprint!("\r\u{1b}[K");
    }
    match verify.error {
        Some(error) => Err(ControlError::Refused(format!("the verification ended early: {error}")).into()),
        None => Ok(verify),
    }
}

fn progress(verify: &Verify) -> String {
    if verify.phase.as_deref() == Some("pins") {
        return format!("pins: {} need damaged blocks", verify.damaged_pins);
    }
    format!(
        "blocks: {} of {}, {} of {}; {} damaged",
        verify.blocks,
        verify.blocks_total,
        ByteSize(verify.bytes),
        ByteSize(verify.bytes_total),
        verify.damaged_blocks
    )
}

/// Shows the result. Damage that is left as it is makes the command fail.
fn tell(arguments: &Arguments, verify: &Verify, is_running: bool) -> Result<(), CliError> {
    if arguments.json {
        print_json(&serde_json::to_value(verify).map_err(ControlError::Unexpected)?)?;
    } else {
        print(&text(verify, is_running))?;
    }
    let blocks = verify.damaged_blocks.saturating_sub(verify.quarantined_blocks);
    if blocks > 0 { Err(CliError::Damaged { blocks }) } else { Ok(()) }
}

fn text(verify: &Verify, is_running: bool) -> String {
    let mut text = format!("verified {} with {}: ", blocks(verify.blocks), ByteSize(verify.bytes));
    if verify.damaged_blocks == 0 {
        text.push_str("each is what its hash says\n");
    } else {
        let _ = writeln!(text, "{} damaged", is_or_are(verify.damaged_blocks));
        for cid in &verify.damaged {
            let _ = writeln!(text, "  {}", clean(cid));
        }
        more(&mut text, verify.damaged_blocks, verify.damaged.len());
    }
    if verify.quarantined_blocks > 0 {
        let _ = writeln!(text, "\n{} taken out of the store.", was_or_were(verify.quarantined_blocks));
    }
    let before = verify.not_replaced_blocks.saturating_sub(verify.quarantined_blocks);
    if before > 0 {
        let _ = writeln!(text, "\n{} found damaged before and not replaced yet.", was_or_were(before));
    }
    if verify.damaged_blocks == 0 && verify.not_replaced_blocks == 0 {
        return text;
    }
    if verify.damaged_pins == 0 {
        text.push_str("No pin needs damaged blocks: `pinnace gc` removes what is left of them.\n");
        return text;
    }
    let _ = writeln!(text, "\nPins that need damaged blocks: {}", verify.damaged_pins);
    for line in table(&verify.pins.iter().map(row).collect::<Vec<_>>()) {
        text.push_str(&line);
        text.push('\n');
    }
    more(&mut text, verify.damaged_pins, verify.pins.len());
    text.push('\n');
    text.push_str(match (verify.repair, is_running) {
        (false, _) => "Nothing was changed. `pinnace verify --repair` takes the damaged blocks out and has them fetched again.\n",
        (true, true) => {
            "Pins that were pinned are queued again: what is missing comes from their origins or any other peer that has it.\n`pinnace pin show ID` tells how a pin is going. Have a look at the disk and the memory of this machine.\n"
        }
        (true, false) => {
            "Pins that were pinned are queued again: when pinnace runs, what is missing comes from their origins or any other\npeer that has it. Have a look at the disk and the memory of this machine.\n"
        }
    });
    text
}

fn row(pin: &DamagedPin) -> Vec<String> {
    let status = if pin.requeued { "queued again" } else { &pin.status };
    let account = pin.account.as_deref().unwrap_or("(no account)");
    let cells = [&pin.id, status, account, &pin.cid, pin.name.as_deref().unwrap_or_default()];
    cells
        .iter()
        .enumerate()
        .map(|(index, cell)| format!("{}{}", if index == 0 { "  " } else { "" }, clean(cell)))
        .collect()
}

fn blocks(count: u64) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

fn is_or_are(count: u64) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

fn was_or_were(count: u64) -> String {
    format!("{} {}", blocks(count), if count == 1 { "was" } else { "were" })
}

/// Says how many were left out of a list.
fn more(text: &mut String, count: u64, shown: usize) {
    let left_out = count.saturating_sub(shown as u64);
    if left_out > 0 {
        let _ = writeln!(text, "  and {left_out} more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(repair: bool) -> Verify {
        let pin = DamagedPin {
            id: "0190b2a4".to_owned(),
            cid: "bafyroot".to_owned(),
            name: Some("my\u{1b}[2J file".to_owned()),
            account: Some("a@example.org".to_owned()),
            status: "pinned".to_owned(),
            requeued: repair,
        };
        Verify {
            repair,
            blocks: 1000,
            bytes: 3 << 20,
            damaged_blocks: 2,
            quarantined_blocks: if repair { 2 } else { 0 },
            damaged: vec!["bafkdamaged".to_owned()],
            not_replaced_blocks: if repair { 3 } else { 0 },
            damaged_pins: 1,
            pins: vec![pin],
            ..Verify::default()
        }
    }

    #[test]
    fn says_that_all_is_well_in_one_line() {
        let verify = Verify { blocks: 1, bytes: 10, ..Verify::default() };
        assert_eq!(text(&verify, true), "verified 1 block with 10 B: each is what its hash says\n");
    }

    #[test]
    fn names_blocks_and_pins_and_what_to_do() {
        let expected = "\
verified 1000 blocks with 3.0 MiB: 2 are damaged
  bafkdamaged
  and 1 more

Pins that need damaged blocks: 1
  0190b2a4  pinned  a@example.org  bafyroot  my\u{fffd}[2J file

Nothing was changed. `pinnace verify --repair` takes the damaged blocks out and has them fetched again.
";
        assert_eq!(text(&damaged(false), true), expected);
        let repaired = text(&damaged(true), true);
        for part in ["2 blocks were taken out", "1 block was found damaged before", "queued again", "pinnace pin show"]
        {
            assert!(repaired.contains(part), "{repaired}");
        }
        assert!(text(&damaged(true), false).contains("when pinnace runs"));
        let unneeded = Verify { damaged_pins: 0, pins: Vec::new(), ..damaged(true) };
        assert!(text(&unneeded, true).ends_with("`pinnace gc` removes what is left of them.\n"));
    }
}
