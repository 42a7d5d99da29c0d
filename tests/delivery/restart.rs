//! A node that is stopped and started again keeps what it promised. Promises SESSION-TRUE, HEAL.

use std::time::Duration;

use crate::support::{
    half_done::HalfDone,
    mqtt_client::message,
    node::Node,
    packet::{BOTH, Publish, Sub, Version, Will},
    property::{MESSAGE_EXPIRY, Props, SUBSCRIPTION_ID, WILL_DELAY},
    wait::let_pass,
};

/// Both ways to end a process; after either the same must hold.
fn stop_and_start(node: &mut Node, kill: bool) {
    if kill {
        node.crash();
    } else {
        assert!(node.terminate().success());
        node.launch();
    }
}

/// A topic of one version's client alone.
fn live(version: Version) -> String {
    format!("live/{version:?}")
}

#[test]
fn session_queue_and_options_survive_a_restart() {
    for kill in [false, true] {
        let mut node = Node::start();
        for version in BOTH {
            let dial = |node: &Node| node.broker().dial(version, &format!("{version:?}")).durable();
            let mut client = dial(&node).connect();
            client.subscribe_with(
                &[Sub::new("a/+", 1), Sub::new("b/#", 2), Sub::new(&live(version), 1)],
                &Props::new().number(SUBSCRIPTION_ID, 7),
            );
            client.disconnect();
        }
        let mut from = node.broker().v5("from").connect();
        for n in 0..20 {
            from.publish(["a/x", "b/y"][n % 2], &n.to_string(), 2);
        }
        stop_and_start(&mut node, kill);
        for version in BOTH {
            let dial = node.broker().dial(version, &format!("{version:?}")).durable();
            let mut client = dial.connect();
            assert!(client.connack.present, "kill {kill}, {version:?}");
            for n in 0..20 {
                let came = client.expect_publish();
                assert_eq!((came.text(), came.qos), (n.to_string(), 1 + (n % 2) as u8));
                if version == Version::V5 {
                    assert_eq!(came.props.numbers(SUBSCRIPTION_ID), [7]);
                }
            }
            client.publish(&live(version), "live", 1);
            assert_eq!(client.expect_publish().text(), "live");
            client.expect_silence();
        }
    }
}

#[test]
fn retained_messages_survive_a_restart_with_their_deletions() {
    for kill in [false, true] {
        let mut node = Node::start();
        let mut from = node.broker().v5("from").connect();
        for n in 0..50 {
            from.retain(&format!("r/{n}"), "old", 1);
            from.retain(&format!("r/{n}"), &n.to_string(), 1);
        }
        from.retain("r/7", "", 1);
        let props = Props::new().number(MESSAGE_EXPIRY, 1);
        from.publish_with(Publish { retain: true, props, ..message("r/short", "x", 1) });
        stop_and_start(&mut node, kill);
        let_pass(Duration::from_millis(2_100));
        let mut to = node.broker().v5("to").connect();
        to.subscribe("r/#", 1);
        let mut texts = to.expect_texts(49);
        texts.sort_by_key(|text| text.parse::<u32>().unwrap());
        let wanted: Vec<String> = (0..50).filter(|n| *n != 7).map(|n| n.to_string()).collect();
        assert_eq!(texts, wanted);
        to.expect_silence();
    }
}

#[test]
fn session_expiry_runs_on_over_a_restart() {
    let mut node = Node::start();
    node.broker().v5("short").expiry(2).connect().disconnect();
    node.broker().v5("long").expiry(600).connect().disconnect();
    // Connected while the node dies: the time runs from then.
    let _connected = node.broker().v5("open").expiry(600).connect();
    node.kill();
    let_pass(Duration::from_millis(3_000));
    node.launch();
    let present = |id: &str| node.broker().v5(id).durable().connect().connack.present;
    assert!(present("long") && present("open"));
    assert!(!present("short"));
}

#[test]
fn unfinished_exchanges_go_on_after_a_restart() {
    for kill in [false, true] {
        let mut node = Node::start();
        let mut to = node.broker().v5("to").durable().manual().connect();
        to.subscribe("a", 2);
        let mut from = node.broker().v5("from").durable().connect();
        let half_done = HalfDone::begin(&mut to, &mut from);
        stop_and_start(&mut node, kill);
        let mut to = node.broker().v5("to").durable().manual().connect();
        half_done.end_one_and_two(&mut to);
        HalfDone::end_three(&mut to);
        half_done.send_again(&mut node.broker().v5("from").durable().connect());
        HalfDone::end_half(&mut to);
    }
}

