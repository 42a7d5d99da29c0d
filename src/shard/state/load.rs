//! Rebuilding what is held in memory from the store.
//!
//! - Takes: a store at a checkpoint. Gives: the state as it was after the entry of the checkpoint, and
//!   `FilterAdded` for each filter with a reader, `GroupAdded` for each group with a member.
//! - Cost: reads the records of all sessions and logs, and one index chunk for each log in which a session
//!   has something waiting; never all messages.

use hongqiao_cluster::machine::Store;

use super::{
    OPEN, State, assigned::Assigned, membership, recent::Recent, shares::Orphan,
    subscribe::is_quiet,
};
use crate::{
    model::{id::AppId, topic::TopicFilter},
    shard::{
        command::Fact,
        key,
        record::{
            DrainRecord, LedRecord, LogRecord, LogStateRecord, NumbersRecord, OrphanRecord,
            ProgressRecord, Record as _, SessionRecord, SubscriptionRecord, UsageRecord,
        },
    },
};

/// Pairs that are read at once.
const SCAN_PAIRS: usize = 1_024;

impl State {
    /// Replaces everything by what the store holds.
    pub(in crate::shard) fn load(store: &dyn Store, tell: &dyn Fn(Fact)) -> Self {
        let mut state = Self {
            numbers: super::read::<NumbersRecord>(store, &key::numbers()).unwrap_or_default(),
            led: super::read::<LedRecord>(store, &key::led()).unwrap_or_default(),
            recent: Recent::load(store),
            assigned: Assigned::load(store),
            ..Self::default()
        };
        let mut filters: Vec<(AppId, TopicFilter)> = Vec::new();
        let mut log_at = std::collections::BTreeMap::new();
        scan_all(store, key::all(b'f'), |key, value| {
            let number = key::number_of(key);
            let Some(record) = LogRecord::from_bytes(value) else { return };
            let counts = super::read::<LogStateRecord>(store, &key::log_state(number));
            let counts = counts.unwrap_or_default();
            let log = state.add_log(number, record.app, record.filter.as_ref(), counts);
            state.logs[log].is_shares = record.group.is_some();
            log_at.insert(number, log);
            filters.extend(record.filter.map(|filter| (record.app, filter)));
        });
        scan_all(store, key::all(b't'), |key, _| {
            let number = key::number_of(key);
            if let Some(&log) = log_at.get(&number) {
                state.logs[log].trim_due = true;
                state.trims.insert(number, log);
            }
        });
        scan_all(store, key::all(b'o'), |key, value| {
            let Some((number, start)) = key::orphan_parts(key) else { return };
            let Some(record) = OrphanRecord::from_bytes(value) else { return };
            if let Some(&log) = log_at.get(&number) {
                state.orphans.insert((number, start), Orphan { log, from: record.from });
            }
        });
        scan_all(store, key::all(b'a'), |key, value| {
            let app = key.last_chunk::<4>().map(|bytes| AppId(u32::from_be_bytes(*bytes)));
            if let (Some(app), Some(usage)) = (app, UsageRecord::from_bytes(value)) {
                state.usage.insert(app, usage);
                tell(Fact::Usage { app, used: usage.told() });
            }
        });
        scan_all(store, key::all_sessions(), |key, value| {
            state.load_record(store, &log_at, key, value);
        });
        for (app, filter) in filters {
            tell(Fact::FilterAdded { app, filter });
        }
        for key in state.groups.keys() {
            tell(Fact::GroupAdded { key: key.clone() });
        }
        state
    }

    /// Takes one record of a session; its head comes before all others.
    fn load_record(
        &mut self,
        store: &dyn Store,
        log_at: &std::collections::BTreeMap<u64, usize>,
        key: &[u8],
        value: &[u8],
    ) {
        let Some((session, tag, rest)) = key::session_parts(key) else { return };
        if tag == key::SESSION {
            if let Some(record) = SessionRecord::from_bytes(value) {
                let at = self.add_session(session, &record);
                self.load_progress(store, at);
                let log = record.private_log.and_then(|number| log_at.get(&number));
                if let Some(&log) = log {
                    self.join(store, at, log, membership::private_joining());
                }
            }
            return;
        }
        let Some(&at) = self.by_key.get(&session) else { return };
        let joining = match tag {
            key::SUBSCRIPTION => {
                let Some(record) = SubscriptionRecord::from_bytes(value) else { return };
                let session = &mut self.sessions[at];
                session.subscriptions += 1;
                session.quiet += u32::from(is_quiet(&record));
                self.groups.load(session.app, session.key, &record);
                if record.share.is_some()
                    && let Some(&log) = record.log.and_then(|number| log_at.get(&number))
                    && let Some(hash) = rest.first_chunk()
                {
                    let name = (session.key, u128::from_be_bytes(*hash));
                    self.share_logs.insert(name, log);
                }
                record.log.map(|log| {
                    let SubscriptionRecord { options, subscription_id, joined: start, .. } = record;
                    (log, membership::Joining { start, end: OPEN, options, subscription_id })
                })
            }
            key::DRAIN => DrainRecord::from_bytes(value).map(|record| {
                let DrainRecord { log, options, subscription_id, start, end } = record;
                (log, membership::Joining { start, end, options, subscription_id })
            }),
            _ => None,
        };
        if let Some((number, how)) = joining
            && let Some(&log) = log_at.get(&number)
        {
            self.join(store, at, log, how);
        }
    }

    fn load_progress(&mut self, store: &dyn Store, at: usize) {
        let session = &mut self.sessions[at];
        let stored = key::of_session(session.key, key::PROGRESS, &[]);
        if let Some(progress) = super::read::<ProgressRecord>(store, &stored) {
            session.cursor = progress.cursor;
            session.beyond = progress.beyond;
            if progress.skips.open.is_some() || !progress.skips.ranges.is_empty() {
                session.skips = Some(Box::new(progress.skips));
            }
        }
    }
}

pub(super) fn scan_all(
    store: &dyn Store,
    (mut from, to): (Vec<u8>, Vec<u8>),
    mut take: impl FnMut(&[u8], &[u8]),
) {
    loop {
        let found = store.scan(&from, &to, SCAN_PAIRS);
        for (key, value) in &found {
            take(key, value);
        }
        match found.last() {
            Some((last, _)) if found.len() == SCAN_PAIRS => from = key::after(last),
            _ => return,
        }
    }
}
