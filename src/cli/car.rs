//! `pinnace export` and `pinnace import`: DAGs as CAR files, through the running process, or without one by itself.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use bytesize::ByteSize;
use cid::Cid;
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::{ControlError, ProcessArguments};
use super::output::{clean, print, print_json};
use super::stopped::NoNetwork;
use super::{CliError, runtime};
use crate::http::control::{Frame, ImportedPin, Imports};
use crate::model::cids;
use crate::model::limits::NAME_CHARS_MAX;
use crate::pins::board::Board;
use crate::pins::{PinError, PinInput, PinService};
use crate::store::Stores;
use crate::transfer::{Export, ExportError, Import, ImportError};

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// Reads that wait to be sent.
const READS_AHEAD_MAX: usize = 4;

/// Standard input or output.
const STANDARD: &str = "-";

/// Why a file can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CarFileError {
    /// A file can't be used.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard output is a terminal.
    #[error("a CAR file is not for a terminal: name a file with -o FILE, or send it into a pipe")]
    Terminal,
    /// The DAG can't be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The files can't be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The pins can't be made.
    #[error(transparent)]
    Pin(#[from] PinError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CarFileError {
    move |source| CarFileError::Io { action, path: path.to_owned(), source }
}

/// Flags of `pinnace export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArguments {
    /// The root
    #[arg(value_parser = root)]
    cid: Cid,
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArguments {
    /// CAR files of version 1 or 2; - is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The name of the pins
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// The e-mail address of the account that owns the pins [default: that of the first account]
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Pin this instead of the roots that the files name
    #[arg(long, value_name = "CID", value_parser = root)]
    root: Option<Cid>,
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn root(text: &str) -> Result<Cid, String> {
    cids::parse(text).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<String, String> {
    if text.chars().count() > NAME_CHARS_MAX {
        return Err(format!("must have at most {NAME_CHARS_MAX} characters"));
    }
    Ok(text.to_owned())
}

/// Runs `pinnace export`.
pub(super) fn run_export(arguments: &ExportArguments) -> Result<(), CliError> {
    let Some(path) = arguments.output.as_deref().filter(|path| *path != Path::new(STANDARD)) else {
        let mut stdout = io::stdout().lock();
        if stdout.is_terminal() {
            return Err(CarFileError::Terminal.into());
        }
        export(arguments, Path::new("standard output"), &mut stdout)?;
        return Ok(());
    };
    // Half a file must not look like a whole one.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let written =
        File::create(&temporary).map_err(failed("write", &temporary)).map_err(CliError::from).and_then(|file| {
            let mut file = BufWriter::new(file);
            let bytes = export(arguments, &temporary, &mut file)?;
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .and_then(|()| std::fs::rename(&temporary, path))
                .map_err(failed("write", path))?;
            Ok(bytes)
        });
    match written {
        Ok(bytes) => print(&format!("wrote {} to {}\n", ByteSize(bytes), clean(&path.display().to_string()))),
        Err(error) => {
            // The error says more than one of a file that can't be removed.
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Writes the file, and says how long it is.
fn export(arguments: &ExportArguments, path: &Path, out: &mut dyn Write) -> Result<u64, CliError> {
    let root = arguments.cid;
    let mut written = 0;
    let mut write = |bytes: &[u8]| {
        written += bytes.len() as u64;
        out.write_all(bytes).map_err(|error| CliError::from(failed("write", path)(error)))
    };
    match arguments.process.client()?.read_frames(&format!("/v1/export/{root}"), &mut write) {
        Err(CliError::Control(ControlError::NotRunning { missing: false, .. })) => {
            let config = arguments.process.config()?;
            let stores = Stores::open_stopped(&config.data_directory()?, &config.store)?;
            let mut export = Export::begin(&stores.blocks.reader(), root).map_err(CarFileError::from)?;
            while let Some(bytes) = export.next_bytes().map_err(CarFileError::from)? {
                write(&bytes)?;
            }
            drop(export);
            stores.close();
        }
        outcome => outcome?,
    }
    out.flush().map_err(failed("write", path))?;
    Ok(written)
}

/// Runs `pinnace import`.
pub(super) fn run_import(arguments: &ImportArguments) -> Result<(), CliError> {
    for path in arguments.files.iter().filter(|path| *path != Path::new(STANDARD)) {
        File::open(path).map_err(failed("read", path))?;
    }
    let client = arguments.process.client()?;
    let answer = if client.is_running()? { send(arguments, &client)? } else { import(arguments)? };
    if arguments.json {
        return print_json(&answer);
    }
    let imports: Imports = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    let mut text = format!(
        "imported {} blocks with {}; {} of them were there already\n",
        imports.blocks,
        ByteSize(imports.bytes),
        imports.held_blocks
    );
    for pin in &imports.pins {
        text = format!("{text}pin {} keeps {}\n", clean(&pin.id), clean(&pin.cid));
    }
    print(&text)
}

/// Lets the running process import what this one reads.
fn send(arguments: &ImportArguments, client: &super::client::Client) -> Result<Value, CliError> {
    let mut query = Vec::new();
    for (key, value) in [("name", &arguments.name), ("user", &arguments.user)] {
        if let Some(value) = value {
            query.push((key, value.clone()));
        }
    }
    if let Some(root) = arguments.root {
        query.push(("root", root.to_string()));
    }
    let pieces = read_all(arguments.files.clone());
    client.send_frames("/v1/import", &query, pieces)
}

/// Reads the files in a thread of its own, since a read of a pipe can't be cancelled. What can't be read becomes a
/// failure, which ends the import.
fn read_all(files: Vec<PathBuf>) -> mpsc::Receiver<Frame> {
    let (sender, receiver) = mpsc::channel(READS_AHEAD_MAX);
    std::thread::spawn(move || {
        for path in files {
            let read = read_file(&path, &mut |bytes| {
                // Nobody reads on when the import was refused.
                sender.blocking_send(Frame::Data(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
            });
            let end = match read {
                Ok(()) => Frame::End,
                Err(error) => Frame::Failure(error.to_string()),
            };
            let is_end = end == Frame::End;
            if sender.blocking_send(end).is_err() || !is_end {
                return;
            }
        }
    });
    receiver
}

fn read_file(path: &Path, take: &mut dyn FnMut(Bytes) -> io::Result<()>) -> Result<(), CarFileError> {
    let mut read = |path: &Path| -> io::Result<()> {
        let mut file: Box<dyn Read> =
            if path == Path::new(STANDARD) { Box::new(io::stdin().lock()) } else { Box::new(File::open(path)?) };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => take(Bytes::copy_from_slice(buffer.get(..bytes).unwrap_or_default()))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    read(path).map_err(failed("read", path))
}

/// Imports while nothing runs. The pins are queued, and whole as soon as the next start has looked at them.
fn import(arguments: &ImportArguments) -> Result<Value, CliError> {
    let config = arguments.process.config()?;
    let stores = Stores::open_stopped(&config.data_directory()?, &config.store)?;
    let runtime = runtime()?;
    let pins = PinService::new(Arc::clone(&stores.records), Board::new().0, Arc::new(NoNetwork));
    let imports: Result<Imports, CarFileError> = runtime.block_on(async {
        let owner = pins.owner(arguments.user.clone()).await?;
        let mut import = Import::new(stores.blocks.reader(), stores.blocks.writer());
        let mut frames = read_all(arguments.files.clone());
        while let Some(frame) = frames.recv().await {
            match frame {
                Frame::Data(bytes) => import.feed(&bytes).await?,
                Frame::End => import.end_file()?,
                Frame::Failure(reason) => return Err(PinError::Invalid(reason).into()),
            }
        }
        let imported = import.finish(arguments.root).await?;
        let mut made = Vec::new();
        for root in &imported.roots {
            let input = PinInput { cid: root.to_string(), name: arguments.name.clone(), ..PinInput::default() };
            let record = pins.add_patiently(owner, input).await?.record;
            made.push(ImportedPin { id: record.id.to_string(), cid: record.cid_text });
        }
        Ok(Imports::new(imported.report, made))
    });
    drop(pins);
    runtime.shutdown_background();
    stores.close();
    serde_json::to_value(imports?).map_err(|error| ControlError::Unexpected(error).into())
}
