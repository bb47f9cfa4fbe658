//! `pinnace gc`: gives back the space of what no pin needs any longer.

use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{Progress, print, print_json};
use crate::http::control::Gc;
use crate::store::Stores;
use crate::store::blocks::Compacted;

/// How often the running collection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `pinnace gc`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    process: ProcessArguments,
    /// Remove nothing, but write the file of the blocks anew without the space that nothing uses; pinnace must be
    /// stopped, and the disk have room for both files
    #[arg(long)]
    compact: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: begins a collection, or joins the one that runs, and waits for its end; or compacts.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    if arguments.compact { compact(arguments) } else { collect(arguments) }
}

fn collect(arguments: &Arguments) -> Result<(), CliError> {
    let client = arguments.process.client()?;
    let mut answer = client.post("/v1/gc")?;
    let progress = Progress::new(arguments.json);
    let gc = loop {
        let gc: Gc = serde_json::from_value(answer.clone()).map_err(ControlError::Unexpected)?;
        if !gc.running {
            break gc;
        }
        progress.show(&format!("{}: {} removed", gc.phase.as_deref().unwrap_or_default(), gc.removed_blocks));
        std::thread::sleep(LOOK_EVERY);
        answer = client.get("/v1/gc", &[])?;
    };
    drop(progress);
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

fn compact(arguments: &Arguments) -> Result<(), CliError> {
    let directory = arguments.process.config()?.data_directory()?;
    let progress = Progress::new(arguments.json);
    let compacted = Stores::compact_stopped(&directory, &mut |done, all| {
        progress.show(&format!("copied {} of {}", ByteSize(done.bytes), ByteSize(all.bytes)));
    })?;
    drop(progress);
    let Compacted { bytes_before, bytes_after, blocks, block_bytes } = compacted;
    if arguments.json {
        return print_json(&json!({
            "bytes_before": bytes_before,
            "bytes_after": bytes_after,
            "blocks": blocks,
            "block_bytes": block_bytes,
        }));
    }
    print(&format!(
        "the file of the blocks has {} now and had {} before; it holds {blocks} blocks with {}\n",
        ByteSize(bytes_after),
        ByteSize(bytes_before),
        ByteSize(block_bytes)
    ))
}
