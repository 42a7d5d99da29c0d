//! What waits for a member of a shared group when that leaves. Promises NO-LOSS, ORDER, ONCE.

use std::time::Duration;

use crate::{
    delivery::load::Pipeline,
    support::{
        broker::{Broker, Names, broker},
        dial::Dial,
        http_client::metric,
        mqtt_client::{Client, Received, message},
        node::Node,
        packet::{AckKind, Packet, Publish},
        property::Props,
        wait::{let_pass, wait_until},
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

/// Nothing more can be stored while this lasts: returns how many messages `filler` has to read for that.
fn fill(node: &Node) -> usize {
    let mut to = node.broker().v5("filler").durable().connect();
    to.subscribe("fill", 1);
    to.disconnect();
    let mut from = node.broker().v5("fills").connect();
    let payload = vec![b'x'; 4_096];
    let publish = || Publish { payload: payload.clone(), ..message("fill", "", 1) };
    let taken = (0..200).take_while(|_| from.publish_code(publish()) < 0x80).count();
    assert!(taken < 200, "never refused");
    taken
}

/// A share is not stored (here the quota is used up), so its publisher is cut off and sends it again.
#[test]
fn share_that_was_cut_when_sent_again_comes_to_one_member_once() {
    let bytes = (256 * 1024).to_string();
    let mut node = Node::start_with(&[
        ("quotas.app_bytes_max", &bytes),
        ("quotas.session_bytes_max", &bytes),
        ("quotas.retained_messages_max", "100"),
    ]);
    let join = |node: &Node, id: &str| {
        let member = node.broker().v5(id).durable();
        member.connect().subscribe("$share/g/s/+", 2);
        member
    };
    let members = [join(&node, "one"), join(&node, "two")];
    let filled = fill(&node);
    let from = |node: &Node| node.broker().v4("from").durable().connect();
    let publish = Publish { id: 7, payload: vec![b's'; 8_192], ..message("s/a", "", 2) };
    let mut client = from(&node);
    client.send_publish(publish.clone());
    client.expect_closed();
    let mut to = node.broker().v5("filler").durable().connect();
    to.expect_texts(filled);
    to.disconnect();
    wait_until("what was read is trimmed", || {
        metric(node.broker().http(), "hongqiao_queue_bytes ") == Some(0.0)
    });
    let publish = Publish { dup: true, ..publish };
    let again = |node: &Node| {
        let mut client = from(node);
        assert!(client.connack.present);
        client.send_publish(publish.clone());
        client.expect_ack(AckKind::Pubrec, 7);
        client
    };
    for _ in 0..3 {
        again(&node).cut();
    }
    let got = members.iter().map(|member| everything(&mut member.connect()).len());
    assert_eq!(got.sum::<usize>(), 1, "of four times");
    // Who had it acknowledges and ends; others are members now.
    join(&node, "three");
    members.iter().for_each(end);
    again(&node).cut();
    node.crash();
    let mut client = again(&node);
    client.ack(AckKind::Pubrel, 7);
    assert_eq!(client.expect_ack(AckKind::Pubcomp, 7), 0);
    let mut other = node.broker().v5("three").durable().connect();
    other.expect_silence();
    // The packet id is free: the next message is a new one.
    client.publish_with(Publish { dup: false, ..publish });
    assert_eq!(other.expect_publish().payload.len(), 8_192);
}

/// With one shard, the share that a live member gives back goes where it was stored before.
#[test]
fn share_that_was_stored_when_a_live_member_gives_it_back_is_stored_again() {
    let node = Node::start_with(&[("storage.shards", "1")]);
    let share = "$share/g/s/+";
    let ends = node.broker().v5("ends").durable();
    ends.connect().subscribe(share, 2);
    node.broker().v5("from").durable().connect().publish("s/a", "share", 2);
    let mut live = node.broker().v5("live").manual().connect();
    live.subscribe(share, 1);
    end(&ends);
    assert_eq!(live.expect_publish().text(), "share");
    let mut other = node.broker().v5("other").durable().connect();
    other.subscribe(share, 2);
    live.cut();
    assert_eq!(other.expect_publish().text(), "share");
    other.expect_silence();
}
