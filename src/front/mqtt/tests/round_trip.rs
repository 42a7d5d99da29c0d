//! Properties that hold for all packets: there and back, cut anywhere, arbitrary bytes.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};

use super::{LIMITS, UNKNOWN, V5, generate, try_decode};
use crate::{
    front::mqtt::{
        client::{Client, DecodedFromServer, FromServer},
        fronts,
    },
    model::{
        message::Qos,
        reason::Reason,
        wire::{Decoded, Delivery, Dialect, Inbound, Outbound, SubackCode},
    },
};

pub(super) fn client(dialect: Dialect) -> Client {
    if dialect == V5 { Client::V5 } else { Client::V4 }
}

pub(super) fn written(dialect: Dialect, inbound: &Inbound) -> Vec<u8> {
    let mut out = BytesMut::new();
    assert!(client(dialect).encode_inbound(inbound, &mut out));
    out.to_vec()
}

/// The front that reads this packet: CONNECT is the unknown front's.
pub(super) fn reader_of(dialect: Dialect, inbound: &Inbound) -> Dialect {
    if matches!(inbound, Inbound::Connect(_)) { UNKNOWN } else { dialect }
}

fn from_server(client: Client, bytes: &[u8]) -> FromServer {
    match client.decode(&Bytes::copy_from_slice(bytes), &LIMITS).unwrap() {
        DecodedFromServer::Packet { packet, consumed } => {
            assert_eq!(consumed, bytes.len());
            packet
        }
        DecodedFromServer::Partial { missing_bytes_min } => panic!("{missing_bytes_min} missing"),
    }
}

