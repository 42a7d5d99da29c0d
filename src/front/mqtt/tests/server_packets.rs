//! What the server writes: MQTT 5.0 sections 3.2, 3.4 to 3.7, 3.9, 3.11, 3.13, 3.14; MQTT 3.1.1 likewise.

use std::num::{NonZeroU16, NonZeroU32};

use super::{UNKNOWN, V4, V5, encode};
use crate::model::{
    message::Qos,
    reason::Reason,
    wire::{Ack, AckKind, Connack, Outbound, SubackCode},
};

fn connack(connack: Connack) -> Outbound {
    Outbound::Connack(Box::new(connack))
}

fn ack(kind: AckKind, reason: Reason, reason_string: Option<&'static str>) -> Outbound {
    let packet_id = NonZeroU16::new(0x0102).unwrap();
    Outbound::Ack { ack: Ack { kind, packet_id, reason }, reason_string }
}

#[test]
fn connack_v4_then_code_or_nothing() {
    let cases: [(Reason, &[u8]); 8] = [
        (Reason::Success, b"\x20\x02\x01\0"),
        (Reason::UnsupportedProtocolVersion, b"\x20\x02\0\x01"),
        (Reason::ClientIdNotValid, b"\x20\x02\0\x02"),
        (Reason::ServerUnavailable, b"\x20\x02\0\x03"),
        (Reason::BadUserNameOrPassword, b"\x20\x02\0\x04"),
        (Reason::NotAuthorized, b"\x20\x02\0\x05"),
        (Reason::MalformedPacket, b""),
        (Reason::PacketTooLarge, b""),
    ];
    for (reason, bytes) in cases {
        let said = connack(Connack { session_present: true, ..Connack::new(reason) });
        assert_eq!(encode(V4, &said, u32::MAX), bytes, "{reason:?}");
    }
}

#[test]
fn connack_v5_refused_then_session_is_never_present() {
    let said = Connack { session_present: true, ..Connack::new(Reason::NotAuthorized) };
    assert_eq!(encode(V5, &connack(said), u32::MAX), b"\x20\x03\0\x87\0");
}

#[test]
fn connack_v5_with_everything_then_each_property_once() {
    let full = Connack {
        session_present: true,
        reason: Reason::Success,
        session_expiry_secs: Some(1),
        receive_maximum: NonZeroU16::new(2),
        maximum_qos: Some(Qos::AtLeastOnce),
        retain_available: Some(false),
        packet_bytes_max: NonZeroU32::new(3),
        assigned_client_id: Some("id".to_owned()),
        topic_alias_maximum: Some(4),
        reason_string: Some("ok"),
        wildcard_available: Some(true),
        subscription_ids_available: Some(true),
        shared_available: Some(true),
        server_keep_alive_secs: Some(5),
        response_information: Some("r".to_owned()),
        server_reference: Some("s".to_owned()),
    };
    let properties: [&[u8]; 14] = [
        b"\x11\0\0\0\x01",
        b"\x21\0\x02",
        b"\x24\x01",
        b"\x25\0",
        b"\x27\0\0\0\x03",
        b"\x12\0\x02id",
        b"\x22\0\x04",
        b"\x28\x01",
        b"\x29\x01",
        b"\x2a\x01",
        b"\x13\0\x05",
        b"\x1a\0\x01r",
        b"\x1c\0\x01s",
        b"\x1f\0\x02ok",
    ];
    let properties = properties.concat();
    let body = [&[1, 0, u8::try_from(properties.len()).unwrap()], &properties[..]].concat();
    let expected = super::packet(0x20, &[&body]);
    assert_eq!(encode(V5, &connack(full), u32::MAX), expected);
}

#[test]
fn connack_v5_maximum_qos_2_then_not_said() {
    let said = Connack { maximum_qos: Some(Qos::ExactlyOnce), ..Connack::new(Reason::Success) };
    assert_eq!(encode(V5, &connack(said), u32::MAX), b"\x20\x03\0\0\0");
}

