//! CONNECT: MQTT 5.0 section 3.1, MQTT 3.1.1 section 3.1.

use super::{NO_TEXT, UNKNOWN, V4, V5, block, decode, packet, property, text};
use crate::model::{
    message::Qos,
    reason::Reason::{
        self, ClientIdNotValid, MalformedPacket, PayloadFormatInvalid, ProtocolError,
        QuotaExceeded, Success, TopicNameInvalid, UnsupportedProtocolVersion,
    },
    wire::{Connect, Dialect, Inbound},
};

fn v4(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x04", &[flags], b"\0\x3c", &payload.concat()])
}

fn v5(flags: u8, properties: &[&[u8]], payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    packet(0x10, &[b"\0\x04MQTT\x05", &[flags], b"\0\x3c", &block(properties), &payload])
}

fn connect(bytes: &[u8]) -> Connect {
    match decode(UNKNOWN, bytes) {
        Ok(Inbound::Connect(connect)) => *connect,
        other => panic!("{other:?}"),
    }
}

/// The reason, and the dialect in which it is told.
fn refused(bytes: &[u8]) -> (Reason, Dialect) {
    match decode(UNKNOWN, bytes) {
        Ok(_) => (Success, UNKNOWN),
        Err(error) => (error.reason, error.dialect),
    }
}

#[test]
fn v4_clean_session_then_session_ends_with_connection() {
    let told = connect(&v4(2, &[&text("c")]));
    assert_eq!((told.dialect, told.client_id.as_str()), (V4, "c"));
    assert_eq!((told.clean_start, told.session_expiry_secs), (true, 0));
    assert_eq!(told.keep_alive_secs, 60);
    assert_eq!(told.receive_maximum.get(), u16::MAX);
    assert!(told.request_problem_information && !told.request_response_information);
}

#[test]
fn v4_persistent_session_then_never_expires() {
    let told = connect(&v4(0, &[&text("c")]));
    assert_eq!((told.clean_start, told.session_expiry_secs), (false, u32::MAX));
}

#[test]
fn v5_all_fields_then_read() {
    let flags = 0xc0 | 0x20 | 0x10 | 0x04;
    let properties: [&[u8]; 8] = [
        b"\x11\0\0\0\x0a",
        b"\x21\0\x14",
        b"\x27\0\0\x10\0",
        b"\x22\0\x05",
        b"\x19\x01",
        b"\x17\0",
        &property(0x26, &[b"k", b"v"]),
        &property(0x15, &[b"SCRAM"]),
    ];
    let will_properties: [&[u8]; 4] =
        [b"\x18\0\0\0\x05", b"\x01\x01", b"\x02\0\0\0\0", &property(0x03, &[b"text"])];
    let payload: [&[u8]; 6] = [
        &text("client"),
        &block(&will_properties),
        &text("will/topic"),
        &text("gone"),
        &text("user"),
        &text(b"\0\xff"),
    ];
    let told = connect(&v5(flags, &properties, &payload));
    assert_eq!((told.dialect, told.session_expiry_secs), (V5, 10));
    assert_eq!((told.receive_maximum.get(), told.topic_alias_maximum), (20, 5));
    assert_eq!(told.packet_bytes_max.unwrap().get(), 4096);
    assert!(told.request_response_information && !told.request_problem_information);
    assert_eq!(told.authentication_method.as_deref(), Some("SCRAM"));
    assert_eq!(told.user_name.as_deref(), Some("user"));
    assert_eq!(told.password.as_deref(), Some(&b"\0\xff"[..]));
    let will = told.will.unwrap();
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("will/topic", &b"gone"[..]));
    assert_eq!((will.qos, will.retain, will.delay_secs), (Qos::ExactlyOnce, true, 5));
    assert_eq!(will.expiry_secs, Some(0));
    assert_eq!(&will.properties[..], b"\x01\x01\x03\0\x04text");
}

