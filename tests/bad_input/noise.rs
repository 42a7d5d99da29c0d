//! Random bytes, cuts and flipped bits: the server lives on and serves others.
//!
//! `NOISE_SEED` repeats a run.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    bad_input::Healthy,
    support::{
        broker::Broker,
        dial::Dial,
        mqtt_client::{Received, message},
        node::Node,
        packet::{
            AckKind, BOTH, Packet, Publish, Sub, Version, encode_ack, encode_subscribe,
            encode_unsubscribe,
        },
        property::{MESSAGE_EXPIRY, Props, TOPIC_ALIAS},
        wire::{Tcp, Wire},
    },
};

fn random() -> StdRng {
    let seed = std::env::var("NOISE_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    eprintln!("NOISE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn node() -> Node {
    Node::start_with(&[("limits.connect_timeout", "2 s"), ("storage.durability", "os")])
}

/// Sends bytes, gives the server a moment to answer, and is gone.
fn throw(broker: Broker, bytes: &[u8]) {
    let mut wire = Tcp::connect(broker.mqtt());
    wire.write(bytes);
    wire.read(Duration::from_millis(2));
}

/// A whole legal life of a client, as bytes.
fn life(dial: &Dial, version: Version) -> Vec<u8> {
    let props = Props::new().user("k", "v").number(MESSAGE_EXPIRY, 60);
    let aliased = props.clone().number(TOPIC_ALIAS, 1);
    let mut bytes = dial.connect_bytes();
    bytes.extend(encode_subscribe(
        version,
        1,
        &[Sub::new("noise/+", 2), Sub::new("noise/#", 1)],
        &Props::new(),
    ));
    bytes.extend(Publish { props: aliased, ..message("noise/a", "one", 0) }.encode(version));
    bytes.extend(Publish { id: 2, props, ..message("noise/b", "two", 1) }.encode(version));
    bytes.extend(Publish { id: 3, retain: true, ..message("noise/c", "three", 2) }.encode(version));
    bytes.extend(encode_ack(version, AckKind::Pubrel, 3, 0));
    bytes.extend(encode_ack(version, AckKind::Puback, 1, 0));
    bytes.extend(encode_ack(version, AckKind::Pubrec, 2, 0));
    bytes.extend(encode_ack(version, AckKind::Pubcomp, 2, 0));
    bytes.extend(encode_unsubscribe(version, 4, &["noise/+"]));
    bytes.extend([0xC0, 0, 0xE0, 0]);
    bytes
}

#[test]
fn random_bytes_do_no_harm() {
    let mut node = node();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let mut random = random();
    for round in 0..1_500 {
        let mut bytes = Vec::new();
        if round % 2 == 0 {
            bytes = broker.dial(BOTH[round % 4 / 2], "noise").connect_bytes();
        }
        let count = random.random_range(1..600);
        bytes.extend((0..count).map(|_| random.random::<u8>()));
        throw(broker, &bytes);
    }
    assert!(node.is_alive());
    healthy.check();
}

#[test]
fn random_packets_with_honest_lengths_do_no_harm() {
    let mut node = node();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let mut random = random();
    for round in 0..1_500 {
        let mut bytes = broker.dial(BOTH[round % 2], "noise").connect_bytes();
        for _ in 0..6 {
            let count = random.random_range(0..40);
            let body: Vec<u8> = (0..count).map(|_| random.random_range(0..9)).collect();
            bytes.extend(crate::support::packet::frame(random.random(), &body));
        }
        throw(broker, &bytes);
    }
    assert!(node.is_alive());
    healthy.check();
}

#[test]
fn life_of_a_client_cut_anywhere_does_no_harm() {
    let mut node = node();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    for version in BOTH {
        let dial = broker.dial(version, "cut").durable().will("noise/will", "gone", 1);
        let bytes = life(&dial, version);
        for end in 0..bytes.len() {
            throw(broker, &bytes[..end]);
        }
    }
    assert!(node.is_alive());
    healthy.check();
}

#[test]
fn life_of_a_client_with_flipped_bits_does_no_harm() {
    let mut node = node();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let mut random = random();
    for version in BOTH {
        let dial = broker.dial(version, "flip").durable().will("noise/will", "gone", 1);
        let bytes = life(&dial, version);
        for _ in 0..700 {
            let mut bytes = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] ^= 1 << random.random_range(0..8);
            }
            throw(broker, &bytes);
        }
    }
    assert!(node.is_alive());
    healthy.check();
}

#[test]
fn random_bytes_on_the_http_port_do_no_harm() {
    let mut node = node();
    let broker = node.broker();
    if !broker.ours {
        return;
    }
    let healthy = Healthy::start(broker);
    let mut random = random();
    let upgrade = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    for round in 0..800 {
        let mut bytes = if round % 2 == 0 { upgrade.to_vec() } else { Vec::new() };
        let count = random.random_range(1..400);
        bytes.extend((0..count).map(|_| random.random::<u8>()));
        let mut wire = Tcp::connect(broker.http());
        wire.write(&bytes);
        wire.read(Duration::from_millis(2));
    }
    assert!(node.is_alive());
    let (status, _) = crate::support::http_client::get(broker.http(), "/healthz");
    assert_eq!(status, 200);
    healthy.check();
}

#[test]
fn connection_storm_with_one_id_ends_with_one_owner() {
    let node = node();
    let broker = node.broker();
    let storm: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..25 {
                    // Accepted, busy, or taken over before its CONNACK: all fine, but never silent.
                    let dial = broker.v5("same").durable();
                    let mut client = dial.open();
                    client.send_raw(&dial.connect_bytes());
                    match client.receive(client.patience) {
                        Received::Packet(Packet::Connack { code, .. }) => {
                            assert!([0, 0x88, 0x89].contains(&code), "{code:#x}");
                        }
                        Received::Closed => {}
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    for thread in storm {
        thread.join().unwrap();
    }
    let mut last = broker.v5("same").durable().connect();
    assert!(last.connack.present);
    last.subscribe("still", 1);
    last.publish("still", "works", 1);
    assert_eq!(last.expect_publish().text(), "works");
}
