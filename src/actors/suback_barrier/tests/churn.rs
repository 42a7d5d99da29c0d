//! Subscribers come and go on one node while another one publishes, and its directory lags or stands still:
//! no message that was acknowledged and published after a SUBACK is missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use actix::Actor as _;
use ahash::AHashMap;
use hongqiao_cluster::directory::Places;
use tokio::{sync::watch, time::Instant};

use super::*;
use crate::{
    actors::{
        appender::{Appender, Propose, SubmitError},
        facts::Facts,
        meta::{Meta, MetaError, RouteChange, Standing},
        publish::{AppQuota, AppQuotas, Beyond, Outcome, Published, Publisher, Targets},
        relay::{
            Arrivals, Relay,
            fake::{FakeWire, Fate},
        },
        testing::{self, message},
        topic_router::{Subscribe, Subscription, Unsubscribe},
        worker::LinkLimits,
    },
    model::id::HashKey,
    shard::command::Quota,
};

/// Publishes.
const A: NodeId = NodeId(1);
/// Has the subscribers.
const B: NodeId = NodeId(2);
const LEASE: Duration = Duration::from_secs(2);
const TOPICS: u64 = 12;

/// One node's copy of the directory.
struct Copy {
    tables: Arc<RouteTables>,
    applied: usize,
    /// It hears nothing of the meta group since then.
    cut: Option<Instant>,
    /// What the leader had committed when it last granted the lease, and when that was.
    granted: (usize, Instant),
}

struct State {
    log: Vec<RouteChange>,
    copies: BTreeMap<NodeId, Copy>,
}

/// A meta group of two nodes: commits at once, and is applied when the test says.
struct Group {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// One node's view of it.
#[derive(Clone)]
struct Port {
    group: Arc<Group>,
    node: NodeId,
}

impl Group {
    fn new() -> Arc<Self> {
        let copy = |node| {
            let (tables, granted) = (RouteTables::new(node), (0, Instant::now()));
            (node, Copy { tables, applied: 0, cut: None, granted })
        };
        let copies = [A, B].map(copy).into();
        let group = Self {
            state: Mutex::new(State { log: Vec::new(), copies }),
            changed: watch::channel(0).0,
        };
        let group = Arc::new(group);
        group.apply(A);
        group.apply(B);
        group
    }

