//! The demo's daemon: this same program as a child process, in a group of its own so that Ctrl-C reaches the demo only.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::model::limits::SHUTDOWN_MAX;

/// How long the daemon may take until it serves.
const READY_MAX: Duration = Duration::from_secs(30);

/// How much longer than its own limit the stop may take.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// Bytes at the end of the daemon's log that an error shows.
const LOG_TAIL_BYTES: u64 = 2000;

/// Bytes of the line that says it is ready.
const READY_LINE_BYTES_MAX: u64 = 64 * 1024;

/// Why the daemon doesn't play its part.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The process can't be started or watched.
    #[error("cannot run pinnace serve")]
    Spawn(#[source] io::Error),
    /// It isn't ready, and won't be.
    #[error("pinnace serve did not become ready; the end of its log: {log}")]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// What it said isn't the line that was expected.
    #[error("pinnace serve said something else than expected")]
    BadLine(#[source] serde_json::Error),
    /// It did not stop in time, and was killed.
    #[error("pinnace serve did not stop in time; the end of its log: {log}")]
    Late {
        /// The end of its log.
        log: String,
    },
    /// It ended with an error.
    #[error("pinnace serve ended with {status}; the end of its log: {log}")]
    Failed {
        /// Its status.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
}

/// The line of `--ready-json` at a first start.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ReadyLine {
    /// The PSA endpoint.
    pub(super) endpoint: String,
    /// Its addresses for peers.
    pub(super) multiaddrs: Vec<String>,
    /// Its process id.
    pub(super) pid: u32,
    /// The new account.
    pub(super) email: String,
    /// That account's password.
    pub(super) password: String,
}

/// A running daemon. One that is dropped is killed.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    /// The daemon stops when this is closed.
    stdin: Option<ChildStdin>,
    first_line: Option<oneshot::Receiver<io::Result<String>>>,
    output_end: Option<oneshot::Receiver<()>>,
    log: PathBuf,
}

impl Daemon {
    /// Starts the process, with its data and its log in the given directory.
    pub(super) fn spawn(directory: &Path) -> Result<Self, DaemonError> {
        let log = directory.join("daemon.log");
        let mut command = Command::new(std::env::current_exe().map_err(DaemonError::Spawn)?);
        command.args(["serve", "--ready-json", "--stop-at-eof", "--lan", "--http", "127.0.0.1:0"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
        command.arg("--data").arg(directory.join("daemon"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).map_err(DaemonError::Spawn)?);
        // The demo is about the defaults, whatever this shell has set.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PINNACE_")) {
            command.env_remove(name);
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);

        let mut child = command.spawn().map_err(DaemonError::Spawn)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let mut daemon = Self { child, stdin, first_line: None, output_end: None, log };
        if let Some(stdout) = stdout {
            daemon.watch(stdout)?;
        }
        Ok(daemon)
    }

    /// Reads the output in a thread: the first line, then its end, which is the end of the process.
    fn watch(&mut self, stdout: ChildStdout) -> Result<(), DaemonError> {
        let (line_sender, line_receiver) = oneshot::channel();
        let (end_sender, end_receiver) = oneshot::channel();
        self.first_line = Some(line_receiver);
        self.output_end = Some(end_receiver);
        std::thread::Builder::new()
            .name("daemon".to_owned())
            .spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = String::new();
                let read = stdout.by_ref().take(READY_LINE_BYTES_MAX).read_line(&mut line);
                // Nobody waits for it when the demo was stopped.
                let _ = line_sender.send(read.map(|_| line));
                let _ = io::copy(&mut stdout, &mut io::sink());
                let _ = end_sender.send(());
            })
            .map(drop)
            .map_err(DaemonError::Spawn)
    }

    /// Waits until the daemon serves.
    pub(super) async fn ready(&mut self) -> Result<ReadyLine, DaemonError> {
        let line = match self.first_line.take() {
            Some(line) => tokio::time::timeout(READY_MAX, line).await,
            None => return Err(DaemonError::NotReady { log: self.log_tail() }),
        };
        match line {
            Ok(Ok(Ok(line))) if !line.is_empty() => serde_json::from_str(&line).map_err(DaemonError::BadLine),
            _ => Err(DaemonError::NotReady { log: self.log_tail() }),
        }
    }

    /// Stops the daemon in order, and says whether it went well.
    pub(super) async fn stop(mut self) -> Result<(), DaemonError> {
        drop(self.stdin.take());
        if let Some(end) = self.output_end.take()
            && tokio::time::timeout(SHUTDOWN_MAX + STOP_MARGIN, end).await.is_err()
        {
            return Err(DaemonError::Late { log: self.log_tail() });
        }
        let status = self.child.wait().map_err(DaemonError::Spawn)?;
        if status.success() { Ok(()) } else { Err(DaemonError::Failed { status, log: self.log_tail() }) }
    }

    /// The end of the log in one line; what can't be read is left out, for an error is being told already.
    fn log_tail(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        let tail = read().unwrap_or_default();
        let tail = String::from_utf8_lossy(&tail).split_whitespace().collect::<Vec<_>>().join(" ");
        if tail.is_empty() { "(empty)".to_owned() } else { tail }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
