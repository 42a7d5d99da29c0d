//! Sessions: MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2, 3.14.2.2.2, 4.1, 4.4; MQTT 3.1.1 section 3.1.2.4.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, message},
    packet::{AckKind, BOTH, Publish, Sub, Version, encode_disconnect},
    property::{MESSAGE_EXPIRY, Props, SESSION_EXPIRY, SUBSCRIPTION_ID},
    wait::{let_pass, wait_until},
};

#[test]
fn session_is_present_exactly_when_it_was_kept() {
    for version in BOTH {
        let names = Names::new();
        let durable = broker().dial(version, &names.id("s")).durable();
        let clean = broker().dial(version, &names.id("s")).clean(true);
        let steps = [(&durable, false), (&durable, true), (&clean, false), (&durable, false)];
        for (dial, wanted) in steps {
            let client = dial.connect();
            assert_eq!(client.connack.present, wanted);
            client.disconnect();
        }
    }
}

#[test]
fn session_with_expiry_zero_ends_with_its_connection() {
    for cut in [true, false] {
        let names = Names::new();
        let dial = broker().v5(&names.id("s")).clean(false).expiry(0);
        let client = dial.connect();
        if cut {
            client.cut();
        } else {
            client.disconnect();
        }
        // A cut is seen a moment later; until then the new connection takes over a session that
        // expires right then.
        let_pass(Duration::from_millis(200));
        assert!(!dial.connect().connack.present);
    }
}

#[test]
fn absent_session_expiry_means_zero() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).clean(false);
    dial.connect().disconnect();
    assert!(!dial.connect().connack.present);
}

#[test]
fn clean_start_with_expiry_begins_a_session_that_can_be_resumed() {
    let names = Names::new();
    let mut first = broker().v5(&names.id("s")).clean(true).expiry(60).connect();
    first.subscribe(&names.topic("a"), 1);
    first.disconnect();
    let mut second = broker().v5(&names.id("s")).clean(false).expiry(60).connect();
    assert!(second.connack.present);
    second.publish(&names.topic("a"), "still", 1);
    assert_eq!(second.expect_publish().text(), "still");
}

#[test]
fn clean_start_forgets_subscriptions_and_queue() {
    for version in BOTH {
        let names = Names::new();
        let durable = broker().dial(version, &names.id("s")).durable();
        let mut client = durable.connect();
        client.subscribe(&names.topic("a"), 1);
        client.disconnect();
        let mut from = broker().dial(version, &names.id("from")).connect();
        from.publish(&names.topic("a"), "queued", 1);
        let mut client = broker().dial(version, &names.id("s")).clean(true).connect();
        from.publish(&names.topic("a"), "live", 1);
        client.expect_silence();
        client.disconnect();
        let mut client = durable.connect();
        assert!(!client.connack.present);
        client.expect_silence();
    }
}

#[test]
fn session_expires_after_its_time_and_not_before() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).clean(false).expiry(2);
    dial.connect().disconnect();
    let_pass(Duration::from_millis(900));
    let client = dial.connect();
    assert!(client.connack.present, "expired too early");
    // The time counts from the end of the connection, not from its start.
    let_pass(Duration::from_millis(2_500));
    client.disconnect();
    let client = dial.connect();
    assert!(client.connack.present, "counted while connected");
    client.disconnect();
    let_pass(Duration::from_millis(3_500));
    assert!(!dial.connect().connack.present, "expired too late");
}

#[test]
fn expired_session_takes_its_subscriptions_along() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("s")).expiry(1).connect();
    client.subscribe(&names.topic("a"), 1);
    client.disconnect();
    let_pass(Duration::from_millis(2_500));
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("a"), "for nobody", 1);
    let mut client = broker().v5(&names.id("s")).durable().connect();
    assert!(!client.connack.present);
    client.expect_silence();
}

#[test]
fn session_expiry_may_be_changed_by_disconnect() {
    // (at connect, at disconnect, present afterwards)
    for (first, last, wanted) in [(60, 0, false), (1, 60, true), (0xFFFF_FFFF, 60, true)] {
        let names = Names::new();
        let dial = broker().v5(&names.id("s")).clean(false).expiry(first);
        dial.connect().disconnect_with(0, &Props::new().number(SESSION_EXPIRY, last));
        let_pass(Duration::from_millis(2_300));
        assert_eq!(dial.connect().connack.present, wanted, "{first} then {last}");
    }
}

#[test]
fn session_expiry_must_not_be_raised_from_zero_by_disconnect() {
    let names = Names::new();
    let mut watcher = broker().v5(&names.id("watcher")).connect();
    watcher.subscribe(&names.topic("will"), 0);
    let mut client = broker().v5(&names.id("s")).will(&names.topic("will"), "w", 0).connect();
    let props = Props::new().number(SESSION_EXPIRY, 10);
    client.send_raw(&encode_disconnect(Version::V5, 0, &props));
    client.expect_disconnect(&[0x82]);
    assert!(!broker().v5(&names.id("s")).clean(false).connect().connack.present);
}

