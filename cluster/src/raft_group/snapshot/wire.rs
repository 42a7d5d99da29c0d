//! What sender and receiver of a snapshot say to each other, as bytes.
//!
//! ```text
//! question = version u8 · kind u8 · group u16 · fields     answer = version u8 · fields (bincode)
//! ```
//!
//! - Owns: nothing. Takes: questions and answers. Gives: bytes, and them back.
//! - Bound: fields of `FIELDS_BYTES_MAX`; a piece of `PIECE_BYTES`. What has no sense is an error.
//! - Source: own design. Version 1 is the first. Integers are little endian.

use bincode::Options as _;
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::file::{Digest, Meta, PIECE_BYTES};
use crate::{
    codec::{Codec, fixed},
    raft_group::types::Vote,
};

const VERSION: u8 = 1;
const FIELDS_BYTES_MAX: u64 = 128 << 10;
const CODEC: Codec = Codec { version: VERSION, bytes_max: FIELDS_BYTES_MAX };

const OFFER: u8 = 1;
const PIECE: u8 = 2;
const FINISH: u8 = 3;

/// A snapshot that somebody sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) vote: Vote,
    pub(crate) meta: Meta,
    /// Names the sender's file, so that the rest of it can follow after a broken link.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Asks how much of it the other side has.
    Offer(Offer),
    /// Some bytes of it.
    Piece { number: u64, offset: u64, bytes: Bytes },
    /// That was all: install it.
    Finish { number: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// So many bytes of it are here; go on behind them.
    Have { bytes: u64 },
    /// Another snapshot is being received; later.
    Busy,
    /// It is being installed; ask again.
    Installing,
    /// The group here has this vote now, and what the snapshot holds unless the vote is higher.
    Settled { vote: Vote },
    /// What came is damaged and was thrown away; begin again.
    Damaged,
    /// No such snapshot is being received; offer it again.
    Unknown,
}

impl Question {
    pub(crate) fn encode(&self, group: u16) -> Bytes {
        let mut out = Vec::new();
        let mut begin = |kind| {
            out.put_u8(VERSION);
            out.put_u8(kind);
            out.put_u16_le(group);
        };
        match self {
            Self::Offer(offer) => {
                begin(OFFER);
                // Plain integers and one short text: this encoding has no case that fails.
                let _ = fixed(FIELDS_BYTES_MAX).serialize_into(&mut out, offer);
            }
            Self::Piece { number, offset, bytes } => {
                begin(PIECE);
                out.reserve_exact(20 + bytes.len());
                out.put_u64_le(*number);
                out.put_u64_le(*offset);
                out.put_u32_le(crc32fast::hash(bytes));
                out.extend_from_slice(bytes);
            }
            Self::Finish { number } => {
                begin(FINISH);
                out.put_u64_le(*number);
            }
        }
        out.into()
    }

    /// Reads a question and the group that it is about.
    pub(crate) fn decode(mut body: Bytes) -> Option<(u16, Self)> {
        let (version, kind) = (body.try_get_u8().ok()?, body.try_get_u8().ok()?);
        let group = body.try_get_u16_le().ok()?;
        if version != VERSION {
            return None;
        }
        let question = match kind {
            OFFER => Self::Offer(fixed(FIELDS_BYTES_MAX).deserialize(&body).ok()?),
            PIECE => {
                let (number, offset) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
                let crc = body.try_get_u32_le().ok()?;
                if body.len() > PIECE_BYTES || crc32fast::hash(&body) != crc {
                    return None;
                }
                Self::Piece { number, offset, bytes: body }
            }
            FINISH => {
                let number = body.try_get_u64_le().ok()?;
                body.is_empty().then_some(Self::Finish { number })?
            }
            _ => return None,
        };
        Some((group, question))
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Bytes {
        CODEC.encode(self)
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        CODEC.decode(body)
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::raft_group::types::LogId;

    fn questions() -> [Question; 3] {
        let last_log_id = Some(LogId::new(CommittedLeaderId::new(3, 1), 77));
        let meta = Meta { last_log_id, snapshot_id: "3-1-77".into(), ..Meta::default() };
        let offer = Offer {
            vote: Vote::new_committed(3, 1),
            meta,
            number: 5,
            bytes: 1 << 40,
            digest: [7; 32],
        };
        [
            Question::Offer(offer),
            Question::Piece { number: 5, offset: 9, bytes: Bytes::from_static(b"some bytes") },
            Question::Finish { number: 5 },
        ]
    }

    #[test]
    fn questions_when_written_then_read_the_same_and_when_damaged_then_never_another_piece() {
        for question in questions() {
            let body = question.encode(6);
            assert_eq!(Question::decode(body.clone()), Some((6, question)));
            for cut in 0..body.len() {
                assert_eq!(Question::decode(body.slice(..cut)), None);
            }
            for bit in 0..body.len() * 8 {
                let mut turned = body.to_vec();
                turned[bit / 8] ^= 1 << (bit % 8);
                let _ = Question::decode(turned.into());
            }
        }
    }

    #[test]
    fn piece_with_a_bit_turned_then_refused() {
        let body = questions()[1].encode(6);
        for bit in 24 * 8..body.len() * 8 {
            let mut turned = body.to_vec();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Question::decode(turned.into()), None, "bit {bit}");
        }
    }

    #[test]
    fn answers_when_written_then_read_the_same() {
        for answer in [
            Answer::Have { bytes: 7 },
            Answer::Busy,
            Answer::Installing,
            Answer::Settled { vote: Vote::new(9, 2) },
            Answer::Damaged,
            Answer::Unknown,
        ] {
            let body = answer.encode();
            assert_eq!(Answer::decode(&body), Some(answer));
            assert_eq!(Answer::decode(&body[..body.len() - 1]), None);
        }
    }
}
