//! What can be asked of a shard without writing: pages of queues, retained messages, users, counts.
//!
//! - Takes: the machine and its store, as they are between two entries. Gives: plain values.
//! - Bound: every answer has a limit, and so has the work for it; who wants more asks again.

use bytes::Bytes;
use hongqiao_cluster::machine::Store;

use super::{
    command::{Holder, StoredSubscription},
    key,
    machine::ShardMachine,
    record::{AppRecord, Record as _, SessionRecord, SubscriptionRecord, UserRecord},
};
use crate::model::id::{AppId, Epoch, SessionKey};

mod orphan;
mod page;
mod retained;

pub use orphan::{OrphanChunk, OrphanKey, orphan_after};
pub use page::{Fenced, PageLimits, page};
pub use retained::retained;

/// One durable session, as homes and metrics see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Which.
    pub key: SessionKey,
    /// Tenant.
    pub app: AppId,
    /// Client id.
    pub client_id: String,
    /// Who owns it now.
    pub holder: Option<Holder>,
    /// Messages that wait for it; see [`QueueDepth`].
    pub depth: QueueDepth,
}

/// What waits behind a cursor. A message that matches two filters of a session counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages.
    pub messages: u64,
    /// Bytes of their topics, properties and payloads.
    pub bytes: u64,
}

/// What a shard holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Durable sessions.
    pub sessions: u64,
    /// Logs of filters and of single sessions.
    pub logs: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Messages in the logs; one that is in the logs of two filters counts twice.
    pub log_messages: u64,
    /// Bytes of their bodies, each counted once.
    pub log_bytes: u64,
}

/// Lists durable sessions in the order of their keys, after `after`, at most `limit`.
#[must_use]
pub fn sessions_durable(
    machine: &ShardMachine,
    store: &dyn Store,
    after: Option<SessionKey>,
    limit: usize,
) -> Vec<SessionView> {
    let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let found = machine.state.by_key.range((from, std::ops::Bound::Unbounded)).take(limit);
    found
        .filter_map(|(&key, &at)| {
            let stored = store.get(&key::of_session(key, key::SESSION, &[]))?;
            let record = SessionRecord::from_bytes(&stored)?;
            let depth = depth_at(machine, at);
            let SessionRecord { app, client_id, holder, .. } = record;
            Some(SessionView { key, app, client_id, holder, depth })
        })
        .collect()
}

/// Sessions with their holders, as homes and upkeeps need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldPage {
    /// In the order of their keys, with the epoch of the claim that counts.
    pub sessions: Vec<(SessionKey, Epoch, Option<Holder>)>,
    /// Session to go on after; `None`: that was all.
    pub next: Option<SessionKey>,
}

/// Which sessions are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Durable ones.
    Durable,
    /// Also what only holds the will of a connection.
    Wills,
}

/// Lists the sessions among the next `limit` after `after`; reads nothing but memory.
#[must_use]
pub fn held(
    machine: &ShardMachine,
    after: Option<SessionKey>,
    limit: usize,
    which: Held,
) -> HeldPage {
    let state = &machine.state;
    let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let range = state.by_key.range((from, std::ops::Bound::Unbounded)).take(limit);
    let (mut sessions, mut looked, mut last) = (Vec::new(), 0, None);
    for (&key, &at) in range {
        let session = &state.sessions[at];
        (looked, last) = (looked + 1, Some(key));
        if which == Held::Wills || !session.will_only {
            sessions.push((key, session.epoch, session.holder));
        }
    }
    HeldPage { sessions, next: last.filter(|_| looked == limit) }
}

/// Visits the route keys of filters with a reader that takes new messages or waits for some, and of shared
/// groups with a member, `limit` numbers from `from` on; returns where to go on.
pub fn visit_routes(
    machine: &ShardMachine,
    from: u32,
    limit: u32,
    visit: &mut dyn FnMut(Bytes),
) -> Option<u32> {
    machine.state.visit_filters(from, limit, visit)
}

/// Lists `limit` durable members of a shared group, named by its route key, after `after`.
#[must_use]
pub fn group_members(
    machine: &ShardMachine,
    key: &Bytes,
    after: Option<SessionKey>,
    limit: usize,
) -> Vec<SessionKey> {
    machine.state.groups.members(key, after, limit)
}

/// Members of shared groups, as the groups' homes need them at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedMembers {
    /// Shared subscriptions of durable sessions.
    pub members: Vec<(SessionKey, AppId, StoredSubscription)>,
    /// Session to go on after; `None`: that was all.
    pub next: Option<SessionKey>,
}

