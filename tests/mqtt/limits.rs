//! Limits of both sides: MQTT 5.0 sections 3.1.2.11.4, 3.2.2.3, 4.13; limits of our configuration.

use crate::support::{
    broker::{Broker, Names, broker},
    mqtt_client::message,
    node::Node,
    packet::{BOTH, Packet, Publish, Sub, Version, encode_subscribe},
    property::{
        MAXIMUM_PACKET_SIZE, Props, RECEIVE_MAXIMUM, SERVER_KEEP_ALIVE, SESSION_EXPIRY,
        TOPIC_ALIAS_MAXIMUM,
    },
    wait::{let_pass, now},
};

/// A node with small limits, for this test alone.
fn limited() -> (Node, Broker) {
    let node = Node::start_with(&[
        ("limits.packet_bytes_max", "1024"),
        ("limits.receive_maximum", "5"),
        ("limits.keep_alive_max", "2 s"),
        ("limits.session_expiry_max", "3 s"),
        ("limits.topic_alias_max", "2"),
        ("limits.topic_bytes_max", "64"),
        ("limits.topic_levels_max", "6"),
        ("limits.filters_per_session_max", "4"),
        ("limits.filters_per_packet_max", "8"),
        ("limits.user_properties_max", "4"),
    ]);
    let broker = node.broker();
    (node, broker)
}

#[test]
fn delivery_larger_than_the_client_takes_is_dropped_and_counts_as_done() {
    for durable in [false, true] {
        for qos in 0..3 {
            let names = Names::new();
            let dial = broker().v5(&names.id("to")).packet_bytes_max(200).receive_maximum(2);
            let dial = if durable { dial.durable() } else { dial };
            let mut to = dial.connect();
            to.subscribe(&names.topic("#"), qos);
            let mut from = broker().v5(&names.id("from")).connect();
            let big = "x".repeat(300);
            for round in 0..4 {
                from.publish(&names.topic("a"), &big, qos);
                from.publish(&names.topic("a"), &format!("small {round}"), qos);
            }
            for round in 0..4 {
                assert_eq!(to.expect_publish().text(), format!("small {round}"));
            }
            to.ping();
            to.disconnect();
            if durable {
                // The next connection takes anything: the big ones do not come back.
                broker().v5(&names.id("to")).durable().connect().expect_silence();
            }
        }
    }
}

#[test]
fn delivery_of_exactly_the_size_that_the_client_takes_is_delivered() {
    let names = Names::new();
    let topic = names.topic("a");
    // Fixed header 2 or 3, topic length 2, topic, property length 1, payload.
    let overhead = 3 + 2 + topic.len() + 1;
    let mut to = broker().v5(&names.id("to")).packet_bytes_max(300).connect();
    to.subscribe(&topic, 0);
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&topic, &"x".repeat(301 - overhead), 0);
    from.publish(&topic, &"y".repeat(300 - overhead), 0);
    assert!(to.expect_publish().text().starts_with('y'));
    to.expect_silence();
}

#[test]
fn retained_copy_larger_than_the_client_takes_is_dropped() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    from.retain(&names.topic("a"), &"x".repeat(300), 1);
    from.retain(&names.topic("b"), "small", 1);
    let mut to = broker().v5(&names.id("to")).packet_bytes_max(200).receive_maximum(1).connect();
    to.subscribe(&names.topic("#"), 1);
    assert_eq!(to.expect_publish().text(), "small");
    to.expect_silence();
}

#[test]
fn limits_of_the_server_are_told_in_connack() {
    let (_node, broker) = limited();
    let client = broker.v5("told").keep_alive(60).expiry(1_000).connect();
    let told = |id| client.connack.props.get_number(id);
    assert_eq!(told(MAXIMUM_PACKET_SIZE), Some(1_024));
    assert_eq!(told(RECEIVE_MAXIMUM), Some(5));
    assert_eq!(told(SERVER_KEEP_ALIVE), Some(2));
    assert_eq!(told(SESSION_EXPIRY), Some(3));
    assert_eq!(told(TOPIC_ALIAS_MAXIMUM), Some(2));
}

