//! Key layout of a shard's state.
//!
//! - Owns: the bytes of every key. Gives: keys, ranges of keys, and their parts back.
//! - Bound: 64 KiB for a key that ends in a topic, 40 bytes for all others.
//! - Order: numbers are big endian, so that byte order is number order.
//!
//! What belongs to a session begins with its bucket and key, so that a later split of a shard moves
//! ranges and rewrites nothing. What belongs to the whole shard, or must be read in an order of its
//! own, begins with 0xFFFF.
//!
//! | key | value |
//! |---|---|
//! | bucket, session, 01 | `SessionRecord` |
//! | bucket, session, 02 | `ProgressRecord`: cursor, acknowledged beyond it, skipped ranges |
//! | bucket, session, 03, hash of (share, filter) | `SubscriptionRecord` |
//! | bucket, session, 04, log, start | `DrainRecord`: a subscription that takes nothing new |
//! | bucket, session, 05, packet id | `OutRecord`: QoS 2 out |
//! | bucket, session, 06 | `InflightRecord`: QoS 1 out, written at release |
//! | bucket, session, 07, packet id | `InRecord`: QoS 2 in |
//! | bucket, session, 08, epoch | `WillRecord`; outlives its session |
//! | bucket, session, 09 | `EndedRecord`: of a session that ended a moment ago |
//! | FFFF, `A`, name | app by name |
//! | FFFF, `I`, app | name of an app |
//! | FFFF, `U`, app, name | `UserRecord` |
//! | FFFF, `a`, app | `UsageRecord`: bytes and counts of an app |
//! | FFFF, `b`, entry, first offset | chunk of message bodies |
//! | FFFF, `e`, entry | `EntryRecord`: the chunks of an entry and who still needs them |
//! | FFFF, `f`, log | `LogRecord`: what a log is of |
//! | FFFF, `g`, log | `LogStateRecord`: how much it holds |
//! | FFFF, `i`, log, first position | chunk of a log's index |
//! | FFFF, `t`, log | the log has something to trim |
//! | FFFF, `o`, log, first position | `OrphanRecord`: shares that a member left |
//! | FFFF, `d`, milliseconds, kind, what | deadline |
//! | FFFF, `m`, number | chunk of recent message ids |
//! | FFFF, `M`, number | `AssignedRecord`: who gets the share of a QoS 2 message |
//! | FFFF, `r`, app, topic | retained message |
//! | FFFF, `N` | `NumbersRecord`: next free numbers |
//! | FFFF, `L` | `LedRecord`: term of the last leader that claims came from |

use std::hash::Hasher as _;

use bytes::Bytes;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::model::{
    id::{AppId, Epoch, MessageId, Position, SessionKey},
    topic::{TopicFilter, TopicName},
};

pub(super) const SESSION: u8 = 1;
pub(super) const PROGRESS: u8 = 2;
pub(super) const SUBSCRIPTION: u8 = 3;
pub(super) const DRAIN: u8 = 4;
pub(super) const OUT: u8 = 5;
pub(super) const INFLIGHT: u8 = 6;
pub(super) const INCOMING: u8 = 7;
pub(super) const WILL: u8 = 8;
/// Behind all that a session has: it is there when the session is not.
pub(super) const ENDED: u8 = 9;

/// Length of bucket and session in front of a session's tag.
const OWNER_BYTES: usize = 18;

/// What happens at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The session ends.
    Session(SessionKey),
    /// The will is to be published.
    Will(SessionKey, Epoch),
    /// All messages of a body chunk have expired.
    Chunk { entry: u64, first: u32 },
    /// A retained message has expired; the rest of the key is its app and topic.
    Retained,
    /// It need not be known any more that there was a session.
    Ended(SessionKey),
}

fn shard_wide(tag: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + rest.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&[0xff, 0xff, tag]);
    for part in rest {
        key.extend_from_slice(part);
    }
    key
}

