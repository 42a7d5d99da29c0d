//! ORDER: what a client proposes at one life of a node to one shard is applied in the order of its calls;
//! some of it may be missing.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::{
    id::ShardId,
    sim::{event::Origin, ledger::Command},
};

#[derive(Default)]
pub(super) struct Order {
    origins: BTreeMap<(ShardId, Command), Origin>,
    /// By shard, the last place that was looked at: replicas that come later repeat it.
    seen: BTreeMap<ShardId, u64>,
    /// The last number applied.
    last: BTreeMap<(ShardId, u32, Origin), u64>,
}

impl Invariant for Order {
    fn name(&self) -> &'static str {
        "ORDER"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Proposed { command, shard, origin } => {
                self.origins.insert((shard, command), origin);
                Ok(())
            }
            Event::Applied { shard, after, command, .. } => {
                let seen = self.seen.entry(shard).or_default();
                if after.index <= *seen {
                    return Ok(());
                }
                *seen = after.index;
                let Some(origin) = self.origins.get(&(shard, command)) else { return Ok(()) };
                let last = self.last.entry((shard, command.client, *origin)).or_default();
                let before = std::mem::replace(last, command.number);
                if before >= command.number {
                    return Err(format!("{command:?} of {origin:?} comes behind {before}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
