//! Two nodes on one thread, and a link between them that does what the test wants.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::future::BoxFuture;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member, Places},
};

use super::{
    fake::{FakeWire, Fate},
    *,
};
use crate::{
    actors::{
        testing::{self, Bench, message},
        topic_router::{Subscribe, Subscription},
        worker::LinkLimits,
    },
    model::{route_key, topic::TopicFilter, wire::SubscriptionOptions},
};

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);

struct World {
    bench: Bench,
    wire: Arc<FakeWire>,
    relay: Arc<Relay>,
    here: Arc<RouteTables>,
    there: Arc<RouteTables>,
    directory: Directory,
}

fn member(incarnation: u64, up: bool) -> Member {
    Member {
        incarnation,
        up,
        routes_complete: true,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: String::new(),
    }
}

impl World {
    /// `THERE` is the worker of the bench; it has a route for `filter`.
    async fn new(bench: Bench, filter: &str) -> Self {
        let (here, there) = (RouteTables::new(HERE), RouteTables::new(THERE));
        let wire = FakeWire::new(HERE);
        let relay = Relay::new(1, Arc::new(Arc::clone(&wire)), Arc::clone(&here));
        let mut world = Self { bench, wire, relay, here, there, directory: Directory::default() };
        world.directory.nodes.insert(HERE, member(1, true));
        let key = route_key::of_filter(testing::APP, filter.as_bytes());
        let places = Places { nodes: [THERE].into_iter().collect(), shards: 0 };
        world.directory.routes.insert(key, places);
        world.start_there(7);
        world
    }

    /// `THERE` starts with this incarnation, without memory of what it was sent.
    fn start_there(&mut self, incarnation: u64) {
        self.declare(member(incarnation, true));
        let spawn = Box::new(|task: BoxFuture<'static, ()>| drop(tokio::spawn(task)));
        let interests = self.bench.worker.interests().clone();
        let routers = vec![self.bench.router.clone()];
        let arrivals = Arrivals::new(routers, interests, Arc::clone(&self.there), spawn);
        *self.wire.arrivals.lock() = Some(arrivals);
    }

    fn declare(&mut self, there: Member) {
        self.directory.nodes.insert(THERE, there);
        self.here.take(&self.directory, &[MetaChange::Reloaded]);
        self.there.take(&self.directory, &[MetaChange::Reloaded]);
    }

    /// Publishes one batch at `HERE`; per message its outcome, and what the next batch waits for.
    fn publish(&self, messages: Vec<Message>) -> (Vec<Parts>, Option<Part>) {
        self.publish_in_line(messages, &Line::default())
    }

    fn publish_in_line(&self, messages: Vec<Message>, line: &Line) -> (Vec<Parts>, Option<Part>) {
        let messages: Vec<_> = messages.into_iter().map(Arc::new).collect();
        let mut parts: Vec<Parts> = messages.iter().map(|_| Parts::new()).collect();
        let tables = self.here.load();
        let (none, line) = (Versions::default(), &mut Some(line.clone()));
        let room = self.relay.spread(&tables, &messages, &none, &mut parts, line);
        (parts, room)
    }

    fn publish_one(&self, topic: &str, payload: String, qos: Qos) -> Part {
        let (parts, room) = self.publish(vec![message(topic, payload, qos)]);
        let all: Vec<Part> = parts.into_iter().flatten().chain(room).collect();
        Box::pin(async move { join_all(all).await.into_iter().collect() })
    }
}

async fn subscriber(bench: &Bench, filter: &str) -> testing::MemoryPeer {
    let (link, peer) = bench.connect(1 << 26, |_| {});
    let options = SubscriptionOptions { qos: Qos::ExactlyOnce, ..SubscriptionOptions::default() };
    let item = Subscription { filter: TopicFilter::parse(filter).unwrap(), options, id: None };
    let (connection, items) = (link.id(), vec![item]);
    let subscribe = Subscribe { connection, app: testing::APP, items, keep_live: false };
    bench.router.send(subscribe).await.unwrap();
    peer
}

/// Runs a test in a world whose time stands still but for timers.
fn in_world<F, T>(test: F)
where
    F: FnOnce(World, testing::MemoryPeer) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    let limits =
        LinkLimits { outbox_bytes_max: 1 << 30, pending_bytes_max: 1 << 30, ..LinkLimits::DEFAULT };
    testing::on_worker(limits, |bench| async move {
        tokio::time::pause();
        let peer = subscriber(&bench, "a/#").await;
        let world = World::new(bench, "a/#").await;
        test(world, peer).await;
    });
}

