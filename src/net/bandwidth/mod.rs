//! What goes over the network: counted by direction, transport and protocol, and bounded where the operator wants it.
//!
//! All streams of all connections pass through [`Metered`], above the multiplexer. What is counted and bounded are
//! therefore the bytes of streams; encryption, multiplexing and IP add a few per cent to them.

mod limiter;
mod metered;
mod negotiated;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

pub(super) use self::metered::Metered;

use self::limiter::Limiter;
use super::Options;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From peers to us.
    Download,
    /// From us to peers.
    Upload,
}

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// TCP with TLS or Noise, and yamux.
    Tcp,
    /// QUIC v1.
    Quic,
    /// WebSocket, with the same above it as TCP.
    WebSocket,
    /// A stream to a relay. What goes over it is counted once more, encrypted, as [`Talk::Relay`] of the connection to the relay.
    Relay,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Agreeing on one of the others.
    Negotiation,
    /// Blocks, and who has and wants which.
    Bitswap,
    /// The DHT.
    Dht,
    /// Who the other is and what it speaks.
    Identify,
    /// Whether the other is there.
    Ping,
    /// Places at relays, and what goes through them.
    Relay,
    /// How to get from a relay to a direct connection.
    Dcutr,
    /// Whether we are reached from outside.
    Autonat,
    /// Anything else.
    Other,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Download, Self::Upload];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Upload => "upload",
        }
    }
}

impl Carrier {
    const ALL: [Self; 4] = [Self::Tcp, Self::Quic, Self::WebSocket, Self::Relay];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Relay => "relay",
        }
    }
}

impl Talk {
    const ALL: [Self; 9] = [
        Self::Negotiation,
        Self::Bitswap,
        Self::Dht,
        Self::Identify,
        Self::Ping,
        Self::Relay,
        Self::Dcutr,
        Self::Autonat,
        Self::Other,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Negotiation => "negotiation",
            Self::Bitswap => "bitswap",
            Self::Dht => "dht",
            Self::Identify => "identify",
            Self::Ping => "ping",
            Self::Relay => "relay",
            Self::Dcutr => "dcutr",
            Self::Autonat => "autonat",
            Self::Other => "other",
        }
    }

    /// What the protocol of this name is for.
    fn of(protocol: &[u8]) -> Self {
        let prefixes: [(&[u8], Self); 7] = [
            (b"/ipfs/bitswap", Self::Bitswap),
            (b"/ipfs/kad/", Self::Dht),
            (b"/ipfs/id/", Self::Identify),
            (b"/ipfs/ping/", Self::Ping),
            (b"/libp2p/circuit/relay/", Self::Relay),
            (b"/libp2p/dcutr", Self::Dcutr),
            (b"/libp2p/autonat/", Self::Autonat),
        ];
        prefixes.into_iter().find(|(prefix, _)| protocol.starts_with(prefix)).map_or(Self::Other, |(_, talk)| talk)
    }

    /// Whether it is of use to either side: what only keeps a connection isn't.
    fn is_use(self) -> bool {
        !matches!(self, Self::Negotiation | Self::Identify | Self::Ping)
    }
}

/// A figure of [`Bandwidth::counted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Which way they went.
    pub direction: Direction,
    /// What carried them.
    pub carrier: Carrier,
    /// What they were for.
    pub talk: Talk,
    /// Bytes of streams since the start.
    pub bytes: u64,
}

/// What all connections of one peer share.
#[derive(Debug, Default)]
struct Use {
    connections: usize,
    /// Bytes that were of use to either side.
    bytes: Arc<AtomicU64>,
}

/// What all connections of a node share.
#[derive(Debug, Default)]
pub struct Bandwidth {
    /// Of every connected peer. Locked when a connection begins or ends, and when somebody looks, but not for streams.
    uses: Mutex<HashMap<PeerId, Use>>,
    bytes: [[[AtomicU64; Talk::ALL.len()]; Carrier::ALL.len()]; Direction::ALL.len()],
    limiters: [Option<Arc<Limiter>>; Direction::ALL.len()],
    next_stream: AtomicU64,
}

impl Bandwidth {
    /// With the bounds of the configuration. Needs a tokio runtime.
    pub fn new(options: &Options) -> Arc<Self> {
        let limiter = |rate: bytesize::ByteSize| (rate.as_u64() > 0).then(|| Limiter::start(rate.as_u64()));
        let limiters = Direction::ALL.map(|direction| {
            limiter(match direction {
                Direction::Download => options.download_max,
                Direction::Upload => options.upload_max,
            })
        });
        Arc::new(Self { limiters, ..Self::default() })
    }

    /// Counts what nobody looks at, and bounds nothing.
    pub fn unbounded() -> Arc<Self> {
        Arc::default()
    }

    /// All figures but those that are nought.
    pub fn counted(&self) -> Vec<Counted> {
        let mut counted = Vec::new();
        for direction in Direction::ALL {
            for carrier in Carrier::ALL {
                for talk in Talk::ALL {
                    let bytes = self.counter(direction, carrier, talk).load(Ordering::Relaxed);
                    if bytes > 0 {
                        counted.push(Counted { direction, carrier, talk, bytes });
                    }
                }
            }
        }
        counted
    }

    /// How much has gone over the connections of each connected peer that was of use to either side, in bytes. Who only pings, or tells
    /// who it is, has nought.
    pub fn used(&self) -> Vec<(PeerId, u64)> {
        self.uses().iter().map(|(peer, each)| (*peer, each.bytes.load(Ordering::Relaxed))).collect()
    }

    /// A connection begins; returns what to count its use with.
    fn begin(&self, peer: PeerId) -> Arc<AtomicU64> {
        let mut uses = self.uses();
        let each = uses.entry(peer).or_default();
        each.connections += 1;
        Arc::clone(&each.bytes)
    }

    /// A connection has ended.
    fn end(&self, peer: &PeerId) {
        let mut uses = self.uses();
        if let Some(each) = uses.get_mut(peer) {
            each.connections -= 1;
            if each.connections == 0 {
                uses.remove(peer);
            }
        }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<PeerId, Use>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counter(&self, direction: Direction, carrier: Carrier, talk: Talk) -> &AtomicU64 {
        &self.bytes[direction as usize][carrier as usize][talk as usize]
    }

    /// Relays' streams are bounded as part of the connection to the relay.
    fn limiter(&self, direction: Direction, carrier: Carrier) -> Option<&Arc<Limiter>> {
        self.limiters[direction as usize].as_ref().filter(|_| carrier != Carrier::Relay)
    }
}
