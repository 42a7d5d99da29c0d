//! What came while a session was away: all of it, in order, once, in pages. Promises NO-LOSS, ORDER.

use crate::{
    delivery::load::Pipeline,
    support::{
        broker::{Names, broker},
        mqtt_client::message,
        node::Node,
        packet::{AckKind, BOTH, Publish, Version},
        process::resident_kib,
    },
};

const BACKLOG: usize = 10_000;

#[test]
fn backlog_of_ten_thousand_is_replayed_in_order() {
    let _turn = super::alone();
    for (version, qos) in [(Version::V4, 1), (Version::V5, 1), (Version::V5, 2)] {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("to")).durable();
        let mut to = dial.connect();
        to.subscribe(&names.topic("+"), qos);
        to.disconnect();
        let mut from = Pipeline::new(&broker().v5(&names.id("from")), 60);
        for n in 0..BACKLOG {
            let topic = names.topic(&format!("{}", n % 3));
            assert!(from.send(message(&topic, &n.to_string(), qos)));
        }
        assert!(from.finish());
        // The first part, a return in the middle, the rest.
        let mut to = dial.connect();
        for n in 0..3_000 {
            assert_eq!(to.expect_publish().text(), n.to_string(), "{version:?} {qos}");
        }
        // What was read is acknowledged before DISCONNECT; what was not comes again. Of QoS 2 the
        // client keeps the ids that were not released, as any real one does.
        let unreleased = std::mem::take(to.unreleased());
        to.disconnect();
        let mut to = dial.connect();
        to.unreleased().extend(unreleased);
        for n in 3_000..BACKLOG {
            assert_eq!(to.expect_publish().text(), n.to_string(), "{version:?} {qos}");
        }
        to.expect_silence();
    }
}

#[test]
fn backlog_for_many_sessions_is_stored_once_and_replayed_to_each() {
    let _turn = super::alone();
    let names = Names::new();
    let dials: Vec<_> =
        (0..10).map(|n| broker().v5(&names.id(&format!("to{n}"))).durable()).collect();
    for dial in &dials {
        let mut to = dial.connect();
        to.subscribe(&names.topic("a"), 1);
        to.disconnect();
    }
    let mut from = Pipeline::new(&broker().v5(&names.id("from")), 60);
    for n in 0..1_000 {
        assert!(from.send(message(&names.topic("a"), &n.to_string(), 1)));
    }
    assert!(from.finish());
    for dial in &dials {
        let mut to = dial.connect();
        for n in 0..1_000 {
            assert_eq!(to.expect_publish().text(), n.to_string());
        }
        to.expect_silence();
    }
}

#[test]
fn payload_of_one_mebibyte_passes_live_retained_and_offline() {
    let _turn = super::alone();
    for version in BOTH {
        let names = Names::new();
        let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let big = |topic: &str, qos| Publish {
            payload: payload.clone(),
            ..message(&names.topic(topic), "", qos)
        };
        let dial = broker().dial(version, &names.id("to")).durable();
        let mut to = dial.connect();
        to.subscribe(&names.topic("a"), 2);
        let mut from = broker().dial(version, &names.id("from")).connect();
        for qos in 0..3 {
            from.publish_with(big("a", qos));
            assert!(to.expect_publish().payload == payload, "live, qos {qos}");
        }
        to.disconnect();
        for qos in 1..3 {
            from.publish_with(big("a", qos));
        }
        let mut to = dial.connect();
        for qos in 1..3 {
            assert!(to.expect_publish().payload == payload, "offline, qos {qos}");
        }
        from.publish_with(Publish { retain: true, ..big("kept", 1) });
        to.subscribe(&names.topic("kept"), 1);
        assert!(to.expect_publish().payload == payload, "retained");
        from.retain(&names.topic("kept"), "", 1);
    }
}

#[test]
fn burst_of_ten_thousand_live_messages_arrives_whole() {
    let _turn = super::alone();
    for qos in 1..3 {
        let names = Names::new();
        let mut to = broker().v5(&names.id("to")).durable().connect();
        to.subscribe(&names.topic("a"), qos);
        let dial = broker().v5(&names.id("from"));
        let topic = names.topic("a");
        let sender = std::thread::spawn(move || {
            let mut from = Pipeline::new(&dial, 60);
            (0..BACKLOG).all(|n| from.send(message(&topic, &n.to_string(), qos))) && from.finish()
        });
        for n in 0..BACKLOG {
            assert_eq!(to.expect_publish().text(), n.to_string());
        }
        assert!(sender.join().unwrap());
    }
}

