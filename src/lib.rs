//! pinnace: an IPFS pinning service in one binary.
//!
//! The modules are listed from the top down; each may use those below it and none above
//! (`tests/tidy.rs` holds that). `docs/ARCHITECTURE.md` tells how a pin and a served block travel through them.

pub mod cli;

pub mod app;

pub mod config;

pub mod http;

pub mod pins;

pub mod provide;

pub mod fetch;
pub mod gateway;
pub mod transfer;

pub mod retrieval;
pub mod routing;

pub mod auth;
pub mod net;

pub mod bitswap;
pub mod car;
pub mod dag;
pub mod denylist;
pub mod store;

pub mod model;

pub mod telemetry;
