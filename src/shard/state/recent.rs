//! The window of message ids that were appended before (ONCE).
//!
//! - Owns: the newest `DEDUP_IDS_MAX` ids of messages that were stored, and what was replied.
//! - Bound: that many, about 100 bytes each; in the store in chunks of `CHUNK_IDS`, the oldest chunk goes
//!   when a new one begins. A message whose id has left the window is a new one.

use std::collections::{BTreeMap, VecDeque};

use hongqiao_cluster::machine::Store;

use super::Entry;
use crate::{
    limits::DEDUP_IDS_MAX,
    model::id::{MessageId, Position},
    shard::{
        key,
        record::{RecentItem, RecentRecord, Record as _},
    },
};

/// Ids in a chunk; it stays under 4 KiB.
const CHUNK_IDS: usize = 64;

#[derive(Default)]
pub(super) struct Recent {
    by_id: BTreeMap<MessageId, RecentItem>,
    /// Chunks with their number, oldest first; the last one takes more.
    chunks: VecDeque<(u64, Vec<MessageId>)>,
    /// Numbers of the chunks that changed since they were written.
    dirty: Vec<u64>,
    /// Numbers of the chunks that left the window.
    gone: Vec<u64>,
}

impl Recent {
    pub(super) fn get(&self, id: MessageId) -> Option<RecentItem> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn add(&mut self, id: MessageId, position: Position, sessions: u32) {
        self.by_id.insert(id, RecentItem { id, position, sessions, dropped: 0 });
        let full = self.chunks.back().is_none_or(|(_, ids)| ids.len() >= CHUNK_IDS);
        if full {
            let number = self.chunks.back().map_or(0, |(number, _)| number + 1);
            self.chunks.push_back((number, Vec::new()));
        }
        if let Some((number, ids)) = self.chunks.back_mut() {
            ids.push(id);
            if self.dirty.last() != Some(number) {
                self.dirty.push(*number);
            }
        }
        while self.chunks.len() > DEDUP_IDS_MAX / CHUNK_IDS {
            let Some((number, ids)) = self.chunks.pop_front() else { break };
            for id in ids {
                self.by_id.remove(&id);
            }
            self.gone.push(number);
        }
    }

    /// Counts a session that did not get the message; only of this entry.
    pub(super) fn add_dropped(&mut self, id: MessageId) {
        if let Some(item) = self.by_id.get_mut(&id) {
            item.dropped += 1;
        }
    }

    /// Writes what changed.
    pub(super) fn write(&mut self, entry: &mut Entry<'_>) {
        for number in self.dirty.drain(..) {
            let found = self.chunks.binary_search_by_key(&number, |(number, _)| *number);
            let Some((_, ids)) = found.ok().and_then(|at| self.chunks.get(at)) else { continue };
            let items = ids.iter().filter_map(|id| self.by_id.get(id).copied()).collect();
            entry.store.put(key::recent(number), RecentRecord(items).to_bytes());
        }
        for number in self.gone.drain(..) {
            entry.store.delete(&key::recent(number));
        }
    }

    pub(super) fn load(store: &dyn Store) -> Self {
        let mut recent = Self::default();
        let (from, to) = key::all(b'm');
        for (key, value) in store.scan(&from, &to, DEDUP_IDS_MAX) {
            let Some(RecentRecord(items)) = RecentRecord::from_bytes(&value) else { continue };
            let ids = items.iter().map(|item| item.id).collect();
            recent.chunks.push_back((key::number_of(&key), ids));
            recent.by_id.extend(items.into_iter().map(|item| (item.id, item)));
        }
        recent
    }
}
