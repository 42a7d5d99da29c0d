//! `kill -9` of the real process at random points under load, and a check of the whole history.
//!
//! - Promises: NO-LOSS, ORDER, ONCE (QoS 2), SESSION-TRUE; retained messages too.
//! - Takes: `HONGQIAO_CRASH_ROUNDS` (default 3, `make crash` runs 50), `CRASH_SEED` for the times of the kills.
//! - A publish without its acknowledgement is *unknown*: it may be there or not, never out of order.

use std::{
    collections::{BTreeMap, HashSet},
    thread::JoinHandle,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    delivery::load::Pipeline,
    support::{
        broker::Broker,
        mqtt_client::{Client, Received, message},
        node::Node,
        packet::{Packet, Publish},
        wait::let_pass,
    },
};

const PUBLISHERS: usize = 4;
const SUBSCRIBERS: usize = 6;

/// What one publisher knows: it numbers its messages from 0, without gaps.
#[derive(Clone, Default)]
struct Sent {
    /// Numbers handed to the socket.
    sent: usize,
    /// Numbers that were acknowledged; within one connection always a prefix of what it sent.
    acked: HashSet<usize>,
}

/// What one subscriber has seen, over all its connections.
#[derive(Default)]
struct Seen {
    /// Publisher → numbers in the order of arrival.
    numbers: BTreeMap<usize, Vec<usize>>,
    /// QoS 2 ids received and not released, as a real client keeps them.
    unreleased: HashSet<u16>,
    /// The server has acknowledged the subscription once.
    subscribed: bool,
}

fn qos_of(publisher: usize) -> u8 {
    1 + (publisher % 2) as u8
}

/// Publishes until the node dies; odd publishers use QoS 2.
fn publish(broker: Broker, publisher: usize, mut known: Sent) -> Sent {
    let dial = broker.v5(&format!("from{publisher}"));
    let mut pipeline = Pipeline::new(&dial, 16);
    let first = known.sent;
    loop {
        let text = format!("{publisher}:{}", known.sent);
        let retained = known.sent % 10 == 9;
        let topic = format!("c/{publisher}");
        known.sent += 1;
        let mut goes_on = pipeline.send(message(&topic, &text, qos_of(publisher)));
        known.acked.extend(first..first + pipeline.acked);
        if goes_on && retained {
            goes_on = retain(&mut pipeline, publisher, &text);
            known.acked.extend(first..first + pipeline.acked);
        }
        if !goes_on {
            return known;
        }
    }
}

/// Keeps the newest number as a retained message; waits for everything before it.
fn retain(pipeline: &mut Pipeline, publisher: usize, text: &str) -> bool {
    if !pipeline.finish() {
        return false;
    }
    let numbered = pipeline.acked;
    let publish = Publish { retain: true, ..message(&format!("kept/{publisher}"), text, 1) };
    let kept = pipeline.send(publish) && pipeline.finish();
    pipeline.acked = numbered;
    kept
}

fn take(seen: &mut Seen, publish: &Publish) {
    let text = publish.text();
    let (publisher, number) = text.split_once(':').expect("a numbered message");
    let publisher = publisher.parse().unwrap();
    seen.numbers.entry(publisher).or_default().push(number.parse().unwrap());
}

/// Connects a subscriber as its last connection left it, and checks that the server remembers it.
fn subscriber(broker: Broker, name: usize, seen: &mut Seen) -> Client {
    let dial = broker.v5(&format!("to{name}")).durable().receive_maximum(40);
    let mut client = dial.connect();
    assert_eq!(client.connack.present, seen.subscribed, "session present of subscriber {name}");
    client.unreleased().extend(seen.unreleased.drain());
    if !seen.subscribed {
        // Half take everything by a wildcard, half each topic by its name; QoS 2 lets both through.
        if name.is_multiple_of(2) {
            client.subscribe("c/+", 2);
        } else {
            for publisher in 0..PUBLISHERS {
                client.subscribe(&format!("c/{publisher}"), 2);
            }
        }
        seen.subscribed = true;
    }
    client
}

/// Receives until the node dies or nothing comes for a while.
fn receive(mut client: Client, mut seen: Seen, patience: Duration) -> Seen {
    loop {
        match client.receive(patience) {
            Received::Packet(Packet::Publish(publish)) => take(&mut seen, &publish),
            Received::Packet(Packet::Disconnect { .. }) => {}
            Received::Packet(other) => panic!("{other:?}"),
            Received::Closed | Received::Nothing => break,
        }
    }
    seen.unreleased = std::mem::take(client.unreleased());
    seen
}

/// Checks what one subscriber has seen against what was sent.
fn check(name: usize, seen: &Seen, sent: &[Sent]) {
    for (publisher, known) in sent.iter().enumerate() {
        let numbers = seen.numbers.get(&publisher).cloned().unwrap_or_default();
        let context = format!("subscriber {name}, publisher {publisher}");
        let mut unique = HashSet::new();
        let mut highest = None;
        for number in &numbers {
            assert!(*number < known.sent, "{context}: {number} was never sent");
            if unique.insert(*number) {
                assert!(highest < Some(*number), "{context}: {number} after {highest:?}");
                highest = Some(*number);
            } else {
                assert_eq!(qos_of(publisher), 1, "{context}: QoS 2 message {number} came twice");
            }
        }
        let mut lost: Vec<&usize> =
            known.acked.iter().filter(|number| !unique.contains(number)).collect();
        lost.sort_unstable();
        let count = lost.len();
        lost.truncate(20);
        assert!(count == 0, "{context}: lost {count} of {} acked: {lost:?}", known.acked.len());
    }
}

