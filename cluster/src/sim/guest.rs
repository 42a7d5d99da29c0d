//! Machines and clients of another crate in a world: what shards hold is the server's, and so is what must be
//! true of it.
//!
//! ```text
//! Guest ─ command ─▶ Stage ─▶ a node ─▶ log ─▶ Ledger ─ command ─▶ the guest's machine
//!       ◀ outcome ──        ◀ index, reply ───────────────────────◀ reply
//! ```
//!
//! - Owns: nothing. Takes: commands and questions as bytes. Gives: outcomes with their place in the log.
//! - A ledger goes around each machine, so all invariants of this folder hold for its commands, too; its digest
//!   takes the replies in, so replicas that answer differently are found.
//! - Bound: `OPEN_MAX` commands per client.
//! - Source: own design.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;

use super::{
    trace::Trace,
    workload::{Client, Turn},
};
use crate::{
    id::{NodeId, ShardId},
    machine::Machine,
};

/// Makes the machine of a shard's replica at a node.
pub type MakeMachine = Arc<dyn Fn(NodeId, ShardId) -> Box<dyn Machine> + Send + Sync>;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied.
    Told {
        /// Where, as the machine was told.
        index: u64,
        /// What the machine said.
        reply: Bytes,
    },
    /// It was not and will not be applied.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a question came to: `None` if nobody answered, else the index that the machine had come to, and its answer.
pub type Answer = Option<(u64, Bytes)>;

/// Those who live in a world instead of its own clients.
pub trait Guest {
    /// Returns how many clients it needs; a client's commands are in order.
    fn clients(&self) -> usize;

    /// Returns what makes its machines.
    fn machines(&self) -> MakeMachine;

    /// Does what is to be done in this millisecond. `ending`: all faults are healed, and nothing new shall begin.
    fn act(&mut self, stage: &mut Stage<'_>, ending: bool);

    /// Returns what it still waits for.
    fn missing(&self) -> Option<String>;
}

/// What a guest sees of a world.
pub struct Stage<'a> {
    pub(super) turn: Turn<'a>,
    pub(super) clients: &'a mut [Client],
    pub(super) trace: &'a mut Trace,
}

impl Stage<'_> {
    /// Returns the time of the world.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.turn.now_ms
    }

    /// Returns how many nodes there may be; they are named from 0 on here.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.turn.hosts.len()
    }

    /// Returns how many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.turn.shape.shards
    }

    /// Draws a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.turn.random.gen_range(0..end.max(1))
    }

    /// Returns id and incarnation of a node that runs and does not stand still.
    #[must_use]
    pub fn life(&self, node: usize) -> Option<(u64, u64)> {
        let host = self.turn.hosts.get(node)?;
        host.visit().map(|_| (host.node.0, host.incarnation))
    }

    /// Tells whether a node still lives this life; who stands still lives.
    #[must_use]
    pub fn lives(&self, node: usize, life: (u64, u64)) -> bool {
        let host = self.turn.hosts.get(node);
        host.is_some_and(|host| host.is_alive() && (host.node.0, host.incarnation) == life)
    }

    /// Returns the term in which a node believes to lead a shard.
    #[must_use]
    pub fn leads(&self, node: usize, shard: ShardId) -> Option<u64> {
        let visit = self.turn.hosts.get(node)?.visit()?;
        let lead = *visit.handle.leadership(shard).borrow();
        lead.here.then_some(lead.term)
    }

    /// Proposes a command at a node; `None` if it does not run.
    pub fn propose(
        &mut self,
        client: usize,
        node: usize,
        shard: ShardId,
        command: &[u8],
    ) -> Option<u64> {
        self.clients.get_mut(client)?.submit(node, shard, command, &mut self.turn)
    }

    /// Asks the leader of a shard, by way of a node; `None` if it does not run.
    pub fn ask(
        &mut self,
        client: usize,
        node: usize,
        shard: ShardId,
        question: Bytes,
    ) -> Option<u64> {
        self.clients.get_mut(client)?.question(node, shard, question, &mut self.turn)
    }

    /// Takes the outcomes of a client's commands.
    pub fn outcomes(&mut self, client: usize) -> Vec<(u64, Outcome)> {
        self.clients.get_mut(client).map(Client::take_outcomes).unwrap_or_default()
    }

    /// Takes the answers to a client's questions.
    pub fn answers(&mut self, client: usize) -> Vec<(u64, Answer)> {
        self.clients.get_mut(client).map(Client::take_answers).unwrap_or_default()
    }

    /// Says that a promise is broken.
    pub fn complain(&self, invariant: &'static str, what: String) {
        self.turn.oracle.complain(invariant, what);
    }

    /// Writes a line into the trace of the world.
    pub fn note(&mut self, what: &str) {
        self.trace.line(self.turn.now_ms, what);
    }
}
