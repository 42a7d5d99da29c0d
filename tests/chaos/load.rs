//! The load: publishers with QoS 1 and durable subscribers, on whichever node takes them.
//!
//! - Owns: nothing between runs. Takes: a world. Gives: each thread's part of the history.
//! - Bound: a publisher has at most `WINDOW` messages under way; every wait has a time limit.
//! - Publishers send again what was not acknowledged, in its order, before anything new.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;

use super::{
    client::{Client, World},
    history::{Seen, Sent},
};
use crate::support::{
    packet::{AckKind, Packet, Publish, Sub, Version, encode_ack, encode_subscribe},
    property::Props,
    wait::{let_pass, now},
};

const WINDOW: usize = 16;
/// A connection without an acknowledgement for so long is left.
const ACK_PATIENCE: Duration = Duration::from_secs(8);
/// From the end of all faults until everything must be there.
pub(super) const SETTLE: Duration = Duration::from_secs(60);

/// Both protocol versions take turns.
fn version(number: usize) -> Version {
    if number.is_multiple_of(2) { Version::V5 } else { Version::V4 }
}

struct Publisher {
    client: Client,
    number: usize,
    sent: Sent,
    /// Number and packet id, in order.
    under_way: VecDeque<(u64, u16)>,
    next_id: u16,
}

/// Publishes until the world stops, then until everything is acknowledged.
pub(super) fn publish(world: &World, number: usize, seed: u64, pause: Duration) -> Sent {
    let client = Client::new(world, version(number), &format!("from{number}"), false, seed);
    let sent = Sent::default();
    let under_way = VecDeque::new();
    let mut publisher = Publisher { client, number, sent, under_way, next_id: 1 };
    while !world.is_stopped() {
        publisher.step(true);
        let_pass(pause);
    }
    let stopped = now();
    while !publisher.under_way.is_empty() && stopped.elapsed() < SETTLE {
        publisher.step(false);
    }
    publisher.sent
}

impl Publisher {
    fn step(&mut self, new: bool) {
        if !self.client.is_connected() && !self.resume() {
            return;
        }
        if new && self.under_way.len() < WINDOW {
            let number = self.sent.sent;
            self.sent.sent += 1;
            let id = self.take_id();
            self.under_way.push_back((number, id));
            if !self.send(number, id, false) {
                return;
            }
        }
        let full = self.under_way.len() >= WINDOW || !new;
        let patience = if full { ACK_PATIENCE } else { Duration::from_millis(1) };
        match self.client.receive(patience) {
            Some(Packet::Ack { kind: AckKind::Puback, id, code, .. }) => {
                self.acknowledged(id, code);
            }
            Some(Packet::Disconnect { .. }) => self.client.cut(),
            None if full => self.client.cut(),
            _ => {}
        }
    }

    /// Connects and sends again what is not acknowledged.
    fn resume(&mut self) -> bool {
        if !self.client.connect(Duration::from_secs(5)) {
            return false;
        }
        for (number, id) in self.under_way.clone() {
            if !self.send(number, id, true) {
                return false;
            }
        }
        true
    }

    fn send(&mut self, number: u64, id: u16, dup: bool) -> bool {
        let publish = Publish {
            topic: format!("chaos/{}", self.number),
            payload: format!("{}:{number}", self.number).into_bytes(),
            qos: 1,
            dup,
            id,
            ..Publish::default()
        };
        let bytes = publish.encode(self.client.version());
        self.client.send(&bytes)
    }

    fn take_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    fn acknowledged(&mut self, id: u16, code: u8) {
        let Some(at) = self.under_way.iter().position(|(_, known)| *known == id) else { return };
        let Some((number, _)) = self.under_way.remove(at) else { return };
        if code < 0x80 {
            self.sent.acked.insert(number);
        } else {
            // Sent again it would come behind its successors.
            self.sent.refused += 1;
        }
    }
}

/// What one subscriber has so far; read while it goes on.
pub(super) type SharedSeen = Arc<Mutex<Seen>>;

/// Makes the session, so that what is published from now on is for it.
pub(super) fn open(world: &World, number: usize) {
    let mut client = subscriber(world, number, number as u64);
    assert!(client.connect(Duration::from_secs(20)), "no node takes subscriber {number}");
    let subs = [Sub::new("chaos/+", 1)];
    let bytes = encode_subscribe(client.version(), 1, &subs, &Props::new());
    assert!(client.send(&bytes));
    match client.receive(Duration::from_secs(10)) {
        Some(Packet::Suback { codes, .. }) => assert_eq!(codes, [1]),
        other => panic!("subscriber {number}: wanted SUBACK, got {other:?}"),
    }
}

fn subscriber(world: &World, number: usize, seed: u64) -> Client {
    Client::new(world, version(number / 2), &format!("to{number}"), true, seed)
}

/// Receives until `ended`, on one node after the other.
pub(super) fn receive(
    world: &World,
    number: usize,
    seed: u64,
    seen: &SharedSeen,
    ended: &dyn Fn() -> bool,
) {
    let mut client = subscriber(world, number, seed);
    let mut hop = now();
    let mut stay = Duration::ZERO;
    while !ended() {
        if !client.is_connected() || hop.elapsed() > stay {
            client.cut();
            if !client.connect(Duration::from_secs(2)) {
                continue;
            }
            hop = now();
            stay = Duration::from_millis(client.random.random_range(2_000..15_000));
            if !client.present {
                lock(seen).sessions_lost += 1;
            }
        }
        match client.receive(Duration::from_millis(200)) {
            Some(Packet::Publish(publish)) => {
                note(seen, &publish);
                let ack = encode_ack(client.version(), AckKind::Puback, publish.id, 0);
                client.send(&ack);
            }
            Some(Packet::Disconnect { .. }) => client.cut(),
            _ => {}
        }
    }
}

pub(super) fn lock(seen: &SharedSeen) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(seen: &SharedSeen, publish: &Publish) {
    let text = publish.text();
    let (publisher, number) = text.split_once(':').expect("a numbered message");
    lock(seen).note(publisher.parse().unwrap(), number.parse().unwrap());
}
