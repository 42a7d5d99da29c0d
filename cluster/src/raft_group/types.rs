//! What openraft is told about this crate: the types of an entry, a reply and a snapshot.
//!
//! - Owns: what an entry carries, from the proposer to `apply`.
//! - Takes: runs of commands gathered by the proposer. Gives: one outcome per run.
//! - Bound: `ENTRY_COMMANDS_MAX` commands per entry.
//! - Source: openraft 0.9 `RaftTypeConfig`. Changes of membership need its own responder, so replies do not
//!   pass through it: `apply` finds who asked in the entry that the log kept.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use openraft::{EmptyNode, raft::responder::OneshotResponder};
use serde::{Deserialize, Serialize};

use crate::{
    raft_group::snapshot::SnapshotData,
    runtime::ClusterRuntime,
    stream::{queue::Asks, run::Run},
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
    /// Commands, run by run. Shared: an entry is cloned on its way to `apply`.
    pub(crate) commands: Arc<[Bytes]>,
    /// Whose they are, in the same order; without any (format 1) they are nobody's stream.
    pub(crate) runs: Arc<[Run]>,
    /// Who waits for the outcomes, on the node that proposed it.
    #[serde(skip)]
    pub(crate) asks: Asks,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.commands.iter().map(Bytes::len).sum();
        write!(f, "Proposal({} commands, {bytes} bytes)", self.commands.len())
    }
}
