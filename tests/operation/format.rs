//! Data folders of earlier releases: kept as they were written, and opened by the release of today.
//!
//! `tests/fixtures/format-1.tar.gz` is the folder of a node that was stopped (so its state is in a
//! checkpoint), started again, and killed (so the rest is in the log alone). It was made by
//! `cargo test --test main operation::format::make_fixture -- --ignored` and is never made again for the
//! same number: whoever changes what is stored brings a migration, a new number, and one more fixture.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    broker::Broker,
    dial::Dial,
    mqtt_client::{Client, message},
    node::Node,
    packet::{AckKind, Packet, Publish, Sub, Version, Will},
    property::{CONTENT_TYPE, Props, SUBSCRIPTION_ID, WILL_DELAY},
};

const NEVER: u32 = u32::MAX;
const PASSWORD: &str = "over the bridge";
/// Longer than a value of the state may be, so that it lies there in pieces.
const LARGE_BYTES: usize = 20_000;

/// Two shards, and nothing that ends with time.
const SETTINGS: [(&str, &str); 3] = [
    ("storage.shards", "2"),
    ("limits.session_expiry_max", "never"),
    ("storage.checkpoint_interval", "1 h"),
];

fn fixture(number: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{number}.tar.gz"))
}

fn tar(how: &[&str], file: &Path, folder: &Path, members: &[&str]) {
    let mut command = Command::new("tar");
    let status = command.args(how).arg(file).arg("-C").arg(folder).args(members).status();
    assert!(status.unwrap().success(), "{command:?}");
}

fn as_user(broker: Broker, id: &str) -> Dial {
    broker.v5(id).clean(false).expiry(NEVER).user("acme#chat/ann", PASSWORD)
}

fn put_user(node: &Node, password: &str) {
    let folder = node.folder().join("password");
    fs::write(&folder, format!("{password}\n")).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_hongqiao"))
        .args(["user", "put", "acme#chat/ann", "--password-stdin", "--data"])
        .arg(node.data())
        .stdin(fs::File::open(&folder).unwrap())
        .status();
    assert!(status.unwrap().success());
}

/// Sends the first half of a QoS 2 publish: its packet id stays open.
fn leave_open(from: &mut Client, topic: &str, id: u16) {
    from.send_publish(Publish { id, ..message(topic, "open", 2) });
    assert_eq!(from.expect_ack(AckKind::Pubrec, id), 0);
}

/// What the stopped part of the fixture's life did.
fn first_life(broker: Broker) {
    let will = Will {
        topic: "will".to_owned(),
        payload: b"last words".to_vec(),
        qos: 1,
        retain: false,
        props: Props::new().number(WILL_DELAY, NEVER),
    };
    let mut five = as_user(broker, "five").will_with(will).manual().receive_maximum(3).connect();
    let subscription = Sub::new("queue/+", 2);
    let id = Props::new().number(SUBSCRIPTION_ID, 77);
    assert_eq!(five.subscribe_with(&[subscription], &id), [2]);
    five.subscribe("$share/group/shared/#", 1);
    let mut four = broker.v4("four").clean(false).connect();
    four.subscribe("queue/#", 1);
    four.disconnect();
    let mut from = as_user(broker, "from").connect();
    // Three deliveries in all their states: sent, received, acknowledged out of order.
    for n in 0..3 {
        from.publish("queue/a", &format!("early {n}"), if n == 2 { 1 } else { 2 });
    }
    let ids: Vec<u16> = (0..3).map(|_| five.expect_publish().id).collect();
    five.ack(AckKind::Pubrec, ids[1]);
    five.wait_for("PUBREL", |packet| {
        matches!(packet, Packet::Ack { kind: AckKind::Pubrel, .. }).then_some(())
    });
    five.ack(AckKind::Puback, ids[2]);
    // A reply to something later says that the acknowledgement was taken.
    five.ping();
    let large = "x".repeat(LARGE_BYTES);
    from.retain("kept/large", &large, 1);
    let props = Props::new().text(CONTENT_TYPE, "text/plain");
    from.publish_with(Publish { retain: true, props, ..message("kept/typed", "kept", 1) });
    from.retain("gone", "x", 1);
    from.publish("queue/large", &large, 1);
    leave_open(&mut from, "queue/open", 65_000);
    from.cut();
    five.cut();
}

/// What only the log knows.
fn second_life(broker: Broker) {
    let mut from = as_user(broker, "from").connect();
    assert!(from.connack.present);
    for n in 0..20 {
        from.publish("queue/b", &format!("late {n}"), 1 + n % 2);
        broker.v4("other").connect().publish("queue/c", &format!("four {n}"), 1);
    }
    from.publish("shared/a", "share", 1);
    from.publish_with(Publish { retain: true, ..message("gone", "", 1) });
    from.retain("kept/late", "late", 2);
    let mut late = as_user(broker, "late").connect();
    late.subscribe("queue/late", 1);
    late.cut();
    from.publish("queue/late", "for late", 1);
    from.cut();
}

