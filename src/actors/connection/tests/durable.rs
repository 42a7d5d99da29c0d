//! Sessions that outlive their connection: resume, replay, takeover, expiry, a shard that fails.

use super::{
    bench::{Bench, connect_v4, connect_v5, delivery, durable_v5, id, offer, options_of, settle},
    remote::Remote,
};
use crate::{
    actors::appender::SubmitError,
    front::mqtt::client::Client,
    model::{
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        wire::{AckKind, Connect, Delivery, SubackCode},
    },
    shard::command::{Command, Holder, SessionClaim},
};

const Q0: Qos = Qos::AtMostOnce;
const Q1: Qos = Qos::AtLeastOnce;

/// A client with a durable session that subscribes to `a` at QoS 1.
async fn subscribed(bench: &Bench) -> Remote {
    let (mut receiver, _) = bench.durable("r").await;
    receiver.subscribe("a", Q1).await;
    receiver
}

/// A publisher, while such a client is away.
async fn sender_to_absent(bench: &Bench) -> Remote {
    bench.cut(subscribed(bench).await).await;
    bench.client("s").await
}

/// Publishes one message at QoS 1 and waits until it is stored.
async fn store(sender: &mut Remote, payload: &[u8]) {
    let message = Delivery { payload, ..delivery("a", Q1, b"") };
    let packet_id = sender.publish(&message).unwrap();
    sender.expect_ack(AckKind::Puback, packet_id, Reason::Success).await;
}

async fn expect(remote: &mut Remote, payloads: &[&[u8]]) {
    for payload in payloads {
        assert_eq!(remote.take().await.payload, *payload);
    }
}

#[actix::test]
async fn offline_messages_when_the_client_comes_back_then_in_order_and_once() {
    let bench = Bench::new();
    let (mut receiver, present) = bench.durable("r").await;
    assert!(!present);
    receiver.subscribe_all(Some(9), &[("a", options_of(Q1))]).await;
    bench.cut(receiver).await;
    let mut sender = bench.client("s").await;
    for payload in [b"1", b"2", b"3"] {
        store(&mut sender, payload).await;
    }
    let (mut receiver, present) = bench.durable("r").await;
    assert!(present);
    let first = receiver.take().await;
    assert_eq!((first.payload, first.subscription_ids), (b"1".to_vec(), vec![9]));
    expect(&mut receiver, &[b"2", b"3"]).await;
    store(&mut sender, b"4").await;
    expect(&mut receiver, &[b"4"]).await;
    receiver.expect_silence().await;
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    receiver.expect_silence().await;
    assert_eq!(bench.storage.depth(bench.key("r")), Some(0));
}

#[actix::test]
async fn backlog_larger_than_the_window_then_all_in_order_inside_it() {
    let bench = Bench::with_offer(Offer { receive_maximum: id(1_000), ..offer() });
    let mut sender = sender_to_absent(&bench).await;
    for n in 0..500_u16 {
        store(&mut sender, &n.to_be_bytes()).await;
    }
    let connect = Connect { receive_maximum: id(7), ..durable_v5("r") };
    let (mut receiver, _) = bench.connect(Client::V5, &connect).await;
    let mut open = Vec::new();
    for n in 0..500_u16 {
        if open.len() == 7 {
            receiver.ack(AckKind::Puback, open.remove(0), Reason::Success);
        }
        let got = receiver.got().await;
        assert_eq!(got.payload, n.to_be_bytes());
        open.push(got.packet_id.unwrap());
    }
    for packet_id in open.drain(..) {
        receiver.ack(AckKind::Puback, packet_id, Reason::Success);
    }
    receiver.expect_silence().await;
}

