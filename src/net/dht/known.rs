//! Keeps the servers that are known over restarts, so that the DHT is entered by any of them, not only by those of the configuration.
//!
//! A file of its own in the data directory, with an address that ends in a peer id on each line: losing it costs nothing but time.

use std::io::{self, Read};
use std::path::Path;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::super::address;
use crate::store::datadir::{DataDirError, write_secret};

/// Servers that are written down.
pub(in crate::net) const SERVERS_MAX: usize = 500;

/// Addresses of each.
pub(in crate::net) const ADDRESSES_MAX: usize = 4;

/// A file that is longer wasn't written here.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What [`save`] wrote; nothing if there is no file. Lines that are no such addresses are left out.
pub(in crate::net) fn load(path: &Path) -> io::Result<Vec<(PeerId, Multiaddr)>> {
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let addresses = String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.parse::<Multiaddr>().ok())
        .filter_map(|address| Some((address::peer(&address)?, address)))
        .take(SERVERS_MAX * ADDRESSES_MAX)
        .collect();
    Ok(addresses)
}

/// Writes servers down, whole or not at all.
pub(in crate::net) fn save(path: &Path, servers: &[(PeerId, Multiaddr)]) -> Result<(), DataDirError> {
    let mut text = String::new();
    for (peer, address) in servers {
        let address = address::without_peer(address).with(Protocol::P2p(*peer));
        text.push_str(&address.to_string());
        text.push('\n');
    }
    write_secret(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_back_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("servers");
        assert_eq!(load(&path).unwrap(), []);
        let (peer, bare): (_, Multiaddr) = (PeerId::random(), "/ip4/1.1.1.1/tcp/4001".parse().unwrap());
        let full = bare.clone().with(Protocol::P2p(peer));
        save(&path, &[(peer, bare.clone()), (peer, full.clone())]).unwrap();
        assert_eq!(load(&path).unwrap(), [(peer, full.clone()), (peer, full.clone())]);
        std::fs::write(&path, format!("hello\n\n{bare}\n\u{0}\n{full}\n/ip4/1.1")).unwrap();
        assert_eq!(load(&path).unwrap(), [(peer, full.clone())]);
        std::fs::write(&path, format!("{full}\n").repeat(10_000)).unwrap();
        assert_eq!(load(&path).unwrap().len(), SERVERS_MAX * ADDRESSES_MAX);
        std::fs::write(&path, vec![0xff; 3 << 20]).unwrap();
        assert_eq!(load(&path).unwrap(), []);
        assert!(load(directory.path()).is_err());
    }
}
