//! Flow control and packet ids: MQTT 5.0 sections 3.1.2.11.3, 4.4, 4.9, 2.2.1.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, Received, message},
    node::Node,
    packet::{AckKind, BOTH, Packet, Publish, Version},
    property::{MESSAGE_EXPIRY, Props, RECEIVE_MAXIMUM},
    wait::let_pass,
};

#[test]
fn server_keeps_to_the_receive_maximum_of_the_client() {
    for qos in 1..3 {
        let names = Names::new();
        let topic = names.topic("a");
        let mut to = broker().v5(&names.id("to")).receive_maximum(3).manual().connect();
        to.subscribe(&topic, qos);
        let mut from = broker().v5(&names.id("from")).connect();
        for n in 0..8 {
            from.publish(&topic, &n.to_string(), qos);
        }
        let mut open: Vec<Publish> = (0..3).map(|_| to.expect_publish()).collect();
        to.expect_silence();
        for n in 3..8 {
            let first = open.remove(0);
            if qos == 1 {
                to.ack(AckKind::Puback, first.id);
            } else {
                // PUBREC alone frees nothing.
                to.ack(AckKind::Pubrec, first.id);
                to.expect_ack(AckKind::Pubrel, first.id);
                to.expect_silence_for(std::time::Duration::from_millis(50));
                to.ack(AckKind::Pubcomp, first.id);
            }
            let next = to.expect_publish();
            assert_eq!(next.text(), n.to_string());
            open.push(next);
        }
    }
}

#[test]
fn receive_maximum_counts_qos1_and_qos2_together() {
    let names = Names::new();
    let mut to = broker().v5(&names.id("to")).receive_maximum(2).manual().connect();
    to.subscribe(&names.topic("a"), 2);
    let mut from = broker().v5(&names.id("from")).connect();
    for (n, qos) in [1, 2, 1, 2].into_iter().enumerate() {
        from.publish(&names.topic("a"), &n.to_string(), qos);
    }
    let first = to.expect_publish();
    to.expect_publish();
    to.expect_silence();
    to.ack(AckKind::Puback, first.id);
    assert_eq!(to.expect_publish().text(), "2");
    to.expect_silence();
}

#[test]
fn qos0_passes_a_full_window() {
    let names = Names::new();
    let mut to = broker().v5(&names.id("to")).receive_maximum(1).manual().connect();
    to.subscribe(&names.topic("#"), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("a"), "fills", 1);
    from.publish(&names.topic("b"), "waits", 1);
    assert_eq!(to.expect_publish().text(), "fills");
    from.publish(&names.topic("c"), "passes", 0);
    assert_eq!(to.expect_publish().text(), "passes");
    to.expect_silence();
}

#[test]
fn window_starts_anew_with_each_connection() {
    let names = Names::new();
    let dial = broker().v5(&names.id("to")).durable().manual();
    let mut to = dial.clone().receive_maximum(4).connect();
    to.subscribe(&names.topic("a"), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..10 {
        from.publish(&names.topic("a"), &n.to_string(), 1);
    }
    assert_eq!(to.expect_texts(4), ["0", "1", "2", "3"]);
    to.cut();
    // A smaller window than what was under way: resends keep to it as well.
    let mut to = dial.clone().receive_maximum(2).connect();
    let first = to.expect_publish();
    assert_eq!((first.text().as_str(), first.dup), ("0", true));
    assert_eq!(to.expect_publish().text(), "1");
    to.expect_silence();
    to.ack(AckKind::Puback, first.id);
    assert_eq!(to.expect_publish().text(), "2");
    to.expect_silence();
}

#[test]
fn client_that_exceeds_the_receive_maximum_of_the_server_is_disconnected() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("greedy")).connect();
    let maximum = client.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(65_535);
    for n in 0..=maximum {
        let id = u16::try_from(n + 1).unwrap_or(1);
        client.send_raw(&Publish { id, ..message(&names.topic("a"), "x", 2) }.encode(Version::V5));
    }
    client.expect_disconnect(&[0x93]);
}

#[test]
fn client_that_fills_the_window_and_releases_goes_on() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("exact")).connect();
    let maximum = client.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(65_535).min(500);
    for round in 0..3 {
        let ids: Vec<u16> =
            (0..maximum).map(|_| client.send_publish(message(&names.topic("a"), "x", 2))).collect();
        for id in &ids {
            assert!(client.expect_ack(AckKind::Pubrec, *id) < 0x80, "round {round}");
        }
        for id in &ids {
            client.ack(AckKind::Pubrel, *id);
        }
        for id in &ids {
            assert_eq!(client.expect_ack(AckKind::Pubcomp, *id), 0);
        }
    }
    client.ping();
}

#[test]
fn v4_client_with_many_unreleased_publishes_is_served() {
    // 3.1.1 has no receive maximum: holding back PUBREL must not lock up the connection.
    let names = Names::new();
    let mut client = broker().v4(&names.id("many")).connect();
    let mut watcher = broker().v4(&names.id("watcher")).connect();
    watcher.subscribe(&names.topic("a"), 2);
    let ids: Vec<u16> = (0..300)
        .map(|n| client.send_publish(message(&names.topic("a"), &n.to_string(), 2)))
        .collect();
    for id in &ids {
        client.expect_ack(AckKind::Pubrec, *id);
    }
    for id in &ids {
        client.ack(AckKind::Pubrel, *id);
        client.expect_ack(AckKind::Pubcomp, *id);
    }
    let wanted: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(watcher.expect_texts(300), wanted);
}

