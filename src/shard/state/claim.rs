//! A CONNECT takes a session: epoch + 1, new holder, and all that is known of it.
//!
//! - Takes: `Claim`, `ClaimIn`. Gives: `Claimed`, truthful about what is present (SESSION-TRUE).
//! - A connection without a durable session has something here only if it has a will: a session that holds
//!   nothing else, is told to nobody as a session, and ends with the connection.
//! - FENCED: epochs of a shard only grow, over the end of a session too: they are made from the place in
//!   the log, so what an earlier life of the session still sends is refused.
//! - Source: MQTT 5.0 sections 3.1.2.4, 3.1.2.5, 3.1.2.11.2, 4.1.

use bytes::Bytes;

use super::{Entry, Session, State};
use crate::{
    limits::SESSION_ENDED_KEPT,
    model::{
        id::{AppId, Epoch, Position, SessionKey},
        message::Qos,
    },
    shard::{
        command::{
            Claimed, Fact, Holder, InflightOut, OutState, Reply, SessionClaim, StoredSubscription,
        },
        key::{self, Due},
        record::{
            EndedRecord, InRecord, InflightRecord, OutRecord, Record as _, SessionRecord,
            SubscriptionRecord, WillRecord,
        },
    },
};

/// Records of a session that are read at once.
pub(super) const SCAN_RECORDS: usize = 1_024;

impl State {
    pub(super) fn claim(&mut self, entry: &mut Entry<'_>, claim: SessionClaim) -> Reply {
        let SessionClaim { key, app, client_id, clean_start, expiry_secs, will, holder, now_ms } =
            claim;
        let mut previous_holder = None;
        let again = self.begin_again(entry, key, holder);
        if let Some(&at) = self.by_key.get(&key)
            && self.sessions[at].is_held_before((holder.node, holder.incarnation))
        {
            // The background work has not come to it yet; what the last start owes is settled first.
            self.release_lost(entry, at, now_ms);
        }
        let claims = next_count(entry, key);
        if let Some(&at) = self.by_key.get(&key) {
            previous_holder = self.sessions[at].holder;
            let is_over =
                clean_start || self.sessions[at].will_only || self.is_ended(entry, at, now_ms);
            if is_over {
                self.end_session(entry, at, now_ms);
            }
        }
        let present = self.by_key.get(&key).copied();
        let will_only = present.is_none() && expiry_secs == 0;
        if will_only && will.is_none() {
            return Reply::Claimed(Box::new(Claimed { previous_holder, ..Claimed::default() }));
        }
        let at = match present {
            Some(at) => {
                self.settle_old_will(entry, at, now_ms);
                at
            }
            None => {
                if !will_only {
                    forget_ended(entry, key);
                }
                self.new_session(entry, key, app, client_id, will_only)
            }
        };
        let epoch = self.next_epoch(entry, at);
        if let Some(will) = will {
            let record = WillRecord { will: *will, due_ms: None, deadline_ms: None };
            entry.store.put(key::will(key, epoch), record.to_bytes());
            self.take(entry, at, (epoch, claims), expiry_secs, holder, Some(epoch));
        } else {
            self.take(entry, at, (epoch, claims), expiry_secs, holder, None);
        }
        if will_only {
            let claimed = Claimed { previous_holder, will: epoch, ..Claimed::default() };
            return Reply::Claimed(Box::new(claimed));
        }
        let mut claimed = self.describe(entry, at);
        (claimed.previous_holder, claimed.claims) = (previous_holder, claims);
        // What only the claim before this one has made was not there for the client.
        let is_blank = claimed.subscriptions.is_empty()
            && claimed.inflight.is_empty()
            && claimed.incoming.is_empty();
        claimed.session_present = present.is_some() && !(again && is_blank);
        Reply::Claimed(Box::new(claimed))
    }

    /// The same connection claims once more, because nobody could tell it that its claim was committed. Its
    /// will speaks for a connection that has not ended.
    fn begin_again(&mut self, entry: &mut Entry<'_>, key: SessionKey, holder: Holder) -> bool {
        let Some(&at) = self.by_key.get(&key) else { return false };
        if self.sessions[at].holder != Some(holder) {
            return false;
        }
        let Some(epoch) = session_record(entry, key).and_then(|record| record.will) else {
            return true;
        };
        drop_will(entry, key, epoch);
        self.update_record(entry, at, |record, _| record.will = None);
        true
    }

