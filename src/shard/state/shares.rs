//! Shares of shared groups: stored for one member, given back when it leaves.
//!
//! - Owns: logs of shares (one for each shared subscription that ever stored one), and *orphans*: what a
//!   member left unread, until all of it has another owner.
//! - Takes: `Share`, `Redispatch`, the end of a subscription or session. Gives: orphans to the actors, which
//!   move them chunk by chunk (`actors/redispatch.rs`).
//! - NO-LOSS: an orphan holds its messages until `Redispatch` says that they are moved. ONCE: the next
//!   owner of a chunk is written down before the chunk is sent, and the chunk has an id; so after a crash
//!   the same chunk goes to the same owner, whose shard knows it.
//! - Bound: giving back costs one record, however much waits.
//! - Source: MQTT 5.0 section 4.8.2. QoS 1 that was sent and not acknowledged goes to another member, QoS 2
//!   that was sent never does.

use std::sync::Arc;

use bytes::Bytes;

use super::{Entry, OPEN, Session, State, membership::Joining};
use crate::{
    model::{
        id::{MessageId, Position},
        message::Message,
        topic::TopicFilter,
    },
    shard::{
        command::{Command, Quota, Reply},
        index::amount_at,
        key,
        record::{
            DrainRecord, LogRecord, OrphanRecord, OutRecord, Record as _, SkipsRecord,
            SubscriptionRecord,
        },
    },
};

/// Records of unfinished deliveries that are read at once.
const SCAN_RECORDS: usize = 1_024;

/// What is left of a member's shares; the rest of it is in its record.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Orphan {
    pub(in crate::shard) log: usize,
    /// First position that is not moved yet.
    pub(in crate::shard) from: Position,
}

impl State {
    /// Stores messages for one member of a group. `Fenced`: it is none any more.
    pub(super) fn share(&mut self, entry: &mut Entry<'_>, command: Command) -> Reply {
        let Command::Share { key, share, filter, id, messages, quota } = command else {
            return Reply::Fenced;
        };
        // First: it had the chunk, even if it has ended meanwhile and others have it now.
        if let Some(item) = id.and_then(|id| self.recent.get(id)) {
            let (sessions, dropped) = (item.sessions, item.dropped);
            return Reply::Appended { position: item.position, sessions, dropped, refused: false };
        }
        let Some(&at) = self.by_key.get(&key) else { return Reply::Fenced };
        let Some(log) = self.log_of_shares(entry, at, &share, &filter) else {
            return Reply::Fenced;
        };
        self.store_shares(entry, (at, log), id, &messages, quota)
    }

    fn store_shares(
        &mut self,
        entry: &mut Entry<'_>,
        (at, log): (usize, usize),
        id: Option<MessageId>,
        messages: &[Arc<Message>],
        quota: Quota,
    ) -> Reply {
        let mut position = entry.here();
        // All or nothing, because they have one id.
        if !self.have_room(messages, quota) {
            return Reply::Appended { position, sessions: 0, dropped: 0, refused: true };
        }
        let open = |sub: &&super::Sub| sub.log == log && sub.end == OPEN;
        let Some(sub) = self.sessions[at].subs.iter().find(open) else { return Reply::Fenced };
        let (options, how) = (sub.options, Some((sub.options.qos, sub.subscription_id)));
        for message in messages {
            position = entry.take_position();
            if message.retain && !options.retain_as_published {
                let message = Message { retain: false, ..Message::clone(message) };
                self.store_message(entry, &message, position, quota, &[log], how);
            } else {
                self.store_message(entry, message, position, quota, &[log], how);
            }
        }
        if let (Some(id), false) = (id, messages.is_empty()) {
            self.pending.ids.push((entry.replies.len(), id));
            self.recent.add(id, position, 1);
        }
        Reply::Appended { position, sessions: 1, dropped: 0, refused: false }
    }

    /// Finds or makes the log of a shared subscription; `None`: there is no such subscription.
    fn log_of_shares(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        share: &Bytes,
        filter: &TopicFilter,
    ) -> Option<usize> {
        let (session, app) = (self.sessions[at].key, self.sessions[at].app);
        let name = (session, key::subscription_hash(Some(share), filter));
        if let Some(&log) = self.share_logs.get(&name) {
            return Some(log);
        }
        let stored = key::subscription(session, Some(share), filter);
        let mut record: SubscriptionRecord = super::read(&*entry.store, &stored)?;
        let log = self.new_log(entry, app, None);
        let number = self.logs[log].number;
        let group = Some((share.clone(), filter.clone()));
        entry.store.put(key::log(number), LogRecord { app, filter: None, group }.to_bytes());
        self.logs[log].is_shares = true;
        record.log = Some(number);
        let SubscriptionRecord { options, subscription_id, joined: start, .. } = record;
        entry.store.put(stored, record.to_bytes());
        let how = Joining { start, end: OPEN, options, subscription_id };
        self.join(&*entry.store, at, log, how);
        self.share_logs.insert(name, log);
        Some(log)
    }