/// Lists the shared subscriptions of at most `limit` durable sessions after `after`.
#[must_use]
pub fn shared_members(
    machine: &ShardMachine,
    store: &dyn Store,
    after: Option<SessionKey>,
    limit: usize,
) -> SharedMembers {
    let sessions = sessions_durable(machine, store, after, limit);
    let next = sessions.last().map(|session| session.key).filter(|_| sessions.len() == limit);
    let mut members = Vec::new();
    for session in sessions {
        let subscriptions = subscriptions_of(store, session.key);
        let shared = subscriptions.into_iter().filter(|item| item.share.is_some());
        members.extend(shared.map(|item| (session.key, session.app, item)));
    }
    SharedMembers { members, next }
}

/// Reads all subscriptions of a session.
fn subscriptions_of(store: &dyn Store, session: SessionKey) -> Vec<StoredSubscription> {
    const RECORDS_PER_SCAN: usize = 1_024;
    let mut from = key::of_session(session, key::SUBSCRIPTION, &[]);
    let to = key::of_session(session, key::SUBSCRIPTION + 1, &[]);
    let mut items = Vec::new();
    loop {
        let found = store.scan(&from, &to, RECORDS_PER_SCAN);
        items.extend(found.iter().filter_map(|(_, value)| {
            let record = SubscriptionRecord::from_bytes(value)?;
            Some(StoredSubscription {
                filter: record.filter,
                share: record.share,
                options: record.options,
                subscription_id: record.subscription_id,
            })
        }));
        match found.last() {
            Some((last, _)) if found.len() == RECORDS_PER_SCAN => from = key::after(last),
            _ => return items,
        }
    }
}

/// Returns what waits for a session; `None` if there is no such durable session.
#[must_use]
pub fn queue_depth(machine: &ShardMachine, key: SessionKey) -> Option<QueueDepth> {
    machine.state.by_key.get(&key).map(|&at| depth_at(machine, at))
}

/// Counts what the shard holds.
#[must_use]
pub fn totals(machine: &ShardMachine) -> Totals {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let usage = machine.state.usage.values();
    Totals {
        sessions: count(machine.state.sessions.iter().filter(|(_, each)| !each.will_only).count()),
        logs: count(machine.state.logs.len()),
        retained_messages: usage.clone().map(|usage| usage.retained.messages).sum(),
        log_messages: machine
            .state
            .logs
            .iter()
            .map(|(_, log)| log.state.total.messages.saturating_sub(log.state.trimmed.messages))
            .sum(),
        log_bytes: usage.map(|usage| usage.log_bytes).sum(),
    }
}

/// Tells whether a `Tick` at `now_ms` would find anything to do.
#[must_use]
pub fn is_due(machine: &ShardMachine, store: &dyn Store, now_ms: u64) -> bool {
    let (from, to) = key::deadlines_until(now_ms);
    !machine.state.trims.is_empty() || !store.scan(&from, &to, 1).is_empty()
}

/// Tells whether members of shared groups have left something.
#[must_use]
pub fn has_orphans(machine: &ShardMachine) -> bool {
    !machine.state.orphans.is_empty()
}

/// Returns the password hash of a user.
#[must_use]
pub fn user(store: &dyn Store, app: AppId, name: &str) -> Option<String> {
    let stored = store.get(&key::user(app, name))?;
    Some(UserRecord::from_bytes(&stored)?.password_hash)
}

/// Returns the number of an app.
#[must_use]
pub fn app(store: &dyn Store, name: &str) -> Option<AppId> {
    let stored = store.get(&key::app_by_name(name))?;
    Some(AppRecord::from_bytes(&stored)?.0)
}

/// Lists all apps by their numbers.
#[must_use]
pub fn apps(store: &dyn Store) -> Vec<(AppId, String)> {
    const APPS_PER_SCAN: usize = 1_024;
    let (mut from, to) = key::all(b'I');
    let mut apps = Vec::new();
    loop {
        let found = store.scan(&from, &to, APPS_PER_SCAN);
        apps.extend(found.iter().filter_map(|(key, name)| {
            let app = AppId(u32::from_be_bytes(*key.last_chunk::<4>()?));
            Some((app, String::from_utf8_lossy(name).into_owned()))
        }));
        match found.last() {
            Some((last, _)) if found.len() == APPS_PER_SCAN => from = key::after(last),
            _ => return apps,
        }
    }
}

fn depth_at(machine: &ShardMachine, at: usize) -> QueueDepth {
    let waiting = machine.state.waiting(at);
    QueueDepth { messages: waiting.messages, bytes: waiting.bytes }
}
