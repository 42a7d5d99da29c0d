//! Tests of the router on a worker with memory sockets.

use std::{
    collections::HashMap,
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
};

use bytes::Bytes;

use super::*;
use crate::{
    actors::{
        counters::DropCause,
        link::AnyLink,
        memory_socket::MemoryPeer,
        testing::{APP, Bench, Got, message, on_worker, parse, settle},
        worker::LinkLimits,
    },
    model::{
        id::SessionKey,
        message::{Message as Published, Qos},
    },
};

mod hot;

const ROOM: usize = usize::MAX / 2;

fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

fn item(filter: &str, options: SubscriptionOptions, id: u32) -> Subscription {
    let filter = TopicFilter::parse(filter).unwrap();
    Subscription { filter, options, id: NonZeroU32::new(id) }
}

impl Bench {
    async fn subscribe(&self, link: &AnyLink, items: Vec<Subscription>) -> Vec<bool> {
        let connection = link.id();
        self.router.send(Subscribe { connection, app: APP, items, keep_live: false }).await.unwrap()
    }

    async fn subscribe_to(&self, link: &AnyLink, filter: &str, qos: Qos) -> bool {
        self.subscribe(link, vec![item(filter, options(qos), 0)]).await[0]
    }

    async fn unsubscribe(&self, link: &AnyLink, filter: &str) -> bool {
        let filters = vec![TopicFilter::parse(filter).unwrap()];
        let unsubscribe = Unsubscribe { connection: link.id(), app: APP, filters };
        self.router.send(unsubscribe).await.unwrap()[0]
    }

    async fn publish(&self, messages: Vec<Published>) {
        self.router.send(Publish::of(messages.into_iter().map(Arc::new))).await.unwrap();
        settle().await;
    }

    async fn subscriber(&self, filter: &str, qos: Qos) -> (Rc<AnyLink>, MemoryPeer) {
        let (link, peer) = self.connect(ROOM, |_| {});
        assert!(self.subscribe_to(&link, filter, qos).await);
        (link, peer)
    }

    async fn view(&self) -> RouterView {
        self.router.send(Observe).await.unwrap()
    }
}

fn topics(got: &[Got]) -> Vec<&str> {
    got.iter().map(|got| got.topic.as_str()).collect()
}

fn payloads(got: &[Got]) -> Vec<u8> {
    got.iter().map(|got| got.payload[0]).collect()
}

fn numbered(topic: &str, numbers: std::ops::Range<u8>, qos: Qos) -> Vec<Published> {
    numbers.map(|number| message(topic, vec![number; 20], qos)).collect()
}

#[test]
fn batch_to_several_subscribers_is_one_write_for_each() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (_a, a) = bench.subscriber("t", Qos::AtMostOnce).await;
        let (_b, b) = bench.subscriber("t", Qos::AtMostOnce).await;
        bench.publish(numbered("t", 0..100, Qos::AtMostOnce)).await;
        assert_eq!((a.writes(), b.writes()), (1, 1));
        assert_eq!(payloads(&parse(a.take())), (0..100).collect::<Vec<_>>());
        assert_eq!(payloads(&parse(b.take())), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn subscribe_twice_replaces_options_and_is_not_new() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.subscriber("t", Qos::AtMostOnce).await;
        assert!(!bench.subscribe_to(&link, "t", Qos::AtLeastOnce).await);
        bench.publish(numbered("t", 0..1, Qos::ExactlyOnce)).await;
        let got = parse(peer.take());
        assert_eq!((got.len(), got[0].qos, got[0].packet_id), (1, 1, 1));
        assert_eq!(bench.view().await.subscriptions, 1);
    });
}

#[test]
fn unsubscribe_stops_deliveries_and_says_whether_there_was_one() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.subscriber("t", Qos::AtMostOnce).await;
        assert!(!bench.unsubscribe(&link, "other").await);
        assert!(bench.unsubscribe(&link, "t").await);
        assert!(!bench.unsubscribe(&link, "t").await);
        bench.publish(numbered("t", 0..1, Qos::AtMostOnce)).await;
        assert!(peer.take().is_empty());
        let view = bench.view().await;
        assert_eq!((view.filters, view.subscriptions), (0, 0));
    });
}

