//! How a command talks to the running process: HTTP over the unix socket in its data directory. What the paths are is in
//! `http::control`; what the answers mean is each command's matter.

use std::cell::OnceCell;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::CliError;
use super::stopped::Stopped;
use crate::config::{Config, Flags, Sources};
use crate::http::control::{Frame, FrameReader, NoFrame};
use crate::store::datadir::control_path;

/// How long one call may take that carries no file.
const CALL_MAX: Duration = Duration::from_secs(60);

/// How long nothing may come of a file that the running process sends.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Characters of an answer that an error shows when it isn't one of pinnace.
const SHOWN_CHARS_MAX: usize = 500;

/// Why the running process gave no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "no pinnace is running with the data directory {directory}{}; start it with `{start}`, or name the directory of the running one with --data DIR",
        if *.missing { " (which does not exist)" } else { "" }
    )]
    NotRunning {
        /// The data directory.
        directory: String,
        /// Whether it isn't there.
        missing: bool,
        /// The command that starts it with this directory.
        start: String,
    },
    /// The socket is another user's.
    #[error(
        "{socket} may be used only by the user who runs pinnace: run this command as that user, such as with sudo -u"
    )]
    Forbidden {
        /// The socket.
        socket: String,
    },
    /// No socket can have such a path.
    #[error(
        "commands can't reach a pinnace with the data directory {directory}: the path of its socket has {bytes} bytes, and the system takes about 100; move it to a directory with a shorter path"
    )]
    PathTooLong {
        /// The data directory.
        directory: String,
        /// The length of the path of the socket.
        bytes: usize,
    },
    /// There are no unix sockets here.
    #[error("this command needs a unix socket, which pinnace doesn't have on this platform")]
    NoSockets,
    /// The connection failed in another way.
    #[error("the pinnace with the data directory {directory} can't be reached")]
    Call {
        /// The data directory.
        directory: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// No path can be made of what was given.
    #[error("what was given can't be part of a path; write it without control characters")]
    BadPath,
    /// It refused, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The file that it sends has no end.
    #[error("the running pinnace broke off in the middle; its log may say why")]
    Broken,
    /// What it sends isn't in frames.
    #[error(transparent)]
    NoFrame(#[from] NoFrame),
    /// The answer isn't of the expected form.
    #[error("the running pinnace gave an answer that this one doesn't understand; it may be of another version")]
    Unexpected(#[source] serde_json::Error),
}

/// Which running process a command is about; to be flattened into its arguments.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ProcessArguments {
    /// Data directory of the running pinnace [default: as for pinnace serve]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file of the running pinnace
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ProcessArguments {
    /// A client for that process. Finds the data directory in the same way as `pinnace serve`.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| CliError::Process { what: "start the runtime of the process", source })?;
        let directory = config.data_directory()?;
        Ok(Client::new(runtime, directory, self.start(), Some(config)))
    }

    /// The configuration, for what works on the data directory itself while no process has it.
    pub(super) fn config(&self) -> Result<Config, CliError> {
        let flags = Flags { data: self.data.clone(), ..Flags::default() };
        Ok(Config::load(&Sources::of_process(self.config.clone(), flags))?)
    }

    /// The command that starts such a process.
    fn start(&self) -> String {
        let mut command = "pinnace serve".to_owned();
        for (flag, path) in [("--data", &self.data), ("--config", &self.config)] {
            if let Some(path) = path {
                command = format!("{command} {flag} {}", path.display());
            }
        }
        command
    }
}

/// A client of a process that may be running. Its calls block, as a command does one thing after the other.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    directory: PathBuf,
    start: String,
    /// For what can be done while nothing runs.
    config: Option<Config>,
    stopped: OnceCell<Stopped>,
}

impl Client {
    fn new(runtime: Runtime, directory: PathBuf, start: String, config: Option<Config>) -> Self {
        Self { runtime, directory, start, config, stopped: OnceCell::new() }
    }

    /// `GET` with the pairs of a query.
    pub(super) fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ControlError> {
        self.call(Method::GET, path, query, None)
    }

    /// Sends JSON. What the store can answer by itself it does, while nothing runs.
    pub(super) fn send(&self, method: &Method, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        let body = serde_json::to_vec(body).map_err(ControlError::Unexpected)?;
        self.ask(method, path, &[], Some(body))
    }

