//! Packets made to use memory: what is announced costs nothing before it arrives.

use crate::{
    bad_input::{Healthy, allow_open_files},
    delivery::alone,
    support::{
        mqtt_client::{Client, message},
        node::Node,
        packet::{Publish, Sub, Version, encode_subscribe, frame},
        process::resident_kib,
        property::{Props, put_data, put_variable},
        wait::{let_pass, wait_until},
    },
};

/// 256 MiB less one: the largest length that a packet can announce.
const HUGE: [u8; 4] = [0xFF, 0xFF, 0xFF, 0x7F];

#[test]
fn announced_256_mebibytes_cost_nothing_and_are_refused() {
    let _turn = alone();
    allow_open_files(3_000);
    let node = Node::start();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let before = resident_kib(node.pid());
    let mut clients = Vec::new();
    for n in 0..500 {
        for first in [0x10, 0x30] {
            let mut client = broker.v5(&format!("raw{n}")).open();
            client.send_raw(&[first]);
            client.send_raw(&HUGE);
            clients.push(client);
        }
        let mut client = broker.v5(&format!("huge{n}")).connect();
        client.send_raw(&[[0x30].as_slice(), &HUGE].concat());
        clients.push(client);
    }
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 24, "{grown} MiB for announcements");
    for (n, client) in clients.iter_mut().enumerate() {
        if n % 3 == 2 {
            client.expect_disconnect(&[0x95]);
        } else {
            client.expect_closed();
        }
    }
    healthy.check();
}

#[test]
fn announced_packets_within_the_limit_cost_only_what_arrives() {
    let _turn = alone();
    let node = Node::start();
    let broker = node.broker();
    let before = resident_kib(node.pid());
    // 1,000 clients announce 4 MB each and send a hundred bytes of it.
    let mut bytes = vec![0x30];
    put_variable(&mut bytes, 4_000_000);
    bytes.extend([0, 1, b'a', 0]);
    bytes.extend([b'x'; 96]);
    let clients: Vec<Client> = (0..1_000)
        .map(|n| {
            let mut client = broker.v5(&format!("part{n}")).connect();
            client.send_raw(&bytes);
            client
        })
        .collect();
    let mut healthy = broker.v5("healthy").connect();
    healthy.subscribe("healthy", 1);
    healthy.publish("healthy", "x", 1);
    healthy.expect_publish();
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 32, "{grown} MiB for unfinished packets");
    drop(clients);
}

#[test]
fn memory_of_unfinished_packets_returns() {
    let _turn = alone();
    let node = Node::start();
    let broker = node.broker();
    let mut bytes = vec![0x30];
    put_variable(&mut bytes, 4_000_000);
    bytes.extend([0, 1, b'a', 0]);
    bytes.extend(vec![b'x'; 1_000_000]);
    let mut after = Vec::new();
    for _ in 0..3 {
        let clients: Vec<Client> = (0..60)
            .map(|n| {
                let mut client = broker.v5(&format!("part{n}")).connect();
                client.send_raw(&bytes);
                client
            })
            .collect();
        drop(clients);
        // Gone is when the ids can be used again without a takeover.
        for n in 0..60 {
            broker.v5(&format!("part{n}")).connect().disconnect();
        }
        after.push(resident_kib(node.pid()) / 1_024);
    }
    assert!(after[2] <= after[0] + 30, "MiB after each round: {after:?}");
}

#[test]
fn topics_of_extreme_shape_do_no_harm() {
    let node = Node::start();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let slashes = "/".repeat(65_535);
    let pluses = format!("{}+", "+/".repeat(32_767));
    let long = "x".repeat(65_535);
    for text in [&slashes, &pluses, &long] {
        for version in [Version::V4, Version::V5] {
            let mut client = broker.dial(version, "extreme").connect();
            let bytes = encode_subscribe(version, 1, &[Sub::new(text, 1)], &Props::new());
            client.send_raw(&bytes);
            client.send_raw(&Publish { id: 2, ..message(text, "x", 1) }.encode(version));
            client.send_raw(
                &Publish { retain: true, id: 3, ..message(text, "x", 1) }.encode(version),
            );
            client.send_raw(&[0xC0, 0]);
            // Served, refused or closed; never silent.
            let answer = client.receive(client.patience);
            let silent = matches!(answer, crate::support::mqtt_client::Received::Nothing);
            assert!(!silent, "no answer to {:?}…", &text[..8]);
        }
    }
    healthy.check();
}

#[test]
fn packets_full_of_small_parts_are_bounded() {
    let _turn = alone();
    let node = Node::start();
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let before = resident_kib(node.pid());
    // 200,000 filters, and 500,000 user properties, in packets of 1 to 3 MB.
    let filters = (0..200_000).fold(vec![0, 1, 0], |mut body, n: u32| {
        put_data(&mut body, n.to_string().as_bytes());
        body.push(0);
        body
    });
    let mut props = Vec::new();
    for _ in 0..500_000 {
        props.extend([0x26, 0, 0, 0, 0]);
    }
    let mut publish = vec![0, 1, b'a'];
    put_variable(&mut publish, props.len() as u32);
    publish.extend(&props);
    for (first, body) in [(0x82, &filters), (0x30, &publish)] {
        for _ in 0..5 {
            let mut client = broker.v5("parts").connect();
            client.send_raw(&frame(first, body));
            client.send_raw(&[0xC0, 0]);
            let answer = client.receive(client.patience);
            assert!(!matches!(answer, crate::support::mqtt_client::Received::Nothing));
        }
    }
    healthy.check();
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 64, "{grown} MiB for packets of small parts");
}

#[test]
fn subscriptions_by_the_thousand_return_their_memory() {
    let _turn = alone();
    let node = Node::start_with(&[("storage.durability", "os")]);
    let broker = node.broker();
    let mut after = Vec::new();
    for _ in 0..3 {
        for n in 0..20 {
            let mut client = broker.v5(&format!("many{n}")).connect();
            for batch in 0..8 {
                let subs: Vec<Sub> = (0..500)
                    .map(|filter| Sub::new(&format!("{n}/{batch}/{filter}/+/#"), 1))
                    .collect();
                let codes = client.subscribe_with(&subs, &Props::new());
                assert!(codes.iter().all(|code| *code == 1 || *code == 0x97), "{codes:x?}");
            }
            client.disconnect();
        }
        after.push(resident_kib(node.pid()) / 1_024);
    }
    wait_until("the node settles", || resident_kib(node.pid()) / 1_024 <= after[0] + 16);
}

#[test]
fn retained_messages_for_a_client_that_does_not_read_are_bounded() {
    let _turn = alone();
    let node = Node::start_with(&[("storage.durability", "os")]);
    let broker = node.broker();
    let mut keeper = broker.v5("keeper").connect();
    for n in 0..1_000 {
        keeper.retain(&format!("r/{n}"), &"x".repeat(4_000), 0);
    }
    keeper.ping();
    let healthy = Healthy::start(broker);
    let before = resident_kib(node.pid());
    let mut deaf: Vec<Client> = (0..4).map(|n| broker.v5(&format!("deaf{n}")).connect()).collect();
    let subs: Vec<Sub> = (0..500).map(|_| Sub::new("#", 0)).collect();
    let again = encode_subscribe(Version::V5, 1, &subs, &Props::new());
    for _ in 0..20 {
        for client in &mut deaf {
            client.send_raw(&again);
        }
    }
    let_pass(std::time::Duration::from_secs(3));
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 64, "{grown} MiB for 40,000 subscriptions whose copies nobody reads");
    healthy.check();
}
