//! Subscriptions of durable sessions.
//!
//! - Takes: `Subscribe`, `Unsubscribe`. Gives: a reply per item; facts through `membership`.
//! - A subscription with QoS 1 or 2 and no share reads the log of its filter, from the position of its
//!   `Subscribe` on. One with QoS 0 only adds its id to deliveries; a shared one reads a log of its own once
//!   the group gives it something (`shares`).
//! - Replacing options keeps start and messages (MQTT-3.8.4-3). When QoS 0 replaces QoS 1 or 2, what waits
//!   is still delivered: the subscription drains. Unsubscribing drops what waits only for it.
//! - Bound: `filters_max` of the command.

use bytes::Bytes;

use super::{Entry, OPEN, State, membership::Joining};
use crate::{
    model::{id::Position, message::Qos, topic::TopicFilter},
    shard::{
        command::{FiltersFull, Reply, StoredSubscription},
        index::amount_at,
        key,
        record::{Amount, DrainRecord, Record as _, SubscriptionRecord},
    },
};

impl State {
    pub(super) fn subscribe(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        items: Vec<StoredSubscription>,
        filters_max: u32,
    ) -> Reply {
        self.flush(entry);
        let results =
            items.into_iter().map(|item| self.subscribe_one(entry, at, item, filters_max));
        Reply::Subscribed(results.collect())
    }

    fn subscribe_one(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        item: StoredSubscription,
        filters_max: u32,
    ) -> Result<bool, FiltersFull> {
        let stored = key::subscription(self.sessions[at].key, item.share.as_ref(), &item.filter);
        let old: Option<SubscriptionRecord> = super::read(&*entry.store, &stored);
        if old.is_none() && self.sessions[at].subscriptions >= filters_max {
            return Err(FiltersFull);
        }
        let start = old.as_ref().map_or(entry.here(), |old| old.start);
        let mut record = SubscriptionRecord {
            filter: item.filter,
            share: item.share,
            options: item.options,
            subscription_id: item.subscription_id,
            start,
            joined: old.as_ref().map_or(start, |old| old.joined),
            log: None,
            asked: entry.here(),
        };
        let old_log = old.as_ref().and_then(|old| old.log);
        if record.share.is_none() && record.options.qos > Qos::AtMostOnce {
            record.log = Some(self.read_filter(entry, at, &mut record, old_log));
        } else if record.share.is_some() {
            record.log = old_log;
            if let Some(sub) = old_log.and_then(|number| self.open_sub(at, number)) {
                let sub = &mut self.sessions[at].subs[sub];
                (sub.options, sub.subscription_id) = (record.options, record.subscription_id);
            }
        } else if let Some(number) = old_log {
            self.drain_filter(entry, at, number);
        }
        let session = &mut self.sessions[at];
        session.quiet -= u32::from(old.as_ref().is_some_and(is_quiet));
        session.quiet += u32::from(is_quiet(&record));
        session.subscriptions += u32::from(old.is_none());
        self.note_share(entry, at, &record);
        entry.store.put(stored, record.to_bytes());
        Ok(old.is_none())
    }

    /// Reads the log of a filter, or goes on reading it with other options; returns its number.
    fn read_filter(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        record: &mut SubscriptionRecord,
        old_log: Option<u64>,
    ) -> u64 {
        if let Some(number) = old_log
            && let Some(sub) = self.open_sub(at, number)
        {
            let sub = &mut self.sessions[at].subs[sub];
            sub.options = record.options;
            sub.subscription_id = record.subscription_id;
            return number;
        }
        let log = self.log_of(entry, self.sessions[at].app, &record.filter);
        // A subscription that had QoS 0 until now gets what comes from now on.
        record.joined = entry.here();
        let how = Joining {
            start: record.joined,
            end: OPEN,
            options: record.options,
            subscription_id: record.subscription_id,
        };
        self.join(&*entry.store, at, log, how);
        self.logs[log].number
    }

    /// Finds the subscription of a session that takes new messages of a log.
    fn open_sub(&self, at: usize, number: u64) -> Option<usize> {
        let subs = &self.sessions[at].subs;
        subs.iter().position(|sub| sub.end == OPEN && self.logs[sub.log].number == number)
    }

    fn drain_filter(&mut self, entry: &mut Entry<'_>, at: usize, number: u64) {
        let Some(sub) = self.open_sub(at, number) else { return };
        if !self.begin_drain(entry, at, sub) {
            self.leave(entry, at, sub);
            return;
        }
        let session = &self.sessions[at];
        let sub = &session.subs[sub];
        let record = DrainRecord {
            log: number,
            options: sub.options,
            subscription_id: sub.subscription_id,
            start: sub.start,
            end: sub.end,
        };
        entry.store.put(key::drain(session.key, number, sub.start), record.to_bytes());
    }

    pub(super) fn unsubscribe(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        items: &[(Option<Bytes>, TopicFilter)],
        sent: Position,
    ) -> Reply {
        self.flush(entry);
        let found = items
            .iter()
            .map(|(share, filter)| self.unsubscribe_one(entry, at, (share.as_ref(), filter), sent));
        let found = found.collect();
        self.recount_skips(entry, at);
        Reply::Unsubscribed(found)
    }

    fn unsubscribe_one(
        &mut self,
        entry: &mut Entry<'_>,
        at: usize,
        (share, filter): (Option<&Bytes>, &TopicFilter),
        sent: Position,
    ) -> bool {
        let stored = key::subscription(self.sessions[at].key, share, filter);
        let Some(record) = super::read::<SubscriptionRecord>(&*entry.store, &stored) else {
            return false;
        };
        entry.store.delete(&stored);
        let session = &mut self.sessions[at];
        session.quiet -= u32::from(is_quiet(&record));
        session.subscriptions -= 1;
        if let Some(share) = share {
            let who = (self.sessions[at].app, self.sessions[at].key);
            self.forget_share(entry, who, (share, filter));
        }
        let sub = record.log.and_then(|number| self.open_sub(at, number));
        match sub {
            Some(sub) if share.is_some() => {
                let name = (self.sessions[at].key, key::subscription_hash(share, filter));
                self.share_logs.remove(&name);
                self.give_back(entry, at, sub, Some(sent));
            }
            Some(sub) => self.leave(entry, at, sub),
            None => {}
        }
        true
    }

    /// Counts what skipped ranges hold after a filter is gone.
    fn recount_skips(&mut self, entry: &mut Entry<'_>, at: usize) {
        let session = &mut self.sessions[at];
        let Some(mut skips) = session.skips.take() else { return };
        for (from, to, amount) in &mut skips.ranges {
            *amount = Amount::default();
            for sub in &session.subs {
                let log = &self.logs[sub.log];
                let at =
                    |position: Position| amount_at(&*entry.store, log.number, &log.state, position);
                let (from, to) = ((*from).max(sub.start), (*to).min(sub.end));
                if from < to {
                    *amount = amount.plus(at(to).minus(at(from)));
                }
            }
        }
        skips.ranges.retain(|(_, _, amount)| amount.messages > 0);
        if skips.open.is_some() || !skips.ranges.is_empty() {
            session.skips = Some(skips);
        }
        self.reopen(entry, at);
        self.write_progress(entry, at);
    }
}

/// Tells whether a subscription only adds its id to deliveries.
pub(super) fn is_quiet(record: &SubscriptionRecord) -> bool {
    record.share.is_none() && record.log.is_none()
}