#[test]
fn resumed_session_keeps_options_of_its_subscriptions() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).durable();
    let mut client = dial.connect();
    let with_id = |id| Props::new().number(SUBSCRIPTION_ID, id);
    client.subscribe_with(&[Sub::new(&names.topic("a"), 1).no_local()], &with_id(5));
    client.subscribe_with(&[Sub::new(&names.topic("b"), 2).keep_retain()], &with_id(6));
    client.disconnect();
    let mut client = dial.connect();
    client.publish(&names.topic("a"), "mine", 1);
    client.retain(&names.topic("b"), "flagged", 2);
    let came = client.expect_publish();
    assert_eq!((came.text().as_str(), came.qos, came.retain), ("flagged", 2, true));
    assert_eq!(came.props.numbers(SUBSCRIPTION_ID), [6]);
    client.retain(&names.topic("b"), "", 1);
}

#[test]
fn resumed_session_gets_what_came_meanwhile_in_order() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("s")).durable();
        let mut client = dial.connect();
        client.subscribe(&names.topic("#"), 2);
        client.disconnect();
        let mut from = broker().dial(version, &names.id("from")).connect();
        let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        for (n, text) in texts.iter().enumerate() {
            from.publish(&names.topic(&format!("{}", n % 3)), text, 1 + (n % 2) as u8);
        }
        let mut client = dial.connect();
        assert_eq!(client.expect_texts(50), texts);
        client.expect_silence();
        client.disconnect();
        // Acknowledged is gone.
        dial.connect().expect_silence();
    }
}

#[test]
fn queued_messages_keep_subscription_ids_of_all_matches() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).durable();
    let mut client = dial.connect();
    for (filter, id) in [("a/#", 1), ("a/+", 2)] {
        let props = Props::new().number(SUBSCRIPTION_ID, id);
        client.subscribe_with(&[Sub::new(&names.topic(filter), 1)], &props);
    }
    client.disconnect();
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("a/b"), "x", 1);
    let mut client = dial.connect();
    let mut ids = client.expect_publish().props.numbers(SUBSCRIPTION_ID);
    if ids.len() == 1 {
        ids.extend(client.expect_publish().props.numbers(SUBSCRIPTION_ID));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    client.expect_silence();
}

#[test]
fn queued_message_that_expired_is_not_sent() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).durable();
    let mut client = dial.connect();
    client.subscribe(&names.topic("a"), 1);
    client.disconnect();
    let mut from = broker().v5(&names.id("from")).connect();
    for (text, expiry) in [("short", 1), ("long", 100), ("none", 0xFFFF_FFFF)] {
        let props = Props::new().number(MESSAGE_EXPIRY, expiry);
        from.publish_with(Publish { props, ..message(&names.topic("a"), text, 1) });
    }
    let_pass(Duration::from_millis(2_200));
    let mut client = dial.connect();
    let came = client.expect_publish();
    assert_eq!(came.text(), "long");
    let left = came.props.get_number(MESSAGE_EXPIRY).unwrap();
    assert!((90..=98).contains(&left), "{left}");
    assert_eq!(client.expect_publish().text(), "none");
    client.expect_silence();
}

/// Subscribes, receives `count` publishes without finishing them, and is cut off.
fn leave_unfinished(mut client: Client, topic: &str, qos: u8, count: usize) -> Vec<Publish> {
    client.subscribe(topic, qos);
    for n in 0..count {
        client.publish(topic, &n.to_string(), qos);
    }
    let came = (0..count).map(|_| client.expect_publish()).collect();
    client.cut();
    came
}

#[test]
fn unfinished_publishes_are_resent_first_in_order_with_dup_and_id() {
    for version in BOTH {
        for qos in 1..3 {
            let names = Names::new();
            let dial = broker().dial(version, &names.id("s")).durable().manual();
            let topic = names.topic("a");
            let came = leave_unfinished(dial.connect(), &topic, qos, 5);
            let mut from = broker().dial(version, &names.id("from")).connect();
            from.publish(&topic, "new", qos);
            let mut client = dial.connect();
            for old in &came {
                let again = client.expect_publish();
                assert_eq!((again.id, again.text(), again.dup), (old.id, old.text(), true));
                assert_eq!(again.qos, qos);
            }
            let new = client.expect_publish();
            assert_eq!((new.text().as_str(), new.dup), ("new", false));
        }
    }
}