#[test]
#[ignore = "writes the fixture of the present format; see the head of the file"]
fn make_fixture() {
    let mut node = Node::start_with(&SETTINGS);
    put_user(&node, PASSWORD);
    first_life(node.broker());
    assert!(node.terminate().success());
    node.launch();
    second_life(node.broker());
    node.kill();
    for file in ["admin.token", "listeners.json", "lock", "log/reserve"] {
        let _ = fs::remove_file(node.data().join(file));
    }
    let text = fs::read_to_string(node.data().join("FORMAT")).unwrap();
    let number = text.lines().find_map(|line| line.strip_prefix("format = ")).unwrap();
    let file = fixture(number.parse().unwrap());
    assert!(!file.exists(), "{} is never made again", file.display());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    tar(&["-c", "-S", "-z", "-f"], &file, &node.data(), &["."]);
}

fn unpack(number: u32, data: &Path) {
    fs::create_dir_all(data).unwrap();
    tar(&["-x", "-z", "-f"], &fixture(number), data, &[]);
}

fn retained(broker: Broker) -> Vec<(String, usize)> {
    let mut to = broker.v5("reader").user("acme#chat/ann", PASSWORD).connect();
    to.subscribe("kept/#", 1);
    to.subscribe("gone", 1);
    let mut found: Vec<_> = (0..3)
        .map(|_| {
            let came = to.expect_publish();
            assert!(came.retain);
            let typed = came.props.get_text(CONTENT_TYPE);
            assert_eq!(typed.is_some(), came.topic == "kept/typed");
            (came.topic, came.payload.len())
        })
        .collect();
    to.expect_silence();
    found.sort();
    found
}

/// The resumed session of MQTT 5: what was sent comes first and as it was, then the rest in order.
fn check_five(broker: Broker) {
    let mut five = as_user(broker, "five").manual().connect();
    assert!(five.connack.present);
    let first = five.expect_publish();
    assert_eq!((first.text().as_str(), first.qos, first.dup), ("early 0", 2, true));
    let released = five.wait_for("PUBREL", |packet| match packet {
        Packet::Ack { kind: AckKind::Pubrel, id, .. } => Some(*id),
        _ => None,
    });
    five.ack(AckKind::Pubcomp, released);
    five.ack(AckKind::Pubrec, first.id);
    five.wait_for("PUBREL", |packet| match packet {
        Packet::Ack { kind: AckKind::Pubrel, id, .. } if *id == first.id => Some(()),
        _ => None,
    });
    five.ack(AckKind::Pubcomp, first.id);
    let large = five.expect_publish();
    assert_eq!((large.topic.as_str(), large.payload.len()), ("queue/large", LARGE_BYTES));
    assert_eq!(large.props.get_number(SUBSCRIPTION_ID), Some(77));
    let mut texts = Vec::new();
    while texts.len() < 23 {
        let came = five.expect_publish();
        texts.push(came.text());
        let kind = if came.qos == 1 { AckKind::Puback } else { AckKind::Pubrec };
        five.ack(kind, came.id);
    }
    let late = (0..20).map(|n| format!("late {n}"));
    let expected: Vec<String> = std::iter::once("open".to_owned())
        .chain(late)
        .chain(["share".to_owned(), "for late".to_owned()])
        .collect();
    assert_eq!(texts, expected);
}

#[test]
fn folder_of_format_1_is_opened_with_all_that_is_in_it() {
    let mut node = Node::start_on(|data| unpack(1, data), &SETTINGS);
    for life in 0..2 {
        let broker = node.broker();
        // The user of the fixture, and nobody with another password.
        as_user(broker, "wrong").user("acme#chat/ann", "wrong").expect_refused(&[0x86]);
        let expected = [("kept/large", LARGE_BYTES), ("kept/late", 4), ("kept/typed", 4)];
        let expected = expected.map(|(topic, bytes)| (topic.to_owned(), bytes));
        assert_eq!(retained(broker), expected);
        let marks = fs::read_to_string(node.data().join("FORMAT")).unwrap();
        assert!(marks.contains("format = 2\n"), "{marks}");
        if life == 0 {
            // Everything is written anew by this release, then read again.
            node.crash();
        }
    }
    let broker = node.broker();
    // A packet id that was open still is, and its message is not published again.
    let mut from = as_user(broker, "from").connect();
    assert!(from.connack.present);
    from.send_publish(Publish { id: 65_000, dup: true, ..message("queue/open", "open", 2) });
    assert_eq!(from.expect_ack(AckKind::Pubrec, 65_000), 0);
    from.ack(AckKind::Pubrel, 65_000);
    assert_eq!(from.expect_ack(AckKind::Pubcomp, 65_000), 0);
    check_five(broker);
    let mut four = broker.dial(Version::V4, "four").clean(false).connect();
    assert!(four.connack.present);
    let texts = four.expect_texts(20);
    assert_eq!(texts, (0..20).map(|n| format!("four {n}")).collect::<Vec<_>>());
    four.expect_silence();
    let mut late = as_user(broker, "late").connect();
    assert!(late.connack.present);
    assert_eq!(late.expect_publish().text(), "for late");
    late.expect_silence();
    assert!(node.terminate().success());
}
