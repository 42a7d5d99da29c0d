//! Subscriptions on a node whose shards are led by another one.

mod churn;

use std::time::Duration;

use futures_util::future::BoxFuture;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member},
};
use parking_lot::Mutex;

use super::*;
use crate::{
    actors::{
        meta::fake::FakeMeta,
        peer::{PeerError, Wire},
    },
    model::{topic::TopicFilter, wire::SubscriptionOptions},
};

const APP: AppId = AppId(1);
const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// A node that leads all shards and answers what the test says.
struct OtherNode {
    asked: Mutex<Vec<Bytes>>,
    answers: Mutex<Vec<Result<Bytes, PeerError>>>,
}

impl Wire for Arc<OtherNode> {
    fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        _time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        assert_eq!((to, class), (OTHER, Class::Control));
        self.asked.lock().push(body);
        let answer = self.answers.lock().pop().unwrap_or(Err(PeerError::Unreachable));
        Box::pin(async move { answer })
    }

    fn cast(&self, _to: NodeId, _class: Class, _body: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

struct World {
    meta: Arc<FakeMeta>,
    other: Arc<OtherNode>,
    barrier: Arc<SubackBarrier>,
}

fn member() -> Member {
    Member {
        incarnation: 1,
        up: true,
        routes_complete: true,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: String::new(),
    }
}

fn world(nodes: &[NodeId]) -> World {
    let meta = if nodes.len() > 1 { FakeMeta::in_company() } else { FakeMeta::alone() };
    let live = Arc::<LiveRoutes>::default();
    tokio::spawn(Arc::clone(&live).run(
        Arc::new(Arc::clone(&meta)),
        crate::actors::live_routes::Tellers { routers: Vec::new(), groups: Vec::new() },
    ));
    let tables = RouteTables::new(ME);
    let mut directory = Directory::default();
    for node in nodes {
        directory.nodes.insert(*node, member());
    }
    tables.take(&directory, &[MetaChange::Reloaded]);
    let other = Arc::new(OtherNode { asked: Mutex::default(), answers: Mutex::default() });
    let barrier = Arc::new(SubackBarrier {
        me: ME,
        live,
        durable: Arc::new(DurableRoutes::new(4)),
        tables,
        peers: Peers::new(Arc::new(Arc::clone(&other))),
        leader_of: Box::new(|_| Some(OTHER)),
    });
    World { meta, other, barrier }
}

fn item(filter: &str, qos: Qos) -> StoredSubscription {
    StoredSubscription {
        filter: TopicFilter::parse(filter).unwrap(),
        share: None,
        options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
        subscription_id: 0,
    }
}

fn reply(reply: u8) -> Result<Bytes, PeerError> {
    Ok(Bytes::from(vec![1, reply, 0, 0, 0]))
}

#[tokio::test(start_paused = true)]
async fn node_alone_lets_everybody_pass_at_once() {
    let world = world(&[ME]);
    let items = [item("a", Qos::AtLeastOnce)];
    assert!(world.barrier.is_alone());
    assert!(world.barrier.passed(APP, Some(ShardId(0)), &items).is_none());
}

#[tokio::test(start_paused = true)]
async fn durable_subscription_waits_for_who_leads_its_shard() {
    let world = world(&[ME, OTHER]);
    // Taken from the end: not led there, no answer, done.
    *world.other.answers.lock() = vec![reply(0), Err(PeerError::Unknown), reply(3)];
    let items = [item("a", Qos::AtLeastOnce), item("quiet", Qos::AtMostOnce)];
    let passed = world.barrier.passed(APP, Some(ShardId(2)), &items).unwrap().await;
    assert_eq!(passed, [true, true]);
    let asked = world.other.asked.lock();
    assert_eq!(asked.len(), 3);
    let key = route_key::of_filter(APP, b"a");
    let names = |what: &[u8]| asked[0].windows(what.len()).any(|part| part == what);
    assert!(names(&key) && !names(b"quiet"), "QoS 0 is not stored");
}

#[tokio::test(start_paused = true)]
async fn durable_subscription_whose_shard_has_no_leader_is_refused_and_the_others_are_not() {
    let world = world(&[ME, OTHER]);
    let items = [item("a", Qos::AtLeastOnce), item("quiet", Qos::AtMostOnce)];
    let began = tokio::time::Instant::now();
    let passed = world.barrier.passed(APP, Some(ShardId(2)), &items).unwrap().await;
    assert_eq!(passed, [false, true]);
    assert!(began.elapsed() < 2 * limits::ROUTE_WAIT);
}

#[tokio::test(start_paused = true)]
async fn durable_subscription_waits_for_the_route_of_what_it_takes_live() {
    let world = world(&[ME, OTHER]);
    while !world.meta.is_complete() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let items = [item("a", Qos::AtLeastOnce), item("b", Qos::AtMostOnce)];
    let keys = [route_key::of_filter_qos_0(APP, b"a"), route_key::of_filter(APP, b"b")];
    for (place, key) in keys.into_iter().enumerate() {
        world.meta.set_behind(true);
        world.barrier.live.hold(0, [key]);
        *world.other.answers.lock() = vec![reply(0)];
        let passed = world.barrier.passed(APP, Some(ShardId(2)), &items[place..=place]).unwrap();
        let passed = tokio::spawn(passed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!passed.is_finished(), "a node does not know the route");
        world.meta.set_behind(false);
        assert_eq!(passed.await.unwrap(), [true]);
    }
}

#[tokio::test(start_paused = true)]
async fn live_subscription_waits_for_its_own_route_only() {
    let world = world(&[ME, OTHER]);
    while !world.meta.is_complete() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.barrier.live.hold(0, [route_key::of_filter(APP, b"a")]);
    let items = [item("a", Qos::AtLeastOnce)];
    let passed = world.barrier.passed(APP, None, &items).unwrap().await;
    assert_eq!(passed, [true]);
    assert!(world.other.asked.lock().is_empty());
    assert!(world.barrier.passed(APP, None, &items).is_none(), "known");
}
