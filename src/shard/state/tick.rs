//! Background work: what is due by the clock, and what could not be trimmed at once.
//!
//! - Takes: `Tick`. Gives: due wills, the sessions that ended, and whether work is left.
//! - Bound: `limit` steps; a step is one deadline or `TRIM_STEP_ITEMS` trimmed items. What is due is found
//!   by its deadline's key, never by looking at everything.

use bytes::Bytes;

use super::{Entry, State, claim::forget_ended};
use crate::{
    limits::WILL_RETRY,
    model::id::{Epoch, SessionKey},
    shard::{
        command::{DueWill, Reply},
        key::{self, Due},
        record::{EntryRecord, Record as _, WillRecord},
    },
};

/// Items that are trimmed in one step.
const TRIM_STEP_ITEMS: u32 = 64;

#[derive(Default)]
struct Done {
    wills: Vec<DueWill>,
    sessions_ended: Vec<SessionKey>,
}

impl State {
    pub(super) fn tick(&mut self, entry: &mut Entry<'_>, now_ms: u64, limit: u32) -> Reply {
        self.flush(entry);
        let limit = limit.max(1);
        let (from, to) = key::deadlines_until(now_ms);
        let steps = usize::try_from(limit).unwrap_or(usize::MAX);
        let due = entry.store.scan(&from, &to, steps);
        let mut done = Done::default();
        for (key, _) in &due {
            entry.store.delete(key);
            if let Some((at_ms, due, stored)) = key::deadline_parts(key) {
                self.expire(entry, due, &stored, (at_ms, now_ms), &mut done);
            }
        }
        let left = limit.saturating_sub(u32::try_from(due.len()).unwrap_or(u32::MAX));
        let is_trimmed = self.trim_some(entry, left);
        let more = due.len() == steps || !is_trimmed;
        Reply::Ticked { wills: done.wills, sessions_ended: done.sessions_ended, more }
    }

    fn expire(
        &mut self,
        entry: &mut Entry<'_>,
        due: Due,
        stored: &[u8],
        (at_ms, now_ms): (u64, u64),
        done: &mut Done,
    ) {
        match due {
            Due::Session(key) => {
                let Some(&at) = self.by_key.get(&key) else { return };
                if self.sessions[at].holder.is_none() {
                    self.end_session(entry, at, now_ms);
                    done.sessions_ended.push(key);
                }
            }
            Due::Will(key, epoch) => {
                done.wills.extend(hand_out_will(entry, key, epoch, now_ms));
            }
            Due::Chunk { entry: of, first } => self.expire_chunk(entry, of, first),
            Due::Retained => self.expire_retained(entry, stored, at_ms),
            Due::Ended(key) => forget_ended(entry, key),
        }
    }

    /// Deletes bodies that have all expired; their index items go with the cursors.
    fn expire_chunk(&mut self, entry: &mut Entry<'_>, of: u64, first: u32) {
        let stored = key::entry(of);
        let Some(mut record) = super::read::<EntryRecord>(&*entry.store, &stored) else { return };
        let Some(chunk) = record.0.iter_mut().find(|chunk| chunk.first == first) else { return };
        let (app, bytes) = (chunk.app, std::mem::take(&mut chunk.bytes));
        chunk.expires_at_ms = 0;
        entry.store.delete(&key::body(of, first));
        entry.store.put(stored, record.to_bytes());
        self.free(entry, app, bytes);
    }

    /// Trims marked logs, oldest first; `true` if none is left.
    fn trim_some(&mut self, entry: &mut Entry<'_>, steps: u32) -> bool {
        let mut budget = steps.saturating_mul(TRIM_STEP_ITEMS);
        let due: Vec<usize> = self.trims.values().copied().collect();
        for log in due {
            let readers = u32::try_from(self.logs[log].members.len()).unwrap_or(u32::MAX);
            // Looking for the slowest reader costs, too.
            budget = budget.saturating_sub(readers / TRIM_STEP_ITEMS + 1);
            if budget == 0 || self.trim(entry, log, &mut budget) {
                break;
            }
        }
        self.trims.is_empty()
    }
}

/// Gives a due will to be published, and again later unless `WillDone` comes first.
fn hand_out_will(
    entry: &mut Entry<'_>,
    key: SessionKey,
    epoch: Epoch,
    now_ms: u64,
) -> Option<DueWill> {
    let stored = key::will(key, epoch);
    let mut record: WillRecord = super::read(&*entry.store, &stored)?;
    let due_ms = record.due_ms?;
    let retry_ms = now_ms.saturating_add(u64::try_from(WILL_RETRY.as_millis()).unwrap_or(0));
    record.deadline_ms = Some(retry_ms);
    entry.store.put(key::deadline(retry_ms, Due::Will(key, epoch)), Bytes::new());
    entry.store.put(stored, record.to_bytes());
    let mut message = record.will.message;
    message.id = Some(key::will_id(key, epoch));
    message.published_at_ms = due_ms;
    message.expires_at_ms =
        record.will.expiry_secs.map(|secs| due_ms.saturating_add(u64::from(secs) * 1_000));
    Some(DueWill { key, epoch, message })
}
