//! Fuzzes topic names, filters and shares; see `bodies/topics.rs`.
#![no_main]

#[path = "../bodies/topics.rs"]
#[allow(dead_code)]
mod topics;

libfuzzer_sys::fuzz_target!(|data: &[u8]| topics::topics(data));
