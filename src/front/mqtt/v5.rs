//! MQTT 5.0: everything but CONNECT and PUBLISH.
//!
//! - Owns: nothing. Takes: frames of a 5.0 client. Gives: [`Inbound`]; bytes of [`Outbound`].
//! - Bound: `filters_per_packet_max` and `user_properties_max` of the listener; a packet of ours that
//!   the client would not take loses its reason string, and is not written if it is still too large.
//! - Source: MQTT 5.0 chapter 3.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    ack_first, ack_kind, check_first, decode_with,
    field::{Fault, Frame, Reader, put_varint, varint_bytes},
    first,
    property::{
        IN_ACK, IN_AUTH, IN_DISCONNECT, IN_SUBSCRIBE, IN_UNSUBSCRIBE, Properties, Value, id,
        put_flag, put_text, put_u8, put_u16, put_u32,
    },
    publish,
    reason::{self, Carrier},
    v4,
};
use crate::model::{
    message::Qos,
    reason::Reason,
    wire::{
        Ack, AckKind, Auth, Connack, DecodeError, DecodeLimits, Decoded, Delivery, DeliveryHead,
        Dialect, Disconnect, Front, Inbound, Outbound, RetainHandling, SubackCode, Subscribe,
        SubscriptionOptions, Unsubscribe,
    },
};

/// MQTT 5.0 after CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct V5;

impl Front for V5 {
    fn decode(&self, bytes: &Bytes, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
        decode_with(bytes, limits, Dialect::MqttV5, check_first, |frame| read(bytes, frame, limits))
    }

    fn encode(&self, outbound: &Outbound, packet_bytes_max: u32, out: &mut BytesMut) {
        let bytes_max = usize::try_from(packet_bytes_max).unwrap_or(usize::MAX);
        match outbound {
            Outbound::Connack(connack) => write_connack(connack, bytes_max, out),
            Outbound::Ack { ack, reason_string } => {
                write_ack(*ack, *reason_string, bytes_max, out);
            }
            Outbound::Suback { packet_id, codes } => {
                let codes: Vec<u8> = codes.iter().map(suback_number).collect();
                let start = packet_id.get().to_be_bytes();
                Packet::new(first::SUBACK, &start).tail(&codes).write(bytes_max, out);
            }
            Outbound::Unsuback { packet_id, reasons } => {
                let number = |reason: &Reason| reason::write(*reason, Carrier::Unsuback);
                let codes: Vec<u8> = reasons.iter().map(number).collect();
                let start = packet_id.get().to_be_bytes();
                Packet::new(first::UNSUBACK, &start).tail(&codes).write(bytes_max, out);
            }
            Outbound::Pong => out.put_slice(&[first::PINGRESP, 0]),
            Outbound::Disconnect { reason, reason_string, server_reference } => {
                let start = [reason::write(*reason, Carrier::DisconnectByServer)];
                let mut properties = BytesMut::new();
                put_text(&mut properties, id::SERVER_REFERENCE, server_reference.as_deref());
                Packet::new(first::DISCONNECT, &start)
                    .short_without_properties()
                    .properties(&properties)
                    .reason_string(*reason_string)
                    .write(bytes_max, out);
            }
        }
    }

    fn encode_delivery_head(&self, delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
        publish::head_v5(delivery, out)
    }
}

fn read(bytes: &Bytes, frame: Frame, limits: &DecodeLimits) -> Result<Inbound, Fault> {
    let mut reader = Reader::new(bytes, frame);
    if let Some(kind) = ack_kind(frame.first) {
        return read_ack(&mut reader, kind, limits).map(Inbound::Ack);
    }
    match frame.first {
        first::SUBSCRIBE => subscribe(&mut reader, limits).map(Box::new).map(Inbound::Subscribe),
        first::UNSUBSCRIBE => {
            unsubscribe(&mut reader, limits).map(Box::new).map(Inbound::Unsubscribe)
        }
        first::PINGREQ => reader.finish().map(|()| Inbound::Ping),
        first::DISCONNECT => disconnect(&mut reader, limits).map(Box::new).map(Inbound::Disconnect),
        first::AUTH => {
            read_auth(&mut reader, Carrier::AuthByClient, limits).map(Box::new).map(Inbound::Auth)
        }
        _ => {
            let refuse = |_| Err(Fault::protocol("subscription id in a PUBLISH of a client"));
            publish::decode_v5(bytes, frame, limits, refuse).map(Inbound::Publish)
        }
    }
}

/// Reads PUBACK, PUBREC, PUBREL or PUBCOMP, whose reason and properties may be left out.
pub(super) fn read_ack(
    reader: &mut Reader<'_>,
    kind: AckKind,
    limits: &DecodeLimits,
) -> Result<Ack, Fault> {
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        return Ok(Ack { kind, packet_id, reason: Reason::Success });
    }
    let reason = read_reason(reader, kind.into())?;
    if !reader.is_empty() {
        Properties::open(reader, IN_ACK, limits.user_properties_max)?.check_all()?;
    }
    reader.finish()?;
    Ok(Ack { kind, packet_id, reason })
}

