//! PUBLISH of clients and deliveries: MQTT 5.0 section 3.3, MQTT 3.1.1 section 3.3.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};

use super::{LIMITS, NO_TEXT, V4, V5, block, decode, packet, property, text, verdict};
use crate::{
    front::mqtt::fronts,
    model::{
        message::Qos,
        reason::Reason::{
            MalformedPacket, PayloadFormatInvalid, ProtocolError, QuotaExceeded, Success,
            TopicAliasInvalid, TopicNameInvalid,
        },
        wire::{Decoded, Delivery, Dialect, Inbound, Publish},
    },
};

fn v5(first: u8, topic: &str, packet_id: &[u8], properties: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    packet(first, &[&text(topic), packet_id, &block(properties), payload])
}

fn publish(dialect: Dialect, bytes: &[u8]) -> Publish {
    match decode(dialect, bytes) {
        Ok(Inbound::Publish(publish)) => publish,
        other => panic!("{other:?}"),
    }
}

#[test]
fn v4_publish_then_fields() {
    let got = publish(V4, &packet(0x3d, &[&text("a/b"), b"\x01\x02", b"hello"]));
    assert_eq!(got.topic.unwrap().as_str(), "a/b");
    assert_eq!(got.packet_id.unwrap().get(), 0x0102);
    assert_eq!((got.qos, got.dup, got.retain), (Qos::ExactlyOnce, true, true));
    assert_eq!(&got.payload[..], b"hello");
}

#[test]
fn v5_publish_then_fields_and_forwarded_properties_untouched() {
    let forwarded = [
        &b"\x01\x01"[..],
        &property(0x03, &[b"text/plain"]),
        &property(0x08, &[b"answer/to"]),
        &property(0x09, &[b"\0\xff"]),
        &property(0x26, &[b"k", b"v"]),
        &property(0x26, &[b"k", b"v"]),
    ];
    let got = publish(V5, &v5(0x32, "a", b"\0\x01", &forwarded, "grüße".as_bytes()));
    assert_eq!(&got.properties[..], forwarded.concat());
    assert_eq!((got.expiry_secs, got.topic_alias), (None, None));
}

#[test]
fn v5_own_properties_at_the_ends_then_forwarded_stay_one_slice_of_the_input() {
    let pair = property(0x26, &[b"k", b"v"]);
    let properties: [&[u8]; 4] = [b"\x23\0\x07", &pair, b"\x03\0\x01x", b"\x02\0\0\0\0"];
    let bytes = Bytes::from(v5(0x30, "a", b"", &properties, b"p"));
    let Ok(Decoded::Packet { inbound: Inbound::Publish(got), .. }) =
        fronts()[V5 as usize].decode(&bytes, &LIMITS)
    else {
        panic!("no publish")
    };
    assert_eq!(got.expiry_secs, Some(0), "message expiry 0 is legal");
    assert_eq!(got.topic_alias.unwrap().get(), 7);
    assert_eq!(&got.properties[..], [&pair[..], b"\x03\0\x01x"].concat());
    assert!(bytes.as_ptr_range().contains(&got.properties.as_ptr()), "not copied");
    assert!(bytes.as_ptr_range().contains(&got.payload.as_ptr()), "not copied");
    assert!(bytes.as_ptr_range().contains(&got.topic.unwrap().as_bytes().as_ptr()), "not copied");
}

#[test]
fn v5_own_properties_in_between_then_forwarded_joined_in_order() {
    let first = property(0x26, &[b"a", b"1"]);
    let second = property(0x26, &[b"b", b"2"]);
    let third = property(0x26, &[b"c", b"3"]);
    let properties: [&[u8]; 5] = [&first, b"\x23\0\x07", &second, b"\x02\0\0\0\x05", &third];
    let got = publish(V5, &v5(0x30, "a", b"", &properties, b""));
    assert_eq!(&got.properties[..], [first, second, third].concat());
}

#[test]
fn topic_name_with_wildcard_or_over_a_limit_then_topic_name_invalid() {
    let deep = "a/".repeat(16);
    let long = "a".repeat(1_001);
    for topic in ["+", "#", "a/+", "a/#", "a+b", &deep, &long] {
        assert_eq!(verdict(V5, &v5(0x30, topic, b"", &[], b"")), TopicNameInvalid, "{topic}");
        assert_eq!(verdict(V4, &packet(0x30, &[&text(topic)])), TopicNameInvalid, "{topic}");
    }
    for topic in ["/", "//", "$SYS/x", "a b", &"a".repeat(1_000), "\u{feff}"] {
        assert_eq!(verdict(V4, &packet(0x30, &[&text(topic)])), Success, "{topic}");
    }
}

#[test]
fn topic_that_is_no_text_then_malformed() {
    for bad in NO_TEXT {
        assert_eq!(verdict(V5, &packet(0x30, &[&text(bad), b"\0"])), MalformedPacket, "{bad:?}");
        assert_eq!(verdict(V4, &packet(0x30, &[&text(bad)])), MalformedPacket, "{bad:?}");
    }
}

#[test]
fn topic_empty_then_needs_an_alias() {
    assert_eq!(verdict(V5, &v5(0x30, "", b"", &[], b"")), ProtocolError);
    assert_eq!(verdict(V5, &v5(0x30, "", b"", &[b"\x23\0\x01"], b"")), Success);
    assert_eq!(verdict(V4, &packet(0x30, &[&text("")])), TopicNameInvalid);
}

#[test]
fn packet_id_zero_then_protocol_error_and_missing_then_malformed() {
    for first in [0x32, 0x34] {
        assert_eq!(verdict(V5, &v5(first, "a", b"\0\0", &[], b"")), ProtocolError);
        assert_eq!(verdict(V4, &packet(first, &[&text("a"), b"\0\0"])), ProtocolError);
        assert_eq!(verdict(V4, &packet(first, &[&text("a"), b"\x01"])), MalformedPacket);
    }
}

