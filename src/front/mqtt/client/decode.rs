//! Reads what a server sends: CONNACK, SUBACK, UNSUBACK, DISCONNECT, and what both sides send.
//!
//! - Owns: nothing. Takes: one frame. Gives: [`FromServer`].
//! - Bound: the caller's limits. Source: MQTT 5.0 sections 3.2, 3.9, 3.11, 3.14; MQTT 3.1.1 likewise.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    super::{
        ack_kind,
        field::{Fault, Frame, Reader},
        first,
        property::{IN_ACK, IN_CONNACK, IN_DISCONNECT, Ids, Properties, Property, Value, id},
        publish,
        reason::Carrier,
        v5,
    },
    Client, FromServer, ServerDisconnect,
};
use crate::model::{
    message::Qos,
    reason::Reason,
    wire::{Ack, Connack, DecodeLimits, SubackCode},
};

pub(super) fn read(
    client: Client,
    bytes: &Bytes,
    frame: Frame,
    limits: &DecodeLimits,
) -> Result<FromServer, Fault> {
    let mut reader = Reader::new(bytes, frame);
    let v5 = client == Client::V5;
    if let Some(kind) = ack_kind(frame.first) {
        if v5 {
            return v5::read_ack(&mut reader, kind, limits).map(FromServer::Ack);
        }
        let packet_id = reader.packet_id()?;
        reader.finish()?;
        return Ok(FromServer::Ack(Ack { kind, packet_id, reason: Reason::Success }));
    }
    match frame.first {
        first::CONNACK if v5 => connack_v5(&mut reader, limits),
        first::CONNACK => connack_v4(&mut reader),
        first::SUBACK => suback(&mut reader, v5, limits),
        first::UNSUBACK => unsuback(&mut reader, v5, limits),
        first::PINGRESP => reader.finish().map(|()| FromServer::Pong),
        first::DISCONNECT => {
            disconnect(&mut reader, limits).map(Box::new).map(FromServer::Disconnect)
        }
        first::AUTH => v5::read_auth(&mut reader, Carrier::AuthByServer, limits)
            .map(Box::new)
            .map(FromServer::Auth),
        _ => publish(client, bytes, frame, limits),
    }
}

fn publish(
    client: Client,
    bytes: &Bytes,
    frame: Frame,
    limits: &DecodeLimits,
) -> Result<FromServer, Fault> {
    let mut subscription_ids = SmallVec::new();
    let publish = match client {
        Client::V4 => publish::decode_v4(bytes, frame, limits)?,
        Client::V5 => publish::decode_v5(bytes, frame, limits, |number| {
            subscription_ids.push(number);
            Ok(())
        })?,
    };
    Ok(FromServer::Publish { publish, subscription_ids })
}

fn session_present(reader: &mut Reader<'_>) -> Result<bool, Fault> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::malformed("reserved connack flags are set")),
    }
}

fn connack_v4(reader: &mut Reader<'_>) -> Result<FromServer, Fault> {
    let session_present = session_present(reader)?;
    let reason = match reader.u8()? {
        0 => Reason::Success,
        1 => Reason::UnsupportedProtocolVersion,
        2 => Reason::ClientIdNotValid,
        3 => Reason::ServerUnavailable,
        4 => Reason::BadUserNameOrPassword,
        5 => Reason::NotAuthorized,
        _ => return Err(Fault::protocol("return code is reserved")),
    };
    reader.finish()?;
    let connack = Box::new(Connack { session_present, ..Connack::new(reason) });
    Ok(FromServer::Connack { connack, reason_string: None })
}

