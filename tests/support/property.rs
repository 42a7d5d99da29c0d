//! MQTT 5.0 properties as an oracle sees them.
//!
//! - Owns: the table of properties, written from the specification and from nothing of the server's.
//! - Takes: any mix of properties, legal or not. Gives: bytes; strict reading of what a server sent.
//! - Source: MQTT 5.0 section 2.2.2.2.

use super::packet::Reader;

/// The value of one property, by its wire type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Data(Vec<u8>),
    Pair(String, String),
}

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTH_METHOD: u8 = 0x15;
pub(crate) const AUTH_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM_INFO: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE_INFO: u8 = 0x19;
pub(crate) const RESPONSE_INFO: u8 = 0x1A;
pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const WILDCARD_AVAILABLE: u8 = 0x28;
pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
pub(crate) const SHARED_AVAILABLE: u8 = 0x2A;

#[derive(Clone, Copy)]
enum Kind {
    Byte,
    Two,
    Four,
    Variable,
    Text,
    Data,
    Pair,
}

/// Packet types by number, as far as a server may send them.
const CONNACK: u16 = 1 << 2;
const PUBLISH: u16 = 1 << 3;
const ACKS: u16 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7;
const SUBACKS: u16 = 1 << 9 | 1 << 11;
const DISCONNECT: u16 = 1 << 14;
const AUTH: u16 = 1 << 15;
/// Legal only from client to server.
const CLIENT_ONLY: u16 = 0;

/// Wire type, and the packets in which a server may send it.
const fn rule(id: u8) -> Option<(Kind, u16)> {
    Some(match id {
        PAYLOAD_FORMAT => (Kind::Byte, PUBLISH),
        MESSAGE_EXPIRY => (Kind::Four, PUBLISH),
        CONTENT_TYPE | RESPONSE_TOPIC => (Kind::Text, PUBLISH),
        CORRELATION_DATA => (Kind::Data, PUBLISH),
        SUBSCRIPTION_ID => (Kind::Variable, PUBLISH),
        SESSION_EXPIRY => (Kind::Four, CONNACK),
        ASSIGNED_CLIENT_ID | RESPONSE_INFO => (Kind::Text, CONNACK),
        SERVER_KEEP_ALIVE => (Kind::Two, CONNACK),
        AUTH_METHOD => (Kind::Text, CONNACK | AUTH),
        AUTH_DATA => (Kind::Data, CONNACK | AUTH),
        REQUEST_PROBLEM_INFO | REQUEST_RESPONSE_INFO => (Kind::Byte, CLIENT_ONLY),
        WILL_DELAY => (Kind::Four, CLIENT_ONLY),
        SERVER_REFERENCE => (Kind::Text, CONNACK | DISCONNECT),
        REASON_STRING => (Kind::Text, CONNACK | ACKS | SUBACKS | DISCONNECT | AUTH),
        RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM => (Kind::Two, CONNACK),
        TOPIC_ALIAS => (Kind::Two, PUBLISH),
        MAXIMUM_QOS | RETAIN_AVAILABLE => (Kind::Byte, CONNACK),
        USER_PROPERTY => (Kind::Pair, CONNACK | PUBLISH | ACKS | SUBACKS | DISCONNECT | AUTH),
        MAXIMUM_PACKET_SIZE => (Kind::Four, CONNACK),
        WILDCARD_AVAILABLE | SUBSCRIPTION_IDS_AVAILABLE | SHARED_AVAILABLE => (Kind::Byte, CONNACK),
        _ => return None,
    })
}

/// Properties in the order they stand on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Props(pub(crate) Vec<(u8, Value)>);

impl Props {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a number; its width is that of the property.
    #[must_use]
    pub(crate) fn number(mut self, id: u8, number: u32) -> Self {
        let value = match rule(id) {
            Some((Kind::Byte, _)) => Value::Byte(number.try_into().unwrap()),
            Some((Kind::Two, _)) => Value::Two(number.try_into().unwrap()),
            Some((Kind::Four, _)) => Value::Four(number),
            Some((Kind::Variable, _)) => Value::Variable(number),
            _ => panic!("property {id:#x} is no number"),
        };
        self.0.push((id, value));
        self
    }

    #[must_use]
    pub(crate) fn text(mut self, id: u8, text: &str) -> Self {
        self.0.push((id, Value::Text(text.to_owned())));
        self
    }

    #[must_use]
    pub(crate) fn data(mut self, id: u8, data: &[u8]) -> Self {
        self.0.push((id, Value::Data(data.to_vec())));
        self
    }

    #[must_use]
    pub(crate) fn user(mut self, name: &str, value: &str) -> Self {
        self.0.push((USER_PROPERTY, Value::Pair(name.to_owned(), value.to_owned())));
        self
    }

