//! NO-LOSS, FLUSH-THEN-ACK: what a client was told to be applied stays where it was told to be, in every
//! later state of its shard, whatever crashes.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::{id::ShardId, sim::ledger::Command};

#[derive(Default)]
pub(super) struct NoLoss {
    /// By place: the command that a client was told to be there.
    acknowledged: BTreeMap<(ShardId, u64), Command>,
    /// By place: what a replica has applied there.
    applied: BTreeMap<(ShardId, u64), Command>,
}

impl Invariant for NoLoss {
    fn name(&self) -> &'static str {
        "NO-LOSS"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Applied { node, shard, before, after, command } => {
                // A gap in what this replica has may hide a command that was acknowledged.
                let gap = (shard, before.index + 1)..(shard, after.index);
                if let Some(((_, index), lost)) = self.acknowledged.range(gap).next() {
                    return Err(format!("{node:?} skips {lost:?} at {shard:?} {index}"));
                }
                self.applied.insert((shard, after.index), command);
                match self.acknowledged.get(&(shard, after.index)) {
                    Some(told) if *told != command => {
                        let at = after.index;
                        Err(format!("{node:?} has {command:?} at {shard:?} {at}, not {told:?}"))
                    }
                    _ => Ok(()),
                }
            }
            Event::Told { command, shard, told: Ok(state), .. } => {
                self.acknowledged.insert((shard, state.index), command);
                match self.applied.get(&(shard, state.index)) {
                    Some(applied) if *applied == command => Ok(()),
                    other => Err(format!("{command:?} is told to be at {state:?}: {other:?}")),
                }
            }
            Event::Settled { node, shard, state } => {
                let behind = (shard, state.index + 1)..(shard, u64::MAX);
                match self.acknowledged.range(behind).next() {
                    Some((at, lost)) => Err(format!("{node:?} never got {lost:?} at {at:?}")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
