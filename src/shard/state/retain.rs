//! Retained messages: one for each topic.
//!
//! - Takes: `Retain`. Gives: the version, which orders copies of one topic.
//! - ONCE: a message with an id (QoS 2, a will) that was stored here is not stored again when it is sent again, for
//!   its topic may have a newer one by then.
//! - Bound: messages and bytes per app, as the command says; a topic that has a message keeps its place. Ids
//!   are among those of `recent.rs`.
//! - Source: MQTT 5.0 section 3.3.1.3.

use bytes::Bytes;

use super::{Entry, State};
use crate::{
    model::{
        id::{AppId, MessageId, Position},
        message::Message,
    },
    shard::{
        body,
        command::{Reply, counted_bytes},
        key,
        record::Amount,
    },
};

/// Version of the stored value: entry u64, offset u32, message.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 13;

impl State {
    pub(super) fn retain(
        &mut self,
        entry: &mut Entry<'_>,
        message: &Message,
        limits: Amount,
    ) -> Reply {
        let version = entry.take_position();
        // Not its plain id: `Append` in this shard would take the message for a double of its copy.
        let id = message.id.map(MessageId::of_retained);
        if let Some(known) = id.and_then(|id| self.recent.get(id)) {
            return Reply::Retained { version: known.position, refused: false };
        }
        let is_set = self.set_retained(entry, message, version, limits);
        if let (true, Some(id)) = (is_set, id) {
            self.recent.add(id, version, 0);
        }
        Reply::Retained { version, refused: !is_set }
    }

    /// Sets or clears the retained message of a topic; `false`: there is no room for it.
    fn set_retained(
        &mut self,
        entry: &mut Entry<'_>,
        message: &Message,
        version: Position,
        limits: Amount,
    ) -> bool {
        let stored = key::retained(message.app, message.topic.as_bytes());
        let old = entry.store.get(&stored).and_then(|value| read_retained(&value));
        let usage = self.usage.entry(message.app).or_default();
        let mut used = usage.retained;
        if let Some((_, old)) = &old {
            used = used.minus(Amount { messages: 1, bytes: u64::from(counted_bytes(old)) });
        }
        if !message.payload.is_empty() {
            used.add(counted_bytes(message));
            if used.messages > limits.messages || used.bytes > limits.bytes {
                return false;
            }
        } else if old.is_none() {
            return true;
        }
        usage.retained = used;
        self.write_usage(entry, message.app);
        if let Some(at_ms) = old.and_then(|(_, old)| old.expires_at_ms) {
            entry.store.delete(&deadline(at_ms, message));
        }
        if message.payload.is_empty() {
            entry.store.delete(&stored);
            return true;
        }
        if let Some(at_ms) = message.expires_at_ms {
            entry.store.put(deadline(at_ms, message), Bytes::new());
        }
        entry.store.put(stored, write_retained(version, message));
        true
    }

    /// Removes a retained message whose deadline has come.
    pub(super) fn expire_retained(&mut self, entry: &mut Entry<'_>, stored: &[u8], at_ms: u64) {
        let Some((_, old)) = entry.store.get(stored).and_then(|value| read_retained(&value)) else {
            return;
        };
        if old.expires_at_ms != Some(at_ms) {
            return;
        }
        entry.store.delete(stored);
        let app: AppId = old.app;
        let usage = self.usage.entry(app).or_default();
        let one = Amount { messages: 1, bytes: u64::from(counted_bytes(&old)) };
        usage.retained = usage.retained.minus(one);
        self.write_usage(entry, app);
    }
}

fn deadline(at_ms: u64, message: &Message) -> Vec<u8> {
    key::retained_deadline(at_ms, message.app, message.topic.as_bytes())
}

fn write_retained(version: Position, message: &Message) -> Bytes {
    let mut out = Vec::with_capacity(HEAD_BYTES + body::message_bytes(message));
    out.push(VERSION);
    out.extend_from_slice(&version.entry.to_le_bytes());
    out.extend_from_slice(&version.offset.to_le_bytes());
    body::write_message(message, &mut out);
    Bytes::from(out)
}

/// Reads a stored value back.
pub(in crate::shard) fn read_retained(value: &Bytes) -> Option<(Position, Message)> {
    let (version, rest) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    let entry = u64::from_le_bytes(*rest.first_chunk()?);
    let offset = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?);
    let (message, _) = body::read_message(value, HEAD_BYTES)?;
    Some((Position { entry, offset }, message))
}