    /// `GET` of what the store can answer by itself while nothing runs.
    pub(super) fn look_up(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CliError> {
        self.ask(&Method::GET, path, query, None)
    }

    /// Like [`Self::send`], without a body.
    pub(super) fn order(&self, method: &Method, path: &str) -> Result<Value, CliError> {
        self.ask(method, path, &[], None)
    }

    fn ask(
        &self,
        method: &Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, CliError> {
        if let Some(stopped) = self.stopped.get() {
            return Ok(stopped.ask(&self.runtime, method, path, query, body)?);
        }
        match (self.call(method.clone(), path, query, body.clone()), &self.config) {
            (Err(ControlError::NotRunning { missing: false, .. }), Some(config)) => {
                let stopped = Stopped::open(&self.runtime, &self.directory, config)?;
                let stopped = self.stopped.get_or_init(|| stopped);
                Ok(stopped.ask(&self.runtime, method, path, query, body)?)
            }
            (answer, _) => Ok(answer?),
        }
    }

    /// `POST` without a body.
    pub(super) fn post(&self, path: &str) -> Result<Value, ControlError> {
        self.call(Method::POST, path, &[], None)
    }

    /// `POST` with the pairs of a query, and without a body.
    pub(super) fn post_with(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ControlError> {
        self.call(Method::POST, path, query, None)
    }

    /// Whether a process runs that takes commands.
    pub(super) fn is_running(&self) -> Result<bool, ControlError> {
        match self.get("/v1/gc", &[]) {
            Ok(_) => Ok(true),
            // Without a directory nothing can be done without a process, either.
            Err(ControlError::NotRunning { missing: false, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `GET` of a file in frames. Its end must come, however long it takes, as long as something moves.
    pub(super) fn read_frames(
        &self,
        path: &str,
        take: &mut dyn FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let socket = control_path(&self.directory);
        let failed = |error| self.explain(error, &socket);
        self.runtime.block_on(async {
            let http = over(&socket)?.read_timeout(IDLE_MAX).build().map_err(failed)?;
            let mut answer = http.get(format!("http://pinnace{path}")).send().await.map_err(failed)?;
            if !answer.status().is_success() {
                let status = answer.status();
                return Ok(understand(status, &answer.bytes().await.map_err(failed)?).map(drop)?);
            }
            let mut frames = FrameReader::default();
            while let Some(bytes) = answer.chunk().await.map_err(failed)? {
                frames.feed(&bytes);
                while let Some(frame) = frames.next_frame().map_err(ControlError::from)? {
                    match frame {
                        Frame::Data(bytes) => take(&bytes)?,
                        Frame::End => return Ok(()),
                        Frame::Failure(reason) => return Err(ControlError::Refused(reason).into()),
                    }
                }
            }
            Err(ControlError::Broken.into())
        })
    }

    /// `POST` of frames, for as long as they come; the answer's JSON.
    pub(super) fn send_frames(
        &self,
        path: &str,
        query: &[(&str, String)],
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Value, CliError> {
        let socket = control_path(&self.directory);
        let failed = |error| self.explain(error, &socket);
        let (status, body) = self.runtime.block_on(async {
            let http = over(&socket)?.build().map_err(failed)?;
            let frames = futures::stream::unfold(frames, |mut frames| async {
                let frame = frames.recv().await?;
                Some((Ok::<_, io::Error>(frame.encode()), frames))
            });
            let body = reqwest::Body::wrap_stream(frames);
            let mut request = http.post(format!("http://pinnace{path}")).body(body).build().map_err(failed)?;
            append(request.url_mut(), query);
            let answer = http.execute(request).await.map_err(failed)?;
            Ok::<_, ControlError>((answer.status(), answer.bytes().await.map_err(failed)?))
        })?;
        Ok(understand(status, &body)?)
    }

    /// One call; the answer's JSON, or null for an answer without a body.
    fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, ControlError> {
        let socket = control_path(&self.directory);
        let failed = |error| self.explain(error, &socket);
        let (status, body) = self.runtime.block_on(async {
            let http = over(&socket)?.timeout(CALL_MAX).build().map_err(failed)?;
            let mut request = http.request(method, format!("http://pinnace{path}"));
            if let Some(body) = body {
                request = request.header(CONTENT_TYPE, "application/json").body(body);
            }
            let mut request = request.build().map_err(failed)?;
            append(request.url_mut(), query);
            let answer = http.execute(request).await.map_err(failed)?;
            Ok::<_, ControlError>((answer.status(), answer.bytes().await.map_err(failed)?))
        })?;
        understand(status, &body)
    }

    fn explain(&self, error: reqwest::Error, socket: &Path) -> ControlError {
        let directory = self.directory.display().to_string();
        match io_kind(&error) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                ControlError::NotRunning { directory, missing: !self.directory.exists(), start: self.start.clone() }
            }
            Some(io::ErrorKind::PermissionDenied) => ControlError::Forbidden { socket: socket.display().to_string() },
            Some(io::ErrorKind::InvalidInput) => {
                ControlError::PathTooLong { directory, bytes: socket.as_os_str().len() }
            }
            _ => ControlError::Call { directory, source: error },
        }
    }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other platforms have no such sockets")]
fn over(socket: &Path) -> Result<reqwest::ClientBuilder, ControlError> {
    // No proxy of the environment leads to a socket, and no certificate is looked at, so the machine may have none.
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([]).unix_socket(socket))
}

#[cfg(not(unix))]
fn over(_socket: &Path) -> Result<reqwest::ClientBuilder, ControlError> {
    Err(ControlError::NoSockets)
}

/// A text as one part of a path, whatever it holds.
pub(super) fn segment(text: &str) -> String {
    // A part of dots only would be taken for a direction.
    if !text.is_empty() && text.bytes().all(|byte| byte == b'.') {
        return "%2E".repeat(text.len());
    }
    let mut url = Url::parse("http://pinnace").ok();
    if let Some(url) = &mut url
        && let Ok(mut parts) = url.path_segments_mut()
    {
        parts.clear().push(text);
    }
    url.map(|url| url.path().trim_start_matches('/').to_owned()).unwrap_or_default()
}

/// Adds the pairs; none leave no question mark.
pub(super) fn append(url: &mut Url, query: &[(&str, String)]) {
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
}

/// What the system said, if an error came from there.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

pub(super) fn understand(status: StatusCode, body: &[u8]) -> Result<Value, ControlError> {
    let json = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice::<Value>(body) };
    if status.is_success() {
        return json.map_err(ControlError::Unexpected);
    }
    let details = json.ok().and_then(|json| Some(json.get("error")?.get("details")?.as_str()?.to_owned()));
    Err(ControlError::Refused(details.unwrap_or_else(|| {
        let body: String = String::from_utf8_lossy(body).chars().take(SHOWN_CHARS_MAX).collect();
        format!("the running pinnace answered with {status}: {body}")
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(directory: &Path) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Client::new(runtime, directory.to_owned(), "pinnace serve --data d".to_owned(), None)
    }

    #[test]
    fn an_answer_is_json_and_a_refusal_its_sentence() {
        assert_eq!(understand(StatusCode::OK, b"{\"a\":1}").unwrap()["a"], 1);
        assert_eq!(understand(StatusCode::NO_CONTENT, b"").unwrap(), Value::Null);
        assert!(matches!(understand(StatusCode::OK, b"<html>"), Err(ControlError::Unexpected(_))));
        let refused = understand(StatusCode::CONFLICT, br#"{"error":{"reason":"CONFLICT","details":"no"}}"#);
        assert_eq!(refused.unwrap_err().to_string(), "no");
        let foreign = understand(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err().to_string();
        assert_eq!(foreign, "the running pinnace answered with 502 Bad Gateway: <html>");
    }

    #[cfg(unix)]
    #[test]
    fn what_the_system_says_becomes_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let get = |directory: &Path| client(directory).get("/v1/status", &[]).unwrap_err();
        let stopped = get(directory.path());
        assert!(matches!(stopped, ControlError::NotRunning { missing: false, .. }), "{stopped:?}");
        assert!(stopped.to_string().contains("`pinnace serve --data d`"), "{stopped}");
        let missing = get(&directory.path().join("missing"));
        assert!(matches!(missing, ControlError::NotRunning { missing: true, .. }), "{missing:?}");
        drop(std::os::unix::net::UnixListener::bind(control_path(directory.path())).unwrap());
        let killed = get(directory.path());
        assert!(matches!(killed, ControlError::NotRunning { missing: false, .. }), "{killed:?}");
        let long = get(&directory.path().join("x".repeat(120)));
        assert!(matches!(long, ControlError::PathTooLong { bytes: 131.., .. }), "{long:?}");
    }
}
