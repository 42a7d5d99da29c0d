//! `docs/operations.md`, "Limits": what it says of each limit, provoked over the wire.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{
    broker::Broker,
    http_client::metric,
    mqtt_client::{Client, message},
    node::Node,
    packet::{BOTH, Publish, Sub, Version},
    property::{
        MAXIMUM_PACKET_SIZE, Props, RECEIVE_MAXIMUM, SERVER_KEEP_ALIVE, SESSION_EXPIRY,
        TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM,
    },
    wait::PATIENCE,
};

const TOPIC_FILTER_INVALID: u8 = 0x8F;
const TOPIC_NAME_INVALID: u8 = 0x90;
const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
const TOPIC_ALIAS_INVALID: u8 = 0x94;
const PACKET_TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;

const LIMITS: [(&str, &str); 15] = [
    ("limits.packet_bytes_max", "4096"),
    ("limits.receive_maximum", "4"),
    ("limits.keep_alive_max", "60 s"),
    ("limits.session_expiry_max", "1 h"),
    ("limits.topic_alias_max", "2"),
    ("limits.topic_bytes_max", "64"),
    ("limits.topic_levels_max", "8"),
    ("limits.filters_per_packet_max", "4"),
    ("limits.filters_per_session_max", "3"),
    ("limits.user_properties_max", "2"),
    ("limits.outbound_messages_max", "64"),
    ("quotas.app_bytes_max", "65536"),
    ("quotas.session_bytes_max", "65536"),
    ("quotas.retained_messages_max", "3"),
    ("http.body_bytes_max", "1024"),
];

