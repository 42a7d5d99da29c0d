//! MQTT packets as an oracle sees them: encoders for what a client says, a strict reader for what a
//! server says.
//!
//! - Owns: nothing; written from the specifications, independent of the server's codec.
//! - Takes: any field values, legal or not. Gives: bytes, or why a server's bytes are illegal.
//! - Source: MQTT 3.1.1 and 5.0, chapters 2 and 3.

use super::property::{Props, put_data, put_variable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

pub(crate) const BOTH: [Version; 2] = [Version::V4, Version::V5];

/// What a client says first.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) will: Option<Will>,
    pub(crate) props: Props,
}

#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) props: Props,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) props: Props,
}

impl Publish {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// One packet from a server. A missing reason code reads as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Connack { present: bool, code: u8, props: Props },
    Publish(Publish),
    Ack { kind: AckKind, id: u16, code: u8, props: Props },
    Suback { id: u16, codes: Vec<u8>, props: Props },
    Unsuback { id: u16, codes: Vec<u8>, props: Props },
    Pingresp,
    Disconnect { code: u8, props: Props },
    Auth { code: u8, props: Props },
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) filter: String,
    pub(crate) options: u8,
}

impl Sub {
    pub(crate) fn new(filter: &str, qos: u8) -> Self {
        Self { filter: filter.to_owned(), options: qos }
    }

    #[must_use]
    pub(crate) fn no_local(mut self) -> Self {
        self.options |= 4;
        self
    }

    #[must_use]
    pub(crate) fn keep_retain(mut self) -> Self {
        self.options |= 8;
        self
    }

    /// 0 always, 1 only if new, 2 never.
    #[must_use]
    pub(crate) fn retain_handling(mut self, handling: u8) -> Self {
        self.options |= handling << 4;
        self
    }
}

/// First byte, length, body.
pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_variable(&mut out, u32::try_from(body.len()).unwrap());
    out.extend(body);
    out
}

impl Connect {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let v5 = self.version == Version::V5;
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.password.is_some()) << 6 | u8::from(self.user.is_some()) << 7;
        let mut body = Vec::new();
        put_data(&mut body, b"MQTT");
        body.extend([if v5 { 5 } else { 4 }, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if v5 {
            body.extend(self.props.encode());
        }
        put_data(&mut body, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if v5 {
                body.extend(will.props.encode());
            }
            put_data(&mut body, will.topic.as_bytes());
            put_data(&mut body, &will.payload);
        }
        if let Some(user) = &self.user {
            put_data(&mut body, user.as_bytes());
        }
        if let Some(password) = &self.password {
            put_data(&mut body, password);
        }
        frame(0x10, &body)
    }
}

impl Publish {
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = Vec::with_capacity(self.payload.len() + self.topic.len() + 16);
        put_data(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            body.extend(self.props.encode());
        }
        body.extend(&self.payload);
        frame(first, &body)
    }
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP; the reason only if it is not 0 (and never in 3.1.1).
pub(crate) fn encode_ack(version: Version, kind: AckKind, id: u16, code: u8) -> Vec<u8> {
    let first = (kind as u8) << 4 | if kind == AckKind::Pubrel { 2 } else { 0 };
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 && code != 0 {
        body.push(code);
    }
    frame(first, &body)
}

pub(crate) fn encode_subscribe(version: Version, id: u16, subs: &[Sub], props: &Props) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.extend(props.encode());
    }
    for sub in subs {
        put_data(&mut body, sub.filter.as_bytes());
        body.push(sub.options);
    }
    frame(0x82, &body)
}

pub(crate) fn encode_unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        put_data(&mut body, filter.as_bytes());
    }
    frame(0xA2, &body)
}

pub(crate) fn encode_disconnect(version: Version, code: u8, props: &Props) -> Vec<u8> {
    if version == Version::V4 || (code == 0 && props.0.is_empty()) {
        return vec![0xE0, 0];
    }
    let mut body = vec![code];
    body.extend(props.encode());
    frame(0xE0, &body)
}

pub(crate) fn encode_auth(code: u8, props: &Props) -> Vec<u8> {
    let mut body = vec![code];
    body.extend(props.encode());
    frame(0xF0, &body)
}

/// Reads fields out of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(count).ok_or("packet too short")?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn two(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().unwrap()))
    }

    pub(crate) fn four(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    pub(crate) fn data(&mut self) -> Result<&'a [u8], String> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    pub(crate) fn text(&mut self) -> Result<String, String> {
        let text = std::str::from_utf8(self.data()?).map_err(|error| error.to_string())?;
        if text.contains('\0') { Err("U+0000 in text".to_owned()) } else { Ok(text.to_owned()) }
    }

    pub(crate) fn variable(&mut self) -> Result<u32, String> {
        let mut number = 0;
        for place in 0..4 {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                let minimal = place == 0 || byte != 0;
                return if minimal { Ok(number) } else { Err("number not minimal".to_owned()) };
            }
        }
        Err("number over four bytes".to_owned())
    }

    fn packet_id(&mut self) -> Result<u16, String> {
        match self.two()? {
            0 => Err("packet id 0".to_owned()),
            id => Ok(id),
        }
    }
}

