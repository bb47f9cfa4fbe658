//! Larger buffers for the sockets that QUIC uses.
//!
//! The system's default holds about 150 packets. A sender on a long link sends more than that at once, what doesn't fit is lost,
//! and the sender takes the loss for a full link and slows down. libp2p-quic opens its sockets itself and offers no way to
//! size them, so they are looked for among this process's own files, where no other UDP socket lives for long.

use std::fs;
use std::io;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Domain, SockRef, Type};

/// Bytes of one socket's buffer, in each direction: what 80 MB/s send in a round trip of 50 ms. The memory is taken only
/// while packets wait.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Enlarges the buffers of all UDP sockets as far as the system allows, and says so where that is little.
pub(super) fn enlarge() {
    match enlarge_all() {
        // The system counts its own overhead too, and gives twice what it is asked for.
        Ok(Some(bytes)) if bytes / 2 < BUFFER_BYTES => tracing::warn!(
            "the system allows UDP buffers of {} KiB only, so QUIC is slow on long links; \
             `sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}` allows more",
            bytes / 2 / 1024
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the buffers of UDP sockets can't be enlarged"),
    }
}

/// The smallest receive buffer afterwards; `None` without a socket.
fn enlarge_all() -> io::Result<Option<usize>> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut smallest = None;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A file may be closed meanwhile, and most are no sockets.
        let Ok(file) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = SockRef::from(&file);
        let is_udp =
            matches!(socket.r#type(), Ok(Type::DGRAM)) && matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6));
        if is_udp {
            socket.set_recv_buffer_size(BUFFER_BYTES)?;
            socket.set_send_buffer_size(BUFFER_BYTES)?;
            let bytes = socket.recv_buffer_size()?;
            smallest = Some(smallest.map_or(bytes, |smallest: usize| smallest.min(bytes)));
        }
    }
    Ok(smallest)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn open_sockets_get_larger_buffers() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let size = || SockRef::from(&socket).recv_buffer_size().unwrap();
        SockRef::from(&socket).set_recv_buffer_size(16 * 1024).unwrap();
        let before = size();
        let smallest = enlarge_all().unwrap().unwrap();
        assert!(size() > before && smallest <= size(), "{before}, then {}", size());
    }
}
