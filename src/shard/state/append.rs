//! Appending: match, store the body once, one index item for each matching filter.
//!
//! - Owns: what an entry has appended and not yet flushed into logs.
//! - Takes: `Append`, `Enqueue`. Gives: the reply; how many were dropped is filled in by the flush.
//! - Bound: the entry's own size; chunks of bodies leave for the store as soon as they are full.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Entry, State};
use crate::{
    model::{
        id::{AppId, MessageId, Position, SessionKey},
        message::{Message, Qos},
        topic::TopicFilter,
        trie::FoundFilters,
    },
    shard::{
        body::ChunkWriter,
        command::{Quota, Reply, counted_bytes},
        index::Item,
        key::{self, Due},
        record::{ChunkInfo, SubscriptionRecord},
    },
};

/// Up to this many subscriptions, sessions that match by several filters are counted once.
const COUNT_EXACT_MAX: u32 = 256;

/// An index item that waits for the flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewItem {
    /// The log's number in the store: the order in which logs are written.
    pub(super) log_number: u64,
    pub(super) log: usize,
    pub(super) item: Item,
    /// Which reply of the entry tells about it.
    pub(super) reply: usize,
}

#[derive(Debug)]
struct OpenChunk {
    info: ChunkInfo,
    writer: ChunkWriter,
    /// Every message so far has an expiry.
    expires: bool,
}

/// What an entry has appended and not yet flushed.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// One for each app at most.
    open: Vec<OpenChunk>,
    pub(super) closed: Vec<ChunkInfo>,
    pub(super) items: Vec<NewItem>,
    /// The limits of each app, as last told.
    pub(super) quotas: Vec<(AppId, Quota)>,
    /// Which reply is about which message id.
    pub(super) ids: Vec<(usize, MessageId)>,
    /// The newest time of a message: the only clock that an append has.
    pub(super) now_ms: u64,
}

impl State {
    pub(super) fn append(
        &mut self,
        entry: &mut Entry<'_>,
        message: &Arc<Message>,
        quota: Quota,
    ) -> Reply {
        let position = entry.take_position();
        if let Some(item) = message.id.and_then(|id| self.recent.get(id)) {
            let (sessions, dropped) = (item.sessions, item.dropped);
            return Reply::Appended { position: item.position, sessions, dropped, refused: false };
        }
        let logs = self.logs_for(message);
        if logs.is_empty() {
            return Reply::Appended { position, sessions: 0, dropped: 0, refused: false };
        }
        if !self.has_room(message, quota) {
            return Reply::Appended { position, sessions: 0, dropped: 0, refused: true };
        }
        let sessions = self.count_sessions(&logs);
        self.store_message(entry, message, position, quota, &logs, None);
        if let Some(id) = message.id {
            self.pending.ids.push((entry.replies.len(), id));
            self.recent.add(id, position, sessions);
        }
        if message.retain {
            // Which topic has what since when: no older retained copy may come behind it.
            let slot = key::topic_slot(message.app, &message.topic);
            self.recent.add(MessageId::in_slot(slot, entry.index), position, sessions);
        }
        Reply::Appended { position, sessions, dropped: 0, refused: false }
    }

    pub(super) fn enqueue_retained(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        filter: &TopicFilter,
        mut messages: Vec<Arc<Message>>,
        quota: Quota,
    ) -> Reply {
        let stored = key::subscription(self.sessions[at].key, None, filter);
        let Some(record) = super::read::<SubscriptionRecord>(&*entry.store, &stored) else {
            let position = entry.here();
            return Reply::Appended { position, sessions: 0, dropped: 0, refused: false };
        };
        let overtaken = |message: &Arc<Message>| {
            let newest = self.recent.newest(key::topic_slot(message.app, &message.topic));
            newest.is_some_and(|position| position >= record.asked)
        };
        // Without its own messages the log may not have that one: the copy is sent.
        if !record.options.no_local {
            messages.retain(|message| !overtaken(message));
        }
        let how = (record.options.qos, record.subscription_id);
        self.enqueue(entry, at, &messages, how, quota)
    }

    pub(super) fn enqueue(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        messages: &[Arc<Message>],
        how: (Qos, u32),
        quota: Quota,
    ) -> Reply {
        let (mut position, mut refused) = (entry.here(), false);
        if !messages.is_empty() {
            let log = self.private_log_of(entry, at);
            for message in messages {
                position = entry.take_position();
                refused = !self.has_room(message, quota);
                if !refused {
                    self.store_message(entry, message, position, quota, &[log], Some(how));
                }
            }
        }
        let sessions = u32::from(!refused && !messages.is_empty());
        Reply::Appended { position, sessions, dropped: 0, refused }
    }

    /// Returns the logs that a message belongs to.
    fn logs_for(&self, message: &Message) -> SmallVec<[usize; 8]> {
        let mut found = FoundFilters::new();
        self.trie.matches(message.app, &message.topic, &mut found);
        let logs = found.iter().filter_map(|id| {
            self.log_of_filter.get(usize::try_from(id.0).unwrap_or(usize::MAX)).copied()
        });
        match message.publisher {
            Some(publisher) => logs.filter(|&log| !self.is_own_only(log, publisher)).collect(),
            None => logs.collect(),
        }
    }

