//! The command line: one file per command, and nothing that another way in would need as well.

mod backup;
mod car;
mod check;
mod client;
mod config;
mod demo;
mod gc;
mod open_files;
mod output;
mod pin;
mod provide;
mod secret;
mod serve;
mod signals;
mod status;
mod stopped;
mod token;
mod user;
mod verify;
mod watch;
mod welcome;

use std::error::Error;
use std::io;

use clap::{Parser, Subcommand};

use crate::app::AppError;
use crate::auth::AuthError;
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
    /// Look whether others can fetch a CID: dial the own addresses as a stranger would, and ask for the root at each
    Check(check::Arguments),
    /// Look how telling the DHT what is here goes
    #[command(subcommand)]
    Provide(provide::Command),
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
    /// Make pins for any account, look at those of all, try them again, or remove them
    #[command(subcommand)]
    Pin(pin::Command),
    /// Make accounts, look at them, change them or delete them
    #[command(subcommand)]
    User(user::Command),
    /// Make tokens for devices, look at those of an account, or revoke them
    #[command(subcommand)]
    Token(token::Command),
    /// Change the key that signs tokens
    #[command(subcommand)]
    Key(token::KeyCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::Command),
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
    /// The accounts can't be opened.
    #[error(transparent)]
    Accounts(#[from] AuthError),
    /// A pin that was watched has failed.
    #[error("the pin has failed; `pinnace pin retry` tries it again")]
    PinFailed,
    /// The two passwords that were typed differ.
    #[error("the two passwords differ; nothing was changed")]
    PasswordsDiffer,
    /// There was no password on standard input.
    #[error("a password is needed: type one at a terminal, or give it as the first line of standard input")]
    NoPassword,
    /// Nobody could be asked whether it is meant.
    #[error("nobody can be asked whether to {what}; give --yes if it is meant")]
    Unconfirmed {
        /// What was to be done.
        what: String,
    },
    /// There is no account.
    #[error("there is no account yet; the first start of `pinnace serve` makes one, and `pinnace user add` others")]
    NoAccount,
    /// The running process can't be reached, or refused.
    #[error(transparent)]
    Control(#[from] client::ControlError),
    /// No address gave the root.
    #[error("others can't fetch {cid} from here; the lines above say why")]
    NotFetchable {
        /// The CID.
        cid: String,
    },
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
        Command::Check(arguments) => check::run(&arguments),
        Command::Provide(command) => provide::run(&command),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => backup::run_restore(&arguments),
        Command::Export(arguments) => car::run_export(&arguments),
        Command::Import(arguments) => car::run_import(&arguments),
        Command::Pin(command) => pin::run(&command),
        Command::User(command) => user::run(&command),
        Command::Token(command) => token::run(&command),
        Command::Key(command) => token::run_key(&command),
        Command::Config(command) => config::run(&command),
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
            "--log-format",
            "json",
            "--ready-json",
        ];
        let Command::Serve(serve) = Arguments::try_parse_from(line).unwrap().command else { panic!("not serve") };
        let flags = serve.flags();
        assert_eq!(flags.data.as_deref(), Some("d".as_ref()));
        assert_eq!(flags.http.as_deref(), Some("127.0.0.1:0"));
        assert_eq!(flags.listen, ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]);
        assert_eq!(flags.external, ["/dns4/a.org/tcp/1"]);
        assert!(flags.lan);
        assert_eq!(flags.log_format.as_deref(), Some("json"));
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
            &["check", "bafkqaaa"],
            &["check", "bafkqaaa", "--json", "--data", "d", "--config", "c"],
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
            &["pin", "remove", id, "--config", "c", "--json"],
            &[
                "pin",
                "add",
                "bafkqaaa",
                "--user",
                "a@b.c",
                "--name",
                "n",
                "--origin",
                "/ip4/1.2.3.4/tcp/1",
                "--meta",
                "a=b=c",
            ],
            &["user", "add", "a@b.c", "--admin", "--bytes", "10GiB", "--pins", "default", "--json"],
            &["user", "list", "--json", "--data", "d"],
            &["user", "disable", "a@b.c"],
            &["user", "enable", "a@b.c", "--json"],
            &["user", "delete", "a@b.c", "--yes"],
            &["user", "quota", "a@b.c"],
            &["user", "quota", "a@b.c", "--bytes", "default", "--pins", "3"],
            &["user", "password", "a@b.c"],
            &["user", "role", "a@b.c", "admin"],
            &["token", "create", "laptop", "--user", "a@b.c", "--scope", "read", "--expires-in-days", "30"],
            &["token", "list", "--user", "a@b.c", "--json"],
            &["token", "revoke", id],
            &["key", "rotate", "--forget-old"],
            &["config", "show", "--json", "--config", "c"],
        ] {
            Arguments::try_parse_from([&["pinnace"], line].concat()).unwrap();
        }
        for line in [
            &["pin"][..],
            &["check"],
            &["check", "hello"],
            &["verify", "--rate", "fast"],
            &["export", "hello"],
            &["import"],
            &["pin", "list", "--status", "done"],
            &["pin", "list", "--limit", "0"],
            &["pin", "list", "--limit", "1001"],
            &["pin", "show"],
            &["pin", "add", "bafkqaaa", "--meta", "a"],
            &["user", "quota", "a@b.c", "--bytes", "much"],
            &["user", "role", "a@b.c", "root"],
            &["token", "create", "laptop", "--scope", "admin"],
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
