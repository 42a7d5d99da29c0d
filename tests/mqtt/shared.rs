//! Shared subscriptions: MQTT 5.0 section 4.8.2.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, Received, message},
    packet::{AckKind, Packet, Publish, Sub, Version, encode_subscribe},
    property::{Props, SUBSCRIPTION_ID},
    wait::let_pass,
};

fn share(group: &str, filter: &str) -> String {
    format!("$share/{group}/{filter}")
}

/// All texts that come to these clients until nothing comes for a while, per client.
fn drain(clients: &mut [Client]) -> Vec<Vec<String>> {
    clients
        .iter_mut()
        .map(|client| {
            let mut texts = Vec::new();
            loop {
                match client.receive(Duration::from_millis(300)) {
                    Received::Packet(Packet::Publish(publish)) => texts.push(publish.text()),
                    Received::Nothing => return texts,
                    other => panic!("{other:?}"),
                }
            }
        })
        .collect()
}

fn numbers(count: usize) -> BTreeSet<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[test]
fn group_gets_each_message_once() {
    for qos in 0..3 {
        let names = Names::new();
        let mut members: Vec<Client> = (0..3)
            .map(|n| {
                let mut member = broker().v5(&names.id(&format!("m{n}"))).connect();
                member.subscribe(&share("g", &names.topic("+/a")), qos);
                member
            })
            .collect();
        let mut from = broker().v5(&names.id("from")).connect();
        for n in 0..60 {
            from.publish(&names.topic(&format!("{n}/a")), &n.to_string(), qos);
        }
        let texts = drain(&mut members);
        let all: Vec<String> = texts.concat();
        assert_eq!(all.len(), 60);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), numbers(60));
        assert!(texts.iter().all(|part| !part.is_empty()), "one member starves");
    }
}

#[test]
fn each_group_and_each_plain_subscriber_gets_its_copy() {
    let names = Names::new();
    let topic = names.topic("a");
    let filters = [share("one", &topic), share("one", &topic), share("two", &topic), topic.clone()];
    let mut clients: Vec<Client> = filters
        .iter()
        .enumerate()
        .map(|(n, filter)| {
            let mut client = broker().v5(&names.id(&format!("c{n}"))).connect();
            client.subscribe(filter, 1);
            client
        })
        .collect();
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..20 {
        from.publish(&topic, &n.to_string(), 1);
    }
    let texts = drain(&mut clients);
    assert_eq!(texts[0].len() + texts[1].len(), 20);
    assert_eq!(texts[2].len(), 20);
    assert_eq!(texts[3].len(), 20);
}

#[test]
fn groups_of_one_name_and_different_filters_are_different() {
    let names = Names::new();
    let mut clients: Vec<Client> = ["a", "+"]
        .iter()
        .map(|filter| {
            let mut client = broker().v5(&names.id(&format!("c{filter}"))).connect();
            client.subscribe(&share("g", &names.topic(filter)), 1);
            client
        })
        .collect();
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("a"), "x", 1);
    for client in &mut clients {
        assert_eq!(client.expect_publish().text(), "x");
    }
}

#[test]
fn one_client_in_a_group_and_plain_gets_both() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut client = broker().v5(&names.id("both")).connect();
    let with_id = |id| Props::new().number(SUBSCRIPTION_ID, id);
    client.subscribe_with(&[Sub::new(&topic, 1)], &with_id(1));
    client.subscribe_with(&[Sub::new(&share("g", &topic), 1)], &with_id(2));
    client.publish(&topic, "x", 1);
    let mut ids = client.expect_publish().props.numbers(SUBSCRIPTION_ID);
    if ids.len() == 1 {
        ids.extend(client.expect_publish().props.numbers(SUBSCRIPTION_ID));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("wrong")).connect();
    let subs = [Sub::new(&share("g", &names.topic("a")), 1).no_local()];
    let bytes = crate::support::packet::encode_subscribe(Version::V5, 1, &subs, &Props::new());
    client.send_raw(&bytes);
    client.expect_disconnect(&[0x82]);
}

