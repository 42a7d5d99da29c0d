//! CONNECT and CONNACK: MQTT 5.0 sections 3.1, 3.2; MQTT 3.1.1 sections 3.1, 3.2.

use crate::support::{
    broker::{Names, broker},
    mqtt_client::message,
    packet::{BOTH, Packet, Sub, Version, encode_auth, encode_subscribe},
    property::{
        ASSIGNED_CLIENT_ID, AUTH_DATA, AUTH_METHOD, Props, REASON_STRING, REQUEST_PROBLEM_INFO,
        SESSION_EXPIRY, USER_PROPERTY,
    },
    wait::PATIENCE,
    wire::{Came, Tcp, Wire},
};

#[test]
fn connect_of_each_version_is_accepted_without_a_session() {
    for version in BOTH {
        let client = broker().dial(version, &Names::new().id("c")).connect();
        assert!(!client.connack.present);
        client.disconnect();
    }
}

#[test]
fn connect_v5_with_empty_id_is_told_its_own_id() {
    let first = broker().v5("").connect();
    let second = broker().v5("").connect();
    let id = |client: &crate::support::mqtt_client::Client| {
        client.connack.props.get_text(ASSIGNED_CLIENT_ID).map(str::to_owned).unwrap()
    };
    assert_ne!(id(&first), id(&second));
    assert!(!id(&first).is_empty());
}

#[test]
fn connect_v5_with_assigned_id_resumes_under_that_id() {
    let first = broker().v5("").clean(false).expiry(60).connect();
    let id = first.connack.props.get_text(ASSIGNED_CLIENT_ID).unwrap().to_owned();
    first.disconnect();
    let second = broker().v5(&id).clean(false).expiry(60).connect();
    assert!(second.connack.present);
    assert!(!second.connack.props.has(ASSIGNED_CLIENT_ID), "the client chose the id itself");
}

#[test]
fn connect_v4_with_empty_id_needs_clean_session() {
    let mut accepted = broker().v4("").clean(true).connect();
    accepted.ping();
    broker().v4("").clean(false).expect_refused(&[2]);
}

#[test]
fn connect_with_23_letters_and_digits_as_id_is_accepted() {
    for version in BOTH {
        broker().dial(version, "0123456789abcdefghijKLM").connect().disconnect();
    }
}

#[test]
fn second_connect_is_a_protocol_error() {
    for version in BOTH {
        let dial = broker().dial(version, &Names::new().id("twice"));
        let mut client = dial.connect();
        client.send_raw(&dial.connect_bytes());
        client.expect_disconnect(&[0x82]);
    }
}

#[test]
fn first_packet_other_than_connect_is_closed_without_an_answer() {
    let subscribe = encode_subscribe(Version::V4, 1, &[Sub::new("a", 0)], &Props::new());
    for bytes in [vec![0xC0, 0], subscribe, message("a", "b", 0).encode(Version::V4)] {
        let mut wire = Tcp::connect(broker().mqtt());
        wire.write(&bytes);
        assert_eq!(wire.read(PATIENCE), Came::Closed, "{bytes:x?}");
    }
}

#[test]
fn unknown_protocol_level_is_refused_or_closed() {
    for level in [0, 2, 6, 0x7F, 0xFF] {
        let mut bytes = broker().v4(&Names::new().id("level")).connect_bytes();
        bytes[8] = level;
        let mut wire = Tcp::connect(broker().mqtt());
        wire.write(&bytes);
        match wire.read(PATIENCE) {
            Came::Closed => {}
            Came::Bytes(answer) => {
                let v4 = answer == [0x20, 2, 0, 1];
                let v5 = answer.len() >= 5 && answer[0] == 0x20 && answer[2..4] == [0, 0x84];
                assert!(v4 || v5, "level {level}: {answer:x?}");
                assert_eq!(wire.read(PATIENCE), Came::Closed);
            }
            Came::Nothing => panic!("level {level}: no answer"),
        }
    }
}

#[test]
fn wrong_protocol_name_is_closed() {
    for (place, letter) in [(4, b'm'), (7, b'X')] {
        let mut bytes = broker().v5(&Names::new().id("name")).connect_bytes();
        bytes[place] = letter;
        let mut wire = Tcp::connect(broker().mqtt());
        wire.write(&bytes);
        let first = wire.read(PATIENCE);
        if let Came::Bytes(answer) = &first {
            assert_eq!(answer[0], 0x20);
            assert_ne!(answer[3], 0, "accepted: {answer:x?}");
            assert_eq!(wire.read(PATIENCE), Came::Closed);
        } else {
            assert_eq!(first, Came::Closed);
        }
    }
}

#[test]
fn packets_in_one_segment_with_connect_are_served_in_order() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("hasty"));
        let topic = names.topic("a");
        let mut bytes = dial.connect_bytes();
        bytes.extend(encode_subscribe(version, 7, &[Sub::new(&topic, 0)], &Props::new()));
        bytes.extend(message(&topic, "one", 0).encode(version));
        bytes.extend(message(&topic, "two", 0).encode(version));
        bytes.extend([0xC0, 0]);
        let mut client = dial.open();
        client.send_raw(&bytes);
        assert!(matches!(client.expect_next(), Packet::Connack { code: 0, .. }));
        assert!(matches!(client.expect_next(), Packet::Suback { id: 7, .. }));
        assert_eq!(client.expect_texts(2), ["one", "two"]);
        assert_eq!(client.expect_next(), Packet::Pingresp);
    }
}