#[test]
fn qos_is_the_smaller_of_publish_and_subscription() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let all = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
        for subscribed in all {
            let (_l1, p1) = bench.subscriber("t", subscribed).await;
            let (_l2, p2) = bench.subscriber("t", subscribed).await;
            for published in all {
                bench.publish(vec![message("t", "x", published)]).await;
                for peer in [&p1, &p2] {
                    let got = parse(peer.take());
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0].qos, subscribed.min(published) as u8);
                    assert_eq!(got[0].packet_id == 0, got[0].qos == 0);
                }
            }
        }
    });
}

#[test]
fn overlapping_filters_give_one_copy_at_highest_qos_with_all_ids() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let items = vec![
            item("a/b", options(Qos::AtMostOnce), 1),
            item("a/+", options(Qos::ExactlyOnce), 2),
            item("a/#", options(Qos::AtLeastOnce), 0),
            item("#", options(Qos::AtLeastOnce), 4),
        ];
        assert_eq!(bench.subscribe(&link, items).await, [true; 4]);
        let (_other, other) = bench.subscriber("a/#", Qos::AtMostOnce).await;
        bench.publish(vec![message("a/b", "x", Qos::ExactlyOnce)]).await;
        let got = parse(peer.take());
        assert_eq!((got.len(), got[0].qos), (1, 2));
        let mut ids = got[0].ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 4]);
        assert_eq!(parse(other.take())[0].ids, Vec::<u32>::new());
    });
}

#[test]
fn subscription_ids_differ_between_receivers_of_one_filter() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let mut peers = Vec::new();
        for id in 0..40 {
            let (link, peer) = bench.connect(ROOM, |_| {});
            bench.subscribe(&link, vec![item("t", options(Qos::AtMostOnce), id)]).await;
            peers.push((link, peer, id));
        }
        bench.publish(numbered("t", 0..3, Qos::AtMostOnce)).await;
        for (_, peer, id) in peers {
            let got = parse(peer.take());
            assert_eq!(payloads(&got), [0, 1, 2]);
            let want: Vec<u32> = (id > 0).then_some(id).into_iter().collect();
            assert!(got.iter().all(|got| got.ids == want));
        }
    });
}

#[test]
fn no_local_hides_own_messages_but_not_from_another_subscription() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let no_local = SubscriptionOptions { no_local: true, ..options(Qos::AtLeastOnce) };
        bench.subscribe(&link, vec![item("t", no_local, 7)]).await;
        let own =
            Published { publisher: Some(link.session()), ..message("t", "own", Qos::AtLeastOnce) };
        let foreign = Published {
            publisher: Some(SessionKey(999)),
            ..message("t", "foreign", Qos::AtLeastOnce)
        };
        bench.publish(vec![own.clone(), foreign]).await;
        let got = parse(peer.take());
        assert_eq!((got.len(), &got[0].payload[..]), (1, &b"foreign"[..]));
        bench.subscribe(&link, vec![item("#", options(Qos::AtMostOnce), 8)]).await;
        bench.publish(vec![own]).await;
        let got = parse(peer.take());
        assert_eq!((got.len(), got[0].qos, &got[0].ids[..]), (1, 0, &[8][..]));
    });
}

#[test]
fn retain_flag_is_kept_only_where_asked() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (_plain, plain) = bench.subscriber("t", Qos::AtMostOnce).await;
        let (link, kept) = bench.connect(ROOM, |_| {});
        let keep = SubscriptionOptions { retain_as_published: true, ..options(Qos::AtMostOnce) };
        bench.subscribe(&link, vec![item("t", keep, 0)]).await;
        let retained = Published { retain: true, ..message("t", "x", Qos::AtMostOnce) };
        bench.publish(vec![retained, message("t", "y", Qos::AtMostOnce)]).await;
        let flags = |peer: &MemoryPeer| -> Vec<bool> {
            parse(peer.take()).iter().map(|got| got.retain).collect()
        };
        assert_eq!(flags(&plain), [false, false]);
        assert_eq!(flags(&kept), [true, false]);
    });
}

#[test]
fn durable_session_gets_only_qos_0_from_the_router() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |terms| terms.durable = true);
        bench.subscribe_to(&link, "one", Qos::AtLeastOnce).await;
        bench.subscribe_to(&link, "zero", Qos::AtMostOnce).await;
        let all = vec![
            message("one", "a", Qos::AtLeastOnce),
            message("one", "b", Qos::AtMostOnce),
            message("zero", "c", Qos::ExactlyOnce),
        ];
        bench.publish(all).await;
        assert_eq!(payloads(&parse(peer.take())), b"bc");
    });
}

