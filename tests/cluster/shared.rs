//! Shared subscriptions whose members and publishers are on different nodes: MQTT 5.0 section 4.8.2.

use std::{collections::BTreeSet, time::Duration};

use super::alone;
use crate::support::{
    broker::Names,
    cluster::{Cluster, member_settings, own_host},
    dial::Dial,
    mqtt_client::{Client, Received, message},
    node::Node,
    packet::{AckKind, Packet, Sub, Version},
    property::{Props, SUBSCRIPTION_ID},
    wait::let_pass,
};

fn share(group: &str, filter: &str) -> String {
    format!("$share/{group}/{filter}")
}

/// All texts that come until nothing comes for a while.
fn drain(client: &mut Client) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        match client.receive(Duration::from_millis(1_000)) {
            Received::Packet(Packet::Publish(publish)) => texts.push(publish.text()),
            Received::Packet(_) => {}
            Received::Nothing => return texts,
            Received::Closed => panic!("closed by the server"),
        }
    }
}

fn drain_all(clients: &mut [Client]) -> Vec<Vec<String>> {
    clients.iter_mut().map(drain).collect()
}

fn sorted(texts: &[Vec<String>]) -> Vec<usize> {
    let mut all: Vec<usize> = texts.concat().iter().map(|text| text.parse().unwrap()).collect();
    all.sort_unstable();
    all
}

fn numbers(count: usize) -> Vec<usize> {
    (0..count).collect()
}

/// A client on each node.
fn everywhere(cluster: &Cluster, dial: impl Fn(usize) -> Dial) -> Vec<Client> {
    cluster.numbers().map(|node| dial(node).connect()).collect()
}

fn publishers(cluster: &Cluster, names: &Names) -> Vec<Client> {
    everywhere(cluster, |node| cluster.broker(node).v5(&names.id(&format!("from{node}"))))
}

/// Publishes numbers, each by another one of these.
fn publish_in_turn(from: &mut [Client], topic: &str, count: usize, qos: u8) {
    let publishers = from.len();
    for n in 0..count {
        from[n % publishers].publish(topic, &n.to_string(), qos);
    }
}

#[test]
fn group_over_nodes_behaves_as_on_one() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    each_message_goes_to_one_member_and_each_member_gets_its_part(&cluster);
    each_group_and_each_plain_subscriber_gets_its_copy(&cluster);
    options_of_members_count_on_any_node(&cluster);
    member_that_comes_is_found_from_its_suback_on(&cluster);
    members_that_go_leave_nothing_behind(&cluster);
    absent_durable_members_collect_and_take_it_on_any_node(&cluster);
    messages_of_a_member_that_leaves_go_to_another_node(&cluster);
    exactly_once_stays_exactly_once_over_nodes(&cluster);
    slow_member_is_passed_over(&cluster);
}

fn each_message_goes_to_one_member_and_each_member_gets_its_part(cluster: &Cluster) {
    for version in [Version::V5, Version::V4] {
        for qos in 0..3 {
            for durable in [false, true] {
                let names = Names::new();
                let mut members = everywhere(cluster, |node| {
                    let id = names.id(&format!("m{node}"));
                    let dial = cluster.broker(node).dial(version, &id);
                    if durable { dial.durable() } else { dial }
                });
                for member in &mut members {
                    member.subscribe(&share("g", &names.topic("+/a")), qos);
                }
                let mut from = publishers(cluster, &names);
                publish_in_turn(&mut from, &names.topic("x/a"), 90, qos);
                let texts = drain_all(&mut members);
                let what = format!("{version:?} qos {qos}, durable {durable}");
                assert_eq!(sorted(&texts), numbers(90), "{what}");
                let fair = texts.iter().all(|part| (20..=40).contains(&part.len()));
                assert!(fair, "{what}: {:?}", texts.iter().map(Vec::len).collect::<Vec<_>>());
                members.into_iter().for_each(Client::disconnect);
            }
        }
    }
}

