//! A QoS 2 publish of a device, from PUBLISH to PUBCOMP, over as many connections as it takes.
//!
//! - Owns: what the client holds of it, and how far the connection of now has come.
//! - Takes: replies. Gives: the commands of the node of that connection.
//! - Bound: one per device.
//! - Source: MQTT 5.0 section 4.3.3; `actors/beginnings.rs` for ids.

use std::{collections::BTreeSet, sync::Arc};

use hongqiao_cluster::{id::ShardId, sim::Stage};

use super::{
    connection::{Connection, Doing},
    payload::Payload,
};
use crate::{
    model::{
        id::{AppId, MessageId, SessionKey},
        message::{Message, Qos},
        topic::TopicName,
    },
    shard::command::{Command, Quota, Reply},
};

pub(super) const APP: AppId = AppId(1);

const QUOTA: Quota = Quota {
    session_messages_max: 1 << 20,
    session_bytes_max: 1 << 40,
    app_bytes_max: 1 << 40,
    drop_oldest: true,
};

/// What the node waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet: this connection has not sent it.
    New,
    /// It is begun with this id, unless the packet id has one.
    Begun(MessageId),
    /// Shards that have not said that they have it.
    Appended(MessageId, BTreeSet<ShardId>),
    /// The client has its PUBREC and has sent PUBREL, or will.
    Received,
    Ended,
}

pub(super) struct Exchange {
    packet_id: u16,
    topic: u64,
    payload: Payload,
    step: Step,
}

/// Makes the append of a message to one shard.
pub(super) fn append(
    publisher: SessionKey,
    id: Option<MessageId>,
    topic: u64,
    payload: Payload,
) -> Command {
    let message = Message {
        app: APP,
        topic: TopicName::parse(format!("t/{topic}")).expect("a topic"),
        publisher: Some(publisher),
        id,
        qos: if id.is_some() { Qos::ExactlyOnce } else { Qos::AtLeastOnce },
        retain: false,
        published_at_ms: super::connection::NOW_MS,
        expires_at_ms: None,
        properties: bytes::Bytes::new(),
        payload: payload.write(),
    };
    Command::Append { message: Arc::new(message), quota: QUOTA }
}

impl Exchange {
    pub(super) fn new(packet_id: u16, topic: u64, payload: Payload) -> Self {
        Self { packet_id, topic, payload, step: Step::New }
    }

    /// The client has another connection: it sends again what was not answered.
    pub(super) fn resume(&mut self) {
        self.step = match self.step {
            Step::Received | Step::Ended => Step::Received,
            _ => Step::New,
        };
    }

    /// Goes on; `fresh`: the id that the node would give it.
    pub(super) fn go(
        &mut self,
        stage: &mut Stage<'_>,
        connection: &mut Connection,
        key: SessionKey,
        fresh: MessageId,
    ) {
        let (epoch, packet_id) = (connection.epoch, self.packet_id);
        match self.step {
            Step::New => {
                let begin = Command::InBegin { key, epoch, packet_id, id: fresh };
                if connection.send(stage, Doing::Begin, begin) {
                    self.step = Step::Begun(fresh);
                }
            }
            Step::Received => {
                if connection.send(stage, Doing::End, Command::InEnd { key, epoch, packet_id }) {
                    self.step = Step::Ended;
                }
            }
            Step::Begun(_) | Step::Appended(..) | Step::Ended => {}
        }
    }

    /// Takes a reply in; `Some(true)`: it is over, `None`: the connection cannot go on.
    pub(super) fn hear(
        &mut self,
        stage: &mut Stage<'_>,
        connection: &mut Connection,
        key: SessionKey,
        (doing, reply): (Doing, &Reply),
    ) -> Option<bool> {
        match (doing, reply) {
            (Doing::Begin, Reply::InBegun { known }) => {
                let Step::Begun(fresh) = self.step else { return Some(false) };
                let id = known.unwrap_or(fresh);
                let shards: BTreeSet<_> = (0..stage.shards()).map(ShardId).collect();
                for shard in &shards {
                    let command = append(key, Some(id), self.topic, self.payload);
                    let what = (*shard, Doing::Append(*shard));
                    if !connection.send_at(stage, connection.node, what, &[command]) {
                        return None;
                    }
                }
                self.step = Step::Appended(id, shards);
            }
            (Doing::Append(shard), Reply::Appended { .. }) => {
                if let Step::Appended(_, left) = &mut self.step {
                    left.remove(&shard);
                    if left.is_empty() {
                        self.step = Step::Received;
                    }
                }
            }
            (Doing::End, Reply::InEnded(_)) if self.step == Step::Ended => return Some(true),
            _ => {}
        }
        Some(false)
    }
}