#[test]
fn member_that_leaves_gets_nothing_more_and_the_rest_get_all() {
    let names = Names::new();
    let filter = share("g", &names.topic("a"));
    let mut stays = broker().v5(&names.id("stays")).connect();
    stays.subscribe(&filter, 1);
    let mut unsubscribes = broker().v5(&names.id("unsubscribes")).connect();
    unsubscribes.subscribe(&filter, 1);
    let mut disconnects = broker().v5(&names.id("disconnects")).connect();
    disconnects.subscribe(&filter, 1);
    assert_eq!(unsubscribes.unsubscribe(&[&filter]), [0]);
    disconnects.disconnect();
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..30 {
        from.publish(&names.topic("a"), &n.to_string(), 1);
    }
    assert_eq!(stays.expect_texts(30).into_iter().collect::<BTreeSet<_>>(), numbers(30));
    unsubscribes.expect_silence();
}

#[test]
fn unsubscribe_from_a_group_leaves_the_plain_subscription() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut client = broker().v5(&names.id("c")).connect();
    client.subscribe(&topic, 1);
    client.subscribe(&share("g", &topic), 1);
    assert_eq!(client.unsubscribe(&[&share("h", &topic), &share("g", &topic)]), [0x11, 0]);
    client.publish(&topic, "x", 1);
    assert_eq!(client.expect_publish().text(), "x");
    client.expect_silence();
}

#[test]
fn unacknowledged_messages_go_to_others_when_the_session_ends() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut leaves = broker().v5(&names.id("leaves")).manual().connect();
    leaves.subscribe(&share("g", &topic), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..10 {
        from.publish(&topic, &n.to_string(), 1);
    }
    let held: Vec<Publish> = (0..10).map(|_| leaves.expect_publish()).collect();
    for publish in &held[..3] {
        leaves.ack(AckKind::Puback, publish.id);
    }
    leaves.ping();
    let mut stays = broker().v5(&names.id("stays")).connect();
    stays.subscribe(&share("g", &topic), 1);
    leaves.cut();
    let got: BTreeSet<String> = stays.expect_texts(7).into_iter().collect();
    assert_eq!(got, (3..10).map(|n| n.to_string()).collect());
    stays.expect_silence();
}

#[test]
fn redelivery_goes_by_the_filter_of_the_group_not_by_the_topic() {
    let names = Names::new();
    let mut leaves = broker().v5(&names.id("leaves")).manual().connect();
    leaves.subscribe(&share("g", &names.topic("+/x")), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&names.topic("1/x"), "for g", 1);
    leaves.expect_publish();
    // Another group matches the same topic; it had no part in that message.
    let mut other = broker().v5(&names.id("other")).connect();
    other.subscribe(&share("h", &names.topic("1/#")), 1);
    let mut stays = broker().v5(&names.id("stays")).connect();
    stays.subscribe(&share("g", &names.topic("+/x")), 1);
    leaves.cut();
    assert_eq!(stays.expect_publish().text(), "for g");
    other.expect_silence();
}

#[test]
fn absent_durable_member_does_not_starve_the_group() {
    let names = Names::new();
    let topic = names.topic("a");
    let away = broker().v5(&names.id("away")).durable();
    let mut client = away.connect();
    client.subscribe(&share("g", &topic), 1);
    client.disconnect();
    let mut here = broker().v5(&names.id("here")).connect();
    here.subscribe(&share("g", &topic), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..20 {
        from.publish(&topic, &n.to_string(), 1);
    }
    assert_eq!(here.expect_texts(20).into_iter().collect::<BTreeSet<_>>(), numbers(20));
    away.connect().expect_silence();
}

#[test]
fn messages_for_a_group_of_absent_durable_members_wait() {
    let names = Names::new();
    let topic = names.topic("a");
    let dials: Vec<_> =
        (0..2).map(|n| broker().v5(&names.id(&format!("m{n}"))).durable()).collect();
    for dial in &dials {
        let mut client = dial.connect();
        client.subscribe(&share("g", &topic), 1);
        client.disconnect();
    }
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..20 {
        from.publish(&topic, &n.to_string(), 1);
    }
    let mut members: Vec<Client> = dials.iter().map(|dial| dial.connect()).collect();
    let all = drain(&mut members).concat();
    assert_eq!(all.len(), 20);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), numbers(20));
}

