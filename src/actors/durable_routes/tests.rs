//! Shards whose leadership and filters the test decides.

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::*;
use crate::{actors::meta::fake::FakeMeta, model::id::AppId};

const APP: AppId = AppId(1);
const HERE: ShardId = ShardId(3);

fn key(text: &str) -> Bytes {
    route_key::of_filter(APP, text.as_bytes())
}

fn keys(texts: &[&str]) -> BTreeSet<Bytes> {
    texts.iter().map(|text| key(text)).chain([route_key::ALL_ROUTED]).collect()
}

/// One shard whose filters the test says.
struct FakeShards {
    term: watch::Sender<Option<u64>>,
    filters: Mutex<Vec<&'static str>>,
}

impl FakeShards {
    fn new(filters: &[&'static str]) -> Arc<Self> {
        Arc::new(Self { term: watch::channel(Some(5)).0, filters: Mutex::new(filters.to_vec()) })
    }
}

impl Shards for FakeShards {
    fn term(&self, _shard: ShardId) -> Option<u64> {
        *self.term.borrow()
    }

    fn term_changed(&self, _shard: ShardId, old: Option<u64>) -> BoxFuture<'static, ()> {
        let mut term = self.term.subscribe();
        Box::pin(async move {
            let _ = term.wait_for(|term| *term != old).await;
        })
    }

    fn filters(
        &self,
        _shard: ShardId,
        from: u32,
        mut visit: Visit,
    ) -> BoxFuture<'static, Result<Option<u32>, NotLed>> {
        let filters = self.filters.lock();
        // Two filters a page.
        let page = filters.iter().skip(from as usize).take(2);
        page.for_each(|filter| visit(key(filter)));
        let next = (filters.len() > from as usize + 2).then_some(from + 2);
        Box::pin(async move { Ok(next) })
    }
}

fn start(meta: &Arc<FakeMeta>, shards: &Arc<FakeShards>) -> Arc<DurableRoutes> {
    let routes = Arc::new(DurableRoutes::new(4));
    let (meta, shards) = (Arc::new(Arc::clone(meta)), Arc::clone(shards));
    tokio::spawn(Arc::clone(&routes).run(HERE, meta, shards));
    routes
}

async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shard_of_a_node_alone_proposes_nothing() {
    let (meta, shards) = (FakeMeta::alone(), FakeShards::new(&["a"]));
    let routes = start(&meta, &shards);
    routes.added(HERE, &key("b"));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(meta.changes(), 0);
    assert!(routes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn new_leader_adds_what_is_missing_and_removes_what_is_too_much() {
    let (meta, shards) = (FakeMeta::in_company(), FakeShards::new(&["a", "b", "c", "d", "e"]));
    meta.leave_behind(HERE, key("b"));
    meta.leave_behind(HERE, key("gone"));
    let routes = start(&meta, &shards);
    until(|| meta.durable(HERE).len() == 7).await;
    assert!(meta.durable(HERE).contains(&key("gone")), "not at once");
    until(|| meta.durable(HERE) == keys(&["a", "b", "c", "d", "e"])).await;
    assert!(routes.is_empty(), "nothing is remembered of what is settled");
}

#[tokio::test(start_paused = true)]
async fn subscribe_waits_for_commit_and_barrier() {
    let (meta, shards) = (FakeMeta::in_company(), FakeShards::new(&[]));
    let routes = start(&meta, &shards);
    until(|| meta.durable(HERE) == keys(&[])).await;
    meta.set_behind(true);
    routes.added(HERE, &key("a"));
    let (waiting, wanted) = (Arc::clone(&routes), [key("a")]);
    let ensured = tokio::spawn(async move { waiting.ensure(HERE, &wanted).await });
    until(|| meta.durable(HERE) == keys(&["a"])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!ensured.is_finished(), "a node is behind");
    meta.set_behind(false);
    assert_eq!(ensured.await.unwrap(), Ok(()));
    assert_eq!(routes.ensure(HERE, &[key("a")]).await, Ok(()), "at once");
}

#[tokio::test(start_paused = true)]
async fn filter_that_goes_and_comes_back_is_routed_before_the_suback() {
    let (meta, shards) = (FakeMeta::in_company(), FakeShards::new(&["a"]));
    let routes = start(&meta, &shards);
    until(|| meta.durable(HERE) == keys(&["a"])).await;
    routes.removed(HERE, &key("a"));
    until(|| meta.durable(HERE) == keys(&[])).await;
    routes.added(HERE, &key("a"));
    assert_eq!(routes.ensure(HERE, &[key("a")]).await, Ok(()));
    assert!(meta.durable(HERE).contains(&key("a")));
}

#[tokio::test(start_paused = true)]
async fn leader_that_is_deposed_sends_who_waits_elsewhere() {
    let (meta, shards) = (FakeMeta::in_company(), FakeShards::new(&[]));
    let routes = start(&meta, &shards);
    until(|| meta.durable(HERE) == keys(&[])).await;
    meta.led_elsewhere(HERE, 6);
    routes.added(HERE, &key("a"));
    let (waiting, wanted) = (Arc::clone(&routes), [key("a")]);
    let ensured = tokio::spawn(async move { waiting.ensure(HERE, &wanted).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ensured.is_finished() && !meta.durable(HERE).contains(&key("a")), "fenced");
    shards.term.send_replace(None);
    assert_eq!(ensured.await.unwrap(), Err(NotLed));
    shards.filters.lock().push("a");
    shards.term.send_replace(Some(7));
    until(|| meta.durable(HERE) == keys(&["a"])).await;
    assert_eq!(routes.ensure(HERE, &[key("a")]).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn facts_that_come_while_the_shard_is_compared_are_not_lost() {
    let (meta, shards) = (FakeMeta::in_company(), FakeShards::new(&["a", "b"]));
    meta.leave_behind(HERE, key("a"));
    meta.leave_behind(HERE, key("b"));
    meta.set_behind(true);
    let routes = start(&meta, &shards);
    // The leader waits for its first barrier: facts come before the comparison.
    tokio::time::sleep(Duration::from_millis(50)).await;
    routes.added(HERE, &key("new"));
    routes.removed(HERE, &key("a"));
    shards.filters.lock().retain(|filter| *filter != "a");
    meta.set_behind(false);
    until(|| meta.durable(HERE) == keys(&["b", "new"])).await;
    assert_eq!(routes.ensure(HERE, &[key("new"), key("b")]).await, Ok(()));
}
