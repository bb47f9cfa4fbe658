//! Looks for bytes that `properties::paths` can't stand.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::paths(data));
