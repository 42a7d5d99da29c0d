//! SUBSCRIBE, filters and options: MQTT 5.0 sections 3.8, 3.9 and 4.7.

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, Received, message},
    node::Node,
    packet::{BOTH, Packet, Publish, Sub, Version, encode_subscribe},
    property::{Props, SUBSCRIPTION_ID},
    wait::{PATIENCE, SILENCE},
};

/// (filter, topics that match, topics that do not), below a first level of the test's own.
const MATCHES: &[(&str, &[&str], &[&str])] = &[
    ("a", &["a"], &["a/", "/a", "A", "b", "aa"]),
    ("a/b", &["a/b"], &["a", "a/b/c", "a/B", "a/"]),
    ("+", &["a", ""], &["a/b", "/"]),
    ("+/+", &["a/b", "/", "a/", "/b"], &["a", "a/b/c"]),
    ("a/+", &["a/b", "a/"], &["a", "a/b/c"]),
    ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/c/d"]),
    ("+/b", &["a/b", "/b"], &["b", "a/b/b"]),
    ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "b/a"]),
    ("a/b/#", &["a/b", "a/b/c/d"], &["a", "a/c"]),
    ("+/#", &["a", "a/b/c", "/"], &[]),
    ("+/b/#", &["a/b", "/b/c"], &["a", "a/c"]),
    ("a//b", &["a//b"], &["a/b", "a/x/b"]),
    ("虹/+", &["虹/桥"], &["桥/虹"]),
];

