//! Acknowledgements, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT, AUTH: MQTT 5.0 sections 3.4 to 3.15.

use super::{NO_TEXT, UNKNOWN, V4, V5, block, decode, packet, property, text, verdict};
use crate::model::{
    message::Qos,
    reason::Reason::{
        self, MalformedPacket, ProtocolError, QuotaExceeded, Success, TopicFilterInvalid,
    },
    wire::{
        Ack, AckKind, Auth, Dialect, Disconnect, Inbound, RetainHandling, Subscribe, Unsubscribe,
    },
};

const ACKS: [(u8, AckKind); 4] = [
    (0x40, AckKind::Puback),
    (0x50, AckKind::Pubrec),
    (0x62, AckKind::Pubrel),
    (0x70, AckKind::Pubcomp),
];

fn ack(dialect: Dialect, first: u8, body: &[u8]) -> Ack {
    match decode(dialect, &packet(first, &[body])) {
        Ok(Inbound::Ack(ack)) => ack,
        other => panic!("{other:?}"),
    }
}

fn subscribe(dialect: Dialect, bytes: &[u8]) -> Subscribe {
    match decode(dialect, bytes) {
        Ok(Inbound::Subscribe(subscribe)) => *subscribe,
        other => panic!("{other:?}"),
    }
}

fn unsubscribe(dialect: Dialect, bytes: &[u8]) -> Unsubscribe {
    match decode(dialect, bytes) {
        Ok(Inbound::Unsubscribe(unsubscribe)) => *unsubscribe,
        other => panic!("{other:?}"),
    }
}

/// SUBSCRIBE of one filter in v5.
fn one(filter: &[u8], options: u8) -> Vec<u8> {
    packet(0x82, &[b"\0\x01\0", &text(filter), &[options]])
}

#[test]
fn acks_of_every_length_then_read() {
    for (first, kind) in ACKS {
        for dialect in [V4, V5] {
            let got = ack(dialect, first, b"\x01\x02");
            assert_eq!((got.kind, got.packet_id.get(), got.reason), (kind, 0x0102, Success));
        }
        assert_eq!(ack(V5, first, b"\0\x01\0").reason, Success);
        assert_eq!(ack(V5, first, b"\0\x01\0\0").reason, Success);
        let string = block(&[&property(0x1f, &[b"why"]), &property(0x26, &[b"k", b"v"])]);
        assert_eq!(ack(V5, first, &[&b"\0\x01\0"[..], &string].concat()).reason, Success);
    }
    assert_eq!(ack(V5, 0x50, b"\0\x01\x97").reason, Reason::QuotaExceeded);
    assert_eq!(ack(V5, 0x62, b"\0\x01\x92").reason, Reason::PacketIdNotFound);
}

#[test]
fn acks_that_break_a_rule_then_refused() {
    for (first, _) in ACKS {
        for dialect in [V4, V5] {
            assert_eq!(verdict(dialect, &packet(first, &[b"\0\0"])), ProtocolError);
            assert_eq!(verdict(dialect, &packet(first, &[b"\0"])), MalformedPacket);
            assert_eq!(verdict(dialect, &packet(first, &[b""])), MalformedPacket);
        }
        assert_eq!(verdict(V4, &packet(first, &[b"\0\x01\0"])), MalformedPacket);
        assert_eq!(verdict(V5, &packet(first, &[b"\0\x01\x01"])), ProtocolError);
        assert_eq!(verdict(V5, &packet(first, &[b"\0\x01\0\0x"])), MalformedPacket);
        assert_eq!(verdict(V5, &packet(first, &[b"\0\x01\0\x03\x23\0\x01"])), MalformedPacket);
        let twice = block(&[&property(0x1f, &[b"a"]), &property(0x1f, &[b"b"])]);
        assert_eq!(verdict(V5, &packet(first, &[b"\0\x01\0", &twice])), ProtocolError);
    }
    assert_eq!(verdict(V5, &packet(0x62, &[b"\0\x01\x80"])), ProtocolError, "not for PUBREL");
    assert_eq!(verdict(V5, &packet(0x40, &[b"\0\x01\x92"])), ProtocolError, "not for PUBACK");
}

#[test]
fn subscribe_v4_then_items_in_order() {
    let got = subscribe(
        V4,
        &packet(0x82, &[b"\0\x0a", &text("a/+"), b"\x01", &text("$share/g/b"), b"\x02"]),
    );
    assert_eq!(got.packet_id.get(), 10);
    assert_eq!(got.items[0].filter.as_ref().unwrap().as_str(), "a/+");
    assert_eq!((got.items[0].options.qos, got.items[0].share.is_none()), (Qos::AtLeastOnce, true));
    assert_eq!(got.items[1].filter.as_ref().unwrap().as_str(), "b");
    assert_eq!(got.items[1].share.as_deref(), Some(&b"g"[..]));
}

