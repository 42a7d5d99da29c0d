//! MQTT 3.1.1 and 5.0 without sockets: bytes to [`Inbound`], [`Outbound`] and [`Delivery`] to bytes.
//!
//! - Owns: the three [`Front`] objects, one for each [`Dialect`]. They hold nothing.
//! - Takes: what a socket has read so far. Gives: one packet, or how much is missing, or which rule is
//!   broken.
//! - Bound: [`DecodeLimits`]; a packet over its size is refused when its header is here, and nothing is
//!   reserved for bytes that were only announced.
//! - Source: MQTT Version 5.0 and MQTT Version 3.1.1 (OASIS standards).
//!
//! ```text
//! first byte ── check_first ──► frame (size, whole?) ──► connect │ publish │ v4 │ v5 ──► Inbound
//!                                                            └── field, property, reason
//! ```
//!
//! A connection begins with [`Dialect::MqttUnknown`], whose decoder takes CONNECT and nothing else; the
//! packet says which dialect follows. Topic, properties and payload of a PUBLISH are slices of the input:
//! who keeps them beyond the delivery (retained messages) copies them. Everything else is copied here.

mod field;
mod property;
mod reason;
mod connect;
mod publish;
mod v4;
mod v5;
pub mod client;

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

use self::field::{Fault, Frame, Framing};
pub use self::{v4::V4, v5::V5};
use crate::model::wire::{
    AckKind, DIALECTS, DecodeError, DecodeLimits, Decoded, Delivery, DeliveryHead, Dialect, Front,
    Inbound, Outbound,
};

/// Packet types in the upper half of the first byte, MQTT 5.0 table 2-1, and the flags they demand.
mod first {
    pub(super) const CONNECT: u8 = 0x10;
    pub(super) const CONNACK: u8 = 0x20;
    pub(super) const PUBACK: u8 = 0x40;
    pub(super) const PUBREC: u8 = 0x50;
    pub(super) const PUBREL: u8 = 0x62;
    pub(super) const PUBCOMP: u8 = 0x70;
    pub(super) const SUBSCRIBE: u8 = 0x82;
    pub(super) const SUBACK: u8 = 0x90;
    pub(super) const UNSUBSCRIBE: u8 = 0xa2;
    pub(super) const UNSUBACK: u8 = 0xb0;
    pub(super) const PINGREQ: u8 = 0xc0;
    pub(super) const PINGRESP: u8 = 0xd0;
    pub(super) const DISCONNECT: u8 = 0xe0;
    pub(super) const AUTH: u8 = 0xf0;
}

/// Returns the fronts of all dialects, at the index of each.
#[must_use]
pub fn fronts() -> [&'static dyn Front; DIALECTS] {
    [&Unknown, &V4, &V5]
}

/// A connection whose CONNECT has not come.
#[derive(Clone, Copy, Debug)]
pub struct Unknown;

impl Front for Unknown {
    fn decode(&self, bytes: &Bytes, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
        let told = |fault: Fault| fault.told_in(Dialect::MqttUnknown);
        match bytes.first() {
            Some(&first::CONNECT) | None => {}
            Some(byte) if byte & 0xf0 == first::CONNECT => {
                return Err(told(Fault::malformed("reserved flags of the fixed header are wrong")));
            }
            Some(_) => return Err(told(Fault::protocol("first packet is not CONNECT"))),
        }
        match field::frame(bytes, limits.packet_bytes_max).map_err(told)? {
            Framing::Missing(missing_bytes_min) => Ok(Decoded::Partial { missing_bytes_min }),
            Framing::Whole(frame) => {
                let connect = connect::decode(bytes, frame, limits)?;
                let inbound = Inbound::Connect(Box::new(connect));
                Ok(Decoded::Packet { inbound, consumed: frame.end })
            }
        }
    }

    /// Writes nothing: nobody knows how.
    fn encode(&self, _: &Outbound, _: u32, _: &mut BytesMut) {}

    /// Writes nothing: nobody knows how.
    fn encode_delivery_head(&self, _: &Delivery<'_>, _: &mut BytesMut) -> DeliveryHead {
        DeliveryHead { head_bytes: 0, packet_id_at: None, expiry_at: None }
    }
}

/// Frames one packet of a known dialect and hands its body to `read`.
fn decode_with(
    bytes: &Bytes,
    limits: &DecodeLimits,
    dialect: Dialect,
    check_first: impl FnOnce(u8) -> Result<(), Fault>,
    read: impl FnOnce(Frame) -> Result<Inbound, Fault>,
) -> Result<Decoded, DecodeError> {
    let told = |fault: Fault| fault.told_in(dialect);
    if let Some(&byte) = bytes.first() {
        check_first(byte).map_err(told)?;
    }
    match field::frame(bytes, limits.packet_bytes_max).map_err(told)? {
        Framing::Missing(missing_bytes_min) => Ok(Decoded::Partial { missing_bytes_min }),
        Framing::Whole(frame) => {
            let inbound = read(frame).map_err(told)?;
            Ok(Decoded::Packet { inbound, consumed: frame.end })
        }
    }
}

/// Checks type and flags of a packet from a client that is connected, both versions.
fn check_first(byte: u8) -> Result<(), Fault> {
    match byte {
        first::SUBSCRIBE | first::UNSUBSCRIBE | first::PINGREQ | first::DISCONNECT => Ok(()),
        first::AUTH => Ok(()),
        first::CONNECT => Err(Fault::protocol("second CONNECT")),
        first::CONNACK | first::SUBACK | first::UNSUBACK | first::PINGRESP => {
            Err(Fault::protocol("packet type that only servers send"))
        }
        _ => check_publish_or_ack(byte),
    }
}

/// Checks type and flags of what both sides send.
fn check_publish_or_ack(byte: u8) -> Result<(), Fault> {
    match byte {
        first::PUBACK | first::PUBREC | first::PUBREL | first::PUBCOMP => Ok(()),
        _ if byte & 0xf0 == publish::PUBLISH => publish::check_flags(byte).map(drop),
        0x00..=0x0f => Err(Fault::malformed("packet type is reserved")),
        _ => Err(Fault::malformed("packet type or its flags do not belong here")),
    }
}

/// Which acknowledgement begins with this byte.
fn ack_kind(byte: u8) -> Option<AckKind> {
    match byte {
        first::PUBACK => Some(AckKind::Puback),
        first::PUBREC => Some(AckKind::Pubrec),
        first::PUBREL => Some(AckKind::Pubrel),
        first::PUBCOMP => Some(AckKind::Pubcomp),
        _ => None,
    }
}

/// The byte that begins this acknowledgement.
fn ack_first(kind: AckKind) -> u8 {
    match kind {
        AckKind::Puback => first::PUBACK,
        AckKind::Pubrec => first::PUBREC,
        AckKind::Pubrel => first::PUBREL,
        AckKind::Pubcomp => first::PUBCOMP,
    }
}
