//! Fuzzes the client's decoder of one dialect; see `bodies/mqtt.rs`.
#![no_main]

#[path = "../bodies/mqtt.rs"]
#[allow(dead_code)]
mod mqtt;

use hongqiao::front::mqtt::client::Client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt::client(Client::V5, data));
