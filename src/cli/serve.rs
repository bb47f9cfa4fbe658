//! `pinnace serve`: runs the service until it is told to stop. What it is made of is `app`'s business.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::signals::Signals;
use super::{CliError, one_line, open_files, runtime, welcome};
use crate::app::App;
use crate::config::{Config, Flags, Sources};
use crate::model::limits::{HTTP_CONNECTIONS_MAX, SHUTDOWN_MAX};
use crate::telemetry;

/// A signal that comes this soon after the first is the same request: `timeout` and some supervisors signal the process,
/// and then its group.
const SIGNAL_ECHO_MAX: Duration = Duration::from_secs(1);

/// Flags of `pinnace serve`; they override every other layer of the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Directory of the peer identity and both stores; made if it isn't there [default: the platform's data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file; config/default.toml in the source explains every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the HTTP API; port 0 picks a free one [default: 127.0.0.1:4080]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<String>,
    /// Where to listen for peers; may be given several times [default: TCP and QUIC on 4001, all interfaces]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// An address under which others reach this node; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    external: Vec<String>,
    /// Dial and announce private addresses too, inside the networks of this machine
    #[arg(long)]
    lan: bool,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// Print one line of JSON on standard output once everything serves, instead of text
    #[arg(long)]
    ready_json: bool,
    /// Stop when standard input ends, for programs that run pinnace as their child
    #[arg(long)]
    stop_at_eof: bool,
}

impl Arguments {
    /// The flags that are keys of the configuration.
    pub(super) fn flags(&self) -> Flags {
        Flags {
            data: self.data.clone(),
            http: self.http.clone(),
            listen: self.listen.clone(),
            external: self.external.clone(),
            lan: self.lan,
            log_format: self.log_format.clone(),
        }
    }
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let flags = arguments.flags();
    let config = Config::load(&Sources::of_process(arguments.config, flags))?;
    telemetry::install(&config.log)?;
    open_files::raise(HTTP_CONNECTIONS_MAX as u64 + u64::from(config.network.connections_max));
    let stdin_end = arguments.stop_at_eof.then(end_of_stdin).transpose()?;

    let runtime = runtime()?;
    let outcome = runtime.block_on(serve(config, arguments.ready_json, stdin_end));
    // What still runs after an orderly stop is late; nothing that was acknowledged depends on it.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config, ready_json: bool, stdin_end: Option<oneshot::Receiver<()>>) -> Result<(), CliError> {
    let mut signals = Signals::install()?;
    // The first start may have made the account already, and its secrets are shown only once: it goes on to its end.
    let mut start = pin!(App::start(config));
    let (mut app, early) = tokio::select! {
        app = &mut start => (app?, None),
        signal = signals.next() => {
            info!("{signal} before the start was complete; stopping after it");
            (unless_again(&mut signals, start).await?, Some(signal))
        }
    };
    let mut outcome = welcome::show(&app, ready_json).map_err(CliError::from);
    if outcome.is_ok() {
        let reason = tokio::select! {
            signal = async { match early { Some(signal) => signal, None => signals.next().await } } => signal,
            () = ended(stdin_end) => "the end of standard input",
            error = app.ended() => {
                error!("{}", one_line(&error));
                outcome = Err(error.into());
                "the service can't go on"
            }
        };
        info!("stopping: {reason}");
    }
    match unless_again(&mut signals, tokio::time::timeout(SHUTDOWN_MAX, app.stop())).await {
        // What made it stop is worth more than what came of that.
        Ok(stopped) => outcome.and(stopped.map_err(CliError::from)),
        Err(_) => {
            warn!("not everything stopped within {} s; ending anyway", SHUTDOWN_MAX.as_secs());
            outcome
        }
    }
}

/// Waits for the work after a first signal; a second one ends the process.
async fn unless_again<T>(signals: &mut Signals, work: impl Future<Output = T>) -> T {
    tokio::select! {
        outcome = work => outcome,
        signal = second_signal(signals) => {
            warn!("second signal ({signal}); ending at once");
            process::exit(1);
        }
    }
}

/// The next signal that isn't the echo of the first.
async fn second_signal(signals: &mut Signals) -> &'static str {
    let began = Instant::now();
    loop {
        let signal = signals.next().await;
        if began.elapsed() > SIGNAL_ECHO_MAX {
            return signal;
        }
    }
}

/// Resolves when standard input has ended. A thread of its own reads it: such a read can't be cancelled.
fn end_of_stdin() -> Result<oneshot::Receiver<()>, CliError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // An error ends the input as well.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = sender.send(());
        })
        .map_err(|source| CliError::Process { what: "watch standard input", source })?;
    Ok(receiver)
}

async fn ended(stdin_end: Option<oneshot::Receiver<()>>) {
    match stdin_end {
        Some(end) => {
            // A sender that is gone means the same as its message.
            let _ = end.await;
        }
        None => std::future::pending().await,
    }
}
