//! Retained messages: whoever subscribes sees the last one that was acknowledged, or a later one.
//!
//! - Owns: what keepers have set, and every broken promise. Takes: a world. Gives: two threads' work.
//! - Bound: one publish under way per topic; every wait has a time limit; readers that wait for the rest of what they
//!   asked for, one per `READ_PATIENCE`.
//! - A number whose connection was left before its answer may still reach the server later (the node was paused
//!   with the publish in a socket), so it may be seen again; all others must never go back.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    client::{Client, World},
    load::SETTLE,
};
use crate::support::{
    packet::{AckKind, Packet, Publish, Sub, Version, encode_subscribe},
    property::Props,
    wait::{let_pass, now},
};

const TOPICS: usize = 8;
const ACK_PATIENCE: Duration = Duration::from_secs(8);
/// Copies of a shard without a leader come later: a reader that has waited so long goes on waiting beside the next.
const READ_PATIENCE: Duration = Duration::from_secs(4);
/// How long a reader that waits beside others is listened to at a time.
const GLANCE: Duration = Duration::from_millis(1);
const PINGREQ: [u8; 2] = [0xC0, 0];

/// One retained topic.
#[derive(Clone, Debug, Default)]
struct Topic {
    /// Numbers from 1 on that were sent.
    sent: u64,
    /// The newest that was acknowledged.
    acked: u64,
    /// Sent over connections that ended without an answer.
    left: HashSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    topics: Vec<Topic>,
    pub(super) wrong: Vec<String>,
    pub(super) reads: u64,
    /// Reads that were not complete within `READ_PATIENCE`.
    pub(super) late: u64,
    /// Of these, how many were complete later; the connections of the others ended.
    pub(super) completed: u64,
}

/// One subscription, and what came of it.
struct Look {
    client: Client,
    /// The topics when it was asked for.
    before: Vec<Topic>,
    /// What came first of each topic.
    first: BTreeMap<usize, u64>,
    granted: bool,
    refused: bool,
    /// A ping was answered.
    answers: bool,
}

impl Look {
    /// Subscribes.
    fn begin(mut client: Client, before: Vec<Topic>) -> Self {
        let subs = [Sub::new("kept/+", 1)];
        let bytes = encode_subscribe(client.version(), 1, &subs, &Props::new());
        client.send(&bytes);
        let first = BTreeMap::new();
        Self { client, before, first, granted: false, refused: false, answers: false }
    }

    /// Topics that were acknowledged before and have not come.
    fn missing(&self) -> Vec<usize> {
        let before = self.before.iter().enumerate();
        let expected = before.filter(|(_, topic)| topic.acked > 0).map(|(number, _)| number);
        expected.filter(|number| !self.first.contains_key(number)).collect()
    }

    /// Nothing more is to be expected of it.
    fn is_over(&self) -> bool {
        self.refused || !self.client.is_connected() || self.missing().is_empty()
    }

    /// Takes what comes within `patience`, until it is over; `pause`: the longest wait for one packet.
    fn listen(&mut self, kept: &SharedKept, patience: Duration, pause: Duration) {
        let start = now();
        while !self.is_over() && start.elapsed() < patience {
            match self.client.receive(pause) {
                Some(Packet::Publish(publish)) => self.take(kept, &publish),
                Some(Packet::Suback { codes, .. }) => {
                    self.granted = codes.iter().all(|code| *code < 0x80);
                    self.refused = !self.granted;
                }
                Some(Packet::Pingresp) => self.answers = true,
                Some(_) => {}
                None if pause < patience => {}
                None => return,
            }
        }
    }

    fn take(&mut self, kept: &SharedKept, publish: &Publish) {
        let topic = publish.topic.trim_start_matches("kept/").parse::<usize>().unwrap();
        if self.first.contains_key(&topic) {
            return;
        }
        let number = publish.text().parse::<u64>().unwrap();
        self.first.insert(topic, number);
        let mut kept = kept.lock();
        let verdict = judge(&self.before[topic], &kept.topics[topic], number);
        kept.wrong.extend(verdict.map(|why| format!("RETAINED: topic {topic}: {why}")));
    }

    /// Says what is wrong with a subscription that is still there long after all faults.
    fn verdict(&self) -> Option<String> {
        let (missing, live) = (self.missing(), self.granted && self.answers && !self.is_over());
        live.then(|| format!("RETAINED: topics {missing:?} never came to who had its SUBACK"))
    }
}

/// Retained topics of one run.
#[derive(Clone)]
pub(super) struct SharedKept(Arc<Mutex<Kept>>);

impl Default for SharedKept {
    fn default() -> Self {
        let topics = vec![Topic::default(); TOPICS];
        Self(Arc::new(Mutex::new(Kept { topics, ..Kept::default() })))
    }
}

