//! `pinnace demo`: the whole trip on one machine, on loopback, in a temporary directory that is removed at the end,
//! also when something fails or someone presses Ctrl-C.
//!
//! The daemon is a child process and is talked to over HTTP, as users do; the two peers around it run in this process.

mod client;
mod daemon;
mod file;
mod peer;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::Multiaddr;
use bytesize::ByteSize;
use cid::Cid;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use self::client::{Client, ClientError};
use self::daemon::{Daemon, DaemonError, ReadyLine};
use self::file::{FileError, Made};
use self::peer::{Peer, PeerError};
use super::signals::Signals;
use super::{CliError, runtime};

/// The seed of the file: the same file every time.
const SEED: u64 = 0x7069_6e6e_6163_6500;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long nothing may come before the demo gives up.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// How long a peer of the demo may take to stop.
const PEER_STOP_MAX: Duration = Duration::from_secs(5);

/// Prints a line; a closed standard output ends the demo in order instead of with a panic.
macro_rules! say {
    ($($text:tt)*) => {
        writeln!(io::stdout(), $($text)*).map_err(DemoError::Output)
    };
}

/// Flags of `pinnace demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Size of the file; about three times as much is needed in the temporary directory
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub(super) size: ByteSize,
}

fn size(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size),
        _ => Err("expected a size of at least one byte, such as 256MiB".to_owned()),
    }
}