#[test]
fn topic_alias_zero_then_topic_alias_invalid() {
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x23\0\0"], b"")), TopicAliasInvalid);
}

#[test]
fn subscription_id_from_a_client_then_protocol_error() {
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x0b\x01"], b"")), ProtocolError);
}

#[test]
fn properties_twice_then_protocol_error() {
    let single: [&[u8]; 6] = [
        b"\x01\0",
        b"\x02\0\0\0\x01",
        b"\x23\0\x01",
        b"\x03\0\x01a",
        b"\x08\0\x01a",
        b"\x09\0\x01a",
    ];
    for one in single {
        assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[one], b"")), Success, "{one:?}");
        assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[one, one], b"")), ProtocolError, "{one:?}");
    }
}

#[test]
fn response_topic_that_is_no_topic_name_then_protocol_error() {
    for topic in [&b""[..], b"+", b"a/#"] {
        let response = property(0x08, &[topic]);
        assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[&response], b"")), ProtocolError);
    }
}

#[test]
fn payload_that_breaks_its_format_indicator_then_payload_format_invalid() {
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x01\x01"], b"\xff")), PayloadFormatInvalid);
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x01\x01"], b"a\0")), Success);
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x01\0"], b"\xff")), Success);
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[b"\x01\x02"], b"")), ProtocolError);
}

#[test]
fn properties_that_are_foreign_or_cut_then_malformed() {
    let bad: [&[u8]; 6] =
        [b"\x11\0\0\0\0", b"\x1f\0\x01a", b"\x02\0\0", b"\x26\0\x01k", b"\x80\x01", b"\x03\0\x05a"];
    for property in bad {
        assert_eq!(verdict(V5, &v5(0x30, "a", b"", &[property], b"")), MalformedPacket);
    }
    assert_eq!(verdict(V5, &packet(0x30, &[&text("a")])), MalformedPacket, "no block at all");
    assert_eq!(verdict(V5, &packet(0x30, &[&text("a"), b"\x01"])), MalformedPacket);
    assert_eq!(verdict(V5, &packet(0x30, &[b"\0"])), MalformedPacket);
    assert_eq!(verdict(V5, &packet(0x30, &[b"\0\x05a"])), MalformedPacket);
}

#[test]
fn user_properties_over_the_limit_then_quota_exceeded() {
    let pair = property(0x26, &[b"k", b"v"]);
    let five: [&[u8]; 5] = [&pair; 5];
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &five[..4], b"")), Success);
    assert_eq!(verdict(V5, &v5(0x30, "a", b"", &five, b"")), QuotaExceeded);
}

fn delivery() -> Delivery<'static> {
    Delivery {
        topic: b"a/b",
        topic_alias: None,
        qos: Qos::AtMostOnce,
        dup: false,
        retain: false,
        expiry_secs: None,
        properties: b"",
        subscription_ids: &[],
        payload: b"hello",
    }
}

fn head(dialect: Dialect, delivery: &Delivery<'_>) -> (Vec<u8>, usize, Option<usize>) {
    let mut out = BytesMut::from(&b"earlier"[..]);
    let head = fronts()[dialect as usize].encode_delivery_head(delivery, &mut out);
    (out[7..].to_vec(), head.head_bytes, head.packet_id_at)
}

#[test]
fn delivery_qos_0_then_bytes_of_the_specification() {
    let (bytes, head_bytes, packet_id_at) = head(V4, &delivery());
    assert_eq!((&bytes[..], head_bytes, packet_id_at), (&b"\x30\x0a\0\x03a/b"[..], 7, None));
    let (bytes, head_bytes, packet_id_at) = head(V5, &delivery());
    assert_eq!((&bytes[..], head_bytes, packet_id_at), (&b"\x30\x0b\0\x03a/b\0"[..], 8, None));
}

#[test]
fn delivery_with_everything_then_packet_id_can_be_patched() {
    let ids = [NonZeroU32::new(1).unwrap(), NonZeroU32::new(268_435_455).unwrap()];
    let full = Delivery {
        topic_alias: NonZeroU16::new(9),
        qos: Qos::AtLeastOnce,
        dup: true,
        retain: true,
        expiry_secs: Some(60),
        properties: b"\x01\x01",
        subscription_ids: &ids,
        ..delivery()
    };
    let (bytes, head_bytes, packet_id_at) = head(V5, &full);
    assert_eq!(bytes.len(), head_bytes);
    assert_eq!(packet_id_at, Some(7));
    let properties = b"\x11\x23\0\x09\x02\0\0\0\x3c\x0b\x01\x0b\xff\xff\xff\x7f\x01\x01";
    assert_eq!(bytes, [&b"\x3b\x1e\0\x03a/b\0\0"[..], properties].concat());
    let (bytes, _, packet_id_at) = head(V4, &full);
    assert_eq!((&bytes[..], packet_id_at), (&b"\x3b\x0c\0\x03a/b\0\0"[..], Some(7)));
}

#[test]
fn delivery_qos_0_with_dup_then_dup_is_not_written() {
    let (bytes, ..) = head(V5, &Delivery { dup: true, ..delivery() });
    assert_eq!(bytes[0], 0x30);
}

#[test]
fn delivery_head_when_written_then_reserved_once_and_exactly() {
    let mut out = BytesMut::new();
    let head = fronts()[V5 as usize].encode_delivery_head(&delivery(), &mut out);
    assert_eq!((out.len(), out.capacity()), (head.head_bytes, head.head_bytes));
}
