//! Gathers what callers propose to one group into entries.
//!
//! - Owns: the entries that openraft has and that are not applied yet.
//! - Takes: runs of commands from the group's queue, of this node and of others. Gives: entries to openraft.
//! - Bound: permits before the queue; `ENTRIES_IN_FLIGHT_MAX` entries behind it; `ENTRY_BYTES_TARGET`
//!   bytes and `ENTRY_COMMANDS_MAX` commands per entry. Waits while memory is full (`room.rs`).
//! - Commands that wait here when the disk fills up are refused: nothing of them was written.
//! - Source: own design.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{Raft, raft::ClientWriteResult};
use tokio::sync::{oneshot, watch};

use super::{
    lead::Lead,
    room::Room,
    types::{Proposal, Types},
};
use crate::{
    limits::ENTRIES_IN_FLIGHT_MAX,
    storage::health::Health,
    stream::queue::{Asks, Gathered, Queue},
};

/// How often a proposer that cannot go on looks whether the disk is why.
const STALL_TICK: Duration = Duration::from_millis(100);

/// The task that feeds one group.
pub(crate) struct Proposer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: Raft<Types>,
    pub(crate) lead: watch::Receiver<Lead>,
    pub(crate) room: Room,
    pub(crate) health: Arc<Health>,
}

/// An entry that openraft has; it tells when the entry is applied, or refused.
struct InFlight {
    told: oneshot::Receiver<ClientWriteResult<Types>>,
    asks: Asks,
    bytes: usize,
}

impl InFlight {
    /// Waits for the outcome. Outcomes were handed out by `apply`; the others are told here.
    async fn settle(&mut self) {
        if !matches!((&mut self.told).await, Ok(Ok(_))) {
            // Refused, or cut off by another leader; openraft does not say which, and of the latter
            // another replica may still have a copy.
            self.asks.doubt();
        }
    }
}

/// Entries on their way; settled in order, as they are applied.
#[derive(Default)]
struct OnTheWay {
    entries: VecDeque<InFlight>,
    term: u64,
}

impl OnTheWay {
    /// Returns whether no entry may go out now. One that goes out behind another carries no less: under load
    /// entries grow, which costs less than more of them; with little to do the next need not wait.
    fn is_full_for(&self, queue: &Queue) -> bool {
        let bytes = self.entries.iter().map(|entry| entry.bytes).sum();
        self.entries.len() >= ENTRIES_IN_FLIGHT_MAX || !queue.has_waiting(bytes)
    }

    async fn settle_first(&mut self, lead: &mut watch::Receiver<Lead>) {
        let Some(first) = self.entries.front_mut() else {
            return std::future::pending().await;
        };
        let term = self.term;
        tokio::select! {
            biased;
            () = first.settle() => drop(self.entries.pop_front()),
            // openraft forgets who waits for an entry that a snapshot of another leader covered. In a
            // later term nobody waits here: senders ask anew, and `apply` still tells who it can.
            Ok(now) = lead.wait_for(|now| now.term > term) => {
                self.term = now.term;
                self.entries.clear();
            }
        }
    }
}

impl Proposer {
    /// Runs until the queue is closed or the group ends.
    pub(crate) async fn run(mut self) {
        let mut on_the_way = OnTheWay::default();
        while self.filled(&mut on_the_way).await {
            self.turn(&mut on_the_way).await;
            let Gathered { commands, runs, asks } = self.queue.gather();
            if runs.is_empty() {
                continue;
            }
            if on_the_way.entries.is_empty() {
                on_the_way.term = self.lead.borrow().term;
            }
            let bytes = commands.iter().map(Bytes::len).sum();
            let proposal =
                Proposal { commands: commands.into(), runs: runs.into(), asks: asks.clone() };
            match self.raft.client_write_ff(proposal).await {
                Ok(told) => on_the_way.entries.push_back(InFlight { told, asks, bytes }),
                Err(_) => {
                    asks.doubt();
                    return self.queue.end();
                }
            }
        }
        self.queue.close();
        while !on_the_way.entries.is_empty() {
            on_the_way.settle_first(&mut self.lead).await;
        }
    }

    /// Waits for a command; `false` once the queue is closed.
    async fn filled(&mut self, on_the_way: &mut OnTheWay) -> bool {
        let filled = self.queue.filled();
        tokio::pin!(filled);
        loop {
            tokio::select! {
                biased;
                filled = &mut filled => return filled,
                () = on_the_way.settle_first(&mut self.lead) => {}
            }
        }
    }

    /// Waits for a place among the entries in flight and for room in memory.
    async fn turn(&mut self, on_the_way: &mut OnTheWay) {
        let room = self.room.to_lead();
        tokio::pin!(room);
        loop {
            if let Some(why) = self.health.state().refusal() {
                self.queue.refuse(why);
            }
            let full = on_the_way.is_full_for(&self.queue);
            tokio::select! {
                biased;
                () = on_the_way.settle_first(&mut self.lead), if full => {}
                () = &mut room, if !full => return,
                () = tokio::time::sleep(STALL_TICK) => self.room.nudge(),
            }
        }
    }
}
