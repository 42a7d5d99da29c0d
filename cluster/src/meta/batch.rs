//! Gathers meta commands: all that wait while a batch is on its way are the next one.
//!
//! - Owns: commands of this node that wait, in the order of the calls.
//! - Takes: commands, from any thread. Gives: one proposal per batch, and each command's reply.
//! - Bound: `META_WAITING_MAX` commands, `META_BATCH_BYTES` and `META_BATCH_COMMANDS` per batch, two batches
//!   under way. No task and no timer while nothing waits.
//! - Source: own design; as `raft_group/proposer.rs`.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    command::{self, MetaCommand, MetaReply, Refusal},
    handle::{MetaPort, MetaProposed, Told},
};
use crate::{
    error::ProposeError,
    limits::{
        META_BATCH_BYTES, META_BATCH_COMMANDS, META_COMMAND_BYTES_MAX, META_ENTRY_BYTES_MAX,
        META_WAITING_MAX,
    },
};

/// Batches under way: one is flushed while the next is carried there.
const UNDER_WAY_MAX: usize = 2;

type Tell = oneshot::Sender<Told>;

/// Commands that wait for their batch.
pub(super) struct Batches {
    port: Arc<dyn MetaPort>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Bytes, Tell)>,
    under_way: usize,
    /// Commands in batches under way.
    sent: usize,
}

impl Batches {
    pub(super) fn new(port: Arc<dyn MetaPort>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { port, runtime, state: Mutex::default() })
    }

    /// Enqueues a command.
    pub(super) fn push(self: &Arc<Self>, command: &MetaCommand) -> MetaProposed {
        let (tell, told) = oneshot::channel();
        let bytes = command::encode(command);
        let mut state = self.state.lock();
        if bytes.len() > META_COMMAND_BYTES_MAX {
            let _ = tell.send(Ok((MetaReply::Refused(Refusal::Limit), 0)));
        } else if state.waiting.len() + state.sent >= META_WAITING_MAX {
            let _ = tell.send(Err(ProposeError::Overloaded));
        } else {
            state.waiting.push_back((bytes, tell));
            self.pump(&mut state);
        }
        MetaProposed(told)
    }

    /// Sends batches while there is something to send and may be more under way.
    fn pump(self: &Arc<Self>, state: &mut State) {
        while state.under_way < UNDER_WAY_MAX && !state.waiting.is_empty() {
            let (batch, callers) = gather(&mut state.waiting);
            state.under_way += 1;
            state.sent += callers.len();
            // Called under the lock: batches keep the order of the calls.
            let proposed = self.port.propose(batch);
            let batches = self.clone();
            self.runtime.spawn(async move {
                let told = proposed.await;
                {
                    let mut state = batches.state.lock();
                    state.under_way -= 1;
                    state.sent -= callers.len();
                    batches.pump(&mut state);
                }
                answer(callers, told);
            });
        }
    }
}

/// Takes what goes into the next batch; its encoding is that of a list of commands.
fn gather(waiting: &mut VecDeque<(Bytes, Tell)>) -> (Bytes, Vec<Tell>) {
    let (mut count, mut bytes) = (0, 0);
    for (command, _) in waiting.iter().take(META_BATCH_COMMANDS) {
        bytes += command.len();
        // The first is taken whatever its size.
        if count > 0 && bytes > META_BATCH_BYTES {
            break;
        }
        count += 1;
    }
    let (commands, callers): (Vec<Bytes>, Vec<Tell>) = waiting.drain(..count).unzip();
    (command::encode_list(&commands), callers)
}

/// Hands out the replies of a batch.
fn answer(callers: Vec<Tell>, told: Result<Bytes, ProposeError>) {
    let replies = told.and_then(|reply| {
        let read = command::decode::<(u64, Vec<MetaReply>)>(&reply, META_ENTRY_BYTES_MAX);
        // The machine answers each command; anything else is not its reply.
        read.ok_or(ProposeError::Unknown)
    });
    match replies {
        Ok((index, replies)) if replies.len() == callers.len() => {
            for (caller, reply) in callers.into_iter().zip(replies) {
                let _ = caller.send(Ok((reply, index)));
            }
        }
        Ok((index, _)) => {
            for caller in callers {
                let _ = caller.send(Ok((MetaReply::Refused(Refusal::Unreadable), index)));
            }
        }
        Err(why) => {
            for caller in callers {
                let _ = caller.send(Err(why));
            }
        }
    }
}
