//! Batches of messages between nodes, as bytes.
//!
//! - Owns: the versioned layout of a batch and of its answer.
//! - Takes: messages, each encoded once for all nodes that it goes to. Gives: bytes, and messages back.
//! - Bound: `limits::RELAY_FRAME_BYTES_MAX`; reading never reserves more than the bytes at hand can hold.
//! - Source: own design; messages as in the log (`shard/body.rs`).
//!
//! ```text
//! batch:  1 | boot u64 | epoch u64 | number u64 | receiver's incarnation u64 | count u32 | items …
//! item:   flags u8 | [entry u64 | offset u32] | message
//! answer: 1 | 0                       taken
//!         1 | 1                       meant for an earlier incarnation: nobody of then is here
//!         1 | 2 | number u64          this number is wanted
//! ```
//! Numbers are little endian. `boot` and `epoch` name the stream, `number` counts its batches from 1.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    limits,
    model::{id::Position, message::Message},
    shard::body,
};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 4 * 8 + 4;
const RETAINED: u8 = 1;

/// A message, and the version of the retained copy that it made.
pub(super) type Versioned = (Arc<Message>, Option<Position>);

/// What stands in front of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Which start of the sender.
    pub(super) boot: u64,
    /// Which stream of it; a later one ends those before.
    pub(super) epoch: u64,
    /// Which batch of the stream, from 1.
    pub(super) number: u64,
    /// For which incarnation of the receiver.
    pub(super) receiver: u64,
}

/// What the receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The routers have it.
    Taken,
    /// It was meant for an earlier incarnation.
    Gone,
    /// Batches before it are missing, or there is no room: send again from this number on.
    Wanted(u64),
}

/// These bytes are no batch or no answer of a version that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed relay frame")]
pub(super) struct Malformed;

/// Encodes one message as an item.
pub(super) fn write_item(message: &Message, version: Option<Position>) -> Bytes {
    let mut out = Vec::with_capacity(16 + body::message_bytes(message));
    match version {
        None => out.push(0),
        Some(version) => {
            out.push(RETAINED);
            out.extend_from_slice(&version.entry.to_le_bytes());
            out.extend_from_slice(&version.offset.to_le_bytes());
        }
    }
    body::write_message(message, &mut out);
    Bytes::from(out)
}

/// Puts items into one frame.
pub(super) fn write_batch<'a>(
    head: Head,
    items: impl ExactSizeIterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    let bytes: usize = items.clone().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(HEAD_BYTES + bytes);
    out.put_u8(VERSION);
    out.put_u64_le(head.boot);
    out.put_u64_le(head.epoch);
    out.put_u64_le(head.number);
    out.put_u64_le(head.receiver);
    out.put_u32_le(u32::try_from(items.len()).unwrap_or(u32::MAX));
    for item in items {
        out.put_slice(item);
    }
    out.freeze()
}

/// Reads what stands in front of a batch.
pub(super) fn read_head(frame: &Bytes) -> Result<Head, Malformed> {
    if frame.first() != Some(&VERSION) || frame.len() < HEAD_BYTES {
        return Err(Malformed);
    }
    let number = |at: usize| -> Result<u64, Malformed> {
        let bytes = frame.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
        Ok(u64::from_le_bytes(*bytes))
    };
    Ok(Head { boot: number(1)?, epoch: number(9)?, number: number(17)?, receiver: number(25)? })
}

/// Reads the messages of a batch; all of the frame must be used.
pub(super) fn read_messages(frame: &Bytes) -> Result<Vec<Versioned>, Malformed> {
    read_items(frame).ok_or(Malformed)
}

fn read_items(frame: &Bytes) -> Option<Vec<Versioned>> {
    let count = u32::from_le_bytes(*frame.get(HEAD_BYTES - 4..)?.first_chunk()?);
    let count = usize::try_from(count).ok()?;
    let mut messages = Vec::with_capacity(count.min(frame.len() / 32));
    let mut at = HEAD_BYTES;
    for _ in 0..count {
        let flags = *frame.get(at)?;
        at += 1;
        let version = match flags {
            0 => None,
            RETAINED => {
                let entry = u64::from_le_bytes(*frame.get(at..)?.first_chunk()?);
                let offset = u32::from_le_bytes(*frame.get(at + 8..)?.first_chunk()?);
                at += 12;
                Some(Position { entry, offset })
            }
            _ => return None,
        };
        let (message, end) = body::read_message(frame, at)?;
        at = end;
        messages.push((Arc::new(detached(message)), version));
    }
    (at == frame.len()).then_some(messages)
}

