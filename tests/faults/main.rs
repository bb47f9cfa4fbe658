//! What goes wrong around a service: its files, its ports, its outputs, its process, and peers of every kind. Each fault
//! is survived, or told in a line that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this program is a test, helpers included")]

mod bitswap;
mod data_directory;
mod eclipse;
mod outputs;
mod ports;
mod sources;
mod stops;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
