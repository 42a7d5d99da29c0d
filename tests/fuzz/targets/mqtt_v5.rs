//! Fuzzes the server's decoder of one dialect; see `bodies/mqtt.rs`.
#![no_main]

#[path = "../bodies/mqtt.rs"]
#[allow(dead_code)]
mod mqtt;

use hongqiao::model::wire::Dialect;

libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt::server(Dialect::MqttV5, data));
