//! Topic aliases in both directions: MQTT 5.0 section 3.3.2.3.4.

use std::collections::HashMap;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::{Client, message},
    packet::{Publish, Version},
    property::{Props, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM},
};

fn aliased(topic: &str, payload: &str, qos: u8, alias: u32) -> Publish {
    Publish { props: Props::new().number(TOPIC_ALIAS, alias), ..message(topic, payload, qos) }
}

/// A client that may use aliases, and how many.
fn with_aliases(names: &Names) -> (Client, u32) {
    let client = broker().v5(&names.id("alias")).connect();
    let maximum = client.connack.props.get_number(TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    assert!(maximum > 0, "the server takes aliases");
    (client, maximum)
}

#[test]
fn alias_stands_for_its_topic_until_it_is_set_again() {
    let names = Names::new();
    let (mut client, maximum) = with_aliases(&names);
    client.subscribe(&names.topic("#"), 2);
    for (alias, qos) in [(1, 0), (maximum, 1), (1, 2)] {
        let topic = names.topic(&format!("a{alias}{qos}"));
        client.publish_with(aliased(&topic, "sets", qos, alias));
        client.publish_with(aliased("", "uses", qos, alias));
        for text in ["sets", "uses"] {
            let came = client.expect_publish();
            assert_eq!((came.topic.as_str(), came.text().as_str()), (topic.as_str(), text));
            assert!(!came.props.has(TOPIC_ALIAS), "an alias is not passed on");
        }
    }
}

#[test]
fn every_alias_up_to_the_maximum_can_be_used() {
    let names = Names::new();
    let (mut client, maximum) = with_aliases(&names);
    client.subscribe(&names.topic("#"), 0);
    let maximum = maximum.min(200);
    for alias in 1..=maximum {
        client.publish_with(aliased(&names.topic(&alias.to_string()), "", 0, alias));
        assert_eq!(client.expect_publish().topic, names.topic(&alias.to_string()));
    }
    for alias in (1..=maximum).rev() {
        client.publish_with(aliased("", "", 0, alias));
        assert_eq!(client.expect_publish().topic, names.topic(&alias.to_string()));
    }
}

#[test]
fn alias_out_of_range_is_refused() {
    let names = Names::new();
    for excess in [0, 1] {
        let (mut client, maximum) = with_aliases(&names);
        let alias = if excess == 0 { 0 } else { (maximum + 1).min(65_535) };
        client.send_publish(aliased(&names.topic("a"), "x", 0, alias));
        // The specification gives 0x94 to the second case and no code to the first.
        let codes: &[u8] = if excess == 0 { &[0x81, 0x82, 0x94] } else { &[0x94] };
        client.expect_disconnect(codes);
    }
}

#[test]
fn unknown_alias_without_topic_is_a_protocol_error() {
    let names = Names::new();
    let (mut client, _) = with_aliases(&names);
    client.send_publish(aliased("", "x", 0, 1));
    client.expect_disconnect(&[0x82]);
}

#[test]
fn empty_topic_without_alias_is_a_protocol_error() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("empty")).connect();
    client.send_publish(message("", "x", 0));
    client.expect_disconnect(&[0x82, 0x90]);
}

#[test]
fn aliases_are_gone_with_the_connection() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).durable();
    let mut client = dial.connect();
    client.publish_with(aliased(&names.topic("a"), "x", 1, 1));
    client.disconnect();
    let mut client = dial.connect();
    client.send_publish(aliased("", "x", 0, 1));
    client.expect_disconnect(&[0x82]);
}

#[test]
fn aliases_of_two_clients_are_apart() {
    let names = Names::new();
    let (mut first, _) = with_aliases(&names);
    let mut second = broker().v5(&names.id("second")).connect();
    first.subscribe(&names.topic("#"), 0);
    first.publish_with(aliased(&names.topic("one"), "", 1, 1));
    second.publish_with(aliased(&names.topic("two"), "", 1, 1));
    first.publish_with(aliased("", "", 1, 1));
    second.publish_with(aliased("", "", 1, 1));
    let topics: Vec<String> = (0..4).map(|_| first.expect_publish().topic).collect();
    assert_eq!(topics, ["one", "two", "one", "two"].map(|topic| names.topic(topic)));
}

/// Follows the aliases that a server sets.
#[derive(Default)]
struct Aliases(HashMap<u32, String>);

impl Aliases {
    fn resolve(&mut self, publish: &Publish, maximum: u32) -> String {
        let Some(alias) = publish.props.get_number(TOPIC_ALIAS) else {
            return publish.topic.clone();
        };
        assert!(alias >= 1 && alias <= maximum, "alias {alias} of {maximum}");
        if !publish.topic.is_empty() {
            self.0.insert(alias, publish.topic.clone());
        }
        self.0.get(&alias).cloned().expect("an alias is set before it is used")
    }
}

#[test]
fn server_aliases_resolve_to_the_topics() {
    for maximum in [0, 1, 3, 65_535] {
        for qos in 0..3 {
            let names = Names::new();
            let mut to = broker().v5(&names.id("to")).alias_maximum(maximum).connect();
            to.subscribe(&names.topic("#"), qos);
            let mut from = broker().v5(&names.id("from")).connect();
            let mut aliases = Aliases::default();
            for n in 0..40 {
                let topic = names.topic(&format!("some/long/topic/{}", n * 7 % 5));
                from.publish(&topic, "x", qos);
                let came = to.expect_publish();
                assert_eq!(aliases.resolve(&came, maximum), topic);
            }
        }
    }
}

#[test]
fn messages_queued_over_a_reconnect_carry_their_topics() {
    let names = Names::new();
    let dial = broker().v5(&names.id("s")).durable().alias_maximum(5).manual();
    let mut to = dial.connect();
    to.subscribe(&names.topic("#"), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    let topic = names.topic("a");
    for _ in 0..3 {
        from.publish(&topic, "x", 1);
    }
    for _ in 0..3 {
        to.expect_publish();
    }
    to.cut();
    from.publish(&topic, "x", 1);
    let mut to = dial.connect();
    let mut aliases = Aliases::default();
    for _ in 0..4 {
        let came = to.expect_publish();
        assert_eq!(aliases.resolve(&came, 5), topic);
    }
    // The next connection takes no aliases at all.
    to.cut();
    let mut to = broker().v5(&names.id("s")).durable().connect();
    for _ in 0..4 {
        assert_eq!(to.expect_publish().topic, topic);
    }
    assert_eq!(to.version, Version::V5);
}
