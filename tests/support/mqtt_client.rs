//! A test client with control over each packet, and an oracle for what a server may send.
//!
//! - Owns: one connection, the packets that came and were not asked for yet.
//! - Takes: calls of a test. Gives: packets; a panic where the server breaks a rule of the
//!   specification that holds everywhere (framing, packet ids in use, codes).
//! - Blocks: the test's thread, at most `wait::PATIENCE`.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use super::{
    dial::Dial,
    packet::{
        AckKind, Packet, Publish, Sub, Version, decode, encode_ack, encode_disconnect,
        encode_subscribe, encode_unsubscribe, packet_bytes,
    },
    property::Props,
    wait::{PATIENCE, SILENCE, now},
    wire::{Came, Wire},
};

/// CONNACK.
#[derive(Clone, Debug)]
pub(crate) struct Connack {
    pub(crate) present: bool,
    pub(crate) code: u8,
    pub(crate) props: Props,
}

/// A connected (or refused) client.
pub(crate) struct Client {
    wire: Box<dyn Wire>,
    pub(crate) version: Version,
    pub(crate) connack: Connack,
    /// How long whatever must come may take.
    pub(crate) patience: Duration,
    /// Answer PUBLISH and PUBREL as the specification wants.
    auto_ack: bool,
    bytes: Vec<u8>,
    read_to: usize,
    queue: VecDeque<Packet>,
    closed: bool,
    next_id: u16,
    /// Packet ids the server uses towards us.
    in_use: HashSet<u16>,
    /// QoS 2 publishes received and not yet released.
    unreleased: HashSet<u16>,
}

/// What `Client::receive` found.
#[derive(Debug)]
pub(crate) enum Received {
    Packet(Packet),
    Closed,
    Nothing,
}

impl Client {
    /// Sends `first` and nothing else; the connection has no CONNACK yet.
    pub(super) fn open(wire: Box<dyn Wire>, dial: &Dial) -> Self {
        Self {
            wire,
            version: dial.connect.version,
            connack: Connack { present: false, code: 0xFF, props: Props::new() },
            patience: PATIENCE,
            auto_ack: dial.auto_ack,
            bytes: Vec::new(),
            read_to: 0,
            queue: VecDeque::new(),
            closed: false,
            next_id: 1,
            in_use: HashSet::new(),
            unreleased: HashSet::new(),
        }
    }

    /// Reads CONNACK, which must be the first packet.
    pub(super) fn read_connack(&mut self) {
        match self.receive(self.patience) {
            Received::Packet(Packet::Connack { present, code, props }) => {
                self.connack = Connack { present, code, props };
            }
            other => panic!("wanted CONNACK, got {other:?}"),
        }
    }

    /// Waits for CONNACK; `false` if the connection ends or is refused instead.
    pub(super) fn try_read_connack(&mut self) -> bool {
        match self.receive(self.patience) {
            Received::Packet(Packet::Connack { present, code, props }) => {
                self.connack = Connack { present, code, props };
                code == 0
            }
            _ => false,
        }
    }

    pub(crate) fn wire(&mut self) -> &mut dyn Wire {
        &mut *self.wire
    }

