//! The flush: what an entry appended goes into the logs, and whoever is concerned is told.
//!
//! - Takes: `Pending`. Gives: chunks, counts, `LogGrew`; sessions that are now too full go to `quota`.
//! - Cost: once per entry for each log and each session that reads it, not per message.

use bytes::Bytes;

use super::{Entry, State, append::NewItem};
use crate::{
    model::id::SessionKey,
    shard::{
        command::{Fact, Holder, Reply},
        index::{self, CHUNK_ITEMS},
        key,
        record::{EntryRecord, Record as _},
    },
};

/// Items for which a growing index chunk makes room at once.
const ROOM_ITEMS: usize = 32;

impl State {
    /// Moves everything pending into the logs. Called before a command that changes who reads what.
    pub(super) fn flush(&mut self, entry: &mut Entry<'_>) {
        entry.flushed = entry.offset;
        if self.pending.is_empty() {
            return;
        }
        self.flushes += 1;
        self.pending.close_all(entry);
        let closed = std::mem::take(&mut self.pending.closed);
        let (record, chunks) = (key::entry(entry.index), closed);
        if entry.is_recorded {
            let mut all: EntryRecord = super::read(&*entry.store, &record).unwrap_or_default();
            all.0.extend(chunks);
            entry.store.put(record, all.to_bytes());
        } else {
            entry.is_recorded = true;
            entry.store.put_new(record, EntryRecord(chunks).to_bytes());
        }

        let mut items = std::mem::take(&mut self.pending.items);
        items.sort_unstable_by_key(|new| (new.log_number, new.item.position));
        let mut from = 0;
        let mut touched = Vec::new();
        while let Some(first) = items.get(from) {
            let count = items[from..].partition_point(|new| new.log_number == first.log_number);
            self.extend_log(entry, first.log, &items[from..from + count]);
            self.logs[first.log].fresh = (self.flushes, from, from + count);
            touched.push(first.log);
            from += count;
        }
        self.settle(entry, &touched, &items);
        for at in 0..self.pending.quotas.len() {
            self.write_usage(entry, self.pending.quotas[at].0);
        }
        self.recent.write(entry);
        items.clear();
        self.pending.items = items;
        self.pending.quotas.clear();
        self.pending.ids.clear();
        self.pending.now_ms = 0;
    }

    /// Appends items to the index of a log.
    fn extend_log(&mut self, entry: &mut Entry<'_>, log: usize, mut new: &[NewItem]) {
        let log = &mut self.logs[log];
        let state = &mut log.state;
        while let Some(first) = new.first() {
            let tail = match state.tail_items {
                0 | CHUNK_ITEMS.. => None,
                _ => entry.store.get(&key::index(log.number, state.tail)),
            };
            let is_new = tail.is_none();
            let mut chunk = match tail {
                Some(chunk) => index::reopen_chunk(&chunk, new.len().min(ROOM_ITEMS)),
                None => {
                    state.tail = first.item.position;
                    state.tail_items = 0;
                    index::begin_chunk(state.total, new.len().min(ROOM_ITEMS))
                }
            };
            let room = usize::try_from(CHUNK_ITEMS - state.tail_items).unwrap_or(0);
            let (now, later) = new.split_at(room.min(new.len()));
            for new in now {
                index::push_item(&mut chunk, &new.item);
                state.total.add(new.item.size);
                state.last = new.item.position;
                state.tail_items += 1;
            }
            let (key, chunk) = (key::index(log.number, state.tail), Bytes::from(chunk));
            if is_new {
                entry.store.put_new(key, chunk);
            } else {
                entry.store.put(key, chunk);
            }
            new = later;
        }
        entry.store.put(key::log_state(log.number), state.to_bytes());
    }

    /// Looks once at every session that reads a touched log: is it full, has it a connection to tell?
    fn settle(&mut self, entry: &mut Entry<'_>, touched: &[usize], items: &[NewItem]) {
        let mut grown: Vec<(SessionKey, Holder)> = Vec::new();
        let mut full: Vec<(usize, usize)> = Vec::new();
        for &log in touched {
            let Some(quota) = self.quota_of(self.logs[log].app) else { continue };
            for member in 0..self.logs[log].members.len() {
                let at = self.logs[log].members[member].session;
                let session = &mut self.sessions[at];
                if std::mem::replace(&mut session.stamp, self.flushes) == self.flushes {
                    continue;
                }
                if let Some(holder) = session.holder {
                    grown.push((session.key, holder));
                }
                if self.is_over(at, quota) {
                    full.push((at, log));
                }
            }
        }
        for (at, log) in full {
            self.overflow(entry, at, log, items);
        }
        if !grown.is_empty() {
            (entry.tell)(Fact::LogGrew { sessions: grown });
        }
    }

    /// Tells the appends that filled a session up about it: the last `count` of a log's new items.
    pub(super) fn blame(
        &mut self,
        entry: &mut Entry<'_>,
        log: usize,
        items: &[NewItem],
        count: u64,
    ) {
        let (_, from, to) = self.logs[log].fresh;
        let fresh = items.get(from..to).unwrap_or_default();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(fresh.len());
        for new in &fresh[fresh.len() - count..] {
            if let Some(Reply::Appended { dropped, .. }) = entry.replies.get_mut(new.reply) {
                *dropped += 1;
            }
            if let Some((_, id)) = self.pending.ids.iter().find(|(reply, _)| *reply == new.reply) {
                self.recent.add_dropped(*id);
            }
        }
    }
}
