//! The unix socket: who may connect, a file that was left behind, and the file's end.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::{ControlState, router};
use crate::http::front::Front;
use crate::http::serve::{Listener, serve_router};

/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 64;

/// The socket, listening. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket at `path`, for the owner alone. A file that is there is replaced: the caller holds the lock on
    /// the data directory, so it was left behind by a process that has ended.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Nobody can connect before the permissions are set, as nothing listens yet.
        let listener =
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).and_then(|()| socket.listen(BACKLOG));
        match listener {
            Ok(listener) => Ok(Self { listener, path: path.to_owned() }),
            Err(error) => {
                remove(path);
                Err(error)
            }
        }
    }

    /// Serves until `shutdown` is done. The file goes then, also when this is cancelled.
    pub async fn serve(self, state: ControlState, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
        serve_router(self, router(state), Front::default(), shutdown).await
    }
}

impl Listener for ControlSocket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((self.listener.accept().await?.0, None))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What can't be removed is replaced by the next start.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "the control socket's file can't be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_file_is_private_replaces_a_stale_one_and_goes_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        // As a killed process leaves it: there, with nobody listening.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), socket.next());
        connected.unwrap();
        assert!(accepted.unwrap().1.is_none());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_or_taken_by_a_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(120));
        assert_eq!(ControlSocket::bind(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let taken = directory.path().join("admin.sock");
        fs::create_dir(&taken).unwrap();
        ControlSocket::bind(&taken).unwrap_err();
        assert!(taken.is_dir());
    }
}