fn each_group_and_each_plain_subscriber_gets_its_copy(cluster: &Cluster) {
    let names = Names::new();
    let topic = names.topic("a");
    let filters = [
        vec![share("one", &topic)],
        vec![share("one", &topic), share("two", &topic)],
        vec![topic.clone()],
    ];
    let mut clients =
        everywhere(cluster, |node| cluster.broker(node).v5(&names.id(&node.to_string())));
    for (client, filters) in clients.iter_mut().zip(&filters) {
        filters.iter().for_each(|filter| client.subscribe(filter, 1));
    }
    publish_in_turn(&mut publishers(cluster, &names), &topic, 30, 1);
    let texts = drain_all(&mut clients);
    assert_eq!(sorted(&texts[2..]), numbers(30), "the plain subscriber");
    // The second client is the only one of the group `two`, and has a part of `one`.
    let both = texts[1].iter().filter(|text| texts[1].iter().filter(|t| t == text).count() == 2);
    assert_eq!(texts[0].len() + texts[1].len(), 60);
    assert_eq!(both.count() / 2 + texts[0].len(), 30);
    assert_eq!(texts[1].iter().collect::<BTreeSet<_>>().len(), 30);
    assert!(!texts[0].is_empty() && texts[0].len() < 30);
}

fn options_of_members_count_on_any_node(cluster: &Cluster) {
    let names = Names::new();
    let mut member = cluster.broker(2).v5(&names.id("to")).connect();
    let id = Props::new().number(SUBSCRIPTION_ID, 7);
    member.subscribe_with(&[Sub::new(&share("g", &names.topic("#")), 1)], &id);
    let mut from = cluster.broker(1).v5(&names.id("from")).connect();
    from.publish(&names.topic("x/y"), "x", 2);
    let got = member.expect_publish();
    assert_eq!((got.qos, got.props.numbers(SUBSCRIPTION_ID)), (1, vec![7]));
}

fn member_that_comes_is_found_from_its_suback_on(cluster: &Cluster) {
    let names = Names::new();
    let mut from = publishers(cluster, &names);
    for round in 0..30 {
        let topic = names.topic(&format!("new/{}", round % 4));
        let node = round % 3 + 1;
        let member = cluster.broker(node).v5(&names.id(&format!("m{round}")));
        let member = if round % 2 == 0 { member } else { member.durable() };
        let mut client = member.connect();
        client.subscribe(&share("g", &topic), 1);
        for (n, from) in from.iter_mut().enumerate() {
            from.publish(&topic, &format!("{round}:{n}"), 1);
            assert_eq!(client.expect_publish().text(), format!("{round}:{n}"));
        }
        // The next one comes to a group whose member has just gone.
        client.unsubscribe(&[&share("g", &topic)]);
        client.disconnect();
    }
}

fn members_that_go_leave_nothing_behind(cluster: &Cluster) {
    let names = Names::new();
    let (topic, filter) = (names.topic("a"), share("g", &names.topic("a")));
    let mut members =
        everywhere(cluster, |node| cluster.broker(node).v5(&names.id(&format!("m{node}"))));
    members.iter_mut().for_each(|member| member.subscribe(&filter, 1));
    let mut from = publishers(cluster, &names);
    // One unsubscribes, one disconnects, one stays: it gets everything, at every QoS.
    members[0].unsubscribe(&[&filter]);
    members.remove(1).cut();
    let_pass(Duration::from_millis(200));
    for qos in 0..3 {
        publish_in_turn(&mut from, &topic, 30, qos);
        assert_eq!(sorted(&[drain(&mut members[1])]), numbers(30), "qos {qos}");
    }
    members[0].expect_silence();
    members[1].unsubscribe(&[&filter]);
    publish_in_turn(&mut from, &topic, 6, 2);
    members.iter_mut().for_each(Client::expect_silence);
}