/// What ends the connection of a client, and the code that it is told (3.1.1: it is closed).
type Ends = (&'static str, u8, fn(&mut Client));

fn sub(filter: &str) -> Sub {
    Sub::new(filter, 1)
}

fn send_subscribe(client: &mut Client, filters: &[Sub]) {
    let id = client.next_id();
    let bytes =
        crate::support::packet::encode_subscribe(client.version, id, filters, &Props::new());
    client.send_raw(&bytes);
}

const BOTH_VERSIONS: [Ends; 4] = [
    ("packet_bytes_max", PACKET_TOO_LARGE, |client| {
        client.send_publish(message("a", &"x".repeat(4_096), 1));
    }),
    ("packet_bytes_max, announced alone", PACKET_TOO_LARGE, |client| {
        client.send_raw(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    }),
    ("topic_bytes_max", TOPIC_NAME_INVALID, |client| {
        client.send_publish(message(&"t".repeat(65), "x", 1));
    }),
    ("filters_per_packet_max", QUOTA_EXCEEDED, |client| {
        send_subscribe(client, &["a", "b", "c", "d", "e"].map(sub));
    }),
];

const V5_ONLY: [Ends; 3] = [
    ("receive_maximum", RECEIVE_MAXIMUM_EXCEEDED, |client| {
        // Of QoS 2 the window stays taken until PUBREL.
        for _ in 0..5 {
            client.send_publish(message("a", "x", 2));
        }
    }),
    ("topic_alias_max", TOPIC_ALIAS_INVALID, |client| {
        let props = Props::new().number(TOPIC_ALIAS, 3);
        client.send_publish(Publish { props, ..message("a", "x", 1) });
    }),
    ("user_properties_max", QUOTA_EXCEEDED, |client| {
        let props = Props::new().user("a", "1").user("b", "2").user("c", "3");
        client.send_publish(Publish { props, ..message("a", "x", 1) });
    }),
];

/// Ends as the table says; packets before it are passed over.
fn check(broker: Broker, version: Version, (name, code, provoke): Ends) -> Result<(), String> {
    let mut client = broker.dial(version, "provoker").manual().connect();
    provoke(&mut client);
    loop {
        match client.check_disconnect(&[code], false) {
            Err(other) if other.contains("Ack {") => {}
            outcome => return outcome.map_err(|error| format!("{name}, {version:?}: {error}")),
        }
    }
}

#[test]
fn limits_when_passed_then_told_as_operations_says() {
    let node = Node::start_with(&LIMITS);
    let broker = node.broker();
    let mut wrong = Vec::new();
    for ends in BOTH_VERSIONS {
        wrong.extend(BOTH.into_iter().filter_map(|version| check(broker, version, ends).err()));
    }
    wrong.extend(V5_ONLY.into_iter().filter_map(|ends| check(broker, Version::V5, ends).err()));
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn limits_of_the_server_when_asked_for_more_then_told_in_connack() {
    let node = Node::start_with(&LIMITS);
    let dial = node.broker().v5("c").keep_alive(600).expiry(86_400);
    let told = dial.connect().connack.props;
    for (property, expected) in [
        (SERVER_KEEP_ALIVE, 60),
        (SESSION_EXPIRY, 3_600),
        (RECEIVE_MAXIMUM, 4),
        (TOPIC_ALIAS_MAXIMUM, 2),
        (MAXIMUM_PACKET_SIZE, 4_096),
    ] {
        assert_eq!(told.get_number(property), Some(expected), "{property:#x}");
    }
}

#[test]
fn filters_beyond_their_limits_then_refused_alone() {
    let node = Node::start_with(&LIMITS);
    for (version, invalid, full) in
        [(Version::V5, TOPIC_FILTER_INVALID, QUOTA_EXCEEDED), (Version::V4, 0x80, 0x80)]
    {
        let mut client = node.broker().dial(version, "c").connect();
        let long = "f".repeat(65);
        let codes =
            client.subscribe_with(&[sub(&long), sub("1/2/3/4/5/6/7/8/9"), sub("a")], &Props::new());
        assert_eq!(codes, [invalid, invalid, 1], "{version:?}");
        let codes = client.subscribe_with(&[sub("b"), sub("c"), sub("d"), sub("a")], &Props::new());
        assert_eq!(codes, [1, 1, full, 1], "{version:?}");
        client.ping();
    }
}

#[test]
fn quotas_when_full_then_v5_is_told_and_v4_closed() {
    let node = Node::start_with(&LIMITS);
    let broker = node.broker();
    let mut absent = broker.v5("absent").durable().connect();
    absent.subscribe("q", 1);
    absent.disconnect();
    let large = || message("q", &"x".repeat(3_000), 1);
    let kept = |topic: &str| Publish { retain: true, ..message(topic, "x", 1) };
    let mut from = broker.v5("from").connect();
    let taken = (0..100).take_while(|_| from.publish_code(large()) < 0x80).count();
    assert_eq!(taken, 65_536 / 3_001);
    assert_eq!(from.publish_code(large()), QUOTA_EXCEEDED);
    assert_eq!(from.publish_code(Publish { qos: 2, ..large() }), QUOTA_EXCEEDED);
    for topic in ["1", "2", "3"] {
        assert!(from.publish_code(kept(topic)) < 0x80);
    }
    assert_eq!(from.publish_code(kept("4")), QUOTA_EXCEEDED);
    assert!(from.publish_code(kept("3")) < 0x80, "replaced");
    for refused in [large(), kept("4")] {
        let mut four = broker.v4("four").connect();
        four.send_publish(refused);
        four.expect_closed();
    }
    let counted = metric(broker.http(), "hongqiao_writes_refused_total{cause=\"quota\"}");
    assert_eq!(counted, Some(6.0));
}

/// The status line of what is answered to these bytes.
fn http(broker: Broker, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(broker.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; 1_024];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn http_limits_when_passed_then_413_and_408() {
    let mut limits = LIMITS.to_vec();
    limits.push(("http.request_timeout", "1 s"));
    let node = Node::start_with(&limits);
    let broker = node.broker();
    let token = std::fs::read_to_string(node.data().join("admin.token")).unwrap();
    let head = format!(
        "PUT /api/v1/admin/users HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 2000\r\n\r\n",
        broker.http(),
        token.trim()
    );
    let answer = http(broker, &[head.as_bytes(), &[b' '; 2_000]].concat());
    assert!(answer.contains(" 413 "), "{answer}");
    let answer = http(broker, b"GET /healthz HTTP/1.1\r\nHost:");
    assert!(answer.contains(" 408 "), "{answer}");
}
