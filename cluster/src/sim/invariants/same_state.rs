//! PURE-CORE, and State Machine Safety (Raft §5.4.3): replicas that have applied the same number of commands
//! have the same state, over restarts and snapshots; what one has applied is never taken back.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::{
    id::{NodeId, ShardId},
    sim::ledger::Summary,
};

#[derive(Default)]
pub(super) struct SameState {
    /// Every state that a shard was in, by the index of its last command.
    history: BTreeMap<(ShardId, u64), Summary>,
    settled: BTreeMap<ShardId, (NodeId, Summary)>,
}

impl SameState {
    fn known(&mut self, node: NodeId, shard: ShardId, state: Summary) -> Result<(), String> {
        let known = if state.count == 0 {
            Summary::default()
        } else {
            *self.history.entry((shard, state.index)).or_insert(state)
        };
        if known != state {
            return Err(format!("{node:?} has {state:?} of {shard:?}, another had {known:?}"));
        }
        Ok(())
    }
}

impl Invariant for SameState {
    fn name(&self) -> &'static str {
        "SAME-STATE"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Loaded { node, shard, state } => {
                let is_known = state.count == 0 || self.history.contains_key(&(shard, state.index));
                if !is_known {
                    return Err(format!("{node:?} came up with {state:?} that nobody had"));
                }
                self.known(node, shard, state)
            }
            Event::Applied { node, shard, before, after, .. } => {
                self.known(node, shard, before)?;
                self.known(node, shard, after)
            }
            Event::Settled { node, shard, state } => {
                self.known(node, shard, state)?;
                let (other, first) = *self.settled.entry(shard).or_insert((node, state));
                if first != state {
                    return Err(format!("{node:?} ends with {state:?}, {other:?} with {first:?}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
