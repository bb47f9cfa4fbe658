//! pinnace as an operator runs it: the real binary, one data directory, a log file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::api::Api;
use super::within;

/// How long a start or a stop may take in a debug build on a busy machine.
const START_SECONDS: u64 = 20;

/// A data directory, and what one needs to start pinnace on it.
pub struct Home {
    directory: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// The data directory; made by the first start.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A file or directory of the test's own, beside the data.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command line with free ports on loopback.
    pub fn serve(&self) -> Serve {
        Serve::new(&self.data(), self.path("pinnace.log"))
    }

    pub async fn start(&self) -> Daemon {
        self.serve().start().await
    }
}

/// A start of pinnace.
pub struct Serve {
    command: Command,
    log: PathBuf,
    listen: Vec<String>,
    http: String,
}

impl Serve {
    pub fn new(data: &Path, log: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PINNACE_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--lan", "--ready-json", "--data"]).arg(data).stdin(Stdio::null());
        let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned(), "/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        Self { command, log, listen, http: "127.0.0.1:0".to_owned() }
    }

    /// Listens for peers there instead.
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(|address| (*address).to_owned()).collect();
        self
    }

    /// Serves HTTP there instead.
    pub fn http(mut self, address: &str) -> Self {
        address.clone_into(&mut self.http);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn spawn(mut self, stdout: Stdio, stderr: Option<Stdio>) -> (Child, PathBuf) {
        for address in &self.listen {
            self.command.args(["--listen", address]);
        }
        self.command.args(["--http", &self.http]);
        let stderr = stderr.unwrap_or_else(|| File::create(&self.log).unwrap().into());
        let child = self.command.stdout(stdout).stderr(stderr).spawn().unwrap();
        (child, self.log)
    }

    /// Starts and waits until it serves.
    pub async fn start(self) -> Daemon {
        let (child, log) = self.spawn(Stdio::piped(), None);
        Daemon::wait_ready(child, log).await
    }

    /// Starts with its log going there, and waits until it serves.
    pub async fn start_logging_to(self, stderr: Stdio) -> Daemon {
        let (child, log) = self.spawn(Stdio::piped(), Some(stderr));
        File::create(&log).unwrap();
        Daemon::wait_ready(child, log).await
    }

    /// Starts, and waits until it gives up.
    pub async fn fail(self) -> Failure {
        self.fail_writing_to(Stdio::piped()).await
    }

    /// Starts with that standard output, and waits until it gives up.
    pub async fn fail_writing_to(self, stdout: Stdio) -> Failure {
        let (mut child, log) = self.spawn(stdout, None);
        let id = child.id();
        let output = child.stdout.take();
        let (sender, ended) = oneshot::channel();
        thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut output) = output {
                output.read_to_string(&mut text).unwrap();
            }
            let _ = sender.send((child.wait().unwrap(), text));
        });
        let Ok(Ok((status, stdout))) = tokio::time::timeout(Duration::from_secs(START_SECONDS), ended).await else {
            signal(id, "KILL");
            panic!("pinnace serves instead of giving up; its log: {}", std::fs::read_to_string(&log).unwrap());
        };
        let stderr = std::fs::read_to_string(&log).unwrap();
        Failure { status, stdout, stderr }
    }
}

/// A start that did not end in a service.
#[derive(Debug)]
pub struct Failure {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Failure {
    /// The one line that tells the operator, after all that was logged.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or_else(|| panic!("the last line tells no error: {self:?}"))
    }

    /// Checks that the error holds all of these, and that nothing panicked.
    #[track_caller]
    pub fn says(&self, texts: &[&str]) {
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self.says_in_the_end(texts);
    }

    /// Checks that the error holds all of these, whatever was logged before.
    #[track_caller]
    pub fn says_in_the_end(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.error().contains(text), "\"{text}\" is not in: {}", self.error());
        }
    }
}