#[actix::test]
async fn window_when_full_then_nothing_more_until_an_ack() {
    let bench = Bench::new();
    let connect = Connect { receive_maximum: id(2), ..durable_v5("r") };
    let (mut receiver, _) = bench.connect(Client::V5, &connect).await;
    receiver.subscribe("a", Q1).await;
    let mut sender = bench.client("s").await;
    for payload in [b"1", b"2", b"3"] {
        store(&mut sender, payload).await;
    }
    let first = receiver.got().await;
    let second = receiver.got().await;
    receiver.expect_silence().await;
    receiver.ack(AckKind::Puback, second.packet_id.unwrap(), Reason::Success);
    assert_eq!(receiver.take().await.payload, b"3");
    receiver.expect_silence().await;
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    let again = receiver.take().await;
    assert_eq!((again.payload, again.dup), (b"1".to_vec(), true));
    assert_eq!(again.packet_id, first.packet_id);
    receiver.expect_silence().await;
}

#[actix::test]
async fn unacked_when_the_client_comes_back_then_same_ids_and_dup_before_anything_new() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    let mut sender = bench.client("s").await;
    for payload in [b"1", b"2"] {
        store(&mut sender, payload).await;
    }
    let ids = [receiver.got().await.packet_id, receiver.got().await.packet_id];
    bench.cut(receiver).await;
    store(&mut sender, b"3").await;
    let (mut receiver, _) = bench.durable("r").await;
    for (n, packet_id) in ids.into_iter().enumerate() {
        let got = receiver.take().await;
        assert_eq!(got.payload, [b'1' + u8::try_from(n).unwrap()]);
        assert_eq!((got.packet_id, got.dup), (packet_id, true));
    }
    let new = receiver.take().await;
    assert_eq!((new.payload, new.dup), (b"3".to_vec(), false));
    assert!(!ids.contains(&new.packet_id));
}

#[actix::test]
async fn v4_clean_session_0_then_session_present_and_replayed() {
    let bench = Bench::new();
    let connect = Connect { clean_start: false, session_expiry_secs: u32::MAX, ..connect_v4("r") };
    let (mut receiver, connack) = bench.connect(Client::V4, &connect).await;
    assert!(!connack.session_present);
    receiver.subscribe("a", Q1).await;
    receiver.disconnect(Reason::Success, None);
    bench.cut(receiver).await;
    let mut sender = bench.client("s").await;
    store(&mut sender, b"1").await;
    let (mut receiver, connack) = bench.connect(Client::V4, &connect).await;
    assert!(connack.session_present);
    expect(&mut receiver, &[b"1"]).await;
    receiver.disconnect(Reason::Success, None);
    bench.cut(receiver).await;
    let (_, connack) = bench.connect(Client::V4, &connect_v4("r")).await;
    assert!(!connack.session_present, "clean session 1 forgets");
    let (mut receiver, connack) = bench.connect(Client::V4, &connect).await;
    assert!(!connack.session_present);
    receiver.expect_silence().await;
}

#[actix::test]
async fn qos0_to_a_durable_session_then_live_only_and_never_twice() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q0, b"live"));
    assert_eq!(receiver.take().await.qos, Q0);
    store(&mut sender, b"stored").await;
    assert_eq!(receiver.take().await.qos, Q1);
    receiver.expect_silence().await;
    bench.cut(receiver).await;
    sender.publish(&delivery("a", Q0, b"missed"));
    let (mut receiver, _) = bench.durable("r").await;
    receiver.expect_silence().await;
    sender.publish(&delivery("a", Q0, b"live again"));
    assert_eq!(receiver.take().await.payload, b"live again");
}

#[actix::test]
async fn takeover_then_old_is_told_and_unacked_comes_first_to_the_new_one() {
    let bench = Bench::new();
    let (mut old, _) = bench.durable("r").await;
    old.subscribe("a", Q1).await;
    let mut sender = bench.client("s").await;
    store(&mut sender, b"1").await;
    let got = old.got().await;
    let (mut new, present) = bench.durable("r").await;
    assert!(present);
    old.expect_end(Some(Reason::SessionTakenOver)).await;
    store(&mut sender, b"2").await;
    let again = new.take().await;
    assert_eq!((again.payload, again.dup, again.packet_id), (b"1".to_vec(), true, got.packet_id));
    expect(&mut new, &[b"2"]).await;
    new.expect_silence().await;
}