#[test]
fn acks_then_shortest_form() {
    for (kind, first) in [
        (AckKind::Puback, 0x40),
        (AckKind::Pubrec, 0x50),
        (AckKind::Pubrel, 0x62),
        (AckKind::Pubcomp, 0x70),
    ] {
        let plain = ack(kind, Reason::Success, None);
        for dialect in [V4, V5] {
            assert_eq!(encode(dialect, &plain, u32::MAX), [first, 2, 1, 2]);
        }
        let missing = ack(kind, Reason::PacketIdNotFound, None);
        assert_eq!(encode(V4, &missing, u32::MAX), [first, 2, 1, 2]);
    }
    let missing = ack(AckKind::Pubcomp, Reason::PacketIdNotFound, None);
    assert_eq!(encode(V5, &missing, u32::MAX), b"\x70\x03\x01\x02\x92");
}

#[test]
fn ack_reason_string_then_dropped_where_it_does_not_fit() {
    let said = ack(AckKind::Puback, Reason::QuotaExceeded, Some("disk full"));
    let long = b"\x40\x10\x01\x02\x97\x0c\x1f\0\x09disk full";
    assert_eq!(encode(V5, &said, u32::MAX), long);
    assert_eq!(encode(V5, &said, 18), long);
    assert_eq!(encode(V5, &said, 17), b"\x40\x03\x01\x02\x97");
    assert_eq!(encode(V5, &said, 4), b"");
    assert_eq!(encode(V4, &said, u32::MAX), b"\x40\x02\x01\x02");
}

#[test]
fn reason_foreign_to_its_packet_then_nearest_legal_one() {
    let said = ack(AckKind::Puback, Reason::ServerBusy, None);
    assert_eq!(encode(V5, &said, u32::MAX), b"\x40\x03\x01\x02\x80");
}

#[test]
fn suback_then_a_code_for_each_filter() {
    let codes = vec![
        SubackCode::Granted(Qos::AtMostOnce),
        SubackCode::Granted(Qos::ExactlyOnce),
        SubackCode::Refused(Reason::NotAuthorized),
        SubackCode::Refused(Reason::TopicFilterInvalid),
    ];
    let said = Outbound::Suback { packet_id: NonZeroU16::new(7).unwrap(), codes };
    assert_eq!(encode(V4, &said, u32::MAX), b"\x90\x06\0\x07\0\x02\x80\x80");
    assert_eq!(encode(V5, &said, u32::MAX), b"\x90\x07\0\x07\0\0\x02\x87\x8f");
    assert_eq!(encode(V5, &said, 8), b"", "larger than the client takes");
}

#[test]
fn unsuback_then_reasons_in_v5_only() {
    let reasons = vec![Reason::Success, Reason::NoSubscriptionExisted];
    let said = Outbound::Unsuback { packet_id: NonZeroU16::new(7).unwrap(), reasons };
    assert_eq!(encode(V4, &said, u32::MAX), b"\xb0\x02\0\x07");
    assert_eq!(encode(V5, &said, u32::MAX), b"\xb0\x05\0\x07\0\0\x11");
}

#[test]
fn disconnect_then_v5_only_and_shortest_form() {
    let said = |reason, reason_string, server_reference: Option<&str>| Outbound::Disconnect {
        reason,
        reason_string,
        server_reference: server_reference.map(str::to_owned),
    };
    let taken = said(Reason::SessionTakenOver, None, None);
    assert_eq!(encode(V4, &taken, u32::MAX), b"");
    assert_eq!(encode(V5, &taken, u32::MAX), b"\xe0\x01\x8e");
    assert_eq!(encode(V5, &said(Reason::Success, None, None), u32::MAX), b"\xe0\0");
    let moved = said(Reason::UseAnotherServer, Some("x"), Some("b"));
    assert_eq!(encode(V5, &moved, u32::MAX), b"\xe0\x0a\x9c\x08\x1c\0\x01b\x1f\0\x01x");
    assert_eq!(encode(V5, &moved, 11), b"\xe0\x06\x9c\x04\x1c\0\x01b");
}

#[test]
fn pong_then_two_bytes_and_unknown_dialect_then_nothing() {
    for dialect in [V4, V5] {
        assert_eq!(encode(dialect, &Outbound::Pong, u32::MAX), b"\xd0\0");
    }
    assert_eq!(encode(UNKNOWN, &Outbound::Pong, u32::MAX), b"");
}
