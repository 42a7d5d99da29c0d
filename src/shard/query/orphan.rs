//! Reading what a member of a shared group left, chunk by chunk.
//!
//! - Takes: which orphan was looked at last. Gives: the next one's first chunk, with everything that its
//!   next owner must get.
//! - Bound: the limits of the call, and as many more items as are expired or done; a chunk that has an
//!   owner already is as long as when that was decided.

use std::sync::Arc;

use hongqiao_cluster::machine::Store;

use super::page::{Chunk, PageLimits};
use crate::{
    model::{
        id::{AppId, MessageId, Position, SessionKey},
        message::Message,
        topic::TopicFilter,
    },
    shard::{
        index::IndexReader,
        key,
        machine::ShardMachine,
        record::{OrphanRecord, Record as _},
        state::is_skipped,
    },
};

/// Items that are looked at for each message asked for.
const LOOKED_AT_PER_MESSAGE: usize = 16;

/// Which orphan of a shard: its log and first position.
pub type OrphanKey = (u64, Position);

/// The next part of an orphan that moves as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanChunk {
    /// Whose.
    pub key: OrphanKey,
    /// Tenant.
    pub app: AppId,
    /// Share name of the group.
    pub share: bytes::Bytes,
    /// Filter of the group.
    pub filter: TopicFilter,
    /// Who was to get it, as written down.
    pub owner: Option<SessionKey>,
    /// Oldest first; empty if all of it has expired.
    pub messages: Vec<(Position, Arc<Message>)>,
    /// First position of the chunk; with the key and the shard it makes its identity.
    pub from: Position,
    /// Last position of the chunk.
    pub to: Position,
    /// End of the orphan; a chunk with nothing behind it reaches to it.
    pub end: Position,
}

impl OrphanChunk {
    /// Returns the identity of the chunk: the same however often it is sent (ONCE).
    #[must_use]
    pub fn id(&self, shard: u16) -> MessageId {
        key::chunk_id(shard, self.key, self.from)
    }
}

/// Returns the first chunk of the first orphan after `after`.
#[must_use]
pub fn orphan_after(
    machine: &ShardMachine,
    store: &dyn Store,
    after: Option<OrphanKey>,
    limits: PageLimits,
    now_ms: u64,
) -> Option<OrphanChunk> {
    let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut range = machine.state.orphans.range((from, std::ops::Bound::Unbounded));
    let (&key, _) = range.next()?;
    let record = OrphanRecord::from_bytes(&store.get(&key::orphan(key.0, key.1))?)?;
    let (owner_to, owner) = record.owner.unzip();
    let mut reader = IndexReader::new(store, key.0, record.from, record.to);
    let mut chunk = Chunk::default();
    let (mut messages, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    let mut to = None;
    while let Some(item) = reader.peek() {
        let full = messages.len() >= limits.messages
            || bytes >= limits.bytes
            || looked_at >= limits.messages * LOOKED_AT_PER_MESSAGE;
        if owner_to.map_or(full, |owner_to| item.position > owner_to) {
            break;
        }
        looked_at += 1;
        reader.skip();
        to = Some(item.position);
        let is_done = record.done.binary_search(&item.position).is_ok()
            || is_skipped(Some(&record.skips), item.position)
            || item.is_expired(now_ms);
        if is_done {
            continue;
        }
        let message = chunk.message(store, &item);
        if let Some(message) = message.filter(|message| !message.is_expired(now_ms)) {
            bytes += usize::try_from(item.size).unwrap_or(usize::MAX);
            messages.push((item.position, Arc::new(message)));
        }
    }
    let is_last = reader.peek().is_none();
    let OrphanRecord { app, share, filter, from, to: end, .. } = record;
    let to = if is_last { end } else { owner_to.or(to).unwrap_or(end) };
    Some(OrphanChunk { key, app, share, filter, owner, messages, from, to, end })
}