#[test]
fn release_is_resent_where_pubrec_had_come() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("s")).durable().manual();
        let topic = names.topic("a");
        let mut client = dial.connect();
        client.subscribe(&topic, 2);
        for text in ["one", "two", "three"] {
            client.publish(&topic, text, 2);
        }
        let came: Vec<Publish> = (0..3).map(|_| client.expect_publish()).collect();
        for publish in &came[..2] {
            client.ack(AckKind::Pubrec, publish.id);
            client.expect_ack(AckKind::Pubrel, publish.id);
        }
        client.cut();
        let mut client = dial.connect();
        client.expect_ack(AckKind::Pubrel, came[0].id);
        client.expect_ack(AckKind::Pubrel, came[1].id);
        let third = client.expect_publish();
        assert_eq!((third.text().as_str(), third.id, third.dup), ("three", came[2].id, true));
        for publish in &came[..2] {
            client.ack(AckKind::Pubcomp, publish.id);
        }
        client.ack(AckKind::Pubrec, third.id);
        client.expect_ack(AckKind::Pubrel, third.id);
        client.ack(AckKind::Pubcomp, third.id);
        client.expect_silence();
        client.disconnect();
        dial.connect().expect_silence();
    }
}

#[test]
fn qos2_sent_before_a_cut_is_delivered_once_when_resent() {
    for version in BOTH {
        let names = Names::new();
        let mut watcher = broker().dial(version, &names.id("watcher")).connect();
        watcher.subscribe(&names.topic("a"), 2);
        let dial = broker().dial(version, &names.id("s")).durable();
        let publish = Publish { id: 321, ..message(&names.topic("a"), "once", 2) };
        let mut client = dial.connect();
        client.send_publish(publish.clone());
        client.expect_ack(AckKind::Pubrec, 321);
        client.cut();
        let mut client = dial.connect();
        assert!(client.connack.present);
        client.send_publish(Publish { dup: true, ..publish.clone() });
        assert!(client.expect_ack(AckKind::Pubrec, 321) < 0x80);
        client.cut();
        let mut client = dial.connect();
        client.ack(AckKind::Pubrel, 321);
        assert_eq!(client.expect_ack(AckKind::Pubcomp, 321), 0);
        assert_eq!(watcher.expect_publish().text(), "once");
        watcher.expect_silence();
        client.publish_with(publish);
        assert_eq!(watcher.expect_publish().text(), "once");
    }
}

#[test]
fn takeover_hands_the_unfinished_to_the_new_connection() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("s")).durable().manual();
        let topic = names.topic("a");
        let mut old = dial.connect();
        old.subscribe(&topic, 1);
        for text in ["one", "two"] {
            old.publish(&topic, text, 1);
        }
        let one = old.expect_publish();
        old.expect_publish();
        old.ack(AckKind::Puback, one.id);
        old.ping();
        let mut new = dial.connect();
        assert!(new.connack.present);
        old.expect_closed();
        let again = new.expect_publish();
        assert_eq!((again.text().as_str(), again.dup), ("two", true));
        new.expect_silence();
    }
}

#[test]
fn session_of_v4_is_resumed_by_v5_and_back() {
    let names = Names::new();
    let mut first = broker().v4(&names.id("s")).clean(false).connect();
    first.subscribe(&names.topic("a"), 1);
    first.disconnect();
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("a"), "one", 1);
    let mut second = broker().v5(&names.id("s")).durable().connect();
    assert!(second.connack.present);
    assert_eq!(second.expect_publish().text(), "one");
    second.disconnect();
    from.publish(&names.topic("a"), "two", 1);
    let mut third = broker().v4(&names.id("s")).clean(false).connect();
    assert!(third.connack.present);
    assert_eq!(third.expect_publish().text(), "two");
}

#[test]
fn session_of_v4_without_clean_session_ends_at_a_clean_one() {
    let names = Names::new();
    broker().v4(&names.id("s")).clean(false).connect().cut();
    let_pass(Duration::from_millis(100));
    let again = broker().v4(&names.id("s")).clean(false).connect();
    assert!(again.connack.present);
    again.disconnect();
    broker().v4(&names.id("s")).clean(true).connect().cut();
    wait_until("the clean session has ended", || {
        let client = broker().v4(&names.id("s")).clean(true).connect();
        let present = client.connack.present;
        client.disconnect();
        !present
    });
}

#[test]
fn durable_subscription_added_while_another_is_absent_queues_for_both() {
    let names = Names::new();
    let dials: Vec<_> =
        (0..5).map(|n| broker().v5(&names.id(&format!("s{n}"))).durable()).collect();
    for dial in &dials {
        let mut client = dial.connect();
        client.subscribe(&names.topic("a/+"), 1);
        client.disconnect();
    }
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..10 {
        from.publish(&names.topic("a/b"), &n.to_string(), 1);
    }
    for dial in &dials {
        let mut client = dial.connect();
        assert_eq!(client.expect_texts(10).len(), 10);
        client.expect_silence();
    }
}

#[test]
fn qos0_subscription_of_a_durable_session_works_after_resume() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("s")).durable();
        let mut client = dial.connect();
        client.subscribe(&names.topic("a"), 0);
        client.disconnect();
        let mut client = dial.connect();
        client.publish(&names.topic("a"), "live", 1);
        assert_eq!(client.expect_publish().text(), "live");
    }
}
