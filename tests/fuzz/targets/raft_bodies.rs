//! Fuzzes the decoders of what members of a group ask each other, and of joining; see `bodies/stored.rs`.
#![no_main]

#[path = "../bodies/stored.rs"]
#[allow(dead_code)]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::raft_bodies(data));