#[test]
fn v3_1_with_its_own_name_then_taken_as_v4() {
    let told = connect(&packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\0", &text("c")]));
    assert_eq!(told.dialect, V4);
}

#[test]
fn protocol_level_or_name_unknown_then_refused_in_the_nearest_dialect() {
    let cases: [(&[u8], u8, Dialect); 11] = [
        (b"MQTT", 0, V4),
        (b"MQTT", 3, V4),
        (b"MQIsdp", 4, V4),
        (b"MQIsdp", 5, V5),
        (b"MQTT", 6, V5),
        (b"MQTT", 0x7f, V5),
        (b"MQTT", 0x83, V4),
        (b"MQTT", 0x84, V4),
        (b"MQTT", 0x85, V5),
        (b"mqtt", 4, UNKNOWN),
        (b"", 5, UNKNOWN),
    ];
    for (name, level, dialect) in cases {
        let bytes = packet(0x10, &[&text(name), &[level], b"\x02\0\0", &text("c")]);
        assert_eq!(refused(&bytes), (UnsupportedProtocolVersion, dialect), "{name:?} {level}");
    }
}

#[test]
fn client_id_empty_then_needs_clean_session_in_v4_and_nothing_in_v5() {
    assert_eq!(refused(&v4(0, &[&text("")])), (ClientIdNotValid, V4));
    assert!(connect(&v4(2, &[&text("")])).client_id.is_empty());
    assert!(connect(&v5(0, &[], &[&text("")])).client_id.is_empty());
    let v3_1 = packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\0", &text("")]);
    assert_eq!(refused(&v3_1), (ClientIdNotValid, V4));
}

#[test]
fn connect_flags_that_contradict_then_malformed() {
    let will: [&[u8]; 3] = [&text("c"), &text("w"), &text("p")];
    let will_v5: [&[u8]; 4] = [&text("c"), b"\0", &text("w"), &text("p")];
    for flags in [0x03, 0x0a, 0x12, 0x22, 0x3a] {
        assert_eq!(refused(&v4(flags, &[&text("c")])), (MalformedPacket, V4), "{flags:#x}");
        assert_eq!(refused(&v5(flags, &[], &[&text("c")])), (MalformedPacket, V5), "{flags:#x}");
    }
    assert_eq!(refused(&v4(0x1e, &will)), (MalformedPacket, V4));
    assert_eq!(refused(&v5(0x1e, &[], &will_v5)), (MalformedPacket, V5));
}

#[test]
fn password_without_user_name_then_malformed_in_v4_and_legal_in_v5() {
    let payload: [&[u8]; 2] = [&text("c"), &text("secret")];
    assert_eq!(refused(&v4(0x42, &payload)), (MalformedPacket, V4));
    assert_eq!(connect(&v5(0x42, &[], &payload)).password.as_deref(), Some(&b"secret"[..]));
}

#[test]
fn trailing_bytes_or_missing_fields_then_malformed() {
    assert_eq!(refused(&v4(2, &[&text("c"), b"x"])), (MalformedPacket, V4));
    assert_eq!(refused(&v5(2, &[], &[&text("c"), b"x"])), (MalformedPacket, V5));
    for flags in [0x82, 0xc2, 0x06] {
        assert_eq!(refused(&v4(flags, &[&text("c")])), (MalformedPacket, V4));
        assert_eq!(refused(&v5(flags, &[], &[&text("c")])), (MalformedPacket, V5));
    }
    assert_eq!(refused(&packet(0x10, &[b"\0\x04MQTT"])), (MalformedPacket, UNKNOWN));
    assert_eq!(refused(&packet(0x10, &[])), (MalformedPacket, UNKNOWN));
}

#[test]
fn strings_that_are_no_text_then_malformed() {
    for bad in NO_TEXT {
        assert_eq!(refused(&v4(2, &[&text(bad)])), (MalformedPacket, V4), "{bad:?}");
        assert_eq!(refused(&v5(2, &[], &[&text(bad)])), (MalformedPacket, V5), "{bad:?}");
        assert_eq!(refused(&v4(0x82, &[&text("c"), &text(bad)])), (MalformedPacket, V4));
        let will: [&[u8]; 3] = [&text("c"), &text(bad), &text("p")];
        assert_eq!(refused(&v4(0x06, &will)), (MalformedPacket, V4), "{bad:?}");
        let pair = property(0x26, &[b"k", bad]);
        assert_eq!(refused(&v5(2, &[&pair], &[&text("c")])), (MalformedPacket, V5));
    }
}

#[test]
fn text_with_byte_order_mark_then_kept() {
    assert_eq!(connect(&v5(2, &[], &[&text("\u{feff}a")])).client_id, "\u{feff}a");
}

#[test]
fn properties_with_forbidden_values_then_protocol_error() {
    let cases: [&[u8]; 8] = [
        b"\x21\0\0",
        b"\x27\0\0\0\0",
        b"\x19\x02",
        b"\x17\x02",
        b"\x16\0\x01x",
        b"\x11\0\0\0\x01\x11\0\0\0\x01",
        b"\x21\0\x01\x21\0\x01",
        b"\x15\0\x01a\x15\0\x01a",
    ];
    for properties in cases {
        let bytes = v5(2, &[properties], &[&text("c")]);
        assert_eq!(refused(&bytes), (ProtocolError, V5), "{properties:?}");
    }
}

#[test]
fn properties_of_other_packets_then_malformed() {
    let foreign: [&[u8]; 6] =
        [b"\0", b"\x01\0", b"\x02\0\0\0\0", b"\x0b\x01", b"\x23\0\x01", b"\x2b\0"];
    for properties in foreign {
        let bytes = v5(2, &[properties], &[&text("c")]);
        assert_eq!(refused(&bytes), (MalformedPacket, V5), "{properties:?}");
    }
    let will: [&[u8]; 4] = [&text("c"), b"\x03\x23\0\x01", &text("w"), &text("p")];
    assert_eq!(refused(&v5(0x06, &[], &will)), (MalformedPacket, V5));
}

#[test]
fn property_block_that_lies_about_its_length_then_malformed() {
    let start: &[u8] = b"\0\x04MQTT\x05\x02\0\0";
    for tail in [&b"\x05\x11\0\0\0"[..], b"\x7f\x11", b"\x80\0\0\x01c", b"\x04\x11\0\0\0\0\x01c"] {
        assert_eq!(refused(&packet(0x10, &[start, tail])), (MalformedPacket, V5), "{tail:?}");
    }
}

#[test]
fn user_properties_over_the_limit_then_quota_exceeded() {
    let pair = property(0x26, &[b"k", b"v"]);
    let four: [&[u8]; 4] = [&pair, &pair, &pair, &pair];
    assert_eq!(refused(&v5(2, &four, &[&text("c")])).0, Success);
    let five: [&[u8]; 5] = [&pair, &pair, &pair, &pair, &pair];
    assert_eq!(refused(&v5(2, &five, &[&text("c")])), (QuotaExceeded, V5));
}

#[test]
fn will_that_no_publish_could_be_then_refused() {
    let will = |properties: &[u8], topic: &str, payload: &[u8]| {
        let payload: [&[u8]; 4] = [&text("c"), &block(&[properties]), &text(topic), &text(payload)];
        refused(&v5(0x06, &[], &payload))
    };
    assert_eq!(will(b"", "a/#", b"p"), (TopicNameInvalid, V5));
    assert_eq!(will(b"", "", b"p"), (TopicNameInvalid, V5));
    assert_eq!(will(b"\x01\x01", "w", b"\xff"), (PayloadFormatInvalid, V5));
    assert_eq!(will(b"\x01\x02", "w", b"p"), (ProtocolError, V5));
    assert_eq!(will(b"\x08\0\x03a/+", "w", b"p"), (ProtocolError, V5));
    assert_eq!(will(b"\x01\0", "w", b"\xff").0, Success);
}