/// What was off.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The temporary directory can't be made.
    #[error("cannot make a temporary directory")]
    Directory(#[source] io::Error),
    /// The temporary directory can't be removed.
    #[error("cannot remove the temporary directory {}", path.display())]
    Leftover {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A peer around the daemon failed.
    #[error("{who} failed")]
    Peer {
        /// Which one.
        who: &'static str,
        /// What went wrong.
        source: PeerError,
    },
    /// A peer around the daemon did not stop in time.
    #[error("{0} did not stop in time")]
    PeerLate(&'static str),
    /// The daemon failed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A call to the daemon failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The file isn't what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The daemon has no address that the second peer can use.
    #[error("pinnace serve told no TCP address on loopback")]
    NoAddress,
    /// The pin failed.
    #[error("the pin failed: {0}")]
    PinFailed(String),
    /// Nothing came for [`SILENCE_MAX`].
    #[error("nothing came for {} s while {doing}", SILENCE_MAX.as_secs())]
    Silence {
        /// What was being done, and how far it had come.
        doing: String,
    },
    /// Someone asked to stop.
    #[error("stopped by {0}; nothing is left behind")]
    Stopped(&'static str),
}

/// Who fails when the origin does.
const ORIGIN: &str = "the origin peer";

/// Who fails when the second peer does.
const SECOND: &str = "the second peer";

/// Everything that runs and has to be stopped.
struct Stage {
    origin: Option<Peer>,
    daemon: Option<Daemon>,
    second: Option<Peer>,
    directory: TempDir,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(demo(arguments.size));
    runtime.shutdown_background();
    outcome
}

async fn demo(size: ByteSize) -> Result<(), CliError> {
    let mut signals = Signals::install()?;
    let directory = tempfile::Builder::new().prefix("pinnace-demo-").tempdir().map_err(DemoError::Directory)?;
    say!("A file of {} travels through pinnace, on loopback, in {}", size.display(), directory.path().display())?;
    let mut stage = Stage { origin: None, daemon: None, second: None, directory };
    let outcome = tokio::select! {
        outcome = trip(&mut stage, size.as_u64()) => outcome,
        signal = signals.next() => Err(DemoError::Stopped(signal)),
    };
    let cleared = stage.clear().await;
    outcome?;
    cleared?;
    say!("Everything is as it should be; nothing is left behind.")?;
    Ok(())
}

impl Stage {
    /// Stops what still runs and removes the directory; goes on after an error and returns the first.
    async fn clear(self) -> Result<(), DemoError> {
        let mut outcome = Ok(());
        for (peer, who) in [(self.origin, ORIGIN), (self.second, SECOND)] {
            if let Some(peer) = peer {
                outcome = outcome.and(stop_peer(peer, who).await);
            }
        }
        if let Some(daemon) = self.daemon {
            outcome = outcome.and(daemon.stop().await.map_err(DemoError::from));
        }
        let path = self.directory.path().to_owned();
        outcome.and(self.directory.close().map_err(|source| DemoError::Leftover { path, source }))
    }
}

async fn stop_peer(peer: Peer, who: &'static str) -> Result<(), DemoError> {
    match tokio::time::timeout(PEER_STOP_MAX, peer.stop()).await {
        Ok(stopped) => stopped.map_err(|source| DemoError::Peer { who, source }),
        Err(_) => Err(DemoError::PeerLate(who)),
    }
}

async fn trip(stage: &mut Stage, size: u64) -> Result<(), DemoError> {
    let directory = stage.directory.path().to_owned();

    let started = Instant::now();
    let origin = Peer::start(&directory.join("origin")).await.map_err(origin_failed)?;
    let origin = stage.origin.insert(origin);
    let made = make(origin, size).await?;
    say!("1. An origin peer has the file {} in {} blocks{}.", made.root, made.blocks, rate(size, started.elapsed()))?;

    let daemon = stage.daemon.insert(Daemon::spawn(&directory)?);
    let ready = daemon.ready().await?;
    say!("2. pinnace serves (process {}): {}", ready.pid, ready.endpoint)?;

    let started = Instant::now();
    pin(&ready, origin, &made).await?;
    say!("3. A client has logged in and asked for a pin, and it is pinned{}.", rate(size, started.elapsed()))?;

    if let Some(origin) = stage.origin.take() {
        stop_peer(origin, ORIGIN).await?;
    }
    say!("4. The origin peer is gone.")?;

    let second = Peer::start(&directory.join("second")).await.map_err(second_failed)?;
    let second = stage.second.insert(second);
    let from = address_of(&ready)?;
    say!("5. A second peer asks {from}")?;
    let started = Instant::now();
    fetch(second, &made, from).await?;
    say!("6. It has fetched everything from pinnace{}.", rate(size, started.elapsed()))?;

    file::compare(SEED, size, made.root, async |cid: &Cid| second.block(cid).await.map_err(second_failed)).await?;
    say!("7. It has read the file back: each of the {size} bytes is right.")?;

    if let Some(daemon) = stage.daemon.take() {
        daemon.stop().await?;
    }
    say!("8. pinnace has stopped in order.")?;
    Ok(())
}

fn origin_failed(source: PeerError) -> DemoError {
    DemoError::Peer { who: ORIGIN, source }
}

fn second_failed(source: PeerError) -> DemoError {
    DemoError::Peer { who: SECOND, source }
}

/// Makes the file in the origin's store.
async fn make(origin: &Peer, size: u64) -> Result<Made, DemoError> {
    let bar = progress("making", size);
    let made = file::make(SEED, size, async |blocks| {
        let bytes = blocks.iter().map(|block| block.data().len() as u64).sum();
        origin.add_blocks(blocks).await.map_err(origin_failed)?;
        bar.inc(bytes);
        Ok::<_, DemoError>(())
    })
    .await;
    bar.finish_and_clear();
    made
}

/// Pins the file as a client does: logs in, asks, and looks until it is pinned.
async fn pin(ready: &ReadyLine, origin: &Peer, made: &Made) -> Result<(), DemoError> {
    let client = Client::log_in(&ready.endpoint, &ready.email, &ready.password).await?;
    let origins = origin.multiaddrs().iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut pin = client.add(&made.root.to_string(), "pinnace demo", &origins).await?;
    let bar = progress("pinning", made.dag_bytes);
    let mut silence = Silence::new();
    loop {
        bar.set_position(pin.raw_size());
        match pin.status.as_str() {
            "pinned" => break,
            "failed" => return Err(DemoError::PinFailed(pin.details().to_owned())),
            _ => silence.check(pin.raw_size(), || format!("pinning; pinnace says: {}", pin.details()))?,
        }
        tokio::time::sleep(LOOK_EVERY).await;
        pin = client.get(&pin.requestid).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// The daemon's address for the second peer.
fn address_of(ready: &ReadyLine) -> Result<Multiaddr, DemoError> {
    ready
        .multiaddrs
        .iter()
        .filter(|address| address.starts_with("/ip4/127.0.0.1/tcp/"))
        .find_map(|address| address.parse().ok())
        .ok_or(DemoError::NoAddress)
}

/// Lets the second peer fetch everything from the daemon.
async fn fetch(second: &Peer, made: &Made, from: Multiaddr) -> Result<(), DemoError> {
    let bytes = Arc::new(AtomicU64::new(0));
    let bar = progress("fetching", made.dag_bytes);
    let fetched = second.fetch(made.root, from, Arc::clone(&bytes));
    let outcome = tokio::select! {
        fetched = fetched => fetched.map_err(second_failed),
        silence = watch(&bytes, &bar) => silence,
    };
    bar.finish_and_clear();
    outcome
}

/// Moves the bar; ends only when nothing comes any more.
async fn watch(bytes: &AtomicU64, bar: &ProgressBar) -> Result<(), DemoError> {
    let mut silence = Silence::new();
    loop {
        let bytes = bytes.load(Ordering::Relaxed);
        bar.set_position(bytes);
        silence.check(bytes, || format!("fetching; {} had come", ByteSize(bytes).display()))?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Notices when a number has not changed for [`SILENCE_MAX`].
struct Silence {
    last: u64,
    since: Instant,
}

impl Silence {
    fn new() -> Self {
        Self { last: 0, since: Instant::now() }
    }

    fn check(&mut self, now: u64, doing: impl FnOnce() -> String) -> Result<(), DemoError> {
        if now != self.last {
            *self = Self { last: now, since: Instant::now() };
        }
        if self.since.elapsed() > SILENCE_MAX { Err(DemoError::Silence { doing: doing() }) } else { Ok(()) }
    }
}

/// A bar on standard error; invisible when that is no terminal.
fn progress(doing: &'static str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(doing);
    match ProgressStyle::with_template("   {msg:9} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}") {
        Ok(style) => bar.with_style(style),
        // The default style shows the same with fewer words.
        Err(_) => bar,
    }
}

/// ", in 1.9 s (134.2 MiB/s)".
fn rate(bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let mebibytes = bytes as f64 / (1024.0 * 1024.0);
    format!(", in {seconds:.1} s ({:.1} MiB/s)", mebibytes / seconds)
}
