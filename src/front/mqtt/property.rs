//! Properties of MQTT 5.0: which may stand where, how often, and what they hold.
//!
//! - Owns: the table of identifiers; [`Properties`] walks over one property block.
//! - Takes: a [`Reader`]. Gives: checked values; [`Forwarded`], the ones that go to receivers
//!   untouched, as one slice of the input wherever they stand together.
//! - Bound: `user_properties_max` of the listener; every other property at most once.
//! - Source: MQTT 5.0 section 2.2.2, and the property sections of each packet.

use std::{ops::Range, str};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::field::{Fault, Reader, put_binary};
use crate::model::reason::Reason;

/// Identifiers, MQTT 5.0 table 2-4.
pub(super) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTH_METHOD: u8 = 0x15;
    pub(crate) const AUTH_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1c;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const PACKET_BYTES_MAX: u8 = 0x27;
    pub(crate) const WILDCARD_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_AVAILABLE: u8 = 0x2a;
}

/// A set of identifiers, one bit each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids(u64);

impl Ids {
    const fn of(ids: &[u8]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < ids.len() {
            bits |= 1 << ids[index];
            index += 1;
        }
        Self(bits)
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, id: u8) -> bool {
        id < 64 && self.0 & (1 << id) != 0
    }
}

/// What goes to receivers as the publisher wrote it.
const FORWARDED: Ids = Ids::of(&[
    id::PAYLOAD_FORMAT,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER,
]);
const ACK: Ids = Ids::of(&[id::REASON_STRING, id::USER]);

/// Identifiers of each packet, MQTT 5.0 table 2-4.
pub(super) const IN_CONNECT: Ids = Ids::of(&[
    id::SESSION_EXPIRY,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::REQUEST_PROBLEM,
    id::REQUEST_RESPONSE,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::USER,
    id::PACKET_BYTES_MAX,
]);
pub(super) const IN_WILL: Ids = FORWARDED.and(Ids::of(&[id::MESSAGE_EXPIRY, id::WILL_DELAY]));
pub(super) const IN_PUBLISH: Ids =
    FORWARDED.and(Ids::of(&[id::MESSAGE_EXPIRY, id::TOPIC_ALIAS, id::SUBSCRIPTION_ID]));
pub(super) const IN_ACK: Ids = ACK;
pub(super) const IN_SUBSCRIBE: Ids = Ids::of(&[id::SUBSCRIPTION_ID, id::USER]);
pub(super) const IN_UNSUBSCRIBE: Ids = Ids::of(&[id::USER]);
pub(super) const IN_DISCONNECT: Ids = ACK.and(Ids::of(&[id::SESSION_EXPIRY, id::SERVER_REFERENCE]));
pub(super) const IN_AUTH: Ids = ACK.and(Ids::of(&[id::AUTH_METHOD, id::AUTH_DATA]));
pub(super) const IN_CONNACK: Ids = ACK.and(Ids::of(&[
    id::SESSION_EXPIRY,
    id::ASSIGNED_CLIENT_ID,
    id::SERVER_KEEP_ALIVE,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::PACKET_BYTES_MAX,
    id::WILDCARD_AVAILABLE,
    id::SUBSCRIPTION_IDS_AVAILABLE,
    id::SHARED_AVAILABLE,
]));

/// The value of a property, by its type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

impl Value<'_> {
    /// Reads a byte that may only be 0 or 1.
    pub(super) fn flag(self, detail: &'static str) -> Result<bool, Fault> {
        match self {
            Self::Byte(0) => Ok(false),
            Self::Byte(1) => Ok(true),
            _ => Err(Fault::protocol(detail)),
        }
    }
}

/// One property and where it stands in the input.
#[derive(Clone, Debug)]
pub(super) struct Property<'a> {
    pub(super) id: u8,
    pub(super) value: Value<'a>,
    pub(super) range: Range<usize>,
}

/// Walks over the property block of one packet.
#[derive(Debug)]
pub(super) struct Properties<'a> {
    reader: Reader<'a>,
    allowed: Ids,
    seen: u64,
    user_left: u16,
}

impl<'a> Properties<'a> {
    /// Reads the length of the block, and takes the block out of `reader`.
    pub(super) fn open(
        reader: &mut Reader<'a>,
        allowed: Ids,
        user_properties_max: u16,
    ) -> Result<Self, Fault> {
        let length = reader.varint()?;
        let reader = reader.split(usize::try_from(length).unwrap_or(usize::MAX))?;
        Ok(Self { reader, allowed, seen: 0, user_left: user_properties_max })
    }

