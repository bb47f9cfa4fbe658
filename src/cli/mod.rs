//! The command line: one file per command, and nothing that another way in would need as well.

mod backup;
mod car;
mod client;
mod demo;
mod gc;
mod output;
mod pin;
mod serve;
mod signals;
mod status;
mod verify;
mod welcome;

use std::error::Error;
use std::io;

use clap::{Parser, Subcommand};

use crate::app::AppError;
use crate::config::ConfigError;
use crate::store::StoresError;
use crate::store::backup::BackupError;
use crate::store::restore::RestoreError;
use crate::telemetry::TelemetryError;

/// An IPFS pinning service in one binary.
#[derive(Debug, Parser)]
#[command(name = "pinnace", version, about, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGINT or SIGTERM. No configuration is needed.
    Serve(serve::Arguments),
    /// Show the whole trip on this machine, on loopback: a peer has a file, pinnace pins it, the peer leaves, another
    /// peer fetches it from pinnace. Leaves nothing behind.
    Demo(demo::Arguments),
    /// Show how the running pinnace is doing.
    Status(status::Arguments),
    /// Remove the blocks that no pin needs any longer, and give their space back
    Gc(gc::Arguments),
    /// Check every block against its hash, and name the pins that need damaged ones; with --repair, have those fetched
    /// again
    Verify(verify::Arguments),
    /// Write everything into one file: accounts, tokens, pins, blocks and the identity; also while pinnace runs
    Backup(backup::Arguments),
    /// Make a data directory from a backup; the directory must be new, or have no accounts and pins
    Restore(backup::RestoreArguments),
    /// Write a DAG as a CAR file, as `ipfs dag export` does
    Export(car::ExportArguments),
    /// Store what CAR files hold, and pin their roots, as `ipfs dag import` does
    Import(car::ImportArguments),
    /// Look at the pins of all accounts of the running pinnace, try them again, or remove them.
    #[command(subcommand)]
    Pin(pin::Command),
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logging can't be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The service can't start or stop.
    #[error(transparent)]
    App(#[from] AppError),
    /// The process can't get threads, signals or its standard input.
    #[error("cannot {what}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// What the start made can't be shown.
    #[error(transparent)]
    Welcome(#[from] welcome::WelcomeError),
    /// The demo did not go well.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// The stores can't be opened, or failed.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// There is no backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup can't be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A CAR file can't be written or read.
    #[error(transparent)]
    CarFile(#[from] car::CarFileError),
    /// The running process can't be reached, or refused.
    #[error(transparent)]
    Control(#[from] client::ControlError),
    /// Blocks are damaged, and the command was not to repair them.
    #[error(
        "{blocks} {} damaged; `pinnace verify --repair` has what pins need fetched again",
        if *.blocks == 1 { "block is" } else { "blocks are" }
    )]
    Damaged {
        /// How many.
        blocks: u64,
    },
}

/// Reads the command line. Ends the process with help or usage where the command line asks for it or is wrong.
pub fn parse() -> Arguments {
    Arguments::parse()
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => backup::run_restore(&arguments),
        Command::Export(arguments) => car::run_export(&arguments),
        Command::Import(arguments) => car::run_import(&arguments),
        Command::Pin(command) => pin::run(&command),
    }
}

/// An error and its causes as one line. A cause that the line has said already is left out.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The threads that run everything asynchronous.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("pinnace")
        .build()
        .map_err(|source| CliError::Process { what: "start the threads of the process", source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn serve_takes_its_flags() {
        let line = [
            "pinnace",
            "serve",
            "--data",
            "d",
            "--config",
            "c",
            "--http",
            "127.0.0.1:0",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--listen",
            "/ip6/::1/tcp/0",
            "--external",
            "/dns4/a.org/tcp/1",
            "--lan",
            "--ready-json",
        ];
        let Command::Serve(serve) = Arguments::try_parse_from(line).unwrap().command else { panic!("not serve") };
        let flags = serve.flags();
        assert_eq!(flags.data.as_deref(), Some("d".as_ref()));
        assert_eq!(flags.http.as_deref(), Some("127.0.0.1:0"));
        assert_eq!(flags.listen, ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]);
        assert_eq!(flags.external, ["/dns4/a.org/tcp/1"]);
        assert!(flags.lan);
    }

    #[test]
    fn demo_takes_a_size() {
        for (line, bytes) in [(&["pinnace", "demo"][..], 256 << 20), (&["pinnace", "demo", "--size", "3KiB"], 3 << 10)]
        {
            let Command::Demo(demo) = Arguments::try_parse_from(line).unwrap().command else { panic!("not demo") };
            assert_eq!(demo.size.as_u64(), bytes);
        }
        for size in ["0", "-1", "many", ""] {
            assert!(Arguments::try_parse_from(["pinnace", "demo", "--size", size]).is_err(), "{size}");
        }
    }

    #[test]
    fn commands_for_the_running_process_take_their_flags() {
        let id = "0190b2a4-9b1c-7000-8000-000000000000";
        for line in [
            &["status"][..],
            &["status", "--json", "--data", "d", "--config", "c"],
            &["verify"],
            &["verify", "--repair", "--rate", "0", "--json", "--data", "d", "--config", "c"],
            &["verify", "--rate", "1.5GiB"],
            &["gc", "--json"],
            &["gc", "--compact", "--json", "--data", "d"],
            &["backup", "file"],
            &["backup", "file", "--force", "--json", "--data", "d"],
            &["restore", "file", "--json", "--data", "d"],
            &["export", "bafkqaaa", "--output", "file"],
            &["import", "file", "-", "--name", "n", "--user", "a@b.c", "--root", "bafkqaaa", "--json"],
            &["pin", "list"],
            &["pin", "list", "--status", "failed,queued", "--status", "pinning", "--limit", "1000", "--json"],
            &["pin", "show", id, "--json", "--data", "d"],
            &["pin", "retry", id, "--data", "d"],
            &["pin", "remove", id, "--config", "c"],
        ] {
            Arguments::try_parse_from([&["pinnace"], line].concat()).unwrap();
        }
        for line in [
            &["pin"][..],
            &["verify", "--rate", "fast"],
            &["export", "hello"],
            &["import"],
            &["pin", "list", "--status", "done"],
            &["pin", "list", "--limit", "0"],
            &["pin", "list", "--limit", "1001"],
            &["pin", "show"],
            &["pin", "remove", "not-an-id"],
        ] {
            assert!(Arguments::try_parse_from([&["pinnace"], line].concat()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn errors_become_one_line_with_their_causes() {
        let line = one_line(&Outer(io::Error::other("no\nspace")));
        assert_eq!(line, "cannot open the store: no space");
        assert_eq!(one_line(&Repeats(io::Error::other("no space"))), "it says: no space");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("it says: no space")]
    struct Repeats(#[source] io::Error);
}
