//! Why a listener or a peer can't be had, in words for people.

use libp2p::swarm::DialError;

use super::address;
use super::probe::Unreached;
use super::transport::CONNECT_MAX;

/// Addresses of which a sentence tells.
const ADDRESSES_MAX: usize = 3;

/// The longest sentence, in characters: what it tells of comes from others in part.
const CHARS_MAX: usize = 400;

/// The innermost cause of an error: the outer texts of transport errors say little.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Why a peer couldn't be dialled.
pub(super) fn dial_problem(error: &DialError) -> String {
    let sentence = match error {
        DialError::Transport(tried) => {
            let causes = tried.iter().take(ADDRESSES_MAX).map(|(at, error)| {
                format!("{}: {}", address::without_peer(at), Unreached::of_transport(error, CONNECT_MAX))
            });
            causes.collect::<Vec<String>>().join(", ")
        }
        DialError::NoAddresses => "no address is known that may be dialled".to_owned(),
        other => Unreached::of(other, CONNECT_MAX).to_string(),
    };
    sentence.chars().take(CHARS_MAX).collect()
}
