//! `pinnace gc`: gives back the space of what no pin needs any longer.

use std::io::IsTerminal;
use std::time::Duration;

use bytesize::ByteSize;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{print, print_json};
use crate::http::control::Gc;

/// How often the running collection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `pinnace gc`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: begins a collection, or joins the one that runs, and waits for its end.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = arguments.process.client()?;
    let mut answer = client.post("/v1/gc")?;
    let show_progress = !arguments.json && std::io::stderr().is_terminal();
    let gc = loop {
        let gc: Gc = serde_json::from_value(answer.clone()).map_err(ControlError::Unexpected)?;
        if !gc.running {
            break gc;
        }
        if show_progress {
            eprint!("\r{}: {} removed\u{1b}[K", gc.phase.as_deref().unwrap_or_default(), gc.removed_blocks);
        }
        std::thread::sleep(LOOK_EVERY);
        answer = client.get("/v1/gc", &[])?;
    };
    if show_progress {
        eprint!("\r\u{1b}[K");
    }
    if let Some(error) = gc.error {
        return Err(ControlError::Refused(format!("the garbage collection ended early: {error}")).into());
    }
    if arguments.json {
        return print_json(&answer);
    }
    print(&format!(
        "removed {} blocks with {}; kept {} blocks\n",
        gc.removed_blocks,
        ByteSize(gc.removed_bytes),
        gc.kept_blocks
    ))
}
