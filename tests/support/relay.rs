//! A long link on loopback, for benchmarks: carries TCP connections and UDP datagrams to an address, later and not faster than told.
//!
//!     relay TARGET ROUND_TRIP_MILLISECONDS [BYTES_PER_SECOND]
//!
//! It listens on a port of its own, for TCP and UDP alike, prints the address, and ends with its standard input.
//!
//! Every byte leaves the relay half a round trip after it came. With a rate, bytes of each direction leave one after the other, as
//! from one wire that all connections share. What is under way is bounded: TCP waits for room, UDP drops, as a router would.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes under way in one direction of one connection: a window that fills 1 GB/s at 50 ms.
const UNDER_WAY_BYTES: usize = 64 * 1024 * 1024;

/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_536;

/// The buffers of a UDP socket, in bytes.
const SOCKET_BYTES: usize = 16 * 1024 * 1024;

/// Datagrams under way in one direction of one flow.
const DATAGRAMS_UNDER_WAY: usize = 65_536;

/// How the link is.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// From one end to the other and back.
    round_trip: Duration,
    /// Bytes per second in each direction; `None` for as many as come.
    rate: Option<u64>,
}

/// One direction of the wire, which all connections share.
#[derive(Debug)]
struct Wire {
    link: Link,
    /// When the wire has carried everything that it was given.
    free_at: Mutex<Instant>,
}

impl Wire {
    fn new(link: Link) -> Arc<Self> {
        Arc::new(Self { link, free_at: Mutex::new(Instant::now()) })
    }

    /// When something that comes now is at the other end.
    fn arrival(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now);
        if let Some(rate) = self.link.rate {
            *free_at += Duration::from_secs_f64(bytes as f64 / rate as f64);
        }
        *free_at + self.link.round_trip / 2
    }

    /// How long something that comes now waits for the wire.
    fn waits(&self) -> Duration {
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner).saturating_duration_since(Instant::now())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, round_trip, rate @ ..] = arguments.as_slice() else {
        return Err("usage: relay TARGET ROUND_TRIP_MILLISECONDS [BYTES_PER_SECOND]".into());
    };
    let target: SocketAddr = target.parse()?;
    let rate = rate.first().map(|rate| rate.parse()).transpose()?;
    let link = Link { round_trip: Duration::from_millis(round_trip.parse()?), rate };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let socket = Arc::new(udp_socket(address)?);
    println!("{address}");
    let (there, back) = (Wire::new(link), Wire::new(link));
    let (ended, mut end) = mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(ended);
    });
    tokio::select! {
        () = carry_connections(listener, target, Arc::clone(&there), Arc::clone(&back)) => {}
        () = carry_datagrams(socket, target, there, back) => {}
        _ = end.recv() => {}
    }
    Ok(())
}

async fn carry_connections(listener: TcpListener, target: SocketAddr, there: Arc<Wire>, back: Arc<Wire>) {
    let mut tasks = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        tasks.spawn(async move {
            // The first packet takes its time as well.
            tokio::time::sleep_until(there.arrival(0)).await;
            let Ok(far) = TcpStream::connect(target).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::join!(carry_stream(near_read, far_write, there), carry_stream(far_read, near_write, back));
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn carry_stream<R, W>(mut from: R, mut to: W, wire: Arc<Wire>)
where
    R: AsyncReadExt + Unpin,
    W: AsyncWriteExt + Unpin,
{
    let (send, mut receive) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let room = Arc::new(Semaphore::new(UNDER_WAY_BYTES));
    let read_room = Arc::clone(&room);
    let read = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let Ok(permit) = read_room.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await else { return };
            permit.forget();
            if send.send((wire.arrival(count), chunk[..count].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = receive.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                room.close();
                return;
            }
            room.add_permits(chunk.len());
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

async fn carry_datagrams(near: Arc<UdpSocket>, target: SocketAddr, there: Arc<Wire>, back: Arc<Wire>) {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<(Instant, Vec<u8>)>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((count, client)) = near.recv_from(&mut datagram).await else { continue };
        let flow = match flows.entry(client) {
            Entry::Occupied(flow) => flow.into_mut(),
            Entry::Vacant(new) => {
                let Ok(far) = connected(target).await else { continue };
                let far = Arc::new(far);
                let (send, receive) = mpsc::channel(DATAGRAMS_UNDER_WAY);
                tasks.spawn(send_later(receive, Arc::clone(&far), None));
                let (send_back, receive_back) = mpsc::channel(DATAGRAMS_UNDER_WAY);
                tasks.spawn(send_later(receive_back, Arc::clone(&near), Some(client)));
                tasks.spawn(receive_from(far, send_back, Arc::clone(&back)));
                new.insert(send)
            }
        };
        offer(flow, &there, &datagram[..count]);
    }
}

async fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
    socket.connect(target).await?;
    Ok(socket)
}

/// A socket that loses nothing while the relay is busy: the system's buffers hold a few packets only.
fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // The system cuts this to what it allows.
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn receive_from(socket: Arc<UdpSocket>, send: mpsc::Sender<(Instant, Vec<u8>)>, wire: Arc<Wire>) {
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        if let Ok(count) = socket.recv(&mut datagram).await {
            offer(&send, &wire, &datagram[..count]);
        }
    }
}

/// Puts a datagram on the wire, or drops it when the wire's queue is longer than a router's would be.
fn offer(send: &mpsc::Sender<(Instant, Vec<u8>)>, wire: &Wire, datagram: &[u8]) {
    if wire.waits() <= wire.link.round_trip.max(Duration::from_millis(10)) {
        let _ = send.try_send((wire.arrival(datagram.len()), datagram.to_vec()));
    }
}

async fn send_later(mut receive: mpsc::Receiver<(Instant, Vec<u8>)>, socket: Arc<UdpSocket>, to: Option<SocketAddr>) {
    while let Some((at, datagram)) = receive.recv().await {
        tokio::time::sleep_until(at).await;
        // What the system refuses is lost, as on any link.
        let _ = match to {
            Some(to) => socket.send_to(&datagram, to).await,
            None => socket.send(&datagram).await,
        };
    }
}
