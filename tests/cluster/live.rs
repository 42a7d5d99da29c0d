//! Publishers and subscribers on different nodes: every QoS and option, order, many filters, a node that dies.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::alone;
use crate::support::{
    broker::{Broker, Names},
    cluster::Cluster,
    mqtt_client::{Client, Received, message},
    packet::{AckKind, Packet, Publish, Sub},
    property::{Props, SUBSCRIPTION_ID},
    wait::{PATIENCE, now},
};

/// Whoever waits for a node that died waits longer than this; nobody is declared down earlier.
const HELD_UP: Duration = Duration::from_secs(2);

/// Clients on two different nodes of a cluster.
struct Pair {
    names: Names,
    from: Client,
    to: Client,
}

impl Pair {
    fn new(cluster: &Cluster, from: usize, to: usize) -> Self {
        let names = Names::new();
        let from = cluster.broker(from).v5(&names.id("from")).connect();
        let to = cluster.broker(to).v5(&names.id("to")).connect();
        Self { names, from, to }
    }
}

#[test]
fn messages_cross_nodes_as_they_cross_threads() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    qos_is_the_smaller_of_both(&cluster);
    wildcards_match_and_dollar_topics_hide(&cluster);
    options_of_subscriptions_count_on_any_node(&cluster);
    retained_message_is_found_from_any_node(&cluster);
    order_of_a_publisher_stays_at_each_qos(&cluster);
    thousands_of_filters_are_routed_before_their_suback(&cluster);
    wills_and_durable_sessions_reach_other_nodes(&cluster);
}

fn qos_is_the_smaller_of_both(cluster: &Cluster) {
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        let Pair { names, mut from, mut to } = Pair::new(cluster, from, to);
        for wanted in 0..3 {
            let topic = names.topic(&wanted.to_string());
            to.subscribe(&topic, wanted);
            for sent in 0..3 {
                from.publish(&topic, "x", sent);
                let got = to.expect_publish();
                assert_eq!((got.topic.as_str(), got.qos), (topic.as_str(), sent.min(wanted)));
            }
            to.unsubscribe(&[&topic]);
        }
    }
}

fn wildcards_match_and_dollar_topics_hide(cluster: &Cluster) {
    let Pair { names, mut from, mut to } = Pair::new(cluster, 1, 3);
    to.subscribe(&names.topic("+/b/#"), 1);
    to.subscribe(&names.topic("a/+"), 1);
    for (topic, comes) in [("a/b", 1), ("a/b/c", 1), ("a/c", 1), ("x/c", 0), ("b", 0)] {
        from.publish(&names.topic(topic), topic, 1);
        (0..comes).for_each(|_| assert_eq!(to.expect_publish().text(), topic));
    }
    to.expect_silence();
    to.subscribe("#", 0);
    to.subscribe("$own/+", 0);
    let hidden = format!("$own/{}", names.id("x"));
    from.publish(&hidden, "once", 1);
    assert_eq!(to.expect_publish().text(), "once");
    to.expect_silence();
}

fn options_of_subscriptions_count_on_any_node(cluster: &Cluster) {
    let Pair { names, mut from, mut to } = Pair::new(cluster, 2, 1);
    let topic = names.topic("t");
    let id = Props::new().number(SUBSCRIPTION_ID, 7);
    to.subscribe_with(&[Sub::new(&topic, 1).keep_retain()], &id);
    from.subscribe_with(&[Sub::new(&topic, 1).no_local()], &Props::new());
    from.publish_with(Publish { retain: true, ..message(&topic, "kept", 1) });
    let got = to.expect_publish();
    assert!(got.retain);
    assert_eq!(got.props.numbers(SUBSCRIPTION_ID), [7]);
    from.expect_silence();
    to.publish(&topic, "back", 1);
    assert_eq!(from.expect_publish().text(), "back", "no-local hides own messages alone");
    assert_eq!(to.expect_publish().text(), "back");
}

