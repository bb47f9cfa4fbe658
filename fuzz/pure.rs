//! The modules of pinnace that read bytes from strangers, and nothing else of it: with the network, the database and the
//! server, building the fuzz targets would take many times as long.

#![allow(dead_code, reason = "what only the other modules use")]

#[path = "../src/bitswap/mod.rs"]
pub mod bitswap;
#[path = "../src/car/mod.rs"]
pub mod car;
#[path = "../src/dag/mod.rs"]
pub mod dag;
#[path = "../src/model/mod.rs"]
pub mod model;
