//! Fuzzes the reader of user names; see `bodies/texts.rs`.
#![no_main]

#[path = "../bodies/texts.rs"]
#[allow(dead_code)]
mod texts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| texts::user_name(data));
