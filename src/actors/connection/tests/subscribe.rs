//! SUBSCRIBE and UNSUBSCRIBE over live sessions.

use super::bench::{Bench, connect_v4, delivery, offer, options_of, settle};
use crate::{
    front::mqtt::client::{Client, FromServer},
    model::{
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        wire::{SubackCode, SubscriptionOptions},
    },
};

const Q0: Qos = Qos::AtMostOnce;
const Q1: Qos = Qos::AtLeastOnce;
const Q2: Qos = Qos::ExactlyOnce;

#[actix::test]
async fn suback_codes_then_one_per_filter_in_order() {
    let bench = Bench::with_offer(Offer { maximum_qos: Q1, ..offer() });
    let mut remote = bench.client("c").await;
    let deep = "a/b/c/d/e/f/g/h/i";
    let items = [
        ("a", options_of(Q0)),
        ("a#", options_of(Q1)),
        ("b", options_of(Q2)),
        (deep, options_of(Q1)),
        ("c", options_of(Q1)),
    ];
    let codes = remote.subscribe_all(None, &items).await;
    assert_eq!(codes[0], SubackCode::Granted(Q0));
    assert_eq!(codes[1], SubackCode::Refused(Reason::TopicFilterInvalid));
    assert_eq!(codes[2], SubackCode::Granted(Q1), "not above the announced maximum");
    assert!(matches!(codes[3], SubackCode::Refused(_)));
    assert_eq!(codes[4], SubackCode::Granted(Q1));
}

#[actix::test]
async fn resubscribe_then_replaced_and_delivered_once() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    assert_eq!(remote.subscribe_all(Some(5), &[("a", options_of(Q0))]).await.len(), 1);
    remote.subscribe_all(Some(6), &[("a", options_of(Q1))]).await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q1, b"x"));
    let got = remote.got().await;
    assert_eq!((got.qos, got.subscription_ids), (Q1, vec![6]));
    remote.expect_silence().await;
}

#[actix::test]
async fn filters_beyond_the_limit_then_refused_but_replacing_is_free() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    let five: Vec<_> = ["a", "b", "c", "d", "$share/g/e"].map(|f| (f, options_of(Q0))).to_vec();
    let granted = SubackCode::Granted(Q0);
    let full = SubackCode::Refused(Reason::QuotaExceeded);
    assert_eq!(remote.subscribe_all(None, &five).await, [granted; 5]);
    let more = ["f", "b", "$share/g/e", "$share/g/f"].map(|f| (f, options_of(Q0)));
    assert_eq!(remote.subscribe_all(None, &more).await, [full, granted, granted, full]);
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("f", Q0, b"no"));
    remote.expect_silence().await;
    assert_eq!(remote.unsubscribe(&["a"]).await, [Reason::Success]);
    assert_eq!(remote.subscribe("f", Q0).await, granted);
    sender.publish(&delivery("f", Q0, b"yes"));
    assert_eq!(remote.got().await.payload, b"yes");
}

#[actix::test]
async fn unsuback_then_one_reason_per_filter_and_nothing_comes_after() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.subscribe("a", Q0).await;
    remote.subscribe("$share/g/b", Q0).await;
    let none = Reason::NoSubscriptionExisted;
    let reasons = remote.unsubscribe(&["x", "a", "$share/g/b", "$share/h/b"]).await;
    assert_eq!(reasons, [none, Reason::Success, Reason::Success, none]);
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q0, b"x"));
    sender.publish(&delivery("b", Q0, b"x"));
    remote.expect_silence().await;
}

#[actix::test]
async fn no_local_on_shared_then_protocol_error() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    let options = SubscriptionOptions { no_local: true, ..options_of(Q0) };
    remote.send(|codec, out| {
        codec.encode_subscribe(super::bench::id(1), None, [("$share/g/a", options)], out);
    });
    remote.expect_end(Some(Reason::ProtocolError)).await;
}

#[actix::test]
async fn shared_group_then_each_message_to_one_member_and_leaving_members_get_none() {
    let bench = Bench::new();
    let mut members = Vec::new();
    for n in 0..2 {
        let mut member = bench.client(&format!("m{n}")).await;
        member.subscribe("$share/g/a/+", Q0).await;
        members.push(member);
    }
    let mut sender = bench.client("s").await;
    for _ in 0..4 {
        sender.publish(&delivery("a/b", Q0, b"x"));
        settle().await;
    }
    for member in &mut members {
        member.got().await;
        member.got().await;
        member.expect_silence().await;
    }
    members.remove(0).disconnect(Reason::Success, None);
    settle().await;
    for _ in 0..4 {
        sender.publish(&delivery("a/b", Q0, b"x"));
        members[0].got().await;
    }
}

#[actix::test]
async fn subscribe_then_packets_behind_it_wait_and_are_answered_in_order() {
    let bench = Bench::new();
    let (mut remote, _) = bench.connect(Client::V4, &connect_v4("c")).await;
    remote.send(|codec, out| {
        codec.encode_subscribe(super::bench::id(1), None, [("a", options_of(Q0))], out);
        super::remote::write_publish(codec, &delivery("a", Q0, b"own"), None, out);
        codec.encode_unsubscribe(super::bench::id(2), ["a"], out);
        codec.encode_ping(out);
    });
    assert!(matches!(remote.receive().await, FromServer::Suback { .. }));
    assert_eq!(remote.got().await.payload, b"own");
    assert!(matches!(remote.receive().await, FromServer::Unsuback { .. }));
    assert_eq!(remote.receive().await, FromServer::Pong);
}

#[actix::test]
async fn subscriptions_when_the_connection_ends_then_gone() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.subscribe("a", Q0).await;
    remote.peer.close();
    settle().await;
    let mut again = bench.client("c").await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q0, b"x"));
    again.expect_silence().await;
}
