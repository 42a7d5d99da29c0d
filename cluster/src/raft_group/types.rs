//! What openraft is told about this crate: the types of an entry, a reply and a snapshot.
//!
//! - Owns: the callers of a proposal, from the proposer to `apply`.
//! - Takes: commands gathered by the proposer. Gives: one reply per command.
//! - Bound: `ENTRY_COMMANDS_MAX` commands per entry.
//! - Source: openraft 0.9 `RaftTypeConfig`. Changes of membership need its own responder, so replies do not
//!   pass through it: `apply` finds the callers in the entry that the log kept.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use openraft::{EmptyNode, raft::responder::OneshotResponder};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    error::ProposeError, raft_group::permits::Permit, raft_group::snapshot::SnapshotData,
    runtime::ClusterRuntime,
};

/// The type configuration of every group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = ();
    type NodeId = u64;
    type Node = EmptyNode;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = SnapshotData;
    type AsyncRuntime = ClusterRuntime;
    type Responder = OneshotResponder<Self>;
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
    /// Who waits for the replies, on the node that proposed it.
    #[serde(skip)]
    pub(crate) callers: Callers,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.commands.iter().map(Bytes::len).sum();
        write!(f, "Proposal({} commands, {bytes} bytes)", self.commands.len())
    }
}

/// One caller of `propose`.
pub(crate) struct Caller {
    pub(crate) reply: oneshot::Sender<Result<Bytes, ProposeError>>,
    /// Given back once the outcome is known, even if the caller stopped waiting.
    pub(crate) _permit: Permit,
}

/// The callers of one entry: all clones of the entry share them, and the first to answer takes them.
#[derive(Clone, Default)]
pub(crate) struct Callers(Option<Arc<Mutex<Vec<Caller>>>>);

impl Callers {
    pub(crate) fn new(callers: Vec<Caller>) -> Self {
        Self(Some(Arc::new(Mutex::new(callers))))
    }

    fn take(&self) -> Vec<Caller> {
        self.0.as_ref().map(|callers| std::mem::take(&mut *callers.lock())).unwrap_or_default()
    }

    /// Hands the replies out, as soon as the entry is applied.
    pub(crate) fn reply(&self, replies: impl IntoIterator<Item = Bytes>) {
        for (caller, reply) in self.take().into_iter().zip(replies) {
            let _ = caller.reply.send(Ok(reply));
        }
    }

    /// Tells all that nothing was written.
    pub(crate) fn refuse(&self, why: ProposeError) {
        for caller in self.take() {
            let _ = caller.reply.send(Err(why));
        }
    }

    /// Gives the callers up: they cannot know what became of their commands.
    pub(crate) fn forget(&self) {
        drop(self.take());
    }
}