#[test]
fn qos2_is_delivered_exactly_once_over_many_cuts() {
    // Each connection dies somewhere in the middle of the exchange; ids are kept like a real client's.
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("to")).durable().manual();
        let mut to = dial.connect();
        to.subscribe(&names.topic("a"), 2);
        to.disconnect();
        let mut from = Pipeline::new(&broker().v5(&names.id("from")), 20);
        for n in 0..60 {
            from.send(message(&names.topic("a"), &n.to_string(), 2));
        }
        assert!(from.finish());
        let mut seen = Vec::new();
        let mut held = std::collections::HashSet::new();
        let mut step = 0;
        while seen.len() < 60 || !held.is_empty() {
            let mut to = dial.connect();
            assert!(to.connack.present);
            for _ in 0..7 {
                step += 1;
                match to.receive(std::time::Duration::from_millis(300)) {
                    crate::support::mqtt_client::Received::Packet(packet) => match packet {
                        crate::support::packet::Packet::Publish(publish) => {
                            if held.insert(publish.id) {
                                seen.push(publish.text());
                            } else {
                                assert!(publish.dup, "an id in use comes only as a resend");
                            }
                            to.ack(AckKind::Pubrec, publish.id);
                        }
                        crate::support::packet::Packet::Ack {
                            kind: AckKind::Pubrel, id, ..
                        } => {
                            held.remove(&id);
                            to.ack(AckKind::Pubcomp, id);
                        }
                        other => panic!("{other:?}"),
                    },
                    _ => break,
                }
            }
            if step % 2 == 0 {
                to.ping_past_everything();
            }
            to.cut();
        }
        let wanted: Vec<String> = (0..60).map(|n| n.to_string()).collect();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn quota_of_a_session_drops_the_oldest_and_says_so() {
    let node =
        Node::start_with(&[("quotas.session_messages_max", "100"), ("storage.durability", "os")]);
    let dial = node.broker().v5("to").durable();
    let mut to = dial.connect();
    to.subscribe("a", 1);
    to.disconnect();
    let mut from = Pipeline::new(&node.broker().v5("from"), 20);
    for n in 0..250 {
        assert!(from.send(message("a", &n.to_string(), 1)));
    }
    assert!(from.finish());
    let mut to = dial.connect();
    let wanted: Vec<String> = (150..250).map(|n| n.to_string()).collect();
    assert_eq!(to.expect_texts(100), wanted);
    to.expect_silence();
}

#[test]
fn quota_of_a_session_can_drop_the_newest() {
    let node = Node::start_with(&[
        ("quotas.session_messages_max", "100"),
        ("quotas.drop", "newest"),
        ("storage.durability", "os"),
    ]);
    let dial = node.broker().v5("to").durable();
    let mut to = dial.connect();
    to.subscribe("a", 1);
    to.disconnect();
    let mut from = node.broker().v5("from").connect();
    for n in 0..130 {
        from.publish_code(message("a", &n.to_string(), 1));
    }
    let mut to = dial.connect();
    let wanted: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(to.expect_texts(100), wanted);
    to.expect_silence();
    // Room again: new messages come.
    from.publish("a", "after", 1);
    assert_eq!(to.expect_publish().text(), "after");
}

#[test]
fn memory_returns_after_a_backlog_was_delivered() {
    let _turn = super::alone();
    let node = Node::start_with(&[
        ("storage.durability", "os"),
        ("storage.cache_bytes", "16 MiB"),
        ("storage.checkpoint_bytes", "8 MiB"),
    ]);
    if !node.broker().ours {
        return;
    }
    let mut peak = Vec::new();
    for _ in 0..14 {
        let dial = node.broker().v5("to").durable();
        let mut to = dial.connect();
        to.subscribe("a", 1);
        to.disconnect();
        let mut from = Pipeline::new(&node.broker().v5("from"), 60);
        let text = "x".repeat(4_000);
        for _ in 0..5_000 {
            assert!(from.send(message("a", &text, 1)));
        }
        assert!(from.finish());
        let mut to = dial.connect();
        for _ in 0..5_000 {
            to.expect_publish();
        }
        to.ping();
        to.disconnect();
        peak.push(resident_kib(node.pid()) / 1_024);
    }
    // 280 MiB went through. Caches fill in the first rounds, then it goes up and down.
    let settled = peak[9..].iter().min().unwrap();
    assert!(*settled < 220, "MiB after each round: {peak:?}");
}