#[test]
fn client_may_pipeline_beyond_its_window_of_qos1() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("pipe")).connect();
        let maximum = client.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(64);
        let mut watcher = broker().dial(version, &names.id("watcher")).connect();
        watcher.subscribe(&names.topic("a"), 1);
        let mut open = std::collections::VecDeque::new();
        for n in 0..1_000 {
            if open.len() as u32 == maximum {
                client.expect_ack(AckKind::Puback, open.pop_front().unwrap());
            }
            open.push_back(client.send_publish(message(&names.topic("a"), &n.to_string(), 1)));
        }
        for id in open {
            client.expect_ack(AckKind::Puback, id);
        }
        let wanted: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        assert_eq!(watcher.expect_texts(1_000), wanted);
    }
}

#[test]
fn packet_id_is_not_reused_while_unacknowledged_over_the_wrap() {
    // One delivery stays open while all 65,535 ids are used around it (the client panics at a reuse).
    let node = Node::start_with(&[("storage.durability", "os")]);
    let mut to = node.broker().v5("to").receive_maximum(1_000).manual().connect();
    to.subscribe("t", 1);
    let mut from = node.broker().v5("from").connect();
    from.publish("t", "held", 1);
    let held = to.expect_publish();
    const COUNT: usize = 66_000;
    let maximum = from.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(65_535).min(400);
    let mut sent = 0;
    let mut acked = 0;
    let mut received = 0;
    while received < COUNT {
        while sent < COUNT && sent - acked < maximum as usize {
            from.send_publish(message("t", "x", 1));
            sent += 1;
        }
        while acked < sent {
            assert!(matches!(from.expect_next(), Packet::Ack { kind: AckKind::Puback, .. }));
            acked += 1;
        }
        while received < acked {
            let came = to.expect_publish();
            assert_ne!(came.id, held.id, "reused after {received}");
            to.ack(AckKind::Puback, came.id);
            received += 1;
        }
    }
    to.ack(AckKind::Puback, held.id);
    to.ping();
}

#[test]
fn acknowledgements_out_of_order_are_taken() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("s")).durable().manual();
        let mut client = dial.connect();
        client.subscribe(&names.topic("a"), 1);
        for n in 0..6 {
            client.publish(&names.topic("a"), &n.to_string(), 1);
        }
        let came: Vec<Publish> = (0..6).map(|_| client.expect_publish()).collect();
        for n in [4, 1, 5] {
            client.ack(AckKind::Puback, came[n].id);
        }
        client.ping();
        client.cut();
        let mut client = dial.connect();
        for n in [0, 2, 3] {
            let again = client.expect_publish();
            assert_eq!((again.text(), again.id), (n.to_string(), came[n].id));
            client.ack(AckKind::Puback, again.id);
        }
        client.expect_silence();
    }
}

#[test]
fn retained_and_live_share_the_window() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..5 {
        from.retain(&names.topic(&format!("r{n}")), "r", 1);
    }
    let mut to = broker().v5(&names.id("to")).receive_maximum(2).manual().connect();
    to.subscribe(&names.topic("+"), 1);
    from.publish(&names.topic("live"), "l", 1);
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let pair = [to.expect_publish(), to.expect_publish()];
        assert!(matches!(to.receive(std::time::Duration::from_millis(100)), Received::Nothing));
        for came in pair {
            to.ack(AckKind::Puback, came.id);
            seen.push(came.topic);
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
}

#[test]
fn message_that_waits_for_the_window_counts_its_expiry_down() {
    // MQTT-3.3.2-5 and 3.3.2-6, for a message that one client gets, and for one that many get.
    for receivers in [1, 3] {
        let names = Names::new();
        let topic = names.topic("a");
        let mut all: Vec<Client> = (0..receivers)
            .map(|n| {
                let dial = broker().v5(&names.id(&format!("to{n}"))).receive_maximum(1).manual();
                let mut to = dial.connect();
                to.subscribe(&topic, 1);
                to
            })
            .collect();
        let mut from = broker().v5(&names.id("from")).connect();
        from.publish(&topic, "first", 1);
        for (text, secs) in [("short", 1), ("long", 100), ("short again", 1)] {
            let props = Props::new().number(MESSAGE_EXPIRY, secs);
            from.publish_with(Publish { props, ..message(&topic, text, 1) });
        }
        from.publish(&topic, "last", 1);
        let open: Vec<Publish> = all.iter_mut().map(Client::expect_publish).collect();
        let_pass(Duration::from_millis(2_300));
        for (to, first) in all.iter_mut().zip(open) {
            assert_eq!(first.text(), "first");
            to.ack(AckKind::Puback, first.id);
            let long = to.expect_publish();
            let left = long.props.get_number(MESSAGE_EXPIRY).unwrap();
            assert_eq!(long.text(), "long", "what expired is deleted");
            assert!((90..=98).contains(&left), "{left} s are left");
            to.ack(AckKind::Puback, long.id);
            assert_eq!(to.expect_publish().text(), "last");
        }
    }
}

#[test]
fn acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    for durable in [false, true] {
        for (qos, wrong) in [(1, AckKind::Pubrec), (2, AckKind::Puback), (2, AckKind::Pubcomp)] {
            let names = Names::new();
            let dial = broker().v5(&names.id("to")).manual();
            let dial = if durable { dial.durable() } else { dial };
            let mut to = dial.connect();
            to.subscribe(&names.topic("a"), 2);
            let mut from = broker().v5(&names.id("from")).connect();
            from.publish(&names.topic("a"), "x", qos);
            let came = to.expect_publish();
            to.ack(wrong, came.id);
            to.expect_disconnect(&[0x82]);
        }
    }
}