fn will(delay_secs: u32) -> Will {
    Will {
        topic: "will".to_owned(),
        payload: b"gone".to_vec(),
        qos: 1,
        retain: false,
        props: Props::new().number(WILL_DELAY, delay_secs),
    }
}

#[test]
fn will_of_a_durable_session_is_due_when_its_node_dies() {
    let mut node = Node::start();
    let mut watcher = node.broker().v5("watcher").durable().connect();
    watcher.subscribe("will", 1);
    let _mortal = node.broker().v5("mortal").durable().will_with(will(0)).connect();
    node.crash();
    let mut watcher = node.broker().v5("watcher").durable().connect();
    assert!(watcher.connack.present);
    assert_eq!(watcher.expect_publish().text(), "gone");
    watcher.expect_silence_for(Duration::from_secs(1));
}

#[test]
fn will_without_a_session_is_due_when_its_node_dies_or_stops() {
    let mut node = Node::start();
    node.broker().v5("watcher").durable().connect().subscribe("will", 1);
    for kill in [true, false] {
        let named = |name: &str, delay| Will { payload: name.as_bytes().to_vec(), ..will(delay) };
        let _v4 = node.broker().v4("v4").will_with(named("v4", 0)).connect();
        let _v5 = node.broker().v5("v5").will_with(named("v5", 60)).connect();
        node.broker().v4("polite").will_with(named("polite", 0)).connect().disconnect();
        // Stored behind the end of the polite one: that is committed, too.
        node.broker().v4("polite").durable().connect().disconnect();
        stop_and_start(&mut node, kill);
        let mut watcher = node.broker().v5("watcher").durable().connect();
        assert!(watcher.connack.present);
        let mut texts = watcher.expect_texts(2);
        texts.sort();
        assert_eq!(texts, ["v4", "v5"], "kill {kill}");
        watcher.expect_silence_for(Duration::from_secs(1));
        // What it has acknowledged is surely kept once it has claimed its session again.
        watcher.disconnect();
        node.broker().v5("watcher").durable().connect().disconnect();
    }
}

#[test]
fn will_delay_runs_on_over_a_restart_and_fires_once() {
    let mut node = Node::start();
    let mut watcher = node.broker().v5("watcher").durable().connect();
    watcher.subscribe("will", 1);
    node.broker().v5("mortal").durable().will_with(will(2)).connect().cut();
    let_pass(Duration::from_millis(300));
    node.crash();
    let mut watcher = node.broker().v5("watcher").durable().connect();
    assert_eq!(watcher.expect_publish().text(), "gone");
    // The acknowledgement is surely kept once the session was claimed again; a crash before that may
    // repeat the message (QoS 1).
    watcher.disconnect();
    node.broker().v5("watcher").durable().connect().disconnect();
    node.crash();
    let mut watcher = node.broker().v5("watcher").durable().connect();
    watcher.expect_silence_for(Duration::from_millis(2_500));
}

#[test]
fn what_was_acknowledged_before_the_goodbye_is_not_repeated_after_a_crash() {
    for qos in 1..3 {
        let mut node = Node::start();
        let mut to = node.broker().v5("to").durable().connect();
        to.subscribe("a", qos);
        let mut from = node.broker().v5("from").connect();
        for n in 0..5 {
            from.publish("a", &n.to_string(), qos);
            assert_eq!(to.expect_publish().text(), n.to_string());
        }
        to.disconnect();
        let mut to = node.broker().v5("to").durable().connect();
        to.expect_silence();
        to.disconnect();
        node.crash();
        let mut to = node.broker().v5("to").durable().connect();
        assert!(to.connack.present);
        to.expect_silence();
    }
}

#[test]
fn clean_session_is_gone_after_a_restart() {
    let mut node = Node::start();
    let mut client = node.broker().v5("clean").clean(true).expiry(0).connect();
    client.subscribe("a", 1);
    node.crash();
    assert!(!node.broker().v5("clean").clean(false).expiry(60).connect().connack.present);
}

#[test]
fn second_process_on_the_same_data_is_refused() {
    let node = Node::start();
    if !node.broker().ours {
        return;
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hongqiao"))
        .arg("serve")
        .arg("--data")
        .arg(node.data())
        .args(["--set", "listeners.mqtt.address=127.0.0.1:0"])
        .args(["--set", "listeners.http.address=127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // The first one serves on.
    node.broker().v5("still").connect().ping();
}