#[test]
fn connect_byte_by_byte_is_accepted() {
    for version in BOTH {
        let dial = broker().dial(version, &Names::new().id("slow"));
        let mut client = dial.open();
        for byte in dial.connect_bytes() {
            client.send_raw(&[byte]);
        }
        assert!(matches!(client.expect_next(), Packet::Connack { code: 0, .. }));
    }
}

#[test]
fn takeover_ends_the_old_connection_and_serves_the_new() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("same"));
        let mut old = dial.connect();
        let mut new = dial.connect();
        old.expect_disconnect(&[0x8E]);
        new.subscribe(&names.topic("a"), 1);
        new.publish(&names.topic("a"), "here", 1);
        assert_eq!(new.expect_publish().text(), "here");
    }
}

#[test]
fn takeover_by_another_version_ends_the_old_connection() {
    for (first, second) in [(Version::V4, Version::V5), (Version::V5, Version::V4)] {
        let id = Names::new().id("same");
        let mut old = broker().dial(first, &id).connect();
        let mut new = broker().dial(second, &id).connect();
        old.expect_disconnect(&[0x8E]);
        new.ping();
    }
}

#[test]
fn takeover_many_times_in_a_row_leaves_the_last() {
    let names = Names::new();
    let dial = broker().v5(&names.id("same")).durable();
    let mut clients: Vec<_> = (0..20).map(|_| dial.connect()).collect();
    let mut last = clients.pop().unwrap();
    for mut client in clients {
        client.expect_disconnect(&[0x8E]);
    }
    last.ping();
    assert!(last.connack.present);
}

#[test]
fn connect_with_unknown_authentication_method_is_refused() {
    let dial = broker().v5(&Names::new().id("auth"));
    dial.clone().text(AUTH_METHOD, "OUR-OWN").expect_refused(&[0x8C]);
    let mut with_data = dial.text(AUTH_METHOD, "OUR-OWN");
    with_data.connect_props(|props| props.data(AUTH_DATA, b"secret"));
    with_data.expect_refused(&[0x8C]);
}

#[test]
fn authentication_data_without_method_is_a_protocol_error() {
    let mut dial = broker().v5(&Names::new().id("auth"));
    dial.connect_props(|props| props.data(AUTH_DATA, b"secret"));
    let mut client = dial.open();
    client.send_raw(&dial.connect_bytes());
    client.expect_refusal_or_close(&[0x81, 0x82]);
}

#[test]
fn auth_packet_without_a_method_in_connect_is_a_protocol_error() {
    let mut client = broker().v5(&Names::new().id("auth")).connect();
    client.send_raw(&encode_auth(0x18, &Props::new().text(AUTH_METHOD, "OUR-OWN")));
    client.expect_disconnect(&[0x82, 0x8C]);
}

#[test]
fn session_expiry_that_the_server_changes_is_told() {
    // 0xFFFFFFFF and a long time: whatever the server's cap is, it must say so.
    for asked in [10, 0xFFFF_FFFF] {
        let client = broker().v5(&Names::new().id("cap")).expiry(asked).connect();
        if let Some(told) = client.connack.props.get_number(SESSION_EXPIRY) {
            assert!(told <= asked);
        }
    }
}

#[test]
fn without_problem_information_no_reason_strings_come() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("terse")).number(REQUEST_PROBLEM_INFO, 0).connect();
    let id = client.next_id();
    client.send_raw(&encode_subscribe(
        Version::V5,
        id,
        &[Sub::new(&names.topic("a"), 1)],
        &Props::new(),
    ));
    let Packet::Suback { props, .. } = client.expect_next() else { panic!("no SUBACK") };
    assert!(!props.has(REASON_STRING) && !props.has(USER_PROPERTY));
    client.send_publish(message(&names.topic("nobody"), "x", 1));
    let Packet::Ack { props, .. } = client.expect_next() else { panic!("no PUBACK") };
    assert!(!props.has(REASON_STRING) && !props.has(USER_PROPERTY));
    client.send_publish(message(&names.topic("nobody"), "x", 2));
    let Packet::Ack { props, .. } = client.expect_next() else { panic!("no PUBREC") };
    assert!(!props.has(REASON_STRING) && !props.has(USER_PROPERTY));
}

#[test]
fn what_follows_disconnect_is_not_served() {
    for version in BOTH {
        let names = Names::new();
        let mut watcher = broker().dial(version, &names.id("watcher")).connect();
        watcher.subscribe(&names.topic("a"), 0);
        let mut client = broker().dial(version, &names.id("gone")).connect();
        let mut bytes = vec![0xE0, 0];
        bytes.extend(message(&names.topic("a"), "late", 0).encode(version));
        client.send_raw(&bytes);
        client.expect_closed();
        watcher.expect_silence();
    }
}
