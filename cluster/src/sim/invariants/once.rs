//! ONCE: no command is in a shard's history twice, nor one that nobody proposed to it, nor one whose client
//! was told that nothing was written.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Invariant};
use crate::{id::ShardId, sim::ledger::Command};

#[derive(Default)]
pub(super) struct Once {
    proposed: BTreeSet<(ShardId, Command)>,
    refused: BTreeSet<(ShardId, Command)>,
    /// Where a command is. Every replica applies it there.
    places: BTreeMap<(ShardId, Command), u64>,
}

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "ONCE"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Proposed { command, shard, .. } => {
                self.proposed.insert((shard, command));
                Ok(())
            }
            Event::Applied { node, shard, after, command, .. } => {
                let key = (shard, command);
                if !self.proposed.contains(&key) {
                    return Err(format!("{node:?} applies {command:?} of nobody to {shard:?}"));
                }
                if self.refused.contains(&key) {
                    return Err(format!("{node:?} applies {command:?}, which was refused"));
                }
                let place = *self.places.entry(key).or_insert(after.index);
                if place != after.index {
                    let again = after.index;
                    return Err(format!("{command:?} is in {shard:?} at {place} and at {again}"));
                }
                Ok(())
            }
            Event::Told { command, shard, told: Err(why), .. }
                if why != crate::ProposeError::Unknown =>
            {
                self.refused.insert((shard, command));
                match self.places.get(&(shard, command)) {
                    Some(place) => Err(format!("{command:?} is refused, and at {place}")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