/// Reads a reason code that the packet may carry.
pub(super) fn read_reason(reader: &mut Reader<'_>, carrier: Carrier) -> Result<Reason, Fault> {
    reason::read(reader.u8()?, carrier)
        .ok_or(Fault::protocol("reason code does not belong in this packet"))
}

fn subscribe(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Subscribe, Fault> {
    let packet_id = reader.packet_id()?;
    let mut subscription_id = None;
    let mut properties = Properties::open(reader, IN_SUBSCRIBE, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        if let Value::Varint(number) = property.value {
            let number = NonZeroU32::new(number).ok_or(Fault::protocol("subscription id is 0"))?;
            subscription_id = Some(number);
        }
    }
    let mut items = Vec::new();
    while !reader.is_empty() {
        v4::check_filter_count(items.len(), limits)?;
        let filter = reader.filter(limits)?;
        let options = subscription_options(reader.u8()?)?;
        let item = v4::item(filter, options);
        if item.share.is_some() && options.no_local {
            return Err(Fault::protocol("no local on a shared subscription"));
        }
        items.push(item);
    }
    v4::check_filters_present(items.len())?;
    Ok(Subscribe { packet_id, subscription_id, items })
}

fn subscription_options(byte: u8) -> Result<SubscriptionOptions, Fault> {
    if byte & 0xc0 != 0 {
        return Err(Fault::malformed("reserved bits of the subscription options are set"));
    }
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(Fault::protocol("retain handling is 3")),
    };
    Ok(SubscriptionOptions {
        qos: Qos::from_bits(byte & 3).ok_or(Fault::protocol("maximum QoS is 3"))?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

fn unsubscribe(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Unsubscribe, Fault> {
    let packet_id = reader.packet_id()?;
    Properties::open(reader, IN_UNSUBSCRIBE, limits.user_properties_max)?.check_all()?;
    let items = v4::unsubscribe_items(reader, limits)?;
    Ok(Unsubscribe { packet_id, items })
}

fn disconnect(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Disconnect, Fault> {
    let mut disconnect = Disconnect { reason: Reason::Success, session_expiry_secs: None };
    if reader.is_empty() {
        return Ok(disconnect);
    }
    disconnect.reason = read_reason(reader, Carrier::DisconnectByClient)?;
    if reader.is_empty() {
        return Ok(disconnect);
    }
    let mut properties = Properties::open(reader, IN_DISCONNECT, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        match (property.id, property.value) {
            (id::SESSION_EXPIRY, Value::Four(secs)) => disconnect.session_expiry_secs = Some(secs),
            (id::SERVER_REFERENCE, _) => {
                return Err(Fault::protocol("server reference from a client"));
            }
            _ => {}
        }
    }
    reader.finish()?;
    Ok(disconnect)
}

/// Reads AUTH, MQTT 5.0 section 3.15. An empty one means success, which only a server may say.
pub(super) fn read_auth(
    reader: &mut Reader<'_>,
    carrier: Carrier,
    limits: &DecodeLimits,
) -> Result<Auth, Fault> {
    if reader.is_empty() {
        return match reason::read(0, carrier) {
            Some(reason) => Ok(Auth { reason, method: None }),
            None => Err(Fault::protocol("reason code does not belong in this packet")),
        };
    }
    let mut auth = Auth { reason: read_reason(reader, carrier)?, method: None };
    let mut properties = Properties::open(reader, IN_AUTH, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        if let (id::AUTH_METHOD, Value::Text(method)) = (property.id, property.value) {
            auth.method = Some(method.to_owned());
        }
    }
    reader.finish()?;
    if auth.method.is_none() {
        return Err(Fault::protocol("authentication method is missing"));
    }
    Ok(auth)
}

/// A packet of ours: fixed start, properties, tail.
struct Packet<'a> {
    first: u8,
    start: &'a [u8],
    properties: &'a [u8],
    reason_string: Option<&'static str>,
    tail: &'a [u8],
    /// How much of `start` is enough if there are no properties; `None`: the block is always there.
    short_bytes: Option<usize>,
}

impl<'a> Packet<'a> {
    fn new(first: u8, start: &'a [u8]) -> Self {
        Self { first, start, properties: &[], reason_string: None, tail: &[], short_bytes: None }
    }

    fn properties(self, properties: &'a [u8]) -> Self {
        Self { properties, ..self }
    }

    fn reason_string(self, reason_string: Option<&'static str>) -> Self {
        Self { reason_string, ..self }
    }

    fn tail(self, tail: &'a [u8]) -> Self {
        Self { tail, ..self }
    }

    /// The reason code ends `start`; without properties the block is left out, and success too.
    fn short_without_properties(self) -> Self {
        let reason_bytes = usize::from(self.start.last() == Some(&0));
        let short_bytes = self.start.len() - reason_bytes;
        Self { short_bytes: Some(short_bytes), ..self }
    }

    fn write(mut self, bytes_max: usize, out: &mut BytesMut) {
        if self.packet_bytes() > bytes_max {
            self.reason_string = None;
        }
        if self.packet_bytes() > bytes_max {
            return;
        }
        out.reserve(self.packet_bytes());
        out.put_u8(self.first);
        put_varint(out, self.remaining());
        match self.short_form() {
            Some(short_bytes) => out.put_slice(&self.start[..short_bytes]),
            None => {
                out.put_slice(self.start);
                put_varint(out, self.properties_bytes());
                out.put_slice(self.properties);
                put_text(out, id::REASON_STRING, self.reason_string);
                out.put_slice(self.tail);
            }
        }
    }

    fn short_form(&self) -> Option<usize> {
        self.short_bytes.filter(|_| self.properties_bytes() == 0)
    }

    fn properties_bytes(&self) -> usize {
        self.properties.len() + self.reason_string.map_or(0, |text| 3 + text.len())
    }

    fn remaining(&self) -> usize {
        if let Some(short_bytes) = self.short_form() {
            return short_bytes;
        }
        let properties_bytes = self.properties_bytes();
        self.start.len() + varint_bytes(properties_bytes) + properties_bytes + self.tail.len()
    }

    fn packet_bytes(&self) -> usize {
        1 + varint_bytes(self.remaining()) + self.remaining()
    }
}

/// An acknowledgement; the usual one without a reason takes a short cut.
fn write_ack(ack: Ack, reason_string: Option<&'static str>, bytes_max: usize, out: &mut BytesMut) {
    let [high, low] = ack.packet_id.get().to_be_bytes();
    let number = reason::write(ack.reason, ack.kind.into());
    let first = ack_first(ack.kind);
    if number == 0 && reason_string.is_none() && bytes_max >= 4 {
        out.put_slice(&[first, 2, high, low]);
        return;
    }
    Packet::new(first, &[high, low, number])
        .short_without_properties()
        .reason_string(reason_string)
        .write(bytes_max, out);
}

fn suback_number(code: &SubackCode) -> u8 {
    match code {
        SubackCode::Granted(qos) => *qos as u8,
        SubackCode::Refused(reason) => reason::write(*reason, Carrier::Suback),
    }
}

fn write_connack(connack: &Connack, bytes_max: usize, out: &mut BytesMut) {
    let present = connack.session_present && connack.reason == Reason::Success;
    let start = [u8::from(present), reason::write(connack.reason, Carrier::Connack)];
    let properties = connack_properties(connack);
    Packet::new(first::CONNACK, &start)
        .properties(&properties)
        .reason_string(connack.reason_string)
        .write(bytes_max, out);
}

fn connack_properties(connack: &Connack) -> BytesMut {
    let mut out = BytesMut::new();
    // MQTT 5.0 section 3.2.2.3.4: only 0 and 1 may be said; without the property it is 2.
    let maximum_qos = connack.maximum_qos.filter(|qos| *qos < Qos::ExactlyOnce);
    put_u32(&mut out, id::SESSION_EXPIRY, connack.session_expiry_secs);
    put_u16(&mut out, id::RECEIVE_MAXIMUM, connack.receive_maximum.map(NonZeroU16::get));
    put_u8(&mut out, id::MAXIMUM_QOS, maximum_qos.map(|qos| qos as u8));
    put_flag(&mut out, id::RETAIN_AVAILABLE, connack.retain_available);
    put_u32(&mut out, id::PACKET_BYTES_MAX, connack.packet_bytes_max.map(NonZeroU32::get));
    put_text(&mut out, id::ASSIGNED_CLIENT_ID, connack.assigned_client_id.as_deref());
    put_u16(&mut out, id::TOPIC_ALIAS_MAXIMUM, connack.topic_alias_maximum);
    put_flag(&mut out, id::WILDCARD_AVAILABLE, connack.wildcard_available);
    put_flag(&mut out, id::SUBSCRIPTION_IDS_AVAILABLE, connack.subscription_ids_available);
    put_flag(&mut out, id::SHARED_AVAILABLE, connack.shared_available);
    put_u16(&mut out, id::SERVER_KEEP_ALIVE, connack.server_keep_alive_secs);
    put_text(&mut out, id::RESPONSE_INFORMATION, connack.response_information.as_deref());
    put_text(&mut out, id::SERVER_REFERENCE, connack.server_reference.as_deref());
    out
}
