//! Takes what the shards tell on their own and puts it where workers read it.
//!
//! - Owns: the route table (one writer at a time, snapshots for readers), the ledger of what apps hold,
//!   and, per shard, the set of sessions with news.
//! - Takes: [`Fact`]s on the cluster's threads, inside `apply`. Gives: snapshots to publishers, a wake to
//!   the shard's home. Blocks: only for the length of one table update.
//! - Bound: at most one entry per session in a set; the table as in `model::route`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ahash::AHashSet;
use arc_swap::ArcSwap;
use hongqiao_cluster::id::ShardId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::quota_ledger::QuotaLedger;
use crate::{
    model::{id::SessionKey, route::RouteTable},
    shard::command::Fact,
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

/// Sessions of one shard whose logs grew since the home last looked.
#[derive(Default)]
pub struct News {
    sessions: Mutex<AHashSet<SessionKey>>,
    wake: Notify,
}

impl News {
    /// Adds sessions and wakes the home.
    pub fn add(&self, sessions: impl IntoIterator<Item = SessionKey>) {
        self.sessions.lock().extend(sessions);
        self.wake.notify_one();
    }

    /// Waits for news and takes all of it.
    pub async fn take(&self) -> AHashSet<SessionKey> {
        loop {
            let taken = std::mem::take(&mut *self.sessions.lock());
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }
}

/// What facts change, for all shards of the node.
#[derive(Default)]
pub struct Facts {
    /// Durable routes.
    pub routes: Routes,
    /// What apps have left of their quotas.
    pub ledger: QuotaLedger,
    /// By shard.
    news: Vec<Arc<News>>,
    dropped: AtomicU64,
}

impl Facts {
    /// Prepares for `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Arc<Self> {
        let news = (0..shards).map(|_| Arc::default()).collect();
        Arc::new(Self { news, ..Self::default() })
    }

    /// Returns the news of one shard, for its home.
    #[must_use]
    pub fn news(&self, shard: ShardId) -> Arc<News> {
        self.news.get(usize::from(shard.0)).cloned().unwrap_or_default()
    }

    /// Returns how many messages full queues have dropped since the start.
    #[must_use]
    pub fn dropped_messages(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes one fact of `shard`.
    pub fn take(&self, shard: ShardId, fact: Fact) {
        match fact {
            Fact::FilterAdded { app, filter } => {
                self.routes.change(|table| table.add(app, &filter, shard));
            }
            Fact::FilterRemoved { app, filter } => {
                self.routes.change(|table| table.remove(app, &filter, shard));
            }
            Fact::LogGrew { sessions } => {
                if let Some(news) = self.news.get(usize::from(shard.0)) {
                    news.add(sessions);
                }
            }
            Fact::Usage { app, used } => self.ledger.report(shard, app, used),
            Fact::Dropped { key, messages } => {
                self.dropped.fetch_add(messages, Ordering::Relaxed);
                tracing::info!(session = ?key, messages, shard = shard.0, "queue full, messages dropped");
            }
        }
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
        let sessions = vec![SessionKey(7)];
        facts.take(ShardId(0), Fact::LogGrew { sessions: sessions.clone() });
        facts.take(ShardId(0), Fact::LogGrew { sessions });
        let news = facts.news(ShardId(0));
        assert_eq!(news.take().await.len(), 1);
        assert!(news.sessions.lock().is_empty());
    }
}
