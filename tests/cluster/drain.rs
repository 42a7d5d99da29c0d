//! How long a publish waits when a node goes, measured by its clients and those of the others. NO-LOSS, section "Start and stop".
//!
//! Figures are printed; what is asserted is far above them, because the machine has other work, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    alone,
    load::{connect, dials},
};
use crate::support::{
    broker::Broker,
    cluster::Cluster,
    mqtt_client::{Received, message},
    packet::{AckKind, Packet, Version},
    property::SERVER_REFERENCE,
    wait::{let_pass, now},
};

/// "Use another server".
const USE_ANOTHER: u8 = 0x9C;
/// Sessions, each in a shard of its own choice: all shards of the cluster have some.
const TOPICS: usize = 16;
/// Clients of the victim.
const MOVERS: usize = 4;
const LOADED: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(8);
/// No publish that is acknowledged waits longer when a node drains; the aim is 2 s.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Nor when it is killed: 3 s to another leader are the aim.
const KILL_MAX: Duration = Duration::from_secs(10);
/// `shutdown.drain_timeout`, and what a busy machine adds.
const EXIT_MAX: Duration = Duration::from_secs(12);
const VICTIM: usize = 1;

/// One publish.
struct Publish {
    at: Instant,
    took: Duration,
    accepted: bool,
}

/// Publishes one after the other on one node, until told to stop.
fn publish(broker: Broker, topic: usize, stop: Arc<AtomicBool>) -> JoinHandle<Vec<Publish>> {
    let mut client = broker.v5(&format!("from{topic}")).connect();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let id = client.next_id();
            let mut publish = message(&format!("drain/{topic}"), "x", 1);
            publish.id = id;
            let at = now();
            assert!(client.send_raw(&publish.encode(client.version)), "the connection is kept");
            match client.receive(Duration::from_secs(20)) {
                Received::Packet(Packet::Ack { kind: AckKind::Puback, id: of, code, .. }) => {
                    assert_eq!(of, id);
                    all.push(Publish { at, took: at.elapsed(), accepted: code < 0x80 });
                }
                // It has no outcome, or nobody leads: its connection ends, so that it is sent again.
                Received::Packet(Packet::Disconnect { .. }) => {
                    all.push(Publish { at, took: at.elapsed(), accepted: false });
                    client = broker.v5(&format!("from{topic}")).connect();
                }
                other => panic!("wanted PUBACK, got {other:?} after {:?}", at.elapsed()),
            }
            let_pass(Duration::from_millis(10));
        }
        all
    })
}

/// As `publish`, of a client of the victim: it goes where it is let in, and sends again what has no outcome. A wait
/// is from the first sending to the acknowledgement.
fn publish_and_move(
    brokers: &[Broker],
    topic: usize,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Duration> {
    let dials = dials(brokers, VICTIM - 1, |broker| broker.v5(&format!("moves{topic}")));
    let mut client = connect(&dials);
    std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let at = now();
            loop {
                let id = client.next_id();
                let mut publish = message(&format!("drain/{topic}"), "x", 1);
                publish.id = id;
                client.send_raw(&publish.encode(client.version));
                match client.receive(Duration::from_secs(20)) {
                    Received::Packet(Packet::Ack {
                        kind: AckKind::Puback, id: of, code, ..
                    }) => {
                        assert_eq!((of, code < 0x80), (id, true), "{code:#x}");
                        break;
                    }
                    Received::Packet(Packet::Disconnect { .. }) | Received::Closed => {
                        client = connect(&dials);
                    }
                    other => panic!("wanted PUBACK, got {other:?} after {:?}", at.elapsed()),
                }
            }
            longest = longest.max(at.elapsed());
            let_pass(Duration::from_millis(10));
        }
        longest
    })
}

/// What clients have seen while `end` ended the victim.
struct Seen {
    /// By topic: from the end of the victim to the first success of a publish that was sent after it.
    first: Vec<Duration>,
    /// Of those that were accepted.
    longest: Duration,
    /// Of those whose clients had to move, with the way to another node.
    longest_moved: Duration,
    accepted: usize,
    refused: usize,
}