fn retained_message_is_found_from_any_node(cluster: &Cluster) {
    let Pair { names, mut from, to } = Pair::new(cluster, 1, 2);
    drop(to);
    for n in 0..8 {
        from.retain(&names.topic(&format!("r/{n}")), &n.to_string(), 1);
    }
    for node in cluster.numbers() {
        let mut late = cluster.broker(node).v5(&names.id(&format!("late{node}"))).connect();
        late.subscribe(&names.topic("r/3"), 1);
        let got = late.expect_publish();
        assert!(got.retain && got.text() == "3");
        late.subscribe(&names.topic("r/+"), 1);
        let texts: BTreeSet<_> = late.expect_texts(8).into_iter().collect();
        assert_eq!(texts.len(), 8);
        late.expect_silence();
    }
}

fn order_of_a_publisher_stays_at_each_qos(cluster: &Cluster) {
    for qos in 0..3 {
        let Pair { names, mut from, mut to } = Pair::new(cluster, 3, 2);
        to.subscribe(&names.topic("#"), 2);
        // A window of them at a time, so that batches form; of QoS 2 each must be released.
        for round in 0..20 {
            let mut sent = Vec::new();
            for n in round * 15..(round + 1) * 15 {
                let one = message(&names.topic("o"), &n.to_string(), qos);
                if qos == 2 {
                    from.publish_with(one);
                } else {
                    sent.push(from.send_publish(one));
                }
            }
            // A PINGRESP may come before acknowledgements that wait for another node: of QoS 1 the window
            // would be passed.
            if qos == 1 {
                sent.into_iter()
                    .for_each(|id| assert!(from.expect_ack(AckKind::Puback, id) < 0x80));
            }
            from.ping_past_everything();
        }
        let sent: Vec<_> = (0..300).map(|n| n.to_string()).collect();
        assert_eq!(to.expect_texts(300), sent, "QoS {qos}");
    }
}

fn thousands_of_filters_are_routed_before_their_suback(cluster: &Cluster) {
    let Pair { names, mut from, mut to } = Pair::new(cluster, 1, 2);
    for part in 0..40 {
        let filter = |n: usize| names.topic(&format!("many/{}/+", part * 50 + n));
        let subs: Vec<_> = (0..50).map(|n| Sub::new(&filter(n), 1)).collect();
        assert_eq!(to.subscribe_with(&subs, &Props::new()), [1; 50]);
        let topic = names.topic(&format!("many/{}/x", part * 50 + 49));
        from.publish(&topic, &part.to_string(), 1);
        assert_eq!(to.expect_publish().text(), part.to_string());
    }
}

fn wills_and_durable_sessions_reach_other_nodes(cluster: &Cluster) {
    let Pair { names, mut from, mut to } = Pair::new(cluster, 2, 3);
    let topic = names.topic("w");
    to.subscribe(&topic, 1);
    let dying = cluster.broker(1).v5(&names.id("dying")).will(&topic, "gone", 1).connect();
    dying.cut();
    assert_eq!(to.expect_publish().text(), "gone");
    for qos in 1..3 {
        let id = names.id(&format!("durable{qos}"));
        let mut session = cluster.broker(1).v5(&id).durable().connect();
        session.subscribe(&names.topic("d/+"), qos);
        session.cut();
        for n in 0..20 {
            from.publish(&names.topic(&format!("d/{}", n % 3)), &n.to_string(), qos);
        }
        let mut session = cluster.broker(3).v5(&id).durable().clean(false).connect();
        assert!(session.connack.present);
        assert_eq!(session.expect_texts(20).len(), 20);
        session.expect_silence();
        session.disconnect();
    }
}

/// Publishes numbers until it is told to stop; returns how many were acknowledged.
fn publisher(
    broker: Broker,
    id: String,
    topic: String,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<u32> {
    thread::spawn(move || {
        let mut client = broker.v5(&id).connect();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            client.publish(&topic, &count.to_string(), 1);
            count += 1;
        }
        count
    })
}

#[test]
fn subscriber_that_comes_while_others_publish_misses_nothing_after_its_suback() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    let (names, stop) = (Names::new(), Arc::new(AtomicBool::new(false)));
    let topic = |node: usize| names.topic(&format!("churn/{node}"));
    let publishers: Vec<_> = cluster
        .numbers()
        .map(|node| {
            let id = names.id(&format!("p{node}"));
            publisher(cluster.broker(node), id, topic(node), Arc::clone(&stop))
        })
        .collect();
    for round in 0..40 {
        let (at, of) = (round % 3 + 1, (round + 1) % 3 + 1);
        let mut client = cluster.broker(at).v5(&names.id(&format!("s{round}"))).connect();
        client.subscribe(&topic(of), 1);
        // The publisher sends one after the other: of what comes from here on none is missing.
        let numbers: Vec<u32> =
            client.expect_texts(30).iter().map(|text| text.parse().unwrap()).collect();
        let first = numbers[0];
        assert!(numbers.iter().copied().eq(first..first + 30), "{numbers:?}");
        if round % 2 == 0 {
            client.unsubscribe(&[&topic(of)]);
        }
        drop(client);
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        assert!(publisher.join().unwrap() > 100);
    }
}

