//! A way to a TCP address that can be cut.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The way. Dropping it cuts it.
pub struct Link {
    /// The same peer, by this way.
    pub address: String,
    task: JoinHandle<()>,
}

impl Link {
    /// A way for one connection to `/ip4/…/tcp/…/p2p/…`.
    pub async fn to(address: &str) -> Self {
        let target: Multiaddr = address.parse().unwrap();
        let parts: Vec<_> = target.iter().collect();
        let [Protocol::Ip4(ip), Protocol::Tcp(port), Protocol::P2p(peer)] = parts[..] else {
            panic!("{address} isn't one of TCP")
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect((ip, port)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
        Self { address: format!("/ip4/127.0.0.1/tcp/{own}/p2p/{peer}"), task }
    }

    /// Ends the connection; both sides see it closed.
    pub async fn cut(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
