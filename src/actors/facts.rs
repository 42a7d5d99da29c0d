//! Takes what the shards tell on their own and puts it where workers read it.
//!
//! - Owns: the route table (one writer at a time, snapshots for readers), the ledger of what apps hold,
//!   and, per shard, the set of sessions with news.
//! - Takes: [`Fact`]s on the cluster's threads, inside `apply`. Gives: snapshots to publishers, a wake to
//!   the shard's home. Blocks: only for the length of one table update.
//! - Bound: at most one entry per session in a set, none for shards that another node leads; the table as in
//!   `model::route`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use hongqiao_cluster::id::ShardId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{durable_routes::DurableRoutes, quota_ledger::QuotaLedger};
use crate::{
    clock, limits,
    model::{id::SessionKey, route::RouteTable, route_key},
    shard::command::{Fact, Holder},
};

/// The route table: readers load a snapshot, facts replace it.
#[derive(Default)]
pub struct Routes {
    writing: Mutex<()>,
    snapshot: ArcSwap<RouteTable>,
}

impl Routes {
    /// Returns the present table (NO-WAIT-READ).
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<RouteTable>> {
        self.snapshot.load()
    }

    fn change(&self, apply: impl FnOnce(&mut RouteTable)) {
        let _writing = self.writing.lock();
        let mut table = RouteTable::clone(&self.snapshot.load());
        apply(&mut table);
        self.snapshot.store(Arc::new(table));
    }
}

/// What happened in one shard since its home last looked. Kept only while the shard is led here.
#[derive(Default)]
pub struct News {
    told: Mutex<Told>,
    wake: Notify,
}

/// See [`News`].
#[derive(Debug, Default)]
pub struct Told {
    /// Sessions whose logs grew, and who holds them.
    pub grew: AHashMap<SessionKey, Holder>,
    /// Durable sessions that did not exist before.
    pub began: Vec<SessionKey>,
    kept: bool,
}

impl News {
    /// Begins to keep news, or forgets them and keeps none.
    pub fn keep(&self, kept: bool) {
        *self.told.lock() = Told { kept, ..Told::default() };
    }

    /// Adds sessions whose logs grew, and wakes the home.
    pub fn add(&self, sessions: impl IntoIterator<Item = (SessionKey, Holder)>) {
        self.change(|told| told.grew.extend(sessions));
    }

    /// Adds a session that exists now, and wakes the home.
    pub fn add_begun(&self, session: SessionKey) {
        self.change(|told| told.began.push(session));
    }

    fn change(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock();
        if told.kept {
            change(&mut told);
            drop(told);
            self.wake.notify_one();
        }
    }