#[test]
fn subscribe_v5_then_options_and_id() {
    let properties = block(&[b"\x0b\xff\xff\xff\x7f", &property(0x26, &[b"k", b"v"])]);
    let got = subscribe(V5, &packet(0x82, &[b"\0\x0a", &properties, &text("#"), b"\x2e"]));
    assert_eq!(got.subscription_id.unwrap().get(), 268_435_455);
    let options = got.items[0].options;
    assert_eq!(options.qos, Qos::ExactlyOnce);
    assert!(options.no_local && options.retain_as_published);
    assert_eq!(options.retain_handling, RetainHandling::DoNotSend);
}

#[test]
fn subscribe_with_bad_filters_then_each_is_answered_in_its_place() {
    let deep = "+/".repeat(16);
    let long = "a".repeat(1_001);
    let bad =
        ["", "a#", "a/#/b", "a+/b", "+a", "$share/g/", "$share//a", "$share/g", "$share/g+/a"];
    for filter in bad.into_iter().chain(["$share/#/a", "$share/g/a#", &deep, &long]) {
        let bytes = packet(0x82, &[b"\0\x01\0", &text("ok"), b"\0", &text(filter), b"\x01"]);
        let got = subscribe(V5, &bytes);
        assert!(got.items[0].filter.is_ok());
        assert_eq!(got.items[1].filter, Err(TopicFilterInvalid), "{filter}");
        let bytes = packet(0x82, &[b"\0\x01", &text(filter), b"\x01"]);
        assert_eq!(subscribe(V4, &bytes).items[0].filter, Err(TopicFilterInvalid), "{filter}");
        let bytes = packet(0xa2, &[b"\0\x01", &text(filter)]);
        assert_eq!(unsubscribe(V4, &bytes).items, [Err(TopicFilterInvalid)], "{filter}");
    }
    for filter in ["/", "+", "#", "+/+", "/#", "$share", "$shared/a/b", "$share/g//"] {
        assert!(subscribe(V5, &one(filter.as_bytes(), 0)).items[0].filter.is_ok(), "{filter}");
    }
}

#[test]
fn subscribe_filter_then_does_not_hold_the_read_buffer() {
    let bytes = bytes::Bytes::from(one(b"a/b", 0));
    let Ok(crate::model::wire::Decoded::Packet { inbound: Inbound::Subscribe(got), .. }) =
        super::fronts()[V5 as usize].decode(&bytes, &super::LIMITS)
    else {
        panic!("no subscribe")
    };
    let filter = got.items[0].filter.as_ref().unwrap().as_bytes().as_ptr();
    assert!(!bytes.as_ptr_range().contains(&filter));
}

#[test]
fn subscribe_that_breaks_a_rule_then_refused() {
    let v5: [(&[&[u8]], Reason); 12] = [
        (&[b"\0\0\0", &text("a"), b"\0"], ProtocolError),
        (&[b"\0\x01\0"], ProtocolError),
        (&[b"\0\x01\0", &text("a")], MalformedPacket),
        (&[b"\0\x01\0", &text("a"), b"\x03"], ProtocolError),
        (&[b"\0\x01\0", &text("a"), b"\x30"], ProtocolError),
        (&[b"\0\x01\0", &text("a"), b"\x40"], MalformedPacket),
        (&[b"\0\x01\0", &text("a"), b"\x80"], MalformedPacket),
        (&[b"\0\x01\0", &text("$share/g/a"), b"\x04"], ProtocolError),
        (&[b"\0\x01\x02\x0b\0", &text("a"), b"\0"], ProtocolError),
        (&[b"\0\x01\x04\x0b\x01\x0b\x01", &text("a"), b"\0"], ProtocolError),
        (&[b"\0\x01\x06\x0b\xff\xff\xff\xff\x01", &text("a"), b"\0"], MalformedPacket),
        (&[b"\0\x01\x03\x0b\x81\0", &text("a"), b"\0"], MalformedPacket),
    ];
    for (parts, reason) in v5 {
        assert_eq!(verdict(V5, &packet(0x82, parts)), reason, "{parts:?}");
    }
    for options in [0x03, 0x04, 0x08, 0x10, 0x80] {
        let bytes = packet(0x82, &[b"\0\x01", &text("a"), &[options]]);
        assert_eq!(verdict(V4, &bytes), MalformedPacket, "{options:#x}");
    }
    assert_eq!(verdict(V4, &packet(0x82, &[b"\0\x01"])), ProtocolError);
    assert_eq!(verdict(V4, &packet(0x82, &[b"\0\0", &text("a"), b"\0"])), ProtocolError);
    for bad in NO_TEXT {
        assert_eq!(verdict(V5, &one(bad, 0)), MalformedPacket, "{bad:?}");
    }
}