    /// A node applies what is committed, unless it is cut off, and renews its lease.
    fn apply(&self, node: NodeId) {
        let mut state = self.state.lock();
        let State { log, copies } = &mut *state;
        let Some(copy) = copies.get_mut(&node).filter(|copy| copy.cut.is_none()) else { return };
        copy.applied = log.len();
        copy.granted = (log.len(), Instant::now());
        let mut directory = Directory::default();
        for id in [A, B] {
            let told = |change: &RouteChange| matches!(change, RouteChange::Complete { .. });
            let routes_complete = id == A || log.iter().any(told);
            directory.nodes.insert(id, Member { routes_complete, ..member() });
        }
        let mut routes = BTreeSet::new();
        for change in log.iter() {
            match change {
                RouteChange::AddLive { keys, .. } => routes.extend(keys.iter().cloned()),
                RouteChange::RemoveLive { keys, .. } => routes.retain(|key| !keys.contains(key)),
                _ => {}
            }
        }
        for key in routes {
            let places = Places { nodes: [B].into_iter().collect(), shards: 0 };
            directory.routes.insert(key, places);
        }
        copy.tables.take(&directory, &[MetaChange::Reloaded]);
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    fn cut(&self, node: NodeId, cut: bool) {
        if let Some(copy) = self.state.lock().copies.get_mut(&node) {
            copy.cut = cut.then(Instant::now);
        }
    }

    fn tables(&self, node: NodeId) -> Arc<RouteTables> {
        Arc::clone(&self.state.lock().copies[&node].tables)
    }
}

impl Meta for Port {
    fn propose(&self, change: RouteChange) -> BoxFuture<'static, Result<u64, MetaError>> {
        let group = Arc::clone(&self.group);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let mut state = group.state.lock();
            state.log.push(change);
            Ok(state.log.len() as u64)
        })
    }

    fn barrier(&self, index: u64) -> BoxFuture<'static, ()> {
        let group = Arc::clone(&self.group);
        let asked = Instant::now();
        Box::pin(async move {
            let passed = |copy: &Copy| {
                copy.applied as u64 >= index || asked.elapsed() > LEASE + Duration::from_millis(500)
            };
            while !group.state.lock().copies.values().all(passed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    fn has_lease(&self) -> bool {
        let state = self.group.state.lock();
        let copy = &state.copies[&self.node];
        copy.granted.1.elapsed() < LEASE && copy.applied >= copy.granted.0
    }

    fn standing(&self) -> Standing {
        Standing { alone: false, incarnation: Some(1) }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.group.changed.subscribe()
    }

    fn routes_of(&self, _shard: ShardId) -> BoxFuture<'static, Vec<Bytes>> {
        Box::pin(async { Vec::new() })
    }
}

/// The publishing side of `A`; it has neither workers nor shards.
fn publisher(group: &Arc<Group>, wire: &Arc<FakeWire>) -> Publisher {
    let facts = Facts::new(0);
    let propose: Propose =
        Rc::new(|_, _, _| (None, Box::pin(async { Err(SubmitError::Unavailable) })));
    let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
    let quota = Quota {
        session_messages_max: 1,
        session_bytes_max: 1,
        app_bytes_max: 1,
        drop_oldest: false,
    };
    let common = AppQuota { quota, retained_messages_max: 1, retained_bytes_max: 1 };
    let tables = group.tables(A);
    let relay = Relay::new(1, Arc::new(Arc::clone(wire)), Arc::clone(&tables));
    let meta = Arc::new(Port { group: Arc::clone(group), node: A });
    let targets = Targets {
        routers: Vec::new(),
        groups: Vec::new(),
        interests: crate::actors::interest::Interests::new(0),
        facts,
        group_table: Arc::default(),
        hash_key: HashKey([7; 16]),
        shards: 0,
        quotas: Arc::new(AppQuotas { common, special: AHashMap::new() }),
        beyond: Beyond { tables, relay, meta, ..Beyond::nothing() },
    };
    Publisher::new(targets, appender)
}

async fn accepted(published: Published) -> bool {
    if let Some(taken) = published.taken {
        let _ = taken.await;
    }
    let mut all = true;
    for outcome in published.outcomes {
        all &= match outcome {
            Outcome::Done(outcome) => outcome.is_ok(),
            Outcome::Pending(part) => part.await.is_ok(),
        };
    }
    all
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }

    fn pause(&mut self, below_ms: u64) -> Duration {
        Duration::from_millis(self.below(below_ms))
    }
}

/// Which topics are subscribed, and since when; a message published meanwhile must come.
type Subscribed = Rc<std::cell::RefCell<BTreeMap<u64, Instant>>>;

/// Subscribes and unsubscribes topics for a minute of the runtime's time.
async fn come_and_go(
    bench: Rc<testing::Bench>,
    connection: crate::model::connection_id::ConnectionId,
    barrier: Arc<SubackBarrier>,
    subscribed: Subscribed,
) {
    let mut random = Random(11);
    for _ in 0..600 {
        let topic = random.below(TOPICS);
        let filter = TopicFilter::parse(format!("t/{topic}")).unwrap();
        let known = subscribed.borrow_mut().remove(&topic).is_some();
        if known {
            // From here on its messages may come or not.
            let gone = Unsubscribe { connection, app: APP, filters: vec![filter] };
            bench.router.send(gone).await.unwrap();
        } else {
            let item = item(&format!("t/{topic}"), Qos::AtLeastOnce);
            let (filter, options) = (filter.clone(), item.options);
            let items = vec![Subscription { filter, options, id: None }];
            let subscribe = Subscribe { connection, app: APP, items, keep_live: false };
            bench.router.send(subscribe).await.unwrap();
            let passed = match barrier.passed(APP, None, &[item]) {
                Some(passed) => passed.await == [true],
                None => true,
            };
            if passed {
                subscribed.borrow_mut().insert(topic, Instant::now());
            }
        }
        tokio::time::sleep(random.pause(400)).await;
    }
}

