//! What a look at an own address from the outside can find, with a sentence for each that says what to do.

use std::error::Error;
use std::io;
use std::time::Duration;

use libp2p::core::transport::TransportError;
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId, dns};

use crate::bitswap::wire::Protocol;
use crate::net::address::{self, Host, Reach};

/// Who can use an address, going by the address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everybody on the Internet.
    Public,
    /// Whoever is in the same network.
    Private,
    /// Only this machine.
    Loopback,
    /// It has a name, and who asks for it decides where that leads.
    Name,
    /// Nobody, as far as can be told: it is kept for other purposes, or it is no address.
    Other,
}

impl Scope {
    /// The scope of an address.
    pub fn of(address: &Multiaddr) -> Self {
        match address::parts(address).map(|parts| parts.host) {
            Ok(Host::Ip(ip)) => match address::reach(ip) {
                Reach::Global => Self::Public,
                Reach::Private | Reach::LinkLocal => Self::Private,
                Reach::Loopback => Self::Loopback,
                Reach::Unspecified | Reach::Multicast | Reach::Reserved => Self::Other,
            },
            Ok(Host::Name(name)) if address::is_localhost(&name) => Self::Loopback,
            Ok(Host::Name(name)) if address::is_local_name(&name) => Self::Private,
            Ok(Host::Name(_)) => Self::Name,
            Err(_) => Self::Other,
        }
    }
}

/// Why an address is told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The operator named it as one under which others reach the node.
    External,
    /// Others have reached the node there, or a relay has a place for it.
    Reached,
    /// The node listens there, and the profile allows to announce it.
    Listening,
    /// The node listens there, and nothing better is known: the profile wouldn't announce it.
    LastResort,
}

/// What was found at one of the own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The address, ending in the own peer id.
    pub address: Multiaddr,
    /// Who can use it.
    pub scope: Scope,
    /// Why others are told of it.
    pub source: Source,
    /// Whether the node answers there.
    pub outcome: Result<Reached, Unreached>,
}

impl Probe {
    /// Whether the node answers there.
    pub fn is_reached(&self) -> bool {
        self.outcome.is_ok()
    }

    /// The root, if it came from there.
    pub fn root(&self) -> Option<Root> {
        self.outcome.as_ref().ok().and_then(|reached| reached.root.as_ref().ok()).copied()
    }
}

/// The node answered, with its own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// How long it took to look up the name, to connect and to agree on encryption.
    pub handshake: Duration,
    /// The Bitswap that was agreed on.
    pub protocol: Option<Protocol>,
    /// Whether the root came.
    pub root: Result<Root, NoRoot>,
}

/// The root came, and its bytes are what its hash says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// How long that took from the question on.
    pub after: Duration,
    /// Its length.
    pub bytes: usize,
}

/// Why the node wasn't reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// The network profile forbids to dial it, for this reason.
    #[error("it was not dialled: {0}")]
    NotAllowed(String),
    /// Nobody listens there.
    #[error("the connection was refused: nothing listens there, or a firewall turns connections away")]
    Refused,
    /// Nobody answered in time.
    #[error(
        "no answer came within {} s: a firewall drops what is sent there, or nothing listens there", .0.as_secs()
    )]
    TimedOut(Duration),
    /// Somebody else answers there.
    #[error("another peer answers there, {0}: the address leads to another node")]
    WrongPeer(PeerId),
    /// The machine doesn't know the way.
    #[error("this machine has no route there: {0}")]
    NoRoute(String),
    /// The machine itself forbids to send there.
    #[error("this machine's own firewall forbids to connect there: {0}")]
    Forbidden(String),
    /// The name leads nowhere.
    #[error("its name can't be looked up: {0}")]
    Unresolved(String),
    /// Who listens there doesn't finish the handshake.
    #[error("something listens there, but it ended the connection before it was known to be this node: {0}")]
    Handshake(String),
    /// Something else went wrong.
    #[error("it can't be dialled: {0}")]
    Failed(String),
}

