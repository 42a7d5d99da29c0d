//! Replays the seed corpus of every fuzz target, so that a crash once found stays fixed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fuzz/bodies/mqtt.rs"]
mod mqtt;
#[path = "fuzz/bodies/stored.rs"]
mod stored;
#[path = "fuzz/bodies/texts.rs"]
mod texts;
#[path = "fuzz/bodies/topics.rs"]
mod topics;
#[path = "fuzz/bodies/ws.rs"]
mod ws;

use std::{collections::BTreeSet, fs, path::PathBuf};

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
fn seeds_of_the_websocket_layer_when_replayed_then_promises_hold() {
    replay("ws_frames", ws::frames);
    replay("ws_upgrade", ws::upgrade);
}

#[test]
fn seeds_of_stored_encodings_when_replayed_then_promises_hold() {
    replay("shard_batch", stored::shard_batch);
    replay("shard_record", stored::shard_record);
    replay("log_segment", stored::log_segment);
    replay("state_block", stored::state_block);
    replay("folder_marks", stored::folder_marks);
    replay("meta_batch", stored::meta_batch);
}

#[test]
fn seeds_of_encodings_between_nodes_when_replayed_then_promises_hold() {
    replay("link_frames", stored::link_frames);
    replay("link_hello", stored::link_hello);
    replay("snapshots", stored::snapshots);
    replay("stream_bodies", stored::stream_bodies);
    replay("raft_bodies", stored::raft_bodies);
    replay("peer_bodies", stored::peer_bodies);
}

#[test]
fn seeds_of_texts_when_replayed_then_promises_hold() {
    replay("topics", topics::topics);
    replay("config", texts::config);
    replay("user_name", texts::user_name);
}

/// A target whose seeds nobody replays would be forgotten.
#[test]
fn every_target_has_seeds_here_and_no_more() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let names = |folder: &str| {
        let entries = fs::read_dir(here.join(folder)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect::<BTreeSet<_>>()
    };
    assert_eq!(names("targets"), names("corpus"));
    let manifest = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    let replays = fs::read_to_string(file!()).unwrap();
    for target in names("targets") {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
        assert!(replays.contains(&format!("\"{target}\"")), "{target}");
    }
}