    /// All numbers under this id, in order.
    pub(crate) fn numbers(&self, id: u8) -> Vec<u32> {
        self.values(id)
            .map(|value| match value {
                Value::Byte(number) => u32::from(*number),
                Value::Two(number) => u32::from(*number),
                Value::Four(number) | Value::Variable(number) => *number,
                Value::Text(_) | Value::Data(_) | Value::Pair(..) => panic!("not a number"),
            })
            .collect()
    }

    pub(crate) fn get_number(&self, id: u8) -> Option<u32> {
        self.numbers(id).first().copied()
    }

    pub(crate) fn get_text(&self, id: u8) -> Option<&str> {
        self.values(id).find_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(crate) fn get_data(&self, id: u8) -> Option<&[u8]> {
        self.values(id).find_map(|value| match value {
            Value::Data(data) => Some(data.as_slice()),
            _ => None,
        })
    }

    pub(crate) fn user_pairs(&self) -> Vec<(&str, &str)> {
        self.values(USER_PROPERTY)
            .map(|value| match value {
                Value::Pair(name, text) => (name.as_str(), text.as_str()),
                _ => panic!("not a pair"),
            })
            .collect()
    }

    pub(crate) fn has(&self, id: u8) -> bool {
        self.values(id).next().is_some()
    }

    fn values(&self, id: u8) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(other, _)| *other == id).map(|(_, value)| value)
    }

    /// Bytes with the length in front.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, value) in &self.0 {
            body.push(*id);
            match value {
                Value::Byte(number) => body.push(*number),
                Value::Two(number) => body.extend(number.to_be_bytes()),
                Value::Four(number) => body.extend(number.to_be_bytes()),
                Value::Variable(number) => put_variable(&mut body, *number),
                Value::Text(text) => put_data(&mut body, text.as_bytes()),
                Value::Data(data) => put_data(&mut body, data),
                Value::Pair(name, text) => {
                    put_data(&mut body, name.as_bytes());
                    put_data(&mut body, text.as_bytes());
                }
            }
        }
        let mut whole = Vec::new();
        put_variable(&mut whole, u32::try_from(body.len()).unwrap());
        whole.extend(body);
        whole
    }

    /// Reads what a server sent in a packet of this type, refusing whatever it must not send.
    pub(super) fn decode(reader: &mut Reader<'_>, packet_type: u8) -> Result<Self, String> {
        let length = reader.variable()? as usize;
        let mut inner = Reader::new(reader.take(length)?);
        let mut props = Self::new();
        while !inner.is_empty() {
            let id = u8::try_from(inner.variable()?).map_err(|_| "property id".to_owned())?;
            let (kind, packets) = rule(id).ok_or(format!("unknown property {id:#x}"))?;
            if packets & (1 << packet_type) == 0 {
                return Err(format!("property {id:#x} in packet type {packet_type}"));
            }
            let many = id == USER_PROPERTY || id == SUBSCRIPTION_ID;
            if !many && props.has(id) {
                return Err(format!("property {id:#x} twice"));
            }
            let value = match kind {
                Kind::Byte => Value::Byte(inner.byte()?),
                Kind::Two => Value::Two(inner.two()?),
                Kind::Four => Value::Four(inner.four()?),
                Kind::Variable => Value::Variable(inner.variable()?),
                Kind::Text => Value::Text(inner.text()?),
                Kind::Data => Value::Data(inner.data()?.to_vec()),
                Kind::Pair => Value::Pair(inner.text()?, inner.text()?),
            };
            check_value(id, &value)?;
            props.0.push((id, value));
        }
        Ok(props)
    }
}

/// Values that the specification forbids a server to send.
fn check_value(id: u8, value: &Value) -> Result<(), String> {
    let bad = match (id, value) {
        (RECEIVE_MAXIMUM | TOPIC_ALIAS, Value::Two(0))
        | (MAXIMUM_PACKET_SIZE, Value::Four(0))
        | (SUBSCRIPTION_ID, Value::Variable(0)) => true,
        (
            PAYLOAD_FORMAT
            | MAXIMUM_QOS
            | RETAIN_AVAILABLE
            | WILDCARD_AVAILABLE
            | SUBSCRIPTION_IDS_AVAILABLE
            | SHARED_AVAILABLE,
            Value::Byte(number),
        ) => *number > 1,
        _ => false,
    };
    if bad { Err(format!("property {id:#x} has the forbidden value {value:?}")) } else { Ok(()) }
}

/// Appends a variable byte integer in its shortest form.
pub(crate) fn put_variable(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = u8::try_from(number % 128).unwrap();
        number /= 128;
        out.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return;
        }
    }
}

/// Appends two bytes of length and the bytes.
pub(crate) fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
}