/// What a client of `dialect` must see of `outbound`; `None` where nothing is written.
fn seen(dialect: Dialect, outbound: Outbound) -> Option<FromServer> {
    let v5 = dialect == V5;
    Some(match outbound {
        Outbound::Connack(connack) if v5 => FromServer::Connack { connack, reason_string: None },
        Outbound::Connack(connack) => {
            let session_present = connack.session_present;
            let mut bare = crate::model::wire::Connack::new(connack.reason);
            bare.session_present = session_present;
            FromServer::Connack { connack: Box::new(bare), reason_string: None }
        }
        Outbound::Ack { mut ack, .. } => {
            if !v5 {
                ack.reason = Reason::Success;
            }
            FromServer::Ack(ack)
        }
        Outbound::Suback { packet_id, mut codes } => {
            for code in &mut codes {
                if !v5 && matches!(code, SubackCode::Refused(_)) {
                    *code = SubackCode::Refused(Reason::UnspecifiedError);
                }
            }
            FromServer::Suback { packet_id, codes }
        }
        Outbound::Unsuback { packet_id, reasons } => {
            FromServer::Unsuback { packet_id, reasons: if v5 { reasons } else { Vec::new() } }
        }
        Outbound::Pong => FromServer::Pong,
        Outbound::Disconnect { .. } if !v5 => return None,
        Outbound::Disconnect { reason, server_reference, .. } => {
            FromServer::Disconnect(Box::new(crate::front::mqtt::client::ServerDisconnect {
                reason,
                reason_string: None,
                server_reference,
            }))
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packet_of_a_client_when_written_and_read_then_the_same((dialect, inbound) in generate::inbound()) {
        let bytes = written(dialect, &inbound);
        let front = reader_of(dialect, &inbound);
        let Decoded::Packet { inbound: got, consumed } = try_decode(front, &bytes).unwrap() else {
            return Err(TestCaseError::fail("partial"));
        };
        prop_assert_eq!(consumed, bytes.len());
        prop_assert_eq!(got, inbound);
    }

    #[test]
    fn packet_cut_anywhere_then_partial_and_never_more_missing_than_is_missing(
        (dialect, inbound) in generate::inbound(),
    ) {
        let bytes = written(dialect, &inbound);
        let front = reader_of(dialect, &inbound);
        for cut in 0..bytes.len() {
            let Decoded::Partial { missing_bytes_min } = try_decode(front, &bytes[..cut]).unwrap() else {
                return Err(TestCaseError::fail("a prefix was taken for a packet"));
            };
            prop_assert!(missing_bytes_min >= 1);
            prop_assert!(cut + missing_bytes_min <= bytes.len());
        }
    }

    #[test]
    fn packets_in_a_row_then_each_is_read_alone(
        (dialect, inbound) in generate::inbound(),
        behind in vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = written(dialect, &inbound);
        let whole = bytes.len();
        bytes.extend(behind);
        let front = reader_of(dialect, &inbound);
        let Decoded::Packet { inbound: got, consumed } = try_decode(front, &bytes).unwrap() else {
            return Err(TestCaseError::fail("partial"));
        };
        prop_assert_eq!(consumed, whole);
        prop_assert_eq!(got, inbound);
    }

    #[test]
    fn packet_of_the_server_when_written_and_read_then_the_same(
        dialect in generate::dialect(),
        outbound in generate::outbound(),
    ) {
        let bytes = super::encode(dialect, &outbound, u32::MAX);
        match seen(dialect, outbound) {
            Some(expected) => prop_assert_eq!(from_server(client(dialect), &bytes), expected),
            None => prop_assert!(bytes.is_empty()),
        }
    }

    #[test]
    fn packet_of_the_server_then_never_larger_than_the_client_takes(
        outbound in generate::outbound(),
        packet_bytes_max in 2..60u32,
    ) {
        let bytes = super::encode(V5, &outbound, packet_bytes_max);
        prop_assert!(bytes.len() <= usize::try_from(packet_bytes_max).unwrap());
    }

    #[test]
    fn delivery_when_written_and_read_then_the_same(
        (dialect, inbound) in generate::inbound(),
        ids in vec(1..=268_435_455u32, 0..4),
    ) {
        let Inbound::Publish(publish) = inbound else { return Ok(()) };
        let ids: Vec<NonZeroU32> = ids.into_iter().filter_map(NonZeroU32::new).collect();
        let ids = if dialect == V5 { ids } else { Vec::new() };
        let mut out = BytesMut::new();
        let head = fronts()[dialect as usize].encode_delivery_head(&Delivery {
            topic: publish.topic.as_ref().map_or(&[], |topic| topic.as_bytes()),
            topic_alias: publish.topic_alias,
            qos: publish.qos,
            dup: publish.dup,
            retain: publish.retain,
            expiry_secs: publish.expiry_secs,
            properties: &publish.properties,
            subscription_ids: &ids,
            payload: &publish.payload,
        }, &mut out);
        prop_assert_eq!(head.head_bytes, out.len());
        prop_assert_eq!(head.packet_id_at.is_some(), publish.qos > Qos::AtMostOnce);
        if let (Some(at), Some(packet_id)) = (head.packet_id_at, publish.packet_id) {
            out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        out.extend_from_slice(&publish.payload);
        let FromServer::Publish { publish: got, subscription_ids } =
            from_server(client(dialect), &out)
        else {
            return Err(TestCaseError::fail("no publish"));
        };
        prop_assert_eq!(got, publish);
        prop_assert_eq!(subscription_ids.to_vec(), ids);
    }

    #[test]
    fn arbitrary_bytes_then_no_panic_and_no_over_read(
        bytes in vec(any::<u8>(), 0..80),
        first in any::<u8>(),
    ) {
        let length = u8::try_from(bytes.len()).unwrap();
        let framed = [&[first, length][..], &bytes].concat();
        for input in [&bytes, &framed] {
            for dialect in [UNKNOWN, super::V4, V5] {
                if let Ok(Decoded::Packet { consumed, .. }) = try_decode(dialect, input) {
                    prop_assert!(consumed <= input.len());
                }
            }
            for client in [Client::V4, Client::V5] {
                let _ = client.decode(&Bytes::copy_from_slice(input), &LIMITS);
            }
        }
    }

    #[test]
    fn mutated_packets_then_no_panic_and_what_is_taken_survives_a_round_trip(
        (dialect, inbound) in generate::inbound(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(dialect, &inbound);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let front = reader_of(dialect, &inbound);
        if let Ok(Decoded::Packet { inbound: got, .. }) = try_decode(front, &bytes) {
            let dialect = match &got {
                Inbound::Connect(connect) => connect.dialect,
                _ => dialect,
            };
            let mut out = BytesMut::new();
            if client(dialect).encode_inbound(&got, &mut out) {
                let Decoded::Packet { inbound: again, .. } = try_decode(front, &out).unwrap() else {
                    return Err(TestCaseError::fail("partial"));
                };
                prop_assert_eq!(again, got);
            }
        }
    }
}
