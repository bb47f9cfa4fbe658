//! How many files and sockets the process may have open: the system lets it raise that, up to a bound.

/// Files that are open besides connections: stores, listeners, logs, and what the runtime needs.
const OTHER_FILES: u64 = 128;

/// Raises the bound as far as the system allows, and says so where that is too little for `connections`.
#[cfg(unix)]
pub(super) fn raise(connections: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => wanted.current,
        Err(error) => {
            tracing::debug!(%error, "the number of open files can't be raised");
            before.current
        }
    };
    let needed = connections + OTHER_FILES;
    match now {
        Some(now) if now < needed => tracing::warn!(
            "the system lets this process open {now} files and sockets, and it may want {needed}: raise the bound with \
             LimitNOFILE={needed} in a systemd unit or `ulimit -n {needed}` in a shell, or lower network.connections_max"
        ),
        now => tracing::debug!(?now, "files and sockets that may be open"),
    }
}

#[cfg(not(unix))]
pub(super) fn raise(_connections: u64) {}
