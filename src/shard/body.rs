//! Messages as bytes: in a batch on its way to the log, and in chunks of bodies in the state.
//!
//! - Owns: the layout of a message and of a chunk.
//! - Takes: messages. Gives: bytes, and messages whose topic, properties and payload are slices of them.
//! - Bound: a chunk holds `CHUNK_BYTES`, or one message that is larger.
//!
//! ```text
//! message: flags u8 | app u32 | published u64 | [publisher u128] | [id u128] | [expires u64]
//!          | topic length u16 | properties length u32 | payload length u32 | topic | properties | payload
//! chunk:   version u8 | messages … | (offset u32, start u32) per message | count u32
//! ```
//! Numbers are little endian.

use bytes::Bytes;

use crate::model::{
    id::{AppId, MessageId, SessionKey},
    message::{Message, Qos},
    topic::TopicName,
};

/// Size of a chunk that takes several messages; with its key it stays under 4 KiB.
pub(super) const CHUNK_BYTES: usize = 4_000;

const VERSION: u8 = 1;
const RETAIN: u8 = 1 << 2;
const PUBLISHER: u8 = 1 << 3;
const ID: u8 = 1 << 4;
const EXPIRES: u8 = 1 << 5;
/// Offset and start of one message at the end of a chunk.
const PLACE_BYTES: usize = 8;

/// Appends a message.
pub(crate) fn write_message(message: &Message, out: &mut Vec<u8>) {
    let mut flags = message.qos as u8;
    flags |= if message.retain { RETAIN } else { 0 };
    flags |= if message.publisher.is_some() { PUBLISHER } else { 0 };
    flags |= if message.id.is_some() { ID } else { 0 };
    flags |= if message.expires_at_ms.is_some() { EXPIRES } else { 0 };
    out.reserve(message_bytes(message));
    out.push(flags);
    out.extend_from_slice(&message.app.0.to_le_bytes());
    out.extend_from_slice(&message.published_at_ms.to_le_bytes());
    if let Some(publisher) = message.publisher {
        out.extend_from_slice(&publisher.0.to_le_bytes());
    }
    if let Some(id) = message.id {
        out.extend_from_slice(&id.0.to_le_bytes());
    }
    if let Some(expires) = message.expires_at_ms {
        out.extend_from_slice(&expires.to_le_bytes());
    }
    let topic = message.topic.as_bytes();
    out.extend_from_slice(&u16::try_from(topic.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&length(message.properties.len()));
    out.extend_from_slice(&length(message.payload.len()));
    out.extend_from_slice(topic);
    out.extend_from_slice(&message.properties);
    out.extend_from_slice(&message.payload);
}

/// Returns a bound of what `write_message` appends.
pub(crate) fn message_bytes(message: &Message) -> usize {
    64 + message.topic.as_bytes().len() + message.properties.len() + message.payload.len()
}

/// Reads the message at `start`, and where it ends. `None`: these are not its bytes.
pub(crate) fn read_message(bytes: &Bytes, start: usize) -> Option<(Message, usize)> {
    let mut reader = Reader { bytes, at: start };
    let flags = reader.number::<1>()?[0];
    let app = AppId(u32::from_le_bytes(reader.number()?));
    let published_at_ms = u64::from_le_bytes(reader.number()?);
    let publisher = if flags & PUBLISHER == 0 {
        None
    } else {
        Some(SessionKey(u128::from_le_bytes(reader.number()?)))
    };
    let id =
        if flags & ID == 0 { None } else { Some(MessageId(u128::from_le_bytes(reader.number()?))) };
    let expires_at_ms =
        if flags & EXPIRES == 0 { None } else { Some(u64::from_le_bytes(reader.number()?)) };
    let topic = usize::from(u16::from_le_bytes(reader.number()?));
    let properties = reader.length()?;
    let payload = reader.length()?;
    let topic = reader.slice(topic)?;
    std::str::from_utf8(&topic).ok()?;
    let message = Message {
        app,
        topic: TopicName::from_utf8_bytes(topic).ok()?,
        publisher,
        id,
        qos: Qos::from_bits(flags & 3)?,
        retain: flags & RETAIN != 0,
        published_at_ms,
        expires_at_ms,
        properties: reader.slice(properties)?,
        payload: reader.slice(payload)?,
    };
    Some((message, reader.at))
}

/// Finds a message of a chunk by its offset in the entry.
pub(super) fn find_in_chunk(chunk: &Bytes, offset: u32) -> Option<Message> {
    if chunk.first() != Some(&VERSION) {
        return None;
    }
    let (rest, count) = chunk.split_last_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let places = rest.get(rest.len().checked_sub(count.checked_mul(PLACE_BYTES)?)?..)?;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        let place = places.get(middle * PLACE_BYTES..)?.first_chunk::<PLACE_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *place;
        match u32::from_le_bytes([a, b, c, d]).cmp(&offset) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                let start = usize::try_from(u32::from_le_bytes([e, f, g, h])).ok()?;
                return read_message(chunk, start).map(|(message, _)| message);
            }
        }
    }
    None
}

/// A chunk that is being filled.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    bytes: Vec<u8>,
    places: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(first: &Message) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES.max(message_bytes(first)) + 16);
        bytes.push(VERSION);
        Self { bytes, places: Vec::with_capacity(16 * PLACE_BYTES) }
    }

    /// Tells whether the chunk should end before `message`.
    pub(super) fn is_full_for(&self, message: &Message) -> bool {
        self.bytes.len() + self.places.len() + message_bytes(message) > CHUNK_BYTES
    }

    pub(super) fn push(&mut self, offset: u32, message: &Message) {
        self.places.extend_from_slice(&offset.to_le_bytes());
        self.places.extend_from_slice(&length(self.bytes.len()));
        write_message(message, &mut self.bytes);
    }

    pub(super) fn finish(mut self) -> Bytes {
        let count = self.places.len() / PLACE_BYTES;
        self.bytes.extend_from_slice(&self.places);
        self.bytes.extend_from_slice(&length(count));
        Bytes::from(self.bytes)
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let number = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(number)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.number()?)).ok()
    }

    fn slice(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len)?;
        if end > self.bytes.len() {
            return None;
        }
        let slice = self.bytes.slice(self.at..end);
        self.at = end;
        Some(slice)
    }
}

/// Lengths stay under 4 GiB: a batch does.
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}
