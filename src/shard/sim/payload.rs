//! What the messages of a world say: which one of its publisher it is.
//!
//! - Owns: nothing. Takes: a life of a publisher's session and a number in it. Gives: bytes, and back.
//! - Bound: 16 bytes.
//! - Source: own design.

use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// How often the publisher's client began anew: what it gave up may come later than what follows.
    pub(super) life: u64,
    /// Grows from message to message.
    pub(super) number: u64,
}

impl Payload {
    pub(super) fn write(self) -> Bytes {
        Bytes::from([self.life, self.number].map(u64::to_be_bytes).concat())
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (life, rest) = bytes.split_first_chunk()?;
        let number = rest.first_chunk()?;
        let (life, number) = (u64::from_be_bytes(*life), u64::from_be_bytes(*number));
        Some(Self { life, number })
    }
}