fn watch(cluster: &mut Cluster, end: impl FnOnce(&mut Cluster)) -> Seen {
    for topic in 0..TOPICS {
        let mut to = cluster.broker(2).v5(&format!("drains{topic}")).durable().connect();
        to.subscribe(&format!("drain/{topic}"), 1);
        to.disconnect();
    }
    let stop = Arc::<AtomicBool>::default();
    let publishers: Vec<_> = (0..TOPICS)
        .map(|topic| {
            let broker = cluster.broker(2 + topic % 2);
            publish(broker, topic, Arc::clone(&stop))
        })
        .collect();
    let brokers: Vec<Broker> = cluster.numbers().map(|number| cluster.broker(number)).collect();
    let movers: Vec<_> =
        (0..MOVERS).map(|topic| publish_and_move(&brokers, topic, Arc::clone(&stop))).collect();
    let_pass(LOADED);
    let led = cluster.report(VICTIM);
    let led = led["groups"].as_array().unwrap().iter().filter(|group| group["leader"] == VICTIM);
    assert!(led.count() > 0, "the victim leads");
    let ended = now();
    end(cluster);
    let_pass(AFTER.saturating_sub(ended.elapsed()));
    stop.store(true, Ordering::Relaxed);
    let all: Vec<_> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    let longest_moved = movers.into_iter().map(|thread| thread.join().unwrap()).max().unwrap();
    let first = |publishes: &Vec<Publish>| {
        let mut after = publishes.iter().filter(|publish| publish.at >= ended && publish.accepted);
        let first = after.next().expect("each shard takes messages again");
        (first.at + first.took).duration_since(ended)
    };
    let every = || all.iter().flatten().filter(|publish| publish.accepted);
    Seen {
        first: all.iter().map(first).collect(),
        longest: every().map(|publish| publish.took).max().unwrap(),
        longest_moved,
        accepted: every().count(),
        refused: all.iter().flatten().filter(|publish| !publish.accepted).count(),
    }
}

fn print(what: &str, seen: &Seen) {
    let slowest = seen.first.iter().max().unwrap();
    let Seen { longest, longest_moved, accepted, refused, .. } = seen;
    eprintln!(
        "{what}: the slowest shard acknowledged after {slowest:?}; the longest wait of an accepted publish \
         was {longest:?}, of clients that had to move {longest_moved:?}; {accepted} accepted, {refused} refused"
    );
}

#[test]
fn node_that_drains_under_load_delays_nothing_for_long() {
    let _turn = alone();
    let mut cluster =
        Cluster::start_with(3, &[("cluster.client_address", "elsewhere.example:1883")]);
    let mut guest = cluster.broker(VICTIM).v5("guest").durable().connect();
    let mut old = cluster.broker(VICTIM).dial(Version::V4, "old").durable().connect();
    old.subscribe("drain/#", 0);
    let mut took = Duration::ZERO;
    let seen = watch(&mut cluster, |cluster| {
        let start = now();
        // Also: the exit code is 0.
        cluster.stop(VICTIM);
        took = start.elapsed();
    });
    print(&format!("SIGTERM, {took:?} until the process was gone"), &seen);
    assert!(took < EXIT_MAX, "{took:?}");
    assert!(seen.longest < DRAIN_MAX, "{:?}", seen.longest);
    assert!(seen.longest_moved < EXIT_MAX, "{:?}", seen.longest_moved);
    assert_eq!(seen.refused, 0, "a drain refuses nobody");
    let told = guest.wait_for("DISCONNECT", |packet| match packet {
        Packet::Disconnect { code, props, .. } => Some((*code, props.clone())),
        _ => None,
    });
    assert_eq!(told.0, USE_ANOTHER);
    assert_eq!(told.1.get_text(SERVER_REFERENCE), Some("elsewhere.example:1883"));
    // 3.1.1 has no word for it: whole packets, then the end.
    old.expect_publish();
    old.expect_closed();
}

#[test]
fn node_that_is_killed_under_load_is_replaced_as_leader_in_time() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let seen = watch(&mut cluster, |cluster| cluster.kill(VICTIM));
    print("kill -9", &seen);
    assert!(*seen.first.iter().max().unwrap() < KILL_MAX, "{:?}", seen.first);
}
