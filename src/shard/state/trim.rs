//! Trimming: what every reader of a log has acknowledged goes away, and bodies that no log needs.
//!
//! - Takes: cursors. Gives: deleted chunks, smaller counts.
//! - Bound: after an acknowledgement at most `TRIM_INLINE_ITEMS` items, and only in logs with at most
//!   `WIDE_LOG_MEMBERS` readers; the rest is marked in the store and done by `Tick`.

use super::{Entry, State};
use crate::{
    limits::{TRIM_INLINE_ITEMS, WIDE_LOG_MEMBERS},
    model::id::{AppId, Position},
    shard::{
        command::Fact,
        index,
        key::{self, Due},
        record::{Amount, EntryRecord, Record as _},
    },
};

/// Index chunks that are read at once.
const TRIM_CHUNKS: usize = 4;

impl State {
    /// Trims a log after one of its readers moved (from `base`) or left.
    pub(super) fn trim_after(&mut self, entry: &mut Entry<'_>, log: usize, base: Option<Amount>) {
        let Some(state) = self.logs.get(log) else { return };
        if state.members.len() <= WIDE_LOG_MEMBERS {
            let mut budget = TRIM_INLINE_ITEMS;
            if self.trim(entry, log, &mut budget) {
                self.mark_trim(entry, log);
            }
        } else if base.is_none_or(|base| base.messages <= state.state.trimmed.messages) {
            // The slowest reader moved; only then can there be something to trim.
            self.mark_trim(entry, log);
        }
    }

    fn mark_trim(&mut self, entry: &mut Entry<'_>, log: usize) {
        let state = &mut self.logs[log];
        if !std::mem::replace(&mut state.trim_due, true) {
            self.trims.insert(state.number, log);
            entry.store.put(key::trim(state.number), bytes::Bytes::new());
        }
    }

    /// Trims at most `budget` items; `true` if more can go. A log that is empty and read by nobody is
    /// removed.
    pub(super) fn trim(&mut self, entry: &mut Entry<'_>, log: usize, budget: &mut u32) -> bool {
        let state = &self.logs[log];
        let orphan = if state.is_shares { self.orphan_need(state.number) } else { None };
        let need = state.members.iter().map(|member| member.need).chain(orphan).min();
        let more = self.trim_before(entry, log, need.unwrap_or(super::OPEN), budget);
        let state = &mut self.logs[log];
        if more {
            return true;
        }
        if std::mem::take(&mut state.trim_due) {
            self.trims.remove(&state.number);
            entry.store.delete(&key::trim(state.number));
        }
        let unread = state.members.is_empty() && orphan.is_none();
        if unread && state.state.trimmed == state.state.total {
            self.remove_log(entry, log);
        }
        false
    }

    fn trim_before(
        &mut self,
        entry: &mut Entry<'_>,
        log: usize,
        need: Position,
        budget: &mut u32,
    ) -> bool {
        let log = &mut self.logs[log];
        let state = &mut log.state;
        let mut bodies = Bodies::default();
        let trimmed = state.trimmed;
        let mut more = true;
        while more && state.trimmed.messages < state.total.messages && *budget > 0 {
            let (from, to) = (key::index(log.number, Position::START), key::index_end(log.number));
            let chunks = entry.store.scan(&from, &to, TRIM_CHUNKS);
            more = !chunks.is_empty();
            for (key, chunk) in chunks {
                let first = index::items(&chunk).next().map(|item| item.position);
                for item in index::items(&chunk) {
                    if item.position < state.trimmed_to {
                        continue;
                    }
                    more = item.position < need;
                    if !more || *budget == 0 {
                        break;
                    }
                    *budget -= 1;
                    bodies.release(entry, item.position.entry, item.chunk);
                    state.trimmed.add(item.size);
                    state.trimmed_to = item.position.next();
                }
                if !more || *budget == 0 {
                    break;
                }
                entry.store.delete(&key);
                if first == Some(state.tail) {
                    state.tail_items = 0;
                }
            }
        }
        bodies.finish(entry);
        if state.trimmed == trimmed {
            return false;
        }
        entry.store.put(key::log_state(log.number), state.to_bytes());
        let more = more && state.trimmed.messages < state.total.messages;
        let app = log.app;
        self.free(entry, app, bodies.bytes);
        more
    }

    /// Counts bytes of an app as free.
    pub(super) fn free(&mut self, entry: &mut Entry<'_>, app: AppId, bytes: u64) {
        if bytes > 0 {
            let usage = self.usage.entry(app).or_default();
            usage.log_bytes = usage.log_bytes.saturating_sub(bytes);
            self.write_usage(entry, app);
        }
    }

    pub(super) fn write_usage(&self, entry: &mut Entry<'_>, app: AppId) {
        let usage = self.usage.get(&app).copied().unwrap_or_default();
        entry.store.put(key::usage(app), usage.to_bytes());
        (entry.tell)(Fact::Usage { app, used: usage.told() });
    }
}

/// Counts down who needs bodies, one entry after the other.
#[derive(Default)]
struct Bodies {
    entry: u64,
    record: EntryRecord,
    /// The chunk that was looked at last.
    at: usize,
    /// Bytes that were freed.
    bytes: u64,
}

impl Bodies {
    fn release(&mut self, entry: &mut Entry<'_>, of: u64, first: u32) {
        if of != self.entry {
            self.finish(entry);
            self.entry = of;
            self.record = super::read(&*entry.store, &key::entry(of)).unwrap_or_default();
            self.at = 0;
        }
        let chunks = &mut self.record.0;
        if chunks.get(self.at).is_none_or(|chunk| chunk.first != first) {
            let Some(at) = chunks.iter().position(|chunk| chunk.first == first) else { return };
            self.at = at;
        }
        let chunk = &mut chunks[self.at];
        chunk.references = chunk.references.saturating_sub(1);
        if chunk.references > 0 {
            return;
        }
        self.bytes += chunk.bytes;
        if chunk.expires_at_ms != 0 {
            let due = Due::Chunk { entry: of, first };
            entry.store.delete(&key::deadline(chunk.expires_at_ms, due));
        }
        // In their order, whatever the order in which logs are trimmed: that may be another one on each replica.
        chunks.remove(self.at);
        entry.store.delete(&key::body(of, first));
    }

    fn finish(&mut self, entry: &mut Entry<'_>) {
        if self.entry == 0 {
            return;
        }
        if self.record.0.is_empty() {
            entry.store.delete(&key::entry(self.entry));
        } else {
            entry.store.put(key::entry(self.entry), self.record.to_bytes());
        }
        self.entry = 0;
    }
}
