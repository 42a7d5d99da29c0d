//! Clients: each proposes numbered commands at some node, and asks for the state now and then.
//!
//! - Owns: what is open. Takes: turns. Gives: events of what was proposed, asked and told.
//! - A client whose node dies hears nothing more of what is open there: its outcome stays unknown.
//! - Bound: `OPEN_MAX` per client.
//! - Source: own design.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng, rngs::StdRng};

use super::{
    event::{Event, Origin},
    host::{Host, Visit},
    ledger::{Command, Summary},
    oracle::Oracle,
    shape::Shape,
};
use crate::{
    error::{ProposeError, ReadError},
    id::ShardId,
};

const OPEN_MAX: usize = 64;

/// Where a node's task puts an outcome for its client.
type Slot<T> = Arc<Mutex<Option<T>>>;

struct Proposed {
    command: Command,
    shard: ShardId,
    origin: Origin,
    since_ms: u64,
    told: Slot<Result<Bytes, ProposeError>>,
}

struct Asked {
    question: u64,
    origin: Origin,
    told: Slot<Result<Bytes, ReadError>>,
}

/// How it went, for the report of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) proposed: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) answered: u64,
}

pub(super) struct Client {
    id: u32,
    next_number: u64,
    next_turn_ms: u64,
    /// The node that it talks to, as a place in the list of hosts.
    home: usize,
    proposed: Vec<Proposed>,
    asked: Vec<Asked>,
}

impl Client {
    pub(super) fn new(id: u32, home: usize) -> Self {
        let (proposed, asked) = (Vec::new(), Vec::new());
        Self { id, next_number: 1, next_turn_ms: 0, home, proposed, asked }
    }

    pub(super) fn open(&self) -> usize {
        self.proposed.len()
    }

    /// Reports what has an outcome; gives up what died with its node.
    pub(super) fn listen(
        &mut self,
        now_ms: u64,
        hosts: &[Host],
        oracle: &Oracle,
        tally: &mut Tally,
    ) {
        let lives = |origin: Origin| {
            hosts.iter().any(|host| {
                host.node == origin.node
                    && host.incarnation == origin.incarnation
                    && host.is_alive()
            })
        };
        self.proposed.retain(|open| {
            let Some(told) = open.told.lock().take() else { return lives(open.origin) };
            let told = told.map(|reply| Summary::decode(&reply));
            match told {
                Ok(_) => tally.acknowledged += 1,
                Err(ProposeError::Unknown) => tally.unknown += 1,
                Err(_) => tally.refused += 1,
            }
            let Proposed { command, shard, since_ms, .. } = *open;
            let waited_ms = now_ms.saturating_sub(since_ms);
            oracle.see(&Event::Told { command, shard, told, waited_ms });
            false
        });
        self.asked.retain(|open| {
            let Some(told) = open.told.lock().take() else { return lives(open.origin) };
            if let Ok(answer) = told {
                tally.answered += 1;
                let state = Summary::decode(&answer);
                oracle.see(&Event::Answered { question: open.question, state });
            }
            false
        });
    }

    /// Does what this client does now.
    pub(super) fn act(&mut self, world: &mut Turn<'_>) {
        let now_ms = world.now_ms;
        if now_ms < self.next_turn_ms || self.open() >= OPEN_MAX {
            return;
        }
        let shape = world.shape;
        self.next_turn_ms = now_ms + world.random.gen_range(1..=shape.turn_ms * 2);
        if world.random.gen_ratio(1, 12) {
            self.home = world.random.gen_range(0..world.hosts.len());
        }
        let shard = ShardId(world.random.gen_range(0..shape.shards));
        if world.random.gen_ratio(1, 6) {
            self.ask(shard, world);
            return;
        }
        for _ in 0..world.random.gen_range(1..=shape.burst_max) {
            self.propose(self.home, shard, world);
        }
    }

    /// Proposes the next command at a node; `false` if that node does not live.
    pub(super) fn propose(&mut self, at: usize, shard: ShardId, world: &mut Turn<'_>) -> bool {
        let host = &world.hosts[at];
        let Some(Visit { handle, runtime, .. }) = &host.visit() else { return false };
        let command = Command { client: self.id, number: self.next_number };
        self.next_number += 1;
        world.tally.proposed += 1;
        let origin = Origin { node: host.node, incarnation: host.incarnation };
        world.oracle.see(&Event::Proposed { command, shard, origin });
        let filler = world.random.gen_range(0..=world.shape.filler_max);
        let proposed = handle.propose(shard, command.encode(filler));
        let told = Slot::default();
        let slot = told.clone();
        runtime.spawn(async move {
            let outcome = proposed.await;
            *slot.lock() = Some(outcome);
        });
        self.proposed.push(Proposed { command, shard, origin, since_ms: world.now_ms, told });
        true
    }

    fn ask(&mut self, shard: ShardId, world: &mut Turn<'_>) {
        let host = &world.hosts[self.home];
        let Some(Visit { handle, runtime, .. }) = &host.visit() else { return };
        *world.questions += 1;
        let question = *world.questions;
        let origin = Origin { node: host.node, incarnation: host.incarnation };
        world.oracle.see(&Event::Asked { question, shard });
        let (told, handle) = (Slot::default(), (*handle).clone());
        let slot = told.clone();
        runtime.spawn(async move {
            let outcome = handle.query(shard, Bytes::new()).await;
            *slot.lock() = Some(outcome);
        });
        self.asked.push(Asked { question, origin, told });
    }
}

/// What a client needs of the world for a turn.
pub(super) struct Turn<'a> {
    pub(super) now_ms: u64,
    pub(super) hosts: &'a [Host],
    pub(super) shape: &'a Shape,
    pub(super) oracle: &'a Oracle,
    pub(super) random: &'a mut StdRng,
    pub(super) questions: &'a mut u64,
    pub(super) tally: &'a mut Tally,
}