#[test]
fn packet_larger_than_the_server_takes_is_refused() {
    let (_node, broker) = limited();
    for version in BOTH {
        let mut client = broker.dial(version, "big").connect();
        client.publish("a", &"x".repeat(900), 1);
        client.send_publish(message("a", &"x".repeat(1_100), 1));
        client.expect_disconnect(&[0x95]);
        // The announced length alone is enough: nobody waits for the body.
        let mut client = broker.dial(version, "big").connect();
        client.send_raw(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
        client.expect_disconnect(&[0x95]);
    }
}

#[test]
fn connect_larger_than_the_server_takes_is_refused() {
    let (_node, broker) = limited();
    for version in BOTH {
        let dial = broker.dial(version, &"x".repeat(2_000));
        let mut client = dial.open();
        client.send_raw(&dial.connect_bytes());
        client.expect_refusal_or_close(&[0x95, 0x85, 2, 3]);
    }
}

#[test]
fn receive_maximum_of_the_configuration_is_kept() {
    let (_node, broker) = limited();
    let mut client = broker.v5("greedy").connect();
    for _ in 0..6 {
        client.send_publish(message("a", "x", 2));
    }
    client.expect_disconnect(&[0x93]);
}

#[test]
fn keep_alive_of_the_server_is_enforced() {
    let (_node, broker) = limited();
    // v5 is told a shorter time; 3.1.1 cannot be told and keeps its own.
    let mut client = broker.v5("silent").keep_alive(60).connect();
    let start = now();
    client.expect_disconnect(&[0x8D]);
    assert!((2_800..8_000).contains(&start.elapsed().as_millis()));
    let mut client = broker.v4("silent").keep_alive(60).connect();
    let_pass(std::time::Duration::from_millis(4_500));
    client.ping();
}

#[test]
fn session_expiry_of_the_server_is_enforced() {
    let (_node, broker) = limited();
    for version in BOTH {
        let dial = broker.dial(version, "kept").durable();
        dial.connect().disconnect();
        let client = dial.connect();
        assert!(client.connack.present);
        client.disconnect();
        let_pass(std::time::Duration::from_millis(4_500));
        assert!(!dial.connect().connack.present);
    }
}

#[test]
fn topic_beyond_the_limits_is_refused() {
    let (_node, broker) = limited();
    for topic in ["x".repeat(65), "a/b/c/d/e/f/g".to_owned()] {
        let mut client = broker.v5("long").connect();
        client.publish("fine", "x", 1);
        client.send_publish(message(&topic, "x", 1));
        match client.expect_next() {
            Packet::Ack { code, .. } => assert!([0x90, 0x97].contains(&code), "{code:#x}"),
            Packet::Disconnect { code, .. } => {
                assert!([0x90, 0x95, 0x97].contains(&code), "{code:#x}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn filter_beyond_the_limits_is_refused() {
    let (_node, broker) = limited();
    for filter in ["x".repeat(65), "a/b/c/d/e/f/#".to_owned()] {
        let mut client = broker.v5("long").connect();
        client.send_raw(&encode_subscribe(Version::V5, 1, &[Sub::new(&filter, 0)], &Props::new()));
        match client.expect_next() {
            Packet::Suback { codes, .. } => assert!([0x8F, 0x97].contains(&codes[0]), "{codes:x?}"),
            Packet::Disconnect { code, .. } => {
                assert!([0x8F, 0x95, 0x97].contains(&code), "{code:#x}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn subscriptions_beyond_the_limit_of_a_session_are_refused() {
    let (_node, broker) = limited();
    for (version, refusal) in [(Version::V4, 0x80), (Version::V5, 0x97)] {
        let mut client = broker.dial(version, "many").connect();
        for n in 0..4 {
            client.subscribe(&format!("f/{n}"), 1);
        }
        assert_eq!(client.subscribe_with(&[Sub::new("f/4", 1)], &Props::new()), [refusal]);
        // Changing one that is there is no new one; ending one makes room.
        client.subscribe("f/0", 2);
        client.unsubscribe(&["f/1"]);
        client.subscribe("f/4", 1);
        client.publish("f/4", "x", 1);
        assert_eq!(client.expect_publish().text(), "x");
    }
}

#[test]
fn user_properties_beyond_the_limit_are_refused() {
    let (_node, broker) = limited();
    let mut client = broker.v5("many").connect();
    let props = (0..5).fold(Props::new(), |props, _| props.user("k", "v"));
    client.send_publish(Publish { props, ..message("a", "x", 1) });
    match client.expect_next() {
        Packet::Ack { code, .. } => assert!(code >= 0x80),
        Packet::Disconnect { code, .. } => assert!([0x81, 0x82, 0x95, 0x97].contains(&code)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answer_larger_than_the_client_takes_ends_the_connection() {
    // MQTT-3.1.2-24: nothing larger may be sent; silence would leave the client waiting for ever.
    for bytes_max in 1..5 {
        let dial = broker().v5(&Names::new().id("tiny")).packet_bytes_max(bytes_max);
        let mut client = dial.open();
        client.send_raw(&dial.connect_bytes());
        client.expect_closed();
    }
    let mut client = broker().v5(&Names::new().id("small")).packet_bytes_max(60).connect();
    let subs: Vec<Sub> = (0..100).map(|n| Sub::new(&format!("a/{n}"), 0)).collect();
    client.send_raw(&encode_subscribe(Version::V5, 1, &subs, &Props::new()));
    client.expect_disconnect(&[0x95]);
}