/// The retained number of each publisher is at least the newest acknowledged one.
fn check_retained(broker: Broker, sent: &[Sent]) {
    let mut client = broker.v5("keeper").connect();
    client.subscribe("kept/#", 1);
    let mut kept: BTreeMap<usize, usize> = BTreeMap::new();
    while let Received::Packet(Packet::Publish(publish)) =
        client.receive(Duration::from_millis(700))
    {
        let text = publish.text();
        let (publisher, number) = text.split_once(':').unwrap();
        kept.insert(publisher.parse().unwrap(), number.parse().unwrap());
    }
    for (publisher, known) in sent.iter().enumerate() {
        // The retained copy of 9, 19, … was acknowledged before the next number was sent.
        let due = known.sent.checked_sub(1).and_then(|last| (0..last).rev().find(|n| n % 10 == 9));
        assert!(
            kept.get(&publisher).copied() >= due,
            "publisher {publisher}: {kept:?}, due {due:?}"
        );
    }
}

struct World {
    node: Node,
    sent: Vec<Sent>,
    seen: Vec<Option<Seen>>,
}

impl World {
    fn start(durability: &str) -> Self {
        let node = Node::start_with(&[
            ("storage.durability", durability),
            ("storage.checkpoint_bytes", "1 MiB"),
            ("quotas.session_messages_max", "10_000_000"),
        ]);
        let mut seen: Vec<Option<Seen>> = Vec::new();
        for name in 0..SUBSCRIBERS {
            let mut state = Seen::default();
            subscriber(node.broker(), name, &mut state).disconnect();
            seen.push(Some(state));
        }
        Self { node, sent: vec![Sent::default(); PUBLISHERS], seen }
    }

    /// One round of load with a kill at the end; returns once everybody has noticed.
    fn round(&mut self, round: usize, random: &mut StdRng) {
        let broker = self.node.broker();
        let publishers: Vec<JoinHandle<Sent>> = (0..PUBLISHERS)
            .map(|publisher| {
                let known = self.sent[publisher].clone();
                std::thread::spawn(move || publish(broker, publisher, known))
            })
            .collect();
        // A third stays away each time, another third each time.
        let mut readers = Vec::new();
        for name in (0..SUBSCRIBERS).filter(|name| name % 3 != round % 3) {
            let mut state = self.seen[name].take().unwrap();
            let client = subscriber(broker, name, &mut state);
            let patience = Duration::from_secs(30);
            readers.push((name, std::thread::spawn(move || receive(client, state, patience))));
        }
        // Sessions that begin in the middle of it: acknowledged means there afterwards.
        let joiner = std::thread::spawn(move || join_until_the_end(broker, round));
        let_pass(Duration::from_millis(random.random_range(100..1_200)));
        self.node.kill();
        for (publisher, handle) in publishers.into_iter().enumerate() {
            self.sent[publisher] = handle.join().unwrap();
        }
        for (name, handle) in readers {
            self.seen[name] = Some(handle.join().unwrap());
        }
        let joined = joiner.join().unwrap();
        self.node.launch();
        for id in joined {
            let client = self.node.broker().v5(&id).durable().connect();
            assert!(client.connack.present, "round {round}: session {id} was acknowledged");
        }
        check_retained(self.node.broker(), &self.sent);
    }

    fn finish(mut self) {
        let broker = self.node.broker();
        for name in 0..SUBSCRIBERS {
            let mut state = self.seen[name].take().unwrap();
            let client = subscriber(broker, name, &mut state);
            let state = receive(client, state, Duration::from_secs(3));
            check(name, &state, &self.sent);
        }
    }
}

/// Opens durable sessions until the node dies; returns those whose SUBACK came.
fn join_until_the_end(broker: Broker, round: usize) -> Vec<String> {
    let mut joined = Vec::new();
    for number in 0.. {
        let id = format!("joins{round}-{number}");
        let dial = broker.v5(&id).durable();
        let ended = std::panic::catch_unwind(|| {
            let mut client = dial.connect();
            client.subscribe("joins", 1);
        });
        if ended.is_err() {
            break;
        }
        joined.push(id);
        let_pass(Duration::from_millis(30));
    }
    joined
}

fn rounds() -> usize {
    std::env::var("HONGQIAO_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn crash_and_check(durability: &str) {
    let _turn = super::alone();
    if !crate::support::broker::broker().ours {
        return;
    }
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    eprintln!("CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::start(durability);
    for round in 0..rounds() {
        world.round(round, &mut random);
        let acked: usize = world.sent.iter().map(|known| known.acked.len()).sum();
        eprintln!("round {round}: {acked} acknowledged so far");
    }
    let acked: usize = world.sent.iter().map(|known| known.acked.len()).sum();
    assert!(acked > 100 * rounds(), "hardly any load: {acked} acknowledged");
    world.finish();
}

#[test]
fn kill_at_random_points_loses_nothing_acknowledged_in_os_mode() {
    crash_and_check("os");
}

#[test]
fn kill_at_random_points_loses_nothing_acknowledged_in_disk_mode() {
    crash_and_check("disk");
}
