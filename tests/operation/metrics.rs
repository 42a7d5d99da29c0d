//! `/metrics`: every family is filled by what really happens, and every refusal is counted by its cause.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use hongqiao::metrics::METRICS;

use crate::support::{
    broker::Broker,
    http_client::{get, metric},
    mqtt_client::message,
    node::Node,
    packet::{Packet, Publish},
    property::{MESSAGE_EXPIRY, Props},
    wait::{PATIENCE, now, wait_until},
};

const QUOTA_EXCEEDED: u8 = 0x97;

/// What no healthy node counts; `disk_that_fails...` and unit tests fill these.
const TROUBLE: [&str; 2] = ["hongqiao_handler_panics_total", "hongqiao_disk_retries_total"];

/// What a node counts that is not alone.
const COMPANY: [&str; 5] = [
    "hongqiao_routes",
    "hongqiao_relay_bytes",
    "hongqiao_groups_leaderless",
    "hongqiao_follower_lag_entries",
    "hongqiao_links",
];

/// Names (with labels) of all samples of a page that are not zero.
fn counted(broker: Broker) -> BTreeSet<String> {
    let (status, page) = get(broker.http(), "/metrics");
    assert_eq!(status, 200);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = samples.filter_map(|line| line.rsplit_once(' '));
    let some = pairs.filter(|(_, value)| value.parse::<f64>().unwrap() > 0.0);
    some.map(|(name, _)| name.to_owned()).collect()
}

fn absent(broker: Broker, id: &str, filter: &str) {
    let mut to = broker.v5(id).durable().connect();
    to.subscribe(filter, 1);
    to.disconnect();
}

/// Publishes until it is refused.
fn until_refused(broker: Broker, topic: &str) {
    let mut from = broker.v5("filler").connect();
    let publish = || Publish { payload: vec![b'x'; 64 * 1_024], ..message(topic, "", 1) };
    let refused = (0..50).any(|_| from.publish_code(publish()) == QUOTA_EXCEEDED);
    assert!(refused, "{topic} is never full");
    from.disconnect();
}

/// Does once whatever has a counter, but for what needs a failing disk.
fn provoke(broker: Broker) {
    // Each QoS both ways, over TCP and WebSocket.
    let mut to = broker.v5("to").websocket().connect();
    to.subscribe("a", 2);
    let mut from = broker.v5("from").connect();
    for qos in 0..3 {
        from.publish("a", "x", qos);
    }
    to.expect_texts(3);
    from.retain("kept", "x", 1);
    absent(broker, "absent", "queue");
    from.publish("queue", "x", 1);
    // Drops: past its expiry, too large for one receiver, an outbox that is full, a queue that is full.
    let expired = Props::new().number(MESSAGE_EXPIRY, 0);
    from.publish_with(Publish { props: expired, ..message("a", "x", 0) });
    let mut small = broker.v5("small").packet_bytes_max(64).connect();
    small.subscribe("large", 0);
    from.publish("large", &"x".repeat(100), 0);
    let mut stuck = broker.v5("stuck").receive_maximum(1).manual().connect();
    stuck.subscribe("stuck", 1);
    let mut slow = broker.v5("slow").connect();
    slow.subscribe("slow", 0);
    for _ in 0..80 {
        from.publish("stuck", "x", 1);
    }
    stuck.expect_disconnect(&[QUOTA_EXCEEDED]);
    for _ in 0..400 {
        from.send_publish(Publish { payload: vec![0; 64 * 1_024], ..message("slow", "", 0) });
    }
    from.ping();
    absent(broker, "full", "full");
    for _ in 0..30 {
        from.publish("full", "x", 1);
    }
    // Refused: over the app's quota; one connection more than the listener takes.
    absent(broker, "greedy", "greedy");
    until_refused(broker, "greedy");
    let mut others: Vec<_> = (0..24).map(|n| broker.v5(&format!("more{n}")).open()).collect();
    wait_until("one is refused", || {
        others.iter_mut().any(|client| !client.send_raw(&[0xC0, 0]))
            || metric(broker.http(), "hongqiao_connections_refused_total").unwrap() > 0.0
    });
}

