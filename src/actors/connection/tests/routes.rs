//! SUBSCRIBE on a node with another one beside it: SUBACK says that all nodes know.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use hongqiao_cluster::id::ShardId;

use super::{
    bench::{Bench, delivery, durable_v5, options_of, settle},
    remote::Remote,
};
use crate::{
    actors::appender::SubmitError,
    front::mqtt::client::{Client, FromServer},
    limits,
    model::{id::AppId, message::Qos, reason::Reason, route_key, wire::SubackCode},
};

const Q0: Qos = Qos::AtMostOnce;
const Q1: Qos = Qos::AtLeastOnce;
const SHARD: ShardId = ShardId(0);

fn key(filter: &str) -> Bytes {
    route_key::of_filter(AppId(1), filter.as_bytes())
}

/// Begins a SUBSCRIBE of "a" and goes on as far as it gets.
async fn begin_subscribe(remote: &Remote, qos: Qos) {
    remote.send(|codec, out| {
        codec.encode_subscribe(super::bench::id(1), None, [("a", options_of(qos))], out);
    });
    settle().await;
}

/// Waits until the node has told all it has, as after its start.
async fn told(bench: &Bench) {
    while !bench.meta.is_complete() || bench.meta.durable(SHARD).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Subscribes, and waits as long as a SUBACK may take.
async fn subscribe_slowly(remote: &mut Remote, items: &[(&str, Qos)]) -> Vec<SubackCode> {
    let items = items.iter().map(|(filter, qos)| (*filter, options_of(*qos)));
    remote.send(|codec, out| codec.encode_subscribe(super::bench::id(1), None, items, out));
    tokio::time::sleep(limits::ROUTE_WAIT + Duration::from_secs(1)).await;
    match remote.receive().await {
        FromServer::Suback { codes, .. } => codes,
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn suback_comes_after_the_barrier_and_messages_before() {
    let bench = Bench::in_company();
    told(&bench).await;
    let mut remote = bench.client("c").await;
    bench.meta.set_behind(true);
    begin_subscribe(&remote, Q0).await;
    assert!(bench.meta.live().contains(&key("a")));
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q0, b"early"));
    assert_eq!(remote.got().await.payload, b"early", "MQTT 5.0 section 3.8.4 lets it come first");
    settle().await;
    bench.meta.set_behind(false);
    assert!(matches!(remote.receive().await, FromServer::Suback { .. }));
}

#[actix::test]
async fn subscribe_without_quorum_is_refused_and_not_in_force() {
    let bench = Bench::in_company();
    told(&bench).await;
    let mut remote = bench.client("c").await;
    remote.subscribe("old", Q0).await;
    bench.meta.set_quorum(false);
    let codes = subscribe_slowly(&mut remote, &[("a", Q0), ("old", Q0)]).await;
    let refused = SubackCode::Refused(Reason::ImplementationSpecificError);
    assert_eq!(codes, [refused, SubackCode::Granted(Q0)]);
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q0, b"no"));
    sender.publish(&delivery("old", Q0, b"yes"));
    assert_eq!(remote.got().await.payload, b"yes");
    assert_eq!(remote.unsubscribe(&["old"]).await, [Reason::Success], "waits for nobody");
    bench.meta.set_quorum(true);
    assert_eq!(remote.subscribe("a", Q0).await, SubackCode::Granted(Q0));
}

#[actix::test]
async fn durable_subscription_is_routed_to_its_shard_before_suback_and_taken_back_if_not() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    assert_eq!(remote.subscribe("a", Q1).await, SubackCode::Granted(Q1));
    let there = [key("a"), route_key::ALL_ROUTED].into();
    assert_eq!(bench.meta.durable(SHARD), there);
    let live = route_key::of_filter_qos_0(AppId(1), b"a");
    assert_eq!(bench.meta.live(), BTreeSet::from([live]), "QoS 0 alone comes live");
    bench.meta.set_quorum(false);
    let refused = SubackCode::Refused(Reason::ImplementationSpecificError);
    assert_eq!(subscribe_slowly(&mut remote, &[("b", Q1)]).await, [refused]);
    assert_eq!(bench.storage.commands().last(), Some(&"unsubscribe"));
    bench.cut(remote).await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("b", Q1, b"no"));
    settle().await;
    assert_eq!(bench.storage.depth(bench.key("c")), Some(0));
}

#[actix::test]
async fn resumed_session_is_let_in_without_waiting_for_its_live_routes() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    remote.subscribe("a", Q1).await;
    bench.cut(remote).await;
    bench.meta.set_quorum(false);
    let began = tokio::time::Instant::now();
    let (_remote, connack) = bench.connect(Client::V5, &durable_v5("c")).await;
    assert!(connack.session_present && began.elapsed() < Duration::from_secs(1));
}

