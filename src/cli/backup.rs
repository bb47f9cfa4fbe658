//! `pinnace backup` and `pinnace restore`: everything in one file, and back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{Progress, clean, print, print_json};
use crate::app::readable_links;
use crate::http::control::Backup;
use crate::store::backup::backup_stopped;
use crate::store::restore::{RestoreReport, restore};

/// How often the running backup is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `pinnace backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to write it. It holds secrets, and only its owner may read it
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `pinnace restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArguments {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `pinnace backup`: through the running process, or without one by itself.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let file = std::path::absolute(&arguments.file)
        .map_err(|source| CliError::Process { what: "find the current directory", source })?;
    let answer = match ask(arguments, &file) {
        Err(CliError::Control(ControlError::NotRunning { missing: false, .. })) => write(arguments, &file)?,
        answer => answer?,
    };
    if arguments.json {
        return print_json(&answer);
    }
    let backup: Backup = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    let mut text = format!(
        "wrote {} to {}: all accounts and pins, the identity, and {} blocks with {}\n",
        ByteSize(backup.file_bytes.unwrap_or_default()),
        clean(&file.display().to_string()),
        backup.blocks,
        ByteSize(backup.bytes)
    );
    if backup.damaged_blocks > 0 {
        text = format!("{text}{} blocks can't be read and were left out\n", backup.damaged_blocks);
    }
    print(&text)
}

/// Lets the running process write it, and waits for its end.
fn ask(arguments: &Arguments, file: &Path) -> Result<Value, CliError> {
    let client = arguments.process.client()?;
    let Some(path) = file.to_str() else {
        let refused = "the path of a backup must be UTF-8 while pinnace runs: choose another, or stop pinnace first";
        return Err(ControlError::Refused(refused.to_owned()).into());
    };
    let query = [("path", path.to_owned()), ("force", arguments.force.to_string())];
    let mut answer = client.post_with("/v1/backup", &query)?;
    let progress = Progress::new(arguments.json);
    loop {
        let backup: Backup = serde_json::from_value(answer.clone()).map_err(ControlError::Unexpected)?;
        if let Some(error) = backup.error {
            drop(progress);
            return Err(ControlError::Refused(error).into());
        }
        if !backup.running {
            return Ok(answer);
        }
        progress.show(&format!("copied {} of {}", ByteSize(backup.bytes), ByteSize(backup.bytes_total)));
        std::thread::sleep(LOOK_EVERY);
        answer = client.get("/v1/backup", &[])?;
    }
}

/// Writes it without a running process.
fn write(arguments: &Arguments, file: &Path) -> Result<Value, CliError> {
    let config = arguments.process.config()?;
    let progress = Progress::new(arguments.json);
    let report = backup_stopped(&config.data_directory()?, &config.store, file, arguments.force, &mut |backup| {
        progress.show(&format!("copied {} of {}", ByteSize(backup.done.bytes), ByteSize(backup.all.bytes)));
    })?;
    let copied = report.copied;
    Ok(json!(Backup {
        running: false,
        path: Some(file.display().to_string()),
        blocks: copied.blocks,
        bytes: copied.bytes,
        blocks_total: copied.blocks + copied.damaged_blocks,
        bytes_total: copied.bytes,
        damaged_blocks: copied.damaged_blocks,
        file_bytes: Some(report.file_bytes),
        error: None,
    }))
}

/// Runs `pinnace restore`.
pub(super) fn run_restore(arguments: &RestoreArguments) -> Result<(), CliError> {
    let config = arguments.process.config()?;
    let directory = config.data_directory()?;
    let progress = Progress::new(arguments.json);
    let report = restore(&arguments.file, &directory, &config.store, readable_links, &mut |done, all| {
        progress.show(&format!("copied {} of {}", ByteSize(done.bytes), ByteSize(all.bytes)));
    })?;
    drop(progress);
    let RestoreReport { made, copied, pins, requeued_pins } = report;
    if arguments.json {
        return print_json(&json!({
            "data": directory.display().to_string(),
            "made": made,
            "pins": pins,
            "blocks": copied.blocks,
            "bytes": copied.bytes,
            "damaged_blocks": copied.damaged_blocks,
            "requeued_pins": requeued_pins,
        }));
    }
    let mut text = format!(
        "restored the backup of {} into {}: {pins} pins, and {} blocks with {}\n",
        clean(&made),
        clean(&directory.display().to_string()),
        copied.blocks,
        ByteSize(copied.bytes)
    );
    if copied.damaged_blocks > 0 {
        text = format!("{text}{} damaged blocks were left out\n", copied.damaged_blocks);
    }
    if requeued_pins > 0 {
        text = format!(
            "{text}{requeued_pins} pins lack blocks and are queued again: `pinnace serve` fetches what is missing, if a peer has it\n"
        );
    }
    print(&text)
}
