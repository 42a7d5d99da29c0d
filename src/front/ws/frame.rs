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

mod head;
mod violation;

use std::ops::Range;

use self::head::{HEAD_BYTES_MAX, announced_length, gather_head};
pub use self::{
    head::{Head, Opcode, unmask},
    violation::{Violation, close_code},
};
use super::utf8::Utf8Check;

/// Longest payload of a control frame (§5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

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

#[cfg(test)]
mod tests;
