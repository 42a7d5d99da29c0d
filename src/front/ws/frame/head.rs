//! The header of a frame: read from a client a byte at a time, written for a server in one piece.
//!
//! - Owns: nothing. Takes: bytes cut anywhere. Gives: opcode, length, mask; headers to send.
//! - Bound: `HEAD_BYTES_MAX`; each byte is judged before more is waited for.
//! - Source: RFC 6455 §5.2 (header), §5.3 (mask).

use super::{CONTROL_BYTES_MAX, Violation};

/// Longest header that a client sends: two bytes, eight of length, four of mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;

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
    pub(super) fn parse(bits: u8) -> Result<Self, Violation> {
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

    pub(super) fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Moves bytes of a header from `input` to `bytes`; true when it is complete. The first two bytes
/// are judged before more is waited for.
pub(super) fn gather_head(
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
pub(super) fn announced_length(head: &[u8]) -> Result<u64, Violation> {
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