    /// Waits for news and takes all of it.
    pub async fn take(&self) -> Told {
        loop {
            let taken = self.take_now();
            if !(taken.grew.is_empty() && taken.began.is_empty()) {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn take_now(&self) -> Told {
        let mut told = self.told.lock();
        let kept = told.kept;
        std::mem::replace(&mut *told, Told { kept, ..Told::default() })
    }
}

/// What facts change, for all shards of the node.
#[derive(Default)]
pub struct Facts {
    /// Durable routes to shards with a replica here.
    pub routes: Routes,
    /// What the other nodes must know of the shards that are led here.
    pub durable_routes: Arc<DurableRoutes>,
    /// What apps have left of their quotas.
    pub ledger: QuotaLedger,
    /// By shard.
    news: Vec<Arc<News>>,
    dropped: AtomicU64,
    /// Of these, how many the log does not say yet, and when it last said so.
    drops_unsaid: AtomicU64,
    drops_said: Mutex<Option<Instant>>,
    /// Refused writes, by cause.
    refused: [AtomicU64; REFUSE_CAUSES.len()],
}

/// Why a durable write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RefuseCause {
    /// The app is over its quota.
    Quota = 0,
    /// Too much waits already: at the worker, or for the permits of the node.
    Overloaded = 1,
    /// The disk has less free space than the reserve.
    DiskFull = 2,
    /// Writing or syncing fails.
    DiskFailing = 3,
    /// The shard has no leader here.
    NoLeader = 4,
    /// Not answered in time: it may have been written.
    Unknown = 5,
}

/// What metrics call them, in order.
pub const REFUSE_CAUSES: [&str; 6] =
    ["quota", "overloaded", "disk_full", "disk_failing", "no_leader", "unknown"];

impl Facts {
    /// Prepares for `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Arc<Self> {
        let news = (0..shards).map(|_| Arc::default()).collect();
        let durable_routes = Arc::new(DurableRoutes::new(shards));
        Arc::new(Self { news, durable_routes, ..Self::default() })
    }

    /// Returns the news of one shard, for its home.
    #[must_use]
    pub fn news(&self, shard: ShardId) -> Arc<News> {
        self.news.get(usize::from(shard.0)).cloned().unwrap_or_default()
    }

    /// Returns how many messages full queues of shards that are led here have dropped since the start.
    #[must_use]
    pub fn dropped_messages(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts durable writes that were refused; from any thread.
    pub fn refuse(&self, cause: RefuseCause, writes: u64) {
        self.refused[cause as usize].fetch_add(writes, Ordering::Relaxed);
    }

    /// Returns how many writes were refused since the start, by cause.
    pub fn refused_writes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        REFUSE_CAUSES.into_iter().zip(counts)
    }

    /// Says that queues are full, and which one; at most once in `DROPS_LOGGED_EVERY`, because a full
    /// queue drops with every message that comes.
    fn log_drops(&self, shard: ShardId, session: SessionKey, messages: u64) {
        let unsaid = &self.drops_unsaid;
        unsaid.fetch_add(messages, Ordering::Relaxed);
        let (now, said) = (clock::now(), self.drops_said.try_lock());
        let Some(mut said) = said else { return };
        if said.is_some_and(|said| now.duration_since(said) < limits::DROPS_LOGGED_EVERY) {
            return;
        }
        *said = Some(now);
        let messages = unsaid.swap(0, Ordering::Relaxed);
        tracing::info!(messages, ?session, shard = shard.0, "queue full, messages dropped");
    }

    /// Takes one fact of `shard`.
    pub fn take(&self, shard: ShardId, fact: Fact) {
        match fact {
            Fact::FilterAdded { app, filter } => {
                self.routes.change(|table| table.add(app, &filter, shard));
                self.durable_routes.added(shard, &route_key::of_filter(app, filter.as_bytes()));
            }
            Fact::FilterRemoved { app, filter } => {
                let key = route_key::of_filter(app, filter.as_bytes());
                self.durable_routes.removed(shard, &key);
                self.routes.change(|table| table.remove(app, &filter, shard));
            }
            Fact::GroupAdded { key } => self.durable_routes.added(shard, &key),
            Fact::GroupRemoved { key } => self.durable_routes.removed(shard, &key),
            Fact::LogGrew { sessions } => {
                if let Some(news) = self.news.get(usize::from(shard.0)) {
                    news.add(sessions);
                }
            }
            Fact::SessionBegan { key } => {
                if let Some(news) = self.news.get(usize::from(shard.0)) {
                    news.add_begun(key);
                }
            }
            Fact::Usage { app, used } => self.ledger.report(shard, app, used),
            // Each replica drops, also when it replays its log; the shard's home is where it is counted.
            Fact::Dropped { key, messages } if self.is_home(shard) => {
                self.dropped.fetch_add(messages, Ordering::Relaxed);
                self.log_drops(shard, key, messages);
            }
            Fact::Dropped { .. } => {}
        }
    }

    /// Tells whether the home of a shard acts on this node.
    fn is_home(&self, shard: ShardId) -> bool {
        self.news.get(usize::from(shard.0)).is_some_and(|news| news.told.lock().kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        id::AppId,
        topic::{TopicFilter, TopicName},
    };

    #[test]
    fn filter_facts_when_taken_change_the_snapshot() {
        let facts = Facts::new(4);
        let (app, filter) = (AppId(1), TopicFilter::parse("a/+").unwrap());
        let topic = TopicName::parse("a/b").unwrap();
        facts.take(ShardId(2), Fact::FilterAdded { app, filter: filter.clone() });
        let shards: Vec<_> = facts.routes.load().places(app, &topic).iter().collect();
        assert_eq!(shards, [ShardId(2)]);
        facts.take(ShardId(2), Fact::FilterRemoved { app, filter });
        assert!(facts.routes.load().places(app, &topic).is_empty());
    }

    #[tokio::test]
    async fn news_when_added_twice_is_taken_once() {
        let facts = Facts::new(1);
        let news = facts.news(ShardId(0));
        news.keep(true);
        let holder = Holder { node: 1, incarnation: 1, connection: 3 };
        let sessions = vec![(SessionKey(7), holder)];
        facts.take(ShardId(0), Fact::LogGrew { sessions: sessions.clone() });
        facts.take(ShardId(0), Fact::LogGrew { sessions });
        assert_eq!(news.take().await.grew.len(), 1);
        assert!(news.told.lock().grew.is_empty());
    }

    #[test]
    fn drops_are_counted_where_the_shard_is_led_and_nowhere_else() {
        let facts = Facts::new(2);
        let drop = |shard| {
            facts.take(ShardId(shard), Fact::Dropped { key: SessionKey(7), messages: 3 });
            facts.dropped_messages()
        };
        assert_eq!(drop(0), 0, "another replica, or the log that is replayed at a start");
        facts.news(ShardId(0)).keep(true);
        assert_eq!(drop(0), 3);
        assert_eq!(drop(1), 3);
        facts.news(ShardId(0)).keep(false);
        assert_eq!(drop(0), 3);
    }

    #[test]
    fn news_of_a_shard_led_elsewhere_are_not_kept() {
        let facts = Facts::new(1);
        let news = facts.news(ShardId(0));
        let holder = Holder { node: 1, incarnation: 1, connection: 3 };
        let tell = || {
            let sessions = vec![(SessionKey(7), holder)];
            facts.take(ShardId(0), Fact::LogGrew { sessions });
            facts.take(ShardId(0), Fact::SessionBegan { key: SessionKey(8) });
            let told = news.told.lock();
            (told.grew.len(), told.began.len())
        };
        assert_eq!(tell(), (0, 0));
        news.keep(true);
        assert_eq!(tell(), (1, 1));
        news.keep(false);
        assert_eq!(tell(), (0, 0), "what was kept is forgotten as well");
    }
}
