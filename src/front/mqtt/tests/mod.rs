//! What the codec promises: one table per rule of the specification, round trips, foreign codecs.

mod rules;

use bytes::{Bytes, BytesMut};

use super::fronts;
use crate::model::wire::{DecodeError, DecodeLimits, Decoded, Dialect, Inbound, Outbound};

pub(super) const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 20,
    topic_bytes_max: 65_535,
    topic_levels_max: 128,
    filters_per_packet_max: 100,
    user_properties_max: 32,
};

/// Decodes one packet that must fill `bytes`.
pub(super) fn decode(dialect: Dialect, bytes: &[u8]) -> Result<Inbound, DecodeError> {
    let bytes = Bytes::copy_from_slice(bytes);
    match fronts()[dialect as usize].decode(&bytes, &LIMITS)? {
        Decoded::Packet { inbound, consumed } => {
            assert_eq!(consumed, bytes.len());
            Ok(inbound)
        }
        Decoded::Partial { missing_bytes_min } => panic!("{missing_bytes_min} bytes missing"),
    }
}

pub(super) fn encode(dialect: Dialect, outbound: &Outbound, packet_bytes_max: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    fronts()[dialect as usize].encode(outbound, packet_bytes_max, &mut out);
    out.to_vec()
}

/// Puts a fixed header in front of `body`.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(&[first][..]);
    super::field::put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out.to_vec()
}
