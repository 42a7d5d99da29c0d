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
use openraft::Raft;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::types::{Caller, Proposal, Types, Waiting};
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

impl Proposer {
    /// Runs until the queue is closed or the group ends.
    pub(crate) async fn run(self) {
        let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
        while self.queue.filled().await {
            let Some(permit) = self.turn(&in_flight).await else { break };
            let (commands, callers) = self.queue.gather();
            if commands.is_empty() {
                continue;
            }
            let waiting = Waiting { callers, _in_flight: Some(permit) };
            let proposal = Proposal {
                commands: commands.into(),
                waiting: Some(Arc::new(Mutex::new(Some(waiting)))),
            };
            if self.raft.client_write_ff(proposal).await.is_err() {
                break;
            }
        }
        self.queue.close();
    }

    /// Waits for a place among the entries in flight and for room in the tables.
    async fn turn(&self, in_flight: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let turn = async {
            self.fill.room().await;
            in_flight.clone().acquire_owned().await.ok()
        };
        tokio::pin!(turn);
        loop {
            if let Some(why) = self.health.state().refusal() {
                self.queue.refuse(why);
            }
            tokio::select! {
                biased;
                permit = &mut turn => return permit,
                () = tokio::time::sleep(STALL_TICK) => self.fill.nudge(),
            }
        }
    }
}
