//! True outcomes: "nobody knows" is said of a command that is in the state, its reply being forgotten, or after
//! all the patience that a stream has; never of one that was passed over.

use std::collections::BTreeSet;

use super::{Event, Invariant};
use crate::{error::ProposeError, id::ShardId, sim::ledger::Command};

/// A sender gives up what it has sent after 5 s of its own clock, which may be a twentieth early.
const PATIENCE_MS: u64 = 4_700;

#[derive(Default)]
pub(super) struct TrueOutcome {
    applied: BTreeSet<(ShardId, Command)>,
}

impl Invariant for TrueOutcome {
    fn name(&self) -> &'static str {
        "TRUE-OUTCOME"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Applied { shard, command, .. } => {
                self.applied.insert((shard, command));
                Ok(())
            }
            Event::Told { command, shard, told: Err(ProposeError::Unknown), waited_ms }
                if waited_ms < PATIENCE_MS && !self.applied.contains(&(shard, command)) =>
            {
                Err(format!("nobody knows of {command:?} after {waited_ms} ms: it is nowhere"))
            }
            _ => Ok(()),
        }
    }
}
