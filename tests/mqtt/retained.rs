//! Retained messages: MQTT 5.0 sections 3.3.1.3 and 3.8.3.1.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, message},
    packet::{BOTH, Publish, Sub, Version},
    property::{CONTENT_TYPE, MESSAGE_EXPIRY, Props, SUBSCRIPTION_ID},
    wait::{let_pass, wait_until},
};

/// Subscribes afresh and returns the retained text under this filter, if any.
fn retained(client: &mut Client, filter: &str) -> Option<String> {
    use crate::support::mqtt_client::Received;
    client.subscribe(filter, 2);
    // A retained copy may come after SUBACK; the marker comes after the copy or its absence shows.
    let found = match client.receive(Duration::from_millis(250)) {
        Received::Packet(packet) => match packet {
            crate::support::packet::Packet::Publish(publish) => {
                assert!(publish.retain, "a retained copy carries the flag");
                Some(publish.text())
            }
            other => panic!("{other:?}"),
        },
        Received::Nothing => None,
        Received::Closed => panic!("closed"),
    };
    client.unsubscribe(&[filter]);
    found
}

#[test]
fn retained_message_is_sent_to_a_later_subscriber_with_the_flag() {
    for version in BOTH {
        for qos in 0..3 {
            let names = Names::new();
            let topic = names.topic("a/b");
            let mut client = broker().dial(version, &names.id("keep")).connect();
            client.retain(&topic, "kept", qos);
            client.subscribe(&names.topic("#"), 2);
            let came = client.expect_publish();
            assert_eq!((came.text().as_str(), came.qos, came.retain), ("kept", qos, true));
            assert!(!came.dup);
            client.expect_silence();
            client.retain(&topic, "", qos);
        }
    }
}

#[test]
fn retained_copy_has_the_lower_of_both_qos() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    client.retain(&names.topic("a"), "kept", 2);
    for qos in 0..3 {
        client.subscribe(&names.topic("a"), qos);
        assert_eq!(client.expect_publish().qos, qos);
    }
}

#[test]
fn retained_message_is_replaced_by_the_next() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    for text in ["one", "two", "three"] {
        client.retain(&names.topic("a"), text, 1);
    }
    assert_eq!(retained(&mut client, &names.topic("a")).as_deref(), Some("three"));
}

#[test]
fn publish_without_the_flag_leaves_the_retained_message() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    client.retain(&names.topic("a"), "kept", 1);
    client.publish(&names.topic("a"), "passing", 1);
    client.publish(&names.topic("a"), "", 1);
    assert_eq!(retained(&mut client, &names.topic("a")).as_deref(), Some("kept"));
}

#[test]
fn empty_payload_deletes_and_is_still_delivered_live() {
    for version in BOTH {
        for qos in 0..3 {
            let names = Names::new();
            let mut client = broker().dial(version, &names.id("keep")).connect();
            client.retain(&names.topic("a"), "kept", qos);
            let mut watcher = broker().dial(version, &names.id("watcher")).connect();
            watcher.subscribe(&names.topic("a"), 2);
            assert!(watcher.expect_publish().retain);
            client.retain(&names.topic("a"), "", qos);
            let came = watcher.expect_publish();
            assert!(came.payload.is_empty() && !came.retain);
            assert_eq!(retained(&mut client, &names.topic("a")), None);
        }
    }
}

#[test]
fn live_delivery_does_not_carry_the_flag() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("keep")).connect();
        client.subscribe(&names.topic("a"), 1);
        client.retain(&names.topic("a"), "live", 1);
        assert!(!client.expect_publish().retain);
        client.expect_silence();
    }
}

#[test]
fn retained_copy_comes_again_with_each_subscribe() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("keep")).connect();
        client.retain(&names.topic("a"), "kept", 1);
        for _ in 0..3 {
            client.subscribe(&names.topic("a"), 1);
            assert!(client.expect_publish().retain);
        }
        client.expect_silence();
    }
}

#[test]
fn retain_handling_says_when_copies_come() {
    // (handling, copy at the first subscribe, copy at the second)
    for (handling, first, second) in [(0, true, true), (1, true, false), (2, false, false)] {
        let names = Names::new();
        let mut client = broker().v5(&names.id("keep")).connect();
        client.retain(&names.topic("a"), "kept", 1);
        let subs = [Sub::new(&names.topic("a"), 1).retain_handling(handling)];
        for wanted in [first, second] {
            client.subscribe_with(&subs, &Props::new());
            if wanted {
                assert!(client.expect_publish().retain, "handling {handling}");
            }
            client.expect_silence();
        }
        // After UNSUBSCRIBE the subscription is new again.
        client.unsubscribe(&[&names.topic("a")]);
        client.subscribe_with(&subs, &Props::new());
        if first {
            assert!(client.expect_publish().retain);
        }
        client.expect_silence();
    }
}

