//! A load of QoS 1 on any node, and the check that nothing acknowledged is lost. Promises NO-LOSS, ORDER.
//!
//! - Owns: nothing between tests. Takes: where nodes listen. Gives: what was sent and what was seen, or a panic.
//! - Bound: `PUBLISHERS` with `WINDOW` messages under way each; every wait has a time limit.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::support::{
    broker::Broker,
    cluster::Cluster,
    dial::Dial,
    mqtt_client::{Client, Received, message},
    packet::{AckKind, Packet},
    wait::{SILENCE, let_pass, now},
};

/// A load that runs.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<std::sync::Mutex<Option<Vec<Sent>>>>,
    publishers: Vec<JoinHandle<Sent>>,
    readers: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Makes a durable session for each node, and publishes to them from now on.
    pub(super) fn start(cluster: &Cluster) -> Self {
        let brokers: Vec<Broker> = cluster.numbers().map(|number| cluster.broker(number)).collect();
        for (name, broker) in brokers.iter().enumerate() {
            let mut to = broker.v5(&format!("to{name}")).durable().connect();
            to.subscribe("c/+", 1);
            to.disconnect();
        }
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::default());
        let readers = (0..brokers.len())
            .map(|name| receive_until_whole(brokers.clone(), name, Arc::clone(&sent)))
            .collect();
        let publishers = (0..PUBLISHERS)
            .map(|publisher| publish(brokers.clone(), publisher, Arc::clone(&stop)))
            .collect();
        Self { stop, sent, publishers, readers }
    }

    /// Ends it and checks; returns how many publishes were acknowledged.
    pub(super) fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.publishers.into_iter().map(|handle| handle.join().unwrap());
        let all: Vec<Sent> = all.collect();
        let acked = all.iter().map(|known| known.acked.len()).sum();
        *self.sent.lock().unwrap() = Some(all);
        let seen: Vec<_> = self.readers.into_iter().map(|handle| handle.join().unwrap()).collect();
        let all = self.sent.lock().unwrap().take().unwrap();
        for (name, seen) in seen.iter().enumerate() {
            check(name, &all, seen);
        }
        acked
    }
}

/// How long a client tries to come back, and how long it waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const PUBLISHERS: usize = 3;
pub(super) const WINDOW: usize = 16;

/// Connects to the first node that takes the client.
pub(super) fn connect(dials: &[Dial]) -> Client {
    let start = now();
    loop {
        if let Some(client) = dials.iter().find_map(Dial::try_connect) {
            return client;
        }
        assert!(start.elapsed() < PATIENCE, "nobody takes the client");
        let_pass(Duration::from_millis(50));
    }
}

/// The nodes, a different one first for each client.
pub(super) fn dials(brokers: &[Broker], first: usize, dial: impl Fn(&Broker) -> Dial) -> Vec<Dial> {
    (0..brokers.len()).map(|at| dial(&brokers[(first + at) % brokers.len()])).collect()
}

/// What one publisher has sent, and what of it was acknowledged.
#[derive(Default)]
pub(super) struct Sent {
    sent: usize,
    pub(super) acked: HashSet<usize>,
}

/// Publishes numbers, in order, until told to stop; goes on elsewhere when its connection ends.
pub(super) fn publish(
    brokers: Vec<Broker>,
    publisher: usize,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Sent> {
    std::thread::spawn(move || {
        let mut known = Sent::default();
        let dials = dials(&brokers, publisher, |broker| broker.v5(&format!("from{publisher}")));
        while !stop.load(Ordering::Relaxed) {
            publish_once(&mut connect(&dials), publisher, &mut known, &stop);
        }
        known
    })
}

/// One connection of a publisher.
fn publish_once(client: &mut Client, publisher: usize, known: &mut Sent, stop: &AtomicBool) {
    let mut open = BTreeMap::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if !stopping && open.len() < WINDOW {
            let (id, text) = (client.next_id(), format!("{publisher}:{}", known.sent));
            let mut publish = message(&format!("c/{publisher}"), &text, 1);
            publish.id = id;
            open.insert(id, known.sent);
            known.sent += 1;
            if !client.send_raw(&publish.encode(client.version)) {
                return;
            }
        } else if open.is_empty() {
            return;
        }
        let wait = if open.len() < WINDOW && !stopping { 2 } else { 20_000 };
        match client.receive(Duration::from_millis(wait)) {
            Received::Packet(Packet::Ack { kind: AckKind::Puback, id, code, .. }) => {
                let number = open.remove(&id).expect("an acknowledgement of what was sent");
                if code < 0x80 {
                    known.acked.insert(number);
                }
            }
            Received::Packet(Packet::Disconnect { .. }) | Received::Closed => return,
            Received::Packet(other) => panic!("{other:?}"),
            Received::Nothing => assert!(wait < 100, "{} publishes hang", open.len()),
        }
    }
}