    /// Tells whether nobody but the publisher reads the log, and he does not want his own messages.
    fn is_own_only(&self, log: usize, publisher: SessionKey) -> bool {
        let [member] = self.logs[log].members[..] else { return false };
        let session = &self.sessions[member.session];
        session.key == publisher
            && session.subs.iter().any(|sub| sub.log == log && sub.options.no_local)
    }

    fn has_room(&self, message: &Message, quota: Quota) -> bool {
        let used = self.usage.get(&message.app).map_or(0, |usage| usage.log_bytes);
        used.saturating_add(u64::from(counted_bytes(message))) <= quota.app_bytes_max
    }

    /// Tells whether all of these, of one app, can be stored.
    pub(super) fn have_room(&self, messages: &[Arc<Message>], quota: Quota) -> bool {
        let Some(first) = messages.first() else { return true };
        let used = self.usage.get(&first.app).map_or(0, |usage| usage.log_bytes);
        let new = messages.iter().map(|message| u64::from(counted_bytes(message))).sum();
        used.saturating_add(new) <= quota.app_bytes_max
    }

    /// Counts the sessions that read any of `logs`; with many subscriptions to several of them, the
    /// largest log's are counted.
    fn count_sessions(&self, logs: &[usize]) -> u32 {
        let open = |&log: &usize| self.logs[log].open;
        if logs.len() == 1 {
            return logs.first().map_or(0, open);
        }
        if logs.iter().map(open).sum::<u32>() > COUNT_EXACT_MAX {
            return logs.iter().map(open).max().unwrap_or(0);
        }
        let mut members = SmallVec::<[usize; 64]>::new();
        for &log in logs {
            let takes = |session: &usize| {
                let subs = &self.sessions[*session].subs;
                subs.iter().any(|sub| sub.log == log && sub.end == super::OPEN)
            };
            members.extend(self.logs[log].members.iter().map(|of| of.session).filter(takes));
        }
        members.sort_unstable();
        members.dedup();
        u32::try_from(members.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn store_message(
        &mut self,
        entry: &mut Entry<'_>,
        message: &Message,
        position: Position,
        quota: Quota,
        logs: &[usize],
        private: Option<(Qos, u32)>,
    ) {
        let size = counted_bytes(message);
        self.usage.entry(message.app).or_default().log_bytes += u64::from(size);
        let references = u32::try_from(logs.len()).unwrap_or(u32::MAX);
        let chunk = self.pending.add_body(entry, message, position.offset, references);
        let expires_secs = message
            .expires_at_ms
            .map_or(0, |at_ms| u32::try_from(at_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1));
        let item = Item { position, chunk, size, expires_secs, private };
        let reply = entry.replies.len();
        for &log in logs {
            let log_number = self.logs[log].number;
            self.pending.items.push(NewItem { log_number, log, item, reply });
        }
        self.pending.now_ms = self.pending.now_ms.max(message.published_at_ms);
        match self.pending.quotas.iter_mut().find(|(app, _)| *app == message.app) {
            Some((_, known)) => *known = quota,
            None => self.pending.quotas.push((message.app, quota)),
        }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Stores a body; returns the first offset of its chunk.
    fn add_body(
        &mut self,
        entry: &mut Entry<'_>,
        message: &Message,
        offset: u32,
        references: u32,
    ) -> u32 {
        let mut found = self.open.iter().position(|chunk| chunk.info.app == message.app);
        if let Some(at) = found
            && self.open[at].writer.is_full_for(message)
        {
            let full = self.open.swap_remove(at);
            self.close(entry, full);
            found = None;
        }
        let at = found.unwrap_or_else(|| {
            self.open.push(OpenChunk::new(offset, message));
            self.open.len() - 1
        });
        let chunk = &mut self.open[at];
        chunk.writer.push(offset, message);
        chunk.info.references += references;
        chunk.info.bytes += u64::from(counted_bytes(message));
        match message.expires_at_ms {
            Some(at_ms) => chunk.info.expires_at_ms = chunk.info.expires_at_ms.max(at_ms).max(1),
            None => chunk.expires = false,
        }
        chunk.info.first
    }

    /// Writes every chunk that is still open.
    pub(super) fn close_all(&mut self, entry: &mut Entry<'_>) {
        for chunk in std::mem::take(&mut self.open) {
            self.close(entry, chunk);
        }
    }

    fn close(&mut self, entry: &mut Entry<'_>, chunk: OpenChunk) {
        let mut info = chunk.info;
        if !chunk.expires {
            info.expires_at_ms = 0;
        }
        entry.store.put_new(key::body(entry.index, info.first), chunk.writer.finish());
        if info.expires_at_ms != 0 {
            let due = Due::Chunk { entry: entry.index, first: info.first };
            entry.store.put_new(key::deadline(info.expires_at_ms, due), bytes::Bytes::new());
        }
        self.closed.push(info);
    }
}

impl OpenChunk {
    fn new(first: u32, message: &Message) -> Self {
        let info = ChunkInfo { first, app: message.app, references: 0, bytes: 0, expires_at_ms: 0 };
        Self { info, writer: ChunkWriter::new(message), expires: true }
    }
}
