//! Replays the seed corpus of every fuzz target, so that a crash once found stays fixed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fuzz/bodies/mqtt.rs"]
mod mqtt;
#[path = "fuzz/bodies/ws.rs"]
mod ws;

use std::{fs, path::PathBuf};

use hongqiao::{front::mqtt::client::Client, model::wire::Dialect};

/// Runs `body` on each seed of `target`, whole, cut in half and with each byte changed.
fn replay(target: &str, body: impl Fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        seeds += 1;
        body(&seed);
        body(&seed[..seed.len() / 2]);
        for at in 0..seed.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[at] ^= flip;
                body(&changed);
            }
        }
    }
    assert!(seeds > 0, "{target} has no seeds");
}

#[test]
fn seeds_of_the_server_decoders_when_replayed_then_promises_hold() {
    for (target, dialect) in [
        ("mqtt_unknown", Dialect::MqttUnknown),
        ("mqtt_v4", Dialect::MqttV4),
        ("mqtt_v5", Dialect::MqttV5),
    ] {
        replay(target, |bytes| mqtt::server(dialect, bytes));
    }
}

#[test]
fn seeds_of_the_client_decoders_when_replayed_then_promises_hold() {
    for (target, client) in [("mqtt_client_v4", Client::V4), ("mqtt_client_v5", Client::V5)] {
        replay(target, |bytes| mqtt::client(client, bytes));
    }
}

#[test]
fn seeds_of_the_frame_decoder_when_replayed_then_promises_hold() {
    replay("ws_frames", ws::frames);
}
