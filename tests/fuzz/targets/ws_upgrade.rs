//! Fuzzes the judge of WebSocket handshakes; see `bodies/ws.rs`.
#![no_main]

#[path = "../bodies/ws.rs"]
#[allow(dead_code)]
mod ws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ws::upgrade(data));
