//! Acknowledgements: the cursor of a session and what lies beyond it.
//!
//! - Takes: `Acknowledge`, and cursors that a full queue moves. Gives: a written `ProgressRecord`; logs are
//!   trimmed behind the slowest reader.
//! - Bound: `BEYOND_MAX` positions beyond the cursor are kept, the oldest. A reader never has more (its
//!   `SPAN_MAX`), so nothing that was acknowledged is delivered again (ONCE).

use super::{Entry, OPEN, Session, State, limit_of};
use crate::{
    limits::BEYOND_MAX,
    model::{id::Position, reader::SPAN_MAX},
    shard::{
        index::amount_at,
        key,
        record::{ProgressRecord, Record as _},
    },
};

const _: () = assert!(SPAN_MAX <= BEYOND_MAX);

impl State {
    pub(super) fn acknowledge(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        cursor: Position,
        beyond: Vec<Position>,
    ) {
        let session = &mut self.sessions[at];
        // Nothing of this entry was read by anyone yet.
        let newest = before(Position { entry: entry.index, offset: 0 });
        let cursor = cursor.min(newest);
        let known = session.beyond.len();
        if !beyond.is_empty() {
            session.beyond.extend(beyond);
            session.beyond.sort_unstable();
            session.beyond.dedup();
            let kept = session.cursor.max(cursor);
            session.beyond.retain(|position| *position > kept && *position <= newest);
            session.beyond.truncate(BEYOND_MAX);
        }
        if cursor > session.cursor {
            self.move_cursor(entry, at, cursor);
        } else if session.beyond.len() != known {
            self.write_progress(entry, at);
        }
    }

    /// Moves a session's cursor forwards, with all that follows from it.
    pub(super) fn move_cursor(&mut self, entry: &mut Entry<'_>, at: usize, cursor: Position) {
        let mut moved = Vec::new();
        let mut to = cursor;
        loop {
            moved.extend(self.set_cursor(entry, at, to));
            self.reopen(entry, at);
            // A range that was closed just now may begin right here.
            let session = &self.sessions[at];
            to = past_skips(session, session.cursor);
            if to == session.cursor {
                break;
            }
        }
        self.end_drains(entry, at);
        self.write_progress(entry, at);
        for (log, base) in moved {
            self.trim_after(entry, log, Some(base));
        }
    }

    /// Sets the cursor and counts again what waits; returns the logs in which it moved, and from where.
    fn set_cursor(
        &mut self,
        entry: &Entry<'_>,
        at: usize,
        cursor: Position,
    ) -> Vec<(usize, crate::shard::record::Amount)> {
        let session = &mut self.sessions[at];
        let cursor = past_skips(session, cursor);
        session.cursor = cursor;
        session.beyond.retain(|position| *position > cursor);
        if let Some(skips) = &mut session.skips {
            skips.ranges.retain(|(_, to, _)| before(*to) > cursor);
            if skips.ranges.is_empty() && skips.open.is_none() {
                session.skips = None;
            }
        }
        let mut moved = Vec::new();
        for sub in &mut session.subs {
            let log = &mut self.logs[sub.log];
            let is_read = sub.base.messages >= limit_of(sub, log).messages;
            if is_read && (sub.cap.is_none() || sub.end != OPEN) {
                continue;
            }
            let need = cursor.next().max(sub.start);
            let base = amount_at(&*entry.store, log.number, &log.state, need.min(sub.end));
            if base != sub.base {
                moved.push((sub.log, sub.base));
                sub.base = base;
                log.members[sub.at].need = need;
            }
        }
        moved
    }

    /// Ends the subscriptions that took nothing new and are read to their end now.
    fn end_drains(&mut self, entry: &mut Entry<'_>, at: usize) {
        loop {
            let session = &self.sessions[at];
            let done = session.subs.iter().position(|sub| {
                sub.end != OPEN && sub.base.messages >= limit_of(sub, &self.logs[sub.log]).messages
            });
            let Some(sub) = done else { return };
            let record = key::drain(
                session.key,
                self.logs[session.subs[sub].log].number,
                session.subs[sub].start,
            );
            entry.store.delete(&record);
            self.leave(entry, at, sub);
        }
    }

    pub(super) fn write_progress(&mut self, entry: &mut Entry<'_>, at: usize) {
        let session = &self.sessions[at];
        let record = ProgressRecord {
            cursor: session.cursor,
            beyond: session.beyond.clone(),
            skips: session.skips.as_deref().cloned().unwrap_or_default(),
        };
        entry.store.put(key::of_session(session.key, key::PROGRESS, &[]), record.to_bytes());
    }
}

/// Returns a cursor that stands in a skipped range at the range's end.
fn past_skips(session: &Session, mut cursor: Position) -> Position {
    if let Some(skips) = &session.skips {
        for (from, to, _) in &skips.ranges {
            if cursor.next() >= *from && cursor < before(*to) {
                cursor = before(*to);
            }
        }
    }
    cursor
}

/// Returns the greatest position before this one.
pub(super) fn before(position: Position) -> Position {
    match position.offset.checked_sub(1) {
        Some(offset) => Position { entry: position.entry, offset },
        None => Position { entry: position.entry.saturating_sub(1), offset: u32::MAX },
    }
}
