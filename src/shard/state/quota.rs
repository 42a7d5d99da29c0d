//! What happens when a session is full.
//!
//! - Takes: a session after a flush, the limits its app was last told. Gives: a moved cursor ("oldest
//!   dropped") or a range that the session skips ("newest dropped"), `Dropped`, and who is to blame.
//! - Counts: what waits are index items behind the cursor; a message that matches two filters of a
//!   session counts twice, one acknowledged out of order until the cursor passes it.
//! - Bound: in a log with more than `WIDE_LOG_MEMBERS` readers a full session loses an eighth of its limit
//!   at once, so that it is written once for many messages. At most `SKIPS_MAX` skipped ranges; a session
//!   that has as many stays full until its cursor passes the first.

use super::{Entry, OPEN, State, append::NewItem, limit_of};
use crate::{
    limits::WIDE_LOG_MEMBERS,
    model::id::{AppId, Position},
    shard::{
        command::{Fact, Quota},
        index::{IndexReader, Merge, amount_at},
        record::{Amount, SkipsRecord},
    },
};

/// Most ranges that a session skips.
const SKIPS_MAX: usize = 64;

impl State {
    pub(super) fn quota_of(&self, app: AppId) -> Option<Quota> {
        self.pending.quotas.iter().find(|(of, _)| *of == app).map(|(_, quota)| *quota)
    }

    /// Returns how much waits for a session.
    pub(in crate::shard) fn waiting(&self, at: usize) -> Amount {
        let session = &self.sessions[at];
        let all = session.subs.iter().fold(Amount::default(), |sum, sub| {
            sum.plus(limit_of(sub, &self.logs[sub.log]).minus(sub.base))
        });
        let Some(skips) = &session.skips else { return all };
        skips.ranges.iter().fold(all, |left, (_, _, amount)| left.minus(*amount))
    }

    /// Tells whether a session needs a closer look after a flush that concerned it.
    pub(super) fn is_over(&self, at: usize, quota: Quota) -> bool {
        let is_full = self.sessions[at].skips.as_ref().is_some_and(|skips| skips.open.is_some());
        is_full || is_more(self.waiting(at), limits_of(quota))
    }

    /// Brings a session back under its limits.
    pub(super) fn overflow(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        log: usize,
        items: &[NewItem],
    ) {
        let Some(quota) = self.quota_of(self.sessions[at].app) else { return };
        let is_full = self.sessions[at].skips.as_ref().is_some_and(|skips| skips.open.is_some());
        let messages = if is_full && !quota.drop_oldest {
            distinct(&self.fresh_items(at, items))
        } else if quota.drop_oldest {
            if is_full {
                self.close_skip(entry, at);
                self.write_progress(entry, at);
            }
            let mut limits = limits_of(quota);
            if self.logs[log].members.len() > WIDE_LOG_MEMBERS {
                limits.messages -= limits.messages / 8;
                limits.bytes -= limits.bytes / 8;
            }
            self.drop_oldest(entry, at, limits)
        } else {
            self.open_skip(entry, at, limits_of(quota), items)
        };
        if messages > 0 {
            self.blame(entry, log, items, messages);
            (entry.tell)(Fact::Dropped { key: self.sessions[at].key, messages });
        }
    }

    /// Moves the cursor over the oldest messages; returns how many are lost by that.
    fn drop_oldest(&mut self, entry: &mut Entry<'_>, at: usize, limits: Amount) -> u64 {
        let session = &self.sessions[at];
        let mut left = self.waiting(at);
        let (mut cursor, mut lost) = (session.cursor, 0);
        let readers = session.subs.iter().enumerate().filter_map(|(number, sub)| {
            let log = &self.logs[sub.log];
            if sub.base.messages >= limit_of(sub, log).messages {
                return None;
            }
            let from = sub.start.max(cursor.next());
            Some((number, IndexReader::new(&*entry.store, log.number, from, sub.end)))
        });
        let mut merge = Merge::new(readers);
        while is_more(left, limits) {
            let Some((_, item)) = merge.next() else { break };
            let skipped = is_skipped(session.skips.as_deref(), item.position);
            let is_new = item.position != cursor;
            cursor = item.position;
            if skipped {
                continue;
            }
            left = left.minus(Amount { messages: 1, bytes: u64::from(item.size) });
            let acknowledged = session.beyond.binary_search(&cursor).is_ok();
            if is_new && !acknowledged && !item.is_expired(self.pending.now_ms) {
                lost += 1;
            }
        }
        drop(merge);
        self.move_cursor(entry, at, cursor);
        lost
    }

