//! Reads of a leader see every command that was acknowledged anywhere before they were asked, and never go
//! back behind an earlier answer (`ClusterHandle::query`; SESSION-TRUE rests on it).

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::id::ShardId;

#[derive(Default)]
pub(super) struct ReadYourAcks {
    /// The highest place that anybody was told of.
    told: BTreeMap<ShardId, u64>,
    open: BTreeMap<u64, (ShardId, u64)>,
}

impl Invariant for ReadYourAcks {
    fn name(&self) -> &'static str {
        "READ-YOUR-ACKS"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Told { shard, told: Ok(state), .. } => {
                let told = self.told.entry(shard).or_default();
                *told = state.index.max(*told);
                Ok(())
            }
            Event::Asked { question, shard } => {
                let told = self.told.get(&shard).copied().unwrap_or(0);
                self.open.insert(question, (shard, told));
                Ok(())
            }
            Event::Answered { question, state } => {
                let Some((shard, told)) = self.open.remove(&question) else { return Ok(()) };
                if state.index < told {
                    let at = state.index;
                    return Err(format!("{shard:?} answers as of {at}, {told} was told before"));
                }
                let told = self.told.entry(shard).or_default();
                *told = state.index.max(*told);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
