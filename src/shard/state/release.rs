//! The end of a connection, the end of a session, and wills.
//!
//! - Takes: `Release`, `ReleaseStale`, `WillDone`. Gives: absolute deadlines that survive a restart.
//! - Bound: the end of a session deletes what it has at once: its subscriptions (limited per session) and
//!   packet ids; its messages are trimmed in bounded steps, shares of groups are left as orphans.
//! - Source: MQTT 5.0 sections 3.1.2.5, 3.1.2.11.2, 3.1.3.2.2, 3.14.

use bytes::Bytes;

use super::{
    Entry, Session, State,
    claim::{SCAN_RECORDS, drop_will, forget_ended, note_ended, session_record},
};
use crate::{
    model::id::{Epoch, SessionKey},
    shard::{
        command::{InflightOut, Reply},
        key::{self, Due},
        record::{InflightRecord, Record as _, SubscriptionRecord, WillRecord},
    },
};

/// Session expiry interval that means never.
const NEVER_SECS: u32 = u32::MAX;

/// How a connection ended.
pub(super) struct Release {
    pub(super) expiry_secs: Option<u32>,
    pub(super) will_dropped: bool,
    pub(super) inflight: Vec<InflightOut>,
    pub(super) now_ms: u64,
}

impl State {
    pub(super) fn release(&mut self, entry: &mut Entry<'_>, at: usize, how: Release) {
        let session = &mut self.sessions[at];
        let key = session.key;
        if session.holder.take().is_none() {
            return;
        }
        let Some(mut record) = session_record(entry, key) else { return };
        record.holder = None;
        record.expiry_secs = how.expiry_secs.unwrap_or(record.expiry_secs);
        let ends_ms = match record.expiry_secs {
            NEVER_SECS => None,
            secs => Some(how.now_ms.saturating_add(u64::from(secs) * 1_000)),
        };
        if let Some(epoch) = record.will {
            if how.will_dropped {
                drop_will(entry, key, epoch);
                record.will = None;
            } else {
                self.delay_will(entry, key, epoch, how.now_ms, ends_ms);
            }
        }
        record.deadline_ms = ends_ms;
        let is_over = record.expiry_secs == 0;
        if let (Some(at_ms), false) = (ends_ms, is_over) {
            entry.store.put(key::deadline(at_ms, Due::Session(key)), Bytes::new());
        }
        entry.store.put(key::of_session(key, key::SESSION, &[]), record.to_bytes());
        if is_over {
            self.end_session(entry, at, how.now_ms);
        } else if !how.inflight.is_empty() {
            let inflight = key::of_session(key, key::INFLIGHT, &[]);
            entry.store.put(inflight, InflightRecord(how.inflight).to_bytes());
        }
    }

    /// Ends a session: everything of it goes, except a will, which is due now at the latest.
    pub(super) fn end_session(&mut self, entry: &mut Entry<'_>, at: usize, now_ms: u64) {
        self.flush(entry);
        let key = self.sessions[at].key;
        if let Some(record) = session_record(entry, key) {
            if let Some(epoch) = record.will {
                self.arm_will(entry, key, epoch, now_ms);
            }
            if let Some(at_ms) = record.deadline_ms {
                entry.store.delete(&key::deadline(at_ms, Due::Session(key)));
            }
            if !record.will_only {
                forget_ended(entry, key);
                note_ended(entry, key, record.claims, now_ms);
            }
        }
        while let Some(last) = self.sessions[at].subs.len().checked_sub(1) {
            if self.logs[self.sessions[at].subs[last].log].is_shares {
                self.give_back(entry, at, last, None);
            } else {
                self.leave(entry, at, last);
            }
        }
        let names = (key, 0)..=(key, u128::MAX);
        let names: Vec<_> = self.share_logs.range(names).map(|(name, _)| *name).collect();
        for name in names {
            self.share_logs.remove(&name);
        }
        let (from, to) =
            (key::of_session(key, key::SESSION, &[]), key::of_session(key, key::WILL, &[]));
        loop {
            let found = entry.store.scan(&from, &to, SCAN_RECORDS);
            for (key, value) in &found {
                self.end_share(entry, at, key, value);
                entry.store.delete(key);
            }
            if found.len() < SCAN_RECORDS {
                break;
            }
        }
        self.by_key.remove(&key);
        self.sessions.remove(at);
    }