    /// Sends bytes as they are. False if the server has closed.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.wire.write(bytes)
    }

    fn send(&mut self, bytes: &[u8]) {
        assert!(self.wire.write(bytes), "the server closed the connection");
    }

    /// Waits for the next packet, in the order of arrival.
    pub(crate) fn receive(&mut self, patience: Duration) -> Received {
        if let Some(packet) = self.queue.pop_front() {
            return Received::Packet(packet);
        }
        self.read_packet(patience)
    }

    /// Reads one packet off the wire, past the queue.
    fn read_packet(&mut self, patience: Duration) -> Received {
        let start = now();
        loop {
            while let Some(packet) = self.parse() {
                if let Some(packet) = self.observe(packet) {
                    return Received::Packet(packet);
                }
            }
            if self.closed {
                return Received::Closed;
            }
            let Some(left) = patience.checked_sub(start.elapsed()) else {
                return Received::Nothing;
            };
            match self.wire.read(left) {
                Came::Bytes(bytes) => self.bytes.extend(bytes),
                Came::Closed => self.closed = true,
                Came::Nothing => {}
            }
        }
    }

    fn parse(&mut self) -> Option<Packet> {
        let rest = &self.bytes[self.read_to..];
        if rest.is_empty() {
            self.bytes.clear();
            self.read_to = 0;
            return None;
        }
        let length = packet_bytes(rest).unwrap_or_else(|error| panic!("{error}: {rest:x?}"))?;
        if rest.len() < length {
            return None;
        }
        let packet = decode(self.version, &rest[..length])
            .unwrap_or_else(|error| panic!("the server broke a rule: {error}"));
        self.read_to += length;
        if self.read_to > 1 << 20 {
            self.bytes.drain(..self.read_to);
            self.read_to = 0;
        }
        Some(packet)
    }

    /// Checks packet ids and answers, if the client is to do so. Returns what the test shall see.
    fn observe(&mut self, packet: Packet) -> Option<Packet> {
        match &packet {
            Packet::Publish(publish) if publish.qos > 0 => {
                let id = publish.id;
                let resent = !self.in_use.insert(id);
                assert!(!resent || publish.dup, "packet id {id} is in use and DUP is not set");
                if !self.auto_ack {
                    return Some(packet);
                }
                if publish.qos == 1 {
                    self.ack(AckKind::Puback, id);
                } else {
                    self.ack(AckKind::Pubrec, id);
                    if !self.unreleased.insert(id) {
                        return None;
                    }
                }
            }
            Packet::Ack { kind: AckKind::Pubrel, id, .. } if self.auto_ack => {
                self.unreleased.remove(id);
                self.ack(AckKind::Pubcomp, *id);
                return None;
            }
            _ => {}
        }
        Some(packet)
    }

    /// Returns the first packet that `pick` takes; others stay for later.
    pub(crate) fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(found) = self.find(&pick) {
            return found;
        }
        let start = now();
        loop {
            let left = self.patience.saturating_sub(start.elapsed());
            match self.read_packet(left) {
                Received::Packet(packet) => match pick(&packet) {
                    Some(found) => return found,
                    None => self.queue.push_back(packet),
                },
                other => panic!("wanted {what}, got {other:?} after {:?}", self.queue),
            }
        }
    }

    fn find<T>(&mut self, pick: &impl Fn(&Packet) -> Option<T>) -> Option<T> {
        let (place, found) = self
            .queue
            .iter()
            .enumerate()
            .find_map(|(place, packet)| pick(packet).map(|found| (place, found)))?;
        self.queue.remove(place);
        Some(found)
    }

    /// Returns the next packet, whatever it is.
    pub(crate) fn expect_next(&mut self) -> Packet {
        match self.receive(self.patience) {
            Received::Packet(packet) => packet,
            other => panic!("wanted a packet, got {other:?}"),
        }
    }

    pub(crate) fn expect_publish(&mut self) -> Publish {
        self.wait_for("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// Returns the payloads of the next `count` publishes, as text.
    pub(crate) fn expect_texts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.expect_publish().text()).collect()
    }

    /// Waits for an acknowledgement of this kind and id; returns its code.
    pub(crate) fn expect_ack(&mut self, kind: AckKind, id: u16) -> u8 {
        self.wait_for(&format!("{kind:?} {id}"), |packet| match packet {
            Packet::Ack { kind: came, id: its, code, .. } if *came == kind && *its == id => {
                Some(*code)
            }
            _ => None,
        })
    }

    /// Nothing may come for a while.
    pub(crate) fn expect_silence(&mut self) {
        self.expect_silence_for(SILENCE);
    }

    pub(crate) fn expect_silence_for(&mut self, time: Duration) {
        match self.receive(time) {
            Received::Nothing => {}
            other => panic!("wanted silence, got {other:?}"),
        }
    }

    /// The server ends the connection; v5: DISCONNECT with one of these codes comes first.
    pub(crate) fn expect_disconnect(&mut self, codes: &[u8]) {
        if self.version == Version::V5 {
            let code = self.wait_for("DISCONNECT", |packet| match packet {
                Packet::Disconnect { code, .. } => Some(*code),
                _ => None,
            });
            assert!(codes.contains(&code), "wanted one of {codes:x?}, got {code:#x}");
        }
        self.expect_closed();
    }

    /// As `expect_disconnect`, for tables: says what was wrong instead of a panic.
    pub(crate) fn check_disconnect(
        &mut self,
        codes: &[u8],
        may_be_silent: bool,
    ) -> Result<(), String> {
        let mut told = self.version == Version::V4 || may_be_silent;
        loop {
            match self.receive(self.patience) {
                Received::Packet(Packet::Disconnect { code, .. }) if codes.contains(&code) => {
                    told = true;
                }
                Received::Packet(other) => {
                    return Err(format!("wanted {codes:x?}, got {other:x?}"));
                }
                Received::Closed if told => return Ok(()),
                Received::Closed => return Err(format!("closed without one of {codes:x?}")),
                Received::Nothing => return Err("the server keeps the connection open".to_owned()),
            }
        }
    }

    /// A CONNECT that cannot be accepted: CONNACK with one of these codes and close, or just close.
    pub(crate) fn expect_refusal_or_close(&mut self, codes: &[u8]) {
        match self.receive(self.patience) {
            Received::Packet(Packet::Connack { present, code, .. }) => {
                assert!(codes.contains(&code), "wanted one of {codes:x?}, got {code:#x}");
                assert!(!present);
                self.expect_closed();
            }
            Received::Closed => {}
            other => panic!("wanted a refusal, got {other:?}"),
        }
    }

    /// The server closes; packets before that are passed over.
    pub(crate) fn expect_closed(&mut self) {
        let start = now();
        loop {
            match self.receive(self.patience.saturating_sub(start.elapsed())) {
                Received::Packet(_) => {}
                Received::Closed => return,
                Received::Nothing => panic!("the server keeps the connection open"),
            }
        }
    }

    /// The connection serves: PINGREQ is answered.
    pub(crate) fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        self.wait_for("PINGRESP", |packet| (*packet == Packet::Pingresp).then_some(()));
    }

    /// As `ping`, passing over whatever comes before the answer without looking at it.
    pub(crate) fn ping_past_everything(&mut self) {
        self.send(&[0xC0, 0]);
        while !matches!(self.expect_next(), Packet::Pingresp) {}
    }

    /// QoS 2 ids received and not released, for a test that carries them over connections.
    pub(crate) fn unreleased(&mut self) -> &mut HashSet<u16> {
        &mut self.unreleased
    }

    /// A packet id that no unfinished exchange of this client uses (tests stay below 65,536).
    pub(crate) fn next_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    /// Sends an acknowledgement with code 0.
    pub(crate) fn ack(&mut self, kind: AckKind, id: u16) {
        self.ack_with(kind, id, 0);
    }

    pub(crate) fn ack_with(&mut self, kind: AckKind, id: u16, code: u8) {
        let failed = kind == AckKind::Pubrec && code >= 0x80;
        if matches!(kind, AckKind::Puback | AckKind::Pubcomp) || failed {
            self.in_use.remove(&id);
        }
        let _ = self.wire.write(&encode_ack(self.version, kind, id, code));
    }

    /// Sends PUBLISH and waits for nothing. Returns the packet id (0 for QoS 0).
    pub(crate) fn send_publish(&mut self, mut publish: Publish) -> u16 {
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.next_id();
        }
        let bytes = publish.encode(self.version);
        self.send(&bytes);
        publish.id
    }

    /// Publishes and finishes the exchange; returns the code of PUBACK or PUBREC (0 for QoS 0).
    pub(crate) fn publish_code(&mut self, publish: Publish) -> u8 {
        let qos = publish.qos;
        let id = self.send_publish(publish);
        match qos {
            0 => 0,
            1 => self.expect_ack(AckKind::Puback, id),
            _ => {
                let code = self.expect_ack(AckKind::Pubrec, id);
                if code < 0x80 {
                    self.ack(AckKind::Pubrel, id);
                    assert_eq!(self.expect_ack(AckKind::Pubcomp, id), 0);
                }
                code
            }
        }
    }

    /// Publishes; the server must take it.
    pub(crate) fn publish_with(&mut self, publish: Publish) {
        let code = self.publish_code(publish);
        assert!(code < 0x80, "publish refused with {code:#x}");
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: u8) {
        self.publish_with(message(topic, payload, qos));
    }

    pub(crate) fn retain(&mut self, topic: &str, payload: &str, qos: u8) {
        self.publish_with(Publish { retain: true, ..message(topic, payload, qos) });
        if qos == 0 {
            // The answer says that what came before was taken; QoS 0 has none of its own.
            self.ping();
        }
    }

    /// Subscribes to one filter; it must be granted at this QoS.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        assert_eq!(self.subscribe_with(&[Sub::new(filter, qos)], &Props::new()), [qos]);
    }

    /// Subscribes and returns the codes of SUBACK.
    pub(crate) fn subscribe_with(&mut self, subs: &[Sub], props: &Props) -> Vec<u8> {
        let id = self.next_id();
        self.send(&encode_subscribe(self.version, id, subs, props));
        let codes = self.wait_for("SUBACK", |packet| match packet {
            Packet::Suback { id: its, codes, .. } if *its == id => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), subs.len(), "one code per filter");
        codes
    }

    /// Unsubscribes and returns the codes of UNSUBACK (none in 3.1.1).
    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&encode_unsubscribe(self.version, id, filters));
        self.wait_for("UNSUBACK", |packet| match packet {
            Packet::Unsuback { id: its, codes, .. } if *its == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Says goodbye; returns once the server has closed its side.
    pub(crate) fn disconnect(self) {
        self.disconnect_with(0, &Props::new());
    }

    pub(crate) fn disconnect_with(mut self, code: u8, props: &Props) {
        let bytes = encode_disconnect(self.version, code, props);
        self.send(&bytes);
        self.expect_closed();
    }

    /// Ends the connection without a word.
    pub(crate) fn cut(mut self) {
        self.wire.cut();
    }
}

/// A message without properties.
pub(crate) fn message(topic: &str, payload: &str, qos: u8) -> Publish {
    Publish {
        topic: topic.to_owned(),
        payload: payload.as_bytes().to_vec(),
        qos,
        ..Publish::default()
    }
}
