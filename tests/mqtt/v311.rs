//! What is special to MQTT 3.1.1 (and 3.1): codes, refusals, and that nothing of v5 leaks into it.

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Received, message},
    node::Node,
    packet::{BOTH, Packet, Publish, Sub, Version, encode_subscribe},
    property::Props,
    wait::PATIENCE,
    wire::{Came, Tcp, Wire},
};

#[test]
fn suback_carries_one_code_per_filter_in_order() {
    let names = Names::new();
    let mut client = broker().v4(&names.id("codes")).connect();
    let subs: Vec<Sub> =
        [2, 0, 1].iter().map(|qos| Sub::new(&names.topic(&qos.to_string()), *qos)).collect();
    assert_eq!(client.subscribe_with(&subs, &Props::new()), [2, 0, 1]);
}

#[test]
fn dollar_share_is_a_plain_or_a_shared_filter_but_never_breaks_the_connection() {
    let names = Names::new();
    let mut client = broker().v4(&names.id("share")).connect();
    let filter = format!("$share/g/{}", names.topic("a"));
    client.send_raw(&encode_subscribe(Version::V4, 5, &[Sub::new(&filter, 1)], &Props::new()));
    match client.receive(PATIENCE) {
        Received::Packet(Packet::Suback { codes, .. }) => assert!([1, 0x80].contains(&codes[0])),
        other => panic!("{other:?}"),
    }
    client.ping();
}

#[test]
fn takeover_tells_nothing_and_closes() {
    let dial = broker().v4(&Names::new().id("same"));
    let mut old = dial.connect();
    let mut new = dial.connect();
    match old.receive(PATIENCE) {
        Received::Closed => {}
        other => panic!("3.1.1 has no DISCONNECT from a server: {other:?}"),
    }
    new.ping();
}

#[test]
fn shutdown_tells_v5_a_reason_and_closes_v4() {
    let mut node = Node::start();
    let mut old = node.broker().v4("old").connect();
    let mut new = node.broker().v5("new").connect();
    if node.broker().ours {
        assert!(node.terminate().success());
        new.expect_disconnect(&[0x8B, 0x9C, 0x9D]);
        match old.receive(PATIENCE) {
            Received::Closed => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn version_3_1_is_served_or_refused_with_its_code() {
    let names = Names::new();
    let id = names.id("old");
    let mut body = b"\x00\x06MQIsdp\x03\x02\x00\x3C".to_vec();
    crate::support::property::put_data(&mut body, id.as_bytes());
    let mut wire = Tcp::connect(broker().mqtt());
    wire.write(&crate::support::packet::frame(0x10, &body));
    match wire.read(PATIENCE) {
        Came::Bytes(bytes) if bytes == [0x20, 2, 0, 0] => {
            wire.write(&[0xC0, 0]);
            assert_eq!(wire.read(PATIENCE), Came::Bytes(vec![0xD0, 0]));
        }
        Came::Bytes(bytes) => assert_eq!(bytes, [0x20, 2, 0, 1]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn durable_session_of_v4_has_no_end() {
    let names = Names::new();
    let dial = broker().v4(&names.id("s")).durable();
    let mut client = dial.connect();
    client.subscribe(&names.topic("a"), 1);
    client.disconnect();
    let mut from = broker().v4(&names.id("from")).connect();
    from.publish(&names.topic("a"), "one", 1);
    let mut client = dial.connect();
    assert!(client.connack.present);
    assert_eq!(client.expect_publish().text(), "one");
}

#[test]
fn both_versions_meet_on_one_topic() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut clients: Vec<_> = BOTH
        .iter()
        .map(|version| {
            let mut client = broker().dial(*version, &names.id(&format!("{version:?}"))).connect();
            client.subscribe(&topic, 2);
            client
        })
        .collect();
    for sender in 0..2 {
        for qos in 0..3 {
            clients[sender].publish(&topic, &format!("{sender} {qos}"), qos);
            for client in &mut clients {
                let came = client.expect_publish();
                assert_eq!((came.text(), came.qos), (format!("{sender} {qos}"), qos));
            }
        }
    }
}

#[test]
fn retained_from_v5_reaches_v4_without_properties() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut from = broker().v5(&names.id("from")).connect();
    let props = Props::new().user("k", "v");
    from.publish_with(Publish { retain: true, props, ..message(&topic, "kept", 1) });
    let mut to = broker().v4(&names.id("to")).connect();
    to.subscribe(&topic, 1);
    let came = to.expect_publish();
    assert!(came.retain && came.text() == "kept");
}
