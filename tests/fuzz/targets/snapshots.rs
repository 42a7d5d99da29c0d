//! Fuzzes the decoders of snapshots; see `bodies/stored.rs`.
#![no_main]

#[path = "../bodies/stored.rs"]
#[allow(dead_code)]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::snapshots(data));