fn absent_durable_members_collect_and_take_it_on_any_node(cluster: &Cluster) {
    for qos in [1, 2] {
        let names = Names::new();
        let (topic, filter) = (names.topic("a"), share("g", &names.topic("+")));
        let member =
            |node: usize, n: usize| cluster.broker(node).v5(&names.id(&format!("m{n}"))).durable();
        for n in 1..=3 {
            let mut client = member(n, n).connect();
            client.subscribe(&filter, qos);
            client.disconnect();
        }
        publish_in_turn(&mut publishers(cluster, &names), &topic, 60, qos);
        let mut back: Vec<Client> =
            (1..=3).map(|n| member(n % 3 + 1, n).clean(false).connect()).collect();
        assert!(back.iter().all(|client| client.connack.present));
        let texts = drain_all(&mut back);
        assert_eq!(sorted(&texts), numbers(60), "qos {qos}");
        assert!(texts.iter().all(|part| part.len() >= 10), "absent members take turns");
        // One is connected: it alone gets what comes now, wherever it is.
        let mut one = back.remove(0);
        back.into_iter().for_each(Client::disconnect);
        let_pass(Duration::from_millis(200));
        publish_in_turn(&mut publishers(cluster, &names), &topic, 30, qos);
        assert_eq!(sorted(&[drain(&mut one)]), numbers(30), "qos {qos}");
    }
}

/// Ends the session of `dial`.
fn end(dial: &Dial) {
    let mut dial = dial.clone().clean(true);
    dial.connect_props(|_| Props::new());
    dial.connect().cut();
}

fn messages_of_a_member_that_leaves_go_to_another_node(cluster: &Cluster) {
    for (leaver, heir) in [(true, true), (true, false), (false, true), (false, false)] {
        let names = Names::new();
        let (topic, filter) = (names.topic("a"), share("g", &names.topic("a")));
        let durable = |dial: Dial, durable: bool| if durable { dial.durable() } else { dial };
        let leaves = cluster.broker(1).v5(&names.id("leaves")).receive_maximum(10).manual();
        let leaves = durable(leaves, leaver);
        let mut leaving = leaves.connect();
        leaving.subscribe(&filter, 1);
        publish_in_turn(&mut publishers(cluster, &names), &topic, 60, 1);
        let first: Vec<_> = (0..10).map(|_| leaving.expect_publish()).collect();
        first[..4].iter().for_each(|publish| leaving.ack(AckKind::Puback, publish.id));
        leaving.ping_past_everything();
        let other = cluster.broker(3).v5(&names.id("other")).receive_maximum(20);
        let mut other = durable(other, heir).connect();
        other.subscribe(&filter, 1);
        leaving.cut();
        if leaver {
            end(&leaves);
        }
        let texts = drain(&mut other);
        let mut left: BTreeSet<String> = (0..60).map(|n| n.to_string()).collect();
        first[..4].iter().for_each(|publish| assert!(left.remove(&publish.text())));
        let came: BTreeSet<String> = texts.iter().cloned().collect();
        assert_eq!(came, left, "leaver durable {leaver}, heir durable {heir}");
        assert_eq!(texts.len(), came.len(), "once each");
    }
}

/// A publisher that does not hear of its PUBREC sends again, on another node.
fn exactly_once_stays_exactly_once_over_nodes(cluster: &Cluster) {
    let names = Names::new();
    let (topic, filter) = (names.topic("a"), share("g", &names.topic("a")));
    let mut members: Vec<Client> = (1..=3)
        .map(|node| {
            let dial = cluster.broker(node).v5(&names.id(&format!("m{node}")));
            let mut member = if node == 2 { dial } else { dial.durable() }.connect();
            member.subscribe(&filter, 2);
            member
        })
        .collect();
    let from =
        |node: usize| cluster.broker(node).v5(&names.id("from")).durable().manual().clean(false);
    for n in 0..12_usize {
        let mut client = from(n % 3 + 1).connect();
        let mut publish = message(&topic, &n.to_string(), 2);
        publish.id = 7;
        assert!(client.send_raw(&publish.encode(client.version)));
        if n % 2 == 0 {
            assert!(client.expect_ack(AckKind::Pubrec, 7) < 0x80);
        }
        client.cut();
        let mut client = from((n + 1) % 3 + 1).connect();
        publish.dup = true;
        assert!(client.send_raw(&publish.encode(client.version)));
        assert!(client.expect_ack(AckKind::Pubrec, 7) < 0x80);
        client.ack(AckKind::Pubrel, 7);
        client.expect_ack(AckKind::Pubcomp, 7);
        client.disconnect();
    }
    let texts = drain_all(&mut members);
    assert_eq!(sorted(&texts), numbers(12));
    assert!(texts.iter().all(|part| !part.is_empty()));
}