impl SharedKept {
    pub(super) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets one topic after the other until the world stops.
    pub(super) fn keep(&self, world: &World, seed: u64) {
        let mut client = Client::new(world, Version::V5, "keeper", false, seed);
        let mut turn = 0;
        while !world.is_stopped() {
            let topic = turn % TOPICS;
            turn += 1;
            self.lock().topics[topic].sent += 1;
            let number = self.lock().topics[topic].sent;
            while !self.set(&mut client, topic, number) && !world.is_stopped() {}
            let_pass(Duration::from_millis(20));
        }
    }

    /// Publishes one number; `false`: nobody has answered yet.
    fn set(&self, client: &mut Client, topic: usize, number: u64) -> bool {
        if !client.is_connected() && !client.connect(Duration::from_secs(5)) {
            return false;
        }
        let payload = number.to_string().into_bytes();
        let name = format!("kept/{topic}");
        let publish =
            Publish { topic: name, payload, qos: 1, retain: true, id: 1, ..Publish::default() };
        let bytes = publish.encode(client.version());
        if client.send(&bytes)
            && let Some(Packet::Ack { kind: AckKind::Puback, code, .. }) =
                client.receive(ACK_PATIENCE)
        {
            let mut kept = self.lock();
            if code < 0x80 {
                kept.topics[topic].acked = number;
            } else {
                kept.topics[topic].left.insert(number);
            }
            return true;
        }
        client.cut();
        self.lock().topics[topic].left.insert(number);
        false
    }

    /// Subscribes here and there until the world stops, and waits for the rest of what is missing then.
    pub(super) fn read(&self, world: &World, seed: u64) {
        let (mut number, mut waiting) = (0, Vec::new());
        while !world.is_stopped() {
            number += 1;
            let mut client =
                Client::new(world, Version::V5, &format!("reader{number}"), false, seed + number);
            if client.connect(READ_PATIENCE) {
                let look = self.look(client);
                let mut kept = self.lock();
                kept.reads += 1;
                if !look.missing().is_empty() {
                    kept.late += 1;
                    waiting.push(look);
                }
            }
            self.glance(&mut waiting);
            let_pass(Duration::from_millis(100));
        }
        let start = now();
        while !waiting.is_empty() && start.elapsed() < SETTLE {
            self.glance(&mut waiting);
            let_pass(Duration::from_millis(100));
        }
        for look in &mut waiting {
            // What it answered before says nothing of now.
            look.answers = false;
            look.client.send(&PINGREQ);
            look.listen(self, READ_PATIENCE, Duration::from_millis(200));
        }
        self.lock().wrong.extend(waiting.iter().filter_map(Look::verdict));
    }

    /// Listens to each reader that waits; those that are over go.
    fn glance(&self, waiting: &mut Vec<Look>) {
        for look in &mut *waiting {
            look.client.send(&PINGREQ);
            look.listen(self, GLANCE, GLANCE);
        }
        let (over, left): (Vec<_>, Vec<_>) = waiting.drain(..).partition(Look::is_over);
        *waiting = left;
        let completed = over.iter().filter(|look| look.missing().is_empty()).count();
        self.lock().completed += completed as u64;
    }

    /// After all faults every topic must come.
    pub(super) fn read_last(&self, world: &World) {
        let start = now();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut client = Client::new(world, Version::V5, &format!("last{tries}"), false, tries);
            if client.connect(READ_PATIENCE) && self.look(client).missing().is_empty() {
                return;
            }
            if start.elapsed() > SETTLE {
                self.lock().wrong.push("RETAINED: not all topics came at the end".to_owned());
                return;
            }
        }
    }

    /// Subscribes, and compares what comes first of each topic.
    fn look(&self, client: Client) -> Look {
        let before = self.lock().topics.clone();
        let mut look = Look::begin(client, before);
        look.listen(self, READ_PATIENCE, Duration::from_millis(200));
        look
    }
}

/// Says what is wrong with a number that was seen first after a subscription.
fn judge(before: &Topic, after: &Topic, number: u64) -> Option<String> {
    if number > after.sent {
        return Some(format!("{number} was never sent"));
    }
    let goes_back = number < before.acked && !after.left.contains(&number);
    goes_back.then(|| format!("{number} seen, {} was acknowledged before", before.acked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retained_when_older_than_acknowledged_then_wrong_unless_it_was_left() {
        let topic = Topic { sent: 9, acked: 7, left: HashSet::from([5]) };
        for (number, right) in [(7, true), (8, true), (9, true), (5, true), (6, false), (10, false)]
        {
            assert_eq!(judge(&topic, &topic, number).is_none(), right, "{number}");
        }
    }
}