    /// Takes a session out of a shared group, if this record is a subscription that made it a member.
    fn end_share(&mut self, entry: &Entry<'_>, at: usize, stored: &[u8], value: &[u8]) {
        let is_subscription = |(_, tag, _): &(_, u8, _)| *tag == key::SUBSCRIPTION;
        if self.groups.is_empty()
            || !key::session_parts(stored).is_some_and(|p| is_subscription(&p))
        {
            return;
        }
        let Some(record) = SubscriptionRecord::from_bytes(value) else { return };
        if let Some(share) = &record.share {
            let who = (self.sessions[at].app, self.sessions[at].key);
            self.forget_share(entry, who, (share, &record.filter));
        }
    }

    /// Sets the time at which a will becomes due: after its delay, or with the end of the session.
    fn delay_will(
        &mut self,
        entry: &mut Entry<'_>,
        key: SessionKey,
        epoch: Epoch,
        now_ms: u64,
        ends_ms: Option<u64>,
    ) {
        let stored = key::will(key, epoch);
        let Some(mut record) = super::read::<WillRecord>(&*entry.store, &stored) else { return };
        let delayed = now_ms.saturating_add(u64::from(record.will.delay_secs) * 1_000);
        let due_ms = ends_ms.map_or(delayed, |ends_ms| ends_ms.min(delayed));
        set_deadline(entry, key, epoch, &mut record, due_ms);
    }

    /// Makes a will due now, unless it was due before.
    pub(super) fn arm_will(
        &mut self,
        entry: &mut Entry<'_>,
        key: SessionKey,
        epoch: Epoch,
        now_ms: u64,
    ) {
        let stored = key::will(key, epoch);
        let Some(mut record) = super::read::<WillRecord>(&*entry.store, &stored) else { return };
        if record.due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            set_deadline(entry, key, epoch, &mut record, now_ms);
        }
    }

    pub(super) fn will_done(
        &mut self,
        entry: &mut Entry<'_>,
        key: SessionKey,
        epoch: Epoch,
    ) -> Reply {
        drop_will(entry, key, epoch);
        if let Some(&at) = self.by_key.get(&key) {
            self.update_record(entry, at, |record, _| {
                if record.will == Some(epoch) {
                    record.will = None;
                }
            });
        }
        Reply::Done
    }

    pub(super) fn release_stale(
        &mut self,
        entry: &mut Entry<'_>,
        keys: &[SessionKey],
        start: (u64, u64),
        now_ms: u64,
    ) -> Reply {
        self.flush(entry);
        for key in keys {
            // One that was claimed meanwhile has a holder of this start.
            if let Some(&at) = self.by_key.get(key)
                && self.sessions[at].is_held_before(start)
            {
                self.release_lost(entry, at, now_ms);
            }
        }
        Reply::Done
    }

    /// Releases a session whose connection died without saying so.
    pub(super) fn release_lost(&mut self, entry: &mut Entry<'_>, at: usize, now_ms: u64) {
        let (expiry_secs, will_dropped, inflight) = (None, false, Vec::new());
        self.release(entry, at, Release { expiry_secs, will_dropped, inflight, now_ms });
    }
}

impl Session {
    /// Tells whether a connection of an earlier start of this node is its holder.
    pub(in crate::shard) fn is_held_before(&self, (node, incarnation): (u64, u64)) -> bool {
        self.holder.is_some_and(|held| held.node == node && held.incarnation < incarnation)
    }
}

fn set_deadline(
    entry: &mut Entry<'_>,
    key: SessionKey,
    epoch: Epoch,
    record: &mut WillRecord,
    due_ms: u64,
) {
    if let Some(at_ms) = record.deadline_ms {
        entry.store.delete(&key::deadline(at_ms, Due::Will(key, epoch)));
    }
    record.due_ms = Some(due_ms);
    record.deadline_ms = Some(due_ms);
    entry.store.put(key::deadline(due_ms, Due::Will(key, epoch)), Bytes::new());
    entry.store.put(key::will(key, epoch), record.to_bytes());
}
