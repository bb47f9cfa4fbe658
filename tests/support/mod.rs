//! What the end-to-end tests and the fault tests share: pinnace as a child process, its API as a client sees it, DAGs,
//! and peers that say on the wire exactly what a test wants.
//!
//! Nothing here reaches into the service: it is the real binary, over real HTTP and libp2p, on loopback.

#![allow(dead_code, reason = "each of the two test programs uses a part of it")]

pub mod api;
pub mod asker;
pub mod daemon;
pub mod dag;
pub mod link;
pub mod peer;
pub mod provider;
pub mod streams;
pub mod trustless;
pub mod wire;

use std::time::{Duration, Instant};

/// How often something is looked at that tells of itself in no other way.
const POLL: Duration = Duration::from_millis(20);

/// Looks until there is something, for so many seconds at most.
#[track_caller]
pub fn until<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{caller}: no {what} after {seconds} s");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Waits for a future, for so many seconds at most.
pub async fn within<T>(what: &str, seconds: u64, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(Duration::from_secs(seconds), future).await;
    outcome.unwrap_or_else(|_| panic!("no {what} after {seconds} s"))
}