/// Returns a key of a session.
pub(super) fn of_session(session: SessionKey, tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(OWNER_BYTES + 1 + rest.len());
    key.extend_from_slice(&session.bucket().0.to_be_bytes());
    key.extend_from_slice(&session.0.to_be_bytes());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

/// Splits a session's key into session, tag and rest.
pub(super) fn session_parts(key: &[u8]) -> Option<(SessionKey, u8, &[u8])> {
    let (_, rest) = key.split_first_chunk::<2>()?;
    let (session, rest) = rest.split_first_chunk::<16>()?;
    let (tag, rest) = rest.split_first()?;
    Some((SessionKey(u128::from_be_bytes(*session)), *tag, rest))
}

pub(super) fn subscription(
    session: SessionKey,
    share: Option<&Bytes>,
    filter: &TopicFilter,
) -> Vec<u8> {
    let hash = subscription_hash(share, filter);
    of_session(session, SUBSCRIPTION, &hash.to_be_bytes())
}

/// Names a subscription of one session.
pub(super) fn subscription_hash(share: Option<&Bytes>, filter: &TopicFilter) -> u128 {
    // Not keyed: who makes two of his own filters collide harms only himself.
    let mut hasher = SipHasher24::new();
    hasher.write_u8(u8::from(share.is_some()));
    if let Some(share) = share {
        hasher.write_usize(share.len());
        hasher.write(share);
    }
    hasher.write(filter.as_bytes());
    hasher.finish128().as_u128()
}

pub(super) fn drain(session: SessionKey, log: u64, start: Position) -> Vec<u8> {
    let mut rest = [0; 20];
    rest[..8].copy_from_slice(&log.to_be_bytes());
    rest[8..].copy_from_slice(&position_bytes(start));
    of_session(session, DRAIN, &rest)
}

pub(super) fn packet(session: SessionKey, tag: u8, packet_id: u16) -> Vec<u8> {
    of_session(session, tag, &packet_id.to_be_bytes())
}

pub(super) fn will(session: SessionKey, epoch: Epoch) -> Vec<u8> {
    of_session(session, WILL, &epoch.0.to_be_bytes())
}

/// Returns the identity of a will: the same whoever publishes it, however often; in a slot of its own.
pub(super) fn will_id(session: SessionKey, epoch: Epoch) -> MessageId {
    let mut hasher = SipHasher24::new();
    hasher.write(b"will");
    hasher.write_u128(session.0);
    hasher.write_u64(epoch.0);
    MessageId(hasher.finish128().as_u128())
}

/// Returns the slot of the retained messages of a topic.
pub(super) fn topic_slot(app: AppId, topic: &TopicName) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(b"topic");
    hasher.write_u32(app.0);
    hasher.write(topic.as_bytes());
    hasher.finish128().h1
}

/// Returns the identity of a part of an orphan that begins at `from`.
pub(super) fn chunk_id(shard: u16, (log, start): (u64, Position), from: Position) -> MessageId {
    let mut hasher = SipHasher24::new();
    hasher.write(b"orphan");
    hasher.write_u16(shard);
    hasher.write_u64(log);
    hasher.write(&position_bytes(start));
    let slot = hasher.finish128().h1;
    hasher.write(&position_bytes(from));
    // A chunk is moved before the next one is sent.
    MessageId::in_slot(slot, hasher.finish128().h2)
}

/// Every key of every session.
pub(super) fn all_sessions() -> (Vec<u8>, Vec<u8>) {
    (Vec::new(), vec![0xff, 0xff])
}

pub(super) fn app_by_name(name: &str) -> Vec<u8> {
    shard_wide(b'A', &[name.as_bytes()])
}

pub(super) fn app(app: AppId) -> Vec<u8> {
    shard_wide(b'I', &[&app.0.to_be_bytes()])
}

pub(super) fn user(app: AppId, name: &str) -> Vec<u8> {
    shard_wide(b'U', &[&app.0.to_be_bytes(), name.as_bytes()])
}

pub(super) fn usage(app: AppId) -> Vec<u8> {
    shard_wide(b'a', &[&app.0.to_be_bytes()])
}

pub(super) fn body(entry: u64, first: u32) -> Vec<u8> {
    shard_wide(b'b', &[&entry.to_be_bytes(), &first.to_be_bytes()])
}

pub(super) fn entry(entry: u64) -> Vec<u8> {
    shard_wide(b'e', &[&entry.to_be_bytes()])
}

pub(super) fn assigned(number: u64) -> Vec<u8> {
    shard_wide(b'M', &[&number.to_be_bytes()])
}

pub(super) fn log(log: u64) -> Vec<u8> {
    shard_wide(b'f', &[&log.to_be_bytes()])
}

pub(super) fn log_state(log: u64) -> Vec<u8> {
    shard_wide(b'g', &[&log.to_be_bytes()])
}

pub(super) fn index(log: u64, first: Position) -> Vec<u8> {
    shard_wide(b'i', &[&log.to_be_bytes(), &position_bytes(first)])
}

/// Returns the end of a log's index.
pub(super) fn index_end(log: u64) -> Vec<u8> {
    shard_wide(b'i', &[&log.to_be_bytes(), &[0xff; 13]])
}