/// Reads a durable session on whatever node there is until everything that was acknowledged has come.
fn receive_until_whole(
    brokers: Vec<Broker>,
    first: usize,
    sent: Arc<std::sync::Mutex<Option<Vec<Sent>>>>,
) -> JoinHandle<Seen> {
    read(brokers, first, "to", move |seen, silence| {
        let sent = sent.lock().unwrap();
        let whole = sent.as_ref().is_some_and(|sent| lost(sent, seen).is_empty());
        whole || (sent.is_some() && silence.since_message > PATIENCE)
    })
}

/// The numbers that came of each publisher.
pub(super) type Seen = BTreeMap<usize, Vec<usize>>;

/// For how long nothing has come.
pub(super) struct Silence {
    pub(super) since_message: Duration,
    pub(super) since_connect: Duration,
}

/// Reads the durable session of a name with a number on whatever node there is, until nothing comes and `is_done`.
pub(super) fn read(
    brokers: Vec<Broker>,
    first: usize,
    name: &'static str,
    is_done: impl Fn(&Seen, &Silence) -> bool + Send + 'static,
) -> JoinHandle<Seen> {
    std::thread::spawn(move || {
        let mut seen = Seen::new();
        let dials = dials(&brokers, first, |broker| broker.v5(&format!("{name}{first}")).durable());
        let mut client = connect(&dials);
        let (mut last, mut connected) = (now(), now());
        loop {
            match client.receive(SILENCE) {
                Received::Packet(Packet::Publish(publish)) => {
                    let text = publish.text();
                    let (publisher, number) = text.split_once(':').expect("a numbered message");
                    let list = seen.entry(publisher.parse().unwrap()).or_default();
                    list.push(number.parse().unwrap());
                    last = now();
                }
                Received::Packet(Packet::Disconnect { .. }) => {}
                Received::Packet(other) => panic!("{other:?}"),
                Received::Closed => {
                    client = connect(&dials);
                    assert!(client.connack.present, "the session of {name}{first} is lost");
                    connected = now();
                }
                Received::Nothing => {
                    let (since_message, since_connect) = (last.elapsed(), connected.elapsed());
                    if is_done(&seen, &Silence { since_message, since_connect }) {
                        return seen;
                    }
                }
            }
        }
    })
}

/// What was acknowledged and has not come.
pub(super) fn lost(sent: &[Sent], seen: &Seen) -> Vec<(usize, usize)> {
    let came = |publisher, number: &usize| {
        seen.get(&publisher).is_some_and(|numbers: &Vec<usize>| numbers.contains(number))
    };
    let missing = sent.iter().enumerate().flat_map(|(publisher, known)| {
        let missing = known.acked.iter().filter(move |number| !came(publisher, number));
        missing.map(move |number| (publisher, *number))
    });
    missing.collect()
}

fn check(name: usize, sent: &[Sent], seen: &Seen) {
    let lost = lost(sent, seen);
    let acked: usize = sent.iter().map(|known| known.acked.len()).sum();
    assert!(lost.is_empty(), "to{name} lost {} of {acked}: {:?}", lost.len(), &lost[..1]);
    for (publisher, numbers) in seen {
        let (mut unique, mut highest) = (HashSet::new(), None);
        for number in numbers.iter().filter(|number| unique.insert(**number)) {
            assert!(highest < Some(*number), "to{name}: {publisher}:{number} after {highest:?}");
            highest = Some(*number);
        }
    }
}
