//! The whole service, from the outside: real processes, real HTTP, and peers of another make.
//!
//! rust-ipfs is the independent peer. Kubo has its own tests in `tests/interop`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this program is a test, helpers included")]

mod backup;
mod bandwidth;
mod check;
mod crashes;
mod denylist;
mod gateway;
mod life;
mod other_peers;
mod peering;
mod quiet;
mod restart;
mod retrieval;
mod room;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod two_services;
mod verify;
mod versions;
mod websocket;
