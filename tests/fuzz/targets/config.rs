//! Fuzzes the reader of configuration; see `bodies/texts.rs`.
#![no_main]

#[path = "../bodies/texts.rs"]
#[allow(dead_code)]
mod texts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| texts::config(data));
