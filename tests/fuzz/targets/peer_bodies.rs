//! Fuzzes the decoders of what the servers of one cluster ask and send each other; see `bodies/stored.rs`.
#![no_main]

#[path = "../bodies/stored.rs"]
#[allow(dead_code)]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::peer_bodies(data));
