//! Quotas of an app, over all shards: the whole of it may lie in one, and together they stay within it.
//! Promise BOUNDED.

use std::time::Duration;

use crate::support::{
    broker::Broker,
    http_client::metric,
    mqtt_client::{Client, message},
    node::Node,
    packet::{Publish, Will},
    property::Props,
    wait::wait_until,
};

const QUOTA_BYTES: usize = 256 * 1024;
const PAYLOAD_BYTES: usize = 4 * 1024;
const QUOTA_EXCEEDED: u8 = 0x97;
const STORED_BYTES: &str = "hongqiao_queue_bytes ";

fn node() -> Node {
    let bytes = QUOTA_BYTES.to_string();
    Node::start_with(&[
        ("quotas.app_bytes_max", &bytes),
        ("quotas.session_bytes_max", &bytes),
        ("quotas.retained_messages_max", "100"),
        ("storage.shards", "16"),
    ])
}

fn absent(broker: Broker, client_id: &str, filter: &str) {
    let mut to = broker.v5(client_id).durable().connect();
    to.subscribe(filter, 1);
    to.disconnect();
}

fn publish(from: &mut Client, topic: &str) -> u8 {
    let payload = vec![b'x'; PAYLOAD_BYTES];
    from.publish_code(Publish { payload, ..message(topic, "", 1) })
}

/// Publishes until it is refused; returns how many were taken.
fn fill(from: &mut Client, topic: impl Fn(usize) -> String) -> usize {
    for taken in 0..=2 * QUOTA_BYTES / PAYLOAD_BYTES {
        match publish(from, &topic(taken)) {
            QUOTA_EXCEEDED => return taken,
            code => assert!(code < 0x80, "{code:#x}"),
        }
    }
    panic!("never refused");
}

#[test]
fn app_with_all_data_in_one_shard_may_use_its_whole_quota_and_gets_space_back() {
    let node = node();
    absent(node.broker(), "absent", "a");
    let mut from = node.broker().v5("from").connect();
    let most = QUOTA_BYTES / (PAYLOAD_BYTES + 1);
    for round in 0..2 {
        assert_eq!(fill(&mut from, |_| "a".to_owned()), most, "round {round}");
        // What nobody stores is not refused.
        assert!(publish(&mut from, "nobody") < 0x80);
        let mut to = node.broker().v5("absent").durable().connect();
        to.expect_texts(most);
        to.disconnect();
        wait_until("what was read is trimmed", || {
            metric(node.broker().http(), STORED_BYTES) == Some(0.0)
        });
    }
}

#[test]
fn app_with_data_in_many_shards_is_refused_near_its_quota() {
    let mut node = node();
    // 48 sessions in 16 shards, hashed by a key of this folder.
    for n in 0..48 {
        absent(node.broker(), &format!("absent-{n}"), &format!("a/{n}"));
    }
    for restart in [false, true] {
        if restart {
            node.crash();
        }
        let mut from: Vec<_> =
            (0..4).map(|n| node.broker().v5(&format!("from-{n}")).connect()).collect();
        let taken: usize =
            from.iter_mut().map(|from| fill(from, |n| format!("a/{}", n % 48))).sum();
        let stored = metric(node.broker().http(), STORED_BYTES).unwrap();
        assert!(stored <= QUOTA_BYTES as f64, "{stored} after {taken}");
        assert!(stored > (QUOTA_BYTES - 2 * PAYLOAD_BYTES) as f64, "{stored} after {taken}");
    }
}

#[test]
fn retained_messages_when_at_their_limit_can_be_replaced_and_cleared() {
    let node = node();
    let mut from = node.broker().v5("from").connect();
    let mut retain = |topic: usize, payload: &str| {
        let topic = format!("r/{topic}");
        from.publish_code(Publish { retain: true, ..message(&topic, payload, 1) })
    };
    for topic in 0..100 {
        assert!(retain(topic, "x") < 0x80, "{topic}");
    }
    for topic in 100..140 {
        assert_eq!(retain(topic, "x"), QUOTA_EXCEEDED, "{topic}");
    }
    for topic in 0..100 {
        assert!(retain(topic, "y") < 0x80, "{topic}");
    }
    for topic in 0..10 {
        assert!(retain(topic, "") < 0x80, "{topic}");
    }
    for topic in 100..110 {
        assert!(retain(topic, "x") < 0x80, "{topic}");
    }
    assert_eq!(retain(110, "x"), QUOTA_EXCEEDED);
    assert_eq!(metric(node.broker().http(), "hongqiao_retained_messages "), Some(100.0));
}

#[test]
fn retained_will_of_an_app_at_its_limit_is_delivered_once_and_over() {
    let node = node();
    let mut from = node.broker().v5("from").connect();
    for topic in 0..100 {
        let retain = Publish { retain: true, ..message(&format!("r/{topic}"), "x", 1) };
        assert!(from.publish_code(retain) < 0x80, "{topic}");
    }
    let mut watcher = node.broker().v5("watcher").connect();
    watcher.subscribe("will", 1);
    let (topic, payload) = ("will".to_owned(), b"gone".to_vec());
    let will = Will { topic, payload, qos: 1, retain: true, props: Props::new() };
    node.broker().v5("mortal").durable().will_with(will).connect().cut();
    assert_eq!(watcher.expect_publish().text(), "gone");
    // What is not done comes again after 5 s.
    watcher.expect_silence_for(Duration::from_secs(7));
}

#[test]
fn packet_id_of_a_refused_qos_2_publish_is_free_for_another_message() {
    let node = node();
    absent(node.broker(), "absent", "a");
    let mut from = node.broker().v5("from").durable().connect();
    fill(&mut from, |_| "a".to_owned());
    let mut to = node.broker().v5("to").connect();
    to.subscribe("b", 2);
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let refused = Publish { payload, id: 60_000, ..message("a", "", 2) };
    assert_eq!(from.publish_code(refused), QUOTA_EXCEEDED);
    from.publish_with(Publish { id: 60_000, ..message("b", "another", 2) });
    assert_eq!(to.expect_publish().text(), "another");
    from.cut();
    // Nothing of it is open for the next connection either.
    let mut from = node.broker().v5("from").durable().connect();
    from.publish_with(Publish { id: 60_000, ..message("b", "a third", 2) });
    assert_eq!(to.expect_publish().text(), "a third");
}
