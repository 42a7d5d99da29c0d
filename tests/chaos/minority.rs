//! A node that is cut off from the two others, and comes back. Promises ALONE, NO-LOSS.

use std::time::Duration;

use super::victims::Victims;
use crate::support::{
    broker::Broker,
    dial::Dial,
    mqtt_client::{Client, Received, message},
    node::Node,
    packet::{AckKind, Packet, Sub, Version},
    property::Props,
    wait::{PATIENCE, SILENCE, now, wait_until_within},
};

/// The host that is cut off.
const CUT: usize = 0;
/// Sessions and topics, in shards of their own choice.
const TOPICS: usize = 8;
/// Elections, `NodeDown`, and what a busy machine adds.
const RECOVERY: Duration = Duration::from_secs(60);
const UNSPECIFIED: u8 = 0x80;
const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
const SERVER_UNAVAILABLE: u8 = 0x88;
/// The same in 3.1.1.
const UNAVAILABLE_V4: u8 = 3;

fn topic(number: usize) -> String {
    format!("m/{number}")
}

/// Half of them QoS 1, half QoS 2.
fn qos(number: usize) -> u8 {
    if number.is_multiple_of(2) { 1 } else { 2 }
}

fn cut(victims: &Victims, cut: bool) {
    let proxy = victims.proxy.as_ref().unwrap();
    for other in (0..victims.nodes.len()).filter(|other| *other != CUT) {
        proxy.stall(CUT, other, cut);
        proxy.stall(other, CUT, cut);
    }
}

fn connect(dial: &Dial) -> Client {
    let mut client = None;
    wait_until_within(RECOVERY, "the client is let in", || {
        client = dial.try_connect();
        client.is_some()
    });
    client.unwrap()
}

/// Publishes until it is acknowledged, as a client that connects again does.
fn publish_until_acknowledged(broker: Broker, number: usize, text: &str) {
    let start = now();
    loop {
        let mut client = connect(&broker.v5(&format!("again{number}")));
        client.send_publish(message(&topic(number), text, 1));
        if let Received::Packet(Packet::Ack { kind: AckKind::Puback, code, .. }) =
            client.receive(PATIENCE)
            && code < 0x80
        {
            return;
        }
        assert!(start.elapsed() < RECOVERY, "{text} {number} is not acknowledged");
    }
}

/// Everything that a session has got, once all of `wanted` is in it.
fn read(broker: Broker, number: usize, wanted: &[&str]) -> Vec<String> {
    let mut to = connect(&broker.v5(&format!("to{number}")).durable());
    assert!(to.connack.present, "the session is there");
    let (mut texts, start) = (Vec::new(), now());
    loop {
        let whole = wanted.iter().all(|wanted| texts.iter().any(|text| text == wanted));
        match to.receive(if whole { SILENCE } else { PATIENCE }) {
            Received::Packet(Packet::Publish(publish)) => texts.push(publish.text()),
            Received::Packet(other) => panic!("{other:?}"),
            Received::Nothing if whole => return texts,
            other => panic!("{other:?}: of {wanted:?} only {texts:?} came to {number}"),
        }
        assert!(start.elapsed() < RECOVERY, "{texts:?}");
    }
}

#[test]
fn minority_acknowledges_nothing_durable_says_why_and_has_all_after_the_heal() {
    let _turn = crate::delivery::alone();
    let victims = Victims::three();
    wait_until_within(RECOVERY, "each node has all groups", || victims.are_grown(CUT));
    let brokers: Vec<Broker> = victims.nodes.iter().map(Node::broker).collect();
    let minority = brokers[CUT];
    for number in 0..TOPICS {
        let broker = brokers[number % brokers.len()];
        let mut to = broker.v5(&format!("to{number}")).durable().connect();
        to.subscribe(&topic(number), qos(number));
        to.disconnect();
    }
    let mut live = minority.v5("live").connect();
    live.subscribe("live", 0);
    let mut from: Vec<_> = (0..TOPICS)
        .map(|number| {
            let version = if number < TOPICS / 2 { Version::V5 } else { Version::V4 };
            let mut from = minority.dial(version, &format!("from{number}")).connect();
            from.publish(&topic(number), "before", qos(number));
            from
        })
        .collect();

    cut(&victims, true);
    // At once, before the node can know; and once it knows.
    for (number, from) in from.iter_mut().enumerate() {
        from.send_publish(message(&topic(number), "cut off", qos(number)));
    }
    for from in &mut from {
        // An acknowledgement of any kind is an error here.
        from.check_disconnect(&[UNSPECIFIED, IMPLEMENTATION_SPECIFIC], false).unwrap();
    }
    wait_until_within(RECOVERY, "the node says that it cannot serve", || !victims.is_ready(CUT));
    refuses_what_is_durable(minority, &mut live);
    for number in 0..TOPICS {
        publish_until_acknowledged(brokers[1 + number % 2], number, "meanwhile");
    }

    cut(&victims, false);
    wait_until_within(RECOVERY, "the node is back", || victims.is_ready(CUT));
    for number in 0..TOPICS {
        publish_until_acknowledged(minority, number, "after");
    }
    for number in 0..TOPICS {
        let texts = read(brokers[(number + 1) % 3], number, &["before", "meanwhile", "after"]);
        assert!(!texts.iter().any(|text| text == "refused"), "stored after all: {texts:?}");
        // Nobody knows whether it was stored, and nobody has sent it again.
        let unknown = texts.iter().filter(|text| *text == "cut off").count();
        assert!(unknown <= 1, "{number}: {texts:?}");
    }
    assert_eq!(victims.panics(), Vec::<String>::new());
}

/// Clients of a node that knows that it is cut off.
fn refuses_what_is_durable(minority: Broker, live: &mut Client) {
    // Whoever wants nothing stored is let in, and what is live goes on.
    let mut five = minority.v5("five").connect();
    let mut four = minority.v4("four").connect();
    five.publish("live", "goes on", 0);
    assert_eq!(live.expect_publish().text(), "goes on");
    let codes = five.subscribe_with(&[Sub::new("new", 1)], &Props::new());
    assert_eq!(codes, [IMPLEMENTATION_SPECIFIC]);
    for client in [&mut five, &mut four] {
        client.send_publish(message(&topic(0), "refused", 1));
    }
    five.check_disconnect(&[IMPLEMENTATION_SPECIFIC], false).unwrap();
    four.check_disconnect(&[], false).unwrap();
    minority.v5("to0").durable().expect_refused(&[SERVER_UNAVAILABLE]);
    minority.v4("other").durable().expect_refused(&[UNAVAILABLE_V4]);
}
