//! The primitives of MQTT: fixed header, integers, strings, and how to write them.
//!
//! - Owns: nothing; [`Reader`] is a window on bytes that have arrived.
//! - Takes: bytes. Gives: values, slices of the input, or a [`Fault`].
//! - Bound: reads nothing behind its window and reserves nothing that was only announced.
//! - Source: MQTT 5.0 sections 1.5 and 2.1; MQTT 3.1.1 sections 1.5 and 2.2.

use std::{num::NonZeroU16, str};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::model::{
    reason::Reason,
    topic::{self, TopicError, TopicFilter, TopicName},
    wire::{DecodeError, DecodeLimits, Dialect},
};

/// Largest value of a variable byte integer.
pub(super) const VARINT_MAX: usize = 268_435_455;

/// A broken rule, before anybody knows in which dialect to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    pub(super) detail: &'static str,
}

impl Fault {
    pub(super) const fn new(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail }
    }

    /// The bytes cannot be parsed, MQTT 5.0 section 4.13.
    pub(super) const fn malformed(detail: &'static str) -> Self {
        Self::new(Reason::MalformedPacket, detail)
    }

    /// The bytes were parsed and say what the protocol forbids, MQTT 5.0 section 4.13.
    pub(super) const fn protocol(detail: &'static str) -> Self {
        Self::new(Reason::ProtocolError, detail)
    }

    pub(super) const fn told_in(self, dialect: Dialect) -> DecodeError {
        DecodeError { dialect, reason: self.reason, detail: self.detail }
    }
}

/// One whole packet at the start of the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// First byte: type and flags.
    pub(super) first: u8,
    /// Where the variable header starts.
    pub(super) body_at: usize,
    /// Where the next packet starts.
    pub(super) end: usize,
}

/// Is the packet whole?
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    Whole(Frame),
    /// Fewest bytes still missing.
    Missing(usize),
}

/// Finds the first packet of `bytes`; refuses a too large one as soon as its header is here.
pub(super) fn frame(bytes: &[u8], packet_bytes_max: u32) -> Result<Framing, Fault> {
    let Some(&first) = bytes.first() else { return Ok(Framing::Missing(2)) };
    let mut remaining = 0;
    for index in 0..4 {
        let Some(&byte) = bytes.get(1 + index) else { return Ok(Framing::Missing(1)) };
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 != 0 {
            continue;
        }
        if byte == 0 && index > 0 {
            return Err(Fault::malformed("remaining length is not minimal"));
        }
        let body_at = 2 + index;
        let end = body_at + remaining;
        if end > usize::try_from(packet_bytes_max).unwrap_or(usize::MAX) {
            return Err(Fault::new(Reason::PacketTooLarge, "packet is larger than allowed"));
        }
        if bytes.len() < end {
            return Ok(Framing::Missing(end - bytes.len()));
        }
        return Ok(Framing::Whole(Frame { first, body_at, end }));
    }
    Err(Fault::malformed("remaining length has more than four bytes"))
}

