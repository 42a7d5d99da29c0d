//! Who reads which log: joining, leaving, and the life of a log.
//!
//! - Owns: `Log::members`, `Log::open` and the filters in the trie.
//! - Gives: `FilterAdded` with a filter's first reader, `FilterRemoved` with its last.
//! - Bound: a log without readers is trimmed in bounded steps and then removed.

use bytes::Bytes;

use super::{Entry, Log, Member, OPEN, State, Sub};
use crate::{
    model::{
        id::{AppId, Position},
        message::Qos,
        route_key,
        topic::TopicFilter,
        trie::FilterId,
        wire::SubscriptionOptions,
    },
    shard::{
        command::Fact,
        index, key,
        record::{LogRecord, LogStateRecord, Record as _},
    },
};

/// The walk over routes counts filters from 0 and groups from here.
const GROUPS_FROM: u32 = 1 << 31;

/// How a session reads a log.
#[derive(Clone, Copy)]
pub(super) struct Joining {
    pub(super) start: Position,
    pub(super) end: Position,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: u32,
}

impl State {
    /// Finds or makes the log of a filter; the caller joins it at once.
    pub(super) fn log_of(
        &mut self,
        entry: &mut Entry<'_>,
        app: AppId,
        filter: &TopicFilter,
    ) -> usize {
        if let Some(id) = self.trie.get(app, filter) {
            return self.log_of_filter[usize::try_from(id.0).unwrap_or(usize::MAX)];
        }
        let log = self.new_log(entry, app, Some(filter));
        (entry.tell)(Fact::FilterAdded { app, filter: filter.clone() });
        log
    }

    /// Visits the route keys of `limit` filters, and then of groups, by number from `from` on; returns where to
    /// go on.
    pub(in crate::shard) fn visit_filters(
        &self,
        from: u32,
        limit: u32,
        visit: &mut dyn FnMut(Bytes),
    ) -> Option<u32> {
        if let Some(from) = from.checked_sub(GROUPS_FROM) {
            let (from, limit) = (from as usize, limit as usize);
            let next = self.groups.visit(from, limit, visit)?;
            return Some(GROUPS_FROM.saturating_add(u32::try_from(next).unwrap_or(u32::MAX)));
        }
        let all = u32::try_from(self.log_of_filter.len()).unwrap_or(u32::MAX);
        let end = all.min(from.saturating_add(limit));
        let filters = (from..end).filter_map(|number| self.trie.filter(FilterId(number)));
        filters.for_each(|(app, text)| visit(route_key::of_filter(app, text.as_bytes())));
        Some(if end < all { end } else { GROUPS_FROM })
    }

    pub(super) fn new_log(
        &mut self,
        entry: &mut Entry<'_>,
        app: AppId,
        filter: Option<&TopicFilter>,
    ) -> usize {
        self.numbers.logs += 1;
        let number = self.numbers.logs;
        entry.store.put(key::numbers(), self.numbers.to_bytes());
        let record = LogRecord { app, filter: filter.cloned(), group: None };
        entry.store.put(key::log(number), record.to_bytes());
        self.add_log(number, app, filter, LogStateRecord::default())
    }

    /// Puts a log into memory.
    pub(super) fn add_log(
        &mut self,
        number: u64,
        app: AppId,
        filter: Option<&TopicFilter>,
        state: LogStateRecord,
    ) -> usize {
        let id = filter.map(|filter| self.trie.insert(app, filter).0);
        let log = self.logs.insert(Log {
            number,
            app,
            filter: id,
            members: Vec::new(),
            open: 0,
            state,
            trim_due: false,
            is_shares: false,
            fresh: (0, 0, 0),
        });
        if let Some(id) = id {
            let id = usize::try_from(id.0).unwrap_or(usize::MAX);
            if self.log_of_filter.len() <= id {
                self.log_of_filter.resize(id + 1, usize::MAX);
            }
            self.log_of_filter[id] = log;
        }
        log
    }