    /// Tells whether a session's time is over although no `Tick` has ended it yet.
    fn is_ended(&self, entry: &Entry<'_>, at: usize, now_ms: u64) -> bool {
        let session = &self.sessions[at];
        let record = session_record(entry, session.key);
        record.and_then(|record| record.deadline_ms).is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// A will that is not due yet is cancelled by coming back; one without delay is due when its
    /// connection is taken over.
    fn settle_old_will(&mut self, entry: &mut Entry<'_>, at: usize, now_ms: u64) {
        let key = self.sessions[at].key;
        let Some(epoch) = session_record(entry, key).and_then(|record| record.will) else { return };
        let Some(record) = super::read::<WillRecord>(&*entry.store, &key::will(key, epoch)) else {
            return;
        };
        // Without delay it is due however the clocks of the claim and the release before it compare.
        let is_due =
            record.will.delay_secs == 0 || record.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if is_due {
            self.arm_will(entry, key, epoch, now_ms);
        } else {
            drop_will(entry, key, epoch);
        }
    }

    fn new_session(
        &mut self,
        entry: &mut Entry<'_>,
        key: SessionKey,
        app: AppId,
        client_id: String,
        will_only: bool,
    ) -> usize {
        let record = SessionRecord {
            app,
            client_id,
            epoch: Epoch(0),
            expiry_secs: 0,
            holder: None,
            deadline_ms: None,
            will: None,
            private_log: None,
            will_only,
            claims: 0,
        };
        entry.store.put(key::of_session(key, key::SESSION, &[]), record.to_bytes());
        if !will_only {
            (entry.tell)(Fact::SessionBegan { key });
        }
        self.add_session(key, &record)
    }

    /// Puts a session into memory.
    pub(super) fn add_session(&mut self, key: SessionKey, record: &SessionRecord) -> usize {
        let at = self.sessions.insert(Session {
            key,
            app: record.app,
            epoch: record.epoch,
            holder: record.holder,
            cursor: Position::START,
            beyond: Vec::new(),
            skips: None,
            subs: Vec::new(),
            private_log: record.private_log,
            subscriptions: 0,
            quiet: 0,
            stamp: 0,
            will_only: record.will_only,
        });
        self.by_key.insert(key, at);
        at
    }

    fn next_epoch(&self, entry: &Entry<'_>, at: usize) -> Epoch {
        let command = u64::try_from(entry.replies.len()).unwrap_or(0) & 0xffff;
        let here = entry.index.wrapping_shl(16) | command;
        Epoch(here.max(self.sessions[at].epoch.0 + 1))
    }

    fn take(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        (epoch, claims): (Epoch, u8),
        expiry_secs: u32,
        holder: Holder,
        will: Option<Epoch>,
    ) {
        let session = &mut self.sessions[at];
        session.epoch = epoch;
        session.holder = Some(holder);
        let key = session.key;
        self.update_record(entry, at, |record, entry| {
            if let Some(at_ms) = record.deadline_ms.take() {
                entry.store.delete(&key::deadline(at_ms, Due::Session(key)));
            }
            record.epoch = epoch;
            record.holder = Some(holder);
            record.expiry_secs = expiry_secs;
            record.will = will;
            record.claims = claims;
        });
    }

    /// Changes the stored head of a session.
    pub(super) fn update_record(
        &self,
        entry: &mut Entry<'_>,
        at: usize,
        change: impl FnOnce(&mut SessionRecord, &mut Entry<'_>),
    ) {
        let key = self.sessions[at].key;
        if let Some(mut record) = session_record(entry, key) {
            change(&mut record, entry);
            entry.store.put(key::of_session(key, key::SESSION, &[]), record.to_bytes());
        }
    }

    /// Reads what a connection must know of a session.
    fn describe(&self, entry: &mut Entry<'_>, at: usize) -> Claimed {
        let session = &self.sessions[at];
        let mut claimed = Claimed {
            epoch: session.epoch,
            cursor: session.cursor,
            beyond: session.beyond.clone(),
            ..Claimed::default()
        };
        let mut from = key::of_session(session.key, key::SUBSCRIPTION, &[]);
        let to = key::of_session(session.key, key::WILL, &[]);
        loop {
            let found = entry.store.scan(&from, &to, SCAN_RECORDS);
            for (key, value) in &found {
                describe_record(&mut claimed, key, value);
            }
            match found.last() {
                Some((last, _)) if found.len() == SCAN_RECORDS => from = key::after(last),
                _ => break,
            }
        }
        claimed.inflight.retain(|out| {
            let is_done = out.position <= session.cursor
                || session.beyond.binary_search(&out.position).is_ok();
            out.state == OutState::Received || !is_done
        });
        claimed.inflight.sort_by_key(|out| (out.position, out.packet_id));
        // From now on the connection knows; a crash of its node may forget these ids (QoS 1).
        entry.store.delete(&key::of_session(session.key, key::INFLIGHT, &[]));
        claimed
    }
}

fn describe_record(claimed: &mut Claimed, key: &[u8], value: &[u8]) {
    let Some((_, tag, rest)) = key::session_parts(key) else { return };
    let packet_id = rest.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    match tag {
        key::SUBSCRIPTION => {
            claimed.subscriptions.extend(SubscriptionRecord::from_bytes(value).map(|record| {
                StoredSubscription {
                    filter: record.filter,
                    share: record.share,
                    options: record.options,
                    subscription_id: record.subscription_id,
                }
            }));
        }
        key::OUT => claimed.inflight.extend(OutRecord::from_bytes(value).map(|record| {
            let OutRecord { position, state } = record;
            InflightOut { packet_id, position, qos: Qos::ExactlyOnce, state }
        })),
        key::INFLIGHT => {
            if let Some(InflightRecord(inflight)) = InflightRecord::from_bytes(value) {
                claimed.inflight.extend(inflight);
            }
        }
        key::INCOMING => {
            let record = InRecord::from_bytes(value);
            claimed.incoming.extend(record.map(|InRecord(id)| (packet_id, id)));
        }
        _ => {}
    }
}

pub(super) fn session_record(entry: &Entry<'_>, key: SessionKey) -> Option<SessionRecord> {
    super::read(&*entry.store, &key::of_session(key, key::SESSION, &[]))
}

/// Counts the claims of a session: on from those of the one before, if that ended a moment ago.
fn next_count(entry: &Entry<'_>, key: SessionKey) -> u8 {
    let before = session_record(entry, key).map(|record| record.claims);
    let before = before.or_else(|| ended_record(entry, key).map(|record| record.claims));
    before.map_or(0, |claims| claims.wrapping_add(1))
}

fn ended_record(entry: &Entry<'_>, key: SessionKey) -> Option<EndedRecord> {
    super::read(&*entry.store, &key::of_session(key, key::ENDED, &[]))
}

/// Notes that a session has ended, for a time.
pub(super) fn note_ended(entry: &mut Entry<'_>, key: SessionKey, claims: u8, now_ms: u64) {
    let kept_ms = u64::try_from(SESSION_ENDED_KEPT.as_millis()).unwrap_or(u64::MAX);
    let record = EndedRecord { claims, until_ms: now_ms.saturating_add(kept_ms) };
    entry.store.put(key::of_session(key, key::ENDED, &[]), record.to_bytes());
    entry.store.put(key::deadline(record.until_ms, Due::Ended(key)), Bytes::new());
}

/// Forgets that a session has ended.
pub(super) fn forget_ended(entry: &mut Entry<'_>, key: SessionKey) {
    if let Some(record) = ended_record(entry, key) {
        entry.store.delete(&key::deadline(record.until_ms, Due::Ended(key)));
        entry.store.delete(&key::of_session(key, key::ENDED, &[]));
    }
}

/// Forgets a will and its deadline.
pub(super) fn drop_will(entry: &mut Entry<'_>, key: SessionKey, epoch: Epoch) {
    let stored = key::will(key, epoch);
    if let Some(record) = super::read::<WillRecord>(&*entry.store, &stored)
        && let Some(at_ms) = record.deadline_ms
    {
        entry.store.delete(&key::deadline(at_ms, Due::Will(key, epoch)));
    }
    entry.store.delete(&stored);
}
