//! UNSUBSCRIBE and UNSUBACK: MQTT 5.0 sections 3.10, 3.11.

use crate::support::{
    broker::{Names, broker},
    packet::{AckKind, BOTH, Sub, Version},
    property::Props,
};

#[test]
fn unsubscribe_ends_deliveries() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("un")).connect();
        client.subscribe(&names.topic("a"), 1);
        client.subscribe(&names.topic("b"), 1);
        client.unsubscribe(&[&names.topic("a")]);
        client.publish(&names.topic("a"), "no", 1);
        client.publish(&names.topic("b"), "yes", 1);
        assert_eq!(client.expect_publish().text(), "yes");
        client.expect_silence();
    }
}

#[test]
fn unsubscribe_answers_each_filter_in_its_place() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("un")).connect();
    let (a, b, c) = (names.topic("a"), names.topic("b"), names.topic("c"));
    client.subscribe_with(&[Sub::new(&a, 0), Sub::new(&c, 2)], &Props::new());
    assert_eq!(client.unsubscribe(&[&a, &b, &c]), [0, 0x11, 0]);
    assert_eq!(client.unsubscribe(&[&a]), [0x11]);
}

#[test]
fn unsubscribe_of_nothing_is_acknowledged_in_v4() {
    let names = Names::new();
    let mut client = broker().v4(&names.id("un")).connect();
    assert!(client.unsubscribe(&[&names.topic("never")]).is_empty());
}

#[test]
fn unsubscribe_compares_filters_letter_by_letter() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("un")).connect();
    client.subscribe(&names.topic("a/b"), 0);
    for filter in ["a/#", "a/+", "a/B", "a/b/", "#"] {
        assert_eq!(client.unsubscribe(&[&names.topic(filter)]), [0x11]);
    }
    client.publish(&names.topic("a/b"), "still", 0);
    assert_eq!(client.expect_publish().text(), "still");
}

#[test]
fn unsubscribe_of_one_overlapping_filter_leaves_the_other() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("un")).connect();
        client.subscribe(&names.topic("a/#"), 1);
        client.subscribe(&names.topic("a/b"), 2);
        client.unsubscribe(&[&names.topic("a/b")]);
        client.publish(&names.topic("a/b"), "x", 2);
        assert_eq!(client.expect_publish().qos, 1);
        client.expect_silence();
    }
}

#[test]
fn unsubscribe_lets_started_exchanges_finish() {
    for version in [Version::V4, Version::V5] {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("un")).manual().connect();
        client.subscribe(&names.topic("a"), 2);
        client.publish(&names.topic("a"), "started", 2);
        let started = client.expect_publish();
        client.unsubscribe(&[&names.topic("a")]);
        client.ack(AckKind::Pubrec, started.id);
        assert_eq!(client.expect_ack(AckKind::Pubrel, started.id), 0);
        client.ack(AckKind::Pubcomp, started.id);
        client.ping();
    }
}

#[test]
fn unsubscribe_by_a_durable_session_holds_after_resume() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("un")).durable();
        let mut client = dial.connect();
        client.subscribe(&names.topic("a"), 1);
        client.subscribe(&names.topic("b"), 1);
        client.unsubscribe(&[&names.topic("a")]);
        client.disconnect();
        let mut other = broker().dial(version, &names.id("other")).connect();
        other.publish(&names.topic("a"), "no", 1);
        other.publish(&names.topic("b"), "yes", 1);
        let mut client = dial.connect();
        assert_eq!(client.expect_publish().text(), "yes");
        client.expect_silence();
    }
}