/// Returns the length of the packet at the start of `bytes` once its header is there.
pub(crate) fn packet_bytes(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut reader = Reader::new(bytes.get(1..).unwrap_or_default());
    let before = reader.0.len();
    match reader.variable() {
        Ok(length) => Ok(Some(1 + before - reader.0.len() + length as usize)),
        Err(_) if before < 4 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one whole packet from a server; `Err` says which rule the server broke.
pub(crate) fn decode(version: Version, bytes: &[u8]) -> Result<Packet, String> {
    let (kind, flags) = (bytes[0] >> 4, bytes[0] & 15);
    let mut reader = Reader::new(&bytes[1..]);
    let length = reader.variable()? as usize;
    if length != reader.0.len() {
        return Err("length does not fit".to_owned());
    }
    let wanted_flags = if kind == 6 { 2 } else { 0 };
    if kind != 3 && flags != wanted_flags {
        return Err(format!("flags {flags:#x} of packet type {kind}"));
    }
    let v5 = version == Version::V5;
    let packet = match kind {
        2 => decode_connack(&mut reader, v5)?,
        3 => decode_publish(&mut reader, v5, flags)?,
        4..=7 => decode_ack(&mut reader, v5, kind)?,
        9 => decode_suback(&mut reader, v5)?,
        11 => decode_unsuback(&mut reader, v5)?,
        13 => Packet::Pingresp,
        14 | 15 if v5 => decode_end(&mut reader, kind)?,
        _ => return Err(format!("a server sends no packet of type {kind} in {version:?}")),
    };
    if reader.is_empty() { Ok(packet) } else { Err(format!("bytes after {packet:?}")) }
}

fn decode_connack(reader: &mut Reader<'_>, v5: bool) -> Result<Packet, String> {
    let (flags, code) = (reader.byte()?, reader.byte()?);
    let props = if v5 { Props::decode(reader, 2)? } else { Props::new() };
    if flags > 1 || (flags == 1 && code != 0) {
        return Err(format!("CONNACK flags {flags} with code {code:#x}"));
    }
    let known = [
        0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
        0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    // A server that does not know the version answers in the form of 3.1.1 (MQTT 5.0 section 3.1.2.2).
    if if v5 { !known.contains(&code) } else { code > 5 } {
        return Err(format!("CONNACK code {code:#x}"));
    }
    Ok(Packet::Connack { present: flags == 1, code, props })
}

fn decode_publish(reader: &mut Reader<'_>, v5: bool, flags: u8) -> Result<Packet, String> {
    let qos = (flags >> 1) & 3;
    let dup = flags & 8 != 0;
    if qos == 3 || (qos == 0 && dup) {
        return Err(format!("PUBLISH flags {flags:#x}"));
    }
    let topic = reader.text()?;
    let id = if qos > 0 { reader.packet_id()? } else { 0 };
    let props = if v5 { Props::decode(reader, 3)? } else { Props::new() };
    let aliased = props.has(super::property::TOPIC_ALIAS);
    if (topic.is_empty() && !aliased) || topic.contains(['+', '#']) {
        return Err(format!("PUBLISH topic {topic:?}"));
    }
    let payload = reader.take(reader.0.len())?.to_vec();
    Ok(Packet::Publish(Publish { topic, payload, qos, retain: flags & 1 != 0, dup, id, props }))
}

fn decode_ack(reader: &mut Reader<'_>, v5: bool, kind: u8) -> Result<Packet, String> {
    let id = reader.packet_id()?;
    let code = if v5 && !reader.is_empty() { reader.byte()? } else { 0 };
    let props = if v5 && !reader.is_empty() { Props::decode(reader, kind)? } else { Props::new() };
    let (kind, known): (_, &[u8]) = match kind {
        4 => (AckKind::Puback, &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        5 => (AckKind::Pubrec, &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        6 => (AckKind::Pubrel, &[0, 0x92]),
        _ => (AckKind::Pubcomp, &[0, 0x92]),
    };
    if !known.contains(&code) {
        return Err(format!("{kind:?} code {code:#x}"));
    }
    Ok(Packet::Ack { kind, id, code, props })
}

fn decode_suback(reader: &mut Reader<'_>, v5: bool) -> Result<Packet, String> {
    let id = reader.packet_id()?;
    let props = if v5 { Props::decode(reader, 9)? } else { Props::new() };
    let codes = reader.take(reader.0.len())?.to_vec();
    let refusals: &[u8] =
        if v5 { &[0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2] } else { &[0x80] };
    if codes.is_empty() || codes.iter().any(|code| *code > 2 && !refusals.contains(code)) {
        return Err(format!("SUBACK codes {codes:x?}"));
    }
    Ok(Packet::Suback { id, codes, props })
}

fn decode_unsuback(reader: &mut Reader<'_>, v5: bool) -> Result<Packet, String> {
    let id = reader.packet_id()?;
    if !v5 {
        return Ok(Packet::Unsuback { id, codes: Vec::new(), props: Props::new() });
    }
    let props = Props::decode(reader, 11)?;
    let codes = reader.take(reader.0.len())?.to_vec();
    let known = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    if codes.is_empty() || codes.iter().any(|code| !known.contains(code)) {
        return Err(format!("UNSUBACK codes {codes:x?}"));
    }
    Ok(Packet::Unsuback { id, codes, props })
}

fn decode_end(reader: &mut Reader<'_>, kind: u8) -> Result<Packet, String> {
    let code = if reader.is_empty() { 0 } else { reader.byte()? };
    let props = if reader.is_empty() { Props::new() } else { Props::decode(reader, kind)? };
    if kind == 15 {
        return Ok(Packet::Auth { code, props });
    }
    let known = [
        0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
        0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    if known.contains(&code) {
        Ok(Packet::Disconnect { code, props })
    } else {
        Err(format!("DISCONNECT code {code:#x} from a server"))
    }
}