#[test]
fn filters_over_the_limit_then_quota_exceeded() {
    let filter = [text("a"), vec![0]].concat();
    assert_eq!(verdict(V5, &packet(0x82, &[b"\0\x01\0", &filter.repeat(8)])), Success);
    assert_eq!(verdict(V5, &packet(0x82, &[b"\0\x01\0", &filter.repeat(9)])), QuotaExceeded);
    assert_eq!(verdict(V4, &packet(0x82, &[b"\0\x01", &filter.repeat(9)])), QuotaExceeded);
    assert_eq!(verdict(V4, &packet(0xa2, &[b"\0\x01", &text("a").repeat(9)])), QuotaExceeded);
}

#[test]
fn unsubscribe_then_items_or_refused() {
    let got = unsubscribe(V5, &packet(0xa2, &[b"\0\x02\0", &text("$share/g/a/#"), &text("b")]));
    let (share, filter) = got.items[0].clone().unwrap();
    assert_eq!((share.as_deref(), filter.as_str()), (Some(&b"g"[..]), "a/#"));
    assert_eq!(got.items[1].clone().unwrap().1.as_str(), "b");
    assert_eq!(verdict(V5, &packet(0xa2, &[b"\0\x02\0"])), ProtocolError);
    assert_eq!(verdict(V4, &packet(0xa2, &[b"\0\x02"])), ProtocolError);
    assert_eq!(verdict(V5, &packet(0xa2, &[b"\0\0\0", &text("a")])), ProtocolError);
    assert_eq!(verdict(V5, &packet(0xa2, &[b"\0\x01\x02\x0b\x01", &text("a")])), MalformedPacket);
    assert_eq!(verdict(V4, &packet(0xa2, &[b"\0\x01", &text("a"), b"\0"])), MalformedPacket);
    assert_eq!(verdict(V4, &packet(0xa2, &[b"\0\x01", &text(b"\0")])), MalformedPacket);
}

#[test]
fn ping_with_a_body_then_malformed() {
    for dialect in [V4, V5] {
        assert_eq!(decode(dialect, b"\xc0\0"), Ok(Inbound::Ping));
        assert_eq!(verdict(dialect, b"\xc0\x01x"), MalformedPacket);
    }
}

#[test]
fn disconnect_then_reason_and_expiry() {
    let told = |dialect, bytes: &[u8]| match decode(dialect, bytes) {
        Ok(Inbound::Disconnect(disconnect)) => *disconnect,
        other => panic!("{other:?}"),
    };
    let plain = Disconnect { reason: Success, session_expiry_secs: None };
    assert_eq!(told(V4, b"\xe0\0"), plain);
    assert_eq!(told(V5, b"\xe0\0"), plain);
    assert_eq!(told(V5, b"\xe0\x01\0"), plain);
    assert_eq!(told(V5, b"\xe0\x02\0\0"), plain);
    assert_eq!(told(V5, b"\xe0\x01\x04").reason, Reason::DisconnectWithWill);
    assert_eq!(told(V5, b"\xe0\x07\0\x05\x11\0\0\0\x0a").session_expiry_secs, Some(10));
    assert_eq!(verdict(V4, b"\xe0\x01\0"), MalformedPacket);
    assert_eq!(verdict(V5, b"\xe0\x01\x8e"), ProtocolError, "only a server says this");
    assert_eq!(verdict(V5, b"\xe0\x01\x01"), ProtocolError);
    assert_eq!(verdict(V5, b"\xe0\x06\0\x04\x1c\0\x01a"), ProtocolError, "server reference");
    assert_eq!(verdict(V5, b"\xe0\x05\0\x03\x21\0\x01"), MalformedPacket);
    assert_eq!(verdict(V5, b"\xe0\x03\0\0x"), MalformedPacket);
}

#[test]
fn auth_then_method_or_refused() {
    let method = block(&[&property(0x15, &[b"m"]), &property(0x16, &[b"data"])]);
    let got = decode(V5, &packet(0xf0, &[b"\x18", &method]));
    let auth = Auth { reason: Reason::ContinueAuthentication, method: Some("m".to_owned()) };
    assert_eq!(got, Ok(Inbound::Auth(Box::new(auth))));
    assert_eq!(verdict(V5, &packet(0xf0, &[b"\x19", &method])), Success);
    assert_eq!(verdict(V5, &packet(0xf0, &[b"\x18\0"])), ProtocolError, "no method");
    assert_eq!(verdict(V5, &packet(0xf0, &[b"\0", &method])), ProtocolError, "only a server");
    assert_eq!(verdict(V5, b"\xf0\0"), ProtocolError);
    assert_eq!(verdict(V5, &packet(0xf0, &[b"\x18"])), MalformedPacket);
    assert_eq!(verdict(V4, &packet(0xf0, &[b"\x18", &method])), MalformedPacket);
}

#[test]
fn second_connect_then_protocol_error() {
    let connect = packet(0x10, &[b"\0\x04MQTT\x04\x02\0\0", &text("c")]);
    assert_eq!(verdict(UNKNOWN, &connect), Success);
    assert_eq!(verdict(V4, &connect), ProtocolError);
    assert_eq!(verdict(V5, &connect), ProtocolError);
}
