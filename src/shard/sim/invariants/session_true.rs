//! SESSION-TRUE: whoever claims a session is told what it really holds, and whoever reads it gets that: what a plain
//! model makes of the commands that were acknowledged. Subscriptions that were not ended; each message that was
//! accepted meanwhile, once, until it is acknowledged, those of a QoS 2 publisher in the order of sending; QoS 2 packet
//! ids that have begun and not ended.

use std::collections::BTreeMap;

use hongqiao_cluster::id::ShardId;

use super::{Event, Invariant, model::Model};
use crate::shard::command::Reply;

#[derive(Default)]
pub(super) struct SessionTrue {
    shards: BTreeMap<ShardId, Model>,
    /// What was replied where.
    replies: BTreeMap<(ShardId, u64), Vec<Reply>>,
}

impl Invariant for SessionTrue {
    fn name(&self) -> &'static str {
        "SESSION-TRUE"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Applied { shard, index, commands, replies, .. } => {
                self.replies.insert((shard, index), replies.to_vec());
                if commands.len() != replies.len() {
                    return Err(format!("{shard:?} {index}: {commands:?} is told {replies:?}"));
                }
                let model = self.shards.entry(shard).or_default();
                model.begin(index);
                for (command, reply) in commands.iter().zip(replies) {
                    let step = model.step(command, reply);
                    step.map_err(|what| {
                        format!("{shard:?} {index}: {command:?} is told {reply:?}: {what}")
                    })?;
                }
                Ok(())
            }
            Event::Told { shard, index, replies } => match self.replies.get(&(shard, index)) {
                Some(applied) if applied == replies => Ok(()),
                applied => {
                    Err(format!("{shard:?} {index}: {replies:?} is told, applied {applied:?}"))
                }
            },
            Event::Read { shard, index, who, after, page } => {
                let model = self.shards.entry(shard).or_default();
                let read = model.read(index, who, after, page);
                read.map_err(|what| format!("{shard:?} {index}: {who:?} reads {page:?}: {what}"))
            }
        }
    }
}