#[actix::test]
async fn session_with_expiry_0_then_resumed_once_and_gone_with_its_connection() {
    let bench = Bench::new();
    let mut sender = sender_to_absent(&bench).await;
    store(&mut sender, b"1").await;
    let resume = Connect { clean_start: false, ..connect_v5("r") };
    let (mut receiver, connack) = bench.connect(Client::V5, &resume).await;
    assert!(connack.session_present);
    expect(&mut receiver, &[b"1"]).await;
    bench.cut(receiver).await;
    let (_, connack) = bench.connect(Client::V5, &resume).await;
    assert!(!connack.session_present);
}

#[actix::test]
async fn disconnect_with_expiry_0_then_the_session_is_gone() {
    let bench = Bench::new();
    let receiver = subscribed(&bench).await;
    receiver.disconnect(Reason::Success, Some(0));
    bench.cut(receiver).await;
    let (_, present) = bench.durable("r").await;
    assert!(!present);
}

#[actix::test]
async fn clean_start_then_the_old_session_is_gone() {
    let bench = Bench::new();
    let receiver = subscribed(&bench).await;
    bench.cut(receiver).await;
    let clean = Connect { clean_start: true, ..durable_v5("r") };
    let (receiver, connack) = bench.connect(Client::V5, &clean).await;
    assert!(!connack.session_present);
    let mut sender = bench.client("s").await;
    store(&mut sender, b"1").await;
    bench.cut(receiver).await;
    let (mut receiver, present) = bench.durable("r").await;
    assert!(present);
    receiver.expect_silence().await;
}

#[actix::test]
async fn subscriptions_of_a_durable_session_then_kept_replaced_and_limited() {
    let bench = Bench::new();
    let (mut receiver, _) = bench.durable("r").await;
    let filters = ["a", "b", "c", "d", "e", "f"].map(|filter| (filter, options_of(Q1)));
    let codes = receiver.subscribe_all(None, &filters).await;
    let (granted, full) = (SubackCode::Granted(Q1), SubackCode::Refused(Reason::QuotaExceeded));
    assert_eq!(codes, [granted, granted, granted, granted, granted, full]);
    let none = Reason::NoSubscriptionExisted;
    assert_eq!(receiver.unsubscribe(&["b", "x"]).await, [Reason::Success, none]);
    assert_eq!(receiver.subscribe("a", Q0).await, SubackCode::Granted(Q0));
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("b", Q0, b"no"));
    sender.publish(&delivery("a", Q0, b"yes"));
    assert_eq!(receiver.take().await.payload, b"yes");
    assert_eq!(receiver.unsubscribe(&["a"]).await, [Reason::Success]);
}

#[actix::test]
async fn acks_then_reported_late_and_together() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    let mut sender = bench.client("s").await;
    for payload in [b"1", b"2", b"3", b"4"] {
        store(&mut sender, payload).await;
        receiver.take().await;
    }
    bench.storage.commands();
    tokio::time::sleep(crate::limits::REPORT_DELAY * 2).await;
    settle().await;
    assert_eq!(bench.storage.commands(), ["acknowledge"]);
    assert_eq!(bench.storage.depth(bench.key("r")), Some(0));
    tokio::time::sleep(crate::limits::REPORT_DELAY * 2).await;
    assert!(bench.storage.commands().is_empty(), "nothing new, nothing written");
}

#[actix::test]
async fn release_then_after_the_last_acknowledgement() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    let mut sender = bench.client("s").await;
    store(&mut sender, b"1").await;
    receiver.take().await;
    settle().await;
    bench.storage.commands();
    bench.cut(receiver).await;
    assert_eq!(bench.storage.commands(), ["acknowledge", "release"]);
}

