//! PUBLISH of both versions, in both directions: the hot path.
//!
//! - Owns: nothing. Takes: a frame, or a [`Delivery`]. Gives: a [`Publish`] whose topic, properties and
//!   payload are slices of the input; or the head of a PUBLISH, written once for many receivers.
//! - Bound: allocates nothing, but for properties torn apart by an alias, an expiry or a
//!   subscription id.
//! - Source: MQTT 5.0 section 3.3, MQTT 3.1.1 section 3.3.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    field::{Fault, Frame, Reader, put_binary, put_varint, varint_bytes},
    property::{Forwarded, IN_PUBLISH, Properties, Value, id},
};
use crate::model::{
    message::Qos,
    reason::Reason,
    wire::{DecodeLimits, Delivery, DeliveryHead, Publish},
};

/// Packet type of PUBLISH, in the upper half of the first byte.
pub(super) const PUBLISH: u8 = 0x30;
const DUP: u8 = 0x08;
const RETAIN: u8 = 0x01;

/// Checks the flags of a PUBLISH, as soon as its first byte is here.
pub(super) fn check_flags(first: u8) -> Result<Qos, Fault> {
    let qos = Qos::from_bits(first >> 1 & 3).ok_or(Fault::malformed("QoS is 3"))?;
    if qos == Qos::AtMostOnce && first & DUP != 0 {
        return Err(Fault::malformed("DUP is set on QoS 0"));
    }
    Ok(qos)
}

/// Reads a PUBLISH of 3.1.1.
pub(super) fn decode_v4(
    bytes: &Bytes,
    frame: Frame,
    limits: &DecodeLimits,
) -> Result<Publish, Fault> {
    let mut reader = Reader::new(bytes, frame);
    let mut publish = decode_start(&mut reader, frame.first, limits)?;
    if publish.topic.is_none() {
        return Err(Fault::new(Reason::TopicNameInvalid, "topic name is empty"));
    }
    publish.payload = reader.rest();
    Ok(publish)
}

/// Reads a PUBLISH of 5.0; `subscription_id` is asked about each subscription id.
pub(super) fn decode_v5(
    bytes: &Bytes,
    frame: Frame,
    limits: &DecodeLimits,
    mut subscription_id: impl FnMut(NonZeroU32) -> Result<(), Fault>,
) -> Result<Publish, Fault> {
    let mut reader = Reader::new(bytes, frame);
    let mut publish = decode_start(&mut reader, frame.first, limits)?;
    let mut forwarded = Forwarded::default();
    let mut properties = Properties::open(&mut reader, IN_PUBLISH, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        match (property.id, property.value) {
            (id::MESSAGE_EXPIRY, Value::Four(secs)) => publish.expiry_secs = Some(secs),
            (id::TOPIC_ALIAS, Value::Two(alias)) => {
                let alias = NonZeroU16::new(alias)
                    .ok_or(Fault::new(Reason::TopicAliasInvalid, "topic alias is 0"))?;
                publish.topic_alias = Some(alias);
            }
            (id::SUBSCRIPTION_ID, Value::Varint(number)) => {
                let number =
                    NonZeroU32::new(number).ok_or(Fault::protocol("subscription id is 0"))?;
                subscription_id(number)?;
            }
            _ => forwarded.add(&property, bytes)?,
        }
    }
    if publish.topic.is_none() && publish.topic_alias.is_none() {
        return Err(Fault::protocol("neither topic name nor topic alias"));
    }
    publish.payload = reader.rest();
    forwarded.check_payload(&publish.payload)?;
    publish.properties = forwarded.into_bytes(bytes);
    Ok(publish)
}

/// Topic and packet id, which both versions have in the same place.
fn decode_start(
    reader: &mut Reader<'_>,
    first: u8,
    limits: &DecodeLimits,
) -> Result<Publish, Fault> {
    let qos = check_flags(first)?;
    let topic = reader.topic_name(limits)?;
    let packet_id = if qos == Qos::AtMostOnce { None } else { Some(reader.packet_id()?) };
    Ok(Publish {
        topic,
        topic_alias: None,
        packet_id,
        qos,
        dup: first & DUP != 0,
        retain: first & RETAIN != 0,
        expiry_secs: None,
        properties: Bytes::new(),
        payload: Bytes::new(),
    })
}

/// Writes the head of a 3.1.1 PUBLISH.
pub(super) fn head_v4(delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
    let head = Head::open(delivery, 0, out);
    head.close(out, None)
}

/// Writes the head of a 5.0 PUBLISH. Properties of ours stand before the forwarded ones.
pub(super) fn head_v5(delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
    let ids_bytes: usize =
        delivery.subscription_ids.iter().map(|number| 1 + varint_bytes(to_usize(*number))).sum();
    let properties_bytes = delivery.properties.len()
        + ids_bytes
        + if delivery.topic_alias.is_some() { 3 } else { 0 }
        + if delivery.expiry_secs.is_some() { 5 } else { 0 };
    let block_bytes = varint_bytes(properties_bytes) + properties_bytes;
    let head = Head::open(delivery, block_bytes, out);
    put_varint(out, properties_bytes);
    if let Some(alias) = delivery.topic_alias {
        out.put_u8(id::TOPIC_ALIAS);
        out.put_u16(alias.get());
    }
    let mut expiry_at = None;
    if let Some(secs) = delivery.expiry_secs {
        out.put_u8(id::MESSAGE_EXPIRY);
        expiry_at = Some(out.len() - head.start);
        out.put_u32(secs);
    }
    for number in delivery.subscription_ids {
        out.put_u8(id::SUBSCRIPTION_ID);
        put_varint(out, to_usize(*number));
    }
    out.put_slice(delivery.properties);
    head.close(out, expiry_at)
}

fn to_usize(number: NonZeroU32) -> usize {
    usize::try_from(number.get()).unwrap_or(usize::MAX)
}

/// A head being written: where it began in the buffer.
struct Head {
    start: usize,
    packet_id_at: Option<usize>,
}

impl Head {
    /// Reserves the whole head and writes everything before the properties.
    fn open(delivery: &Delivery<'_>, block_bytes: usize, out: &mut BytesMut) -> Self {
        let start = out.len();
        let packet_id_bytes = if delivery.qos == Qos::AtMostOnce { 0 } else { 2 };
        let body_bytes = 2 + delivery.topic.len() + packet_id_bytes + block_bytes;
        let remaining = body_bytes + delivery.payload.len();
        out.reserve(1 + varint_bytes(remaining) + body_bytes);
        let dup = if delivery.dup && packet_id_bytes > 0 { DUP } else { 0 };
        let retain = if delivery.retain { RETAIN } else { 0 };
        out.put_u8(PUBLISH | (delivery.qos as u8) << 1 | dup | retain);
        put_varint(out, remaining);
        put_binary(out, delivery.topic);
        let packet_id_at = (packet_id_bytes > 0).then(|| out.len() - start);
        if packet_id_bytes > 0 {
            out.put_u16(0);
        }
        Self { start, packet_id_at }
    }

    fn close(self, out: &BytesMut, expiry_at: Option<usize>) -> DeliveryHead {
        let head_bytes = out.len() - self.start;
        DeliveryHead { head_bytes, packet_id_at: self.packet_id_at, expiry_at }
    }
}
