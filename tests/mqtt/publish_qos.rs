//! PUBLISH and the four acknowledgements: MQTT 5.0 sections 3.3 to 3.7 and 4.3.

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, message},
    packet::{AckKind, BOTH, Packet, Publish, Version, encode_ack},
    property::{
        CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, Props, RESPONSE_TOPIC,
        SUBSCRIPTION_ID, TOPIC_ALIAS,
    },
    wait::let_pass,
};

#[test]
fn delivery_has_the_lower_of_both_qos() {
    for (publisher, subscriber) in
        [(Version::V4, Version::V4), (Version::V5, Version::V5), (Version::V4, Version::V5)]
    {
        let names = Names::new();
        let mut from = broker().dial(publisher, &names.id("from")).connect();
        let mut to = broker().dial(subscriber, &names.id("to")).connect();
        for subscribed in 0..3 {
            let topic = names.topic(&format!("q{subscribed}"));
            to.subscribe(&topic, subscribed);
            for published in 0..3 {
                from.publish(&topic, &format!("{published}"), published);
                let came = to.expect_publish();
                assert_eq!(came.qos, published.min(subscribed));
                assert_eq!((came.topic, came.retain, came.dup), (topic.clone(), false, false));
                assert_eq!(came.payload, format!("{published}").as_bytes());
            }
        }
        to.expect_silence();
    }
}

#[test]
fn publisher_that_subscribes_hears_itself() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("self")).connect();
        client.subscribe(&names.topic("a"), 2);
        client.publish(&names.topic("a"), "echo", 2);
        assert_eq!(client.expect_publish().text(), "echo");
    }
}

#[test]
fn empty_payload_without_retain_is_a_message() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("empty")).connect();
    client.subscribe(&names.topic("a"), 1);
    client.publish(&names.topic("a"), "", 1);
    assert!(client.expect_publish().payload.is_empty());
}

#[test]
fn publish_without_receivers_is_acknowledged() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("alone")).connect();
        for qos in 0..3 {
            let code = client.publish_code(message(&names.topic("nobody"), "x", qos));
            assert!([0, 0x10].contains(&code), "{code:#x}");
        }
    }
}

#[test]
fn topics_of_unusual_text_are_delivered_unchanged() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("text")).connect();
    client.subscribe(&names.topic("#"), 1);
    let texts = [
        "/",
        "//",
        "a//b",
        " ",
        "with space",
        "\u{FEFF}bom",
        "\u{FEFF}",
        "Ünïcode/虹桥/🌈",
        "\u{FFFD}",
        "Case",
        "case",
        "a$b",
        "x/$y",
        "\u{10FFFD}",
    ];
    for text in texts {
        client.publish(&names.topic(text), text, 1);
        let came = client.expect_publish();
        assert_eq!((came.text().as_str(), came.topic), (text, names.topic(text)));
    }
}

#[test]
fn properties_reach_the_receiver_unchanged_and_in_order() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("props")).connect();
    client.subscribe(&names.topic("a"), 2);
    let props = Props::new()
        .number(PAYLOAD_FORMAT, 1)
        .text(CONTENT_TYPE, "text/plain")
        .text(RESPONSE_TOPIC, "answer/here")
        .data(CORRELATION_DATA, &[0, 1, 0xFF])
        .user("b", "1")
        .user("a", "2")
        .user("b", "3")
        .user("", "");
    for qos in 0..3 {
        client
            .publish_with(Publish { props: props.clone(), ..message(&names.topic("a"), "p", qos) });
        let came = client.expect_publish().props;
        assert_eq!(came.user_pairs(), [("b", "1"), ("a", "2"), ("b", "3"), ("", "")]);
        assert_eq!(came.get_number(PAYLOAD_FORMAT), Some(1));
        assert_eq!(came.get_text(CONTENT_TYPE), Some("text/plain"));
        assert_eq!(came.get_text(RESPONSE_TOPIC), Some("answer/here"));
        assert_eq!(came.get_data(CORRELATION_DATA), Some(&[0, 1, 0xFF][..]));
        assert!(!came.has(SUBSCRIPTION_ID) && !came.has(MESSAGE_EXPIRY) && !came.has(TOPIC_ALIAS));
    }
}

#[test]
fn properties_do_not_reach_a_v4_receiver() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    let mut to = broker().v4(&names.id("to")).connect();
    to.subscribe(&names.topic("a"), 1);
    let props = Props::new().user("a", "b").number(MESSAGE_EXPIRY, 100);
    from.publish_with(Publish { props, ..message(&names.topic("a"), "plain", 1) });
    assert_eq!(to.expect_publish().text(), "plain");
}