    /// Lets a session read a log. The store is needed to count what waits already.
    pub(super) fn join(
        &mut self,
        store: &dyn hongqiao_cluster::machine::Store,
        at: usize,
        log: usize,
        how: Joining,
    ) {
        let session = &mut self.sessions[at];
        let state = &mut self.logs[log];
        let need = how.start.max(session.cursor.next());
        let base = index::amount_at(store, state.number, &state.state, need.min(how.end));
        let cap = if how.end < OPEN {
            Some(index::amount_at(store, state.number, &state.state, how.end))
        } else {
            session.skips.as_ref().and_then(|skips| skips.open.as_ref()).map(|(full, _)| {
                index::amount_at(store, state.number, &state.state, (*full).max(how.start))
            })
        };
        session.subs.push(Sub {
            log,
            at: state.members.len(),
            start: how.start,
            end: how.end,
            base,
            cap,
            options: how.options,
            subscription_id: how.subscription_id,
        });
        state.members.push(Member { session: at, need });
        state.open += u32::from(how.end == OPEN);
    }

    /// Ends what `join` began; what waited only there may be trimmed.
    pub(super) fn leave(&mut self, entry: &mut Entry<'_>, at: usize, sub: usize) {
        let Sub { log, at: place, end, .. } = self.sessions[at].subs.swap_remove(sub);
        let state = &mut self.logs[log];
        state.members.swap_remove(place);
        let last = state.members.len();
        if let Some(&moved) = state.members.get(place) {
            let subs = &mut self.sessions[moved.session].subs;
            if let Some(sub) = subs.iter_mut().find(|sub| sub.log == log && sub.at == last) {
                sub.at = place;
            }
        }
        if end == OPEN {
            self.close_one(entry, log);
        }
        self.trim_after(entry, log, None);
    }

    /// Lets a subscription take no more, but keep what waits. Returns `false` if nothing waits.
    pub(super) fn begin_drain(&mut self, entry: &mut Entry<'_>, at: usize, sub: usize) -> bool {
        let session = &mut self.sessions[at];
        // A full session would skip what came since.
        let full = session.skips.as_ref().and_then(|skips| skips.open);
        let end = full.map_or(OPEN, |(from, _)| from).min(entry.logged_to());
        let sub = &mut session.subs[sub];
        let (log, total) = (sub.log, self.logs[sub.log].state.total);
        let cap = sub.cap.unwrap_or(total);
        if sub.base.messages >= cap.messages {
            return false;
        }
        sub.end = end;
        sub.cap = Some(cap);
        self.close_one(entry, log);
        true
    }

    /// A member takes no more; the filter of a log without any that does is gone.
    pub(super) fn close_one(&mut self, entry: &mut Entry<'_>, log: usize) {
        let state = &mut self.logs[log];
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        let Some(id) = state.filter.take() else { return };
        debug_assert!(!state.is_shares, "a log of shares has no filter of its own");
        let (app, number) = (state.app, state.number);
        let text = self.trie.filter(id).map(|(_, text)| text.to_owned());
        self.trie.remove(id);
        entry.store.put(key::log(number), LogRecord { app, filter: None, group: None }.to_bytes());
        if let Some(Ok(filter)) = text.map(TopicFilter::parse) {
            (entry.tell)(Fact::FilterRemoved { app, filter });
        }
    }

    /// Forgets a log that nobody reads and that holds nothing.
    pub(super) fn remove_log(&mut self, entry: &mut Entry<'_>, log: usize) {
        let number = self.logs[log].number;
        for key in [key::log(number), key::log_state(number)] {
            entry.store.delete(&key);
        }
        self.logs.remove(log);
    }

    /// Returns the log of messages for this session alone; makes it if need be.
    pub(super) fn private_log_of(&mut self, entry: &mut Entry<'_>, at: usize) -> usize {
        let session = &self.sessions[at];
        if let Some(number) = session.private_log
            && let Some(sub) = session.subs.iter().find(|sub| self.logs[sub.log].number == number)
        {
            return sub.log;
        }
        let app = session.app;
        let log = self.new_log(entry, app, None);
        let how = private_joining();
        self.join(&*entry.store, at, log, how);
        self.sessions[at].private_log = Some(self.logs[log].number);
        let number = self.sessions[at].private_log;
        self.update_record(entry, at, |record, _| record.private_log = number);
        log
    }
}

/// Returns how a session reads its private log.
pub(super) fn private_joining() -> Joining {
    let options = SubscriptionOptions { qos: Qos::ExactlyOnce, ..Default::default() };
    Joining { start: Position::START, end: OPEN, options, subscription_id: 0 }
}