#[test]
fn filters_match_as_section_4_7_says() {
    for version in BOTH {
        for (filter, hits, misses) in MATCHES {
            let names = Names::new();
            let mut client = broker().dial(version, &names.id("match")).connect();
            client.subscribe(&names.topic(filter), 0);
            for topic in misses.iter().chain(*hits) {
                client.publish(&names.topic(topic), topic, 0);
            }
            assert_eq!(client.expect_texts(hits.len()), *hits, "filter {filter:?}");
            client.ping();
            client.expect_silence_for(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn hash_matches_its_parent_level() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("parent")).connect();
    let parent = names.id("parent-level");
    client.subscribe(&format!("{parent}/#"), 0);
    client.publish(&parent, "at the parent", 0);
    assert_eq!(client.expect_publish().topic, parent);
}

#[test]
fn leading_wildcards_do_not_match_dollar_topics() {
    let node = Node::start();
    let dollar = "$hidden/topic";
    for version in BOTH {
        for filter in ["#", "+/topic", "+/+", "+/#"] {
            let mut client = node.broker().dial(version, "dollar").connect();
            client.subscribe(filter, 0);
            client.send_publish(message(dollar, "hidden", 0));
            client.publish("seen/topic", "seen", 0);
            assert_eq!(client.expect_publish().text(), "seen", "{filter}");
            client.expect_silence_for(std::time::Duration::from_millis(50));
        }
        let mut client = node.broker().dial(version, "dollar").connect();
        for filter in ["$hidden/#", "$hidden/+", "$hidden/topic"] {
            client.subscribe(filter, 0);
            if client.publish_code(message(dollar, "hidden", 1)) < 0x80 {
                assert_eq!(client.expect_publish().text(), "hidden", "{filter}");
            }
            client.unsubscribe(&[filter]);
        }
    }
}

#[test]
fn invalid_filters_are_refused() {
    let filters = [
        "",
        "a#",
        "a/#/b",
        "#/a",
        "a+",
        "a/b+",
        "+a",
        "a/+b/c",
        "##",
        "++",
        "a/b#",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/g+/a",
        "$share/g#/a",
        "$share/+/a",
        "$share/#/a",
        "$share/g/a#",
    ];
    for version in BOTH {
        for filter in filters {
            // In 3.1.1 `$share` has no meaning of its own.
            if version == Version::V4 && filter.starts_with("$share") {
                continue;
            }
            let mut client = broker().dial(version, &Names::new().id("bad")).connect();
            let subs = [Sub::new(filter, 0)];
            client.send_raw(&encode_subscribe(version, 3, &subs, &Props::new()));
            match client.receive(PATIENCE) {
                Received::Packet(Packet::Suback { id: 3, codes, .. }) => {
                    assert!([0x80, 0x8F].contains(&codes[0]), "{filter:?}: {codes:x?}");
                }
                Received::Packet(Packet::Disconnect { code, .. }) => {
                    assert!([0x81, 0x82, 0x8F].contains(&code), "{filter:?}: {code:#x}");
                    client.expect_closed();
                }
                Received::Closed => assert_eq!(version, Version::V4, "{filter:?}: no reason told"),
                other => panic!("{filter:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn invalid_filter_among_good_ones_is_answered_in_its_place() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("mixed")).connect();
    let (a, b) = (names.topic("a"), names.topic("b"));
    let subs = [Sub::new(&a, 1), Sub::new("x/#/y", 1), Sub::new(&b, 2)];
    client.send_raw(&encode_subscribe(Version::V5, 9, &subs, &Props::new()));
    match client.expect_next() {
        Packet::Suback { codes, .. } => {
            assert_eq!((codes[0], codes[2]), (1, 2));
            assert!(codes[1] >= 0x80);
            client.publish(&b, "works", 1);
            assert_eq!(client.expect_publish().text(), "works");
        }
        Packet::Disconnect { code, .. } => assert!([0x81, 0x82, 0x8F].contains(&code)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_filters_in_one_packet_are_all_granted() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("many")).connect();
        let subs: Vec<Sub> =
            (0..100).map(|n| Sub::new(&names.topic(&format!("{n}")), (n % 3) as u8)).collect();
        let codes = client.subscribe_with(&subs, &Props::new());
        assert_eq!(codes, (0..100).map(|n| (n % 3) as u8).collect::<Vec<_>>());
        client.publish(&names.topic("99"), "last", 2);
        assert_eq!(client.expect_publish().qos, 0);
    }
}

/// Publishes once and returns the QoS and ids of each copy that comes.
fn copies(client: &mut Client, topic: &str) -> Vec<(u8, Vec<u32>)> {
    client.publish(topic, "x", 2);
    let mut copies = Vec::new();
    loop {
        match client.receive(SILENCE) {
            Received::Packet(Packet::Publish(copy)) => {
                let mut ids = copy.props.numbers(SUBSCRIPTION_ID);
                ids.sort_unstable();
                copies.push((copy.qos, ids));
            }
            Received::Packet(other) => panic!("{other:?}"),
            Received::Closed => panic!("closed"),
            Received::Nothing => {
                copies.sort();
                return copies;
            }
        }
    }
}

#[test]
fn overlapping_subscriptions_give_one_copy_at_the_highest_qos_or_one_each() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("over")).connect();
        let subs = [
            Sub::new(&names.topic("a/#"), 2),
            Sub::new(&names.topic("a/+"), 1),
            Sub::new(&names.topic("a/b"), 0),
        ];
        client.subscribe_with(&subs, &Props::new());
        for _ in 0..3 {
            let qos: Vec<u8> =
                copies(&mut client, &names.topic("a/b")).into_iter().map(|copy| copy.0).collect();
            assert!(qos == [2] || qos == [0, 1, 2], "{qos:?}");
            assert!(!broker().ours || qos == [2], "we promise one copy: {qos:?}");
        }
    }
}

#[test]
fn subscription_ids_of_all_matches_are_on_the_delivery() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("ids")).connect();
    for (filter, qos, id) in [("a/#", 1, 1), ("a/+", 2, 268_435_455), ("a/b", 0, 300)] {
        let props = Props::new().number(SUBSCRIPTION_ID, id);
        client.subscribe_with(&[Sub::new(&names.topic(filter), qos)], &props);
    }
    let got = copies(&mut client, &names.topic("a/b"));
    let one = vec![(2, vec![1, 300, 268_435_455])];
    let each = vec![(0, vec![300]), (1, vec![1]), (2, vec![268_435_455])];
    assert!(got == one || got == each, "{got:?}");
    assert_eq!(copies(&mut client, &names.topic("a/c/d")), [(1, vec![1])]);
}

#[test]
fn subscription_id_is_replaced_and_removed_by_a_new_subscribe() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("ids")).connect();
    let topic = names.topic("a");
    let wanted: [(Option<u32>, Vec<u32>); 3] =
        [(Some(5), vec![5]), (Some(6), vec![6]), (None, vec![])];
    for (id, ids) in wanted {
        let props = id.map_or(Props::new(), |id| Props::new().number(SUBSCRIPTION_ID, id));
        client.subscribe_with(&[Sub::new(&topic, 0)], &props);
        assert_eq!(copies(&mut client, &topic), [(0, ids)]);
    }
}

