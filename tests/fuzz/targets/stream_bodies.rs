//! Fuzzes the decoder of commands on their way between nodes, and of the answers; see `bodies/stored.rs`.
#![no_main]

#[path = "../bodies/stored.rs"]
#[allow(dead_code)]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::stream_bodies(data));
