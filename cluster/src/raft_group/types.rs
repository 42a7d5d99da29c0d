//! What openraft is told about this crate: the types of an entry, a reply and a snapshot.
//!
//! - Owns: the reply slots of a proposal while openraft carries it.
//! - Takes: commands gathered by the proposer. Gives: one reply per command.
//! - Bound: `ENTRY_COMMANDS_MAX` commands per entry.
//! - Source: openraft 0.9 `RaftTypeConfig`, `Responder`.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use openraft::{
    EmptyNode,
    raft::{ClientWriteResult, responder::Responder},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    error::ProposeError, raft_group::permits::Permit, raft_group::snapshot::SnapshotData,
    runtime::ClusterRuntime,
};

/// The type configuration of every group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Replies;
    type NodeId = u64;
    type Node = EmptyNode;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = SnapshotData;
    type AsyncRuntime = ClusterRuntime;
    type Responder = Answer;
}

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, EmptyNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// The commands that one entry carries.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Commands, in the order of their proposal. Shared: an entry is cloned on its way to `apply`.
    pub(crate) commands: Arc<[Bytes]>,
    /// Who waits for the replies; taken by openraft's responder before the entry is stored.
    #[serde(skip)]
    pub(crate) waiting: Option<Arc<Mutex<Option<Waiting>>>>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.commands.iter().map(Bytes::len).sum();
        write!(f, "Proposal({} commands, {bytes} bytes)", self.commands.len())
    }
}

/// The replies to the commands of one entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Replies(pub(crate) Vec<Bytes>);

/// One caller of `propose`.
pub(crate) struct Caller {
    pub(crate) reply: oneshot::Sender<Result<Bytes, ProposeError>>,
    /// Given back once the outcome is known, even if the caller stopped waiting.
    pub(crate) _permit: Permit,
}

/// The callers of one entry, and its place among the entries in flight.
pub(crate) struct Waiting {
    pub(crate) callers: Vec<Caller>,
    pub(crate) _in_flight: Option<OwnedSemaphorePermit>,
}

/// Hands replies out as soon as openraft has them, without a task in between.
pub(crate) struct Answer(Option<Waiting>);

impl Responder<Types> for Answer {
    type Receiver = ();

    fn from_app_data(mut proposal: Proposal) -> (Proposal, Self, ()) {
        let waiting = proposal.waiting.take().and_then(|slot| slot.lock().take());
        (proposal, Self(waiting), ())
    }

    fn send(self, result: ClientWriteResult<Types>) {
        let Some(waiting) = self.0 else { return };
        match result {
            Ok(response) => {
                for (caller, reply) in waiting.callers.into_iter().zip(response.data.0) {
                    let _ = caller.reply.send(Ok(reply));
                }
            }
            // Refused before it was appended: nothing was written.
            Err(_) => {
                for caller in waiting.callers {
                    let _ = caller.reply.send(Err(ProposeError::Unavailable));
                }
            }
        }
    }
}
