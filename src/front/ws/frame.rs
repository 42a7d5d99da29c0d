//! WebSocket frames as a server reads and writes them, without any I/O.
//!
//! ```text
//! bytes of the peer ──▶ Decoder::next ──▶ Data (unmasked where it lay) | Ping | Pong | Close
//! ```
//!
//! - Owns: the place inside the current frame and message; no payload but that of a control frame.
//! - Takes: bytes cut anywhere. Gives: events, or the first `Violation` and its close code.
//! - Bound: `Rules`; nothing is reserved for an announced length.
//! - Source: RFC 6455 §5 (frames), §7.4 (close codes), §8.1 (UTF-8).

use std::ops::Range;

use super::utf8::{NotUtf8, Utf8Check};

/// Longest payload of a control frame (§5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Longest header that a client sends: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// What a listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Longest payload of one frame.
    pub frame_bytes_max: u64,
    /// Longest payload of one message, over all its frames.
    pub message_bytes_max: u64,
    /// Whether text messages are taken (and checked to be UTF-8) or refused with 1003.
    pub text: bool,
}

/// How the peer broke the rules; nothing that follows on the socket can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// §5.2: no extension was agreed.
    #[error("a reserved bit is set")]
    ReservedBit,
    /// §5.2.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// §5.1.
    #[error("a frame is not masked")]
    Unmasked,
    /// §5.5.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// §5.5.
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// §5.2.
    #[error("a length is not written in its shortest form")]
    LengthNotMinimal,
    /// §5.2.
    #[error("the highest bit of a length is set")]
    LengthReservedBit,
    /// §5.4.
    #[error("a continuation has nothing to continue")]
    ContinuationUnexpected,
    /// §5.4.
    #[error("a message begins inside another one")]
    ContinuationMissing,
    /// §5.5.1.
    #[error("a close frame holds one byte")]
    CloseLength,
    /// §7.4.
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// §8.1.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// `Rules::text`.
    #[error("text is not taken here")]
    Text,
    /// `Rules::frame_bytes_max`.
    #[error("a frame is longer than the limit")]
    FrameTooLong,
    /// `Rules::message_bytes_max`.
    #[error("a message is longer than the limit")]
    MessageTooLong,
}

impl Violation {
    /// Returns the code that tells the peer (§7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::NotUtf8 => close_code::NOT_UTF8,
            Self::Text => close_code::UNSUPPORTED,
            Self::FrameTooLong | Self::MessageTooLong => close_code::TOO_BIG,
            _ => close_code::PROTOCOL_ERROR,
        }
    }
}

impl From<NotUtf8> for Violation {
    fn from(_: NotUtf8) -> Self {
        Self::NotUtf8
    }
}

/// Close codes that this server sends (§7.4.1).
pub mod close_code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server stops.
    pub const GOING_AWAY: u16 = 1001;
    /// Framing is broken.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A kind of data that is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// A text that is none.
    pub const NOT_UTF8: u16 = 1007;
    /// Beyond a limit.
    pub const TOO_BIG: u16 = 1009;
}

/// Kinds of frames (§5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message.
    Continuation = 0x0,
    /// First frame of a text.
    Text = 0x1,
    /// First frame of bytes.
    Binary = 0x2,
    /// The last frame of a side.
    Close = 0x8,
    /// Wants a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or says "alive".
    Pong = 0xa,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            other => return Err(Violation::ReservedOpcode(other)),
        })
    }

    fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The payload of a control frame.
#[derive(Clone, Copy)]
pub struct Control {
    len: u8,
    bytes: [u8; CONTROL_BYTES_MAX],
}

impl Control {
    /// Copies the first `CONTROL_BYTES_MAX` bytes of `payload`.
    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        let mut control = Self::default();
        control.push(&payload[..payload.len().min(CONTROL_BYTES_MAX)]);
        control
    }

    /// Returns the payload.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The decoder has checked that control frames are short; what does not fit is left out.
    fn push(&mut self, part: &[u8]) {
        for (to, &from) in self.bytes[usize::from(self.len)..].iter_mut().zip(part) {
            *to = from;
            self.len += 1;
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { len: 0, bytes: [0; CONTROL_BYTES_MAX] }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({} bytes)", self.len)
    }
}

