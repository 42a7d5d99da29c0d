//! Our codec beside two others: what all must read alike, and where ours may be the only one to accept.
//!
//! The others are laxer than the specification in places (packet id 0, wildcards in topic names,
//! properties twice), so nothing is said about what they take and we refuse. What we take and they
//! refuse or change is listed in [`rmqtt_differs`] and [`core_differs`].

use std::sync::Arc;

use actix_codec::{Decoder as _, Encoder as _};
use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::{
    v3_1_1 as core_v4,
    v5_0::{self as core_v5},
};
use proptest::{collection::vec, prelude::*};
use rmqtt_codec::{v3 as rmqtt_v4, v5 as rmqtt_v5};

use super::{
    V5, block, generate, packet,
    round_trip::{reader_of, written},
    text, try_decode,
};
use crate::model::wire::{Decoded, Dialect, Inbound};

/// Reads with rmqtt-codec and writes again what it understood.
fn rmqtt(dialect: Dialect, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut input = BytesMut::from(bytes);
    let mut out = BytesMut::new();
    let none = || "partial".to_owned();
    if dialect == V5 {
        let mut codec = rmqtt_v5::Codec::new(0, 0);
        let packet = codec.decode(&mut input).map_err(|error| error.to_string())?;
        codec.encode(packet.ok_or_else(none)?.0, &mut out).map_err(|error| error.to_string())?;
    } else {
        let mut codec = rmqtt_v4::Codec::new(0);
        let packet = codec.decode(&mut input).map_err(|error| error.to_string())?;
        codec.encode(packet.ok_or_else(none)?.0, &mut out).map_err(|error| error.to_string())?;
    }
    Ok(out.to_vec())
}

macro_rules! again {
    ($packet:ty, $($input:expr),+) => {
        <$packet>::parse($($input),+)
            .map(|(packet, _)| packet.to_continuous_buffer())
            .map_err(|error| format!("{error:?}"))
    };
}

/// Reads with mqtt-protocol-core and writes again what it understood. It wants frames.
fn core(dialect: Dialect, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let length_bytes = bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let body = &bytes[1 + length_bytes..];
    let v5 = dialect == V5;
    match (bytes[0] >> 4, v5) {
        (1, true) => again!(core_v5::Connect, body),
        (1, false) => again!(core_v4::Connect, body),
        (3, true) => again!(core_v5::Publish, bytes[0] & 15, Arc::from(body)),
        (3, false) => again!(core_v4::Publish, bytes[0] & 15, Arc::from(body)),
        (4, true) => again!(core_v5::Puback, body),
        (4, false) => again!(core_v4::Puback, body),
        (5, true) => again!(core_v5::Pubrec, body),
        (5, false) => again!(core_v4::Pubrec, body),
        (6, true) => again!(core_v5::Pubrel, body),
        (6, false) => again!(core_v4::Pubrel, body),
        (7, true) => again!(core_v5::Pubcomp, body),
        (7, false) => again!(core_v4::Pubcomp, body),
        (8, true) => again!(core_v5::Subscribe, body),
        (8, false) => again!(core_v4::Subscribe, body),
        (10, true) => again!(core_v5::Unsubscribe, body),
        (10, false) => again!(core_v4::Unsubscribe, body),
        (12, true) => again!(core_v5::Pingreq, body),
        (12, false) => again!(core_v4::Pingreq, body),
        (14, true) => again!(core_v5::Disconnect, body),
        (14, false) => again!(core_v4::Disconnect, body),
        (15, true) => again!(core_v5::Auth, body),
        _ => Err("no such packet".to_owned()),
    }
}

/// Sorts forwarded properties by identifier: the others write them in an order of their own.
fn sorted(properties: &Bytes) -> Bytes {
    let mut parts: Vec<(u8, &[u8])> = Vec::new();
    let mut at = 0;
    while at < properties.len() {
        let size = |from: usize| {
            2 + usize::from(u16::from_be_bytes([properties[from], properties[from + 1]]))
        };
        let bytes = match properties[at] {
            0x01 => 2,
            0x26 => 1 + size(at + 1) + size(at + 1 + size(at + 1)),
            _ => 1 + size(at + 1),
        };
        parts.push((properties[at], &properties[at..at + bytes]));
        at += bytes;
    }
    parts.sort_by_key(|part| part.0);
    parts.iter().map(|part| part.1).collect::<Vec<_>>().concat().into()
}

