//! The cases of the Eclipse Paho interoperability suites (3.1.1 and 5.0), in our own words.
//!
//! Each is one scenario over several features, as a client library would meet it; where a chapter's
//! own test is stricter, the scenario here keeps the shape of the suite's. The suite itself runs with
//! `make interop SUITE=DIR`.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, Received, message},
    packet::{AckKind, BOTH, Packet, Publish, Sub, Version, Will},
    property::{
        ASSIGNED_CLIENT_ID, CONTENT_TYPE, CORRELATION_DATA, MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY,
        PAYLOAD_FORMAT, Props, RESPONSE_TOPIC, SUBSCRIPTION_ID, TOPIC_ALIAS, WILL_DELAY,
    },
    wait::{let_pass, now},
};

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn publishes_until_silence(client: &mut Client) -> Vec<Publish> {
    let mut all = Vec::new();
    while let Received::Packet(packet) = client.receive(Duration::from_millis(400)) {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        all.push(publish);
    }
    all
}

#[test]
fn basic_three_qos_come_back_and_a_second_connect_ends_it() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("basic"));
        dial.connect().disconnect();
        let mut client = dial.connect();
        client.subscribe(&names.topic("TopicA"), 2);
        for qos in 0..3 {
            client.publish(&names.topic("TopicA"), &format!("qos {qos}"), qos);
        }
        assert_eq!(sorted(client.expect_texts(3)), ["qos 0", "qos 1", "qos 2"]);
        client.send_raw(&dial.connect_bytes());
        client.expect_closed();
    }
}

#[test]
fn retained_messages_of_three_qos_come_once_and_can_be_cleared() {
    for version in BOTH {
        let names = Names::new();
        let topics = [names.topic("TopicA"), names.topic("/C"), names.topic("TopicA/C")];
        let mut client = broker().dial(version, &names.id("a")).connect();
        for (qos, topic) in topics.iter().enumerate() {
            client.retain(topic, &format!("qos {qos}"), qos as u8);
        }
        client.disconnect();
        let mut client = broker().dial(version, &names.id("a")).connect();
        client.subscribe(&names.topic("#"), 2);
        let came = publishes_until_silence(&mut client);
        assert!(came.len() == 3 && came.iter().all(|publish| publish.retain));
        for (qos, topic) in topics.iter().enumerate() {
            client.retain(topic, "", qos as u8);
        }
        assert_eq!(client.expect_texts(3), ["", "", ""]);
        client.disconnect();
        let mut client = broker().dial(version, &names.id("a")).connect();
        client.subscribe(&names.topic("#"), 2);
        assert!(publishes_until_silence(&mut client).is_empty());
    }
}

#[test]
fn offline_messages_of_qos_1_and_2_are_queued() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("a")).durable();
        let mut client = dial.connect();
        client.subscribe(&names.topic("#"), 2);
        client.disconnect();
        let mut other = broker().dial(version, &names.id("b")).connect();
        for qos in 0..3 {
            other.publish(&names.topic(&format!("t{qos}")), &format!("qos {qos}"), qos);
        }
        let mut client = dial.connect();
        let texts: Vec<String> =
            publishes_until_silence(&mut client).iter().map(Publish::text).collect();
        // QoS 0 may be queued as well.
        assert!(texts == ["qos 1", "qos 2"] || texts == ["qos 0", "qos 1", "qos 2"], "{texts:?}");
    }
}

#[test]
fn unfinished_deliveries_are_repeated_after_reconnect() {
    for version in BOTH {
        let names = Names::new();
        let dial = broker().dial(version, &names.id("b")).durable();
        let mut holds = dial.clone().manual().connect();
        holds.subscribe(&names.topic("#"), 2);
        holds.publish(&names.topic("TopicA"), "1", 1);
        holds.publish(&names.topic("TopicA/C"), "2", 2);
        assert_eq!(holds.expect_texts(2), ["1", "2"]);
        holds.disconnect();
        let mut client = dial.connect();
        assert_eq!(client.expect_texts(2), ["1", "2"]);
        client.expect_silence();
    }
}