/// What the peer sent.
#[derive(Debug)]
pub enum Event {
    /// Payload of a message, unmasked: `input[range]`. The parts of a message follow each other; the
    /// one with `last` ends it and may be empty.
    Data {
        /// A text, valid so far (and as a whole, if `last`).
        text: bool,
        /// Where.
        range: Range<usize>,
        /// Ends the message.
        last: bool,
    },
    /// To be answered.
    Ping(Control),
    /// Needs nothing.
    Pong(Control),
    /// The peer sends nothing more; its code, if it gave one. The decoder is of no further use.
    Close(Option<u16>),
}

/// The reading half of a server's connection.
#[derive(Debug, Default)]
pub struct Decoder {
    phase: Phase,
    /// Bytes of the current message that its headers have announced so far.
    message_bytes: u64,
    /// Payload of a control frame that came in pieces.
    control: Option<Box<Control>>,
    utf8: Utf8Check,
    message: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Debug)]
enum Phase {
    Head { len: u8, bytes: [u8; HEAD_BYTES_MAX] },
    Payload { opcode: Opcode, fin: bool, mask: [u8; 4], left: u64 },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Head { len: 0, bytes: [0; HEAD_BYTES_MAX] }
    }
}

impl Decoder {
    /// Reads on in `input` from `at` and moves `at` behind what was used. `None`: all was used and
    /// more is needed.
    ///
    /// # Errors
    /// The first violation; the decoder is of no further use then.
    pub fn next(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        rules: &Rules,
    ) -> Result<Option<Event>, Violation> {
        loop {
            match &mut self.phase {
                Phase::Head { len, bytes } => {
                    if !gather_head(bytes, len, input, at)? {
                        return Ok(None);
                    }
                    let (bytes, len) = (*bytes, *len);
                    self.begin_frame(&bytes[..usize::from(len)], rules)?;
                }
                Phase::Payload { .. } => return self.payload(input, at),
            }
        }
    }

