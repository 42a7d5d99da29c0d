//! MQTT 3.1.1 (and 3.1, which differs in CONNECT only): everything but CONNECT and PUBLISH.
//!
//! - Owns: nothing. Takes: frames of a 3.1.1 client. Gives: [`Inbound`]; bytes of [`Outbound`].
//! - Bound: `filters_per_packet_max` of the listener.
//! - Source: MQTT 3.1.1 chapter 3. Reasons are those of 5.0; a 3.1.1 client sees only the close.
//!   `$share/name/filter` is taken from 5.0, as other servers do.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    ack_first, ack_kind, check_first, decode_with,
    field::{Fault, Frame, Reader, put_varint},
    first, publish,
};
use crate::{
    error,
    model::{
        message::Qos,
        reason::Reason,
        wire::{
            Ack, DecodeError, DecodeLimits, Decoded, Delivery, DeliveryHead, Dialect, Disconnect,
            Front, Inbound, Outbound, SubackCode, Subscribe, SubscribeItem, SubscriptionOptions,
            Unsubscribe,
        },
    },
};

/// SUBACK code of a refused filter, MQTT 3.1.1 section 3.9.3.
const SUBACK_FAILURE: u8 = 0x80;

/// MQTT 3.1.1 after CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct V4;

impl Front for V4 {
    fn decode(&self, bytes: &Bytes, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
        let check = |byte| match byte {
            first::AUTH => Err(Fault::malformed("packet type is reserved")),
            _ => check_first(byte),
        };
        decode_with(bytes, limits, Dialect::MqttV4, check, |frame| read(bytes, frame, limits))
    }

    fn encode(&self, outbound: &Outbound, _packet_bytes_max: u32, out: &mut BytesMut) {
        match outbound {
            Outbound::Connack(connack) => {
                let Some(code) = error::code(connack.reason).connack_v4 else { return };
                let present = connack.session_present && connack.reason == Reason::Success;
                out.put_slice(&[first::CONNACK, 2, u8::from(present), code]);
            }
            Outbound::Ack { ack, .. } => {
                let [high, low] = ack.packet_id.get().to_be_bytes();
                out.put_slice(&[ack_first(ack.kind), 2, high, low]);
            }
            Outbound::Suback { packet_id, codes } => {
                out.put_u8(first::SUBACK);
                put_varint(out, 2 + codes.len());
                out.put_u16(packet_id.get());
                out.extend(codes.iter().map(|code| match code {
                    SubackCode::Granted(qos) => *qos as u8,
                    SubackCode::Refused(_) => SUBACK_FAILURE,
                }));
            }
            Outbound::Unsuback { packet_id, .. } => {
                let [high, low] = packet_id.get().to_be_bytes();
                out.put_slice(&[first::UNSUBACK, 2, high, low]);
            }
            Outbound::Pong => out.put_slice(&[first::PINGRESP, 0]),
            Outbound::Disconnect { .. } => {}
        }
    }

    fn encode_delivery_head(&self, delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
        publish::head_v4(delivery, out)
    }
}

fn read(bytes: &Bytes, frame: Frame, limits: &DecodeLimits) -> Result<Inbound, Fault> {
    let mut reader = Reader::new(bytes, frame);
    if let Some(kind) = ack_kind(frame.first) {
        let packet_id = reader.packet_id()?;
        reader.finish()?;
        return Ok(Inbound::Ack(Ack { kind, packet_id, reason: Reason::Success }));
    }
    match frame.first {
        first::SUBSCRIBE => subscribe(&mut reader, limits).map(Box::new).map(Inbound::Subscribe),
        first::UNSUBSCRIBE => {
            unsubscribe(&mut reader, limits).map(Box::new).map(Inbound::Unsubscribe)
        }
        first::PINGREQ => reader.finish().map(|()| Inbound::Ping),
        first::DISCONNECT => {
            reader.finish()?;
            let disconnect = Disconnect { reason: Reason::Success, session_expiry_secs: None };
            Ok(Inbound::Disconnect(Box::new(disconnect)))
        }
        _ => publish::decode_v4(bytes, frame, limits).map(Inbound::Publish),
    }
}

fn subscribe(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Subscribe, Fault> {
    let packet_id = reader.packet_id()?;
    let mut items = Vec::new();
    while !reader.is_empty() {
        check_filter_count(items.len(), limits)?;
        let filter = reader.filter(limits)?;
        let qos = Qos::from_bits(reader.u8()?)
            .ok_or(Fault::malformed("requested QoS is 3 or its reserved bits are set"))?;
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        items.push(item(filter, options));
    }
    check_filters_present(items.len())?;
    Ok(Subscribe { packet_id, subscription_id: None, items })
}

fn unsubscribe(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Unsubscribe, Fault> {
    let packet_id = reader.packet_id()?;
    let items = unsubscribe_items(reader, limits)?;
    Ok(Unsubscribe { packet_id, items })
}

/// Reads the payload of an UNSUBSCRIBE, the same in both versions.
pub(super) fn unsubscribe_items(
    reader: &mut Reader<'_>,
    limits: &DecodeLimits,
) -> Result<Vec<super::field::ReadFilter>, Fault> {
    let mut items = Vec::new();
    while !reader.is_empty() {
        check_filter_count(items.len(), limits)?;
        items.push(reader.filter(limits)?);
    }
    check_filters_present(items.len())?;
    Ok(items)
}

/// Puts a filter and its options together.
pub(super) fn item(
    filter: super::field::ReadFilter,
    options: SubscriptionOptions,
) -> SubscribeItem {
    match filter {
        Ok((share, filter)) => SubscribeItem { filter: Ok(filter), share, options },
        Err(reason) => SubscribeItem { filter: Err(reason), share: None, options },
    }
}

pub(super) fn check_filter_count(count: usize, limits: &DecodeLimits) -> Result<(), Fault> {
    if count >= usize::from(limits.filters_per_packet_max) {
        return Err(Fault::new(Reason::QuotaExceeded, "too many filters in one packet"));
    }
    Ok(())
}

pub(super) fn check_filters_present(count: usize) -> Result<(), Fault> {
    if count == 0 {
        return Err(Fault::protocol("packet has no topic filter"));
    }
    Ok(())
}
