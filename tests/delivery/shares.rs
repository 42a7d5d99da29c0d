//! What waits for a member of a shared group when that leaves. Promises NO-LOSS, ORDER, ONCE.

use std::time::Duration;

use crate::{
    delivery::load::Pipeline,
    support::{
        broker::{Broker, Names, broker},
        dial::Dial,
        mqtt_client::{Client, Received, message},
        node::Node,
        packet::{AckKind, Packet},
        property::Props,
        wait::let_pass,
    },
};

const SHARES: usize = 1_000;

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// A member that is away, and alone gets all that is published.
fn absent_member_with_shares(dial: &Dial, filter: &str, count: usize, topic: &str, qos: u8) {
    let mut member = dial.connect();
    member.subscribe(&format!("$share/g/{filter}"), 2);
    member.disconnect();
    let mut from = Pipeline::new(&dial.broker().v5(&format!("{topic}-from")), 60);
    for n in 0..count {
        assert!(from.send(message(topic, &n.to_string(), qos)));
    }
    assert!(from.finish());
}

/// Ends the session of `dial`.
fn end(dial: &Dial) {
    let mut dial = dial.clone().clean(true);
    dial.connect_props(|_| Props::new());
    dial.connect().cut();
}

fn everything(client: &mut Client) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        match client.receive(Duration::from_millis(1_500)) {
            Received::Packet(Packet::Publish(publish)) => texts.push(publish.text()),
            Received::Packet(_) => {}
            Received::Nothing => return texts,
            Received::Closed => panic!("closed by the server"),
        }
    }
}

#[test]
fn shares_of_an_ended_member_come_to_another_in_order_and_once() {
    for (qos, durable) in [(1, true), (2, true), (1, false), (2, false)] {
        let names = Names::new();
        let (filter, topic) = (names.topic("+"), names.topic("a"));
        let ends = broker().v5(&names.id("ends")).durable();
        absent_member_with_shares(&ends, &filter, SHARES, &topic, qos);
        let stays = broker().v5(&names.id("stays")).receive_maximum(20);
        let mut stays = if durable { stays.durable() } else { stays }.connect();
        stays.subscribe(&format!("$share/g/{filter}"), 2);
        end(&ends);
        assert_eq!(everything(&mut stays), numbers(0..SHARES), "qos {qos}, durable {durable}");
    }
}

#[test]
fn shares_of_an_ended_member_are_spread_over_the_others() {
    let names = Names::new();
    let (filter, topic) = (names.topic("+"), names.topic("a"));
    let ends = broker().v5(&names.id("ends")).durable();
    absent_member_with_shares(&ends, &filter, SHARES, &topic, 1);
    let mut others: Vec<Client> = (0..3)
        .map(|n| {
            let other = broker().v5(&names.id(&format!("other{n}")));
            let mut other = if n == 0 { other } else { other.durable() }.connect();
            other.subscribe(&format!("$share/g/{filter}"), 1);
            other
        })
        .collect();
    end(&ends);
    let parts: Vec<Vec<String>> = others.iter_mut().map(everything).collect();
    assert!(parts.iter().all(|part| !part.is_empty()), "one member starves");
    for part in &parts {
        let numbers: Vec<u32> = part.iter().map(|text| text.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "out of order");
    }
    let mut all: Vec<u32> = parts.concat().iter().map(|text| text.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..u32::try_from(SHARES).unwrap()).collect::<Vec<_>>());
}

#[test]
fn shares_of_a_member_that_unsubscribes_move_except_those_on_their_way() {
    let names = Names::new();
    let (filter, topic) = (names.topic("+"), names.topic("a"));
    let share = format!("$share/g/{filter}");
    let leaves = broker().v5(&names.id("leaves")).durable().receive_maximum(10).manual();
    absent_member_with_shares(&leaves, &filter, 300, &topic, 1);
    let mut member = leaves.connect();
    let held: Vec<_> = (0..10).map(|_| member.expect_publish()).collect();
    let mut stays = broker().v5(&names.id("stays")).durable().connect();
    stays.subscribe(&share, 1);
    assert_eq!(member.unsubscribe(&[&share]), [0]);
    assert_eq!(everything(&mut stays), numbers(10..300));
    // The ten stay with the member, over a new connection, too.
    member.ack(AckKind::Puback, held[0].id);
    member.ping();
    member.cut();
    let mut member = leaves.connect();
    for n in 1..10 {
        let came = member.expect_publish();
        assert_eq!((came.text(), came.dup), (n.to_string(), true));
        member.ack(AckKind::Puback, came.id);
    }
    member.expect_silence();
    stays.expect_silence();
}

#[test]
fn shares_of_an_expired_member_come_to_an_absent_one() {
    let names = Names::new();
    let (filter, topic) = (names.topic("+"), names.topic("a"));
    let expires = broker().v5(&names.id("expires")).clean(false).expiry(1);
    absent_member_with_shares(&expires, &filter, 200, &topic, 1);
    let away = broker().v5(&names.id("away")).durable();
    let mut member = away.connect();
    member.subscribe(&format!("$share/g/{filter}"), 1);
    member.disconnect();
    let_pass(Duration::from_millis(3_500));
    assert_eq!(everything(&mut away.connect()), numbers(0..200));
}

#[test]
fn shares_of_the_last_member_end_with_the_group() {
    let names = Names::new();
    let (filter, topic) = (names.topic("+"), names.topic("a"));
    let last = broker().v5(&names.id("last")).durable();
    absent_member_with_shares(&last, &filter, 100, &topic, 1);
    end(&last);
    let_pass(Duration::from_millis(1_500));
    let mut new = broker().v5(&names.id("new")).connect();
    new.subscribe(&format!("$share/g/{filter}"), 1);
    new.expect_silence();
    new.publish(&topic, "new", 1);
    assert_eq!(new.expect_publish().text(), "new");
}

/// Kills the node while shares move; whoever is left has each of them once.
fn kill_while_moving(after: Duration, qos: u8) {
    let mut node = Node::start();
    let dial = |broker: &Broker, id: &str| broker.v5(id).durable();
    absent_member_with_shares(&dial(&node.broker(), "ends"), "s/+", SHARES, "s/a", qos);
    for id in ["one", "two"] {
        let mut member = dial(&node.broker(), id).connect();
        member.subscribe("$share/g/s/+", 2);
        member.disconnect();
    }
    end(&dial(&node.broker(), "ends"));
    let_pass(after);
    node.crash();
    let mut all = Vec::new();
    for id in ["one", "two"] {
        let mut member = dial(&node.broker(), id).connect();
        assert!(member.connack.present);
        all.extend(everything(&mut member));
    }
    let mut all: Vec<usize> = all.iter().map(|text| text.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..SHARES).collect::<Vec<_>>(), "killed after {after:?}, qos {qos}");
}

#[test]
fn shares_survive_a_kill_while_they_move() {
    let _turn = super::alone();
    for (n, millis) in [0, 2, 5, 9, 14, 20, 40].into_iter().enumerate() {
        kill_while_moving(Duration::from_millis(millis), if n % 2 == 0 { 1 } else { 2 });
    }
}