    /// Ends a session's part in a log of shares: what it has not got goes to other members. What was
    /// sent up to `sent` stays with it until it is acknowledged or the session ends.
    pub(super) fn give_back(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        place: usize,
        sent: Option<Position>,
    ) {
        let session = &self.sessions[at];
        let sub = &session.subs[place];
        let number = self.logs[sub.log].number;
        let full = session.skips.as_ref().and_then(|skips| skips.open);
        let to = sub.end.min(entry.logged_to()).min(full.map_or(OPEN, |(from, _)| from));
        let first = sub.start.max(session.cursor.next());
        let kept = sent.map_or(first, |sent| first.max(sent.next())).min(to);
        self.leave_orphan(entry, at, place, (kept, to));
        let (log, base) = (&self.logs[self.sessions[at].subs[place].log], first.min(kept));
        let amount = |position| amount_at(&*entry.store, number, &log.state, position);
        let (waits, cap) = (amount(base), amount(kept));
        if sent.is_none() || waits.messages >= cap.messages {
            self.leave(entry, at, place);
            return;
        }
        let log = self.sessions[at].subs[place].log;
        let session = &mut self.sessions[at];
        let sub = &mut session.subs[place];
        (sub.end, sub.cap) = (kept, Some(cap));
        let (options, subscription_id, start) = (sub.options, sub.subscription_id, sub.start);
        let record = DrainRecord { log: number, options, subscription_id, start, end: kept };
        entry.store.put(key::drain(session.key, number, start), record.to_bytes());
        self.close_one(entry, log);
    }

    /// Notes what lies in `range` as nobody's, if there is anything.
    fn leave_orphan(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        place: usize,
        (from, to): (Position, Position),
    ) {
        let session = &self.sessions[at];
        let log = session.subs[place].log;
        let state = &self.logs[log];
        let amount = |position| amount_at(&*entry.store, state.number, &state.state, position);
        if from >= to || amount(from).messages >= amount(to).messages {
            return;
        }
        let stored: Option<LogRecord> = super::read(&*entry.store, &key::log(state.number));
        let Some((share, filter)) = stored.and_then(|record| record.group) else { return };
        let mut done = sent_exactly(entry, session);
        done.extend(&session.beyond);
        done.retain(|position| *position >= from && *position < to);
        done.sort_unstable();
        done.dedup();
        let ranges = session.skips.as_ref().map_or_else(Vec::new, |skips| skips.ranges.clone());
        let skips = SkipsRecord { open: None, ranges };
        let (app, number) = (state.app, state.number);
        let record = OrphanRecord { app, share, filter, from, to, done, skips, owner: None };
        entry.store.put(key::orphan(number, from), record.to_bytes());
        self.orphans.insert((number, from), Orphan { log, from });
    }

    /// Takes what the mover of orphans says: a part has a new owner, or is to have one.
    pub(super) fn redispatch(&mut self, entry: &mut Entry<'_>, command: &Command) -> Reply {
        self.flush(entry);
        let Command::Redispatch { log, start, moved, owner } = *command else { return Reply::Done };
        let stored = key::orphan(log, start);
        let record: Option<OrphanRecord> = super::read(&*entry.store, &stored);
        let Some(mut record) = record else { return Reply::Done };
        record.from = moved.map_or(record.from, |moved| record.from.max(moved.next()));
        record.owner = owner;
        let Some(orphan) = self.orphans.get_mut(&(log, start)) else { return Reply::Done };
        let (place, changed) = (orphan.log, orphan.from != record.from);
        orphan.from = record.from;
        if record.from >= record.to {
            self.orphans.remove(&(log, start));
            entry.store.delete(&stored);
        } else {
            let from = record.from;
            record.done.retain(|position| *position >= from);
            entry.store.put(stored, record.to_bytes());
        }
        if changed {
            self.trim_after(entry, place, None);
        }
        Reply::Done
    }

    /// Returns the first position of a log that no orphan has moved yet.
    pub(super) fn orphan_need(&self, log: u64) -> Option<Position> {
        let of_log = (log, Position::START)..(log + 1, Position::START);
        self.orphans.range(of_log).map(|(_, orphan)| orphan.from).min()
    }
}

/// Returns what the session was sent with QoS 2: nobody else may get it [MQTT-4.8.2-5].
fn sent_exactly(entry: &Entry<'_>, session: &Session) -> Vec<Position> {
    let mut from = key::of_session(session.key, key::OUT, &[]);
    let to = key::of_session(session.key, key::OUT + 1, &[]);
    let mut sent = Vec::new();
    loop {
        let found = entry.store.scan(&from, &to, SCAN_RECORDS);
        let records = found.iter().filter_map(|(_, value)| OutRecord::from_bytes(value));
        sent.extend(records.map(|record| record.position));
        match found.last() {
            Some((last, _)) if found.len() == SCAN_RECORDS => from = key::after(last),
            _ => return sent,
        }
    }
}
