//! A long link on loopback, for benchmarks: carries TCP connections and UDP datagrams to an address, later and not faster than told.
//!
//!     relay TARGET ROUND_TRIP_MILLISECONDS [BYTES_PER_SECOND]
//!
//! It listens on a port of its own, for TCP and UDP alike, prints the address, and ends with its standard input.
//!
//! Every byte leaves the relay half a round trip after it came. With a rate, bytes of each direction leave one after the other, as
//! from one wire that all connections share. What is under way is bounded: TCP waits for room, UDP drops, as a router would.
//!
//! Each direction has a thread that reads and one that sleeps and writes: the system wakes a thread within a tenth of a millisecond,
//! where the timers of an async runtime count in milliseconds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Pieces under way in one direction of one connection: 64 MiB when they are whole, a window that fills 1 GB/s at 50 ms.
const PIECES_UNDER_WAY_MAX: usize = 1024;

/// What a connection may have under way beyond its link's bandwidth times delay, as buffers on the way would hold.
const QUEUE_MAX: Duration = Duration::from_millis(20);

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

impl Link {
    /// Pieces that TCP may have under way, when they are whole.
    fn pieces_under_way(&self) -> usize {
        let Some(rate) = self.rate else { return PIECES_UNDER_WAY_MAX };
        let bytes = u128::from(rate) * (self.round_trip / 2 + QUEUE_MAX).as_millis() / 1000;
        usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(CHUNK_BYTES).clamp(2, PIECES_UNDER_WAY_MAX)
    }
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

/// What is under way, and when it is at the other end.
type Later = (Instant, Vec<u8>);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, round_trip, rate @ ..] = arguments.as_slice() else {
        return Err("usage: relay TARGET ROUND_TRIP_MILLISECONDS [BYTES_PER_SECOND]".into());
    };
    let target: SocketAddr = target.parse()?;
    let rate = rate.first().map(|rate| rate.parse()).transpose()?;
    let link = Link { round_trip: Duration::from_millis(round_trip.parse()?), rate };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let socket = udp_socket(address)?;
    println!("{address}");
    let (there, back) = (Wire::new(link), Wire::new(link));
    let (there_too, back_too) = (Arc::clone(&there), Arc::clone(&back));
    thread::spawn(move || carry_connections(&listener, target, &there_too, &back_too));
    thread::spawn(move || carry_datagrams(&Arc::new(socket), target, &there, &back));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

fn carry_connections(listener: &TcpListener, target: SocketAddr, there: &Arc<Wire>, back: &Arc<Wire>) {
    while let Ok((near, _)) = listener.accept() {
        let (there, back) = (Arc::clone(there), Arc::clone(back));
        thread::spawn(move || {
            // The first packet takes its time as well.
            sleep_until(there.arrival(0));
            let far = TcpStream::connect(target)?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            carry_stream(near.try_clone()?, far.try_clone()?, there);
            carry_stream(far, near, back);
            Ok::<_, io::Error>(())
        });
    }
}

fn carry_stream(mut from: TcpStream, mut to: TcpStream, wire: Arc<Wire>) {
    let (send, receive) = sync_channel::<Later>(wire.link.pieces_under_way());
    thread::spawn(move || {
        let mut piece = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if send.send((wire.arrival(count), piece[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (at, piece) in receive {
            sleep_until(at);
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn carry_datagrams(near: &Arc<UdpSocket>, target: SocketAddr, there: &Wire, back: &Arc<Wire>) {
    let mut flows: HashMap<SocketAddr, SyncSender<Later>> = HashMap::new();
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((count, client)) = near.recv_from(&mut datagram) else { continue };
        let flow = match flows.entry(client) {
            Entry::Occupied(flow) => flow.into_mut(),
            Entry::Vacant(new) => {
                let Ok(flow) = open_flow(near, client, target, back) else { continue };
                new.insert(flow)
            }
        };
        offer(flow, there, &datagram[..count]);
    }
}

fn open_flow(
    near: &Arc<UdpSocket>,
    client: SocketAddr,
    target: SocketAddr,
    back: &Arc<Wire>,
) -> io::Result<SyncSender<Later>> {
    let far = Arc::new(udp_socket(SocketAddr::from(([127, 0, 0, 1], 0)))?);
    far.connect(target)?;
    let (send, receive) = sync_channel(DATAGRAMS_UNDER_WAY);
    let (send_back, receive_back) = sync_channel(DATAGRAMS_UNDER_WAY);
    let (far_too, near, back) = (Arc::clone(&far), Arc::clone(near), Arc::clone(back));
    // What the system refuses is lost, as on any link.
    thread::spawn(move || send_later(receive, |datagram| far_too.send(datagram)));
    thread::spawn(move || send_later(receive_back, |datagram| near.send_to(datagram, client)));
    thread::spawn(move || {
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            if let Ok(count) = far.recv(&mut datagram) {
                offer(&send_back, &back, &datagram[..count]);
            }
        }
    });
    Ok(send)
}

fn send_later(receive: Receiver<Later>, send: impl Fn(&[u8]) -> io::Result<usize>) {
    for (at, datagram) in receive {
        sleep_until(at);
        let _ = send(&datagram);
    }
}

/// A socket that loses nothing while the relay is busy: the system's buffers hold a few packets only.
fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // The system cuts this to what it allows.
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Puts a datagram on the wire, or drops it when the wire's queue is longer than a router's would be.
fn offer(send: &SyncSender<Later>, wire: &Wire, datagram: &[u8]) {
    if wire.waits() <= wire.link.round_trip.max(Duration::from_millis(10)) {
        let _ = send.try_send((wire.arrival(datagram.len()), datagram.to_vec()));
    }
}
