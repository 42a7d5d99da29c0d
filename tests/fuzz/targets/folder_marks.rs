//! Fuzzes the readers of `FORMAT` and `node`; see `bodies/stored.rs`.
#![no_main]

#[path = "../bodies/stored.rs"]
#[allow(dead_code)]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::folder_marks(data));
