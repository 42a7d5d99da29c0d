//! Gathers what callers propose to one group into entries.
//!
//! - Owns: the commands that wait, in the order of the calls.
//! - Takes: a command and its permit, from any thread, without waiting. Gives: entries to openraft.
//! - Bound: permits before the queue; `ENTRIES_IN_FLIGHT_MAX` entries behind it; `ENTRY_BYTES_TARGET`
//!   bytes and `ENTRY_COMMANDS_MAX` commands per entry. Waits while the memory tables are full.
//! - Commands that wait here when the disk fills up are refused: nothing of them was written.
//! - Source: own design.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{Raft, raft::ClientWriteResult};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::types::{Caller, Callers, Proposal, Types};
use crate::{
    error::ProposeError,
    limits::{ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX},
    storage::{checkpoint::Fill, health::Health},
};

/// How often a proposer that cannot go on looks whether the disk is why.
const STALL_TICK: Duration = Duration::from_millis(100);

/// Commands of one group that wait for their entry.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    commands: VecDeque<(Bytes, Caller)>,
    closed: bool,
}

impl Queue {
    /// Enqueues a command behind all that were enqueued before; gives the caller back if closed.
    pub(crate) fn push(&self, command: Bytes, caller: Caller) -> Result<(), Caller> {
        let mut state = self.waiting.lock();
        if state.closed {
            return Err(caller);
        }
        state.commands.push_back((command, caller));
        let first = state.commands.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes no more; gives up what waits.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.refuse(ProposeError::Unavailable);
        self.wake.notify_one();
    }

    /// Returns whether commands are still taken; not after the group has ended.
    pub(crate) fn is_open(&self) -> bool {
        !self.waiting.lock().closed
    }

    fn refuse(&self, why: ProposeError) {
        let commands = std::mem::take(&mut self.waiting.lock().commands);
        for (_, caller) in commands {
            let _ = caller.reply.send(Err(why));
        }
    }

    /// Waits for the first command; `false` once the queue is closed.
    async fn filled(&self) -> bool {
        loop {
            let wake = self.wake.notified();
            {
                let state = self.waiting.lock();
                if state.closed || !state.commands.is_empty() {
                    return !state.closed;
                }
            }
            wake.await;
        }
    }

    fn gather(&self) -> (Vec<Bytes>, Vec<Caller>) {
        let mut state = self.waiting.lock();
        let mut bytes = 0;
        let mut count = 0;
        for (command, _) in state.commands.iter().take(ENTRY_COMMANDS_MAX) {
            bytes += command.len();
            // The first is taken whatever its size.
            if count > 0 && bytes > ENTRY_BYTES_TARGET {
                break;
            }
            count += 1;
        }
        state.commands.drain(..count).unzip()
    }
}

/// The task that feeds one group.
pub(crate) struct Proposer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: Raft<Types>,
    pub(crate) fill: Arc<Fill>,
    pub(crate) health: Arc<Health>,
}

/// An entry that openraft has; it tells when the entry is applied, or refused.
struct InFlight {
    told: oneshot::Receiver<ClientWriteResult<Types>>,
    callers: Callers,
}

impl InFlight {
    /// Waits for the outcome. Replies were handed out by `apply`; the others are told here.
    async fn settle(&mut self) {
        match (&mut self.told).await {
            Ok(Ok(_)) => {}
            // Refused before it was appended, or cut off by another leader: never committed.
            Ok(Err(_)) => self.callers.refuse(ProposeError::Unavailable),
            Err(_) => self.callers.forget(),
        }
    }
}

/// Entries on their way; settled in order, as they are applied.
type OnTheWay = VecDeque<InFlight>;

async fn settle_first(on_the_way: &mut OnTheWay) {
    match on_the_way.front_mut() {
        Some(first) => first.settle().await,
        None => std::future::pending().await,
    }
    on_the_way.pop_front();
}

impl Proposer {
    /// Runs until the queue is closed or the group ends.
    pub(crate) async fn run(self) {
        let mut on_the_way = OnTheWay::new();
        while self.filled(&mut on_the_way).await {
            self.turn(&mut on_the_way).await;
            let (commands, callers) = self.queue.gather();
            if commands.is_empty() {
                continue;
            }
            let callers = Callers::new(callers);
            let proposal = Proposal { commands: commands.into(), callers: callers.clone() };
            match self.raft.client_write_ff(proposal).await {
                Ok(told) => on_the_way.push_back(InFlight { told, callers }),
                Err(_) => break,
            }
        }
        self.queue.close();
        while !on_the_way.is_empty() {
            settle_first(&mut on_the_way).await;
        }
    }

    /// Waits for a command; `false` once the queue is closed.
    async fn filled(&self, on_the_way: &mut OnTheWay) -> bool {
        let filled = self.queue.filled();
        tokio::pin!(filled);
        loop {
            tokio::select! {
                biased;
                filled = &mut filled => return filled,
                () = settle_first(on_the_way) => {}
            }
        }
    }

    /// Waits for a place among the entries in flight and for room in the tables.
    async fn turn(&self, on_the_way: &mut OnTheWay) {
        let room = self.fill.room();
        tokio::pin!(room);
        loop {
            if let Some(why) = self.health.state().refusal() {
                self.queue.refuse(why);
            }
            let full = on_the_way.len() >= ENTRIES_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = settle_first(on_the_way), if full => {}
                () = &mut room, if !full => return,
                () = tokio::time::sleep(STALL_TICK) => self.fill.nudge(),
            }
        }
    }
}