#[test]
fn unsubscribed_topics_stop_and_the_others_go_on() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("b")).connect();
        for level in ["TopicA", "TopicA/B", "Topic/C"] {
            client.subscribe(&names.topic(level), 2);
        }
        client.unsubscribe(&[&names.topic("TopicA")]);
        let mut other = broker().dial(version, &names.id("a")).connect();
        for level in ["TopicA", "TopicA/B", "Topic/C"] {
            other.publish(&names.topic(level), level, 1);
        }
        assert_eq!(client.expect_texts(2), ["TopicA/B", "Topic/C"]);
        client.expect_silence();
    }
}

#[test]
fn keep_alive_of_a_dead_client_fires_its_will_while_another_pings() {
    for version in BOTH {
        let names = Names::new();
        let mut watcher = broker().dial(version, &names.id("b")).connect();
        watcher.subscribe(&names.topic("will"), 2);
        let dial = broker().dial(version, &names.id("a")).keep_alive(1);
        let _dead = dial.will(&names.topic("will"), "keepalive expiry", 0).connect();
        let start = now();
        assert_eq!(watcher.expect_publish().text(), "keepalive expiry");
        assert!((1_300..8_000).contains(&start.elapsed().as_millis()));
    }
}

#[test]
fn session_expiry_runs_from_each_disconnect() {
    let names = Names::new();
    let dial = |secs| broker().v5(&names.id("a")).clean(false).expiry(secs);
    broker().v5(&names.id("a")).connect().disconnect();
    assert!(!dial(2).connect().connack.present);
    let mut client = dial(2).connect();
    client.subscribe(&names.topic("TopicA"), 2);
    client.disconnect();
    let_pass(Duration::from_millis(500));
    let client = dial(2).connect();
    assert!(client.connack.present);
    client.disconnect();
    let_pass(Duration::from_millis(3_500));
    assert!(!dial(2).connect().connack.present);
}

#[test]
fn publication_expiry_drops_some_and_counts_down_the_rest() {
    let names = Names::new();
    let dial = broker().v5(&names.id("b")).durable();
    let mut client = dial.connect();
    client.subscribe(&names.topic("TopicA"), 2);
    client.disconnect();
    let mut other = broker().v5(&names.id("a")).connect();
    for (text, qos, expiry) in [
        ("qos 1 - expire", 1, 1),
        ("qos 2 - expire", 2, 1),
        ("qos 1 - keep", 1, 6),
        ("qos 2 - keep", 2, 6),
    ] {
        let props = Props::new().number(MESSAGE_EXPIRY, expiry);
        other.publish_with(Publish { props, ..message(&names.topic("TopicA"), text, qos) });
    }
    let_pass(Duration::from_millis(2_300));
    let mut client = dial.connect();
    for text in ["qos 1 - keep", "qos 2 - keep"] {
        let came = client.expect_publish();
        let left = came.props.get_number(MESSAGE_EXPIRY).unwrap();
        assert!(came.text() == text && left < 6, "{came:?}");
    }
    client.expect_silence();
}

#[test]
fn shared_subscribers_split_what_plain_ones_see_whole() {
    let names = Names::new();
    let shared = format!("$share/sharename/{}", names.topic("x"));
    let mut pair: Vec<Client> = ["a", "b"]
        .iter()
        .map(|id| {
            let mut client = broker().v5(&names.id(id)).connect();
            client.subscribe(&shared, 2);
            client.subscribe(&names.topic("x"), 2);
            client
        })
        .collect();
    for n in 0..10 {
        pair[0].publish(&names.topic("x"), &n.to_string(), 1);
    }
    // Each sees all as a plain subscriber; the group's ten are split (or merged with the plain copy).
    let counts: Vec<usize> =
        pair.iter_mut().map(|client| publishes_until_silence(client).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 30, "{counts:?}");
    assert!(counts.iter().all(|count| *count >= 10));
}

