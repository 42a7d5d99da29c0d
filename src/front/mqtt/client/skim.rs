//! Reads only what a load generator looks at, so that measuring costs little beside what is measured.
//!
//! - Owns: nothing. Takes: bytes of a server that is trusted to be right. Gives: payloads and packet ids
//!   as slices of the input; packets that are rare are left to [`Client::decode`].
//! - Bound: none but the wire's: a packet is skimmed when it is whole.
//! - Source: MQTT 5.0 sections 2.1 and 3.3 to 3.7. Topics are not looked at, properties are skipped.

use super::{
    super::{ack_kind, field, first, publish},
    Client,
};
use crate::model::wire::{AckKind, DecodeError};

/// One packet, as far as it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skimmed<'a> {
    /// A message.
    Publish {
        /// 0 for QoS 0.
        packet_id: u16,
        /// The two bits of the fixed header.
        qos: u8,
        /// Resent.
        dup: bool,
        /// Body.
        payload: &'a [u8],
    },
    /// An acknowledgement.
    Ack {
        /// Which.
        kind: AckKind,
        /// Of what.
        packet_id: u16,
        /// v5 reason code; below 0x80 is success.
        code: u8,
    },
    /// Answer to a ping.
    Pong,
    /// Anything else, whole; see [`Client::decode`].
    Other(&'a [u8]),
}

impl Client {
    /// Looks at the first packet of `bytes`; gives it and its length, or `None` if it is not whole.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are no packets, or end inside one of their fields.
    #[inline]
    pub fn skim(self, bytes: &[u8]) -> Result<Option<(Skimmed<'_>, usize)>, DecodeError> {
        let told = |fault: field::Fault| fault.told_in(self.dialect());
        let frame = match field::frame(bytes, u32::MAX).map_err(told)? {
            field::Framing::Whole(frame) => frame,
            field::Framing::Missing(_) => return Ok(None),
        };
        let body = &bytes[frame.body_at..frame.end];
        let skimmed = if frame.first & 0xf0 == publish::PUBLISH {
            self.skim_publish(frame.first, body)
        } else if let Some(kind) = ack_kind(frame.first) {
            skim_ack(kind, body)
        } else if frame.first == first::PINGRESP {
            Some(Skimmed::Pong)
        } else {
            Some(Skimmed::Other(&bytes[..frame.end]))
        };
        let cut = told(field::Fault::malformed("packet ends inside a field"));
        Ok(Some((skimmed.ok_or(cut)?, frame.end)))
    }

    fn skim_publish(self, first: u8, body: &[u8]) -> Option<Skimmed<'_>> {
        let qos = first >> 1 & 3;
        let (topic_bytes, body) = body.split_first_chunk::<2>()?;
        let body = body.get(usize::from(u16::from_be_bytes(*topic_bytes))..)?;
        let (packet_id, body) = match qos {
            0 => (0, body),
            _ => body.split_first_chunk::<2>().map(|(id, rest)| (u16::from_be_bytes(*id), rest))?,
        };
        let payload = match self {
            Self::V4 => body,
            Self::V5 => skip_properties(body)?,
        };
        Some(Skimmed::Publish { packet_id, qos, dup: first & 8 != 0, payload })
    }
}

fn skim_ack(kind: AckKind, body: &[u8]) -> Option<Skimmed<'_>> {
    let (packet_id, rest) = body.split_first_chunk::<2>()?;
    let code = rest.first().copied().unwrap_or(0);
    Some(Skimmed::Ack { kind, packet_id: u16::from_be_bytes(*packet_id), code })
}

fn skip_properties(body: &[u8]) -> Option<&[u8]> {
    let mut length = 0;
    for index in 0..4 {
        let byte = *body.get(index)?;
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return body.get(index + 1 + length..);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Client, Skimmed};
    use crate::model::wire::AckKind;

    #[test]
    fn publish_when_skimmed_then_payload_and_id() {
        let v4 = b"\x34\x0a\0\x03a/b\x01\x02xyz\xd0\0";
        let expected = Skimmed::Publish { packet_id: 0x102, qos: 2, dup: false, payload: b"xyz" };
        assert_eq!(Client::V4.skim(v4), Ok(Some((expected, 12))));
        let v5 = b"\x3a\x0e\0\x03a/b\0\x07\x03\x01\x01\x0bxyz";
        let expected = Skimmed::Publish { packet_id: 7, qos: 1, dup: true, payload: b"xyz" };
        assert_eq!(Client::V5.skim(v5), Ok(Some((expected, 16))));
    }

    #[test]
    fn acks_and_others_when_skimmed_then_told_apart() {
        let ack = Skimmed::Ack { kind: AckKind::Puback, packet_id: 1, code: 0x97 };
        assert_eq!(Client::V5.skim(b"\x40\x03\0\x01\x97"), Ok(Some((ack, 5))));
        assert_eq!(Client::V5.skim(b"\xd0\0"), Ok(Some((Skimmed::Pong, 2))));
        let connack = b"\x20\x02\0\0";
        assert_eq!(Client::V4.skim(connack), Ok(Some((Skimmed::Other(connack), 4))));
        assert_eq!(Client::V4.skim(b"\x20\x02\0"), Ok(None));
        assert!(Client::V4.skim(b"\x30\x02\0\x09").is_err());
    }
}
