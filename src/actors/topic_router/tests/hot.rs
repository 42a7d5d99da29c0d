//! Tests of long walks: a hot topic shares its thread with the others and loses nothing.

use super::*;

#[test]
fn hot_topic_yields_to_others_keeps_its_order_and_skips_nobody() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let mut router = TopicRouter::new(Rc::clone(&bench.worker));
        let hot_item = item("hot", options(Qos::AtMostOnce), 0);
        let mut hot = Vec::new();
        for _ in 0..10_000 {
            let (link, peer) = bench.connect(ROOM, |_| {});
            assert!(router.subscribe(link.slot(), APP, &hot_item, false));
            hot.push((link, peer));
        }
        let (quiet, quiet_peer) = bench.connect(ROOM, |_| {});
        router.subscribe(quiet.slot(), APP, &item("quiet", options(Qos::AtMostOnce), 0), false);
        let send = |router: &mut TopicRouter, topic: &str, number: u8| {
            let messages = numbered(topic, number..number + 1, Qos::AtMostOnce);
            router.publish(Publish::of(messages.into_iter().map(Arc::new)))
        };
        let first = send(&mut router, "hot", 1).unwrap();
        send(&mut router, "hot", 2).unwrap();
        assert!(router.poll_walks());
        // The poll's receivers are used up: this one waits, but not for the hot topic's end.
        let mut quiet_done = send(&mut router, "quiet", 3).unwrap();
        send(&mut router, "hot", 4).unwrap();
        let hot_filter = router.trie.get(APP, &hot_item.filter).unwrap();
        let gone = hot.swap_remove(5_000);
        assert!(router.unsubscribe(gone.0.slot(), hot_filter));
        let (late, late_peer) = bench.connect(ROOM, |_| {});
        router.subscribe(late.slot(), APP, &hot_item, false);
        assert!(router.poll_walks());
        assert!(quiet_done.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        crate::actors::flusher::flush_all(&bench.worker);
        assert_eq!(payloads(&parse(quiet_peer.take())), [3]);
        let unserved = hot.iter().filter(|(_, peer)| peer.writes() == 0).count();
        assert!((5_000..6_500).contains(&unserved), "{unserved}");
        drop(first);
        while router.poll_walks() {}
        crate::actors::flusher::flush_all(&bench.worker);
        for (_, peer) in &hot {
            assert_eq!(payloads(&parse(peer.take())), [1, 2, 4]);
        }
        assert!(gone.1.take().is_empty());
        assert!(late_peer.take().is_empty());
        assert_eq!(router.walks.len(), 0);
        send(&mut router, "hot", 5);
        while router.poll_walks() {}
        crate::actors::flusher::flush_all(&bench.worker);
        assert_eq!(payloads(&parse(late_peer.take())), [5]);
        assert_eq!(payloads(&parse(hot[0].1.take())), [5]);
    });
}

#[test]
fn overlapping_hot_filters_paused_midway_still_give_one_copy_each() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let mut peers = Vec::new();
        for _ in 0..3_000 {
            let (link, peer) = bench.connect(ROOM, |_| {});
            let items = vec![
                item("h/#", options(Qos::AtMostOnce), 1),
                item("h/t", options(Qos::AtMostOnce), 2),
            ];
            bench.subscribe(&link, items).await;
            peers.push((link, peer));
        }
        let send = |number: u8| {
            let messages = numbered("h/t", number..number + 1, Qos::AtMostOnce);
            bench.router.send(Publish::of(messages.into_iter().map(Arc::new)))
        };
        let replies = [send(1), send(2)];
        tokio::task::yield_now().await;
        // Ends in the middle: its slot must not be served to a newcomer.
        let (ended, _) = peers.pop().unwrap();
        let slot = ended.slot();
        ended.end();
        bench.worker.forget(&ended);
        let (newcomer, newcomer_peer) = bench.connect(ROOM, |_| {});
        assert_ne!(newcomer.slot(), slot);
        for reply in replies {
            reply.await.unwrap();
        }
        settle().await;
        for (_, peer) in &peers {
            let got = parse(peer.take());
            assert_eq!(payloads(&got), [1, 2]);
            assert!(got.iter().all(|got| got.ids.len() == 2));
        }
        assert!(newcomer_peer.take().is_empty());
    });
}

#[test]
fn messages_of_mixed_topics_and_qos_keep_their_order_per_topic() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (_a, a) = bench.subscriber("#", Qos::ExactlyOnce).await;
        let (_b, b) = bench.subscriber("#", Qos::ExactlyOnce).await;
        let mut batch = Vec::new();
        for number in 0..60_u8 {
            let qos = Qos::from_bits(number % 3).unwrap();
            batch.push(message(["x", "y"][usize::from(number % 2)], vec![number], qos));
        }
        bench.publish(batch).await;
        for peer in [a, b] {
            let mut last = HashMap::new();
            let got = parse(peer.take());
            assert_eq!(got.len(), 60);
            for got in got {
                let before = last.insert(got.topic.clone(), got.payload[0]);
                assert!(before.is_none_or(|before| before < got.payload[0]));
            }
        }
    });
}