#[test]
fn groups_of_a_node_that_was_alone_become_groups_of_the_cluster() {
    let _turn = alone();
    let host = own_host();
    let start = |node: usize, join: &[usize]| {
        let own = member_settings(&host, node, join);
        let own: Vec<_> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Node::start_with(&own)
    };
    let first = start(1, &[]);
    let names = Names::new();
    let (live, away) = (names.topic("live"), names.topic("away"));
    let mut member = first.broker().v5(&names.id("live")).connect();
    member.subscribe(&share("g", &live), 1);
    let mut absent = first.broker().v5(&names.id("away")).durable().connect();
    absent.subscribe(&share("g", &away), 1);
    absent.disconnect();
    let second = start(2, &[1]);
    let mut from = second.broker().v5(&names.id("from")).connect();
    // At once: a node that has just come knows the groups that were there.
    for n in 0..20 {
        from.publish(&live, &n.to_string(), 1);
        from.publish(&away, &n.to_string(), 1);
    }
    assert_eq!(sorted(&[drain(&mut member)]), numbers(20));
    let third = start(3, &[1, 2]);
    let mut other = third.broker().v5(&names.id("other")).connect();
    other.subscribe(&share("g", &live), 1);
    let mut back = third.broker().v5(&names.id("away")).durable().clean(false).connect();
    assert!(back.connack.present);
    assert_eq!(sorted(&[drain(&mut back)]), numbers(20));
    for n in 0..30 {
        from.publish(&live, &n.to_string(), 1);
    }
    let texts = [drain(&mut member), drain(&mut other)];
    assert_eq!(sorted(&texts), numbers(30));
    assert!(texts.iter().all(|part| part.len() >= 10));
}

/// A member that acknowledges nothing gets its window and no more while others have room.
fn slow_member_is_passed_over(cluster: &Cluster) {
    let names = Names::new();
    let (topic, filter) = (names.topic("a"), share("g", &names.topic("a")));
    let slow = cluster.broker(2).v5(&names.id("slow")).receive_maximum(5).manual();
    let mut slow = slow.connect();
    slow.subscribe(&filter, 1);
    let mut others: Vec<Client> =
        [1, 3].map(|node| cluster.broker(node).v5(&names.id(&format!("m{node}"))).connect()).into();
    others.iter_mut().for_each(|other| other.subscribe(&filter, 1));
    publish_in_turn(&mut publishers(cluster, &names), &topic, 120, 1);
    let texts = drain_all(&mut others);
    let came: Vec<_> = (0..5).map(|_| slow.expect_publish()).collect();
    assert_eq!(texts.concat().len(), 115, "what the slow one has room for, and no more");
    slow.expect_silence();
    // Alone it has to take what comes.
    others.into_iter().for_each(Client::disconnect);
    let_pass(Duration::from_millis(200));
    publish_in_turn(&mut publishers(cluster, &names), &topic, 20, 1);
    came.iter().for_each(|publish| slow.ack(AckKind::Puback, publish.id));
    for n in 0..20 {
        let publish = slow.expect_publish();
        assert_eq!(publish.text(), n.to_string());
        slow.ack(AckKind::Puback, publish.id);
    }
}
