//! Fixed header: MQTT 5.0 section 2.1 and the flags of section 2.1.3; the same in 3.1.1 section 2.2.

use super::{LIMITS, UNKNOWN, V4, V5, packet, text, try_decode, verdict};
use crate::model::{
    reason::Reason::{MalformedPacket, PacketTooLarge, ProtocolError, Success},
    wire::{Decoded, Dialect},
};

#[test]
fn remaining_length_not_minimal_then_malformed() {
    for bytes in [&b"\xc0\x80\0"[..], b"\xc0\x80\x80\0", b"\xc0\x80\x80\x80\0"] {
        assert_eq!(verdict(V4, bytes), MalformedPacket, "{bytes:?}");
        assert_eq!(verdict(V5, bytes), MalformedPacket, "{bytes:?}");
    }
}

#[test]
fn remaining_length_of_five_bytes_then_malformed() {
    for dialect in [V4, V5] {
        assert_eq!(verdict(dialect, b"\x30\xff\xff\xff\xff\x01"), MalformedPacket);
        assert_eq!(verdict(dialect, b"\x30\x80\x80\x80\x80"), MalformedPacket);
    }
    assert_eq!(verdict(UNKNOWN, b"\x10\xff\xff\xff\xff"), MalformedPacket);
}

#[test]
fn announced_length_over_the_limit_then_too_large_from_the_header_alone() {
    for (dialect, first) in [(UNKNOWN, 0x10), (V4, 0x30), (V5, 0x30)] {
        let bytes = [first, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(verdict(dialect, &bytes), PacketTooLarge);
    }
}

#[test]
fn packet_of_the_limit_exactly_then_accepted_and_one_more_refused() {
    let limit = usize::try_from(LIMITS.packet_bytes_max).unwrap();
    let head = 1 + 3 + 3;
    let fits = packet(0x30, &[&text("t"), &vec![b'x'; limit - head]]);
    assert_eq!(fits.len(), limit);
    assert_eq!(verdict(V4, &fits), Success);
    let over = packet(0x30, &[&text("t"), &vec![b'x'; limit - head + 1]]);
    assert_eq!(verdict(V4, &over), PacketTooLarge);
}

#[test]
fn reserved_packet_types_and_flags_then_malformed_from_the_first_byte() {
    for first in 0..=u8::MAX {
        let flags = first & 0x0f;
        let expected = match first >> 4 {
            0 => MalformedPacket,
            1 if flags == 0 => ProtocolError,
            2 | 9 | 11 | 13 if flags == 0 => ProtocolError,
            3 if flags & 6 == 6 || flags & 14 == 8 => MalformedPacket,
            3 => Success,
            6 | 8 | 10 if flags == 2 => Success,
            4 | 5 | 7 | 12 | 14 if flags == 0 => Success,
            15 if flags == 0 => Success,
            _ => MalformedPacket,
        };
        for dialect in [V4, V5] {
            let auth_in_v4 = first == 0xf0 && dialect == V4;
            let expected = if auth_in_v4 { MalformedPacket } else { expected };
            let got = try_decode(dialect, &[first]).map_err(|error| error.reason);
            match got {
                Ok(decoded) => {
                    assert!(matches!(decoded, Decoded::Partial { missing_bytes_min: 1 }));
                    assert_eq!(expected, Success, "{first:#x}");
                }
                Err(reason) => assert_eq!(reason, expected, "{first:#x}"),
            }
        }
    }
}

#[test]
fn first_packet_other_than_connect_then_protocol_error_told_in_no_dialect() {
    for first in (0..=u8::MAX).filter(|first| first >> 4 != 1) {
        let error = try_decode(UNKNOWN, &[first]).unwrap_err();
        assert_eq!((error.reason, error.dialect), (ProtocolError, Dialect::MqttUnknown));
    }
    for flags in 1..16 {
        let error = try_decode(UNKNOWN, &[0x10 | flags]).unwrap_err();
        assert_eq!((error.reason, error.dialect), (MalformedPacket, Dialect::MqttUnknown));
    }
}

#[test]
fn nothing_yet_then_partial() {
    for dialect in [UNKNOWN, V4, V5] {
        let decoded = try_decode(dialect, b"").unwrap();
        assert!(matches!(decoded, Decoded::Partial { missing_bytes_min: 2 }));
    }
    let decoded = try_decode(V5, b"\x30\x0a\0\x01").unwrap();
    assert!(matches!(decoded, Decoded::Partial { missing_bytes_min: 8 }));
}

#[test]
fn bytes_behind_the_packet_then_left_alone() {
    let Ok(Decoded::Packet { consumed, .. }) = try_decode(V5, b"\xc0\0\x0f\xff") else {
        panic!("no packet")
    };
    assert_eq!(consumed, 2);
}