/// What must be the same whoever read it.
fn canonical(mut inbound: Inbound) -> Inbound {
    match &mut inbound {
        Inbound::Publish(publish) => publish.properties = sorted(&publish.properties),
        Inbound::Connect(connect) => {
            if let Some(will) = &mut connect.will {
                will.properties = sorted(&will.properties);
            }
        }
        _ => {}
    }
    inbound
}

fn ours(dialect: Dialect, inbound: &Inbound, bytes: &[u8]) -> Inbound {
    match try_decode(reader_of(dialect, inbound), bytes) {
        Ok(Decoded::Packet { inbound, .. }) => canonical(inbound),
        other => panic!("{other:?} for {bytes:x?}"),
    }
}

/// Legal packets that rmqtt-codec refuses or changes.
fn rmqtt_differs(inbound: &Inbound) -> bool {
    match inbound {
        Inbound::Publish(publish) => publish.expiry_secs == Some(0),
        Inbound::Connect(connect) => {
            connect.will.as_ref().is_some_and(|will| will.expiry_secs == Some(0))
        }
        _ => false,
    }
}

/// Legal packets that mqtt-protocol-core refuses or changes.
fn core_differs(inbound: &Inbound) -> bool {
    match inbound {
        // MQTT 5.0 section 3.1.2.9 dropped the rule of 3.1.1.
        Inbound::Connect(connect) => connect.password.is_some() && connect.user_name.is_none(),
        _ => false,
    }
}

#[test]
fn differences_when_listed_then_real() {
    let v5_publish = packet(0x30, &[&text("t"), &block(&[b"\x02\0\0\0\0"])]);
    assert!(rmqtt(V5, &v5_publish).is_err(), "message expiry 0 is legal");
    assert!(core(V5, &v5_publish).is_ok());
    let password_alone = packet(0x10, &[b"\0\x04MQTT\x05\x42\0\0\0", &text("c"), &text("p")]);
    assert!(core(V5, &password_alone).is_err(), "a password needs no user name in 5.0");
    assert!(rmqtt(V5, &password_alone).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packet_of_ours_when_passed_through_rmqtt_codec_then_the_same((dialect, inbound) in generate::inbound()) {
        let bytes = written(dialect, &inbound);
        match rmqtt(dialect, &bytes) {
            _ if rmqtt_differs(&inbound) => {}
            Ok(again) => prop_assert_eq!(ours(dialect, &inbound, &again), canonical(inbound)),
            Err(error) => prop_assert!(false, "{} for {:x?}", error, bytes),
        }
    }

    #[test]
    fn packet_of_ours_when_passed_through_mqtt_protocol_core_then_the_same((dialect, inbound) in generate::inbound()) {
        let bytes = written(dialect, &inbound);
        match core(dialect, &bytes) {
            _ if core_differs(&inbound) => {}
            Ok(again) => prop_assert_eq!(ours(dialect, &inbound, &again), canonical(inbound)),
            Err(error) => prop_assert!(false, "{} for {:x?}", error, bytes),
        }
    }

    #[test]
    fn mutated_packet_when_taken_by_us_then_another_takes_it_or_the_difference_is_explained(
        (dialect, inbound) in generate::inbound(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(dialect, &inbound);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let front = reader_of(dialect, &inbound);
        if let Ok(Decoded::Packet { inbound: got, consumed }) = try_decode(front, &bytes) {
            let dialect = match &got {
                Inbound::Connect(connect) => connect.dialect,
                _ => dialect,
            };
            let by_rmqtt = rmqtt(dialect, &bytes[..consumed]);
            let by_core = core(dialect, &bytes[..consumed]);
            if by_rmqtt.is_err() && by_core.is_err() && !(rmqtt_differs(&got) && core_differs(&got)) {
                prop_assert!(false, "{:?} {:?} {:?} for {:x?}", got, by_rmqtt, by_core, bytes);
            }
        }
    }
}