#[test]
fn expired_message_is_dropped_and_remaining_expiry_is_sent() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (_a, a) = bench.subscriber("t", Qos::AtMostOnce).await;
        let (_b, b) = bench.subscriber("t", Qos::AtMostOnce).await;
        let now_ms = clock::wall_ms();
        let dead =
            Published { expires_at_ms: Some(now_ms - 1), ..message("t", "dead", Qos::AtMostOnce) };
        let alive = Published {
            expires_at_ms: Some(now_ms + 99_500),
            ..message("t", "alive", Qos::AtMostOnce)
        };
        bench.publish(vec![dead, alive]).await;
        for peer in [a, b] {
            let got = parse(peer.take());
            assert_eq!((got.len(), got[0].expiry), (1, Some(100)));
        }
        assert_eq!(bench.dropped(DropCause::Expired), 1);
    });
}

#[test]
fn packet_over_the_clients_maximum_is_dropped_for_that_client_alone() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (small, small_peer) = bench.connect(ROOM, |terms| terms.packet_bytes_max = 100);
        bench.subscribe_to(&small, "t", Qos::AtLeastOnce).await;
        let (_big, big) = bench.subscriber("t", Qos::AtLeastOnce).await;
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let batch = vec![message("t", "a", qos), message("t", vec![b'b'; 90], qos)];
            bench.publish(batch).await;
            assert_eq!(payloads(&parse(small_peer.take())), b"a");
            assert_eq!(payloads(&parse(big.take())), b"ab");
        }
        assert_eq!(bench.dropped(DropCause::TooLarge), 2);
        assert_eq!(small.live_deliveries(), (1, 0));
    });
}

#[test]
fn large_payload_is_shared_and_arrives_whole_at_every_qos() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (_a, a) = bench.subscriber("t", Qos::ExactlyOnce).await;
        let (_b, b) = bench.subscriber("t", Qos::ExactlyOnce).await;
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let batch = vec![
                message("t", vec![1; 10_000], qos),
                message("t", vec![2; 5], qos),
                message("t", vec![3; 4_000], qos),
            ];
            bench.publish(batch).await;
            for peer in [&a, &b] {
                let got = parse(peer.take());
                let sizes: Vec<_> = got.iter().map(|got| got.payload.len()).collect();
                assert_eq!(sizes, [10_000, 5, 4_000]);
                assert_eq!(payloads(&got), [1, 2, 3]);
            }
        }
    });
}

#[test]
fn receive_maximum_holds_back_and_acks_release_in_order() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        for receivers in [1, 2] {
            let (link, peer) =
                bench.connect(ROOM, |terms| terms.receive_maximum = NonZeroU16::new(2).unwrap());
            let topic = format!("t{receivers}");
            bench.subscribe_to(&link, &topic, Qos::AtLeastOnce).await;
            let _other = bench.subscriber(&topic, Qos::AtMostOnce).await;
            if receivers == 1 {
                bench.unsubscribe(&_other.0, &topic).await;
            }
            bench.publish(numbered(&topic, 0..5, Qos::AtLeastOnce)).await;
            let mut got = parse(peer.take());
            assert_eq!(payloads(&got), [0, 1]);
            assert_eq!(link.live_deliveries(), (2, 3));
            let mut all = vec![0, 1];
            while let Some(first) = got.first() {
                let packet_id = NonZeroU16::new(first.packet_id).unwrap();
                let ack = crate::model::wire::Ack {
                    kind: crate::model::wire::AckKind::Puback,
                    packet_id,
                    reason: crate::model::reason::Reason::Success,
                };
                assert_eq!(link.on_ack(&ack), crate::actors::link::LiveAck::Done);
                settle().await;
                got.remove(0);
                let more = parse(peer.take());
                all.extend(payloads(&more));
                got.extend(more);
            }
            assert_eq!(all, [0, 1, 2, 3, 4]);
            assert_eq!(link.live_deliveries(), (0, 0));
        }
    });
}

