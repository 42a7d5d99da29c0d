//! What the codec promises: one table per rule of the specification, round trips, foreign codecs.

mod header;
mod connect;
mod publish;
mod control;
mod server_packets;
mod generate;
mod round_trip;
mod foreign;

use bytes::{Bytes, BytesMut};

use super::{field::put_varint, fronts};
use crate::model::{
    reason::Reason,
    wire::{DecodeError, DecodeLimits, Decoded, Dialect, Inbound, Outbound},
};

pub(super) const UNKNOWN: Dialect = Dialect::MqttUnknown;
pub(super) const V4: Dialect = Dialect::MqttV4;
pub(super) const V5: Dialect = Dialect::MqttV5;

pub(super) const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 20,
    topic_bytes_max: 1_000,
    topic_levels_max: 16,
    filters_per_packet_max: 8,
    user_properties_max: 4,
};

/// Decodes the first packet.
pub(super) fn try_decode(dialect: Dialect, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    fronts()[dialect as usize].decode(&Bytes::copy_from_slice(bytes), &LIMITS)
}

/// Decodes one packet that must fill `bytes`.
pub(super) fn decode(dialect: Dialect, bytes: &[u8]) -> Result<Inbound, DecodeError> {
    match try_decode(dialect, bytes)? {
        Decoded::Packet { inbound, consumed } => {
            assert_eq!(consumed, bytes.len());
            Ok(inbound)
        }
        Decoded::Partial { missing_bytes_min } => panic!("{missing_bytes_min} bytes missing"),
    }
}

/// Why `bytes` are refused; `Success` if they are not.
pub(super) fn verdict(dialect: Dialect, bytes: &[u8]) -> Reason {
    decode(dialect, bytes).err().map_or(Reason::Success, |error| {
        assert_eq!(error.dialect, dialect);
        error.reason
    })
}

pub(super) fn encode(dialect: Dialect, outbound: &Outbound, packet_bytes_max: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    fronts()[dialect as usize].encode(outbound, packet_bytes_max, &mut out);
    out.to_vec()
}

/// Puts a fixed header in front of `parts`.
pub(super) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = BytesMut::from(&[first][..]);
    put_varint(&mut out, body.len());
    out.extend_from_slice(&body);
    out.to_vec()
}

/// A string or binary data with its length.
pub(super) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let mut out = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(text);
    out
}

/// A property block with its length.
pub(super) fn block(properties: &[&[u8]]) -> Vec<u8> {
    let properties = properties.concat();
    let mut out = BytesMut::new();
    put_varint(&mut out, properties.len());
    out.extend_from_slice(&properties);
    out.to_vec()
}

/// A property whose value is a string, binary data or a pair of strings.
pub(super) fn property(id: u8, texts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![id];
    for part in texts {
        out.extend_from_slice(&text(part));
    }
    out
}

/// Strings that are no UTF-8 encoded strings, MQTT 5.0 section 1.5.4.
pub(super) const NO_TEXT: [&[u8]; 7] = [
    b"a\0b",
    b"\xff",
    b"\xc0\x80",         // overlong null
    b"\xed\xa0\x80",     // surrogate U+D800
    b"\xed\xbf\xbf",     // surrogate U+DFFF
    b"\xf4\x90\x80\x80", // behind U+10FFFF
    b"\xe2\x82",         // cut
];
