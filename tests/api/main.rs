//! The API over a real socket, with a real store and real accounts and no node: one file for each verb and path.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod auth;
mod errors;
mod gateway;
mod pins_add;
mod pins_get;
mod pins_list;
mod pins_remove;
mod pins_replace;
mod scopes;
mod server;
mod support;
