//! The ids of messages that were appended before (ONCE).
//!
//! - Owns: for each slot of ids the newest, and what was replied. A slot is one exchange of QoS 2 of one
//!   publisher (once more of each shared group and for its retained copy), one will (and its copy), one
//!   orphan, the retained messages of one topic: a new id in it says that nobody sends the one before again. So an id lives as long as its packet id is open in its publisher's session, however much is appended meanwhile.
//! - Bound: `DEDUP_IDS_MAX` slots, about 150 bytes each. With more the oldest are forgotten, and a message
//!   that is sent again after that is a new one. An id that matched no log is not kept: nobody has it.
//! - In the store: chunks of `CHUNK_IDS`; new ids go into the last one. Chunks from the front on are
//!   rewritten to the back when half of all stored ids are out of date.

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
/// Chunks that may be there whatever they hold.
const CHUNKS_MIN: usize = 8;
/// Chunks that are looked at when a new one begins.
const CLEAN_CHUNKS: usize = 4;

#[derive(Default)]
pub(super) struct Recent {
    /// By slot.
    live: BTreeMap<u64, RecentItem>,
    /// Chunks with their number, oldest first, as they are stored; the last one takes more.
    chunks: VecDeque<(u64, Vec<RecentItem>)>,
    /// Numbers of the chunks that changed since they were written.
    dirty: Vec<u64>,
    /// Numbers of the chunks that are gone.
    gone: Vec<u64>,
}

impl Recent {
    pub(super) fn get(&self, id: MessageId) -> Option<RecentItem> {
        self.live.get(&id.slot()).filter(|item| item.id == id).copied()
    }

    /// Returns where the newest message of a slot stands.
    pub(super) fn newest(&self, slot: u64) -> Option<Position> {
        self.live.get(&slot).map(|item| item.position)
    }

    pub(super) fn add(&mut self, id: MessageId, position: Position, sessions: u32) {
        let item = RecentItem { id, position, sessions, dropped: 0 };
        self.live.insert(id.slot(), item);
        if self.push(item) {
            self.clean();
        }
    }

    /// Puts an id at the end; `true` if a chunk begins with it.
    fn push(&mut self, item: RecentItem) -> bool {
        let full = self.chunks.back().is_none_or(|(_, ids)| ids.len() >= CHUNK_IDS);
        if full {
            let number = self.chunks.back().map_or(0, |(number, _)| number + 1);
            self.chunks.push_back((number, Vec::new()));
        }
        if let Some((number, ids)) = self.chunks.back_mut() {
            ids.push(item);
            if self.dirty.last() != Some(number) {
                self.dirty.push(*number);
            }
        }
        full
    }

    /// Takes chunks from the front while there are too many: what lives in them goes to the back, or is
    /// forgotten if too much lives.
    fn clean(&mut self) {
        for _ in 0..CLEAN_CHUNKS {
            let over = self.live.len() > DEDUP_IDS_MAX;
            let chunks_max = CHUNKS_MIN + 2 * self.live.len() / CHUNK_IDS;
            if !over && self.chunks.len() <= chunks_max {
                return;
            }
            let Some((number, ids)) = self.chunks.pop_front() else { return };
            self.gone.push(number);
            for item in ids {
                if self.get(item.id).is_none() {
                    continue;
                }
                if over {
                    self.live.remove(&item.id.slot());
                } else {
                    self.push(item);
                }
            }
        }
    }

    /// Counts a session that did not get the message; only of this entry.
    pub(super) fn add_dropped(&mut self, id: MessageId) {
        if let Some(item) = self.live.get_mut(&id.slot()).filter(|item| item.id == id) {
            item.dropped += 1;
        }
    }

    /// Writes what changed.
    pub(super) fn write(&mut self, entry: &mut Entry<'_>) {
        for number in self.dirty.drain(..) {
            let found = self.chunks.binary_search_by_key(&number, |(number, _)| *number);
            let Some((_, ids)) = found.ok().and_then(|at| self.chunks.get_mut(at)) else {
                continue;
            };
            for item in ids.iter_mut() {
                let live = self.live.get(&item.id.slot());
                *item = live.filter(|live| live.id == item.id).copied().unwrap_or(*item);
            }
            entry.store.put(key::recent(number), RecentRecord(ids.clone()).to_bytes());
        }
        for number in self.gone.drain(..) {
            entry.store.delete(&key::recent(number));
        }
    }

    pub(super) fn load(store: &dyn Store) -> Self {
        let mut recent = Self::default();
        let (from, to) = key::all(b'm');
        super::load::scan_all(store, (from, to), |key, value| {
            let Some(RecentRecord(items)) = RecentRecord::from_bytes(value) else { return };
            // Of a slot the last id is the newest: ids are only ever added at the back.
            recent.live.extend(items.iter().map(|item| (item.id.slot(), *item)));
            recent.chunks.push_back((key::number_of(key), items));
        });
        recent
    }
}