#[test]
fn retain_handling_if_new_knows_a_resumed_subscription() {
    let names = Names::new();
    let dial = broker().v5(&names.id("keep")).durable();
    let subs = [Sub::new(&names.topic("a"), 1).retain_handling(1)];
    let mut client = dial.connect();
    client.retain(&names.topic("a"), "kept", 1);
    client.subscribe_with(&subs, &Props::new());
    assert!(client.expect_publish().retain);
    client.disconnect();
    let mut client = dial.connect();
    assert!(client.connack.present);
    client.subscribe_with(&subs, &Props::new());
    client.expect_silence();
}

#[test]
fn wildcard_subscribe_gets_every_retained_message_below() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("keep")).connect();
        let texts: BTreeSet<String> = (0..150).map(|n| format!("{}/{n}", n % 4)).collect();
        for text in &texts {
            client.retain(&names.topic(text), text, (text.len() % 3) as u8);
        }
        client.retain(&names.topic("deleted"), "x", 1);
        client.retain(&names.topic("deleted"), "", 1);
        client.subscribe(&names.topic("#"), 1);
        let got: BTreeSet<String> = client.expect_texts(150).into_iter().collect();
        assert_eq!(got, texts);
        client.unsubscribe(&[&names.topic("#")]);
        client.subscribe(&names.topic("1/+"), 1);
        let part: BTreeSet<String> = client.expect_texts(38).into_iter().collect();
        assert!(part.iter().all(|text| text.starts_with("1/")));
        client.expect_silence();
    }
}

#[test]
fn wildcard_with_a_hole_gets_matching_retained_messages_only() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    for topic in ["a", "a/x", "a/x/c", "a/y/c", "a/y/d", "b/x/c", "a//c"] {
        client.retain(&names.topic(topic), topic, 1);
    }
    for (filter, wanted) in [
        ("a/+/c", vec!["a//c", "a/x/c", "a/y/c"]),
        ("+/x/#", vec!["a/x", "a/x/c", "b/x/c"]),
        ("a/#", vec!["a", "a//c", "a/x", "a/x/c", "a/y/c", "a/y/d"]),
        ("+", vec!["a"]),
    ] {
        client.subscribe(&names.topic(filter), 1);
        let mut got = client.expect_texts(wanted.len());
        got.sort();
        assert_eq!(got, wanted, "{filter}");
        client.expect_silence();
        client.unsubscribe(&[&names.topic(filter)]);
    }
}

#[test]
fn root_wildcards_do_not_get_dollar_topics_retained() {
    let node = crate::support::node::Node::start();
    let mut client = node.broker().v5("keep").connect();
    let code = client.publish_code(Publish { retain: true, ..message("$hidden/a", "hidden", 1) });
    client.retain("seen/a", "seen", 1);
    for filter in ["#", "+/a", "+/#"] {
        client.subscribe(filter, 1);
        assert_eq!(client.expect_publish().text(), "seen");
        client.expect_silence();
        client.unsubscribe(&[filter]);
    }
    if code < 0x80 {
        assert_eq!(retained(&mut client, "$hidden/#").as_deref(), Some("hidden"));
    }
}

#[test]
fn retained_copies_carry_the_subscription_id() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    client.retain(&names.topic("a"), "kept", 1);
    let props = Props::new().number(SUBSCRIPTION_ID, 77);
    client.subscribe_with(&[Sub::new(&names.topic("+"), 1)], &props);
    assert_eq!(client.expect_publish().props.numbers(SUBSCRIPTION_ID), [77]);
}

#[test]
fn retained_copies_carry_the_properties() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    let props = Props::new().text(CONTENT_TYPE, "a/b").user("k", "1").user("k", "2");
    let topic = names.topic("a");
    client.publish_with(Publish { retain: true, props, ..message(&topic, "kept", 1) });
    client.subscribe(&topic, 1);
    let came = client.expect_publish().props;
    assert_eq!(came.get_text(CONTENT_TYPE), Some("a/b"));
    assert_eq!(came.user_pairs(), [("k", "1"), ("k", "2")]);
}

#[test]
fn retained_message_counts_its_expiry_down_and_then_is_gone() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    let topic = names.topic("a");
    let props = Props::new().number(MESSAGE_EXPIRY, 4);
    client.publish_with(Publish { retain: true, props, ..message(&topic, "short", 1) });
    let_pass(Duration::from_millis(2_100));
    client.subscribe(&topic, 1);
    let left = client.expect_publish().props.get_number(MESSAGE_EXPIRY).unwrap();
    assert!((1..=2).contains(&left), "{left}");
    client.unsubscribe(&[&topic]);
    let_pass(Duration::from_millis(2_500));
    assert_eq!(retained(&mut client, &topic), None);
    // Expired is gone for good: no empty delivery to wildcards either.
    assert_eq!(retained(&mut client, &names.topic("#")), None);
}

