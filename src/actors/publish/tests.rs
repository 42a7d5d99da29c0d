//! Publishing on a node that may have lost the lease of its directory.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::Actor as _;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member},
};

use super::*;
use crate::{
    actors::{
        appender::Propose,
        meta::fake::FakeMeta,
        testing::{self, Bench, message},
        topic_router::{Subscribe, Subscription},
        worker::LinkLimits,
    },
    limits,
    model::{topic::TopicFilter, wire::SubscriptionOptions},
};

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

/// A publisher on the worker of a bench, with this way to shards.
fn publisher(bench: &Bench, meta: &Arc<FakeMeta>, nodes: &[u64], propose: Propose) -> Publisher {
    let facts = Facts::new(0);
    let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
    let quota = Quota {
        session_messages_max: 1,
        session_bytes_max: 1,
        app_bytes_max: 1,
        drop_oldest: false,
    };
    let common = AppQuota { quota, retained_messages_max: 1, retained_bytes_max: 1 };
    let beyond = Beyond { meta: Arc::new(Arc::clone(meta)), ..Beyond::nothing() };
    let mut directory = Directory::default();
    for node in nodes {
        directory.nodes.insert(NodeId(*node), member());
    }
    beyond.tables.take(&directory, &[MetaChange::Reloaded]);
    let targets = Targets {
        routers: vec![bench.router.clone()],
        groups: Vec::new(),
        interests: bench.worker.interests().clone(),
        facts,
        group_table: Arc::default(),
        hash_key: HashKey([7; 16]),
        shards: 1,
        quotas: Arc::new(AppQuotas { common, special: AHashMap::new() }),
        beyond,
    };
    Publisher::new(targets, appender)
}

/// Runs a test with a subscriber of `a`; its publisher is node 0 among `nodes`, and no shard answers.
fn with_publisher<F, T>(nodes: &'static [u64], test: F)
where
    F: FnOnce(Publisher, Arc<FakeMeta>, testing::MemoryPeer) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    let propose = || -> Propose {
        Rc::new(|_, _, _| (None, Box::pin(async { Err(SubmitError::Unavailable) })))
    };
    with_publisher_and(nodes, propose, test);
}

/// As [`with_publisher`], with this way to shards.
pub(super) fn with_publisher_and<P, F, T>(nodes: &'static [u64], propose: P, test: F)
where
    P: FnOnce() -> Propose + Send + 'static,
    F: FnOnce(Publisher, Arc<FakeMeta>, testing::MemoryPeer) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    testing::on_worker(LinkLimits::DEFAULT, move |bench| async move {
        tokio::time::pause();
        let (link, peer) = bench.connect(1 << 20, |_| {});
        let options =
            SubscriptionOptions { qos: Qos::ExactlyOnce, ..SubscriptionOptions::default() };
        let item = Subscription { filter: TopicFilter::parse("a").unwrap(), options, id: None };
        let (connection, items) = (link.id(), vec![item]);
        let subscribe = Subscribe { connection, app: testing::APP, items, keep_live: false };
        bench.router.send(subscribe).await.unwrap();
        let meta = FakeMeta::in_company();
        let publisher = publisher(&bench, &meta, nodes, propose());
        test(publisher, meta, peer).await;
    });
}

fn batch(payloads: &[(&str, Qos)]) -> Vec<Arc<Message>> {
    let all = payloads.iter().map(|(payload, qos)| message("a", (*payload).to_owned(), *qos));
    all.map(Arc::new).collect()
}

pub(super) fn got(peer: &testing::MemoryPeer) -> Vec<String> {
    let got = testing::parse(peer.take()).into_iter();
    got.map(|got| String::from_utf8(got.payload).unwrap()).collect()
}

async fn outcomes(published: Published) -> Vec<Accepted> {
    if let Some(taken) = published.taken {
        taken.await.unwrap();
    }
    let mut all = Vec::new();
    for outcome in published.outcomes {
        all.push(match outcome {
            Outcome::Done(accepted) => accepted,
            Outcome::Pending(part) => part.await,
        });
    }
    all
}

#[test]
fn qos_1_without_the_lease_is_held_and_goes_out_with_it_in_order() {
    with_publisher(&[0, 1], |publisher, meta, peer| async move {
        meta.set_lease(false);
        let published = publisher
            .publish(&batch(&[("1", Qos::AtLeastOnce), ("2", Qos::AtMostOnce)]), &mut None);
        let mut outcomes = Box::pin(outcomes(published));
        let early = tokio::time::timeout(Duration::from_secs(2), &mut outcomes).await;
        assert!(early.is_err() && got(&peer).is_empty());
        meta.set_lease(true);
        assert_eq!(outcomes.await, [Ok(()), Ok(())]);
        testing::settle().await;
        assert_eq!(got(&peer), ["1", "2"]);
    });
}