#[test]
fn cut_member_with_a_durable_session_parks_nothing_new() {
    let names = Names::new();
    let topic = names.topic("a");
    let dial = broker().v5(&names.id("cut")).durable().manual();
    let mut cut = dial.connect();
    cut.subscribe(&share("g", &topic), 1);
    let mut here = broker().v5(&names.id("here")).connect();
    here.subscribe(&share("g", &topic), 1);
    cut.cut();
    let_pass(Duration::from_millis(300));
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..20 {
        from.publish(&topic, &n.to_string(), 1);
    }
    assert_eq!(here.expect_texts(20).into_iter().collect::<BTreeSet<_>>(), numbers(20));
}

#[test]
fn qos2_under_way_stays_with_its_member() {
    let names = Names::new();
    let topic = names.topic("a");
    let dial = broker().v5(&names.id("holds")).durable().manual();
    let mut holds = dial.connect();
    holds.subscribe(&share("g", &topic), 2);
    let mut from = broker().v5(&names.id("from")).connect();
    from.publish(&topic, "exactly", 2);
    let came = holds.expect_publish();
    holds.ack(AckKind::Pubrec, came.id);
    holds.expect_ack(AckKind::Pubrel, came.id);
    let mut other = broker().v5(&names.id("other")).connect();
    other.subscribe(&share("g", &topic), 2);
    holds.cut();
    other.expect_silence();
    let mut holds = dial.connect();
    holds.expect_ack(AckKind::Pubrel, came.id);
    holds.ack(AckKind::Pubcomp, came.id);
    other.expect_silence();
}

#[test]
fn slow_member_with_a_full_window_leaves_the_rest_to_others() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut slow = broker().v5(&names.id("slow")).receive_maximum(1).manual().connect();
    slow.subscribe(&share("g", &topic), 1);
    let mut quick = broker().v5(&names.id("quick")).connect();
    quick.subscribe(&share("g", &topic), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..40 {
        from.publish(&topic, &n.to_string(), 1);
    }
    // The slow one holds at most one that it never acknowledges; a server may also queue for it, so
    // it ends its session and everything it held must come to the other.
    let first = drain(std::slice::from_mut(&mut quick)).concat();
    assert!(!first.is_empty());
    slow.disconnect();
    let mut all: BTreeSet<String> = first.into_iter().collect();
    all.extend(drain(std::slice::from_mut(&mut quick)).concat());
    assert_eq!(all, numbers(40));
}

#[test]
fn shared_delivery_has_the_lower_qos_and_the_subscription_id() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("c")).connect();
    let props = Props::new().number(SUBSCRIPTION_ID, 9);
    client.subscribe_with(&[Sub::new(&share("g", &names.topic("a")), 1)], &props);
    client.publish(&names.topic("a"), "x", 2);
    let came = client.expect_publish();
    assert_eq!((came.qos, came.props.numbers(SUBSCRIPTION_ID)), (1, vec![9]));
    client.publish_with(message(&names.topic("a"), "y", 0));
    assert_eq!(client.expect_publish().qos, 0);
}

#[test]
fn member_that_is_cut_while_it_joins_is_no_member() {
    for durable in [false, true] {
        let names = Names::new();
        let filter = format!("$share/{}/{}", names.id("g"), names.topic("a"));
        for n in 0..30 {
            let dial = broker().v5(&names.id(&format!("cut{n}")));
            let dial = if durable { dial.clean(false).expiry(1) } else { dial };
            let mut client = dial.open();
            let sub = encode_subscribe(Version::V5, 1, &[Sub::new(&filter, 1)], &Props::new());
            client.send_raw(&[dial.connect_bytes(), sub].concat());
            client.cut();
        }
        // Until the durable ones have ended too.
        let_pass(Duration::from_millis(if durable { 3_500 } else { 500 }));
        let mut from = broker().v5(&names.id("from")).connect();
        from.publish(&names.topic("a"), "for nobody", 1);
        let_pass(Duration::from_millis(200));
        let mut to = broker().v5(&names.id("to")).connect();
        to.subscribe(&filter, 1);
        to.expect_silence();
        from.publish(&names.topic("a"), "for the member", 1);
        assert_eq!(to.expect_publish().text(), "for the member");
    }
}
