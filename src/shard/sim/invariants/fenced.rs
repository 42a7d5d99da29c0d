//! FENCED, for sessions: once a later claim of a session is in the log, a command with an earlier epoch changes
//! nothing; once a leader of a later term has spoken, nor does a claim of an earlier one.

use std::collections::BTreeMap;

use hongqiao_cluster::id::ShardId;

use super::{Event, Invariant};
use crate::{
    model::id::{Epoch, SessionKey},
    shard::command::{Command, Reply},
};

#[derive(Default)]
pub(super) struct Fenced {
    /// The latest term that has spoken.
    led: BTreeMap<ShardId, u64>,
    /// The epoch of the last claim.
    newest: BTreeMap<SessionKey, Epoch>,
}

/// Returns whose command it is and at which epoch, of those that the clients of a world send.
pub(super) fn owner(command: &Command) -> Option<(SessionKey, Epoch)> {
    match command {
        Command::Release { key, epoch, .. }
        | Command::Subscribe { key, epoch, .. }
        | Command::Unsubscribe { key, epoch, .. }
        | Command::Acknowledge { key, epoch, .. }
        | Command::InBegin { key, epoch, .. }
        | Command::InEnd { key, epoch, .. } => Some((*key, *epoch)),
        _ => None,
    }
}

impl Fenced {
    fn is_stale(&self, shard: ShardId, command: &Command) -> bool {
        match command {
            Command::Lead { term } | Command::ClaimIn { term, .. } => {
                self.led.get(&shard).is_some_and(|led| term < led)
            }
            command => owner(command).is_some_and(|(key, epoch)| {
                self.newest.get(&key).is_some_and(|newest| epoch < *newest)
            }),
        }
    }

    fn learn(&mut self, shard: ShardId, command: &Command, reply: &Reply) -> Result<(), String> {
        if let Command::Lead { term } | Command::ClaimIn { term, .. } = command {
            let led = self.led.entry(shard).or_default();
            *led = (*term).max(*led);
            if *reply == Reply::Fenced {
                return Err(format!("a leader of term {term} is refused, none is later"));
            }
        }
        let (Command::Claim(claim) | Command::ClaimIn { claim, .. }) = command else {
            return Ok(());
        };
        let Reply::Claimed(claimed) = reply else {
            return Err(format!("{:?} claims, and is told {reply:?}", claim.key));
        };
        if claimed.epoch == Epoch::default() {
            return Ok(());
        }
        match self.newest.insert(claim.key, claimed.epoch) {
            Some(before) if before >= claimed.epoch => {
                let (key, epoch) = (claim.key, claimed.epoch);
                Err(format!("{key:?} has {epoch:?} after {before:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Invariant for Fenced {
    fn name(&self) -> &'static str {
        "FENCED"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Applied { shard, index, commands, replies, writes } = *event else {
            return Ok(());
        };
        let mut stale = 0;
        for (command, reply) in commands.iter().zip(replies) {
            if !self.is_stale(shard, command) {
                self.learn(shard, command, reply)?;
                continue;
            }
            stale += 1;
            if *reply != Reply::Fenced {
                let led = self.led.get(&shard);
                return Err(format!(
                    "{shard:?} {index}: {command:?} is told {reply:?}; led {led:?}, {:?}",
                    self.newest
                ));
            }
        }
        if stale == commands.len() && writes > 0 {
            return Err(format!(
                "{shard:?} {index}: {commands:?} is refused, and has {writes} writes"
            ));
        }
        Ok(())
    }
}