#[test]
fn message_published_after_a_suback_is_acknowledged_and_delivered_or_not_acknowledged() {
    let limits = LinkLimits {
        outbox_bytes_max: 1 << 30,
        pending_messages_max: 1 << 20,
        ..LinkLimits::DEFAULT
    };
    testing::on_worker_for(Duration::from_secs(3_600), limits, |bench| async move {
        tokio::time::pause();
        let (group, bench) = (Group::new(), Rc::new(bench));
        let wire = FakeWire::new(A);
        let spawn = Box::new(|task: BoxFuture<'static, ()>| drop(actix_rt::spawn(task)));
        let interests = bench.worker.interests().clone();
        let arrivals = Arrivals::new(vec![bench.router.clone()], interests, group.tables(B), spawn);
        *wire.arrivals.lock() = Some(arrivals);
        let meta: Arc<dyn Meta> = Arc::new(Port { group: Arc::clone(&group), node: B });
        let live = Arc::clone(bench.worker.live_routes());
        let routers = vec![bench.router.clone().recipient()];
        actix_rt::spawn(
            Arc::clone(&live)
                .run(meta, crate::actors::live_routes::Tellers { routers, groups: Vec::new() }),
        );
        let barrier = Arc::new(SubackBarrier {
            me: B,
            live,
            durable: Arc::new(DurableRoutes::new(0)),
            tables: group.tables(B),
            peers: Peers::none(),
            leader_of: Box::new(|_| None),
        });
        let (link, peer) = bench.connect(1 << 26, |_| {});
        let subscribed = Subscribed::default();
        let churn = come_and_go(Rc::clone(&bench), link.id(), barrier, Rc::clone(&subscribed));
        let churn = actix_rt::spawn(churn);

        let publisher = publisher(&group, &wire);
        let mut random = Random(5);
        let (mut wanted, mut acknowledged, mut refused) = (BTreeSet::new(), 0, 0);
        let mut number = 0_u64;
        let mut got = BTreeSet::new();
        while !churn.is_finished() {
            match random.below(30) {
                0 => {
                    group.cut(A, true);
                    let (group, time) = (Arc::clone(&group), random.pause(9_000));
                    actix_rt::spawn(async move {
                        tokio::time::sleep(time).await;
                        group.cut(A, false);
                    });
                }
                4 => wire.next(&[Fate::Lost, Fate::AnswerLost]),
                5..8 => group.apply(A),
                _ => {}
            }
            group.apply(B);
            let topic = random.below(TOPICS);
            let since = subscribed.borrow().get(&topic).copied();
            number += 1;
            let one = message(&format!("t/{topic}"), number.to_string(), Qos::AtLeastOnce);
            let ok = accepted(publisher.publish(&[Arc::new(one)], &mut None)).await;
            // Subscribed before it was published, and still when it was acknowledged.
            let still = subscribed.borrow().get(&topic).copied();
            acknowledged += u32::from(ok);
            refused += u32::from(!ok);
            if ok && since.is_some() && since == still {
                wanted.insert(number);
            }
            tokio::time::sleep(random.pause(60)).await;
            testing::settle().await;
            let payloads = testing::parse(peer.take()).into_iter().map(|got| got.payload);
            got.extend(payloads.map(|p| String::from_utf8(p).unwrap().parse::<u64>().unwrap()));
        }
        let missed: Vec<_> = wanted.difference(&got).collect();
        assert!(missed.is_empty(), "{} of {} missed: {missed:?}", missed.len(), wanted.len());
        assert!(wanted.len() > 100 && acknowledged > 300, "{} {acknowledged}", wanted.len());
        assert!(refused < acknowledged, "{refused} {acknowledged}");
    });
}
