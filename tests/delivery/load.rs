//! A publisher that keeps a window of unacknowledged publishes and remembers what was acknowledged.
//!
//! - Owns: one connection. Takes: payloads. Gives: which of them the server took.
//! - Bound: the window, at most the server's receive maximum.

use std::collections::VecDeque;

use crate::support::{
    dial::Dial,
    mqtt_client::{Client, Received},
    packet::{AckKind, Packet, Publish},
    property::RECEIVE_MAXIMUM,
};

pub(crate) struct Pipeline {
    pub(crate) client: Client,
    window: usize,
    open: VecDeque<u16>,
    /// How many publishes the server has acknowledged, in the order of sending.
    pub(crate) acked: usize,
}

impl Pipeline {
    pub(crate) fn new(dial: &Dial, window: usize) -> Self {
        let client = dial.connect();
        let maximum = client.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(64);
        Self { client, window: window.min(maximum as usize), open: VecDeque::new(), acked: 0 }
    }

    /// Sends once there is room; false when the connection has ended.
    pub(crate) fn send(&mut self, publish: Publish) -> bool {
        while self.open.len() >= self.window {
            if !self.take_ack() {
                return false;
            }
        }
        let id = if publish.qos > 0 { self.client.next_id() } else { 0 };
        let publish = Publish { id, ..publish };
        if publish.qos > 0 {
            self.open.push_back(id);
        }
        self.client.send_raw(&publish.encode(self.client.version))
    }

    /// Waits for the acknowledgement of the oldest publish; false when the connection has ended.
    pub(crate) fn take_ack(&mut self) -> bool {
        loop {
            match self.client.receive(self.client.patience) {
                Received::Packet(Packet::Ack { kind: AckKind::Puback, id, code, .. }) => {
                    assert!(code < 0x80, "refused with {code:#x}");
                    assert_eq!(self.open.pop_front(), Some(id), "acknowledged out of order");
                    self.acked += 1;
                    return true;
                }
                Received::Packet(Packet::Ack { kind: AckKind::Pubrec, id, code, .. }) => {
                    assert!(code < 0x80, "refused with {code:#x}");
                    self.client.ack(AckKind::Pubrel, id);
                }
                Received::Packet(Packet::Ack { kind: AckKind::Pubcomp, id, .. }) => {
                    assert_eq!(self.open.pop_front(), Some(id), "completed out of order");
                    self.acked += 1;
                    return true;
                }
                Received::Closed => return false,
                Received::Packet(Packet::Disconnect { .. }) => {}
                other => panic!("wanted an acknowledgement, got {other:?}"),
            }
        }
    }

    /// Waits for all acknowledgements; false when the connection has ended.
    pub(crate) fn finish(&mut self) -> bool {
        while !self.open.is_empty() {
            if !self.take_ack() {
                return false;
            }
        }
        true
    }
}
