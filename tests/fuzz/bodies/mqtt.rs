//! What each fuzz target demands of the MQTT codec; also run by `tests/fuzz_corpus.rs` on the seeds.
//!
//! - Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Promises: no panic; consumes only what is there; never waits for more than the limit; what was
//!   taken reads the same after being written again.

use bytes::{Bytes, BytesMut};
use hongqiao::{
    front::mqtt::{
        client::{Client, DecodedFromServer, FromServer, Skimmed},
        fronts,
    },
    model::wire::{DecodeLimits, Decoded, Dialect, Inbound},
};

const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 16,
    topic_bytes_max: 1_000,
    topic_levels_max: 16,
    filters_per_packet_max: 8,
    user_properties_max: 8,
};

/// Feeds `data` to the server's decoder of `dialect`.
pub(crate) fn server(dialect: Dialect, data: &[u8]) {
    let front = fronts()[dialect as usize];
    let mut bytes = Bytes::copy_from_slice(data);
    while let Ok(decoded) = front.decode(&bytes, &LIMITS) {
        match decoded {
            Decoded::Partial { missing_bytes_min } => {
                assert!(missing_bytes_min >= 1);
                assert!(missing_bytes_min <= LIMITS.packet_bytes_max as usize);
                return;
            }
            Decoded::Packet { inbound, consumed } => {
                assert!(consumed >= 2 && consumed <= bytes.len());
                round_trip(dialect, &inbound);
                bytes = bytes.slice(consumed..);
            }
        }
    }
}

fn round_trip(dialect: Dialect, inbound: &Inbound) {
    let spoken = match inbound {
        Inbound::Connect(connect) => connect.dialect,
        _ => dialect,
    };
    let client = if spoken == Dialect::MqttV5 { Client::V5 } else { Client::V4 };
    let mut out = BytesMut::new();
    if !client.encode_inbound(inbound, &mut out) {
        return;
    }
    match fronts()[dialect as usize].decode(&out.freeze(), &LIMITS) {
        Ok(Decoded::Packet { inbound: again, .. }) => assert_eq!(&again, inbound),
        // Writing puts our properties in front; the few bytes may cross the limit of the packet.
        Err(error) => assert_eq!(error.detail, "packet is larger than allowed"),
        Ok(Decoded::Partial { .. }) => panic!("a packet of ours is not whole"),
    }
}

/// Feeds `data` to the client's decoder, and to the one that only skims.
pub(crate) fn client(client: Client, data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    while let Ok(DecodedFromServer::Packet { consumed, packet }) = client.decode(&bytes, &LIMITS) {
        assert!(consumed >= 2 && consumed <= bytes.len());
        // What is a packet to the one is the same packet to the other.
        match client.skim(&bytes) {
            Ok(Some((skimmed, length))) => {
                assert_eq!(length, consumed);
                if let Skimmed::Publish { payload, .. } = skimmed {
                    let FromServer::Publish { publish, .. } = packet else {
                        panic!("skimmed as a message: {packet:?}")
                    };
                    assert_eq!(payload, &publish.payload[..]);
                }
            }
            other => panic!("not skimmed: {other:?}"),
        }
        bytes = bytes.slice(consumed..);
    }
    let _ = client.skim(data);
}
