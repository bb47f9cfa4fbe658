//! The signals that ask the process to stop.

use std::io;

use super::CliError;

/// Listens for SIGINT and SIGTERM from when it is made, so that none is missed.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Starts to listen; needs the runtime.
    pub(super) fn install() -> Result<Self, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot_listen)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot_listen)?,
        })
    }

    /// The next signal's name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Listens for Ctrl-C.
#[cfg(not(unix))]
#[derive(Debug)]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Starts to listen; needs the runtime.
    pub(super) fn install() -> Result<Self, CliError> {
        Ok(Self)
    }

    /// The next signal's name.
    pub(super) async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            // Without the handler the system ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
fn cannot_listen(source: io::Error) -> CliError {
    CliError::Process { what: "listen for signals", source }
}
