//! The API over a real socket, with a real store and real accounts and no node: one file for each verb and path.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod accounts;
mod admin;
mod auth;
mod break_in;
mod errors;
mod expiry;
mod gateway;
mod limits;
mod model;
mod openapi;
mod pins_add;
mod pins_get;
mod pins_list;
mod pins_remove;
mod pins_replace;
mod proxies;
mod scopes;
mod server;
mod support;
mod tls;
mod webhooks;