fn payloads(peer: &testing::MemoryPeer) -> Vec<String> {
    let got = testing::parse(peer.take()).into_iter();
    got.map(|got| String::from_utf8(got.payload).unwrap()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn messages_when_frames_and_answers_are_lost_arrive_once_and_in_order() {
    in_world(|world, peer| async move {
        use Fate::{AnswerLost, Good, Late, Lost, Unreachable};
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let fates = [Good, Good, Late, Lost, AnswerLost, Unreachable];
        let (mut sent, mut outcomes) = (0, Vec::new());
        for _ in 0..300 {
            let fate = fates[usize::try_from(random(6)).unwrap()];
            world.wire.next(&[fate]);
            let size = u32::try_from(random(4)).unwrap() + 1;
            let batch = (sent..sent + size)
                .map(|number| message("a/b", number.to_string(), Qos::AtLeastOnce));
            let (parts, room) = world.publish(batch.collect());
            assert!(room.is_none());
            outcomes.extend(parts.into_iter().flatten());
            sent += size;
            if random(10) == 0 {
                tokio::time::sleep(Duration::from_millis(random(200))).await;
            }
        }
        assert!(join_all(outcomes).await.iter().all(Result::is_ok));
        testing::settle().await;
        assert_eq!(payloads(&peer), numbers(0..sent));
        assert_eq!(world.relay.view(), RelayView::default());
    });
}

#[test]
fn window_that_is_full_drops_qos_0_and_holds_publishers_of_qos_1() {
    in_world(|world, peer| async move {
        world.wire.hold_answers(true);
        let large = "x".repeat(limits::RELAY_WINDOW_BYTES / 2 - 1_000);
        let first = world.publish_one("a/1", large.clone(), Qos::AtLeastOnce);
        let second = world.publish_one("a/1", large.clone(), Qos::AtLeastOnce);
        world.publish_one("a/1", large.clone(), Qos::AtMostOnce).await.unwrap();
        assert_eq!(world.relay.view().dropped_messages, 1);
        let third = vec![
            message("a/1", "third", Qos::AtLeastOnce),
            message("a/1", large, Qos::AtLeastOnce),
        ];
        let (outcomes, room) = world.publish(third);
        let mut room = room.expect("the publisher waits");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(futures_util::poll!(&mut room).is_pending());
        world.wire.hold_answers(false);
        assert_eq!((first.await, second.await, room.await), (Ok(()), Ok(()), Ok(())));
        assert!(join_all(outcomes.into_iter().flatten()).await.iter().all(Result::is_ok));
        assert_eq!(payloads(&peer).len(), 4);
        assert_eq!(world.relay.view().waiting_bytes, 0);
    });
}

#[test]
fn publisher_of_a_node_that_went_away_waits_for_its_nodedown_and_no_longer() {
    in_world(|mut world, _peer| async move {
        world.wire.always(Fate::Unreachable);
        let mut outcome = world.publish_one("a/1", "x".to_owned(), Qos::AtLeastOnce);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(futures_util::poll!(&mut outcome).is_pending());
        world.publish_one("a/1", "lost".to_owned(), Qos::AtMostOnce).await.unwrap();
        assert_eq!(world.relay.view().dropped_messages, 1);
        world.declare(member(7, false));
        let told = tokio::time::timeout(Duration::from_secs(1), outcome).await;
        assert_eq!(told.unwrap(), Ok(()), "its live receivers are gone");
    });
}

#[test]
fn message_that_was_given_up_never_comes_later() {
    in_world(|world, peer| async move {
        world.wire.always(Fate::Lost);
        let outcome = world.publish_one("a/1", "late".to_owned(), Qos::AtLeastOnce);
        assert_eq!(outcome.await, Err(Reason::UnspecifiedError));
        world.wire.always(Fate::Good);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let outcome = world.publish_one("a/1", "new".to_owned(), Qos::AtLeastOnce);
        assert_eq!(outcome.await, Ok(()));
        testing::settle().await;
        assert_eq!(payloads(&peer), ["new"]);
    });
}

#[test]
fn message_behind_one_of_its_line_that_was_given_up_is_given_up_and_those_of_others_go_on() {
    in_world(|world, peer| async move {
        world.wire.always(Fate::Lost);
        let (line, other) = (Line::default(), Line::default());
        let publish = |payload: &str, line: &Line| {
            let one = message("a/1", payload.to_owned(), Qos::AtLeastOnce);
            let (parts, _) = world.publish_in_line(vec![one], line);
            join_all(parts.into_iter().flatten())
        };
        let first = publish("first", &line);
        tokio::time::sleep(limits::RELAY_WAIT / 2).await;
        let (behind, passes) = (publish("behind", &line), publish("other", &other));
        assert_eq!(first.await, [Err(Reason::UnspecifiedError)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.wire.always(Fate::Good);
        assert_eq!(behind.await, [Err(Reason::UnspecifiedError)]);
        assert_eq!(passes.await, [Ok(())]);
        testing::settle().await;
        assert_eq!(payloads(&peer), ["other"]);
        assert!(line.failure().is_some() && other.failure().is_none());
    });
}

#[test]
fn node_that_starts_again_knows_no_stream_and_gets_a_new_one() {
    in_world(|mut world, peer| async move {
        for number in 0..20_u64 {
            let sent = world.publish_one("a/1", number.to_string(), Qos::AtLeastOnce);
            assert_eq!(sent.await, Ok(()));
            if number % 7 == 6 {
                world.start_there(100 + number);
            }
        }
        testing::settle().await;
        assert_eq!(payloads(&peer), numbers(0..20));
    });
}

#[test]
fn batch_for_an_earlier_incarnation_counts_as_done_and_reaches_nobody() {
    in_world(|mut world, peer| async move {
        world.directory.nodes.insert(THERE, member(8, true));
        world.there.take(&world.directory, &[MetaChange::Reloaded]);
        let outcome = world.publish_one("a/1", "x".to_owned(), Qos::AtLeastOnce);
        assert_eq!(outcome.await, Ok(()));
        testing::settle().await;
        assert!(payloads(&peer).is_empty());
    });
}

#[test]
fn messages_gather_while_batches_are_under_way() {
    in_world(|world, peer| async move {
        world.wire.hold_answers(true);
        let sent: Vec<_> = (0..500)
            .map(|number| world.publish_one("a/1", number.to_string(), Qos::AtLeastOnce))
            .collect();
        world.wire.hold_answers(false);
        assert!(join_all(sent).await.iter().all(Result::is_ok));
        testing::settle().await;
        assert_eq!(payloads(&peer), numbers(0..500));
        assert!(world.wire.frames.load(SeqCst) <= limits::RELAY_BATCHES_MAX + 1);
    });
}

#[test]
fn node_of_durable_sessions_alone_gets_qos_0_and_is_not_waited_for_with_qos_1() {
    in_world(|mut world, peer| async move {
        let places = world.directory.routes.remove(&route_key::of_filter(testing::APP, b"a/#"));
        let key = route_key::of_filter_qos_0(testing::APP, b"a/#");
        world.directory.routes.insert(key, places.unwrap());
        world.declare(member(7, true));
        let (parts, room) = world.publish(vec![
            message("a/1", "zero", Qos::AtMostOnce),
            message("a/1", "one", Qos::AtLeastOnce),
            Message { retain: true, ..message("a/1", "kept", Qos::ExactlyOnce) },
        ]);
        assert!(parts.iter().all(Vec::is_empty) && room.is_none(), "somebody waits for the node");
        testing::settle().await;
        // The router of this test has a subscriber for all; what is kept is news for one that begins.
        assert_eq!(payloads(&peer), ["zero", "kept"]);
        world.wire.always(Fate::Unreachable);
        let kept = Message { retain: true, ..message("a/1", "dead", Qos::AtLeastOnce) };
        let (parts, room) = world.publish(vec![kept]);
        assert!(parts.iter().all(Vec::is_empty) && room.is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.relay.view().dropped_messages, 0, "nobody misses it");
        world.wire.always(Fate::Good);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(payloads(&peer), ["dead"], "the news is sent again");
    });
}

#[test]
fn message_that_fits_no_frame_is_refused() {
    in_world(|world, peer| async move {
        let huge = "x".repeat(limits::RELAY_ITEM_BYTES_MAX);
        let outcome = world.publish_one("a/1", huge, Qos::AtLeastOnce);
        assert_eq!(outcome.await, Err(Reason::QuotaExceeded));
        assert!(payloads(&peer).is_empty());
    });
}