/// The line of `--ready-json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    pub endpoint: String,
    pub peer_id: String,
    pub multiaddrs: Vec<String>,
    pub pid: u32,
    pub email: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub metrics: Option<String>,
}

impl Ready {
    /// Where peers reach it over a transport: `/tcp/` or `/quic-v1`.
    #[track_caller]
    pub fn multiaddr(&self, transport: &str) -> String {
        let found = self.multiaddrs.iter().find(|address| address.contains(transport));
        found.unwrap_or_else(|| panic!("no {transport} in {self:?}")).clone()
    }

    /// The token of the first start.
    #[track_caller]
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("a token, as this is the first start")
    }

    pub fn has_no_secret(&self) -> bool {
        self.email.is_none() && self.password.is_none() && self.token.is_none()
    }
}

/// Runs a command for the process on this data directory, which sees nothing of the environment's own settings.
pub fn run(arguments: &[&str], data: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PINNACE_")) {
        command.env_remove(name);
    }
    command.args(arguments).arg("--data").arg(data).output().unwrap()
}

/// A running pinnace. One that is dropped is killed.
pub struct Daemon {
    pub ready: Ready,
    child: Child,
    output_end: Option<oneshot::Receiver<()>>,
    log: PathBuf,
}

impl Daemon {
    async fn wait_ready(mut child: Child, log: PathBuf) -> Self {
        let stdout = child.stdout.take().unwrap();
        let (line, output_end) = watch(stdout);
        let nothing = Ready {
            endpoint: String::new(),
            peer_id: String::new(),
            multiaddrs: Vec::new(),
            pid: child.id(),
            email: None,
            password: None,
            token: None,
            metrics: None,
        };
        let mut daemon = Self { ready: nothing, child, output_end: Some(output_end), log };
        let line = within("ready line", START_SECONDS, line).await.unwrap();
        daemon.ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in the line {line:?}"));
        assert_eq!(daemon.ready.pid, daemon.child.id());
        daemon
    }

    /// A client with the token of the first start, which was this one.
    #[track_caller]
    pub fn api(&self) -> Api {
        self.api_with(self.ready.token())
    }

    pub fn api_with(&self, token: &str) -> Api {
        Api::new(&self.ready.endpoint, token)
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The most memory that it ever used, in bytes.
    #[cfg(target_os = "linux")]
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Stops reading its log, where that is a pipe.
    pub fn close_log_pipe(&mut self) {
        drop(self.child.stderr.take().expect("a pipe"));
    }

    /// SIGTERM; how it ended, and how long that took.
    pub async fn terminate(mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        signal(self.child.id(), "TERM");
        let end = self.output_end.take().unwrap();
        within("end after SIGTERM", START_SECONDS, end).await.unwrap();
        let status = self.child.wait().unwrap();
        assert!(!self.log().contains("panicked"), "{}", self.log());
        (status, began.elapsed())
    }

    /// SIGTERM twice in a row, as from someone who signals the process and then its group.
    pub async fn terminate_twice(self) -> (ExitStatus, Duration) {
        signal(self.child.id(), "TERM");
        self.terminate().await
    }

    /// SIGKILL, at whatever it is doing.
    pub async fn kill(mut self) {
        self.child.kill().unwrap();
        within("end after SIGKILL", START_SECONDS, self.output_end.take().unwrap()).await.unwrap();
        self.child.wait().unwrap();
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of pinnace:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Reads the output in a thread: the first line, then its end, which is the end of the process.
fn watch(stdout: ChildStdout) -> (oneshot::Receiver<String>, oneshot::Receiver<()>) {
    let (line_sender, line_receiver) = oneshot::channel();
    let (end_sender, end_receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let (mut line, mut rest) = (String::new(), String::new());
        let _ = stdout.read_line(&mut line);
        let _ = line_sender.send(line);
        let _ = stdout.read_to_string(&mut rest);
        let _ = end_sender.send(());
    });
    (line_receiver, end_receiver)
}

/// The standard library sends no signal but SIGKILL; every POSIX shell can.
fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success());
}