    /// Begins to skip at the first new message that does not fit; returns how many are lost by that.
    fn open_skip(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        limits: Amount,
        items: &[NewItem],
    ) -> u64 {
        let fresh = self.fresh_items(at, items);
        let mut held = fresh.iter().fold(self.waiting(at), |left, (_, size)| {
            left.minus(Amount { messages: 1, bytes: u64::from(*size) })
        });
        let first = fresh.iter().position(|(_, size)| {
            held.add(*size);
            is_more(held, limits)
        });
        let Some(first) = first else { return 0 };
        let from = fresh[first].0;
        let session = &mut self.sessions[at];
        for sub in session.subs.iter_mut().filter(|sub| sub.end == OPEN) {
            let log = &self.logs[sub.log];
            let from = from.max(sub.start);
            sub.cap = Some(amount_at(&*entry.store, log.number, &log.state, from));
        }
        session.skips.get_or_insert_default().open = Some((from, limits));
        self.write_progress(entry, at);
        distinct(&fresh[fresh.partition_point(|(position, _)| *position < from)..])
    }

    /// Takes messages again if there is room; what came meanwhile is skipped. The caller writes it.
    pub(super) fn reopen(&mut self, entry: &mut Entry<'_>, at: usize) {
        let Some(skips) = &self.sessions[at].skips else { return };
        let Some((_, limits)) = skips.open else { return };
        let waiting = self.waiting(at);
        let room = waiting.messages < limits.messages && waiting.bytes < limits.bytes;
        if (room && skips.ranges.len() < SKIPS_MAX) || waiting.messages == 0 {
            self.close_skip(entry, at);
        }
    }

    fn close_skip(&mut self, entry: &Entry<'_>, at: usize) {
        let session = &mut self.sessions[at];
        let Some(skips) = &mut session.skips else { return };
        let Some((from, _)) = skips.open.take() else { return };
        let mut amount = Amount::default();
        for sub in session.subs.iter_mut().filter(|sub| sub.end == OPEN) {
            if let Some(cap) = sub.cap.take() {
                let skipped_from = cap.messages.max(sub.base.messages);
                let total = self.logs[sub.log].state.total;
                let passed = if skipped_from == cap.messages { cap } else { sub.base };
                amount = amount.plus(total.minus(passed));
            }
        }
        let to = entry.logged_to();
        if amount.messages > 0 && from < to {
            skips.ranges.push((from, to, amount));
        }
        if skips.ranges.is_empty() {
            session.skips = None;
        }
    }

    /// Returns position and size of what this flush brought to a session, by position.
    fn fresh_items(&self, at: usize, items: &[NewItem]) -> Vec<(Position, u32)> {
        let mut fresh = Vec::new();
        for sub in self.sessions[at].subs.iter().filter(|sub| sub.end == OPEN) {
            let (flush, from, to) = self.logs[sub.log].fresh;
            if flush == self.flushes {
                let new = items.get(from..to).unwrap_or_default();
                fresh.extend(new.iter().map(|new| (new.item.position, new.item.size)));
            }
        }
        fresh.sort_unstable();
        fresh
    }
}

/// Tells whether a session was full when this position was appended.
pub(in crate::shard) fn is_skipped(skips: Option<&SkipsRecord>, position: Position) -> bool {
    skips.is_some_and(|skips| {
        skips.open.is_some_and(|(from, _)| position >= from)
            || skips.ranges.iter().any(|(from, to, _)| position >= *from && position < *to)
    })
}

fn limits_of(quota: Quota) -> Amount {
    Amount { messages: quota.session_messages_max, bytes: quota.session_bytes_max }
}

fn is_more(amount: Amount, limits: Amount) -> bool {
    amount.messages > limits.messages || amount.bytes > limits.bytes
}

fn distinct(items: &[(Position, u32)]) -> u64 {
    let mut messages = 0;
    let mut last = None;
    for (position, _) in items {
        if last.replace(*position) != Some(*position) {
            messages += 1;
        }
    }
    messages
}
