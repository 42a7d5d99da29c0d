//! Frames: what a connection carries once both sides have proved who they are.
//!
//! ```text
//! 0      4       8    9    10     12           16     24
//! ┌──────┬───────┬────┬────┬──────┬────────────┬──────┬──────────┐
//! │length│ crc32 │kind│desk│ zero │time-out, ms│  id  │ body ... │   little endian
//! └──────┴───────┴────┴────┴──────┴────────────┴──────┴──────────┘
//! ```
//!
//! - Owns: nothing. Takes: bytes of a peer. Gives: frames, or why they are none.
//! - Bound: a body of `FRAME_BYTES_MAX`; nothing is reserved for a body before its bytes come.
//! - The checksum covers all that follows it: TCP's own is 16 bits, and what is broken here would
//!   become a log entry.
//! - Source: own design.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::limits::FRAME_BYTES_MAX;

/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 24;

/// Bytes at the beginning that the checksum does not cover.
const UNCHECKED_BYTES: usize = 8;

/// What a frame is for. Requests, casts and signs of life go out; answers, refusals and signs of life
/// come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request = 1,
    Cast = 2,
    Answer = 3,
    Refusal = 4,
    Alive = 5,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Number of the desk; any, because a newer peer may have more of them.
    pub(crate) desk: u8,
    /// How long the peer waits for the answer to a request.
    pub(crate) time_out_ms: u32,
    /// Pairs request and answer; grows with each request of a link.
    pub(crate) id: u64,
    pub(crate) body: Bytes,
}

/// Why bytes are no frame. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of {0} bytes is too long")]
    TooLong(u32),
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("frame with reserved bytes in use")]
    Reserved,
    #[error("frame with a wrong checksum")]
    Checksum,
}

impl Frame {
    pub(crate) fn alive() -> Self {
        Self { kind: Kind::Alive, desk: 0, time_out_ms: 0, id: 0, body: Bytes::new() }
    }

    /// Appends the 24 bytes before the body.
    pub(crate) fn put_head(&self, to: &mut BytesMut) {
        let start = to.len();
        to.put_u32_le(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        to.put_u32_le(0);
        to.put_u8(self.kind as u8);
        to.put_u8(self.desk);
        to.put_u16_le(0);
        to.put_u32_le(self.time_out_ms);
        to.put_u64_le(self.id);
        let crc = checksum(&to[start + UNCHECKED_BYTES..], &self.body);
        to[start + 4..start + UNCHECKED_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// Takes the first frame out of `from`; `None` until all of it is there.
    ///
    /// # Errors
    /// As soon as it can be seen that the bytes are no frame.
    pub(crate) fn take(from: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(head) = from.get(..HEAD_BYTES) else { return Ok(None) };
        let mut fields = head;
        let length = fields.get_u32_le();
        let crc = fields.get_u32_le();
        let kind = kind_of(fields.get_u8())?;
        let desk = fields.get_u8();
        if fields.get_u16_le() != 0 {
            return Err(FrameError::Reserved);
        }
        let time_out_ms = fields.get_u32_le();
        let id = fields.get_u64_le();
        let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if body_bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = from.get(HEAD_BYTES..HEAD_BYTES + body_bytes) else { return Ok(None) };
        if checksum(&from[UNCHECKED_BYTES..HEAD_BYTES], body) != crc {
            return Err(FrameError::Checksum);
        }
        from.advance(HEAD_BYTES);
        let body = from.split_to(body_bytes).freeze();
        Ok(Some(Self { kind, desk, time_out_ms, id, body }))
    }

    /// Returns how many bytes the first frame in `from` still lacks, as far as that is known.
    pub(crate) fn lacks_bytes(from: &[u8]) -> usize {
        let whole = from.first_chunk::<4>().map_or(HEAD_BYTES, |length| {
            let body = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            HEAD_BYTES + body.min(FRAME_BYTES_MAX)
        });
        whole.saturating_sub(from.len())
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn kind_of(number: u8) -> Result<Kind, FrameError> {
    match number {
        1 => Ok(Kind::Request),
        2 => Ok(Kind::Cast),
        3 => Ok(Kind::Answer),
        4 => Ok(Kind::Refusal),
        5 => Ok(Kind::Alive),
        other => Err(FrameError::UnknownKind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, body: &[u8]) -> Frame {
        let body = Bytes::copy_from_slice(body);
        Frame { kind, desk: 3, time_out_ms: 250, id: 1 << 40, body }
    }

    fn bytes(frames: &[Frame]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.put_head(&mut bytes);
            bytes.extend_from_slice(&frame.body);
        }
        bytes
    }

    #[test]
    fn frames_when_cut_anywhere_then_read_whole_or_not_at_all() {
        let frames = [frame(Kind::Request, b"ask"), Frame::alive(), frame(Kind::Answer, b"")];
        let all = bytes(&frames);
        for cut in 0..=all.len() {
            let mut buffer = BytesMut::from(&all[..cut]);
            let mut found = Vec::new();
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                found.push(frame);
            }
            assert_eq!(found, frames[..found.len()]);
            let lacks = Frame::lacks_bytes(&buffer);
            assert!(lacks > 0 && (buffer.is_empty() || lacks <= HEAD_BYTES));
            buffer.extend_from_slice(&all[cut..]);
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                found.push(frame);
            }
            assert_eq!(found, frames);
        }
    }

    #[test]
    fn frame_with_any_bit_turned_then_refused_or_waits_for_more() {
        let whole = bytes(&[frame(Kind::Cast, b"some body")]);
        for bit in 0..whole.len() * 8 {
            let mut turned = whole.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Frame::take(&mut turned), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn frame_that_is_too_long_then_refused_by_its_head() {
        let mut long = bytes(&[frame(Kind::Cast, b"")]);
        let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
        long[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Frame::take(&mut long), Err(FrameError::TooLong(length)));
    }
}
