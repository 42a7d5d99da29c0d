//! Retained messages: whoever subscribes sees the last one that was acknowledged, or a later one.
//!
//! - Owns: what keepers have set, and every broken promise. Takes: a world. Gives: two threads' work.
//! - Bound: one publish under way per topic; every wait has a time limit.
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
/// Copies of a shard without a leader come later; a reader does not wait longer while there are faults.
const READ_PATIENCE: Duration = Duration::from_secs(4);

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
    pub(super) late: u64,
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

    /// Subscribes here and there until the world stops.
    pub(super) fn read(&self, world: &World, seed: u64) {
        let mut number = 0;
        while !world.is_stopped() {
            number += 1;
            let mut client =
                Client::new(world, Version::V5, &format!("reader{number}"), false, seed + number);
            if client.connect(READ_PATIENCE) {
                let complete = self.look(&mut client, READ_PATIENCE);
                let mut kept = self.lock();
                kept.reads += 1;
                kept.late += u64::from(!complete);
            }
            let_pass(Duration::from_millis(100));
        }
    }

    /// After all faults every topic must come.
    pub(super) fn read_last(&self, world: &World) {
        let start = now();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut client = Client::new(world, Version::V5, &format!("last{tries}"), false, tries);
            if client.connect(READ_PATIENCE) && self.look(&mut client, READ_PATIENCE) {
                return;
            }
            if start.elapsed() > SETTLE {
                self.lock().wrong.push("RETAINED: not all topics came at the end".to_owned());
                return;
            }
        }
    }

    /// Subscribes, and compares what comes first of each topic; `false`: not all came.
    fn look(&self, client: &mut Client, patience: Duration) -> bool {
        let before = self.lock().topics.clone();
        let subs = [Sub::new("kept/+", 1)];
        let bytes = encode_subscribe(client.version(), 1, &subs, &Props::new());
        if !client.send(&bytes) {
            return true;
        }
        let expected = before.iter().filter(|topic| topic.acked > 0).count();
        let mut first = BTreeMap::new();
        let start = now();
        while first.len() < expected && start.elapsed() < patience && client.is_connected() {
            if let Some(Packet::Publish(publish)) = client.receive(Duration::from_millis(200)) {
                let topic = publish.topic.trim_start_matches("kept/").parse::<usize>().unwrap();
                first.entry(topic).or_insert_with(|| publish.text().parse::<u64>().unwrap());
            }
        }
        let mut kept = self.lock();
        for (topic, number) in &first {
            let verdict = judge(&before[*topic], &kept.topics[*topic], *number);
            kept.wrong.extend(verdict.map(|why| format!("RETAINED: topic {topic}: {why}")));
        }
        first.len() >= expected
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
