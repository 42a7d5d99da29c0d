//! Batches of commands and of replies as bytes.
//!
//! - Owns: the versioned encoding of what one Raft entry carries and of what comes back.
//! - Takes: commands of this version. Gives: bytes, and commands back from any version in a log.
//! - Bound: decoding never reserves more than the bytes at hand can hold.
//!
//! ```text
//! batch: version u8 | count u32 | commands …
//! command: 0 | length u32 | bincode            any
//!          1 | quota 25 | message              Append: its payload stays a slice of the batch
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::{
    body,
    command::{Command, Quota, Reply},
};

const VERSION: u8 = 1;
const ANY: u8 = 0;
const APPEND: u8 = 1;

/// Bytes of a batch that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeBatchError {
    /// Written by a newer version.
    #[error("batch has version {version}, newest known is {VERSION}")]
    Version {
        /// Its first byte.
        version: u8,
    },
    /// Damaged.
    #[error("batch is malformed")]
    Malformed,
}

/// Encodes commands for one Raft entry.
///
/// ```
/// # use hongqiao::shard::command::{Command, decode_batch, encode_batch};
/// let batch = [Command::CreateApp { name: "demo#demo".to_owned() }];
/// assert_eq!(decode_batch(&encode_batch(&batch)).as_deref(), Ok(&batch[..]));
/// ```
#[must_use]
pub fn encode_batch(commands: &[Command]) -> Bytes {
    let mut out = Vec::with_capacity(5 + commands.iter().map(size_hint).sum::<usize>());
    out.push(VERSION);
    out.extend_from_slice(&u32::try_from(commands.len()).unwrap_or(u32::MAX).to_le_bytes());
    for command in commands {
        if let Command::Append { message, quota } = command {
            out.push(APPEND);
            for limit in [quota.session_messages_max, quota.session_bytes_max, quota.app_bytes_max]
            {
                out.extend_from_slice(&limit.to_le_bytes());
            }
            out.push(u8::from(quota.drop_oldest));
            body::write_message(message, &mut out);
        } else {
            let start = out.len();
            out.extend_from_slice(&[ANY, 0, 0, 0, 0]);
            to_bincode(command, &mut out);
            let length = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
            out[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
        }
    }
    Bytes::from(out)
}

/// Decodes the commands of one Raft entry. Bodies of `Append` are slices of `bytes`.
///
/// # Errors
/// [`DecodeBatchError`]; nothing of such an entry can be applied.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<Command>, DecodeBatchError> {
    let version = *bytes.first().ok_or(DecodeBatchError::Malformed)?;
    if version != VERSION {
        return Err(DecodeBatchError::Version { version });
    }
    decode_commands(bytes).ok_or(DecodeBatchError::Malformed)
}

fn decode_commands(bytes: &Bytes) -> Option<Vec<Command>> {
    let count = usize::try_from(u32::from_le_bytes(*bytes.get(1..)?.first_chunk()?)).ok()?;
    let mut commands = Vec::with_capacity(count.min(bytes.len() / 5));
    let mut at = 5;
    for _ in 0..count {
        let kind = *bytes.get(at)?;
        at += 1;
        match kind {
            APPEND => {
                let quota = read_quota(bytes.get(at..)?.first_chunk()?)?;
                let (message, end) = body::read_message(bytes, at + 25)?;
                commands.push(Command::Append { message: Arc::new(message), quota });
                at = end;
            }
            ANY => {
                let length = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
                let end = at.checked_add(4)?.checked_add(usize::try_from(length).ok()?)?;
                commands.push(bincode::deserialize(bytes.get(at + 4..end)?).ok()?);
                at = end;
            }
            _ => return None,
        }
    }
    (at == bytes.len()).then_some(commands)
}

fn read_quota(bytes: &[u8; 25]) -> Option<Quota> {
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Quota {
        session_messages_max: number(0)?,
        session_bytes_max: number(8)?,
        app_bytes_max: number(16)?,
        drop_oldest: bytes[24] != 0,
    })
}

/// Encodes the replies to a batch.
#[must_use]
pub fn encode_replies(replies: &[Reply]) -> Bytes {
    let mut out = Vec::with_capacity(16 + replies.len() * 32);
    out.push(VERSION);
    to_bincode(replies, &mut out);
    Bytes::from(out)
}

/// Decodes the replies to a batch, in the order of its commands. None at all: the batch was not
/// understood.
///
/// # Errors
/// [`DecodeBatchError`].
pub fn decode_replies(bytes: &Bytes) -> Result<Vec<Reply>, DecodeBatchError> {
    let (version, rest) = bytes.split_first().ok_or(DecodeBatchError::Malformed)?;
    if *version != VERSION {
        return Err(DecodeBatchError::Version { version: *version });
    }
    bincode::deserialize(rest).map_err(|_| DecodeBatchError::Malformed)
}

fn size_hint(command: &Command) -> usize {
    match command {
        Command::Append { message, .. } => 26 + body::message_bytes(message),
        _ => 128,
    }
}

fn to_bincode<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    #[expect(clippy::expect_used, reason = "a Vec takes every write, and all lengths are known")]
    bincode::serialize_into(out, value).expect("commands and replies can be encoded");
}