#[test]
fn subscribe_options_work_together() {
    let names = Names::new();
    let topic = names.topic("TopicA");
    let mut client = broker().v5(&names.id("a")).connect();
    let mut other = broker().v5(&names.id("b")).connect();
    client.subscribe_with(&[Sub::new(&topic, 2).no_local()], &Props::new());
    other.subscribe_with(&[Sub::new(&topic, 2).no_local().keep_retain()], &Props::new());
    client.retain(&topic, "noLocal test", 1);
    let came = other.expect_publish();
    assert!(came.retain && came.text() == "noLocal test");
    client.expect_silence();
    // Retain handling on a new connection: never, if new (twice), always (twice).
    for (handling, copies) in [(2, 0), (1, 1), (0, 2)] {
        let mut late = broker().v5(&names.id("c")).connect();
        let subs = [Sub::new(&topic, 2).keep_retain().retain_handling(handling)];
        late.subscribe_with(&subs, &Props::new());
        late.subscribe_with(&subs, &Props::new());
        assert_eq!(publishes_until_silence(&mut late).len(), copies, "handling {handling}");
    }
}

#[test]
fn subscription_ids_tell_which_subscriptions_matched() {
    let names = Names::new();
    let mut one = broker().v5(&names.id("a")).connect();
    let mut two = broker().v5(&names.id("b")).connect();
    let with_id = |id| Props::new().number(SUBSCRIPTION_ID, id);
    one.subscribe_with(&[Sub::new(&names.topic("TopicA"), 2)], &with_id(456_789));
    two.subscribe_with(&[Sub::new(&names.topic("TopicA"), 2)], &with_id(2));
    two.subscribe_with(&[Sub::new(&names.topic("#"), 2)], &with_id(3));
    two.publish(&names.topic("TopicA"), "sub identifier test", 1);
    assert_eq!(one.expect_publish().props.numbers(SUBSCRIPTION_ID), [456_789]);
    let came = publishes_until_silence(&mut two);
    let mut ids: Vec<u32> =
        came.iter().flat_map(|publish| publish.props.numbers(SUBSCRIPTION_ID)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
}

#[test]
fn all_publish_properties_travel_together() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("a")).connect();
    client.subscribe(&names.topic("TopicA"), 2);
    let props = Props::new()
        .number(PAYLOAD_FORMAT, 1)
        .text(CONTENT_TYPE, "My name")
        .user("a", "2")
        .user("c", "3");
    for qos in 0..3 {
        client.publish_with(Publish {
            props: props.clone(),
            ..message(&names.topic("TopicA"), "", qos)
        });
        let came = client.expect_publish().props;
        assert_eq!(came.user_pairs(), [("a", "2"), ("c", "3")]);
        assert_eq!(came.get_text(CONTENT_TYPE), Some("My name"));
        assert_eq!(came.get_number(PAYLOAD_FORMAT), Some(1));
    }
}

#[test]
fn request_and_response_over_no_local_subscriptions() {
    let names = Names::new();
    let (ask, answer) = (names.topic("TopicA"), names.topic("TopicA/B"));
    let mut client = broker().v5(&names.id("a")).connect();
    let mut server = broker().v5(&names.id("b")).connect();
    let quiet = |topic: &str| [Sub::new(topic, 2).no_local()];
    for party in [&mut client, &mut server] {
        party.subscribe_with(&quiet(&ask), &Props::new());
        party.subscribe_with(&quiet(&answer), &Props::new());
    }
    let props = Props::new().text(RESPONSE_TOPIC, &answer).data(CORRELATION_DATA, b"334");
    client.publish_with(Publish { props, ..message(&ask, "request", 1) });
    let request = server.expect_publish().props;
    let id = request.get_data(CORRELATION_DATA).unwrap().to_vec();
    let topic = request.get_text(RESPONSE_TOPIC).unwrap().to_owned();
    let props = Props::new().data(CORRELATION_DATA, &id);
    server.publish_with(Publish { props, ..message(&topic, "response", 1) });
    let came = client.expect_publish();
    assert_eq!((came.topic.as_str(), came.text().as_str()), (answer.as_str(), "response"));
    assert_eq!(came.props.get_data(CORRELATION_DATA), Some(&b"334"[..]));
}