#[test]
fn dup_is_not_passed_on_to_receivers() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("dup")).connect();
        client.subscribe(&names.topic("a"), 2);
        for qos in 1..3 {
            client.publish_with(Publish { dup: true, ..message(&names.topic("a"), "again", qos) });
            assert!(!client.expect_publish().dup);
        }
    }
}

#[test]
fn qos2_resent_before_release_is_delivered_once() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("twice")).connect();
        client.subscribe(&names.topic("a"), 0);
        let publish = Publish { id: 900, ..message(&names.topic("a"), "once", 2) };
        client.send_publish(publish.clone());
        assert_eq!(client.expect_ack(AckKind::Pubrec, 900), 0);
        client.send_publish(Publish { dup: true, ..publish.clone() });
        assert!(client.expect_ack(AckKind::Pubrec, 900) < 0x80);
        client.ack(AckKind::Pubrel, 900);
        assert_eq!(client.expect_ack(AckKind::Pubcomp, 900), 0);
        assert_eq!(client.expect_publish().text(), "once");
        client.expect_silence();
        // After PUBCOMP the id is free: the same id is a new message.
        client.publish_with(publish);
        assert_eq!(client.expect_publish().text(), "once");
    }
}

#[test]
fn pubrel_for_an_unknown_id_is_answered() {
    for (version, wanted) in [(Version::V4, 0), (Version::V5, 0x92)] {
        let mut client = broker().dial(version, &Names::new().id("rel")).connect();
        client.ack(AckKind::Pubrel, 4711);
        assert_eq!(client.expect_ack(AckKind::Pubcomp, 4711), wanted);
        client.ping();
    }
}

#[test]
fn pubrel_resent_after_pubcomp_is_answered() {
    for (version, wanted) in [(Version::V4, 0), (Version::V5, 0x92)] {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("rel")).connect();
        client.publish_with(Publish { id: 7, ..message(&names.topic("a"), "x", 2) });
        client.ack(AckKind::Pubrel, 7);
        assert_eq!(client.expect_ack(AckKind::Pubcomp, 7), wanted);
        client.ping();
    }
}

#[test]
fn acknowledgement_of_an_unknown_id_leaves_the_connection() {
    for version in BOTH {
        let mut client = broker().dial(version, &Names::new().id("stray")).connect();
        client.send_raw(&encode_ack(version, AckKind::Puback, 99, 0));
        client.send_raw(&encode_ack(version, AckKind::Pubcomp, 98, 0));
        client.ping();
    }
}

#[test]
fn pubrec_for_an_unknown_id_gets_pubrel() {
    for (version, wanted) in [(Version::V4, 0), (Version::V5, 0x92)] {
        if !broker().ours {
            return;
        }
        let mut client = broker().dial(version, &Names::new().id("stray")).manual().connect();
        client.ack(AckKind::Pubrec, 99);
        assert_eq!(client.expect_ack(AckKind::Pubrel, 99), wanted);
        client.ping();
    }
}

/// Receives one QoS 2 publish by hand up to PUBREC with this code.
fn refuse_next(client: &mut Client, code: u8) -> Publish {
    let publish = client.expect_publish();
    assert_eq!(publish.qos, 2);
    client.ack_with(AckKind::Pubrec, publish.id, code);
    publish
}

#[test]
fn pubrec_with_an_error_ends_the_exchange_and_frees_the_window() {
    let names = Names::new();
    let mut to = broker().v5(&names.id("to")).receive_maximum(1).manual().connect();
    to.subscribe(&names.topic("a"), 2);
    let mut from = broker().v5(&names.id("from")).connect();
    for text in ["one", "two", "three"] {
        from.publish(&names.topic("a"), text, 2);
    }
    assert_eq!(refuse_next(&mut to, 0x80).text(), "one");
    assert_eq!(refuse_next(&mut to, 0x97).text(), "two");
    assert_eq!(refuse_next(&mut to, 0x80).text(), "three");
    to.expect_silence();
}

#[test]
fn exchange_with_success_codes_spelt_out_is_understood() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("long")).manual().connect();
    client.subscribe(&names.topic("a"), 2);
    client.send_publish(Publish { id: 5, ..message(&names.topic("a"), "x", 2) });
    assert_eq!(client.expect_ack(AckKind::Pubrec, 5), 0);
    // Code and an empty list of properties, both optional.
    client.send_raw(&[0x62, 4, 0, 5, 0, 0]);
    assert_eq!(client.expect_ack(AckKind::Pubcomp, 5), 0);
    let [high, low] = client.expect_publish().id.to_be_bytes();
    client.send_raw(&[0x50, 4, high, low, 0, 0]);
    let id = u16::from_be_bytes([high, low]);
    assert_eq!(client.expect_ack(AckKind::Pubrel, id), 0);
    client.send_raw(&[0x70, 3, high, low, 0]);
    client.ping();
}