#[test]
fn durable_subscription_whose_qos_changes_while_others_publish_misses_nothing() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    let (names, stop) = (Names::new(), Arc::new(AtomicBool::new(false)));
    let topic = |node| names.topic(&format!("changes/{node}"));
    let mut client = cluster.broker(1).v5(&names.id("s")).durable().connect();
    let subscribe = |client: &mut Client, qos| {
        let subs: Vec<_> = cluster.numbers().map(|node| Sub::new(&topic(node), qos)).collect();
        assert_eq!(client.subscribe_with(&subs, &Props::new()), [qos; 3]);
    };
    subscribe(&mut client, 1);
    let publishers: Vec<_> = cluster
        .numbers()
        .map(|node| {
            let id = names.id(&format!("p{node}"));
            publisher(cluster.broker(node), id, topic(node), Arc::clone(&stop))
        })
        .collect();
    (0..20).for_each(|round| subscribe(&mut client, round % 2));
    stop.store(true, Ordering::Relaxed);
    let mut missing = BTreeSet::new();
    for (publisher, node) in publishers.into_iter().zip(cluster.numbers()) {
        let sent = publisher.join().unwrap();
        assert!(sent > 100, "{sent}");
        missing.extend((0..sent).map(|n| (topic(node), n.to_string())));
    }
    while !missing.is_empty() {
        match client.receive(PATIENCE) {
            Received::Packet(Packet::Publish(got)) => {
                let text = got.text();
                missing.remove(&(got.topic, text));
            }
            other => panic!("{} missing, {other:?} came: {missing:?}", missing.len()),
        }
    }
}

#[test]
fn publisher_waits_for_a_node_that_died_until_its_nodedown_and_others_not_at_all() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let Pair { names, mut from, mut to } = Pair::new(&cluster, 1, 3);
    let mut lost = cluster.broker(2).v5(&names.id("lost")).connect();
    let mut bystander = cluster.broker(1).v5(&names.id("bystander")).connect();
    lost.subscribe(&names.topic("both"), 1);
    to.subscribe(&names.topic("both"), 1);
    to.subscribe(&names.topic("other"), 1);
    from.publish(&names.topic("both"), "before", 1);
    assert_eq!(to.expect_publish().text(), "before");
    cluster.kill(2);
    let killed = now();
    let id = from.send_publish(message(&names.topic("both"), "after", 1));
    assert_eq!(to.expect_publish().text(), "after", "nobody else waits for the dead node");
    for n in 0..50 {
        let began = now();
        bystander.publish(&names.topic("other"), &n.to_string(), 1);
        assert_eq!(to.expect_publish().text(), n.to_string());
        assert!(began.elapsed() < HELD_UP, "waits for the dead node too");
    }
    let mut acknowledged = false;
    while !acknowledged {
        assert!(killed.elapsed() < PATIENCE, "held up longer than its NodeDown takes");
        match from.receive(Duration::from_millis(100)) {
            Received::Packet(Packet::Ack { id: its, code, .. }) => {
                assert_eq!((its, code), (id, 0));
                acknowledged = true;
            }
            Received::Nothing => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(killed.elapsed() > HELD_UP, "acknowledged before anybody could know");
    let began = now();
    from.publish(&names.topic("both"), "then", 1);
    assert!(began.elapsed() < HELD_UP, "its routes are gone");
    assert_eq!(to.expect_publish().text(), "then");
    cluster.restart(2);
    cluster.wait_ready();
    let mut again = cluster.broker(2).v5(&names.id("again")).connect();
    again.subscribe(&names.topic("both"), 1);
    from.publish(&names.topic("both"), "last", 1);
    assert_eq!(again.expect_publish().text(), "last");
}