#[test]
fn session_without_storage_beyond_its_pending_limit_is_told_to_end() {
    let limits = LinkLimits { pending_messages_max: 3, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (link, _peer) =
            bench.connect(ROOM, |terms| terms.receive_maximum = NonZeroU16::new(1).unwrap());
        bench.subscribe_to(&link, "t", Qos::AtLeastOnce).await;
        bench.publish(numbered("t", 0..4, Qos::AtLeastOnce)).await;
        assert!(!link.take_signals().overflowed);
        bench.publish(numbered("t", 4..5, Qos::AtLeastOnce)).await;
        assert!(link.take_signals().overflowed);
        assert_eq!(bench.dropped(DropCause::Overflow), 1);
    });
}

#[test]
fn slow_receiver_loses_qos_0_alone_and_never_pins_buffers() {
    let limits = LinkLimits { outbox_messages_max: 10, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (slow, slow_peer) = bench.connect(0, |_| {});
        bench.subscribe_to(&slow, "t", Qos::AtMostOnce).await;
        let (_fast, fast) = bench.subscriber("t", Qos::AtMostOnce).await;
        let large = Bytes::from(vec![9; 5_000]);
        for number in 0..30 {
            let mut batch = numbered("t", number..number + 1, Qos::AtMostOnce);
            if number == 3 {
                batch[0].payload = large.clone();
            }
            bench.publish(batch).await;
            assert_eq!(parse(fast.take()).len(), 1);
        }
        assert!(large.is_unique());
        assert_eq!(bench.dropped(DropCause::Slow), 20);
        slow_peer.make_room(1_000_000);
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        slow.poll_output(&mut task);
        assert_eq!(parse(slow_peer.take()).len(), 10);
        bench.publish(numbered("t", 30..31, Qos::AtMostOnce)).await;
        assert_eq!(payloads(&parse(slow_peer.take())), [30]);
    });
}

#[test]
fn topic_alias_replaces_the_name_after_its_first_use_and_never_above_the_maximum() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |terms| terms.topic_alias_maximum = 2);
        bench.subscribe_to(&link, "#", Qos::AtMostOnce).await;
        let (_plain, plain) = bench.subscriber("#", Qos::AtMostOnce).await;
        for _ in 0..2 {
            let topics = ["a", "b", "c"];
            bench.publish(topics.map(|topic| message(topic, "x", Qos::AtMostOnce)).into()).await;
        }
        let got = parse(peer.take());
        let aliases: Vec<_> = got.iter().map(|got| (got.topic.as_str(), got.alias)).collect();
        assert_eq!(aliases, [("a", 1), ("b", 2), ("c", 0), ("", 1), ("", 2), ("c", 0)]);
        assert_eq!(topics(&parse(plain.take())), ["a", "b", "c", "a", "b", "c"]);
    });
}

#[test]
fn ended_connection_is_forgotten_and_its_slot_is_not_served_to_the_next() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, _peer) = bench.subscriber("t", Qos::AtMostOnce).await;
        bench.subscribe_to(&link, "u", Qos::AtMostOnce).await;
        let (slot, id) = (link.slot(), link.id());
        link.end();
        bench.worker.forget(&link);
        let (next, next_peer) = bench.connect(ROOM, |_| {});
        assert_ne!(next.slot(), slot);
        let late = Subscribe {
            connection: id,
            app: APP,
            items: vec![item("t", options(Qos::AtMostOnce), 0)],
            keep_live: false,
        };
        assert_eq!(bench.router.send(late).await.unwrap(), [false]);
        bench.publish(numbered("t", 0..1, Qos::AtMostOnce)).await;
        assert!(next_peer.take().is_empty());
        let view = bench.view().await;
        assert_eq!((view.filters, view.subscriptions), (0, 0));
        let (again, _) = bench.connect(ROOM, |_| {});
        assert_eq!(again.slot(), slot);
    });
}

#[test]
fn interests_follow_first_and_last_subscription() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let topic = crate::model::topic::TopicName::parse("a/b").unwrap();
        let interest = || bench.worker.interests().workers(APP, &topic);
        let (one, _p1) = bench.subscriber("a/+", Qos::AtMostOnce).await;
        let (two, _p2) = bench.subscriber("a/+", Qos::AtMostOnce).await;
        assert_eq!(interest(), 1);
        bench.unsubscribe(&one, "a/+").await;
        assert_eq!(interest(), 1);
        bench.unsubscribe(&two, "a/+").await;
        assert_eq!(interest(), 0);
    });
}
