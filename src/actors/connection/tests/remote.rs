//! The client's end of a connection, and what it sees.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;

use super::bench::{LIMITS, id, options_of, pause, settle};
use crate::{
    actors::memory_socket::MemoryPeer,
    front::mqtt::client::{Client, DecodedFromServer, FromServer},
    model::{
        message::Qos,
        reason::Reason,
        wire::{Ack, AckKind, Connack, Delivery, Disconnect, SubackCode, SubscriptionOptions},
    },
};

/// The client's end of a connection.
pub(super) struct Remote {
    pub(super) peer: MemoryPeer,
    codec: Client,
    input: BytesMut,
    last_id: u16,
}

/// What a client sees of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: Qos,
    pub(super) packet_id: Option<NonZeroU16>,
    pub(super) dup: bool,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
}

impl Remote {
    pub(super) fn new(peer: MemoryPeer, codec: Client) -> Self {
        Self { peer, codec, input: BytesMut::new(), last_id: 0 }
    }

    pub(super) fn send(&self, write: impl FnOnce(Client, &mut BytesMut)) {
        let mut out = BytesMut::new();
        write(self.codec, &mut out);
        self.peer.send(&out);
    }

    fn next_id(&mut self) -> NonZeroU16 {
        self.last_id += 1;
        id(self.last_id)
    }

    /// Sends a PUBLISH; returns its packet id.
    pub(super) fn publish(&mut self, delivery: &Delivery<'_>) -> Option<NonZeroU16> {
        let packet_id = (delivery.qos > Qos::AtMostOnce).then(|| self.next_id());
        self.publish_as(delivery, packet_id);
        packet_id
    }

    pub(super) fn publish_as(&self, delivery: &Delivery<'_>, packet_id: Option<NonZeroU16>) {
        self.send(|codec, out| write_publish(codec, delivery, packet_id, out));
    }

    pub(super) fn ack(&self, kind: AckKind, packet_id: NonZeroU16, reason: Reason) {
        self.send(|codec, out| codec.encode_ack(Ack { kind, packet_id, reason }, out));
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: Qos) -> SubackCode {
        self.subscribe_all(None, &[(filter, options_of(qos))]).await[0]
    }

    pub(super) async fn subscribe_all(
        &mut self,
        subscription_id: Option<u32>,
        items: &[(&str, SubscriptionOptions)],
    ) -> Vec<SubackCode> {
        let packet_id = self.next_id();
        let subscription_id = subscription_id.and_then(NonZeroU32::new);
        self.send(|codec, out| {
            codec.encode_subscribe(packet_id, subscription_id, items.iter().copied(), out);
        });
        match self.receive().await {
            FromServer::Suback { packet_id: echoed, codes } if echoed == packet_id => codes,
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    pub(super) async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<Reason> {
        let packet_id = self.next_id();
        self.send(|codec, out| {
            codec.encode_unsubscribe(packet_id, filters.iter().copied(), out);
        });
        match self.receive().await {
            FromServer::Unsuback { packet_id: echoed, reasons } if echoed == packet_id => reasons,
            other => panic!("no UNSUBACK: {other:?}"),
        }
    }

    pub(super) fn disconnect(&self, reason: Reason, session_expiry_secs: Option<u32>) {
        let disconnect = Disconnect { reason, session_expiry_secs };
        self.send(|codec, out| codec.encode_disconnect(&disconnect, out));
    }

    fn try_receive(&mut self) -> Option<FromServer> {
        self.input.extend_from_slice(&self.peer.take());
        let bytes = self.input.clone().freeze();
        match self.codec.decode(&bytes, &LIMITS).unwrap() {
            DecodedFromServer::Packet { packet, consumed } => {
                let _ = self.input.split_to(consumed);
                Some(packet)
            }
            DecodedFromServer::Partial { .. } => None,
        }
    }

    /// Waits for one packet.
    pub(super) async fn receive(&mut self) -> FromServer {
        self.maybe_receive().await.expect("nothing came in time")
    }

    pub(super) async fn maybe_receive(&mut self) -> Option<FromServer> {
        for turn in 0..400 {
            if let Some(packet) = self.try_receive() {
                return Some(packet);
            }
            pause(turn).await;
        }
        None
    }

    /// Asks for a pong and expects it before anything else.
    pub(super) async fn expect_silence(&mut self) {
        settle().await;
        self.send(|codec, out| codec.encode_ping(out));
        assert_eq!(self.receive().await, FromServer::Pong);
    }

    pub(super) async fn connack(&mut self) -> Connack {
        match self.receive().await {
            FromServer::Connack { connack, .. } => *connack,
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(super) async fn got(&mut self) -> Got {
        match self.receive().await {
            FromServer::Publish { publish, subscription_ids } => Got {
                topic: publish.topic.map_or_else(String::new, |name| name.as_str().to_owned()),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                packet_id: publish.packet_id,
                dup: publish.dup,
                retain: publish.retain,
                subscription_ids: subscription_ids.iter().map(|id| id.get()).collect(),
            },
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    /// Receives one message and acknowledges it (QoS 1).
    pub(super) async fn take(&mut self) -> Got {
        let got = self.got().await;
        if let Some(packet_id) = got.packet_id {
            self.ack(AckKind::Puback, packet_id, Reason::Success);
        }
        got
    }

    pub(super) async fn expect_ack(
        &mut self,
        kind: AckKind,
        packet_id: NonZeroU16,
        reason: Reason,
    ) {
        assert_eq!(self.receive().await, FromServer::Ack(Ack { kind, packet_id, reason }));
    }

    /// Expects the end: v5 with this DISCONNECT before it.
    pub(super) async fn expect_end(&mut self, reason: Option<Reason>) {
        let told = match self.until_closed().await {
            Some(FromServer::Disconnect(disconnect)) => Some(disconnect.reason),
            Some(other) => panic!("neither DISCONNECT nor the end: {other:?}"),
            None => None,
        };
        assert_eq!(told, reason);
    }

    /// Waits for the end of the stream, whatever came before it.
    pub(super) async fn until_closed_quietly(&self) {
        for turn in 0..400 {
            if self.peer.is_closed() {
                return;
            }
            pause(turn).await;
        }
        panic!("not closed in time");
    }

    /// Waits for the end of the stream; returns what came before it.
    pub(super) async fn until_closed(&mut self) -> Option<FromServer> {
        for turn in 0..400 {
            if self.peer.is_closed() {
                return self.try_receive();
            }
            pause(turn).await;
        }
        panic!("not closed in time; got {:?}", self.try_receive());
    }
}

pub(super) fn write_publish(
    codec: Client,
    delivery: &Delivery<'_>,
    packet_id: Option<NonZeroU16>,
    out: &mut BytesMut,
) {
    let start = out.len();
    let head = codec.encode_publish(delivery, out);
    if let (Some(at), Some(packet_id)) = (head.packet_id_at, packet_id) {
        out[start + at..start + at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }
    out.extend_from_slice(delivery.payload);
}
