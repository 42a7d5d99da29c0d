//! The load: publishers with QoS 1 and 2 and durable subscribers, on whichever node takes them.
//!
//! - Owns: nothing between runs. Takes: a world. Gives: each thread's part of the history.
//! - Bound: a publisher has at most `WINDOW` messages under way; every wait has a time limit.
//! - Publishers send again what was not acknowledged, in its order, before anything new.
//! - Those with QoS 2 have a durable session, or a packet id would mean nothing on the next connection.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;

use super::{
    client::{Client, World},
    history::{Kind, Seen, Sent},
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

/// One message that is not done with.
#[derive(Clone, Copy)]
struct UnderWay {
    number: u64,
    id: u16,
    /// PUBREC has come: only PUBREL is sent from now on.
    received: bool,
}

struct Publisher {
    world: World,
    client: Client,
    number: usize,
    qos: u8,
    sent: Sent,
    /// In order.
    under_way: VecDeque<UnderWay>,
    next_id: u16,
}

/// Publishes until the world stops, then until everything is acknowledged.
pub(super) fn publish(
    world: &World,
    number: usize,
    kind: Kind,
    seed: u64,
    pause: Duration,
) -> Sent {
    let qos = if kind == Kind::ExactlyOnce { 2 } else { 1 };
    let mut publisher = Publisher {
        world: world.clone(),
        client: Client::new(world, version(number), &format!("from{number}"), qos == 2, seed),
        number,
        qos,
        sent: Sent { kind, ..Sent::default() },
        under_way: VecDeque::new(),
        next_id: 1,
    };
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
            let under_way =
                UnderWay { number: self.sent.sent, id: self.take_id(), received: false };
            self.sent.sent += 1;
            self.under_way.push_back(under_way);
            if !self.send(under_way, false) {
                return;
            }
        }
        let full = self.under_way.len() >= WINDOW || !new;
        let patience = if full { ACK_PATIENCE } else { Duration::from_millis(1) };
        match self.client.receive(patience) {
            Some(Packet::Ack { kind, id, code, .. }) => self.acknowledged(kind, id, code),
            Some(Packet::Disconnect { .. }) => self.client.cut(),
            None if full => self.client.cut(),
            _ => {}
        }
    }

    /// Connects and sends again what is not acknowledged.
    fn resume(&mut self) -> bool {
        let known = self.client.connections > 0;
        if !self.client.connect(Duration::from_secs(5)) {
            return false;
        }
        if self.qos == 2 && known && !self.client.present {
            self.sent.sessions_lost += 1;
        }
        self.under_way.clone().into_iter().all(|under_way| self.send(under_way, true))
    }

    fn send(&mut self, under_way: UnderWay, dup: bool) -> bool {
        let UnderWay { number, id, received } = under_way;
        let version = self.client.version();
        if received {
            return self.client.send(&encode_ack(version, AckKind::Pubrel, id, 0));
        }
        let publish = Publish {
            topic: format!("chaos/{}", self.number),
            payload: format!("{}:{number}", self.number).into_bytes(),
            qos: self.qos,
            dup,
            id,
            ..Publish::default()
        };
        self.client.send(&publish.encode(version))
    }

    fn take_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    fn acknowledged(&mut self, kind: AckKind, id: u16, code: u8) {
        let Some(at) = self.under_way.iter().position(|known| known.id == id) else { return };
        let UnderWay { number, received, .. } = self.under_way[at];
        match kind {
            AckKind::Puback | AckKind::Pubrec if code >= 0x80 => {
                // Sent again it would come behind its successors.
                self.under_way.remove(at);
                self.sent.refused += u64::from(!received);
            }
            AckKind::Puback => {
                self.under_way.remove(at);
                self.success(number);
            }
            AckKind::Pubrec => {
                self.under_way[at].received = true;
                self.success(number);
                self.send(self.under_way[at], false);
            }
            AckKind::Pubcomp => {
                self.under_way.remove(at);
            }
            AckKind::Pubrel => {}
        }
    }

    fn success(&mut self, number: u64) {
        self.sent.acked.insert(number);
        self.world.pulse().beat(now());
    }
}

/// What one subscriber has so far; read while it goes on.
pub(super) type SharedSeen = Arc<Mutex<Seen>>;

/// Makes the session, so that what is published from now on is for it.
pub(super) fn open(world: &World, number: usize) {
    let mut client = subscriber(world, number, number as u64);
    assert!(client.connect(Duration::from_secs(20)), "no node takes subscriber {number}");
    let qos = subscribed_qos(number);
    let bytes = encode_subscribe(client.version(), 1, &[Sub::new("chaos/+", qos)], &Props::new());
    assert!(client.send(&bytes));
    match client.receive(Duration::from_secs(10)) {
        Some(Packet::Suback { codes, .. }) => assert_eq!(codes, [qos]),
        other => panic!("subscriber {number}: wanted SUBACK, got {other:?}"),
    }
}

/// Two of three subscribe with QoS 2, one with QoS 1.
fn subscribed_qos(number: usize) -> u8 {
    if number.is_multiple_of(3) { 1 } else { 2 }
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
    lock(seen).exactly_once = subscribed_qos(number) == 2;
    let mut hop = now();
    let mut stay = Duration::ZERO;
    // Packet ids of QoS 2 that the server has not released; they outlive a connection.
    let mut unreleased = HashSet::new();
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
                unreleased.clear();
            }
        }
        match client.receive(Duration::from_millis(200)) {
            Some(Packet::Publish(publish)) => {
                let kind = if publish.qos == 2 { AckKind::Pubrec } else { AckKind::Puback };
                if publish.qos < 2 || unreleased.insert(publish.id) {
                    note(seen, &publish);
                }
                let ack = encode_ack(client.version(), kind, publish.id, 0);
                client.send(&ack);
            }
            Some(Packet::Ack { kind: AckKind::Pubrel, id, .. }) => {
                unreleased.remove(&id);
                let ack = encode_ack(client.version(), AckKind::Pubcomp, id, 0);
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