#[actix::test]
async fn qos_that_falls_to_0_then_the_log_goes_on_until_all_nodes_send_live() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    let mut sender = bench.client("s").await;
    remote.subscribe("a", Q1).await;
    bench.storage.commands();
    bench.meta.set_behind(true);
    begin_subscribe(&remote, Q0).await;
    assert!(bench.meta.live().contains(&key("a")), "the other nodes are told first");
    assert!(bench.storage.commands().is_empty(), "the shard's log is open");
    bench.meta.set_behind(false);
    assert!(matches!(remote.receive().await, FromServer::Suback { .. }));
    assert_eq!(bench.storage.commands(), ["subscribe"]);
    sender.publish(&delivery("a", Q1, b"live"));
    assert_eq!(remote.got().await.qos, Q0);
    remote.expect_silence().await;
}

#[actix::test]
async fn qos_that_cannot_fall_to_0_then_all_stays_as_it_was() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    let mut sender = bench.client("s").await;
    remote.subscribe("a", Q1).await;
    bench.storage.commands();
    let refused = |reason| vec![SubackCode::Refused(reason)];
    bench.meta.set_quorum(false);
    let codes = subscribe_slowly(&mut remote, &[("a", Q0)]).await;
    assert_eq!(codes, refused(Reason::ImplementationSpecificError));
    bench.meta.set_quorum(true);
    assert!(bench.storage.commands().is_empty());
    bench.storage.refuse(Some(SubmitError::Unavailable));
    let codes = remote.subscribe_all(None, &[("a", options_of(Q0))]).await;
    assert_eq!(codes, refused(Reason::UnspecifiedError));
    bench.storage.refuse(None);
    sender.publish(&delivery("a", Q1, b"stored"));
    assert_eq!(remote.take().await.qos, Q1);
    remote.expect_silence().await;
}

#[actix::test]
async fn qos_that_fell_to_0_or_not_then_both_ways_stay_open_until_the_client_asks_again() {
    let bench = Bench::new();
    let (mut remote, _) = bench.durable("c").await;
    let mut sender = bench.client("s").await;
    remote.subscribe("a", Q1).await;
    bench.storage.refuse(Some(SubmitError::Unknown));
    assert_eq!(remote.subscribe("a", Q0).await, SubackCode::Refused(Reason::UnspecifiedError));
    bench.storage.refuse(None);
    sender.publish(&delivery("a", Q1, b"both"));
    let both = BTreeSet::from([remote.take().await.qos as u8, remote.take().await.qos as u8]);
    assert_eq!(both, BTreeSet::from([0, 1]));
    for qos in [Q1, Q0] {
        remote.subscribe("a", qos).await;
        sender.publish(&delivery("a", Q1, b"once"));
        assert_eq!(remote.take().await.qos, qos);
        remote.expect_silence().await;
    }
}

#[actix::test]
async fn qos_that_rises_from_0_then_it_comes_live_too_until_all_nodes_know_the_log() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    let mut sender = bench.client("s").await;
    remote.subscribe("a", Q0).await;
    bench.meta.set_behind(true);
    begin_subscribe(&remote, Q1).await;
    sender.publish(&delivery("a", Q1, b"both"));
    let both = BTreeSet::from([remote.take().await.qos as u8, remote.take().await.qos as u8]);
    assert_eq!(both, BTreeSet::from([0, 1]), "once live, once from the log");
    bench.meta.set_behind(false);
    assert!(matches!(remote.receive().await, FromServer::Suback { .. }));
    sender.publish(&delivery("a", Q1, b"stored"));
    assert_eq!(remote.take().await.qos, Q1);
    remote.expect_silence().await;
}

#[actix::test]
async fn filter_that_comes_twice_in_a_subscribe_then_its_last_qos_counts() {
    let bench = Bench::in_company();
    told(&bench).await;
    let (mut remote, _) = bench.durable("c").await;
    let mut sender = bench.client("s").await;
    for (first, last) in [(Q0, Q1), (Q1, Q0), (Q0, Q1), (Q0, Q0), (Q1, Q0)] {
        let items = [first, last].map(|qos| ("a", options_of(qos)));
        let codes = remote.subscribe_all(None, &items).await;
        assert_eq!(codes, [SubackCode::Granted(first), SubackCode::Granted(last)]);
        sender.publish(&delivery("a", Q1, b"x"));
        assert_eq!(remote.take().await.qos, last);
        remote.expect_silence().await;
    }
}