#[test]
fn qos_1_without_the_lease_for_long_is_refused_and_qos_0_goes_on() {
    with_publisher(&[0, 1], |publisher, meta, peer| async move {
        meta.set_lease(false);
        let published = publisher.publish(&batch(&[("0", Qos::AtMostOnce)]), &mut None);
        assert_eq!(outcomes(published).await, [Ok(())]);
        testing::settle().await;
        assert_eq!(got(&peer), ["0"], "waits for nobody");
        let began = tokio::time::Instant::now();
        let published = publisher
            .publish(&batch(&[("1", Qos::AtLeastOnce), ("2", Qos::AtMostOnce)]), &mut None);
        let refused = Err(Reason::ImplementationSpecificError);
        assert_eq!(outcomes(published).await, [refused, Ok(())]);
        assert!(began.elapsed() >= limits::LEASE_WAIT);
        testing::settle().await;
        assert_eq!(got(&peer), ["2"]);
        let again = publisher.publish_again(&batch(&[("3", Qos::ExactlyOnce)]), &mut None);
        assert!(again.taken.is_some(), "what comes next would overtake it");
        assert_eq!(outcomes(again).await, [refused]);
    });
}

#[test]
fn what_is_held_goes_nowhere_behind_a_failure_of_its_line_and_qos_0_goes_on() {
    with_publisher(&[0, 1], |publisher, meta, peer| async move {
        let refused = Err(Reason::ImplementationSpecificError);
        for waits_in_vain in [true, false] {
            meta.set_lease(false);
            let mut line = None;
            let messages = batch(&[("1", Qos::AtLeastOnce), ("2", Qos::AtMostOnce)]);
            let held = tokio::task::spawn_local(outcomes(publisher.publish(&messages, &mut line)));
            let line = &mut Some(line.unwrap());
            if waits_in_vain {
                // What its publisher sends before it has heard may find the lease there again.
                tokio::time::sleep(limits::LEASE_WAIT + limits::LEASE_LOOK).await;
                meta.set_lease(true);
            } else {
                line.as_ref().unwrap().cut(SubmitError::Unknown);
                meta.set_lease(true);
            }
            assert_eq!(held.await.unwrap(), [refused, Ok(())]);
            let messages = batch(&[("3", Qos::ExactlyOnce), ("4", Qos::AtMostOnce)]);
            assert_eq!(outcomes(publisher.publish(&messages, line)).await, [refused, Ok(())]);
            let again = publisher.publish_again(&messages[..1], line);
            assert_eq!(outcomes(again).await, [refused]);
            testing::settle().await;
            assert_eq!(got(&peer), ["2", "4"]);
        }
    });
}

#[test]
fn node_alone_asks_for_no_lease() {
    with_publisher(&[0], |publisher, meta, peer| async move {
        meta.set_lease(false);
        let published = publisher.publish(&batch(&[("1", Qos::AtLeastOnce)]), &mut None);
        assert!(matches!(published.outcomes[0], Outcome::Done(Ok(()))));
        assert_eq!(outcomes(published).await, [Ok(())]);
        testing::settle().await;
        assert_eq!(got(&peer), ["1"]);
    });
}

/// From now on there is a shard that has not told its routes, and another node.
pub(super) fn add_shard(publisher: &Publisher) {
    let mut directory = Directory::default();
    directory.nodes.insert(NodeId(0), member());
    directory.nodes.insert(NodeId(1), member());
    directory.shards = imbl::Vector::from(vec![Vec::new()]);
    publisher.targets.beyond.tables.take(&directory, &[MetaChange::Reloaded]);
}

#[test]
fn shard_that_has_not_told_its_routes_gets_what_matches_nothing_here() {
    with_publisher(&[0, 1], |publisher, _meta, _peer| async move {
        // No shard is known to the directory of this test: nothing is stored, the message is accepted.
        let published = publisher.publish(&batch(&[("1", Qos::AtLeastOnce)]), &mut None);
        assert_eq!(outcomes(published).await, [Ok(())]);
        add_shard(&publisher);
        let published = publisher.publish(&batch(&[("1", Qos::AtLeastOnce)]), &mut None);
        let refused = Err(Reason::ImplementationSpecificError);
        assert_eq!(outcomes(published).await, [refused], "its shard does not answer");
    });
}

#[actix::test]
async fn message_that_one_shard_refuses_is_refused_once_nothing_of_it_is_under_way() {
    let joined = |others: Accepted, silent: bool| {
        let (answer, asked) = tokio::sync::oneshot::channel();
        let parts: Parts = vec![
            Box::pin(async move { asked.await.unwrap() }),
            Box::pin(std::future::ready(Ok(()))),
            Box::pin(std::future::ready(others)),
        ];
        let mut joined = join(parts).unwrap();
        assert_eq!(joined.as_mut().now_or_never().is_none(), silent, "{others:?}");
        (answer, joined)
    };
    let (refused, unknown) = (Err(Reason::QuotaExceeded), Err(Reason::UnspecifiedError));
    for (last, outcome) in [(Ok(()), refused), (refused, refused), (unknown, unknown)] {
        let (answer, joined) = joined(refused, true);
        answer.send(last).unwrap();
        assert_eq!(joined.await, outcome);
    }
    // A failure ends the connection, and all that is behind is sent again.
    drop(joined(unknown, false));
}