fn connack_v5(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<FromServer, Fault> {
    let session_present = session_present(reader)?;
    let reason = v5::read_reason(reader, Carrier::Connack)?;
    if session_present && reason != Reason::Success {
        return Err(Fault::protocol("session present on a refused connection"));
    }
    let mut connack = Box::new(Connack { session_present, ..Connack::new(reason) });
    let mut reason_string = None;
    let mut properties = Properties::open(reader, IN_CONNACK, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        match (property.id, property.value) {
            (id::REASON_STRING, Value::Text(text)) => reason_string = Some(text.to_owned()),
            _ => connack_property(&mut connack, &property)?,
        }
    }
    reader.finish()?;
    Ok(FromServer::Connack { connack, reason_string })
}

fn connack_property(connack: &mut Connack, property: &Property<'_>) -> Result<(), Fault> {
    let flag = |value: Value<'_>| value.flag("flag property is not 0 or 1").map(Some);
    match (property.id, property.value) {
        (id::SESSION_EXPIRY, Value::Four(secs)) => connack.session_expiry_secs = Some(secs),
        (id::RECEIVE_MAXIMUM, Value::Two(count)) => {
            let count = NonZeroU16::new(count).ok_or(Fault::protocol("receive maximum is 0"))?;
            connack.receive_maximum = Some(count);
        }
        (id::MAXIMUM_QOS, value) => {
            let one = value.flag("maximum QoS is not 0 or 1")?;
            connack.maximum_qos = Some(if one { Qos::AtLeastOnce } else { Qos::AtMostOnce });
        }
        (id::RETAIN_AVAILABLE, value) => connack.retain_available = flag(value)?,
        (id::PACKET_BYTES_MAX, Value::Four(bytes)) => {
            let bytes = NonZeroU32::new(bytes).ok_or(Fault::protocol("packet size is 0"))?;
            connack.packet_bytes_max = Some(bytes);
        }
        (id::ASSIGNED_CLIENT_ID, Value::Text(text)) => {
            connack.assigned_client_id = Some(text.to_owned());
        }
        (id::TOPIC_ALIAS_MAXIMUM, Value::Two(count)) => connack.topic_alias_maximum = Some(count),
        (id::WILDCARD_AVAILABLE, value) => connack.wildcard_available = flag(value)?,
        (id::SUBSCRIPTION_IDS_AVAILABLE, value) => {
            connack.subscription_ids_available = flag(value)?;
        }
        (id::SHARED_AVAILABLE, value) => connack.shared_available = flag(value)?,
        (id::SERVER_KEEP_ALIVE, Value::Two(secs)) => connack.server_keep_alive_secs = Some(secs),
        (id::RESPONSE_INFORMATION, Value::Text(text)) => {
            connack.response_information = Some(text.to_owned());
        }
        (id::SERVER_REFERENCE, Value::Text(text)) => {
            connack.server_reference = Some(text.to_owned());
        }
        _ => {}
    }
    Ok(())
}

fn skip_properties(reader: &mut Reader<'_>, ids: Ids, limits: &DecodeLimits) -> Result<(), Fault> {
    Properties::open(reader, ids, limits.user_properties_max)?.check_all()
}

fn suback(reader: &mut Reader<'_>, v5: bool, limits: &DecodeLimits) -> Result<FromServer, Fault> {
    let packet_id = reader.packet_id()?;
    if v5 {
        skip_properties(reader, IN_ACK, limits)?;
    }
    let mut codes = Vec::new();
    while !reader.is_empty() {
        codes.push(suback_code(reader, v5)?);
    }
    Ok(FromServer::Suback { packet_id, codes })
}

fn suback_code(reader: &mut Reader<'_>, v5: bool) -> Result<SubackCode, Fault> {
    let mut peek = reader.clone();
    if let Some(qos) = Qos::from_bits(peek.u8()?) {
        *reader = peek;
        return Ok(SubackCode::Granted(qos));
    }
    let reason = v5::read_reason(reader, Carrier::Suback)?;
    if !v5 && reason != Reason::UnspecifiedError {
        return Err(Fault::protocol("return code is reserved"));
    }
    Ok(SubackCode::Refused(reason))
}

fn unsuback(reader: &mut Reader<'_>, v5: bool, limits: &DecodeLimits) -> Result<FromServer, Fault> {
    let packet_id = reader.packet_id()?;
    let mut reasons = Vec::new();
    if v5 {
        skip_properties(reader, IN_ACK, limits)?;
        while !reader.is_empty() {
            reasons.push(v5::read_reason(reader, Carrier::Unsuback)?);
        }
    }
    reader.finish()?;
    Ok(FromServer::Unsuback { packet_id, reasons })
}

fn disconnect(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<ServerDisconnect, Fault> {
    let mut told =
        ServerDisconnect { reason: Reason::Success, reason_string: None, server_reference: None };
    if reader.is_empty() {
        return Ok(told);
    }
    told.reason = v5::read_reason(reader, Carrier::DisconnectByServer)?;
    if reader.is_empty() {
        return Ok(told);
    }
    let mut properties = Properties::open(reader, IN_DISCONNECT, limits.user_properties_max)?;
    while let Some(property) = properties.next()? {
        match (property.id, property.value) {
            (id::SESSION_EXPIRY, _) => {
                return Err(Fault::protocol("session expiry in a DISCONNECT of a server"));
            }
            (id::REASON_STRING, Value::Text(text)) => told.reason_string = Some(text.to_owned()),
            (id::SERVER_REFERENCE, Value::Text(text)) => {
                told.server_reference = Some(text.to_owned());
            }
            _ => {}
        }
    }
    reader.finish()?;
    Ok(told)
}