/// Reads fields one after the other; positions are those of the whole input.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// Opens the body of `frame`, which was found in `source`.
    pub(super) fn new(source: &'a Bytes, frame: Frame) -> Self {
        debug_assert!(frame.end <= source.len());
        Self { source, at: frame.body_at, end: frame.end }
    }

    /// Returns the next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        if count > self.end - self.at {
            return Err(Fault::malformed("packet ends inside a field"));
        }
        let from = self.at;
        self.at += count;
        Ok(&self.source[from..self.at])
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Reads a variable byte integer, MQTT 5.0 section 1.5.5.
    pub(super) fn varint(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 != 0 {
                continue;
            }
            if byte == 0 && index > 0 {
                return Err(Fault::malformed("variable byte integer is not minimal"));
            }
            return Ok(value);
        }
        Err(Fault::malformed("variable byte integer has more than four bytes"))
    }

    /// Reads binary data, MQTT 5.0 section 1.5.6.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// Reads a UTF-8 encoded string, MQTT 5.0 section 1.5.4. U+FEFF stays.
    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(NULL);
        }
        str::from_utf8(bytes).map_err(|_| NOT_UTF8)
    }

    /// Reads a packet id, which is never 0 (MQTT-2.2.1-3).
    pub(super) fn packet_id(&mut self) -> Result<NonZeroU16, Fault> {
        NonZeroU16::new(self.u16()?).ok_or(Fault::protocol("packet id is 0"))
    }

    /// Reads a topic name; `None` for the empty one. Keeps a slice of the input.
    pub(super) fn topic_name(&mut self, limits: &DecodeLimits) -> Result<Option<TopicName>, Fault> {
        let text = self.binary()?;
        if text.is_empty() {
            return Ok(None);
        }
        let (bytes_max, levels_max) = (limits.topic_bytes_max, limits.topic_levels_max);
        let share = self.source.slice_ref(text);
        TopicName::from_bytes(share, usize::from(bytes_max), usize::from(levels_max))
            .map(Some)
            .map_err(topic_fault)
    }

    /// Reads a topic filter with its share name. Text that is no filter is its inner error; bytes that
    /// are no text are the outer one.
    ///
    /// Copies: a filter lives as long as its subscription and must not hold the read buffer.
    pub(super) fn filter(&mut self, limits: &DecodeLimits) -> Result<ReadFilter, Fault> {
        let text = Bytes::copy_from_slice(self.text()?.as_bytes());
        Ok(parse_filter(&text, limits).map_err(|_| Reason::TopicFilterInvalid))
    }

    /// Splits off a reader of the next `count` bytes.
    pub(super) fn split(&mut self, count: usize) -> Result<Self, Fault> {
        let at = self.at;
        self.take(count)?;
        Ok(Self { source: self.source, at, end: self.at })
    }

    /// Returns everything that is left as a slice of the input.
    pub(super) fn rest(&mut self) -> Bytes {
        let from = self.at;
        self.at = self.end;
        self.source.slice(from..self.end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Says that nothing may follow.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.is_empty() { Ok(()) } else { Err(Fault::malformed("packet has trailing bytes")) }
    }

    /// Where the next field starts.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The input, for slices by position.
    pub(super) fn source(&self) -> &'a Bytes {
        self.source
    }
}

const NULL: Fault = Fault::malformed("string has the null character");
const NOT_UTF8: Fault = Fault::malformed("string is not UTF-8");

fn topic_fault(error: TopicError) -> Fault {
    let invalid = |detail| Fault::new(Reason::TopicNameInvalid, detail);
    match error {
        TopicError::Null => NULL,
        TopicError::NotUtf8 => NOT_UTF8,
        TopicError::Wildcard => invalid("topic name has a wildcard"),
        TopicError::TooLong { .. } => invalid("topic name is longer than allowed"),
        TopicError::TooDeep { .. } => invalid("topic name has more levels than allowed"),
        TopicError::Empty | TopicError::Share => invalid("topic name is empty"),
    }
}

/// Share name and filter, or why it is refused.
pub(super) type ReadFilter = Result<(Option<Bytes>, TopicFilter), Reason>;

fn parse_filter(
    text: &Bytes,
    limits: &DecodeLimits,
) -> Result<(Option<Bytes>, TopicFilter), TopicError> {
    let (share, filter) = match topic::parse_share(text)? {
        Some((share, filter)) => (Some(share), filter),
        None => (None, text.clone()),
    };
    topic::check_limits(text, usize::from(limits.topic_bytes_max), usize::MAX)?;
    check_topic_limits(&filter, limits)?;
    Ok((share, TopicFilter::from_utf8_bytes(filter)?))
}

fn check_topic_limits(text: &[u8], limits: &DecodeLimits) -> Result<(), TopicError> {
    let (bytes_max, levels_max) = (limits.topic_bytes_max, limits.topic_levels_max);
    topic::check_limits(text, usize::from(bytes_max), usize::from(levels_max))
}

/// How many bytes `value` takes as a variable byte integer.
pub(super) const fn varint_bytes(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x001f_ffff => 3,
        _ => 4,
    }
}

/// Writes a variable byte integer; `value` is at most [`VARINT_MAX`].
pub(super) fn put_varint(out: &mut BytesMut, value: usize) {
    debug_assert!(value <= VARINT_MAX);
    let mut left = value;
    while left > 0x7f {
        out.put_u8(low_seven_bits(left) | 0x80);
        left >>= 7;
    }
    out.put_u8(low_seven_bits(left));
}

fn low_seven_bits(value: usize) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

/// Writes a string or binary data with its length; cuts what the two bytes of length cannot say.
pub(super) fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    debug_assert!(usize::from(length) == bytes.len());
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}