#[actix::test]
async fn session_claimed_elsewhere_then_this_connection_is_told_and_writes_nothing() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    bench.storage.apply(Command::Claim(Box::new(SessionClaim {
        key: bench.key("r"),
        app: crate::model::id::AppId(1),
        client_id: "r".into(),
        clean_start: false,
        expiry_secs: 60,
        will: None,
        holder: Holder { node: 2, incarnation: 1, connection: 1 },
        now_ms: crate::clock::wall_ms(),
    })));
    receiver.send(|codec, out| {
        codec.encode_subscribe(id(1), None, [("b", options_of(Q1))], out);
    });
    receiver.expect_end(Some(Reason::SessionTakenOver)).await;
}

#[actix::test]
async fn disk_full_then_durable_publish_is_refused_and_live_traffic_goes_on() {
    let bench = Bench::new();
    let mut receiver = subscribed(&bench).await;
    let mut live = bench.client("l").await;
    live.subscribe("b", Q1).await;
    let mut sender = bench.client("s").await;
    bench.storage.refuse(Some(SubmitError::DiskFull));
    let packet_id = sender.publish(&delivery("a", Q1, b"x")).unwrap();
    sender.expect_ack(AckKind::Puback, packet_id, Reason::QuotaExceeded).await;
    let packet_id = sender.publish(&delivery("b", Q1, b"x")).unwrap();
    sender.expect_ack(AckKind::Puback, packet_id, Reason::Success).await;
    live.take().await;
    sender.publish(&delivery("a", Q0, b"live"));
    assert_eq!(receiver.take().await.payload, b"live");
    assert_eq!(receiver.subscribe("c", Q1).await, SubackCode::Refused(Reason::QuotaExceeded));
    assert_eq!(receiver.unsubscribe(&["a"]).await, [Reason::UnspecifiedError]);
    bench.storage.refuse(None);
    assert_eq!(receiver.subscribe("c", Q1).await, SubackCode::Granted(Q1));
    let packet_id = sender.publish(&delivery("a", Q1, b"x")).unwrap();
    sender.expect_ack(AckKind::Puback, packet_id, Reason::Success).await;
}

#[actix::test]
async fn shard_away_for_a_while_then_the_reader_goes_on_by_itself() {
    let bench = Bench::new();
    let mut sender = sender_to_absent(&bench).await;
    store(&mut sender, b"1").await;
    let (mut receiver, _) = bench.durable("r").await;
    receiver.take().await;
    bench.storage.refuse(Some(SubmitError::Unavailable));
    tokio::time::sleep(crate::limits::REPORT_DELAY * 2).await;
    bench.storage.refuse(None);
    store(&mut sender, b"2").await;
    expect(&mut receiver, &[b"2"]).await;
    bench.cut(receiver).await;
    assert_eq!(bench.storage.depth(bench.key("r")), Some(0));
}

#[actix::test]
async fn message_too_large_for_the_client_then_skipped_and_done() {
    let bench = Bench::new();
    let small = Connect { packet_bytes_max: std::num::NonZeroU32::new(60), ..durable_v5("r") };
    let (mut receiver, _) = bench.connect(Client::V5, &small).await;
    receiver.subscribe("a", Q1).await;
    let mut sender = bench.client("s").await;
    store(&mut sender, &[b'x'; 100]).await;
    store(&mut sender, b"fits").await;
    expect(&mut receiver, &[b"fits"]).await;
    bench.cut(receiver).await;
    assert_eq!(bench.storage.depth(bench.key("r")), Some(0));
}

#[actix::test]
async fn slow_reader_then_the_rest_stays_in_the_log() {
    let bench = Bench::with_offer(Offer { receive_maximum: id(1_000), ..offer() });
    let mut sender = sender_to_absent(&bench).await;
    let large = [b'x'; 20_000];
    for _ in 0..50 {
        store(&mut sender, &large).await;
    }
    // The socket takes 1 MiB and nobody reads; 50 messages are 1 MB.
    let (mut receiver, _) = bench.durable("r").await;
    for _ in 0..50 {
        assert_eq!(receiver.take().await.payload.len(), 20_000);
    }
    receiver.expect_silence().await;
}