    /// Judges a complete header.
    fn begin_frame(&mut self, head: &[u8], rules: &Rules) -> Result<(), Violation> {
        let (fin, opcode) = (head[0] & 0x80 != 0, Opcode::parse(head[0] & 0x0f)?);
        let (head, mask) = head.split_at(head.len() - 4);
        let left = announced_length(head)?;
        if !opcode.is_control() {
            self.begin_data(opcode, left, rules)?;
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        self.phase = Phase::Payload { opcode, fin, mask, left };
        Ok(())
    }

    fn begin_data(&mut self, opcode: Opcode, bytes: u64, rules: &Rules) -> Result<(), Violation> {
        match (opcode, self.message) {
            (Opcode::Continuation, None) => return Err(Violation::ContinuationUnexpected),
            (Opcode::Continuation, Some(_)) => {}
            (_, Some(_)) => return Err(Violation::ContinuationMissing),
            (Opcode::Text, None) if !rules.text => return Err(Violation::Text),
            (Opcode::Text, None) => self.message = Some(Kind::Text),
            (_, None) => self.message = Some(Kind::Binary),
        }
        if bytes > rules.frame_bytes_max {
            return Err(Violation::FrameTooLong);
        }
        self.message_bytes = self.message_bytes.saturating_add(bytes);
        if self.message_bytes > rules.message_bytes_max {
            return Err(Violation::MessageTooLong);
        }
        Ok(())
    }

    /// Takes what `input` has of the current payload. `None` only if the frame needs more bytes.
    fn payload(&mut self, input: &mut [u8], at: &mut usize) -> Result<Option<Event>, Violation> {
        let Phase::Payload { opcode, fin, ref mut mask, ref mut left } = self.phase else {
            return Ok(None);
        };
        let here = input.len() - *at;
        let taken = usize::try_from(*left).map_or(here, |left| left.min(here));
        if taken == 0 && *left > 0 {
            return Ok(None);
        }
        let range = *at..*at + taken;
        unmask(&mut input[range.clone()], mask);
        *left -= taken as u64;
        *at = range.end;
        let complete = *left == 0;
        if complete {
            self.phase = Phase::default();
        }
        if opcode.is_control() {
            return self.control(opcode, &input[range], complete);
        }
        self.data(range, complete && fin, input)
    }

    fn data(
        &mut self,
        range: Range<usize>,
        last: bool,
        input: &[u8],
    ) -> Result<Option<Event>, Violation> {
        let text = self.message == Some(Kind::Text);
        if text {
            self.utf8.push(&input[range.clone()])?;
        }
        if last {
            self.utf8.finish()?;
            self.message = None;
            self.message_bytes = 0;
        }
        Ok(Some(Event::Data { text, range, last }))
    }

    fn control(
        &mut self,
        opcode: Opcode,
        part: &[u8],
        complete: bool,
    ) -> Result<Option<Event>, Violation> {
        if !complete {
            self.control.get_or_insert_default().push(part);
            return Ok(None);
        }
        let mut control = self.control.take().map_or_else(Control::default, |boxed| *boxed);
        control.push(part);
        Ok(Some(match opcode {
            Opcode::Ping => Event::Ping(control),
            Opcode::Pong => Event::Pong(control),
            _ => Event::Close(parse_close(control.as_slice())?),
        }))
    }
}

/// Moves bytes of a header from `input` to `bytes`; true when it is complete. The first two bytes
/// are judged before more is waited for.
fn gather_head(
    bytes: &mut [u8; HEAD_BYTES_MAX],
    len: &mut u8,
    input: &[u8],
    at: &mut usize,
) -> Result<bool, Violation> {
    while *at < input.len() {
        bytes[usize::from(*len)] = input[*at];
        *len += 1;
        *at += 1;
        match *len {
            1 => check_first(bytes[0])?,
            2 => check_second(bytes[0], bytes[1])?,
            len if len == head_bytes(bytes[1]) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

fn check_first(first: u8) -> Result<(), Violation> {
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBit);
    }
    let opcode = Opcode::parse(first & 0x0f)?;
    if opcode.is_control() && first & 0x80 == 0 {
        return Err(Violation::ControlFragmented);
    }
    Ok(())
}

fn check_second(first: u8, second: u8) -> Result<(), Violation> {
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    if first & 0x08 != 0 && usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
        return Err(Violation::ControlTooLong);
    }
    Ok(())
}

fn head_bytes(second: u8) -> u8 {
    match second & 0x7f {
        127 => 14,
        126 => 8,
        _ => 6,
    }
}

/// Reads the length of a header without its mask.
fn announced_length(head: &[u8]) -> Result<u64, Violation> {
    let extended = &head[2..];
    if extended.is_empty() {
        return Ok(u64::from(head[1] & 0x7f));
    }
    let length = extended.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    let minimum = if extended.len() == 2 { 126 } else { 1 << 16 };
    if length < minimum {
        return Err(Violation::LengthNotMinimal);
    }
    if length >> 63 != 0 {
        return Err(Violation::LengthReservedBit);
    }
    Ok(length)
}

fn parse_close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::CloseLength) };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode(code));
    }
    std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
    Ok(Some(code))
}

/// Applies `mask`, eight bytes at a time, and turns it so that it fits the byte behind `bytes`.
pub fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(rest.len() % 4);
}

/// The header of a frame of this server: whole messages, never masked (§5.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    len: u8,
    bytes: [u8; 10],
}

impl Head {
    /// Writes the header for `payload_bytes`.
    #[must_use]
    pub fn new(opcode: Opcode, payload_bytes: u64) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = 0x80 | opcode as u8;
        let len = if let Ok(short) = u8::try_from(payload_bytes)
            && usize::from(short) <= CONTROL_BYTES_MAX
        {
            bytes[1] = short;
            2
        } else if let Ok(medium) = u16::try_from(payload_bytes) {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        } else {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&payload_bytes.to_be_bytes());
            10
        };
        Self { len, bytes }
    }

    /// Returns the bytes to send.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests;