#[test]
fn every_metric_is_filled_by_what_happens() {
    let node = Node::start_with(&[
        ("limits.connections_max", "20"),
        ("limits.outbound_messages_max", "64"),
        ("quotas.session_messages_max", "20"),
        ("quotas.session_bytes_max", "1 MiB"),
        ("quotas.app_bytes_max", "1 MiB"),
    ]);
    let broker = node.broker();
    provoke(broker);
    // Gauges of what is under way are zero most of the time: seen while there is traffic.
    let done = AtomicBool::new(false);
    let mut seen = counted(broker);
    let causes = ["slow", "too_large", "expired", "overflow", "queue_full"]
        .map(|cause| format!("hongqiao_messages_dropped_total{{cause=\"{cause}\"}}"));
    let directions = ["in", "out"].into_iter().flat_map(|direction| {
        let bytes = format!("hongqiao_network_bytes_total{{direction=\"{direction}\"}}");
        let qos = (0..3).map(move |qos| {
            format!("hongqiao_messages_total{{direction=\"{direction}\",qos=\"{qos}\"}}")
        });
        qos.chain([bytes])
    });
    let mut wanted: Vec<String> = causes.into_iter().chain(directions).collect();
    wanted.push("hongqiao_writes_refused_total{cause=\"quota\"}".to_owned());
    let names = METRICS.iter().map(|metric| metric.name());
    let rests = |name: &str| TROUBLE.contains(&name) || COMPANY.contains(&name);
    wanted.extend(names.filter(|name| !rests(name)));
    let missing = |seen: &BTreeSet<String>| -> Vec<String> {
        let is_seen = |name: &String| {
            let rest = |found: &String| found.strip_prefix(name.as_str()).map(str::to_owned);
            seen.iter()
                .filter_map(rest)
                .any(|rest| rest.is_empty() || rest.starts_with('{') || rest.starts_with("_count"))
        };
        wanted.iter().filter(|name| !is_seen(name)).cloned().collect()
    };
    let mut subscriber = broker.v5("subscriber").connect();
    subscriber.subscribe("nothing", 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut from = broker.v5("busy").connect();
            while !done.load(Ordering::Relaxed) {
                from.publish_code(message("full", "x", 1));
            }
        });
        let start = now();
        while !missing(&seen).is_empty() && start.elapsed() < PATIENCE {
            seen.extend(counted(broker));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(missing(&seen), Vec::<String>::new());
}

/// A limit on the size of files stands for a disk that refuses to write; lifting it, for the disk's repair.
#[test]
fn disk_that_fails_then_writes_are_refused_and_counted_until_it_works_again() {
    let limited = "trap '' XFSZ; ulimit -S -f 3000; exec \"$@\"";
    let node = Node::start_under(&["sh", "-c", limited, "sh"], &[("storage.durability", "os")]);
    let (broker, http) = (node.broker(), node.broker().http());
    absent(broker, "absent", "a");
    let mut live = broker.v5("live").connect();
    live.subscribe("live", 0);
    let mut from = broker.v5("from").connect();
    let large = || Publish { payload: vec![b'x'; 64 * 1_024], ..message("a", "", 1) };
    // Of the write that met the end the outcome is unknown after 5 s, which ends its connection; those behind it
    // were not written.
    let answer = |_| {
        from.send_publish(large());
        from.wait_for("an answer", |packet| match packet {
            Packet::Ack { code, .. } | Packet::Disconnect { code, .. } => Some(*code),
            _ => None,
        })
    };
    let refused = (0..200).map(answer).find(|code| *code >= 0x80);
    assert!(matches!(refused, Some(QUOTA_EXCEEDED | 0x80)), "{refused:x?}");
    let mut from = broker.v5("from").connect();
    wait_until("the publisher is told why", || from.publish_code(large()) == QUOTA_EXCEEDED);
    assert_eq!(metric(http, "hongqiao_disk_writable "), Some(0.0));
    assert_eq!(get(http, "/readyz").0, 503);
    assert_eq!(get(http, "/healthz").0, 200);
    let failing = "hongqiao_writes_refused_total{cause=\"disk_failing\"}";
    assert!(metric(http, failing).unwrap() > 0.0);
    assert!(metric(http, "hongqiao_disk_retries_total").unwrap() > 0.0);
    from.publish("live", "goes on", 0);
    assert_eq!(live.expect_publish().text(), "goes on");
    let status = Command::new("prlimit")
        .args(["--fsize=unlimited", "--pid", &node.pid().to_string()])
        .status();
    assert!(status.unwrap().success(), "prlimit is part of util-linux");
    wait_until("it writes again", || metric(http, "hongqiao_disk_writable ") == Some(1.0));
    assert!(from.publish_code(large()) < 0x80);
    assert_eq!(get(http, "/readyz").0, 200);
}