#[test]
fn new_subscribe_to_the_same_filter_replaces_its_qos() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("again")).connect();
        for qos in [0, 2, 1, 1, 0] {
            client.subscribe(&names.topic("a"), qos);
            assert_eq!(copies(&mut client, &names.topic("a")), [(qos, vec![])]);
        }
    }
}

#[test]
fn same_filter_twice_in_one_packet_gives_one_subscription() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("twice")).connect();
    let topic = names.topic("a");
    client.subscribe_with(&[Sub::new(&topic, 0), Sub::new(&topic, 1)], &Props::new());
    assert_eq!(copies(&mut client, &topic), [(1, vec![])]);
}

#[test]
fn new_subscribe_leaves_no_gap() {
    let names = Names::new();
    let topic = names.topic("stream");
    let mut to = broker().v5(&names.id("to")).connect();
    to.subscribe(&topic, 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for round in 0..200 {
        from.send_publish(message(&topic, &round.to_string(), 1));
        if round % 50 == 49 {
            // Inside the window of any server.
            let last = from.next_id() - 1;
            from.expect_ack(crate::support::packet::AckKind::Puback, last);
        }
        if round % 10 == 5 {
            let id = to.next_id();
            let subs = [Sub::new(&topic, 1 + (round % 20 / 10) as u8)];
            to.send_raw(&encode_subscribe(Version::V5, id, &subs, &Props::new()));
        }
    }
    let wanted: Vec<String> = (0..200).map(|round| round.to_string()).collect();
    assert_eq!(to.expect_texts(200), wanted);
}

#[test]
fn no_local_hides_what_the_client_published() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("me")).connect();
    let mut other = broker().v5(&names.id("other")).connect();
    let topic = names.topic("a");
    client.subscribe_with(&[Sub::new(&topic, 1).no_local()], &Props::new());
    client.publish(&topic, "mine", 1);
    client.publish(&topic, "mine", 0);
    other.publish(&topic, "theirs", 1);
    assert_eq!(client.expect_publish().text(), "theirs");
    client.expect_silence();
}

#[test]
fn no_local_with_an_overlapping_plain_subscription_still_delivers() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("me")).connect();
    client.subscribe_with(&[Sub::new(&names.topic("a"), 1).no_local()], &Props::new());
    client.subscribe(&names.topic("#"), 0);
    assert_eq!(copies(&mut client, &names.topic("a")), [(0, vec![])]);
}

#[test]
fn no_local_knows_the_client_by_id_over_reconnects() {
    let names = Names::new();
    let topic = names.topic("a");
    let dial = broker().v5(&names.id("me")).durable();
    let mut client = dial.connect();
    client.subscribe_with(&[Sub::new(&topic, 1).no_local()], &Props::new());
    client.disconnect();
    let mut client = dial.connect();
    assert!(client.connack.present);
    client.publish(&topic, "mine", 1);
    client.expect_silence();
}

#[test]
fn retain_as_published_keeps_the_flag_on_live_messages() {
    for (as_published, wanted) in [(false, false), (true, true)] {
        let names = Names::new();
        let mut client = broker().v5(&names.id("rap")).connect();
        let sub = Sub::new(&names.topic("a"), 1);
        let sub = if as_published { sub.keep_retain() } else { sub };
        client.subscribe_with(&[sub], &Props::new());
        client.retain(&names.topic("a"), "kept", 1);
        assert_eq!(client.expect_publish().retain, wanted);
        client.publish(&names.topic("a"), "plain", 1);
        assert!(!client.expect_publish().retain);
        client.retain(&names.topic("a"), "", 1);
        assert_eq!(client.expect_publish().retain, wanted);
    }
}

#[test]
fn subscription_id_in_a_client_publish_is_a_protocol_error() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("wrong")).connect();
    let props = Props::new().number(SUBSCRIPTION_ID, 1);
    client.send_publish(Publish { props, ..message(&names.topic("a"), "x", 0) });
    client.expect_disconnect(&[0x81, 0x82]);
}