/// A message that waits for a slow receiver must not keep a whole frame in memory, and its neighbours.
fn detached(mut message: Message) -> Message {
    message.topic = message.topic.detached();
    message.properties = Bytes::copy_from_slice(&message.properties);
    message.payload = Bytes::copy_from_slice(&message.payload);
    message
}

impl Answer {
    pub(super) fn write(self) -> Bytes {
        match self {
            Self::Taken => Bytes::from_static(&[VERSION, 0]),
            Self::Gone => Bytes::from_static(&[VERSION, 1]),
            Self::Wanted(number) => {
                let mut out = BytesMut::with_capacity(10);
                out.put_slice(&[VERSION, 2]);
                out.put_u64_le(number);
                out.freeze()
            }
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes {
            [VERSION, 0] => Ok(Self::Taken),
            [VERSION, 1] => Ok(Self::Gone),
            [VERSION, 2, number @ ..] => {
                let number = number.try_into().map_err(|_| Malformed)?;
                Ok(Self::Wanted(u64::from_le_bytes(number)))
            }
            _ => Err(Malformed),
        }
    }
}

/// Tells whether bytes are refused, or read the same after being written again; for `actors::doors`.
pub(in crate::actors) fn reads_again(bytes: &Bytes) -> bool {
    let answer =
        Answer::read(bytes).map_or(true, |answer| Answer::read(&answer.write()) == Ok(answer));
    let (Ok(head), Ok(messages)) = (read_head(bytes), read_messages(bytes)) else { return answer };
    let items: Vec<_> = messages.iter().map(|(message, at)| write_item(message, *at)).collect();
    let written = write_batch(head, items.iter());
    answer && read_head(&written) == Ok(head) && read_messages(&written) == Ok(messages)
}

const _: () = assert!(HEAD_BYTES + limits::RELAY_ITEM_BYTES_MAX <= limits::RELAY_FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{actors::testing, model::message::Qos};

    const HEAD: Head = Head { boot: 1, epoch: 2, number: 3, receiver: 4 };

    #[test]
    fn batch_reads_the_same_after_being_written() {
        let large = vec![7; 20_000];
        let version = Some(Position { entry: 9, offset: 8 });
        let sent = [
            (Arc::new(testing::message("a/b", "x", Qos::AtLeastOnce)), None),
            (Arc::new(testing::message("c", large, Qos::AtMostOnce)), version),
        ];
        let items: Vec<_> = sent.iter().map(|(message, at)| write_item(message, *at)).collect();
        let frame = write_batch(HEAD, items.iter());
        assert_eq!(read_head(&frame), Ok(HEAD));
        assert_eq!(read_messages(&frame).unwrap(), sent);
    }

    #[test]
    #[ignore = "writes seeds for the fuzzer to the folder that SEEDS names"]
    fn make_seeds() {
        let folder = std::path::PathBuf::from(std::env::var("SEEDS").unwrap());
        let version = Some(Position { entry: 9, offset: 8 });
        let items = [
            write_item(&testing::message("a/b", "x", Qos::AtLeastOnce), None),
            write_item(&testing::message("c", "retained", Qos::ExactlyOnce), version),
        ];
        let batch = write_batch(HEAD, items.iter());
        for (name, body) in [("relay_batch", batch), ("relay_wanted", Answer::Wanted(7).write())] {
            std::fs::write(folder.join(name), [&[2], &body[..]].concat()).unwrap();
        }
    }

    #[test]
    fn rubbish_is_refused_and_nothing_panics() {
        let item = write_item(&testing::message("a", "x", Qos::AtMostOnce), None);
        let whole = write_batch(HEAD, [&item].into_iter());
        for length in 0..whole.len() {
            let cut = whole.slice(..length);
            assert!(read_head(&cut).is_err() || read_messages(&cut).is_err(), "{length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(read_messages(&Bytes::from(longer)).is_err());
        let mut many = whole.to_vec();
        many[HEAD_BYTES - 4..HEAD_BYTES].fill(0xff);
        assert!(read_messages(&Bytes::from(many)).is_err());
        for answer in [Answer::Taken, Answer::Gone, Answer::Wanted(7)] {
            assert_eq!(Answer::read(&answer.write()), Ok(answer));
        }
        for bytes in [&b""[..], b"\x01", b"\x02\0", b"\x01\x02\0", b"\x01\0\0"] {
            assert!(Answer::read(bytes).is_err());
        }
    }
}