    /// Returns the next property, whose identifier, count and type are legal.
    pub(super) fn next(&mut self) -> Result<Option<Property<'a>>, Fault> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let start = self.reader.position();
        // Identifiers are variable byte integers; all that exist take one byte.
        let id = self.reader.u8()?;
        if !self.allowed.has(id) {
            return Err(Fault::malformed("property does not belong in this packet"));
        }
        self.count(id)?;
        let value = self.value(id)?;
        Ok(Some(Property { id, value, range: start..self.reader.position() }))
    }

    /// Reads past the block where no value matters.
    pub(super) fn check_all(&mut self) -> Result<(), Fault> {
        while self.next()?.is_some() {}
        Ok(())
    }

    pub(super) fn source(&self) -> &'a Bytes {
        self.reader.source()
    }

    fn count(&mut self, id: u8) -> Result<(), Fault> {
        if id == id::USER {
            let left = self.user_left.checked_sub(1);
            self.user_left =
                left.ok_or(Fault::new(Reason::QuotaExceeded, "too many user properties"))?;
            return Ok(());
        }
        let bit = 1 << id;
        if self.seen & bit != 0 && !(id == id::SUBSCRIPTION_ID && self.in_publish()) {
            return Err(Fault::protocol("property appears twice"));
        }
        self.seen |= bit;
        Ok(())
    }

    /// A server's PUBLISH carries one subscription id per matching subscription.
    fn in_publish(&self) -> bool {
        self.allowed.has(id::TOPIC_ALIAS)
    }

    fn value(&mut self, id: u8) -> Result<Value<'a>, Fault> {
        let reader = &mut self.reader;
        Ok(match id {
            id::PAYLOAD_FORMAT
            | id::REQUEST_PROBLEM
            | id::REQUEST_RESPONSE
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARD_AVAILABLE
            | id::SUBSCRIPTION_IDS_AVAILABLE
            | id::SHARED_AVAILABLE => Value::Byte(reader.u8()?),
            id::SERVER_KEEP_ALIVE
            | id::RECEIVE_MAXIMUM
            | id::TOPIC_ALIAS_MAXIMUM
            | id::TOPIC_ALIAS => Value::Two(reader.u16()?),
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::PACKET_BYTES_MAX => {
                Value::Four(reader.u32()?)
            }
            id::SUBSCRIPTION_ID => Value::Varint(reader.varint()?),
            id::CORRELATION_DATA | id::AUTH_DATA => Value::Binary(reader.binary()?),
            id::USER => Value::Pair(reader.text()?, reader.text()?),
            _ => Value::Text(reader.text()?),
        })
    }
}

/// Collects what goes to receivers untouched, in wire form and without its length.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    kept: Kept,
    /// The publisher promised that the payload is UTF-8.
    text_payload: bool,
}

#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    /// All so far stand together in the input.
    Together(Range<usize>),
    /// Something of another kind stood in between.
    Copied(BytesMut),
}

impl Forwarded {
    /// Takes a property that [`FORWARDED`] names.
    pub(super) fn add(&mut self, property: &Property<'_>, source: &[u8]) -> Result<(), Fault> {
        match (property.id, property.value) {
            (id::PAYLOAD_FORMAT, value) => {
                self.text_payload = value.flag("payload format indicator is not 0 or 1")?;
            }
            (id::RESPONSE_TOPIC, Value::Text("")) => {
                return Err(Fault::protocol("response topic is empty"));
            }
            (id::RESPONSE_TOPIC, Value::Text(topic)) if topic.contains(['+', '#']) => {
                return Err(Fault::protocol("response topic has a wildcard"));
            }
            _ => {}
        }
        let range = property.range.clone();
        match &mut self.kept {
            Kept::Nothing => self.kept = Kept::Together(range),
            Kept::Together(kept) if kept.end == range.start => kept.end = range.end,
            Kept::Together(kept) => {
                let mut copy = BytesMut::from(&source[kept.clone()]);
                copy.extend_from_slice(&source[range]);
                self.kept = Kept::Copied(copy);
            }
            Kept::Copied(copy) => copy.extend_from_slice(&source[range]),
        }
        Ok(())
    }

    /// Checks a payload against what the properties promised of it.
    pub(super) fn check_payload(&self, payload: &[u8]) -> Result<(), Fault> {
        if self.text_payload && str::from_utf8(payload).is_err() {
            let detail = "payload is not the UTF-8 that its format indicator promises";
            return Err(Fault::new(Reason::PayloadFormatInvalid, detail));
        }
        Ok(())
    }

    /// Returns the properties, as a slice of the input if they stood together.
    pub(super) fn into_bytes(self, source: &Bytes) -> Bytes {
        match self.kept {
            Kept::Nothing => Bytes::new(),
            Kept::Together(range) => source.slice(range),
            Kept::Copied(copy) => copy.freeze(),
        }
    }
}

/// Writes a property of one byte, if there is a value.
pub(super) fn put_u8(out: &mut BytesMut, id: u8, value: Option<u8>) {
    if let Some(value) = value {
        out.put_slice(&[id, value]);
    }
}

/// Writes a property that says yes or no, if there is a value.
pub(super) fn put_flag(out: &mut BytesMut, id: u8, value: Option<bool>) {
    put_u8(out, id, value.map(u8::from));
}

/// Writes a property of two bytes, if there is a value.
pub(super) fn put_u16(out: &mut BytesMut, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        out.put_u8(id);
        out.put_u16(value);
    }
}

/// Writes a property of four bytes, if there is a value.
pub(super) fn put_u32(out: &mut BytesMut, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        out.put_u8(id);
        out.put_u32(value);
    }
}

/// Writes a property that is a string, if there is a value.
pub(super) fn put_text(out: &mut BytesMut, id: u8, value: Option<&str>) {
    if let Some(value) = value {
        out.put_u8(id);
        put_binary(out, value.as_bytes());
    }
}