pub(super) fn trim(log: u64) -> Vec<u8> {
    shard_wide(b't', &[&log.to_be_bytes()])
}

pub(super) fn orphan(log: u64, start: Position) -> Vec<u8> {
    shard_wide(b'o', &[&log.to_be_bytes(), &position_bytes(start)])
}

/// Splits an orphan's key into log and first position.
pub(super) fn orphan_parts(key: &[u8]) -> Option<(u64, Position)> {
    let (log, rest) = key.get(3..)?.split_first_chunk::<8>()?;
    let (entry, rest) = rest.split_first_chunk::<8>()?;
    let offset = u32::from_be_bytes(*rest.first_chunk()?);
    Some((u64::from_be_bytes(*log), Position { entry: u64::from_be_bytes(*entry), offset }))
}

pub(super) fn recent(number: u64) -> Vec<u8> {
    shard_wide(b'm', &[&number.to_be_bytes()])
}

pub(super) fn retained(app: AppId, topic: &[u8]) -> Vec<u8> {
    shard_wide(b'r', &[&app.0.to_be_bytes(), topic])
}

/// Returns the topic bytes of a retained message's key.
pub(super) fn retained_topic(key: &Bytes) -> Bytes {
    key.slice(key.len().min(7)..)
}

pub(super) fn numbers() -> Vec<u8> {
    shard_wide(b'N', &[])
}

pub(super) fn led() -> Vec<u8> {
    shard_wide(b'L', &[])
}

pub(super) fn deadline(at_ms: u64, due: Due) -> Vec<u8> {
    let at = at_ms.to_be_bytes();
    match due {
        Due::Session(key) => shard_wide(b'd', &[&at, &[1], &key.0.to_be_bytes()]),
        Due::Will(key, epoch) => {
            shard_wide(b'd', &[&at, &[2], &key.0.to_be_bytes(), &epoch.0.to_be_bytes()])
        }
        Due::Chunk { entry, first } => {
            shard_wide(b'd', &[&at, &[3], &entry.to_be_bytes(), &first.to_be_bytes()])
        }
        Due::Retained => shard_wide(b'd', &[&at, &[4]]),
        Due::Ended(key) => shard_wide(b'd', &[&at, &[5], &key.0.to_be_bytes()]),
    }
}

pub(super) fn retained_deadline(at_ms: u64, app: AppId, topic: &[u8]) -> Vec<u8> {
    shard_wide(b'd', &[&at_ms.to_be_bytes(), &[4], &app.0.to_be_bytes(), topic])
}

/// Splits a deadline's key; of a retained message the key that it had is given, too.
pub(super) fn deadline_parts(key: &[u8]) -> Option<(u64, Due, Vec<u8>)> {
    let (at, rest) = key.get(3..)?.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let due = match kind {
        1 => Due::Session(SessionKey(u128::from_be_bytes(rest.try_into().ok()?))),
        2 => {
            let (key, epoch) = rest.split_first_chunk::<16>()?;
            let epoch = Epoch(u64::from_be_bytes(epoch.try_into().ok()?));
            Due::Will(SessionKey(u128::from_be_bytes(*key)), epoch)
        }
        3 => {
            let (entry, first) = rest.split_first_chunk::<8>()?;
            let first = u32::from_be_bytes(first.try_into().ok()?);
            Due::Chunk { entry: u64::from_be_bytes(*entry), first }
        }
        4 => return Some((u64::from_be_bytes(*at), Due::Retained, shard_wide(b'r', &[rest]))),
        5 => Due::Ended(SessionKey(u128::from_be_bytes(rest.try_into().ok()?))),
        _ => return None,
    };
    Some((u64::from_be_bytes(*at), due, Vec::new()))
}

/// Returns every deadline up to and including `now_ms`.
pub(super) fn deadlines_until(now_ms: u64) -> (Vec<u8>, Vec<u8>) {
    (shard_wide(b'd', &[]), shard_wide(b'd', &[&now_ms.saturating_add(1).to_be_bytes()]))
}

/// Returns the range of every shard-wide key with this tag.
pub(super) fn all(tag: u8) -> (Vec<u8>, Vec<u8>) {
    (shard_wide(tag, &[]), shard_wide(tag + 1, &[]))
}

/// Returns the number at the end of a key.
pub(super) fn number_of(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Returns the smallest key after `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

fn position_bytes(position: Position) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&position.entry.to_be_bytes());
    bytes[8..].copy_from_slice(&position.offset.to_be_bytes());
    bytes
}
