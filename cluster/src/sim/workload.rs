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
    guest::{Answer, Outcome},
    host::{Host, Visit},
    ledger::{Command, SUMMARY_BYTES, Summary},
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
    /// For a guest; nobody else takes them.
    heard: Option<Heard>,
}

/// What a guest has not taken yet.
#[derive(Default)]
struct Heard {
    outcomes: Vec<(u64, Outcome)>,
    answers: Vec<(u64, Answer)>,
}

impl Client {
    pub(super) fn new(id: u32, home: usize) -> Self {
        let (proposed, asked) = (Vec::new(), Vec::new());
        Self { id, next_number: 1, next_turn_ms: 0, home, proposed, asked, heard: None }
    }

    /// Keeps outcomes and answers for a guest from now on.
    pub(super) fn serve(&mut self) {
        self.heard = Some(Heard::default());
    }

    pub(super) fn take_outcomes(&mut self) -> Vec<(u64, Outcome)> {
        self.heard.as_mut().map(|heard| std::mem::take(&mut heard.outcomes)).unwrap_or_default()
    }

    pub(super) fn take_answers(&mut self) -> Vec<(u64, Answer)> {
        self.heard.as_mut().map(|heard| std::mem::take(&mut heard.answers)).unwrap_or_default()
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
        let heard = &mut self.heard;
        self.proposed.retain(|open| {
            let number = open.command.number;
            let Some(told) = open.told.lock().take() else {
                let lives = lives(open.origin);
                if let (false, Some(heard)) = (lives, heard.as_mut()) {
                    heard.outcomes.push((number, Outcome::Unknown));
                }
                return lives;
            };
            if let Some(heard) = heard.as_mut() {
                heard.outcomes.push((number, outcome(&told)));
            }
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
            let Some(told) = open.told.lock().take() else {
                let lives = lives(open.origin);
                if let (false, Some(heard)) = (lives, heard.as_mut()) {
                    heard.answers.push((open.question, None));
                }
                return lives;
            };
            let mut answered = None;
            if let Ok(answer) = told {
                tally.answered += 1;
                let state = Summary::decode(&answer);
                oracle.see(&Event::Answered { question: open.question, state });
                answered = Some((state.index, answer.slice(SUMMARY_BYTES..)));
            }
            if let Some(heard) = heard.as_mut() {
                heard.answers.push((open.question, answered));
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
        if world.hosts[at].visit().is_none() {
            return false;
        }
        let filler = world.random.gen_range(0..=world.shape.filler_max);
        self.submit(at, shard, &vec![0xa5; filler], world).is_some()
    }

    /// Proposes the next command with this body; `None` if the node does not live, or too many are open.
    pub(super) fn submit(
        &mut self,
        at: usize,
        shard: ShardId,
        body: &[u8],
        world: &mut Turn<'_>,
    ) -> Option<u64> {
        let host = world.hosts.get(at)?;
        let Visit { handle, runtime, .. } = &host.visit()?;
        let command = Command { client: self.id, number: self.next_number };
        self.next_number += 1;
        world.tally.proposed += 1;
        let origin = Origin { node: host.node, incarnation: host.incarnation };
        world.oracle.see(&Event::Proposed { command, shard, origin });
        let proposed = handle.propose(shard, command.encode(body));
        let told = Slot::default();
        let slot = told.clone();
        runtime.spawn(async move {
            let outcome = proposed.await;
            *slot.lock() = Some(outcome);
        });
        self.proposed.push(Proposed { command, shard, origin, since_ms: world.now_ms, told });
        Some(command.number)
    }

    fn ask(&mut self, shard: ShardId, world: &mut Turn<'_>) {
        let _ = self.question(self.home, shard, Bytes::new(), world);
    }

    /// Asks a shard by way of a node; `None` if that does not live.
    pub(super) fn question(
        &mut self,
        at: usize,
        shard: ShardId,
        body: Bytes,
        world: &mut Turn<'_>,
    ) -> Option<u64> {
        let host = world.hosts.get(at)?;
        let Visit { handle, runtime, .. } = &host.visit()?;
        *world.questions += 1;
        let question = *world.questions;
        let origin = Origin { node: host.node, incarnation: host.incarnation };
        world.oracle.see(&Event::Asked { question, shard });
        let (told, handle) = (Slot::default(), (*handle).clone());
        let slot = told.clone();
        runtime.spawn(async move {
            let outcome = handle.query(shard, body).await;
            *slot.lock() = Some(outcome);
        });
        self.asked.push(Asked { question, origin, told });
        Some(question)
    }
}

fn outcome(told: &Result<Bytes, ProposeError>) -> Outcome {
    match told {
        Ok(reply) => {
            let (index, reply) = (Summary::decode(reply).index, reply.slice(SUMMARY_BYTES..));
            Outcome::Told { index, reply }
        }
        Err(ProposeError::Unknown) => Outcome::Unknown,
        Err(_) => Outcome::Refused,
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