#[test]
fn shared_subscription_gets_no_retained_copies() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("keep")).connect();
    client.retain(&names.topic("a"), "kept", 1);
    client.subscribe(&format!("$share/g/{}", names.topic("a")), 1);
    client.expect_silence();
    client.publish(&names.topic("a"), "live", 1);
    assert_eq!(client.expect_publish().text(), "live");
}

#[test]
fn many_retained_copies_pass_a_small_window() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    const COUNT: usize = 1_500;
    for n in 0..COUNT {
        from.send_publish(Publish {
            retain: true,
            ..message(&names.topic(&format!("r/{n}")), &n.to_string(), 0)
        });
    }
    from.retain(&names.topic("last"), "last", 1);
    for qos in [1, 2] {
        let id = names.id(&format!("to{qos}"));
        let mut to = broker().v5(&id).receive_maximum(7).connect();
        to.subscribe(&names.topic("r/#"), qos);
        let got: BTreeSet<String> = to.expect_texts(COUNT).into_iter().collect();
        assert_eq!(got.len(), COUNT);
    }
}

#[test]
fn retained_messages_outlive_their_publisher() {
    for version in BOTH {
        let names = Names::new();
        let mut from = broker().dial(version, &names.id("from")).connect();
        from.retain(&names.topic("a"), "kept", 0);
        from.ping();
        from.disconnect();
        let mut to = broker().dial(version, &names.id("to")).connect();
        let mut found = None;
        wait_until("the retained message is found", || {
            found = retained(&mut to, &names.topic("a"));
            found.is_some()
        });
        assert_eq!(found.as_deref(), Some("kept"));
    }
}

#[test]
fn message_queued_for_an_absent_session_is_no_retained_copy() {
    let names = Names::new();
    let dial = broker().v5(&names.id("away")).durable();
    let mut away = dial.connect();
    away.subscribe(&names.topic("a"), 1);
    away.disconnect();
    let mut from = broker().v5(&names.id("from")).connect();
    from.retain(&names.topic("a"), "while away", 1);
    let mut back = dial.connect();
    let came = back.expect_publish();
    assert!(!came.retain && came.text() == "while away");
    back.expect_silence();
}

#[test]
fn retained_copy_never_comes_after_a_newer_live_message() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    for round in 0..30 {
        let topic = names.topic(&format!("race{round}"));
        from.retain(&topic, "0", 1);
        let mut to = broker().v5(&names.id("to")).connect();
        let id = to.next_id();
        let subs = [Sub::new(&topic, 1)];
        let subscribe =
            crate::support::packet::encode_subscribe(Version::V5, id, &subs, &Props::new());
        to.send_raw(&subscribe);
        for n in 1..5 {
            from.retain(&topic, &n.to_string(), 1);
        }
        // The same message may come retained and then live, never the other way round.
        let mut last = -1;
        while last < 4 {
            let came = to.expect_publish();
            let number: i32 = came.text().parse().unwrap();
            let fine = number > last || (number == last && !came.retain);
            assert!(fine, "{number} (retained: {}) after {last}", came.retain);
            last = number;
        }
    }
}

#[test]
fn durable_subscription_beside_retained_publishes_sees_them_in_order_up_to_the_newest() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut from = broker().v5(&names.id("from")).connect();
    // Somebody has the filter already, so that messages are stored from the first on.
    broker().v5(&names.id("other")).durable().connect().subscribe(&topic, 1);
    for round in 0..40 {
        let values: Vec<u32> = (round * 5..round * 5 + 5).collect();
        let mut to = broker().v5(&names.id(&format!("to{round}"))).durable().connect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in &values {
                    from.retain(&topic, &value.to_string(), 1);
                }
            });
            to.subscribe(&topic, 1);
        });
        let mut seen: Vec<u32> = Vec::new();
        while seen.last() != values.last() {
            seen.push(to.expect_publish().text().parse().unwrap());
        }
        assert!(seen.is_sorted(), "round {round}: {seen:?}");
        to.expect_silence_for(Duration::from_millis(100));
    }
}

#[test]
fn durable_subscription_made_during_a_retained_publish_does_not_miss_it() {
    let names = Names::new();
    let mut from = broker().v5(&names.id("from")).connect();
    let mut to = broker().v5(&names.id("to")).durable().connect();
    for round in 0..300_u64 {
        let topic = names.topic(&round.to_string());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let_pass(Duration::from_micros(round % 10 * 200));
                from.retain(&topic, &round.to_string(), 1);
            });
            to.subscribe(&topic, 1);
        });
        // Twice is allowed: as the copy and as itself.
        while to.expect_publish().text() != round.to_string() {}
    }
}