#[test]
fn client_alias_is_set_used_and_forgotten() {
    let names = Names::new();
    let dial = broker().v5(&names.id("a")).durable();
    let mut client = dial.connect();
    client.subscribe(&names.topic("TopicA"), 2);
    let alias = |topic: &str| Publish {
        props: Props::new().number(TOPIC_ALIAS, 1),
        ..message(topic, "topic alias 1", 1)
    };
    client.publish_with(alias(&names.topic("TopicA")));
    client.publish_with(alias(""));
    assert_eq!(client.expect_texts(2).len(), 2);
    client.disconnect();
    let mut client = dial.connect();
    client.send_publish(alias(""));
    client.expect_closed();
}

#[test]
fn server_uses_one_alias_within_the_clients_maximum() {
    let names = Names::new();
    for qos in 0..3 {
        let mut client = broker().v5(&names.id("a")).alias_maximum(1).connect();
        client.subscribe(&names.topic("#"), 2);
        let mut known = String::new();
        for n in 0..6 {
            let topic = names.topic(["TopicA", "TopicA", "TopicB"][n % 3]);
            client.publish(&topic, "topic alias", qos);
            let came = client.expect_publish();
            if let Some(alias) = came.props.get_number(TOPIC_ALIAS) {
                assert_eq!(alias, 1);
                if !came.topic.is_empty() {
                    known.clone_from(&came.topic);
                }
                assert_eq!(known, topic);
            } else {
                assert_eq!(came.topic, topic);
            }
        }
    }
}

#[test]
fn maximum_packet_size_of_both_sides_is_respected() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("a")).packet_bytes_max(64).connect();
    client.subscribe(&names.topic("TopicA"), 2);
    client.publish(&names.topic("TopicA"), &".".repeat(64), 0);
    client.publish(&names.topic("TopicA"), "fits", 1);
    assert_eq!(client.expect_publish().text(), "fits");
    client.expect_silence();
    if let Some(maximum) = client.connack.props.get_number(MAXIMUM_PACKET_SIZE) {
        let mut client = broker().v5(&names.id("b")).connect();
        if maximum < 64 << 20 {
            // The server may close while we still write.
            let big = message(&names.topic("a"), &".".repeat(maximum as usize), 0);
            client.send_raw(&big.encode(Version::V5));
            client.expect_closed();
        }
    }
}

#[test]
fn flow_control_holds_publishes_until_acknowledged() {
    let names = Names::new();
    let mut holds = broker().v5(&names.id("b")).receive_maximum(2).manual().connect();
    holds.subscribe(&names.topic("#"), 2);
    let mut client = broker().v5(&names.id("a")).connect();
    for n in 1..6 {
        client.publish(&names.topic("TopicA"), &n.to_string(), 2);
    }
    let mut texts = Vec::new();
    while texts.len() < 5 {
        let came = holds.expect_publish();
        texts.push(came.text());
        holds.ack(AckKind::Pubrec, came.id);
        holds.expect_ack(AckKind::Pubrel, came.id);
        holds.ack(AckKind::Pubcomp, came.id);
    }
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
}

#[test]
fn will_delay_ends_at_the_earlier_of_delay_and_session() {
    // (will delay, session expiry, due in seconds)
    for (delay, expiry, due) in [(1, 4, 1), (4, 1, 1)] {
        let names = Names::new();
        let mut watcher = broker().v5(&names.id("b")).connect();
        watcher.subscribe(&names.topic("will"), 2);
        let will = Will {
            topic: names.topic("will"),
            payload: b"test_will_delay".to_vec(),
            qos: 1,
            retain: false,
            props: Props::new().number(WILL_DELAY, delay).user("a", "2"),
        };
        let client = broker().v5(&names.id("a")).expiry(expiry).will_with(will).connect();
        let start = now();
        client.cut();
        let came = watcher.expect_publish();
        assert_eq!(came.props.user_pairs(), [("a", "2")]);
        let took = start.elapsed().as_millis();
        assert!(took >= due * 1_000 - 500 && took < due * 1_000 + 2_500, "{took} ms");
    }
}

#[test]
fn assigned_client_id_is_given_exactly_when_none_was_sent() {
    let client = broker().v5("").connect();
    assert!(!client.connack.props.get_text(ASSIGNED_CLIENT_ID).unwrap().is_empty());
    let client = broker().v5(&Names::new().id("mine")).connect();
    assert!(!client.connack.props.has(ASSIGNED_CLIENT_ID));
}