#[test]
fn acknowledgements_come_in_the_order_of_the_publishes() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("order")).connect();
        for (qos, kind) in [(1, AckKind::Puback), (2, AckKind::Pubrec)] {
            let ids: Vec<u16> = (0..60)
                .map(|n| {
                    client.send_publish(message(&names.topic(&format!("{}", n % 7)), "x", qos))
                })
                .collect();
            let acked: Vec<u16> = ids
                .iter()
                .map(|_| match client.expect_next() {
                    Packet::Ack { kind: came, id, .. } if came == kind => id,
                    other => panic!("wanted {kind:?}, got {other:?}"),
                })
                .collect();
            assert_eq!(acked, ids);
            if qos == 2 {
                for id in ids {
                    client.ack(AckKind::Pubrel, id);
                    assert_eq!(client.expect_ack(AckKind::Pubcomp, id), 0);
                }
            }
        }
    }
}

#[test]
fn releases_come_in_the_order_of_the_pubrecs() {
    for version in BOTH {
        let names = Names::new();
        let mut to = broker().dial(version, &names.id("to")).durable().manual().connect();
        to.subscribe(&names.topic("a"), 2);
        let mut from = broker().dial(version, &names.id("from")).connect();
        for n in 0..40 {
            from.publish(&names.topic("a"), &n.to_string(), 2);
        }
        let ids: Vec<u16> = (0..40).map(|_| to.expect_publish().id).collect();
        let bytes: Vec<u8> =
            ids.iter().flat_map(|id| encode_ack(version, AckKind::Pubrec, *id, 0)).collect();
        to.send_raw(&bytes);
        let released: Vec<u16> = ids
            .iter()
            .map(|_| match to.expect_next() {
                Packet::Ack { kind: AckKind::Pubrel, id, code: 0, .. } => id,
                other => panic!("wanted PUBREL, got {other:?}"),
            })
            .collect();
        assert_eq!(released, ids, "{version:?}");
    }
}

#[test]
fn packet_ids_of_both_directions_are_separate() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("ids")).manual().connect();
    client.subscribe(&names.topic("a"), 2);
    // The server's first id towards us is held while we use the same number ourselves.
    client.publish(&names.topic("a"), "held", 2);
    let held = client.expect_publish();
    client.publish_with(Publish { id: held.id, ..message(&names.topic("b"), "mine", 2) });
    client.ack(AckKind::Pubrec, held.id);
    assert_eq!(client.expect_ack(AckKind::Pubrel, held.id), 0);
    client.ack(AckKind::Pubcomp, held.id);
    client.ping();
}

#[test]
fn no_resend_happens_on_a_live_connection() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("patient")).manual().connect();
    client.subscribe(&names.topic("a"), 1);
    client.publish(&names.topic("a"), "x", 1);
    client.expect_publish();
    let_pass(std::time::Duration::from_secs(3));
    client.expect_silence();
}

#[test]
fn message_expiry_is_passed_on_no_greater_than_sent() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("expiry")).connect();
    client.subscribe(&names.topic("a"), 1);
    let props = Props::new().number(MESSAGE_EXPIRY, 100);
    client.publish_with(Publish { props, ..message(&names.topic("a"), "x", 1) });
    let left = client.expect_publish().props.get_number(MESSAGE_EXPIRY).unwrap();
    assert!((90..=100).contains(&left), "{left}");
}

#[test]
fn message_expiry_of_zero_is_legal() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("zero")).connect();
    let props = Props::new().number(MESSAGE_EXPIRY, 0);
    for qos in 0..3 {
        client
            .publish_with(Publish { props: props.clone(), ..message(&names.topic("a"), "x", qos) });
    }
    client.ping();
}

#[test]
fn request_and_response_find_each_other() {
    let names = Names::new();
    let mut server = broker().v5(&names.id("server")).connect();
    server.subscribe(&names.topic("ask"), 1);
    let mut client = broker().v5(&names.id("client")).connect();
    client.subscribe(&names.topic("answer"), 1);
    let props =
        Props::new().text(RESPONSE_TOPIC, &names.topic("answer")).data(CORRELATION_DATA, b"42");
    client.publish_with(Publish { props, ..message(&names.topic("ask"), "question", 1) });
    let asked = server.expect_publish();
    let props =
        Props::new().data(CORRELATION_DATA, asked.props.get_data(CORRELATION_DATA).unwrap());
    let topic = asked.props.get_text(RESPONSE_TOPIC).unwrap();
    server.publish_with(Publish { props, ..message(topic, "answer", 1) });
    let answer = client.expect_publish();
    assert_eq!(answer.text(), "answer");
    assert_eq!(answer.props.get_data(CORRELATION_DATA), Some(&b"42"[..]));
}