impl Unreached {
    /// The reason as a constant, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAllowed(_) => "not_allowed",
            Self::Refused => "refused",
            Self::TimedOut(_) => "timed_out",
            Self::WrongPeer(_) => "wrong_peer",
            Self::NoRoute(_) => "no_route",
            Self::Forbidden(_) => "forbidden",
            Self::Unresolved(_) => "unresolved",
            Self::Handshake(_) => "handshake",
            Self::Failed(_) => "failed",
        }
    }

    /// Why dialling one address failed after that time.
    pub(in crate::net) fn of(error: &DialError, after: Duration) -> Self {
        match error {
            DialError::WrongPeerId { obtained, .. } => Self::WrongPeer(*obtained),
            DialError::Transport(errors) => match errors.last() {
                Some((_, error)) => Self::of_transport(error, after),
                None => Self::Failed("it has no address".to_owned()),
            },
            error => Self::Failed(error.to_string()),
        }
    }

    /// Why a transport failed at one address after that time.
    pub(in crate::net) fn of_transport(error: &TransportError<io::Error>, after: Duration) -> Self {
        match error {
            TransportError::Other(error) => Self::of_chain(error, after),
            TransportError::MultiaddrNotSupported(_) => Self::Failed("its transport is not supported".to_owned()),
        }
    }

    /// Looks through the causes for one that tells: each layer of the transport puts its own around it.
    fn of_chain(error: &(dyn Error + 'static), after: Duration) -> Self {
        let mut innermost = error;
        let mut cause = Some(error);
        while let Some(error) = cause {
            innermost = error;
            if error.is::<dns::ResolveError>() {
                return Self::Unresolved(error.to_string());
            }
            let io_error = error.downcast_ref::<io::Error>();
            if let Some(found) = io_error.and_then(|error| Self::of_io(error, after)) {
                return found;
            }
            // What an I/O error holds is not its own source, but the one of that is.
            cause = match io_error.and_then(io::Error::get_ref) {
                Some(held) => Some(held),
                None => error.source(),
            };
        }
        Self::Failed(innermost.to_string())
    }

    fn of_io(error: &io::Error, after: Duration) -> Option<Self> {
        use io::ErrorKind::{
            AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
            InvalidData, NetworkDown, NetworkUnreachable, PermissionDenied, TimedOut, UnexpectedEof,
        };
        Some(match error.kind() {
            ConnectionRefused => Self::Refused,
            TimedOut => Self::TimedOut(after),
            HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable => Self::NoRoute(error.to_string()),
            // The guard of the transport has no number, unlike the system.
            PermissionDenied if error.raw_os_error().is_none() => Self::NotAllowed(error.to_string()),
            PermissionDenied => Self::Forbidden(error.to_string()),
            ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof | InvalidData => {
                Self::Handshake(error.to_string())
            }
            _ => return None,
        })
    }
}

/// Why the root didn't come from a node that was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoot {
    /// The node says that it doesn't have it.
    #[error("the node says that it doesn't have the root")]
    Missing,
    /// The node doesn't speak Bitswap.
    #[error("the node doesn't speak Bitswap there")]
    NoBitswap,
    /// What came isn't the root.
    #[error("a block came whose hash isn't that of the root")]
    WrongBlock,
    /// What came broke the rules of the protocol.
    #[error("what came can't be read: {0}")]
    Unreadable(String),
    /// The connection ended before.
    #[error("the node ended the connection before the root came; it may have as many connections as it takes")]
    Lost,
    /// Nothing came in time.
    #[error("the root didn't come within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl NoRoot {
    /// The reason as a constant, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "root_missing",
            Self::NoBitswap => "no_bitswap",
            Self::WrongBlock => "wrong_block",
            Self::Unreadable(_) => "unreadable",
            Self::Lost => "connection_lost",
            Self::TimedOut(_) => "root_timed_out",
        }
    }
}
